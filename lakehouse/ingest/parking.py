"""Which topics of an application fail, and when each is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from lakehouse.errors import LakehouseError, SlowStoreError, StaleDriverError, UnansweredError


@dataclass(frozen=True)
class Pace:
    """How long to wait: `poll_seconds` between two looks at the query; between two tries of a topic that fails
    `first_pause`, then twice as long each time, at most `longest_pause`, until one of its batches succeeds."""

    poll_seconds: float = 0.1
    first_pause: timedelta = timedelta(seconds=5)
    longest_pause: timedelta = timedelta(minutes=5)


USUAL = Pace()

PATIENCE = timedelta(seconds=60)
"""How long a subscription may not answer before its topic is parked: it is asked again with each epoch."""


@dataclass(frozen=True)
class Parked:
    """Why a topic is left out, and until when, by the steady clock; None when it is not tried again."""

    error: LakehouseError
    until: float | None


class Parking:
    """The topics that are left out. Instants are seconds of one steady clock, and arguments."""

    def __init__(self, pace: Pace = USUAL) -> None:
        self._pace = pace
        self._pauses: dict[str, timedelta] = {}
        self._unanswered_since: dict[str, float] = {}
        self._slow: set[str] = set()
        self.is_final = False
        """Whether what fails is not tried again."""
        self.parked: dict[str, Parked] = {}

    def passes(self, name: str, error: LakehouseError, now: float) -> bool:
        """Whether the failure is one that may pass before the topic is parked for it."""
        if not isinstance(error, UnansweredError):
            return False
        since = self._unanswered_since.setdefault(name, now)
        return now - since < PATIENCE.total_seconds()

    def next_pause(self, name: str, error: LakehouseError) -> timedelta | None:
        """How long the topic will be left out if it fails of this now; None for one that a newer run has.

        What a slow store holds up is waited for, also where nothing else is tried again.
        """
        is_given_up = self.is_final and not isinstance(error, SlowStoreError)
        if is_given_up or isinstance(error, StaleDriverError):
            return None
        return self._pauses.get(name, self._pace.first_pause)

    def park(self, name: str, error: LakehouseError, now: float) -> bool:
        """Leave the topic out for its next pause; whether that is news."""
        before, pause = self.parked.get(name), self.next_pause(name, error)
        if isinstance(error, SlowStoreError):
            self._slow.add(name)
        self._pauses[name] = min(2 * (pause or self._pace.first_pause), self._pace.longest_pause)
        self.parked[name] = Parked(error, None if pause is None else now + pause.total_seconds())
        return before is None or str(before.error) != str(error)

    def recover(self, name: str, *, has_answered: bool = True) -> None:
        """A batch of the topic has succeeded; its store `has_answered` in time, where it was asked for anything."""
        if has_answered:
            self._slow.discard(name)
        self.parked.pop(name, None)
        self._pauses.pop(name, None)
        self._unanswered_since.pop(name, None)

    def is_out(self, name: str, now: float) -> bool:
        """Whether the topic is left out of the next epoch."""
        parked = self.parked.get(name)
        return parked is not None and (parked.until is None or now < parked.until)

    def is_failing(self, name: str) -> bool:
        """Whether the topic has failed of something else than a store that is slow, and has not recovered."""
        return name in self.parked and not isinstance(self.parked[name].error, SlowStoreError)

    def is_slow(self, name: str) -> bool:
        """Whether the topic's store has not answered in time, and has not done so since."""
        return name in self._slow
