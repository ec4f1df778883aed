"""Topics' commits, side by side: one that fails, or takes too long, is left out for a while and holds up no other."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from lakehouse.crews import Crew
from lakehouse.durations import duration_text
from lakehouse.errors import LakehouseError, SlowStoreError
from lakehouse.ingest.facts import Fact
from lakehouse.ingest.failures import own_error
from lakehouse.ingest.parking import Parking
from lakehouse.ingest.planning import patience
from lakehouse.ingest.topic import TopicIngest

log = logging.getLogger(__name__)

SIDE_BY_SIDE = 32
"""Topics that commit at the same time: most of it waits for a store."""


@dataclass(frozen=True)
class Outcome:
    """What a topic's batch failed of, if it did, and how long its commit took."""

    error: LakehouseError | None
    seconds: float


class Commits:
    """Of `topics`, which may become more; what fails is parked in `parking`."""

    def __init__(
        self,
        topics: Mapping[str, TopicIngest],
        parking: Parking,
        trigger: timedelta,
        crew: Crew[str, Outcome] | None = None,
    ) -> None:
        self._topics, self._parking, self._patience = topics, parking, patience(trigger)
        self._crew: Crew[str, Outcome] = crew or Crew(SIDE_BY_SIDE, "commit")

    @property
    def busy(self) -> Collection[str]:
        """Topics whose commit has not ended."""
        return self._crew.busy

    def begin(self, name: str, facts: Sequence[Fact], error: LakehouseError | None) -> None:
        """Commit what there is, and record why the topic cannot go on, if it cannot."""
        self._crew.begin(name, partial(self._outcome, self._topics[name], facts, error))

    def _outcome(self, ingest: TopicIngest, facts: Sequence[Fact], error: LakehouseError | None) -> Outcome:
        """Raises what concerns all topics."""
        began = time.monotonic()
        try:
            if facts:
                ingest.commit_facts(facts)
        except BaseException as raised:
            ingest.miss(facts)
            error = own_error(ingest.name, raised)
        if error is not None:
            ingest.record_failure(error, self._parking.next_pause(ingest.name, error))
        return Outcome(error, time.monotonic() - began)

    def take_results(self) -> None:
        """Of the commits that end in time; who takes longer is left out, and its commit goes on."""
        longest = self._patience
        slow = [name for name in self.busy if self._parking.is_slow(name)]
        for name, outcome in self._crew.results(longest.total_seconds(), slow):
            if outcome.error is not None:
                self.park(name, outcome.error)
            elif outcome.seconds < longest.total_seconds():
                self._parking.recover(name)
            else:  # it has succeeded, and is still a reason to look at that store
                self._topics[name].note_failure(_slow_commit(name, longest), timedelta(0))
        for name in self.busy:
            if not self._parking.is_slow(name):
                self.leave_out(name, _slow_commit(name, longest))

    def leave_out(self, name: str, error: SlowStoreError) -> None:
        """Park a topic whose store does not answer, and say so in the heartbeat alone: its ledger may hang as well."""
        self._topics[name].note_failure(error, self._parking.next_pause(name, error))
        self.park(name, error)

    def park(self, name: str, error: LakehouseError) -> None:
        """Leave the topic out for its next pause."""
        pause = self._parking.next_pause(name, error)
        self._topics[name].remind()
        if self._parking.park(name, error, time.monotonic()):
            then = f"tried again in {duration_text(pause)}" if pause is not None else "left to the newer run"
            log.error("ingest: topic=%s state=parked next=%s error=%s", name, then, error)


def _slow_commit(name: str, patience: timedelta) -> SlowStoreError:
    return SlowStoreError(
        f"topic {name}",
        found=f"a commit that takes longer than {duration_text(patience)}",
        expected="a store that answers",
        next_step="It goes on by itself, and nothing is lost; see how long requests to that store take.",
    )
