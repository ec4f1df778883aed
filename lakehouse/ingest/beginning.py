"""Where a topic begins, and where it goes on after a loss: commits of bronze's state alone, without a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

from lakehouse import hours
from lakehouse.clock import Clock
from lakehouse.ingest.journal import Journal
from lakehouse.ingest.positions import LogPlace, lost_between
from lakehouse.progress import IngestState, Positions, ReadFrom, log_name
from lakehouse.store import bronze_log
from lakehouse.store.bronze_head import Head
from lakehouse.store.records import Lost
from lakehouse.store.table_log import ConflictError
from lakehouse.store.tables import TopicTables

log = logging.getLogger(__name__)

LogStart = Callable[[ReadFrom | None], Positions | None]
"""Where a log is read from: at first, given None, as the topic's file says; else where it goes on after a loss."""

_LOSS_WITHIN = 100
"""Commits in which a loss is looked for that the ledger may lack."""


class Beginning:
    """Of one run. `log_start` is None for a queue."""

    def __init__(
        self, tables: TopicTables, bronze: Head, *, run: str, clock: Clock, log_start: LogStart | None
    ) -> None:
        self._topic, self._release = tables.topic, tables.settings.release
        self._bronze, self._run, self._clock, self._log_start = bronze, run, clock, log_start

    @property
    def is_log(self) -> bool:
        return self._log_start is not None

    def set_first_hour(self) -> None:
        """Once in a topic's life; `earliest` waits for the first events."""
        state = self._bronze.state()
        if state.open_hour is not None or self._topic.first_hour == "earliest":
            return
        first = self._topic.first_hour
        self._commit(replace(state, open_hour=hours.hour_of(self._clock()) if first == "now" else first))

    def set_first_positions(self) -> None:
        """Once in the life of a topic of a log, before the first of its messages is read.

        And where its file names another source than bronze has: the topic goes on there, from its start. Another
        address of the same log changes no position.
        """
        state = self._bronze.state()
        before, address = state.positions, self._topic.reads.address
        if self._log_start is None or (before is not None and before.source in ("", address)):
            return
        positions = self._log_start(None)
        if before is not None and positions is not None:
            if positions.log == log_name(before.log):
                positions = replace(before, source=address)
            log.info("ingest: topic=%s state=source changed from=%s to=%s", self._topic.name, before.source, address)
        self._commit(replace(state, positions=positions))

    def accept_loss(self, journal: Journal, place: LogPlace) -> None:
        """Go on where a log still has messages, as a person has said; what is lost is in the ledger."""
        accepted = journal.accepted_loss() if self._log_start else None
        if accepted is None or self._log_start is None:
            return
        state = self._bronze.state()
        positions = self._log_start(place.read_from(state))
        lost = lost_between(state.positions, positions, accepted)
        if positions != state.positions:
            if self._commit(replace(state, positions=positions), lost=lost.as_json()) is None:
                return
            place.forget()
        else:  # a run may have died after that commit
            lost = self._loss_in_log(lost)
        journal.record_loss(lost)

    def _commit(self, state: IngestState, **more: Any) -> int | None:
        """A commit of the state alone; None when another one came before it, which is then known."""
        metadata = {
            "release": self._release,
            "run": self._run,
            "segments": [],
            "closed": [],
            "epochs": [],
            "at": self._clock().isoformat(),
        }
        zeros = {"rows": 0, "rejected": 0, "reasons": {}, "undeclared": {}, "watermark": None, "frontier": None}
        try:
            return self._bronze.commit([], state, {**metadata, **zeros, "adopted": [], **more})
        except ConflictError:
            self._bronze.update()
            return None

    def _loss_in_log(self, expected: Lost) -> Lost:
        """What the newest commit that went on after a loss says, if the same person did so for the same reason."""
        for _, metadata in islice(bronze_log.ingest_commits(self._bronze.log), _LOSS_WITHIN):
            if "lost" in metadata:
                lost = Lost.from_json(metadata["lost"])
                return lost if (lost.by, lost.reason) == (expected.by, expected.reason) else expected
        return expected
