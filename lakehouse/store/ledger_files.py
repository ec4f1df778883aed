"""The files of a ledger: what its log says of each, and the rows in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.clock import now
from lakehouse.errors import LakeError
from lakehouse.schemas import LEDGER
from lakehouse.store.delta import table_errors
from lakehouse.store.files import Storage
from lakehouse.store.table_log import LogEntry, LostLogError

_READERS = 16


@dataclass(frozen=True)
class LedgerFile:
    """One of the table's files; `path` as in its log."""

    path: str
    rows: int
    size_bytes: int

    @classmethod
    def of(cls, added: Mapping[str, Any]) -> LedgerFile:
        rows = json.loads(added.get("stats") or "{}").get("numRecords", 0)
        return cls(str(added["path"]), int(rows), int(added["size"]))

    def as_added(self, *, is_new: bool) -> dict[str, Any]:
        stats = json.dumps({"numRecords": self.rows})
        at = {"modificationTime": _millis(now()), "dataChange": is_new}
        return {"path": self.path, "partitionValues": {}, "size": self.size_bytes, **at, "stats": stats}

    def as_removed(self, *, is_gone: bool) -> dict[str, Any]:
        at = {"deletionTimestamp": _millis(now()), "dataChange": is_gone}
        more = {"extendedFileMetadata": True, "partitionValues": {}, "size": self.size_bytes}
        return {"path": self.path, **at, **more}


def files_with_new_rows(entry: LogEntry) -> list[LedgerFile]:
    """Those that a version added; LostLogError where it did anything else than that, or than to compact."""
    if entry.changes_table or any(removed.get("dataChange", True) for removed in entry.of("remove")):
        raise LostLogError(f"version {entry.version}")
    return [LedgerFile.of(action) for action in entry.of("add") if action.get("dataChange", True)]


def rows_in(files: Storage, ledger: str, paths: Iterable[str]) -> pa.Table:
    """As they are, whatever is broken in them."""
    paths = list(paths)
    if len(paths) == 1:  # a row that is followed: a thread costs more than it
        return _stored(files, ledger, paths[0])
    with ThreadPoolExecutor(max(1, min(_READERS, len(paths)))) as readers:
        parts = list(readers.map(lambda path: _stored(files, ledger, path), paths))
    return pa.concat_tables([pa.Table.from_batches([], schema=LEDGER), *parts])


def _stored(files: Storage, ledger: str, path: str) -> pa.Table:
    address = f"{ledger.rstrip('/')}/{path}"
    content = files.read(unquote(path))
    if content is None:
        raise LakeError(
            address,
            found="no such file",
            expected="the rows of the ledger that the log names",
            next_step="Restore it from a backup.",
        )
    with table_errors(address):
        stored = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    if stored.schema.equals(LEDGER):
        return stored.replace_schema_metadata()
    known = [stored[name] if name in stored.column_names else pa.nulls(len(stored)) for name in LEDGER.names]
    return pa.Table.from_arrays(known, LEDGER.names).cast(LEDGER)  # pa.table(…) would import pandas


def _millis(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)
