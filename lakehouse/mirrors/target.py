"""One target of a topic: its due hours are published, counted there, and recorded."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile

from lakehouse import failpoints
from lakehouse.clock import Clock
from lakehouse.errors import LakehouseError, MirrorError, NoSparkError, TargetLimitError
from lakehouse.hours import Hour
from lakehouse.lineage.datasets import dataset_at
from lakehouse.lineage.runs import lineage_run
from lakehouse.mirrors.backoff import next_try
from lakehouse.mirrors.contract import Count, Mirror, SealedHour
from lakehouse.mirrors.sealed import sealed_hour
from lakehouse.store.history import History
from lakehouse.store.ledger import Ledger
from lakehouse.store.records import Mirrored, MirrorFailed, Withdrawn
from lakehouse.store.tables import TopicTables

FAILURES_IN_A_ROW = 3
"""After so many the target is asked for its hours: when it does not answer either, the rest waits for the next run."""

MOST_FAILURES_IN_A_ROW = 20
"""After so many the rest waits in any case: the next run goes on behind these, which wait for their time by then."""

_ERROR_LETTERS = 2000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """One hour that a target now holds as the seal counted it."""

    target: str
    hour: Hour
    revision: int
    silver_version: int
    count: Count
    seconds: float


@dataclass
class Outcome:
    """What one target got done, and what failed there."""

    deliveries: list[Delivery] = field(default_factory=list)
    errors: list[LakehouseError] = field(default_factory=list)


def due_now(history: History, target: str, clock: Clock | None) -> list[Hour]:
    """Hours to publish, oldest first; with a clock without those that failed and whose time has not come."""
    due = history.due_to_mirror(target)
    if clock is None:
        return due
    times = {hour: next_try(history, hour, target) for hour in due}
    return [hour for hour, at in times.items() if at is None or at <= clock()]


class TargetRun:
    """One run over what is due at one target."""

    def __init__(
        self,
        mirror: Mirror,
        ledger: Ledger,
        tables: TopicTables,
        is_stopping: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
    ) -> None:
        """With a `clock`, hours that failed before wait for their time; without one everything is tried."""
        self._mirror, self._ledger, self._tables = mirror, ledger, tables
        self._is_stopping, self._clock = is_stopping, clock
        self._topic = tables.topic

    def run_due(self) -> Outcome:
        """Withdraw, publish, count and record what is due; what an hour raises is an error of the outcome.

        By the ledger as it was read last: a row is recorded only where it is right by what is there by then.
        """
        outcome = Outcome()
        self._withdraw_due(outcome)
        failures: list[tuple[Hour, LakehouseError]] = []
        in_a_row = 0
        for hour, work in self._at_once(due_now(self._ledger.known_digest(), self._mirror.name, self._clock)):
            try:
                delivery = work.result()
                if self._record(delivery):
                    outcome.deliveries.append(delivery)
                else:
                    self._withdraw_if_overtaken(hour)
                in_a_row = 0
            except (TargetLimitError, NoSparkError) as error:  # no hour is to blame
                outcome.errors.append(error)
                break
            except Exception as error:
                failures.append((hour, as_lakehouse_error(error, self._subject(hour))))
                in_a_row += 1
            is_too_much = in_a_row >= MOST_FAILURES_IN_A_ROW
            if is_too_much or (in_a_row >= FAILURES_IN_A_ROW and not self._answers()):
                log.warning(
                    "mirror: topic=%s target=%s failures_in_a_row=%d next=the next run goes on",
                    self._topic.name, self._mirror.name, in_a_row,
                )  # fmt: skip
                break
        if failures and (outcome.deliveries or self._answers()):
            for hour, refused in failures:
                self._record_failure(hour, refused)
        outcome.errors += [error for _, error in failures]
        return outcome

    def _withdraw_due(self, outcome: Outcome) -> None:
        for hour in takewhile(lambda _: not self._is_stopping(), self._due_to_withdraw(self._ledger.known_digest())):
            try:
                sealed = sealed_hour(self._tables, self._ledger.known_digest(), hour)
                self._mirror.withdraw(sealed)
                self._record_withdrawn(hour, sealed.revision)
            except Exception as error:
                outcome.errors.append(as_lakehouse_error(error, self._subject(hour)))

    def _withdraw_if_overtaken(self, hour: Hour) -> None:
        """What was published meanwhile of an hour that is nowhere by now: its withdrawal came before."""
        history = self._ledger.history_with(hour)
        if history.must_be_nowhere(hour):
            self._mirror.withdraw(sealed_hour(self._tables, history, hour))

    def _due_to_withdraw(self, history: History) -> list[Hour]:
        return history.due_to_withdraw(self._mirror.name)

    def _record_withdrawn(self, hour: Hour, revision: int) -> None:
        gone = Withdrawn(target=self._mirror.name, where=self._where(hour), revision=revision)
        self._ledger.record(gone, hour, unless=lambda newest: hour not in self._due_to_withdraw(newest))
        log.info("mirror: topic=%s hour=%s target=%s state=withdrawn", self._topic.name, hour, self._mirror.name)

    def _record_failure(self, hour: Hour, error: LakehouseError) -> None:
        """Of a target that answers: of one that is away no hour is to blame, and none waits longer for it."""
        revision = self._ledger.history_with(hour).revision(hour)
        failed = MirrorFailed(target=self._mirror.name, error=str(error)[:_ERROR_LETTERS], revision=revision)
        self._ledger.record(failed, hour, unless=lambda newest: not self._is_due(newest, hour))

    def _is_due(self, history: History, hour: Hour) -> bool:
        return history.is_cleared(hour) and self._mirror.name not in history.targets_done(hour)

    def _subject(self, hour: Hour) -> str:
        return f"mirror {self._mirror.name}: {self._topic.name} {hour}"

    def _answers(self) -> bool:
        """Whether the target is there at all: an hour that it cannot take must not hold up the others."""
        try:
            self._mirror.hours(self._topic)
        except Exception:
            return False
        return True

    def _at_once(self, due: list[Hour]) -> Iterator[tuple[Hour, Future[Delivery]]]:
        """The hours with their work, oldest first, as many at once as the target takes.

        No new one begins once the caller leaves. The ledger is read and written in the caller's thread alone.
        """
        running: deque[tuple[Hour, Future[Delivery]]] = deque()
        with ThreadPoolExecutor(self._mirror.hours_at_once) as pool:
            for hour in takewhile(lambda _: not self._is_stopping(), due):
                running.append((hour, pool.submit(self._deliver, hour, self._ledger.known_digest())))
                if len(running) == self._mirror.hours_at_once:
                    yield running.popleft()
            yield from running

    def _deliver(self, hour: Hour, history: History) -> Delivery:
        silver, target = dataset_at(self._tables.sealed.below("silver").uri), self._mirror.dataset(self._topic)
        job = f"{self._topic.name}.mirror.{self._mirror.name}"
        with lineage_run(self._tables.settings, job, hour, silver, target) as run:
            delivery = self.publish_and_verify(sealed_hour(self._tables, history, hour))
            rows = delivery.count.rows
            run.found(
                reads={"version": delivery.silver_version, "rows": rows},
                writes={"rows": rows},
                revision=delivery.revision,
                where=self._where(hour),
            )
        return delivery

    def publish_and_verify(self, hour: SealedHour) -> Delivery:
        """Publish, count, compare; MirrorError when the target counts anything else than the seal did.

        An hour that the target took to be there already, and counts wrongly or has other files of, is published once
        more.
        """
        started = time.monotonic()
        expected = Count(hour.rows, hour.id_checksum)
        count, differing = self._publish_and_count(hour, force=False)
        if count != expected or differing:
            log.warning(
                "mirror: topic=%s hour=%s target=%s next=publish again error=it counted %s %s",
                self._topic.name, hour.hour, self._mirror.name, count, "; ".join(differing),
            )  # fmt: skip
            count, differing = self._publish_and_count(hour, force=True)
        if count is None or count != expected or differing:
            raise MirrorError(
                f"mirror {self._mirror.name}: {hour.topic.name} {hour.hour} at {self._where(hour.hour)}",
                found="; ".join([str(count or "no such hour"), *differing]),
                expected=f"{expected}, as it was sealed",
                next_step="Find the other writer and delete the hour at the target; the next run publishes it again.",
            )
        seconds = round(time.monotonic() - started, 3)
        return Delivery(self._mirror.name, hour.hour, hour.revision, hour.silver_version, count, seconds)

    def _publish_and_count(self, hour: SealedHour, *, force: bool) -> tuple[Count | None, list[str]]:
        """What the target counts, and which of its files are not the seal's."""
        self._mirror.publish(hour, force=force)
        count = self._mirror.read_back(hour.topic, hour.hour)
        is_comparable = count is not None and hour.digests is not None
        return count, self._mirror.differing(hour.topic, hour.hour, hour.digests or {}) if is_comparable else []

    def _record(self, delivery: Delivery) -> bool:
        """Record it; False when meanwhile another run has, or the hour was sealed again."""
        failpoints.reach("mirror.counted")
        hour, count = delivery.hour, delivery.count

        def is_overtaken(history: History) -> bool:
            is_done = self._mirror.name in history.targets_done(hour)
            return is_done or not history.is_cleared(hour) or history.revision(hour) != delivery.revision

        record = Mirrored(
            target=self._mirror.name,
            where=self._where(hour),
            rows=count.rows,
            id_checksum=count.id_checksum,
            silver_version=delivery.silver_version,
            revision=delivery.revision,
            seconds=delivery.seconds,
        )
        if not self._ledger.record(record, hour, unless=is_overtaken):
            return False
        failpoints.reach("mirror.recorded")
        log.info(
            "mirror: topic=%s hour=%s target=%s rows=%d seconds=%.3f",
            self._topic.name, hour, self._mirror.name, count.rows, delivery.seconds,
        )  # fmt: skip
        return True

    def _where(self, hour: Hour) -> str:
        return self._mirror.where(self._topic, hour)


def as_lakehouse_error(error: Exception, subject: str) -> LakehouseError:
    """The error itself if it is ours; a target's own kind, which is logged, as a MirrorError."""
    if isinstance(error, LakehouseError):
        return error
    log.error("mirror: subject=%s error=unexpected %s", subject, type(error).__name__, exc_info=error)
    ours = MirrorError(
        subject,
        found=f"{type(error).__name__}: {error}",
        expected="the target to take the hour",
        next_step="See the log for where it came from; the hour stays due.",
    )
    ours.__cause__ = error
    return ours
