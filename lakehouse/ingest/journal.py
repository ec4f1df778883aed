"""What ingest writes to a topic's ledger: who has the topic, which hours closed, why one is held, and failures."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from typing import Any

from lakehouse import failpoints, hours
from lakehouse.clock import Clock
from lakehouse.errors import StaleDriverError, in_one_line
from lakehouse.ingest.batch import BatchPlan, Request
from lakehouse.ingest.closing import Awaits, Held
from lakehouse.progress import Frontier, IngestState, watermark
from lakehouse.store import bronze_log, records
from lakehouse.store.history import Entry, History
from lakehouse.store.ledger import Ledger
from lakehouse.store.records import (
    Closed,
    CloseRequested,
    Condition,
    Failed,
    LossAccepted,
    Lost,
    Recovered,
    Started,
    State,
    Stopped,
)
from lakehouse.store.tables import TopicTables

log = logging.getLogger(__name__)


class Journal:
    """One run's rows in the ledger of its topic."""

    def __init__(self, tables: TopicTables, run: str, clock: Clock) -> None:
        self._tables, self._run, self._clock = tables, run, clock
        self._ledger: Ledger | None = None
        self._held: tuple[str, str, str] | None = None
        self.former_application: str | None = None
        """That had the topic before this run took it over, and may have it still."""
        self._asked: tuple[History, Request | None] | None = None

    @property
    def ledger(self) -> Ledger:
        """Created where there is none."""
        if self._ledger is None:
            by = f"ingest/{self._tables.settings.release}/{self._run}"
            self._ledger = self._tables.ledger(by, self._clock)
        return self._ledger

    def take_over(self) -> bool:
        """Record that this run has the topic from now on; whether it is the first one ever."""
        before: Entry | None = None

        def look(history: History) -> bool:
            nonlocal before
            before, newest = history.last(State.STARTED), history.newest(State.STARTED, State.STOPPED)
            is_there = before is not None and newest is before
            self.former_application = before.of(Started).application if before and is_there else None
            return False

        settings, host = self._tables.settings, socket.gethostname()
        application = settings.application or None
        started = Started(run=self._run, host=host, release=settings.release, application=application)
        self.ledger.record(started, unless=look)
        return before is None

    def check_newest(self) -> None:
        """StaleDriverError when a newer run has taken the topic over."""
        entry = self.ledger.digest().last(State.STARTED)
        newest = entry.of(Started) if entry else None
        if entry is not None and newest is not None and newest.run != self._run:
            raise StaleDriverError(
                f"topic {self._tables.topic.name}",
                found=f"run {_run_text(newest.run, newest.application)} on {newest.host}, "
                f"started at {hours.instant_text(entry.at)}",
                expected=f"this run, {_run_text(self._run, self._tables.settings.application)}, to be the newest",
                next_step="Leave the newer run alone; stop it first if this one should take over.",
            )

    def request(self) -> Request | None:
        """The request for closes that reaches furthest, of those that `check_newest` has read."""
        history = self.ledger.known_digest()
        if self._asked is None or self._asked[0] is not history:
            self._asked = history, _request_in(history)
        return self._asked[1]

    def accepted_loss(self) -> LossAccepted | None:
        """That a person goes on without what the source has lost, and no commit has done so since."""
        newest = self.ledger.known_digest().newest(State.LOSS_ACCEPTED, State.LOST)
        return newest.of(LossAccepted) if newest is not None and newest.state == State.LOSS_ACCEPTED else None

    def record_loss(self, lost: Lost) -> None:
        self.ledger.record(lost)

    def record_closes(self, closed: list[dict[str, Any]], version: int) -> None:
        """The hours that the bronze commit of that version closed, as it says itself (`metadata_of`)."""
        for details in closed:
            self._record_close(details, version)

    def record_missing_closes(self, bronze: bronze_log.Bronze, state: IngestState) -> None:
        """A crash may have come between the commit and the ledger, ours or another run's: the log knows what closed.

        It must come before the next close is recorded: the newest in the ledger says how far to look. Only who records
        closes adds to those that `take_over` or `check_newest` has read.
        """
        newest = self.ledger.known_digest().closed_through() or ""
        for version, details in bronze_log.closes_since(bronze, newest, state):
            self._record_close(details, version)

    def _record_close(self, details: Mapping[str, Any], version: int) -> None:
        hour = str(details["hour"])

        def is_known(history: History) -> bool:
            return history.first(State.CLOSED, hour) is not None

        self.ledger.record(Closed.from_json({**details, "bronze_version": version}), hour, unless=is_known)
        failpoints.reach("ingest.close_recorded")

    def is_news(self, plan: BatchPlan) -> bool:
        """Whether `record_held` would record something."""
        return plan.held is not None and _held_key(plan, plan.held) != self._held

    def record_held(self, plan: BatchPlan) -> None:
        """When the oldest open hour changes, or what it waits for first, or what is known of the frontier."""
        held, frontier = plan.held, plan.signals.frontier
        if held is None or not self.is_news(plan):
            return
        self._held = _held_key(plan, held)
        waits, problem = _waits_for_frontier(held), _problem(frontier)
        now_open = plan.state.hours.get(held.hour)
        self.ledger.record(
            records.Held(
                reasons=held.reasons,
                rows=held.rows,
                watermark=watermark(plan.state.max_event_time, self._tables.topic),
                frontier=frontier.at,
                frontier_text=frontier.text,
                problem=problem if waits else None,
                waits_for_frontier=waits[0].text if waits else None,
                newest_write=now_open.last_write if now_open else None,
                epoch=plan.epoch,
            ),
            held.hour,
        )

    def record_recovery(self) -> None:
        self.ledger.record(Recovered(run=self._run, host=socket.gethostname()))

    def record_stop(self) -> None:
        """That nobody runs the topic from here on; nothing where a newer run has it."""

        def is_another_runs(history: History) -> bool:
            newest = history.last(State.STARTED)
            return newest is not None and newest.of(Started).run != self._run

        try:
            self.ledger.record(Stopped(run=self._run, host=socket.gethostname()), unless=is_another_runs)
        except Exception as unwritable:  # the end of a run waits for nothing
            log.warning(
                "ingest: topic=%s not_recorded=stopped error=%s", self._tables.topic.name, in_one_line(unwritable)
            )

    def record_failure(self, error: BaseException, *, has_claimed: bool) -> None:
        """Why the topic's query ended or could not start; once for each reason.

        Nothing is recorded where there is no lake yet, or where a newer run has the topic.
        """

        def is_known(history: History) -> bool:
            started = history.last(State.STARTED)
            newest = history.newest(State.STARTED, State.FAILED, State.RECOVERED)
            is_ours = not has_claimed or (started is not None and started.of(Started).run == self._run)
            is_same = newest is not None and newest.state == State.FAILED and newest.of(Failed).error == str(error)
            return is_same or not is_ours

        try:
            if has_claimed or self._tables.has_ledger():
                failed = Failed(error=str(error), run=self._run, host=socket.gethostname())
                self.ledger.record(failed, unless=is_known)
        except Exception as unwritable:  # the failure itself is what matters, and is raised by the caller
            log.warning(
                "ingest: topic=%s not_recorded=failed error=%s", self._tables.topic.name, in_one_line(unwritable)
            )


def _request_in(history: History) -> Request | None:
    entry = history.requested_close()
    if entry is None or entry.hour is None:
        return None
    details = entry.of(CloseRequested)
    return Request(entry.hour, details.by, details.reason)


def _waits_for_frontier(held: Held) -> list[Condition]:
    return [reason for reason, awaits in zip(held.reasons, held.awaits, strict=True) if awaits is Awaits.FRONTIER]


def _problem(frontier: Frontier) -> str | None:
    return (frontier.problem or "unknown") if frontier.at is None else None


def _held_key(plan: BatchPlan, held: Held) -> tuple[str, str, str]:
    """The hour, what it waits for first, and what is known of the frontier where it waits for that."""
    waits = (_problem(plan.signals.frontier) or "behind") if _waits_for_frontier(held) else ""
    return held.hour, held.reasons[0].condition, waits


def _run_text(run: str, application: str | None) -> str:
    """A run with the name of its application, where it has one."""
    return f"{run} of application {application}" if application else run
