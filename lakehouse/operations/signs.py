"""What ingest last left of itself in the lake: a failure, an end in order, or any sign of life."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from lakehouse.durations import seconds_since
from lakehouse.operations.snapshot import TopicSnapshot
from lakehouse.operations.topic_life import TopicLife
from lakehouse.store import records
from lakehouse.store.heartbeats import SILENT_AFTER, Sign
from lakehouse.store.history import Entry
from lakehouse.store.records import State

_INGESTS = (State.STARTED, State.RECOVERED, State.FAILED, State.STOPPED, State.HELD, State.CLOSED)
"""What only a run of ingest records."""


@dataclass(frozen=True)
class Failure:
    """What ended the topic's query, or keeps it from starting, and which run said so."""

    since: datetime
    seconds: float
    error: str
    run: str
    host: str


def failure(snapshot: TopicSnapshot, now: datetime) -> Failure | None:
    """Why ingest cannot go on; None once a run has started, recovered or committed since."""
    runs = (State.STARTED, State.RECOVERED, State.FAILED)
    recorded = [entry for entry in snapshot.history.sound_entries if entry.state in runs]
    failed = list(takewhile(lambda entry: entry.state == State.FAILED, reversed(recorded)))
    if not failed or (snapshot.batch is not None and snapshot.batch.committed_at > failed[0].at):
        return None
    newest, since = failed[0].of(records.Failed), failed[-1].at
    return Failure(since, seconds_since(since, now), newest.error, newest.run, newest.host)


def is_outdated(life: TopicLife, started: Entry | None, signs: Sequence[Sign]) -> bool:
    """Whether a run that writes no heartbeat, such as an older release's, has the topic since."""
    runs = {sign.heartbeat.run: sign.heartbeat.started_at for sign in signs}
    newest = started.of(records.Started).run if started else life.run
    return newest not in runs and started is not None and started.at > runs[life.run]


def not_running_since(
    snapshot: TopicSnapshot, life: TopicLife | None, signs: Sequence[Sign], now: datetime
) -> datetime | None:
    """Since when nobody runs the topic, as far as that is known; None while somebody does, or may."""
    if life is not None:
        return life.not_running_since
    last_sign, stopped_at = newest_sign(snapshot, None), _stopped_at(snapshot)
    is_complete = bool(signs) and not any(sign.is_alive(now) and sign.heartbeat.other_run for sign in signs)
    if stopped_at is None and is_complete and last_sign is not None and now - last_sign > SILENT_AFTER:
        return last_sign
    return stopped_at


def newest_sign(snapshot: TopicSnapshot, life: TopicLife | None) -> datetime | None:
    """When ingest last left anything in the ledger, in bronze's log or in a heartbeat."""
    left = snapshot.history.newest(*_INGESTS)
    signs = [left.at if left else None, snapshot.batch.committed_at if snapshot.batch else None]
    signs.append(life.written_at if life else None)
    return max((sign for sign in signs if sign), default=None)


def _stopped_at(snapshot: TopicSnapshot) -> datetime | None:
    """When the topic's application ended as it was asked to; None when anything was recorded of one since."""
    newest = snapshot.history.newest(State.STARTED, State.RECOVERED, State.FAILED, State.STOPPED)
    if newest is None or newest.state != State.STOPPED:
        return None
    return None if snapshot.batch is not None and snapshot.batch.committed_at > newest.at else newest.at
