"""Where a topic is in a log: which ranges count, where the next epoch begins, and up to when all is there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lakehouse.ingest.frontier import ClockCheck, PositionFrontier
from lakehouse.ingest.positions import LogPlace, is_past, lost_between, settled, with_positions
from lakehouse.progress import IngestState, LogRead, Positions, Range, ReadFrom
from lakehouse.store.records import LossAccepted

LOG = "one"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def fact(
    epoch: int, *ranges: tuple[int, int, int], slot: int = 0, path: str | None = "p", **more: Any
) -> dict[str, Any]:
    """`ranges` are (partition, start, end); the head is the end."""
    partitions = more.pop("partitions", 1)
    heads = tuple(Range(number, start, end, more.get("head", end)) for number, start, end in ranges)
    read = LogRead(more.get("log", LOG), more.get("at", NOON), partitions, heads)
    return {"epoch": epoch, "slot": slot, "path": path and f"{path}-{epoch}-{slot}", "read": read.as_text()}


def at(**offsets: int) -> Positions:
    return Positions(LOG, {int(number[1:]): offset for number, offset in offsets.items()})


def test_ranges_count_where_they_follow_on_each_other_in_whatever_order_they_come() -> None:
    second, first = fact(6, (0, 20, 25)), fact(5, (0, 10, 20))
    result = settled(at(p0=10), [second, first])
    assert result.facts == (first, second)
    assert result.positions == at(p0=25)


def test_a_range_that_begins_elsewhere_is_left_and_waited_for_only_while_it_is_ahead() -> None:
    behind, ahead = fact(4, (0, 5, 20)), fact(7, (0, 12, 30))
    assert settled(at(p0=10), [behind, ahead]).facts == ()
    assert (is_past(behind, at(p0=10)), is_past(ahead, at(p0=10))) == (True, False)


def test_of_two_that_begin_alike_one_counts() -> None:
    result = settled(at(p0=0), [fact(2, (0, 0, 3)), fact(1, (0, 0, 5))])
    assert [each["epoch"] for each in result.facts] == [1]


def test_a_slot_counts_as_a_whole() -> None:
    """Its partitions are in the same files."""
    assert settled(at(p0=3, p1=0), [fact(1, (0, 0, 3), (1, 0, 3))]).facts == ()


def test_what_another_log_of_that_name_had_never_counts() -> None:
    other = fact(1, (0, 10, 20), log="two")
    assert settled(at(p0=10), [other]).facts == ()
    assert is_past(other, at(p0=10))


def test_a_partition_that_came_later_begins_at_its_begin() -> None:
    assert settled(at(p0=1), [fact(1, (1, 0, 4))]).positions == at(p0=1, p1=4)
    assert settled(at(p0=1), [fact(1, (1, 2, 4))]).facts == ()


def test_of_a_queue_everything_counts() -> None:
    facts = [{"epoch": 1, "slot": 0, "path": "a", "read": None}]
    assert settled(None, facts).facts == tuple(facts)
    assert LogPlace().read_from(IngestState()) is None


def test_ranges_without_messages_are_passed_over_and_committed_with_the_next_that_has_some() -> None:
    """An idle topic makes no commits, and reads nothing twice."""
    place, state = LogPlace(), IngestState(positions=at(p0=10))
    result = settled(state.positions, [fact(1, (0, 10, 14), path=None)])
    place.note(result)
    assert with_positions(state, result) == state
    assert place.read_from(state) == ReadFrom(LOG, {0: (10, 14)})
    assert place.reached == {0: 14}
    more = settled(state.positions, [fact(2, (0, 10, 20))])
    place.note(more)
    assert with_positions(state, more).positions == at(p0=20)
    assert place.reached == {0: 20}


@given(
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    twice=st.sets(st.integers(0, 7)),
    order=st.randoms(use_true_random=False),
)
def test_however_often_and_in_whatever_order_ranges_are_told_each_offset_counts_once(
    cuts: list[int], twice: set[int], order: Any
) -> None:
    """What is told before its predecessor waits, as an adopted segment does; what is there already is past."""
    facts, start = [], 0
    for epoch, length in enumerate(cuts):
        facts.append(fact(epoch, (0, start, start + length)))
        start += length
    told = [*facts, *(facts[number] for number in twice if number < len(facts))]
    order.shuffle(told)
    positions, taken, waiting = at(p0=0), [], []
    for each in told:
        result = settled(positions, [*waiting, each])
        assert result.positions is not None
        positions = result.positions
        taken += [(row["epoch"]) for row in result.facts]
        waiting = [row for row in [*waiting, each] if not is_past(row, positions)]
    assert sorted(set(taken)) == list(range(len(cuts)))
    assert positions == at(p0=start)


def test_states_of_a_log_are_written_and_read() -> None:
    state = IngestState(3, positions=at(p0=3, p11=0))
    assert IngestState.from_json(state.as_json()) == state
    assert "positions" not in IngestState().as_json()
    read_from = ReadFrom(LOG, {0: (1, 2), 3: (0, 0)}, NOON)
    assert ReadFrom.from_json(read_from.as_json()) == read_from


def test_a_loss_is_counted_where_that_can_be() -> None:
    accepted = LossAccepted(by="ann", reason="known")
    assert lost_between(at(p0=1, p1=4), at(p0=5, p1=4), accepted).messages == 4
    assert lost_between(at(p0=9), at(p0=5), accepted).messages is None  # the log ends before
    assert lost_between(at(p0=1), Positions("two", {0: 0}), accepted).messages is None


# --- the frontier --------------------------------------------------------------------------------------------------


class Reached:
    """What a frontier is told of positions, on a clock that can be believed."""

    def __init__(self) -> None:
        self.offsets: dict[int, int] = {}
        self.now = NOON
        self.frontier = PositionFrontier(
            lambda: self.offsets, timedelta(minutes=5), ClockCheck(lambda: self.now.timestamp())
        )

    def at(self, *facts: dict[str, Any], **offsets: int) -> datetime | None:
        self.offsets |= {int(number[1:]): offset for number, offset in offsets.items()}
        return self.frontier.observe(facts, self.now).at


def sampled(minute: int, *heads: tuple[int, int], slot: int = 0, partitions: int = 1) -> dict[str, Any]:
    ranges = tuple(Range(number, 0, 0, head) for number, head in heads)
    read = LogRead(LOG, NOON + timedelta(minutes=minute), partitions, ranges)
    return {"epoch": 1, "slot": slot, "path": None, "read": read.as_text()}


def test_the_frontier_is_when_the_heads_were_sampled_that_are_reached() -> None:
    world = Reached()
    assert world.at(sampled(0, (0, 10)), p0=9) is None
    world.now += timedelta(minutes=2)
    assert world.at(sampled(2, (0, 50)), p0=10) == NOON
    world.now += timedelta(minutes=1)
    assert world.at(sampled(3, (0, 90)), p0=60) == NOON + timedelta(minutes=2)


def test_a_sample_is_of_all_partitions_and_as_old_as_its_oldest_part() -> None:
    world = Reached()
    world.now += timedelta(minutes=1)
    assert world.at(sampled(1, (0, 0), partitions=2)) is None
    both = sampled(1, (0, 0), partitions=2), sampled(0, (1, 0), slot=1, partitions=2)
    assert world.at(*both) == NOON


def test_a_position_that_was_not_committed_after_all_takes_the_frontier_back() -> None:
    """Its messages are not in bronze: no hour may close by them."""
    world = Reached()
    assert world.at(sampled(0, (0, 10)), p0=10) == NOON
    assert world.at(sampled(0, (0, 10)), p0=5) is None


def test_where_nobody_answers_the_frontier_is_unknown_after_a_while() -> None:
    world = Reached()
    assert world.at(sampled(0, (0, 0))) == NOON
    world.now += timedelta(minutes=4)
    assert world.at() == NOON
    world.now += timedelta(minutes=2)
    assert world.at() is None
