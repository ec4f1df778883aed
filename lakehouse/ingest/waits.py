"""What the oldest open hour of a topic waits for, from batch to batch: quiet, a frontier, or only more events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from lakehouse.config import Frontier
from lakehouse.durations import duration_text
from lakehouse.errors import SourceError
from lakehouse.ingest.batch import Batch, BatchPlan
from lakehouse.ingest.facts import Fact
from lakehouse.topics import Topic


class Waits:
    """Of one topic. `ack_deadline` is its subscription's: a frontier may take that much longer to be known."""

    def __init__(self, topic: Topic, settings: Frontier) -> None:
        self._topic, self._settings = topic, settings
        self.ack_deadline = timedelta(0)
        self.quiet_since: tuple[str, datetime] | None = None
        """The hour that waits for quiet alone, and since when."""
        self._awaited: tuple[datetime | None, datetime] | None = None

    def note(self, batch_plan: BatchPlan) -> None:
        """What the batch left waiting."""
        held = batch_plan.held
        if held is None or not batch_plan.awaits_quiet_alone:
            self.quiet_since = None
        elif self.quiet_since is None or self.quiet_since[0] != held.hour:
            self.quiet_since = held.hour, batch_plan.signals.now

    def result(self, batch_plan: BatchPlan, facts: Sequence[Fact], version: int | None) -> Batch:
        """What came of the batch: whether the topic is finished with what there was, and what blocks it if not."""
        is_drained = all(fact["dry_at"] for fact in facts)
        awaits_frontier = is_drained and batch_plan.awaits_frontier(self._topic)
        return Batch(
            batch_plan.epoch,
            version,
            batch_plan.rows,
            batch_plan.decision.closed,
            is_drained and not awaits_frontier and self._is_finished(batch_plan),
            self._blockage(awaits_frontier, batch_plan),
            batch_plan.signals.frontier.at,
        )

    def _is_finished(self, batch_plan: BatchPlan) -> bool:
        """Whether no hour of a drained topic could close by itself if only we waited a little."""
        is_unknown = batch_plan.signals.frontier.at is None
        waits_for_leases = self._settings.source == "drained" and is_unknown
        return not batch_plan.decision.closed and batch_plan.awaits_events and not waits_for_leases

    def _blockage(self, awaits_frontier: bool, batch_plan: BatchPlan) -> SourceError | None:
        """When the frontier alone has kept a drained topic's hour open, and has not moved, for longer than it may."""
        if not awaits_frontier:
            self._awaited = None
            return None
        signals, patience = batch_plan.signals, self._settings.max_age + self.ack_deadline
        if self._awaited is None or self._awaited[0] != signals.frontier.at:
            self._awaited = signals.frontier.at, signals.now
        if signals.now - self._awaited[1] <= patience:
            return None
        return SourceError(
            f"topic {self._topic.name}: {signals.open_hour}",
            found=f"for {duration_text(patience)} no frontier that lets it close: {signals.frontier.text}",
            expected="a frontier at or past its end and lateness",
            next_step="Fix what it says (Cloud Monitoring needs roles/monitoring.viewer), or use `lakehouse close`.",
        )
