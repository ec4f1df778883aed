"""What a stage after ingest fails of: in the ledger, so that whoever asks for the topic's status sees it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse.clock import Clock
from lakehouse.errors import in_one_line
from lakehouse.hours import Hour
from lakehouse.store.history import History
from lakehouse.store.records import MirrorFailed, StageFailed, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

SAID_AGAIN = timedelta(hours=1)
"""How long a failure of the same hour is not recorded again when its words differ: they may hold a time or a name."""


@dataclass(frozen=True)
class StageFailure:
    """A stage that still has an hour due at which it failed: since when, and of what, as it said last."""

    stage: str
    hour: Hour
    since: datetime
    error: str


def record_stage_failure(
    tables: TopicTables, stage: str, error: Exception, run: str, clock: Clock | None = None
) -> None:
    """One row for the oldest hour that is due there; none where the ledger has it, or cannot be written."""
    clock = clock or tables.settings.clock
    try:
        if not tables.has_ledger():
            return
        ledger = tables.ledger(f"{stage}/{tables.settings.release}/{run}", clock)
        hour = next(due_hours(ledger.digest(), tables.topic, stage), None)
        if hour is None:
            return

        def is_known(history: History) -> bool:
            entry = next((each for each in reversed(history.sound_entries) if each.state == State.STAGE_FAILED), None)
            if entry is None or entry.hour != hour:
                return False
            last = entry.of(StageFailed)
            return last.stage == stage and (last.error == str(error) or clock() < entry.at + SAID_AGAIN)

        failed = StageFailed(stage=stage, error=str(error), run=run, host=socket.gethostname())
        ledger.record(failed, hour, unless=is_known)
    except Exception as unwritable:  # the failure itself is what matters, and is in the log
        log.warning("%s: topic=%s state=unrecorded error=%s", stage, tables.topic.name, in_one_line(unwritable))


def stage_failures(history: History, topic: Topic) -> Iterator[StageFailure]:
    """What fails at a target, hour by hour, and of each stage the newest, as long as its hour is due there."""
    refused = list(_refused_hours(history, topic))
    yield from refused
    rows = [entry for entry in history.sound_entries if entry.state == State.STAGE_FAILED]
    for stage in dict.fromkeys(entry.of(StageFailed).stage for entry in rows):
        mine = [entry for entry in rows if entry.of(StageFailed).stage == stage]
        hour = mine[-1].hour
        is_said = stage == "mirror" and any(each.hour == hour for each in refused)
        if hour is not None and not is_said and hour in set(due_hours(history, topic, stage)):
            since = next(entry.at for entry in mine if entry.hour == hour)
            yield StageFailure(stage, hour, since, mine[-1].of(StageFailed).error)


def _refused_hours(history: History, topic: Topic) -> Iterator[StageFailure]:
    for target in topic.mirrors:
        for hour in history.due_to_mirror(target):
            if failures := history.mirror_failures(hour, target):
                error = failures[-1].of(MirrorFailed).error
                yield StageFailure(f"mirror {target}", hour, failures[0].at, error)


def due_hours(history: History, topic: Topic, stage: str) -> Iterator[Hour]:
    """The hours that the stage has before it, oldest first; none of a stage that goes by no hours."""
    if stage == "seal":
        yield from history.due_to_seal()
    elif stage == "validate":
        yield from history.due_to_validate()
    elif stage == "mirror":
        due = ((*history.due_to_mirror(target), *history.due_to_withdraw(target)) for target in topic.mirrors)
        yield from sorted({hour for hours in due for hour in hours})
