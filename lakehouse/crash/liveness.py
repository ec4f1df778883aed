"""The promise that every hour closes, checked after each batch (`lakehouse.ingest.closing`, docs/concepts.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.progress import IngestState
from lakehouse.topics import Topic

QUIET_PERIODS = 5
"""So many an hour waits for quiet at most; the promise's own number, and not the code's."""


@dataclass
class Liveness:
    """What each run has left open although nothing but quiet can still be waited for, and `since` when."""

    topic: Topic
    since: dict[str, tuple[Hour, datetime]] = field(default_factory=dict)

    def copy(self) -> Liveness:
        """For what may come in another order from here on."""
        return Liveness(self.topic, dict(self.since))

    def batch_done(self, run: str, state: IngestState, frontier: datetime | None, now: datetime) -> str | None:
        """What is wrong with the state after a batch of the run, which has seen that frontier; None when nothing is."""
        hour = state.open_hour
        if hour is None or frontier is None or frontier < self._due(hour, state):
            self.since.pop(run, None)
            return None
        known = self.since.get(run)
        if known is None or known[0] != hour:
            known = self.since[run] = hour, now
        if now - known[1] < QUIET_PERIODS * self.topic.quiet_period:
            return None
        waits = f"everything published until {frontier} is consumed, and {now - known[1]} waited for quiet"
        return f"{hour} is still open at {now}: {waits}"

    def _due(self, hour: Hour, state: IngestState) -> datetime:
        """The publish time up to which all must be consumed: the end, lateness, and how long events take to come."""
        newest = state.newest
        delay = newest.publish_time - newest.event_time if newest else timedelta(0)
        return hours.end_of(hour) + self.topic.lateness + max(delay, timedelta(0))
