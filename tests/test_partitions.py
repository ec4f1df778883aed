"""Which slots of an epoch read which ranges of a log's partitions, without a broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from log_lake import FIELDS

from lakehouse.ingest.positions import next_stride, settled
from lakehouse.landing.brokers.contract import Idle, Wanted
from lakehouse.landing.brokers.log_client import TopicFacts
from lakehouse.landing.brokers.partitions import LogReading, _answer, _parts, _share
from lakehouse.landing.slots import Slot
from lakehouse.progress import LogRead, Positions, Range, ReadFrom
from lakehouse.sources import KafkaSource
from lakehouse.topics import topic_from

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SOURCE = KafkaSource(bootstrap="h:1", topic="plays")
TOPIC = topic_from("plays", {**FIELDS, "source": SOURCE.model_dump()})
STRIDE = 100


def parts(partitions: int, slots: int, splits: bool = True) -> list[dict[int, tuple[int, bool]]]:
    read_from = ReadFrom("log", {}, stride=STRIDE)
    facts = {SOURCE.log_name: TopicFacts("log", partitions)}
    return [_parts(facts, SOURCE, Slot(1, n, None, of=slots, read_from=read_from), splits) for n in range(slots)]


@given(partitions=st.integers(1, 40), slots=st.integers(1, 40), splits=st.booleans())
def test_every_partition_is_read_by_ranges_that_follow_on_each_other_to_a_last_one(
    partitions: int, slots: int, splits: bool
) -> None:
    found: dict[int, list[tuple[int, bool]]] = {}
    for each in parts(partitions, slots, splits):
        for number, place in each.items():
            found.setdefault(number, []).append(place)
    assert set(found) == set(range(partitions))
    for places in found.values():
        assert [place for place, _ in sorted(places)] == list(range(len(places)))
        assert [is_last for _, is_last in sorted(places)] == [False] * (len(places) - 1) + [True]
        assert splits or len(places) == 1


class Client:
    """Of a log that answers nothing more."""

    def error_of(self, source: Any, error: Any) -> Any:
        raise AssertionError(error)


def answers(position: int, head: int, slots: int, passed: int = 0) -> list[Any]:
    """What the slots of a topic of one partition are to do, of which it is known that nothing is up to `passed`."""
    read_from = ReadFrom("log", {0: (position, passed)}, stride=STRIDE)
    facts = {SOURCE.log_name: TopicFacts("log", 1)}
    found = []
    for number, mine in enumerate(parts(1, slots)):
        wanted = Wanted(TOPIC, Slot(1, number, None, of=slots, read_from=read_from))
        share: Any = _share(Client(), wanted, facts, mine, {(SOURCE.log_name, 0): head}, NOON)  # type: ignore[arg-type]
        found.append(_answer(Client(), share, {}, lambda: NOON))  # type: ignore[arg-type]
    return found


def test_a_slot_stops_where_the_next_one_begins_and_what_is_past_the_head_is_no_loss() -> None:
    first, second, third = answers(position=1000, head=1150, slots=3)
    assert isinstance(first, LogReading)
    assert isinstance(second, LogReading)
    assert isinstance(third, Idle)
    assert third.drained_at == NOON
    assert (first._positions, first._until) == ({0: 1000}, {0: 1100})
    assert (second._positions, second._until) == ({0: 1100}, {0: 1150})


def test_a_hole_that_is_longer_than_a_range_holds_up_nothing() -> None:
    """The first range begins where bronze is, all others are after the hole: else none would ever follow on it."""
    first, second, third = answers(position=1000, head=5000, slots=3, passed=4000)
    assert [each._share.read.ranges[0].start for each in (first, second, third)] == [1000, 4100, 4200]
    assert [each._positions[0] for each in (first, second, third)] == [4000, 4100, 4200]
    assert [each._until[0] for each in (first, second, third)] == [4100, 4200, 5000]


def test_a_slot_that_reached_its_end_before_the_head_is_full_and_not_drained() -> None:
    """Else a topic that is far behind would be taken for one that is read up to its heads, and lose its slots."""
    first, second, _ = answers(position=1000, head=1150, slots=3)
    first._positions[0], second._positions[0] = 1100, 1150
    assert (first.ended().full, first.ended().drained_at) == (True, None)
    assert (second.ended().full, second.ended().drained_at) == (False, NOON)


def fact(slot: int, start: int, end: int, *, is_full: bool = True) -> dict[str, Any]:
    read = LogRead("log", NOON, 1, (Range(0, start, end, 10_000),))
    return {"epoch": 1, "slot": slot, "path": f"p{slot}", "read": read.as_text(), "full": is_full}


def test_a_range_that_ended_early_leaves_those_after_it_and_the_next_are_no_longer() -> None:
    facts = [fact(0, 0, 60), fact(1, 100, 200), fact(2, 200, 300)]
    assert settled(Positions("log", {0: 0}), facts).positions == Positions("log", {0: 60})
    assert next_stride(100, 1000, facts) == 60


def test_ranges_that_reached_their_ends_may_be_longer_up_to_the_bound() -> None:
    facts = [fact(0, 0, 100), fact(1, 100, 200)]
    assert settled(Positions("log", {0: 0}), facts).positions == Positions("log", {0: 200})
    assert next_stride(100, 1000, facts) == 111
    assert next_stride(1000, 1000, [fact(0, 0, 1000)]) == 1000
    assert next_stride(100, 1000, [fact(0, 0, 3, is_full=False)]) == 111
