"""Where a topic is in a source that is a log: which ranges a commit takes, and where the next epoch begins.

Bronze's log alone says it. A range is taken only where it begins at the position that the log has for its partition,
so that two attempts at the same messages, or two runs, never both count. Of a queue there are no positions, and
everything is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lakehouse.ingest.facts import Fact, with_files
from lakehouse.progress import IngestState, LogRead, Positions, ReadFrom
from lakehouse.store.records import LossAccepted, Lost, LostRange

Segment = tuple[int, int]
"""Epoch and slot."""


@dataclass(frozen=True)
class Settled:
    """What comes of facts: those that count, and the positions after them."""

    facts: tuple[Fact, ...]
    positions: Positions | None


def settled(positions: Positions | None, facts: Sequence[Fact]) -> Settled:
    """The facts whose ranges follow on the positions, one after the other; of a queue all.

    What lies between is left: either it is there already, or what comes before it is still to come.
    """
    if positions is None:
        return Settled(tuple(facts), None)
    slots: dict[Segment, list[Fact]] = {}
    for fact in facts:
        slots.setdefault((fact["epoch"], fact["slot"]), []).append(fact)
    taken: list[Fact] = [fact for rows in slots.values() for fact in rows if not fact.get("read")]
    texts = {key: rows[0].get("read") for key, rows in sorted(slots.items())}
    waiting = {key: LogRead.from_text(text) for key, text in texts.items() if text}
    while following := next((key for key, read in waiting.items() if positions.follows(read)), None):
        positions = positions.after(waiting.pop(following))
        taken += slots[following]
    return Settled(tuple(taken), positions)


def next_stride(stride: int, most: int, facts: Sequence[Fact]) -> int:
    """How many offsets of a partition each slot is to have, where several read it (`ReadFrom.stride`).

    A slot that came to a bound before its range's end leaves a gap, for which those after it have read in vain: so none
    is given more than it could read. `most` is the bound of messages.
    """
    full = [LogRead.from_text(fact["read"]) for fact in facts if fact.get("read") and fact["full"]]
    reached = [each.end - each.start for read in full for each in read.ranges]
    return min([most, stride + stride // 10 + 1, *(count for count in reached if 0 < count < stride)])


def is_past(fact: Fact, positions: Positions | None) -> bool:
    """Whether no commit will ever take the fact's ranges: their begin is behind the positions."""
    text = fact.get("read")
    return positions is not None and text is not None and positions.is_past(LogRead.from_text(text))


class LogPlace:
    """Where one run is in a topic's log, beyond what bronze says: ranges of which it is known that nothing is in them.

    They are in no commit, so the next range begins before them; only the reading does not.
    """

    def __init__(self) -> None:
        self._passed: dict[int, int] = {}
        self.reached: dict[int, int] = {}
        """Up to where all is in bronze or nothing, after the batch that is under way."""

    def read_from(self, state: IngestState) -> ReadFrom | None:
        """Where the next epoch begins; None for a queue."""
        positions = state.positions
        if positions is None:
            return None
        offsets = {number: (at, max(at, self._passed.get(number, 0))) for number, at in positions.offsets.items()}
        later = {number: (0, at) for number, at in self._passed.items() if number not in offsets}
        return ReadFrom(positions.log, {**offsets, **later}, state.max_publish_time)

    def note(self, result: Settled) -> None:
        """What a batch found: where its ranges without messages end, the next reading begins."""
        if result.positions is None:
            return
        for fact in result.facts:
            if fact.get("read") and not fact["path"]:
                for each in LogRead.from_text(fact["read"]).ranges:
                    self._passed[each.partition] = max(self._passed.get(each.partition, 0), each.end)
        ends = result.positions.offsets
        self.reached = {**self._passed, **{number: max(at, self._passed.get(number, 0)) for number, at in ends.items()}}

    def forget(self) -> None:
        """The log is another one, or begins elsewhere."""
        self._passed.clear()


def with_positions(state: IngestState, result: Settled) -> IngestState:
    """The state with the positions after a commit; ranges without messages are in it, where one is made anyway."""
    return replace(state, positions=result.positions) if with_files(result.facts) else state


def lost_between(before: Positions | None, after: Positions | None, accepted: LossAccepted) -> Lost:
    """What lies between two positions, as the ledger has it."""
    if before is None or after is None:
        return Lost(messages=0, by=accepted.by, reason=accepted.reason)
    is_same = before.log == after.log
    ranges = tuple(
        LostRange(partition=number, begin=begin, end=after.offsets.get(number) if is_same else None)
        for number, begin in before.offsets.items()
        if not is_same or begin != after.offsets.get(number)
    )
    is_known = all(each.end is not None and each.end >= each.begin for each in ranges)
    messages = sum((each.end or 0) - each.begin for each in ranges) if is_known else None
    return Lost(messages=messages, ranges=ranges, by=accepted.by, reason=accepted.reason)
