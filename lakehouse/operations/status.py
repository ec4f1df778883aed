"""The state of every topic, as data: read from its bronze log and its ledger by delta-rs, without a JVM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from lakehouse import hours
from lakehouse.config import Config, Settings, model_of, topic_of, values_of
from lakehouse.errors import ConfigError, LakeError
from lakehouse.hours import Hour
from lakehouse.operations.damage import damage, recorded_damage
from lakehouse.operations.life import TopicLife, signs_of, topic_life
from lakehouse.operations.stage_failures import StageFailure, stage_failures
from lakehouse.progress import IngestState, OpenHour
from lakehouse.store import records
from lakehouse.store.bronze_log import INGEST, ingest_commits
from lakehouse.store.delta import metadata_of_commits
from lakehouse.store.heartbeats import SILENT_AFTER, Sign
from lakehouse.store.ledger import Entry, History, LedgerTable
from lakehouse.store.place import Place
from lakehouse.store.records import State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

STUCK_AFTER = timedelta(minutes=15)
"""How long an hour that is due may wait for the frontier: samples of a backlog lag by a minute or two."""
BEHIND_AFTER = timedelta(hours=1)
"""How long a closed hour may wait for its next stage."""
_INGESTS = (State.STARTED, State.RECOVERED, State.FAILED, State.STOPPED, State.HELD, State.CLOSED)
"""What only a run of ingest records."""
RECENT = 20
"""Commits of bronze in which what went wrong is counted."""
_READERS = 16
"""Topics read at the same time: nearly all of it is waiting for storage."""


@dataclass(frozen=True)
class Batch:
    """Ingest's last commit to bronze: the heartbeat, and what the next batch starts from.

    `unacknowledged` counts, in the newest `RECENT` commits, messages whose acknowledgement Pub/Sub refused for good.
    """

    version: int
    committed_at: datetime
    state: IngestState
    metadata: Mapping[str, Any]
    unacknowledged: int = 0

    @property
    def rows(self) -> int:
        return int(self.metadata["rows"])

    def instant(self, key: str) -> datetime | None:
        """The `watermark` or the `frontier` as of then; None where it was not known."""
        text = self.metadata.get(key)
        return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True)
class TopicSnapshot:
    """What a topic's lake says of it. A lake that is not there yet has neither a batch nor a history."""

    topic: Topic
    history: History = field(default_factory=History)
    batch: Batch | None = None

    @property
    def is_started(self) -> bool:
        return self.batch is not None or bool(self.history.entries)

    @property
    def open_hour(self) -> Hour | None:
        return self.batch.state.open_hour if self.batch else None


@dataclass(frozen=True)
class Held:
    """An hour that should have closed by the clock, and why it has not, as ingest recorded it."""

    hour: Hour
    since: datetime
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Stuck:
    """The open hour that the frontier keeps from closing, and so every later one: since when, and why.

    `reason` is as ingest logged it at `reported_at`; `since` is when it began, or when the hour was due if that was
    later.
    """

    hour: Hour
    since: datetime
    seconds: float
    reason: str
    reported_at: datetime


@dataclass(frozen=True)
class Failure:
    """What ended the topic's query, or keeps it from starting, and which run said so."""

    since: datetime
    seconds: float
    error: str
    run: str
    host: str


@dataclass(frozen=True)
class Due:
    """Hours that each stage still has before it."""

    seal: int = 0
    validate: int = 0
    mirrors: Mapping[str, int] = field(default_factory=dict)


STATES = {
    "error": "its lake cannot be read",
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
    `unacknowledged` counts messages of the newest `RECENT` commits whose acknowledgement was refused for good. `life`
    is what the topic's application says of it; None where none names it, as before the first heartbeat of a lake.
    `damage` is what a look at the files found, or the newest that is recorded, for which see `maintain`.
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


@dataclass(frozen=True)
class HourStatus:
    """One hour's row: counts and verdict are those of its newest revision; delays count from the hour's end.

    `deliveries` is what bronze holds; `rows` is known once the hour is sealed. `rejected` counts the messages of no
    hour that came between the close before and this one. `mirrored_after_seconds` is that of the last target, once all
    of the topic's targets have the hour. With `through` the row is a range of empty hours that closed together.
    """

    hour: Hour
    state: str
    waits_for: str | None
    rows: int | None
    deliveries: int | None
    duplicates: int | None
    late_duplicates: int | None
    skewed: int | None
    rejected: int | None
    revision: int
    verdict: str | None
    mirrored: tuple[str, ...]
    closed_at: datetime | None
    closed_after_seconds: float | None
    sealed_after_seconds: float | None
    mirrored_after_seconds: float | None
    through: Hour | None = None


def statuses(
    config: Config, topic_names: Iterable[str], now: datetime, *, looks_at_files: bool = False
) -> list[TopicStatus]:
    """A row for each topic, in the order asked for; a topic that cannot be read is a row that says why.

    `looks_at_files` lists the topics' folders: without it a missing file is known when the application has seen it.
    """
    topics = [config.topic(name) for name in topic_names]
    signs = signs_of(config.settings)
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(lambda topic: _status_or_error(topic, config, signs, now, looks_at_files), topics))


def hour_statuses(snapshot: TopicSnapshot, last: int, now: datetime) -> list[HourStatus]:
    """The `last` newest hours that closed or hold rows, oldest first; a range of empty hours is one row."""
    held = {held.hour for held in held_hours(snapshot, now)}
    known = sorted({*snapshot.history.hours(), *snapshot.history.ranges(), *_open_hours(snapshot), *held})
    return [_hour_status(snapshot, hour, hour in held) for hour in known[-last:]]


def read_topic(topic: Topic, config: Config) -> TopicSnapshot:
    """What the topic's lake says; LakeError when it is there and cannot be read, or one of its tables is gone."""
    tables = TopicTables(topic, config.settings)
    ledger, bronze = _table(tables.sealed.below("ledger")), _table(tables.raw.below("bronze"))
    history = LedgerTable(ledger).history() if ledger else History()
    batch = _last_batch(bronze) if bronze else None
    known = (
        (tables.sealed.below("ledger"), batch is not None and ledger is None),
        (tables.raw.below("bronze"), bool(history.hours()) and bronze is None),
        (tables.sealed.below("silver"), bool(history.sealed_hours()) and not tables.has_silver()),
    )
    for place, is_missing in known:
        if is_missing:
            raise LakeError(
                place.uri,
                found="no Delta table",
                expected="the topic's: its other tables know of hours that it must have",
                next_step="Restore the folder from a backup.",
            )
    return TopicSnapshot(topic, history, batch)


def held_hours(snapshot: TopicSnapshot, now: datetime) -> list[Held]:
    """Hours whose end and lateness have passed and that are still open, oldest first, each with its newest reasons.

    Ingest also records why it keeps an hour open whose time has not come: such an hour is not held.
    """
    newest = {entry.hour: entry for entry in snapshot.history.sound_entries if entry.state == State.HELD and entry.hour}
    return [
        Held(hour, entry.at, tuple(reason.text for reason in entry.of(records.Held).reasons))
        for hour, entry in sorted(newest.items())
        if now >= hours.instant_after(hours.end_of(hour), snapshot.topic.lateness) and is_open(snapshot, hour)
    ]


def stuck(snapshot: TopicSnapshot, now: datetime) -> Stuck | None:
    """What the frontier has kept from closing for longer than `STUCK_AFTER`, as far as ingest has recorded it.

    Ingest adds a row whenever the oldest open hour changes, or what is known of the backlog.
    """
    hour = snapshot.open_hour
    rows = [entry for entry in snapshot.history.sound_entries if entry.state == State.HELD and entry.hour == hour]
    if hour is None or not rows or not is_open(snapshot, hour) or (reason := _backlog_of(rows[-1])) is None:
        return None
    begun, problem = rows[-1], rows[-1].of(records.Held).problem
    for entry in reversed(rows):
        if _backlog_of(entry) is None or entry.of(records.Held).problem != problem:
            break
        begun = entry
    since = max(begun.at, hours.instant_after(hours.end_of(hour), snapshot.topic.lateness))
    if now - since < STUCK_AFTER:
        return None
    return Stuck(hour, since, _seconds(since, now) or 0.0, reason, rows[-1].at)


def failure(snapshot: TopicSnapshot, now: datetime) -> Failure | None:
    """Why ingest cannot go on; None once a run has started, recovered or committed since."""
    runs = (State.STARTED, State.RECOVERED, State.FAILED)
    recorded = [entry for entry in snapshot.history.sound_entries if entry.state in runs]
    failed = list(takewhile(lambda entry: entry.state == State.FAILED, reversed(recorded)))
    if not failed or (snapshot.batch is not None and snapshot.batch.committed_at > failed[0].at):
        return None
    newest, since = failed[0].of(records.Failed), failed[-1].at
    return Failure(since, _seconds(since, now) or 0.0, newest.error, newest.run, newest.host)


def _backlog_of(held: Entry) -> str | None:
    """What a held row says of the backlog; None when it was consumed."""
    return held.of(records.Held).waits_for_frontier


def is_open(snapshot: TopicSnapshot, hour: Hour) -> bool:
    """Whether events can still be delivered in the hour."""
    is_passed = snapshot.open_hour is not None and hour < snapshot.open_hour
    return not is_passed and snapshot.history.first(State.CLOSED, hour) is None


def first_hour(snapshot: TopicSnapshot) -> Hour | None:
    """The oldest hour that closed, was held or is open; None before the first event."""
    return min(_hours_known(snapshot), default=None)


def has_hour(snapshot: TopicSnapshot, hour: Hour, now: datetime) -> bool:
    """Whether the topic has or had the hour: from its first on, up to now or to its newest."""
    known = _hours_known(snapshot)
    return bool(known) and min(known) <= hour and (hour <= max(known) or hours.start_of(hour) <= now)


def _hours_known(snapshot: TopicSnapshot) -> set[Hour]:
    recorded = {entry.hour for entry in snapshot.history.entries if entry.state in (State.CLOSED, State.HELD)}
    return {hour for hour in recorded | {snapshot.open_hour} if hour} | set(snapshot.history.hours())


def waits_for(snapshot: TopicSnapshot, hour: Hour) -> str | None:
    """The next thing that must happen to an hour; None when it is everywhere it goes."""
    history = snapshot.history
    if is_open(snapshot, hour):
        return "close"
    rows = history.current(hour)
    if not rows:
        return "seal" if history.of_hour(hour) and not history.is_in_range(hour) else None
    if not any(entry.state in records.VERDICTS for entry in rows):
        return "validate"
    if not history.is_cleared(hour):
        return "release"
    missing = [target for target in snapshot.topic.mirrors if target not in history.targets_done(hour)]
    return f"mirror {', '.join(missing)}" if missing else None


def file_complaints(conf: Path, error: ConfigError) -> dict[str, str | None]:
    """What is wrong with each topic's file, after `error` kept them all from loading; None for a sound one.

    Raises `error` again when it is not about the file of a topic.
    """
    folder = conf.parent / model_of(Settings, conf, values_of(conf)).topics
    complaints = {file: _file_complaint(file) for file in sorted(folder.glob("*.yaml"))}
    if not any(complaints.values()):
        between_files = [file for file in complaints if error.subject.startswith(f"{file}:")]
        if not between_files:
            raise error
        complaints |= dict.fromkeys(between_files, str(error))
    return {file.stem: complaint for file, complaint in complaints.items()}


# --- reading -------------------------------------------------------------------------------------------------------


def _table(place: Place) -> DeltaTable | None:
    """None when there is no table; one that cannot be read is an error, not an absence."""
    try:
        return place.table()
    except LakeError as error:
        if isinstance(error.__cause__, TableNotFoundError):
            return None
        raise


def _last_batch(bronze: DeltaTable) -> Batch | None:
    recent = [found for found in metadata_of_commits(bronze, RECENT) if found[1].get("kind") == INGEST]
    newest = next(iter(recent), None) or next(ingest_commits(bronze), None)
    if newest is None:
        return None
    version, metadata = newest
    unacknowledged = sum(int(each.get("unacknowledged") or 0) for _, each in recent)
    *_, committed = bronze.history(int(bronze.version()) - version + 1)
    committed_at = datetime.fromtimestamp(committed["timestamp"] / 1000, UTC)
    return Batch(version, committed_at, IngestState.from_json(metadata["state"]), metadata, unacknowledged)


def _file_complaint(file: Path) -> str | None:
    try:
        topic_of(file)
    except ConfigError as error:
        return str(error)
    return None


def _status_or_error(
    topic: Topic, config: Config, signs: Sequence[Sign], now: datetime, looks_at_files: bool
) -> TopicStatus:
    life = topic_life(topic.name, signs, now)
    try:
        snapshot = read_topic(topic, config)
        tables = TopicTables(topic, config.settings)
        seen = damage(tables) if looks_at_files else recorded_damage(snapshot.history)
        return _status(snapshot, life, signs, seen, now)
    except Exception as error:  # whatever breaks one topic must not hide the others
        return TopicStatus(topic.name, "error", error=str(error) or type(error).__name__, life=life)


def _status(
    snapshot: TopicSnapshot, life: TopicLife | None, signs: Sequence[Sign], seen: records.Damaged, now: datetime
) -> TopicStatus:
    topic, history, batch = snapshot.topic, snapshot.history, snapshot.batch
    if not snapshot.is_started:
        return TopicStatus(topic.name, "failing" if life and life.is_failing else "not started", life=life)
    started = history.last(State.STARTED)
    if life is not None and _is_outdated(life, started, signs):
        life = None
    closed = history.hours()
    waits = {hour: what for hour in closed if (what := waits_for(snapshot, hour))}
    waiting = next(iter(waits), None)
    delivered = next((hour for hour in reversed(closed) if hour not in waits and history.current(hour)), None)
    frontier = batch.instant("frontier") if batch else None
    rejected, messages = _rejected(snapshot)
    last_sign = _last_sign(snapshot, life)
    status = TopicStatus(
        topic.name,
        "ok",
        failure=failure(snapshot, now),
        stage_failures=tuple(stage_failures(history, topic)),
        stuck=stuck(snapshot, now),
        life=life,
        not_running_since=_not_running_since(snapshot, life, signs, now),
        last_sign=last_sign,
        last_sign_age_seconds=_age(last_sign, now),
        open_hour=snapshot.open_hour,
        waiting_hour=waiting,
        waits_for=waits.get(waiting) if waiting else None,
        waits_since=history.of_hour(waiting)[-1].at if waiting else None,
        delivered_hour=delivered,
        behind_seconds=_seconds(hours.end_of(delivered), now) if delivered else None,
        rejected=rejected,
        rejected_share=rejected / messages if rejected is not None and messages else None,
        newest_sealed_hour=next((hour for hour in reversed(closed) if history.revision(hour)), None),
        held=tuple(held_hours(snapshot, now)),
        watermark=batch.instant("watermark") if batch else None,
        frontier=frontier,
        frontier_age_seconds=_age(frontier, now),
        last_commit=batch.committed_at if batch else None,
        last_commit_age_seconds=_age(batch.committed_at, now) if batch else None,
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


def _is_outdated(life: TopicLife, started: Entry | None, signs: Sequence[Sign]) -> bool:
    """Whether a run that writes no heartbeat, such as an older release's, has the topic since."""
    runs = {sign.heartbeat.run: sign.heartbeat.started_at for sign in signs}
    newest = started.of(records.Started).run if started else life.run
    return newest not in runs and started is not None and started.at > runs[life.run]


def _not_running_since(
    snapshot: TopicSnapshot, life: TopicLife | None, signs: Sequence[Sign], now: datetime
) -> datetime | None:
    """Since when nobody runs the topic, as far as that is known; None while somebody does, or may."""
    if life is not None:
        return life.not_running_since
    last_sign, stopped_at = _last_sign(snapshot, None), _stopped_at(snapshot)
    is_complete = bool(signs) and not any(sign.is_alive(now) and sign.heartbeat.other_run for sign in signs)
    if stopped_at is None and is_complete and last_sign is not None and now - last_sign > SILENT_AFTER:
        return last_sign
    return stopped_at


def _stopped_at(snapshot: TopicSnapshot) -> datetime | None:
    """When the topic's application ended as it was asked to; None when anything was recorded of one since."""
    newest = snapshot.history.newest(State.STARTED, State.RECOVERED, State.FAILED, State.STOPPED)
    if newest is None or newest.state != State.STOPPED:
        return None
    return None if snapshot.batch is not None and snapshot.batch.committed_at > newest.at else newest.at


def _last_sign(snapshot: TopicSnapshot, life: TopicLife | None) -> datetime | None:
    """When ingest last left anything in the ledger, in bronze's log or in a heartbeat."""
    left = snapshot.history.newest(*_INGESTS)
    signs = [left.at if left else None, snapshot.batch.committed_at if snapshot.batch else None]
    signs.append(life.written_at if life else None)
    return max((sign for sign in signs if sign), default=None)


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


def _open_hours(snapshot: TopicSnapshot) -> dict[Hour, OpenHour]:
    held: Mapping[Hour, OpenHour] = snapshot.batch.state.hours if snapshot.batch else {}
    return {hour: what for hour, what in held.items() if is_open(snapshot, hour)}


def _hour_status(snapshot: TopicSnapshot, hour: Hour, is_held: bool) -> HourStatus:
    history = snapshot.history
    current = history.current(hour)
    closed, seal = history.first(State.CLOSED, hour), next(iter(current), None)
    sealed = seal.of(records.Sealed) if seal else None
    verdicts = [entry.state for entry in current if entry.state in records.VERDICTS]
    is_everywhere = seal is not None and waits_for(snapshot, hour) is None
    mirrors = [entry for entry in current if entry.state == State.MIRRORED]
    return HourStatus(
        hour,
        "held" if is_held else history.state_of(hour),
        waits_for(snapshot, hour),
        rows=sealed.rows if sealed else None,
        deliveries=sealed.deliveries if sealed else _deliveries(snapshot, hour, closed),
        duplicates=sealed.duplicates if sealed else None,
        late_duplicates=sealed.late_duplicates if sealed else None,
        skewed=sealed.skewed if sealed else None,
        rejected=closed.of(records.Closed).rejected if closed else None,
        revision=history.revision(hour),
        verdict=verdicts[-1] if verdicts else None,
        mirrored=tuple(sorted(history.targets_done(hour))),
        closed_at=closed.at if closed else None,
        closed_after_seconds=_delay(hour, closed),
        sealed_after_seconds=_delay(hour, seal),
        mirrored_after_seconds=_delay(hour, mirrors[-1]) if mirrors and is_everywhere else None,
        through=history.ranges().get(hour),
    )


def _deliveries(snapshot: TopicSnapshot, hour: Hour, closed: Entry | None) -> int | None:
    if closed is not None:
        return closed.of(records.Closed).rows
    held = _open_hours(snapshot).get(hour)
    return held.rows if held else None


def _delay(hour: Hour, entry: Entry | None) -> float | None:
    return _seconds(hours.end_of(hour), entry.at) if entry else None


def _seconds(since: datetime | None, now: datetime) -> float | None:
    return round((now - since) / timedelta(seconds=1), 3) if since else None


def _age(since: datetime | None, now: datetime) -> float | None:
    """Never negative: the clock that wrote `since` may be ahead of ours."""
    return max(_seconds(since, now) or 0.0, 0.0) if since else None
