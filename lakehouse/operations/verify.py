"""Verify: whether every sealed hour is still what its seal said, from the log and the files alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse.checksum import id_checksum
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError
from lakehouse.hours import Hour
from lakehouse.store.delta import DataFile, files, open_table
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.holds import holds_for
from lakehouse.store.ledger import Entry, History, Ledger
from lakehouse.store.tables import folders_of
from lakehouse.topics import Topic

_READERS = 16
_LOG = "silver/_delta_log"
_PROMISED = ("revision", "rows", "files", "id_checksum", "skewed", "deliveries", "bronze_version", "release")
"""What a seal says twice, in the commit and in the ledger."""


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
    topic: str
    silver_version: int | None
    hours: tuple[Hour, ...]
    files: int
    rows: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Commit:
    """What one entry of silver's log did, as its file says."""

    version: int
    operation: str
    metadata: Mapping[str, Any] | None
    added: tuple[tuple[Hour | None, str], ...]
    removed: tuple[tuple[Hour | None, str], ...]
    takes_guard_away: bool = False

    @property
    def hours(self) -> set[Hour | None]:
        """Hours that it added files to or removed files from."""
        return {hour for hour, _ in (*self.added, *self.removed)}


def verify_hours(topic: Topic, config: Config, hours: Iterable[Hour], now: datetime) -> Verification:
    """Look at the given hours, or at all that were ever sealed. Reads the ids of every file, and no other column."""
    folders, options = folders_of(config.settings, topic.name), config.settings.storage_options
    history = Ledger(open_table(folders.ledger, options), by="").history()
    wanted = sorted(set(hours)) or [hour for hour in history.hours() if history.revision(hour)]
    for hour in wanted:
        if not history.revision(hour):
            raise LakehouseError(
                f"{topic.name} {hour}",
                found="no seal of it in the ledger",
                expected="a sealed hour",
                next_step="`lakehouse hours` lists the hours; what is not sealed has nothing to be held to.",
            )
    storage = storage_for(folders.sealed, options)
    try:
        silver = open_table(folders.silver, options)
        present = files(silver)
    except LakeError as unreadable:
        lost = Finding(None, "unreadable log", folders.silver, unreadable.found, unreadable.expected)
        return Verification(topic.name, None, tuple(wanted), 0, 0, (lost,))
    holds = holds_for(config.settings, folders.sealed)
    held = holds.held("silver") if holds is not None else None
    state = _State(topic, history, silver, storage, present, held, now)
    with ThreadPoolExecutor(_READERS) as readers:
        of_hours = list(readers.map(state.findings_of, wanted))
    findings = [*state.findings_of_table(), *(finding for found in of_hours for finding in found)]
    seen = [file for file in present if file.hour in set(wanted)]
    rows = sum(file.rows for file in seen)
    return Verification(topic.name, int(silver.version()), tuple(wanted), len(seen), rows, tuple(findings))


class _State:
    """The table as it is, and what is said of each hour."""

    def __init__(
        self,
        topic: Topic,
        history: History,
        silver: DeltaTable,
        storage: Storage,
        present: list[DataFile],
        held: set[str] | None,
        now: datetime,
    ) -> None:
        self._topic, self._history, self._silver, self._storage, self._now = topic, history, silver, storage, now
        self._held = held
        self._files: dict[Hour | None, list[DataFile]] = {}
        for file in present:
            self._files.setdefault(file.hour, []).append(file)
        self._sizes = {
            stored.path.removeprefix("silver/"): stored.size_bytes
            for stored in storage.listed("silver")
            if not stored.path.startswith(_LOG)
        }
        self._commits = {commit.version: commit for commit in commits(storage)}
        self._named = {path for commit in self._commits.values() for _, path in (*commit.added, *commit.removed)}
        self._named |= {file.path for file in present}
        self._touching: dict[Hour | None, list[Commit]] = {}
        for commit in self._commits.values():
            for hour in commit.hours:
                self._touching.setdefault(hour, []).append(commit)

    def findings_of_table(self) -> Iterator[Finding]:
        uri = self._silver.table_uri
        is_open = self._silver.metadata().configuration.get("delta.appendOnly") != "true"
        unguarded = [commit.version for commit in self._commits.values() if commit.takes_guard_away]
        if is_open and not unguarded:
            unguarded = [int(self._silver.version())]
        for version in unguarded:
            yield Finding(None, "not append-only", f"{uri} version {version}", "delta.appendOnly not set", "true")
        versions = sorted(self._commits)
        gone = sorted(set(range(versions[0], self._silver.version() + 1)) - set(versions)) if versions else []
        for version in gone:
            yield Finding(None, "edited log", f"{uri} version {version}", "no such entry", "every version in the log")
        newest = max((int(entry.details["silver_version"]) for entry in self._seals()), default=0)
        if self._silver.version() < newest:
            yield Finding(None, "edited log", uri, f"version {self._silver.version()}", f"at least version {newest}")

    def findings_of(self, hour: Hour) -> list[Finding]:
        found = [*self._in_log(hour), *self._in_files(hour)]
        return [Finding(hour, *rest) for rest in found]

    def _seals(self, hour: Hour | None = None) -> list[Entry]:
        entries = self._history.entries if hour is None else self._history.of_hour(hour)
        return [entry for entry in entries if entry.state == "sealed"]

    def _in_log(self, hour: Hour) -> Iterator[tuple[str, str, str, str]]:
        seals = {int(entry.details["silver_version"]): entry for entry in self._seals(hour)}
        for commit in self._touching.get(hour, []):
            if commit.version not in seals:
                added, removed = (
                    sum(each == hour for each, _ in touched) for touched in (commit.added, commit.removed)
                )
                did = f"{commit.operation} added {added} and removed {removed} files"
                yield "touched", f"version {commit.version}", did, "no commit but the hour's seals"
        for version, entry in seals.items():
            if version in self._commits:
                yield from _manifest_findings(self._commits[version], entry)
            elif entry.at + self._topic.audit_window > self._now:
                yield "edited log", f"version {version}", "no such entry", f"the seal of revision {_revision(entry)}"

    def _in_files(self, hour: Hour) -> Iterator[tuple[str, str, str, str]]:
        seal = self._seals(hour)[-1].details
        present = self._files.get(hour, [])
        rows = checksum = 0
        is_readable = True
        for file in present:
            size_bytes = self._sizes.get(file.path)
            if size_bytes is None:
                yield "missing file", file.path, "nothing", f"{file.size_bytes} bytes with {file.rows} rows"
                is_readable = False
                continue
            if self._held is not None and f"silver/{file.path}" not in self._held:
                yield "missing hold", file.path, "no temporary hold", "one on each sealed file (seal.protect)"
            if size_bytes != file.size_bytes:
                yield "changed file", file.path, f"{size_bytes} bytes", f"{file.size_bytes} bytes, as in the log"
            try:
                file_rows, file_checksum = self._counted(file.path)
            except (pa.ArrowException, OSError) as unreadable:
                yield "changed file", file.path, str(unreadable).splitlines()[0], "a Parquet file with event ids"
                is_readable = False
                continue
            if file_rows != file.rows:
                yield "changed file", file.path, f"{file_rows} rows", f"{file.rows} rows, as in the log"
            rows, checksum = rows + file_rows, checksum + file_checksum
        if len(present) != seal["files"]:
            yield "files", "the log", f"{len(present)} files", f"{seal['files']} files, as sealed"
        if is_readable and rows != seal["rows"]:
            yield "rows", "all files together", f"{rows} rows", f"{seal['rows']} rows, as sealed"
        if is_readable and str(checksum) != str(seal["id_checksum"]):
            yield "id checksum", "all files together", str(checksum), f"{seal['id_checksum']}, as sealed"
        for path in sorted(self._sizes):
            if path.startswith(f"hour={hour}/") and path not in self._named:
                yield "extra file", path, "a file that no commit names", "only the seal's files; see `maintain`"

    def _counted(self, path: str) -> tuple[int, int]:
        with self._storage.open(f"silver/{path}") as source, pq.ParquetFile(source) as file:
            checksum = sum(id_checksum(batch.column(0)) for batch in file.iter_batches(columns=["event_id"]))
            return file.metadata.num_rows, checksum


def _manifest_findings(commit: Commit, entry: Entry) -> Iterator[tuple[str, str, str, str]]:
    subject = f"manifest of version {commit.version}"
    if commit.metadata is None:
        yield "edited log", subject, "none", f"that of revision {_revision(entry)}"
        return
    for key in _PROMISED:
        found, expected = commit.metadata.get(key), entry.details.get(key)
        if found != expected:
            yield "edited log", subject, f"{key} {found}", f"{key} {expected}, as in the ledger"
    if len(commit.added) != entry.details["files"] and _revision(entry) == 1:
        expected_files = f"{entry.details['files']} files, as in the ledger"
        yield "edited log", f"version {commit.version}", f"{len(commit.added)} files added", expected_files


def _revision(entry: Entry) -> int:
    return int(entry.details["revision"])


def commits(storage: Storage) -> list[Commit]:
    """Every commit that silver's log still has a file of, oldest first."""
    names = [stored.path for stored in storage.listed(_LOG)]
    entries = [name for name in names if name.endswith(".json") and name.rpartition("/")[2][:-5].isdigit()]
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(partial(_commit, storage), entries))


def _commit(storage: Storage, path: str) -> Commit:
    lines = (storage.read(path) or b"").decode(errors="replace").splitlines()
    actions = [action for line in lines if (action := _action(line))]
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    files = {
        kind: tuple(
            ((action[kind].get("partitionValues") or {}).get("hour"), str(action[kind].get("path")))
            for action in actions
            if kind in action
        )
        for kind in ("add", "remove")
    }
    return Commit(
        int(path.rpartition("/")[2][:-5]),
        str(info.get("operation", "a commit without a name")),
        _action(str(info.get("userMetadata", ""))) or None,
        files["add"],
        files["remove"],
        any(
            (action["metaData"].get("configuration") or {}).get("delta.appendOnly") != "true"
            for action in actions
            if "metaData" in action
        ),
    )


def _action(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
