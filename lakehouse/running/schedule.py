"""Which topic's turn it is: those that wait longest for what became due go first, and none goes twice before another.

Pure: instants are seconds of one steady clock, and arguments. Not for several threads at once; see `pool`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Outcome(Enum):
    """How a turn ended."""

    DONE = "nothing is left"
    MORE = "it made room for another topic"
    FAILED = "something is left, and failed"


@dataclass(frozen=True)
class Pauses:
    """Between two tries of a topic that fails, twice as long each time."""

    first_seconds: float = 1.0
    longest_seconds: float = 300.0

    def after(self, failures: int) -> float:
        """Before the try that follows so many failures in a row."""
        return float(min(self.first_seconds * 2 ** min(failures - 1, 60), self.longest_seconds))


@dataclass
class _Line:
    """One topic. `due` is the deadline of what is known to be due; None when it is only checked."""

    ready_at: float
    due: float | None = None
    turn_ended_at: float = float("-inf")
    has_turn: bool = False
    failures: int = 0

    @property
    def rank(self) -> float:
        """By deadline, but never before one that has waited since before its own last turn: that makes it fair.

        What becomes due while it waits already puts it no further back.
        """
        return max(self.ready_at if self.due is None else min(self.due, self.ready_at), self.turn_ended_at)


class Schedule:
    """The topics of an application, each with at most one turn at a time.

    A topic is ready when something became due (`tell`), when its last look is `look_every` seconds old, or when its
    pause after a failure is over. Its first look is `first_looks` seconds after `now`, at once where it has none.
    """

    def __init__(
        self,
        topics: Iterable[str],
        now: float,
        *,
        look_every: float,
        first_looks: Mapping[str, float] = MappingProxyType({}),
        pauses: Pauses = Pauses(),
    ) -> None:
        self._look_every, self._pauses = look_every, pauses
        self._lines = {topic: _Line(now + first_looks.get(topic, 0.0)) for topic in topics}

    def tell(self, topic: str, deadline: float, now: float) -> None:
        """Something of the topic is due since `deadline`, or since now; a pause after a failure goes on."""
        line = self._lines[topic]
        line.due = min(deadline, now, line.due if line.due is not None else now)
        if not line.failures:
            line.ready_at = min(line.ready_at, now)

    def ready(self, now: float) -> set[str]:
        """The topics without a turn whose time has come."""
        return {topic for topic, line in self._lines.items() if not line.has_turn and line.ready_at <= now}

    def next(self, now: float) -> str | None:
        """The topic whose turn begins; None when none is ready."""
        ready = self.ready(now)
        if not ready:
            return None
        topic = min(ready, key=lambda topic: (self._lines[topic].rank, topic))
        self.begin(topic)
        return topic

    def begin(self, topic: str) -> None:
        """Its turn begins, whether it is ready or not; ValueError when it has one."""
        line = self._lines[topic]
        if line.has_turn:
            raise ValueError(f"a second turn of {topic} at a time")
        line.has_turn, line.due = True, None

    def has_turn(self, topic: str) -> bool:
        return self._lines[topic].has_turn

    def has_waiting(self, now: float) -> bool:
        """Whether a topic is ready that has no turn."""
        return bool(self.ready(now))

    def done(self, topic: str, outcome: Outcome, now: float) -> None:
        """The topic's turn is over. What became due meanwhile is still due."""
        line = self._lines[topic]
        line.has_turn, line.turn_ended_at = False, now
        line.failures = line.failures + 1 if outcome is Outcome.FAILED else 0
        if outcome is Outcome.FAILED:
            line.ready_at = now + self._pauses.after(line.failures)
        elif outcome is Outcome.MORE or line.due is not None:
            line.ready_at = now
        else:
            line.ready_at = now + self._look_every

    def seconds_to_next(self, now: float) -> float:
        """Until a topic that has no turn is ready; very long when all have one."""
        return min((max(line.ready_at - now, 0.0) for line in self._lines.values() if not line.has_turn), default=1e9)
