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
from lakehouse.errors import LakehouseError, MirrorError
from lakehouse.hours import Hour
from lakehouse.mirrors.contract import Count, Mirror, SealedHour
from lakehouse.mirrors.sealed import sealed_hour
from lakehouse.store.ledger import History, Ledger
from lakehouse.store.records import Mirrored
from lakehouse.store.tables import TopicTables

FAILURES_IN_A_ROW = 3
"""After so many the target is asked for its hours: when it does not answer either, the rest waits for the next run."""

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


class TargetRun:
    """One run over what is due at one target."""

    def __init__(
        self, mirror: Mirror, ledger: Ledger, tables: TopicTables, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._mirror, self._ledger, self._tables = mirror, ledger, tables
        self._is_stopping = is_stopping
        self._topic = tables.topic

    def run_due(self) -> Outcome:
        """Publish, count and record every due hour; what an hour raises is an error of the outcome."""
        outcome = Outcome()
        failures_in_a_row = 0
        due = self._ledger.history().due_to_mirror(self._mirror.name)
        for hour, work in self._at_once(due):
            try:
                delivery = work.result()
                if self._record(delivery):
                    outcome.deliveries.append(delivery)
                failures_in_a_row = 0
            except Exception as error:
                outcome.errors.append(
                    as_lakehouse_error(error, f"mirror {self._mirror.name}: {self._topic.name} {hour}")
                )
                failures_in_a_row += 1
            if failures_in_a_row >= FAILURES_IN_A_ROW and not self._answers():
                log.warning(
                    "mirror: topic=%s target=%s failures_in_a_row=%d next=the next run goes on",
                    self._topic.name, self._mirror.name, failures_in_a_row,
                )  # fmt: skip
                break
        return outcome

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
                running.append((hour, pool.submit(self._deliver, hour, self._ledger.history())))
                if len(running) == self._mirror.hours_at_once:
                    yield running.popleft()
            yield from running

    def _deliver(self, hour: Hour, history: History) -> Delivery:
        return self.publish_and_verify(sealed_hour(self._tables, history, hour))

    def publish_and_verify(self, hour: SealedHour) -> Delivery:
        """Publish, count, compare; MirrorError when the target counts anything else than the seal did.

        An hour that the target took to be there already, and counts wrongly, is published once more.
        """
        started = time.monotonic()
        expected = Count(hour.rows, hour.id_checksum)
        count = self._publish_and_count(hour, force=False)
        if count != expected:
            log.warning(
                "mirror: topic=%s hour=%s target=%s next=publish again error=it counted %s",
                self._topic.name, hour.hour, self._mirror.name, count,
            )  # fmt: skip
            count = self._publish_and_count(hour, force=True)
        if count is None or count != expected:
            raise MirrorError(
                f"mirror {self._mirror.name}: {hour.topic.name} {hour.hour} at {self._where(hour.hour)}",
                found=str(count or "no such hour"),
                expected=f"{expected}, as it was sealed",
                next_step="Find the other writer and delete the hour at the target; the next run publishes it again.",
            )
        seconds = round(time.monotonic() - started, 3)
        return Delivery(self._mirror.name, hour.hour, hour.revision, hour.silver_version, count, seconds)

    def _publish_and_count(self, hour: SealedHour, *, force: bool) -> Count | None:
        self._mirror.publish(hour, force=force)
        return self._mirror.read_back(hour.topic, hour.hour)

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
