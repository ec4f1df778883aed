"""Verify: whether every sealed hour is still what its seal said, from the log and the files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse.checksum import id_checksum
from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.hours import Hour, hours_among, instant_after
from lakehouse.operations.tracking import Track, no_tracking
from lakehouse.store.contents import Contents, sha256_of
from lakehouse.store.delta import DataFile, files, first_line, table_errors
from lakehouse.store.delta_log import LOG, Commit, Hidden, commits, hidden_in_checkpoint
from lakehouse.store.files import Storage, Stored
from lakehouse.store.history import Entry, History
from lakehouse.store.holds import holds_for
from lakehouse.store.records import Judged, Sealed, State
from lakehouse.store.silver_log import SEAL
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate.results import result_name

_READERS = 16
_ROWS_AT_A_TIME = 1_000_000
_RECORDED_WITHIN = timedelta(hours=1)
_EXPIRY_MARGIN = timedelta(days=1)
"""Results expire by the time of the file, which is before that of the row."""
_MAPPING = "delta.columnMapping.mode"
_ONLY_IN_COMMIT = {"kind", "hour"}
_ONLY_IN_LEDGER = {"silver_version", "seconds"}
"""All other keys of a seal are said twice, in the commit and in the ledger."""


@dataclass(frozen=True)
class Finding:
    """One way in which an hour is not what it was. `hour` is None for what concerns the whole table."""

    hour: Hour | None
    kind: str
    subject: str
    found: str
    expected: str


@dataclass(frozen=True)
class Verification:
    """`files` and `rows` are those of the verified hours, as the log has them.

    `without_digests` are the hours of which not every file's digest is known, as an older release sealed them: of the
    others' values nothing can have changed unseen, of theirs what `audit` compares. With `is_quick` no file was opened.
    """

    topic: str
    silver_version: int | None
    hours: tuple[Hour, ...]
    files: int
    rows: int
    findings: tuple[Finding, ...]
    without_digests: tuple[Hour, ...] = ()
    is_quick: bool = False


def verify_hours(
    topic: Topic,
    config: Config,
    hours: Iterable[Hour],
    now: datetime,
    track: Track = no_tracking,
    *,
    is_quick: bool = False,
) -> Verification:
    """Check the given hours, or all that were ever sealed, and the table as a whole.

    Reads every file whole, and its ids; `track` counts hours. With `is_quick` no file is opened: only sizes are
    compared, and the store's own checksums where it keeps some. LakehouseError when a given hour was never sealed.
    """
    tables = TopicTables(topic, config.settings)
    history = tables.history()
    sealed = history.sealed_hours()
    wanted = sorted(set(hours)) or sealed
    for hour in set(wanted) - set(sealed):
        raise LakeError(
            f"{topic.name} {hour}",
            found="no seal of it in the ledger",
            expected="a sealed hour",
            next_step="`lakehouse hours` lists them; an hour without a seal cannot be verified.",
        )
    try:
        state = read_state(tables, history, now)
    except LakeError as unreadable:
        lost = Finding(None, "unreadable log", tables.sealed.below("silver").uri, unreadable.found, unreadable.expected)
        return Verification(topic.name, None, tuple(wanted), 0, 0, (*ledger_findings(history), lost), (), is_quick)
    with ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(_READERS) as hours_at_once:
        read = None if is_quick else partial(_contents, readers, state)
        found = hours_at_once.map(lambda hour: list(file_findings(state, hour, read)), wanted)
        of_files = list(track(found, len(wanted)))
    of_hours = [[*log_findings(state, hour), *found] for hour, found in zip(wanted, of_files, strict=True)]
    findings = (
        *ledger_findings(history),
        *verdict_findings(state, wanted),
        *table_findings(state),
        *(finding for found in of_hours for finding in found),
    )
    seen = [file for hour in wanted for file in state.files.get(hour, [])]
    version, rows = int(state.silver.version()), sum(file.rows for file in seen)
    undigested = tuple(hour for hour in wanted if (seal := _newest_seal(history, hour)) and not seal.has_all_digests)
    return Verification(topic.name, version, tuple(wanted), len(seen), rows, findings, undigested, is_quick)


@dataclass(frozen=True)
class SilverState:
    """Silver as it is, and what the ledger says of it.

    `files` are by hour; `present` are the files that are there, by path; `hidden` is what the newest checkpoint
    says of deletion vectors; `held` are the paths with a temporary hold, None where files are not held.
    """

    topic: Topic
    history: History
    now: datetime
    silver: DeltaTable
    storage: Storage
    files: Mapping[Hour | None, list[DataFile]]
    present: Mapping[str, Stored]
    commits: Mapping[int, Commit]
    hidden: tuple[Hidden, ...]
    held: set[str] | None

    @property
    def named(self) -> set[str]:
        """The paths that the log names, now or before."""
        present = {file.path for files_of_hour in self.files.values() for file in files_of_hour}
        return present | {path for commit in self.commits.values() for _, path in (*commit.added, *commit.removed)}


def read_state(tables: TopicTables, history: History, now: datetime) -> SilverState:
    """LakeError when silver cannot be read."""
    storage, silver = tables.sealed.files(), tables.silver()
    by_hour: dict[Hour | None, list[DataFile]] = {}
    for file in files(silver):
        by_hour.setdefault(file.hour, []).append(file)
    listed = {stored.path.removeprefix("silver/"): stored for stored in storage.listing("silver")}
    holds = holds_for(tables.settings, tables.sealed.uri)
    with table_errors(f"{silver.table_uri}: the newest checkpoint"):
        hidden = tuple(hidden_in_checkpoint(storage, "silver"))
    return SilverState(
        topic=tables.topic,
        history=history,
        now=now,
        silver=silver,
        storage=storage,
        files=by_hour,
        present={path: stored for path, stored in listed.items() if not path.startswith(f"{LOG}/")},
        commits={commit.version: commit for commit in commits(storage, "silver")},
        hidden=hidden,
        held=holds.held("silver") if holds is not None else None,
    )


# --- the ledger ----------------------------------------------------------------------------------------------------


def ledger_findings(history: History) -> Iterator[Finding]:
    """Rows that no stage has written."""
    for entry in history.entries:
        try:
            _ = entry.record
        except LakeError as broken:
            yield Finding(_hour_or_none(entry.hour), "broken row", broken.subject, broken.found, broken.expected)


def _hour_or_none(hour: str | None) -> Hour | None:
    return next(iter(hours_among([hour] if hour else [])), None)


@dataclass(frozen=True)
class _Seal:
    entry: Entry
    sealed: Sealed


def _seals(history: History, hour: Hour | None = None) -> list[_Seal]:
    """The sound seals; a broken one is a finding already."""
    found = []
    for entry in history.sound_entries if hour is None else history.of_hour(hour):
        if entry.state == State.SEALED:
            try:
                found.append(_Seal(entry, entry.of(Sealed)))
            except LakeError:
                continue
    return found


def verdict_findings(state: SilverState, hours: Iterable[Hour]) -> Iterator[Finding]:
    """Verdicts of which there is no result that says the same: a stage writes the result first."""
    with ThreadPoolExecutor(_READERS) as readers:
        for found in readers.map(partial(_verdict_finding, state), hours):
            if found is not None:
                yield found


def _verdict_finding(state: SilverState, hour: Hour) -> Finding | None:
    try:
        entry = next(row for row in reversed(state.history.current(hour)) if row.state in (State.VALID, State.INVALID))
        judged = entry.of(Judged)
    except (StopIteration, LakeError):
        return None
    if instant_after(entry.at, state.topic.audit_window) - _EXPIRY_MARGIN < state.now:
        return None
    path = f"reports/{result_name(hour, judged.revision)}.json"
    said = (str(entry.state), judged.revision, judged.silver_version, judged.rows)
    found = _what_result_says(state.storage.read(path))
    if found == said:
        return None
    expected = "a result that says {}, revision {}, version {} of silver and {} rows, as the ledger".format(*said)
    return Finding(hour, "unfounded verdict", path, _as_text(found), expected)


def _what_result_says(content: bytes | None) -> tuple[Any, ...] | None:
    """(state, revision, version of silver, rows); empty of one that cannot be read, None where there is none."""
    if content is None:
        return None
    try:
        result = json.loads(content)
        return tuple(result[key] for key in ("state", "revision", "silver_version", "rows"))
    except (ValueError, KeyError, TypeError):
        return ()


def _as_text(said: tuple[Any, ...] | None) -> str:
    if not said:
        return "no such file" if said is None else "no result that can be read"
    return "{}, revision {}, version {} and {} rows".format(*said)


# --- the table -----------------------------------------------------------------------------------------------------


def table_findings(state: SilverState) -> Iterator[Finding]:
    """What concerns every hour: the guard, the schema, holes in the log, and files of no sealed hour."""
    yield from _guard_findings(state)
    yield from _schema_findings(state)
    uri, version = state.silver.table_uri, int(state.silver.version())
    versions = sorted(state.commits)
    gone = sorted(set(range(versions[0], version + 1)) - set(versions)) if versions else []
    for each in gone:
        yield Finding(None, "edited log", f"{uri} version {each}", "no such entry", "every version in the log")
    newest = max((seal.sealed.silver_version for seal in _seals(state.history)), default=0)
    if version < newest:
        yield Finding(None, "edited log", uri, f"version {version}", f"at least version {newest}")
    yield from _unrecorded_findings(state)
    yield from _misplaced_findings(state)


def _unrecorded_findings(state: SilverState) -> Iterator[Finding]:
    """Seals of silver's log that the ledger has no row of: it was put back, or a row was taken out.

    A seal is recorded right after its commit; one that died in between is recorded by the next run.
    """
    for version, commit in sorted(state.commits.items()):
        manifest = commit.metadata or {}
        hour, revision = manifest.get("hour"), manifest.get("revision")
        is_fresh = commit.committed_at is None or commit.committed_at + _RECORDED_WITHIN > state.now
        if manifest.get("kind") != SEAL or not isinstance(revision, int) or not hours_among([str(hour)]) or is_fresh:
            continue
        recorded = {seal.sealed.revision for seal in _seals(state.history, str(hour))}
        if revision not in recorded:
            subject, expected = f"the seal of revision {revision}", f"its row, as version {version} of silver says"
            yield Finding(str(hour), "edited ledger", subject, "no row in the ledger", expected)


def _guard_findings(state: SilverState) -> Iterator[Finding]:
    is_open = state.silver.metadata().configuration.get("delta.appendOnly") != "true"
    unguarded = [commit.version for commit in state.commits.values() if commit.drops_append_only]
    if is_open and not unguarded:
        unguarded = [int(state.silver.version())]
    for version in unguarded:
        subject = f"{state.silver.table_uri} version {version}"
        yield Finding(None, "not append-only", subject, "delta.appendOnly not set", "true")


def _schema_findings(state: SilverState) -> Iterator[Finding]:
    """A column that is renamed or taken away hides the values of every sealed hour from readers."""
    known: set[str] = set()
    mappings = {version: commit.properties.get(_MAPPING, "none") for version, commit in state.commits.items()}
    if not any(mapping != "none" for mapping in mappings.values()):  # the commit that set it may be cleaned away
        mappings[int(state.silver.version())] = state.silver.metadata().configuration.get(_MAPPING) or "none"
    for version, mapping in sorted(mappings.items()):
        if mapping != "none":
            subject = f"{state.silver.table_uri} version {version}"
            yield Finding(
                None, "edited schema", subject, f"columns mapped by {mapping}", "columns under their own names"
            )
    for version, commit in sorted(state.commits.items()):
        subject = f"{state.silver.table_uri} version {version}"
        if not commit.columns:
            continue
        lost = sorted(known - set(commit.columns))
        if lost:
            yield Finding(None, "edited schema", subject, f"no column {', '.join(lost)}", "columns that are only added")
        known = set(commit.columns)


def _misplaced_findings(state: SilverState) -> Iterator[Finding]:
    closed = set(state.history.hours())
    for hour, present in state.files.items():
        if hour in closed:
            continue
        for file in present:
            yield Finding(hour, "misplaced file", file.path, f"{file.rows} rows of no closed hour", "closed hours only")
    named = state.named
    for path in sorted(state.present):
        hour = _hour_or_none(path.partition("/")[0].removeprefix("hour="))
        if hour not in closed and path not in named:
            yield Finding(hour, "extra file", path, "a file that no commit names", "closed hours only")


# --- one hour ------------------------------------------------------------------------------------------------------


def log_findings(state: SilverState, hour: Hour) -> Iterator[Finding]:
    """What the log says was done to the hour, against its seals in the ledger."""
    seals = {seal.sealed.silver_version: seal for seal in _seals(state.history, hour)}
    for commit in state.commits.values():
        if hour not in commit.hours:
            continue
        hidden = [path for each, path in commit.hidden if each == hour]
        for path in hidden:
            yield Finding(hour, "deletion vector", path, f"rows hidden by version {commit.version}", "every row")
        if commit.version not in seals:
            added, removed = (sum(each == hour for each, _ in touched) for touched in (commit.added, commit.removed))
            did = f"{commit.operation} added {added} and removed {removed} files"
            yield Finding(hour, "touched", f"version {commit.version}", did, "no commit but the hour's seals")
    for version, seal in seals.items():
        if version in state.commits:
            yield from _manifest_findings(hour, state.commits[version], seal)
        elif seal.entry.at + state.topic.audit_window > state.now:
            expected = f"the seal of revision {seal.sealed.revision}"
            yield Finding(hour, "edited log", f"version {version}", "no such entry", expected)


def _manifest_findings(hour: Hour, commit: Commit, seal: _Seal) -> Iterator[Finding]:
    subject = f"manifest of version {commit.version}"
    details, manifest = seal.entry.details, commit.metadata
    if manifest is None:
        yield Finding(hour, "edited log", subject, "none", f"that of revision {seal.sealed.revision}")
        return
    if manifest.get("hour") != hour:
        yield Finding(hour, "edited log", subject, f"hour {manifest.get('hour')}", f"hour {hour}, as in the ledger")
    for key in sorted((set(manifest) | set(details)) - _ONLY_IN_COMMIT - _ONLY_IN_LEDGER):
        found, expected = manifest.get(key), details.get(key)
        if found != expected and key == "digests":
            differing = ", ".join(_differing_names(found, expected))
            yield Finding(hour, "edited log", subject, f"other digests of {differing}", "digests as in the ledger")
        elif found != expected:
            yield Finding(hour, "edited log", subject, f"{key} {found}", f"{key} {expected}, as in the ledger")
    if len(commit.added) != seal.sealed.files and seal.sealed.revision == 1:
        expected_files = f"{seal.sealed.files} files, as in the ledger"
        found_files = f"{len(commit.added)} files added"
        yield Finding(hour, "edited log", f"version {commit.version}", found_files, expected_files)


def _newest_seal(history: History, hour: Hour) -> Sealed | None:
    return next((seal.sealed for seal in reversed(_seals(history, hour))), None)


Reader = Callable[[Sequence[DataFile]], Iterable["_Content | _Unreadable"]]
"""Gives what each of the files holds, in their order."""


def file_findings(state: SilverState, hour: Hour, read: Reader | None) -> Iterator[Finding]:
    """What the hour's files hold, against its newest seal; without `read` no file is opened."""
    sealed, files_in_log = _newest_seal(state.history, hour), state.files.get(hour, [])
    if sealed is None:
        return
    for file in files_in_log:
        yield from _entry_findings(state, hour, file, sealed)
    if len(files_in_log) != sealed.files:
        yield Finding(hour, "files", "the log", f"{len(files_in_log)} files", f"{sealed.files} files, as sealed")
    if read is None:
        yield from _total_findings(hour, sealed, sum(file.rows for file in files_in_log))
    else:
        yield from _all_content_findings(state, hour, sealed, files_in_log, read)
    named = state.named
    for path in sorted(state.present):
        if path.startswith(f"hour={hour}/") and path not in named:
            expected = "only the seal's files; see `maintain`"
            yield Finding(hour, "extra file", path, "a file that no commit names", expected)


def _all_content_findings(
    state: SilverState, hour: Hour, sealed: Sealed, files_in_log: Sequence[DataFile], read: Reader
) -> Iterator[Finding]:
    present = [file for file in files_in_log if file.path in state.present]
    rows = checksum = 0
    is_readable = len(present) == len(files_in_log)
    for file, content in zip(present, read(present), strict=True):
        if isinstance(content, _Unreadable):
            yield Finding(hour, "changed file", file.path, content.why, "a Parquet file with event ids")
            is_readable = False
            continue
        yield from _digest_findings(state, hour, file, sealed, content)
        yield from _content_findings(state, hour, file, content)
        rows, checksum = rows + content.rows, checksum + content.id_checksum
    if is_readable:
        yield from _total_findings(hour, sealed, rows, checksum)


def _total_findings(hour: Hour, sealed: Sealed, rows: int, checksum: int | None = None) -> Iterator[Finding]:
    if rows != sealed.rows:
        yield Finding(hour, "rows", "all files together", f"{rows} rows", f"{sealed.rows} rows, as sealed")
    if checksum is not None and checksum != sealed.id_checksum:
        expected = f"{sealed.id_checksum}, as sealed"
        yield Finding(hour, "id checksum", "all files together", str(checksum), expected)


def _digest_of(sealed: Sealed, file: DataFile) -> Contents | None:
    digest = sealed.digest_by_name.get(file.path.rpartition("/")[2])
    return Contents(digest.sha256, digest.crc32c) if digest else None


def _digest_findings(
    state: SilverState, hour: Hour, file: DataFile, sealed: Sealed, content: _Content
) -> Iterator[Finding]:
    """Any other byte than the seal's; a file that is of another size, or another by the store, is named already."""
    expected, stored = _digest_of(sealed, file), state.present[file.path]
    if expected is None or stored.size_bytes != file.size_bytes or _by_store(stored).differs_from(expected):
        return
    if content.contents.differs_from(expected):
        yield Finding(hour, "changed file", file.path, str(content.contents), f"{expected}, as sealed")


def _by_store(stored: Stored) -> Contents:
    return Contents(crc32c=stored.crc32c or None)


def _differing_names(one: object, other: object) -> list[str]:
    """Of files whose digests are not the same in both; of the whole where these are no lists of digests."""
    if not isinstance(one, list) or not isinstance(other, list):
        return ["all files"]
    return sorted({str(each).partition(" ")[0] for each in {*map(str, one)} ^ {*map(str, other)}})


def _entry_findings(state: SilverState, hour: Hour, file: DataFile, sealed: Sealed) -> Iterator[Finding]:
    """The file as the log has it, against the file that is there and, of that, what the store says by itself."""
    stored, digest = state.present.get(file.path), _digest_of(sealed, file)
    for hidden in state.hidden:
        if hidden.path == file.path:
            yield Finding(
                hour, "deletion vector", file.path, f"rows hidden by version {hidden.version} or before", "every row"
            )
    if digest is None and sealed.has_all_digests:
        yield Finding(hour, "unknown file", file.path, "a file that is not among the seal's", "only these")
    if stored is None:
        expected = f"{file.size_bytes} bytes with {file.rows} rows"
        yield Finding(hour, "missing file", file.path, "nothing", expected)
        return
    if state.held is not None and f"silver/{file.path}" not in state.held:
        yield Finding(hour, "missing hold", file.path, "no temporary hold", "one on each sealed file (seal.protect)")
    if stored.size_bytes != file.size_bytes:
        expected = f"{file.size_bytes} bytes, as in the log"
        yield Finding(hour, "changed file", file.path, f"{stored.size_bytes} bytes", expected)
    elif digest is not None and _by_store(stored).differs_from(digest):
        expected = f"crc32c {digest.crc32c}, as sealed"
        yield Finding(hour, "changed file", file.path, f"{_by_store(stored)}, as the store says", expected)


@dataclass(frozen=True)
class _Content:
    """What a file holds; the times are those of its footer, None where that has none."""

    contents: Contents

    rows: int
    id_checksum: int
    columns: tuple[str, ...]
    first_event: datetime | None
    last_event: datetime | None


@dataclass(frozen=True)
class _Unreadable:
    why: str


def _contents(
    readers: ThreadPoolExecutor, state: SilverState, files_in_log: Sequence[DataFile]
) -> Iterable[_Content | _Unreadable]:
    def read(file: DataFile) -> _Content | _Unreadable:
        try:
            return _read(state.storage, file)
        except (pa.ArrowException, OSError) as unreadable:
            return _Unreadable(first_line(unreadable))

    return readers.map(read, files_in_log)


def _read(storage: Storage, file: DataFile) -> _Content:
    contents = sha256_of(storage, f"silver/{file.path}")
    with storage.open(f"silver/{file.path}") as source, pq.ParquetFile(source) as opened:
        batches = opened.iter_batches(_ROWS_AT_A_TIME, columns=["event_id"])
        checksum = sum(id_checksum(batch.column(0)) for batch in batches)
        footer = opened.metadata
        bounds = [bound for group in range(footer.num_row_groups) for bound in _event_times(footer.row_group(group))]
        first, last = min(bounds, default=None), max(bounds, default=None)
        return _Content(contents, footer.num_rows, checksum, tuple(opened.schema_arrow.names), first, last)


def _event_times(group: pq.RowGroupMetaData) -> list[datetime]:
    for position in range(group.num_columns):
        column = group.column(position)
        if column.path_in_schema == "event_time" and column.is_stats_set and column.statistics.has_min_max:
            return [column.statistics.min, column.statistics.max]
    return []


def _content_findings(state: SilverState, hour: Hour, file: DataFile, content: _Content) -> Iterator[Finding]:
    if content.rows != file.rows:
        found, expected = f"{content.rows} rows", f"{file.rows} rows, as in the log"
        yield Finding(hour, "changed file", file.path, found, expected)
    unseen = sorted(set(content.columns) - {field.name for field in state.silver.schema().fields})
    if unseen:
        yield Finding(
            hour, "edited schema", file.path, f"no column {', '.join(unseen)}", "every column that the file has"
        )
    yield from _statistics_findings(hour, file, content)


def _statistics_findings(hour: Hour, file: DataFile, content: _Content) -> Iterator[Finding]:
    """Readers skip a file whose bounds in the log say that it cannot have what they look for."""
    finding = partial(Finding, hour, "edited statistics", file.path)
    low, high = (file.stats.get(kind, {}).get("event_time") for kind in ("minValues", "maxValues"))
    if content.first_event is not None and low is not None and low > content.first_event:
        yield finding(f"event_time from {low.isoformat()}", f"from {content.first_event.isoformat()} at the latest")
    if content.last_event is not None and high is not None and high < content.last_event:
        yield finding(f"event_time up to {high.isoformat()}", f"up to {content.last_event.isoformat()} at least")
    others = sorted(
        {f"{kind} of {name}" for kind, values in file.stats.items() for name in values}
        - {"minValues of event_time", "maxValues of event_time"}
    )
    if others:
        yield finding(", ".join(others), "bounds of event_time only, as a seal writes them")
