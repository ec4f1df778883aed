"""The state of every topic, as data: the worst that holds, and all numbers beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import takewhile

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.durations import age_seconds, seconds_since
from lakehouse.errors import joined_lines
from lakehouse.hours import Hour
from lakehouse.operations.damage import damage, recorded_damage
from lakehouse.operations.held import STUCK_AFTER, Held, Stuck, held_hours, stuck
from lakehouse.operations.signs import Failure, failure, is_outdated, newest_sign, not_running_since
from lakehouse.operations.snapshot import TopicSnapshot, read_topic, waits_for
from lakehouse.operations.stage_failures import StageFailure, stage_failures
from lakehouse.operations.topic_life import TopicLife, known_commit, signs_of, topic_life
from lakehouse.store import records
from lakehouse.store.heartbeats import Sign
from lakehouse.store.records import State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

BEHIND_AFTER = timedelta(hours=1)
"""How long a closed hour may wait for its next stage."""
_READERS, _READERS_OF_DISKS = 64, 8
"""Topics read at the same time: of a store nearly all of it is waiting; of a disk more threads only take turns."""


@dataclass(frozen=True)
class Due:
    """Hours that each stage still has before it."""

    seal: int = 0
    validate: int = 0
    mirrors: Mapping[str, int] = field(default_factory=dict)


STATES = {
    "error": "its file or its lake cannot be read",
    "failing": "ingest or a later stage cannot go on",
    "damaged": "a file is missing, or is not as it was written",
    "not running": "its application has ended in order and none has started since, or no application names it",
    "silent": "its application, or the topic alone, gives no sign of life",
    "stuck": "the frontier has long kept the open hour from closing",
    "rejecting": "more messages are rejected than `max_rejected_share` allows",
    "behind": "a closed hour has long waited for its next stage",
    "invalid": "an hour waits until a person releases it",
    "ok": "none of these",
    "not started": "there is no lake yet",
}
"""What a topic can be, the worst first."""


@dataclass(frozen=True)
class TopicStatus:
    """One topic's row. An age counts from the instant beside it to `now`.

    `state` is the worst that holds, in the order of `STATES`. `waiting_hour` is the oldest unfinished hour: the oldest
    that has closed and is not everywhere it goes; `waits_since` is when something last happened to it.
    `delivered_hour` is the newest that is everywhere it goes, `behind_seconds` how long ago that hour ended. `rejected`
    counts messages since the close before last, `rejected_share` is their share of all messages since then.
    `unacknowledged` counts messages of the newest `RECENT_COMMITS` commits whose acknowledgement was refused for good.
    `life` is what the topic's application says of it; None where none names it, as before the first heartbeat of a
    lake. `damage` is what a look at the files found, or the newest that is recorded, for which see `maintain`.
    """

    topic: str
    state: str
    error: str | None = None
    life: TopicLife | None = None
    failure: Failure | None = None
    stage_failures: tuple[StageFailure, ...] = ()
    stuck: Stuck | None = None
    not_running_since: datetime | None = None
    last_sign: datetime | None = None
    last_sign_age_seconds: float | None = None
    open_hour: Hour | None = None
    waiting_hour: Hour | None = None
    waits_for: str | None = None
    waits_since: datetime | None = None
    delivered_hour: Hour | None = None
    behind_seconds: float | None = None
    rejected: int | None = None
    rejected_share: float | None = None
    newest_sealed_hour: Hour | None = None
    held: tuple[Held, ...] = ()
    watermark: datetime | None = None
    frontier: datetime | None = None
    frontier_age_seconds: float | None = None
    last_commit: datetime | None = None
    last_commit_age_seconds: float | None = None
    last_batch_rows: int | None = None
    slots: int | None = None
    slots_min: int | None = None
    slots_max: int | None = None
    release: str | None = None
    invalid_hours: tuple[Hour, ...] = ()
    due: Due = Due()
    unacknowledged: int | None = None
    damage: records.Damaged = records.NO_DAMAGE


def statuses(
    config: Config, topic_names: Iterable[str], now: datetime, *, looks_at_files: bool = False
) -> list[TopicStatus]:
    """A row for each topic, in the order asked for; one whose file or lake cannot be read is a row that says why.

    ConfigError for a name that no file has.

    `looks_at_files` lists the topics' folders: without it a missing file is known when the application has seen it.
    """
    names = list(topic_names)
    for name in names:
        if name not in config.unusable:
            config.topic(name)
    signs, settings = signs_of(config.settings), config.settings
    is_of_store = "://" in settings.raw_root or "://" in settings.sealed_root
    with ThreadPoolExecutor(_READERS if is_of_store else _READERS_OF_DISKS) as readers:
        return list(readers.map(lambda name: _status_or_error(name, config, signs, now, looks_at_files), names))


def status_of(snapshot: TopicSnapshot, signs: Sequence[Sign], now: datetime) -> TopicStatus:
    """The row of a topic that was read already; its files count as they were found when somebody looked last."""
    life = topic_life(snapshot.topic.name, signs, now)
    return _status(snapshot, life, signs, recorded_damage(snapshot.history), now)


def _status_or_error(
    name: str, config: Config, signs: Sequence[Sign], now: datetime, looks_at_files: bool
) -> TopicStatus:
    life = topic_life(name, signs, now)
    try:
        topic = config.topic(name)
        snapshot = read_topic(topic, config, newest_hours=0, commit=known_commit(name, signs))
        tables = TopicTables(topic, config.settings)
        seen = damage(tables) if looks_at_files else recorded_damage(snapshot.history)
        return _status(snapshot, life, signs, seen, now)
    except Exception as error:  # whatever breaks one topic must not hide the others
        return TopicStatus(name, "error", error=joined_lines(str(error)) or type(error).__name__, life=life)


def _status(
    snapshot: TopicSnapshot, life: TopicLife | None, signs: Sequence[Sign], seen: records.Damaged, now: datetime
) -> TopicStatus:
    topic, history, batch = snapshot.topic, snapshot.history, snapshot.batch
    if not snapshot.is_started:
        return TopicStatus(topic.name, "failing" if life and life.is_failing else "not started", life=life)
    started = history.last(State.STARTED)
    if life is not None and is_outdated(life, started, signs):
        life = None
    closed = history.hours()
    waits = {hour: what for hour in closed if (what := waits_for(snapshot, hour))}
    waiting = next(iter(waits), None)
    delivered = next((hour for hour in reversed(closed) if hour not in waits and history.current(hour)), None)
    frontier = batch.instant("frontier") if batch else None
    rejected, messages = _rejected(snapshot)
    last_sign = newest_sign(snapshot, life)
    status = TopicStatus(
        topic.name,
        "ok",
        failure=failure(snapshot, now),
        stage_failures=tuple(stage_failures(history, topic)),
        stuck=stuck(snapshot, now),
        life=life,
        not_running_since=not_running_since(snapshot, life, signs, now),
        last_sign=last_sign,
        last_sign_age_seconds=age_seconds(last_sign, now),
        open_hour=snapshot.open_hour,
        waiting_hour=waiting,
        waits_for=waits.get(waiting) if waiting else None,
        waits_since=history.of_hour(waiting)[-1].at if waiting else None,
        delivered_hour=delivered,
        behind_seconds=seconds_since(hours.end_of(delivered), now) if delivered else None,
        rejected=rejected,
        rejected_share=rejected / messages if rejected is not None and messages else None,
        newest_sealed_hour=next((hour for hour in reversed(closed) if history.revision(hour)), None),
        held=tuple(held_hours(snapshot, now)),
        watermark=batch.instant("watermark") if batch else None,
        frontier=frontier,
        frontier_age_seconds=age_seconds(frontier, now),
        last_commit=batch.committed_at if batch else None,
        last_commit_age_seconds=age_seconds(batch.committed_at, now) if batch else None,
        last_batch_rows=batch.rows if batch else None,
        slots=batch.state.slots if batch else None,
        slots_min=topic.slots.min,
        slots_max=topic.slots.max,
        release=started.of(records.Started).release if started else None,
        invalid_hours=tuple(hour for hour, what in waits.items() if what == "release"),
        unacknowledged=batch.unacknowledged if batch else None,
        damage=seen,
        due=Due(
            len(history.due_to_seal()),
            len(history.due_to_validate()),
            {target: len(history.due_to_mirror(target)) for target in topic.mirrors},
        ),
    )
    return replace(status, state=_worst(status, topic, now))


def _worst(status: TopicStatus, topic: Topic, now: datetime) -> str:
    is_behind = status.waits_since is not None and now - status.waits_since > BEHIND_AFTER
    holds = {
        "failing": status.failure is not None
        or bool(status.stage_failures)
        or (status.life is not None and (status.life.is_failing or status.life.maintain_error is not None)),
        "damaged": status.damage.count > 0,
        "not running": status.not_running_since is not None,
        "silent": _is_silent(status, topic, now),
        "stuck": status.stuck is not None,
        "rejecting": status.rejected_share is not None and status.rejected_share > topic.max_rejected_share,
        "behind": is_behind and status.waits_for != "release",
        "invalid": bool(status.invalid_hours),
    }
    return next((state for state in STATES if holds.get(state)), "ok")


def _is_silent(status: TopicStatus, topic: Topic, now: datetime) -> bool:
    """By the heartbeat; without one, nothing in the lake for longer than an hour of the topic can stay open."""
    if status.life is not None:
        return not status.life.is_alive or status.life.hangs_for_seconds is not None
    longest_silence = hours.ONE_HOUR + topic.lateness + STUCK_AFTER
    return status.last_sign is not None and now - status.last_sign > longest_silence


def _rejected(snapshot: TopicSnapshot) -> tuple[int | None, int]:
    """Rejected messages since the close before last, and all messages since then; None when nothing is known."""
    if snapshot.batch is None:
        return None, 0
    state = snapshot.batch.state
    entries = [entry for entry in snapshot.history.sound_entries if entry.state == State.CLOSED]
    version = entries[-1].of(records.Closed).bronze_version if entries else None
    newest = takewhile(
        lambda close: close.bronze_version == version, (each.of(records.Closed) for each in entries[::-1])
    )
    rejected, rows = state.rejected, sum(each.rows for each in state.hours.values())
    for close in newest:  # all hours that one commit closed: the first of them has the count of rejects
        rejected, rows = rejected + close.rejected, rows + close.rows
    return rejected, rejected + rows
