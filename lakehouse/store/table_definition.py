"""What a Delta table is, read without its files: its columns, its properties, and what it asks of its writers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema

from lakehouse.store.delta import open_table, table_errors
from lakehouse.store.files import storage_for
from lakehouse.store.table_log import (
    LogEntry,
    LostLogError,
    TableLog,
    checkpoint_path,
    log_of,
    newest_versions,
    refuse_unknown_features,
    refuse_unknown_writers,
)

_READERS = 16
_METADATA, _PROTOCOL = "metaData", "protocol"


@dataclass(frozen=True)
class TableDefinition:
    """Of a table that `append_entry` may write to."""

    columns: pa.Schema
    properties: Mapping[str, str]

    @classmethod
    def of(cls, table: DeltaTable) -> TableDefinition:
        """LakeError when the table asks more of its writers."""
        refuse_unknown_features(table)
        return cls(pa.schema(table.schema().to_arrow()), dict(table.metadata().configuration))


def defined_log(uri: str, options: Mapping[str, str]) -> tuple[TableLog, TableDefinition] | None:
    """The log as it is now, and what it declares the table to be; None when there is no table.

    It takes a list, a part of the newest checkpoint, and entries since, of which a later one does not say that they
    change nothing. LakeError when the table cannot be read, or asks more of its writers than `append_entry` does.
    """
    with table_errors(uri):
        versions = newest_versions(storage_for(uri, options))
        if versions is None:
            return None
        log = TableLog(uri, versions[0], dict(options))
        try:
            declared = _declared(log, versions[1])
        except (LostLogError, FileNotFoundError, pa.ArrowException):  # damaged, in parts, or cleaned away meanwhile
            declared = None
        if declared is None:
            table = open_table(uri, options)
            return log_of(table), TableDefinition.of(table)
        defined_at, actions = declared
        return replace(log, defined_at=defined_at), _definition(uri, actions)


def _definition(uri: str, declared: Mapping[str, Mapping[str, Any]]) -> TableDefinition:
    metadata, protocol = declared[_METADATA], declared[_PROTOCOL]
    refuse_unknown_writers(uri, int(protocol["minWriterVersion"]), protocol.get("writerFeatures") or ())
    columns = pa.schema(Schema.from_json(metadata["schemaString"]).to_arrow())
    return TableDefinition(columns, dict(metadata.get("configuration") or {}))


def _declared(log: TableLog, checkpoint: int | None) -> tuple[int, Mapping[str, Mapping[str, Any]]] | None:
    """The newest action of both kinds that say what the table is, and since which version they do.

    None where one is nowhere.
    """
    found: dict[str, Mapping[str, Any]] = {}
    oldest = defined_at = -1 if checkpoint is None else checkpoint
    for entry in _may_declare(log, oldest):
        for kind in (_METADATA, _PROTOCOL):
            for action in entry.of(kind)[-1:]:
                found.setdefault(kind, action)
                defined_at = max(defined_at, entry.version)
        if len(found) == 2:
            break
    if len(found) < 2 and checkpoint is not None:
        found = {**dict(_in_checkpoint(log, checkpoint)), **found}
    return (defined_at, found) if len(found) == 2 else None


def _may_declare(log: TableLog, oldest: int) -> Iterator[LogEntry]:
    """Entries after `oldest`, newest first, without those that change nothing as a later one says."""
    version, ahead = log.version, 1
    with ThreadPoolExecutor(_READERS) as readers:
        while version > oldest:
            for entry in readers.map(log.entry, range(version, max(version - ahead, oldest), -1)):
                if entry is None:
                    raise LostLogError(log.uri)
                yield entry
                version = entry.version - 1
                if entry.defined_at is not None and entry.defined_at < version:
                    version = entry.defined_at
                    break
            ahead = min(2 * ahead, _READERS)


def _in_checkpoint(log: TableLog, version: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """FileNotFoundError or pa.ArrowException when it cannot be read."""
    with log.files.open(checkpoint_path(version)) as source, pq.ParquetFile(source) as file:
        kinds = [kind for kind in (_METADATA, _PROTOCOL) if kind in file.schema_arrow.names]
        for batch in file.iter_batches(columns=kinds):
            for kind in kinds:
                column = batch.column(kind)
                yield from ((kind, _plain(action)) for action in column.drop_null().to_pylist())


def _plain(action: Mapping[str, Any]) -> Mapping[str, Any]:
    """With maps as maps: Arrow has them as pairs."""
    return {key: dict(value) if key == "configuration" else value for key, value in action.items()}
