"""A Delta table's log, read and written by the names of its entries: no commit lists it, or opens the table.

An entry `_delta_log/<version>.json` is never changed. Who creates it first has made the version; who comes second reads
what the other did, and goes on behind it or decides again. That is all that the protocol asks of a writer which adds
and removes whole files by name: `refuse_unknown_features` says of which tables it may be one.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from deltalake import DeltaTable

from lakehouse.errors import LakeError, UnknownOutcomeError, unavailable
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.history import parsed_json

CHECKPOINT_EVERY = 50
"""Versions from one checkpoint to the next."""
RECENT_CHECKPOINTS, KEPT_CHECKPOINTS = 32, 64
"""How many stay at first, for who has begun to read one; of those before them, one in so many stays for good."""
RESTORE_ENTRY = "Restore it from a backup; where it is the newest and nothing followed it, remove it."
"""What to do about a damaged entry."""

_READERS = 16
_ENGINE = "lakehouse"
_DEFINED_AT = "definedAt"
_FEATURES = {"appendOnly", "invariants", "timestampNtz", "changeDataFeed"}
"""That ask nothing of a commit which adds and removes whole files, where no column has an invariant."""


class ConflictError(Exception):
    """Somebody else committed first; look again and decide again."""


class LostLogError(Exception):
    """The log does not go on from the entry that was known: it was set back, or cleaned beyond it."""


@dataclass(frozen=True)
class LogEntry:
    """What one commit did, as its file says. `info` is its commitInfo; `checksum` is that of the file's bytes."""

    version: int
    actions: tuple[Mapping[str, Any], ...]
    checksum: str

    @classmethod
    def of_content(cls, version: int, content: bytes, actions: Iterable[Mapping[str, Any]]) -> LogEntry:
        return cls(version, tuple(actions), hashlib.sha256(content).hexdigest())

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [action[kind] for action in self.actions if isinstance(action.get(kind), dict)]

    @property
    def info(self) -> Mapping[str, Any]:
        return next(iter(self.of("commitInfo")), {})

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Our `userMetadata`; empty where it has none. ValueError when it is no JSON."""
        return cast(dict[str, Any], json.loads(self.info.get("userMetadata") or "{}"))

    @property
    def changes_table(self) -> bool:
        """Whether it says anew what the table is: its schema, its properties, what its writers must do."""
        return bool(self.of("metaData") or self.of("protocol"))

    @property
    def defined_at(self) -> int | None:
        """An older version since which, as its writer knew, no entry changes the table; None where it does not say."""
        said = self.info.get(_DEFINED_AT)
        return said if isinstance(said, int) and said < self.version else None


@dataclass(frozen=True)
class TableLog:
    """The log of the table at `uri`, up to `version`.

    `defined_at` is a version since which no entry changes what the table is; None where none is known. `checksum` is
    that of the version's entry, where that was read or written: a log that is set back and grows again has another.
    """

    uri: str
    version: int
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    defined_at: int | None = field(default=None, compare=False)
    checksum: str | None = field(default=None, compare=False)

    @property
    def files(self) -> Storage:
        """Its paths are relative to the table."""
        return storage_for(self.uri, self.options)

    def entry(self, version: int) -> LogEntry | None:
        """None when the version is not there, or not any more. LakeError when it is empty or garbled."""
        content = self.files.read(entry_path(version))
        return None if content is None else _parsed(self.files.address(entry_path(version)), version, content)

    def entries_back(self, most: int | None = None) -> Iterator[LogEntry]:
        """From its version on, newest first, as far back as there are entries; read as they are asked for."""
        last = -1 if most is None else self.version - most
        version, ahead = self.version, 1
        with ThreadPoolExecutor(_READERS) as readers:
            while version > last:
                versions = range(version, max(version - ahead, last), -1)
                for entry in readers.map(self.entry, versions):
                    if entry is None:
                        return
                    yield entry
                version, ahead = versions[-1] - 1, min(2 * ahead, _READERS)

    def known_entry(self) -> LogEntry:
        """That of its version; LostLogError when it is gone or is another one: the log was set back."""
        entry = self.entry(self.version)
        if entry is None or self.checksum not in (None, entry.checksum):
            raise LostLogError(self.uri)
        return entry

    def next_entries(self) -> list[LogEntry]:
        """What came after its version, oldest first: a request for each, and one that finds nothing."""
        found: list[LogEntry] = []
        while (entry := self.entry(self.version + len(found) + 1)) is not None:
            found.append(entry)
        return found

    def paths_since(self, kind: str) -> set[str]:
        """Of the files that the `next_entries` `add` or `remove`: a table that is opened by a list may be behind."""
        return {str(action["path"]) for entry in self.next_entries() for action in entry.of(kind)}

    def entries_on(self) -> list[LogEntry]:
        """The `known_entry`, then the `next_entries`, both asked for at the same time; LostLogError as of the first."""
        with ThreadPoolExecutor(1) as beside:
            asked = beside.submit(self.known_entry)
            entries = self.next_entries()
            return [asked.result(), *entries]

    def at(self, version: int, checksum: str | None = None) -> TableLog:
        """Up to any version, of which nothing else is known."""
        return TableLog(self.uri, version, self.options, checksum=checksum)

    def followed_by(self, entries: Sequence[LogEntry]) -> TableLog:
        """With the entries that come next, oldest first, also where its own is the first; itself without any."""
        if not entries:
            return self
        changed_at = next((entry.version for entry in reversed(entries) if entry.changes_table), self.defined_at)
        newest = entries[-1]
        return replace(self, version=newest.version, defined_at=changed_at, checksum=newest.checksum)

    def table(self) -> DeltaTable:
        """The table at its version."""
        return DeltaTable(self.uri, version=self.version, storage_options=dict(self.options) or None)


def log_of(table: DeltaTable | TableLog) -> TableLog:
    """The log of the table up to the version that it is open at."""
    if isinstance(table, TableLog):
        return table
    version, options = int(table.version()), dict(table._storage_options or {})
    return TableLog(table.table_uri.rstrip("/"), version, options, defined_at=version)


def newest_log(uri: str, options: Mapping[str, str]) -> TableLog | None:
    """The log as it is now, by a list from its newest checkpoint on; None when there is no table."""
    found = newest_versions(storage_for(uri, options))
    return TableLog(uri, found[0], dict(options)) if found else None


def newest_versions(files: Storage) -> tuple[int, int | None] | None:
    """(newest version, that of the newest checkpoint in one file) of the table; None when there is none.

    `_last_checkpoint` may name one that is not there: then all is listed.
    """
    found = _versions_since(files, _last_checkpoint(files)) or _versions_since(files, 0)
    newest = max((version for version, _ in found), default=None)
    if newest is None:
        return None
    while files.read(entry_path(newest + 1)) is not None:  # a list may be behind
        newest += 1
    return newest, max((version for version, end in found if end == ".checkpoint.parquet"), default=None)


def _versions_since(files: Storage, version: int) -> list[tuple[int, str]]:
    """(version, end of its name) of the log's entries and checkpoints from a version on."""
    names = [stored.path.rpartition("/")[2] for stored in files.listing("_delta_log", since=f"{version:020d}")]
    return [(int(name[:20]), name[20:]) for name in names if name[:20].isdigit()]


def entry_path(version: int) -> str:
    """Below the table, the commit that made the version."""
    return f"_delta_log/{version:020d}.json"


def checkpoint_path(version: int) -> str:
    """Below the table, the checkpoint of the version, if it has one."""
    return f"_delta_log/{version:020d}.checkpoint.parquet"


@dataclass(frozen=True)
class Change:
    """What a commit is to do: actions of Delta's protocol, by their kinds, without commitInfo.

    Paths are as the log has them, encoded as those of a URI: names of ours need no encoding.
    """

    added: tuple[Mapping[str, Any], ...] = ()
    removed: tuple[Mapping[str, Any], ...] = ()
    transactions: Mapping[str, int] = field(default_factory=dict)

    def as_lines(self) -> Iterator[Mapping[str, Any]]:
        for kind, actions in (("add", self.added), ("remove", self.removed)):
            for action in actions:
                yield {kind: action}
        for app, number in self.transactions.items():
            yield {"txn": {"appId": app, "version": number}}

    def conflict_with(self, entry: LogEntry) -> str | None:
        """Why this cannot follow on what the entry did, where it was decided without that; None if it can."""
        apps = {txn.get("appId") for txn in entry.of("txn")} & set(self.transactions)
        if apps:
            return f"version {entry.version} has the transaction {min(map(str, apps))}, too"
        if entry.changes_table:
            return f"version {entry.version} changed what the table is"
        gone = {remove.get("path") for remove in entry.of("remove")}
        if gone & {removed["path"] for removed in self.removed}:
            return f"version {entry.version} removed a file, too"
        return None


def append_entry(
    log: TableLog,
    change: Change,
    metadata_at: Callable[[int], str | None],
    *,
    at_millis: int,
    partition_by: Iterable[str] = (),
    operation: str = "WRITE",
) -> LogEntry:
    """Commit the change behind the log's version, or behind what others have committed since; gives its entry.

    `metadata_at` gives the `userMetadata` for a version. ConflictError when what came since does not go with it;
    LakeError when the store does not say whether it was written, or cannot be written to.
    """
    files, token = log.files, uuid.uuid4().hex
    version = log.version + 1
    known = {} if log.defined_at is None else {_DEFINED_AT: log.defined_at}
    while True:
        info = {**_commit_info(operation, partition_by, metadata_at(version), at_millis, token), **known}
        actions = [{"commitInfo": info}, *change.as_lines()]
        content = "\n".join(json.dumps(action, separators=(",", ":")) for action in actions).encode()
        if _is_written(files, entry_path(version), content):
            return LogEntry.of_content(version, content, actions)
        theirs = log.entry(version)
        if theirs is None:
            raise ConflictError(f"version {version} of {log.uri} was there, and is not any more")
        if conflict := change.conflict_with(theirs):
            raise ConflictError(conflict)
        version += 1


def _is_written(files: Storage, path: str, content: bytes) -> bool:
    """Whether the entry is ours: also when a first try of ours got no answer, and the second one was refused."""
    try:
        if files.put_if_absent(path, content):
            return True
        unanswered = None
    except UnknownOutcomeError as silence:
        unanswered = silence
    there = files.read(path)
    if there is None and unanswered is not None:
        raise unavailable(files.address(path), unanswered) from unanswered
    return there == content


def _commit_info(
    operation: str, partition_by: Iterable[str], metadata: str | None, at_millis: int, token: str
) -> Mapping[str, Any]:
    parameters = {"mode": "Append", "partitionBy": json.dumps(list(partition_by))}
    info = {
        "timestamp": at_millis,
        "operation": operation,
        "operationParameters": parameters if operation == "WRITE" else {},
        "engineInfo": _ENGINE,
        "txnId": token,
    }
    return info if metadata is None else {**info, "userMetadata": metadata}


def _parsed(address: str, version: int, content: bytes) -> LogEntry:
    try:
        actions = tuple(parsed_json(line) for line in content.splitlines() if line.strip())
    except ValueError:
        actions = ()
    if not actions or not all(isinstance(action, dict) and action for action in actions):
        raise LakeError(
            address,
            found="a file that is cut or garbled" if content else "an empty file",
            expected="a commit of the table",
            next_step=RESTORE_ENTRY,
        )
    return LogEntry.of_content(version, content, actions)


def _last_checkpoint(files: Storage) -> int:
    """0 where nothing says it: then the log is listed from its beginning."""
    with suppress(ValueError, TypeError, KeyError):
        return int(json.loads(files.read("_delta_log/_last_checkpoint") or b"")["version"])
    return 0


def refuse_unknown_features(table: DeltaTable) -> None:
    """LakeError when the table asks more of its writers than `append_entry` does."""
    protocol = table.protocol()
    refuse_unknown_writers(table.table_uri, protocol.min_writer_version, protocol.writer_features or ())


def refuse_unknown_writers(uri: str, min_writer_version: int, writer_features: Iterable[str]) -> None:
    """The same by what the table's protocol says of its writers."""
    features = set(writer_features)
    if min_writer_version <= 2 or (min_writer_version == 7 and features <= _FEATURES):
        return
    raise LakeError(
        uri,
        found=f"a table for writers of version {min_writer_version} with "
        f"{', '.join(sorted(map(str, features))) or 'what belongs to it'}",
        expected=f"no features but {', '.join(sorted(_FEATURES))}",
        next_step="Drop the feature (`ALTER TABLE … DROP FEATURE`), or restore the table from before it was set.",
    )
