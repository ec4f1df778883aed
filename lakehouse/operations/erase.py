"""Erase: take a person's events out of bronze and silver, as new revisions of the hours that held them.

The only way in which a sealed hour changes. The condition itself is written down nowhere, as it names the person; the
reason, who gave it, and the old revision's counts and checksum are.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlglot
from deltalake import DeltaTable
from sqlglot import exp

from lakehouse import hours
from lakehouse.checksum import id_checksum
from lakehouse.config import Config
from lakehouse.errors import LakehouseError
from lakehouse.hours import Hour
from lakehouse.schemas import sealed_schema, silver_schema
from lakehouse.seal.copying import Copied, sealed_columns, write_silver
from lakehouse.seal.stage import app_of, newest_seal
from lakehouse.store import bronze_log, parquet
from lakehouse.store.delta import (
    ConflictError,
    Conflicts,
    DataFile,
    commit,
    event_time_stats,
    files,
    files_of_hour,
    open_table,
)
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.holds import holds_for
from lakehouse.store.ledger import Ledger
from lakehouse.store.tables import folders_of
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

ERASE = "erase"

_READERS = 8


@dataclass(frozen=True)
class ErasedHour:
    """A sealed hour that held such rows. `revision` is the one that it has now, or with a dry run would have."""

    hour: Hour
    revision: int
    erased: int
    rows: int


@dataclass(frozen=True)
class Erasure:
    """`deliveries` went from bronze, those of `hours` among them; `files` are deleted for good."""

    topic: str
    hours: tuple[ErasedHour, ...]
    deliveries: int
    files: tuple[str, ...] = field(default=(), repr=False)


def erase(topic: Topic, config: Config, where: str, *, reason: str, by: str, dry_run: bool = False) -> Erasure:
    """Erase all rows and deliveries for which `where` holds, and every delivery of a row's event.

    `where` is a condition over silver's columns, in DuckDB's SQL. It can be repeated: what is gone is gone, and what a
    crash left is made good. LakehouseError when a closed hour still waits for its seal. Rejected deliveries have only
    their `event_id`, `message_id` and `publish_time` to be found by; they go with `bronze_retention`. What ingest has
    not committed yet is not looked at: erase again once it has.
    """
    eraser = _Eraser(topic, config, _Condition(where, topic), reason, by)
    eraser.check_sealed()
    if not dry_run:
        eraser.record_unrecorded()
    found = eraser.found_in_silver()
    event_ids = sorted({event_id for matches in found.values() for match in matches for event_id in match.event_ids})
    if dry_run:
        would_be = tuple(eraser.would_be(hour, matches) for hour, matches in sorted(found.items()))
        return Erasure(topic.name, would_be, sum(match.count for match in eraser.found_in_bronze(event_ids)))
    deliveries = eraser.rewrite_bronze(event_ids)
    sealed_anew = tuple(eraser.seal_anew(hour, matches) for hour, matches in sorted(found.items()))
    log.info("erase: topic=%s hours=%d deliveries=%d", topic.name, len(sealed_anew), deliveries)
    return Erasure(topic.name, sealed_anew, deliveries, tuple(eraser.deleted))


class _Condition:
    """What is to be erased, as a mask over rows."""

    def __init__(self, where: str, topic: Topic) -> None:
        self._where = where
        self._schema = silver_schema(topic)
        try:
            tree = sqlglot.parse_one(f"select 1 from rows where {where}", dialect="duckdb")
            self.mask(self._schema.empty_table())
        except (sqlglot.errors.SqlglotError, duckdb.Error) as error:
            raise LakehouseError(
                "--where",
                found=str(error).splitlines()[0],
                expected=f"a condition over {', '.join(self._schema.names)}",
                next_step="Write it as after `where` in SQL, such as \"user = 'u17'\".",
            ) from error
        named = {part.name for column in tree.find_all(exp.Column) for part in column.parts}
        self.columns = [name for name in self._schema.names if name in named or name == "event_id"]

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        absent = [each for each in self._schema if each.name not in rows.column_names]
        for each in absent:
            rows = rows.append_column(each, pa.nulls(len(rows), each.type))
        with duckdb.connect() as database:
            database.execute("set timezone = 'UTC'")
            database.register("rows", rows)
            return database.sql(f"select coalesce(({self._where}), false) as m from rows").to_arrow_table()["m"]


@dataclass(frozen=True)
class _Match:
    """A file that holds rows to erase."""

    file: DataFile
    count: int
    skewed: int = 0
    event_ids: tuple[str, ...] = ()


class _Eraser:
    def __init__(self, topic: Topic, config: Config, condition: _Condition, reason: str, by: str) -> None:
        self._topic, self._condition, self._reason, self._by = topic, condition, reason, by
        self._folders, self._options = folders_of(config.settings, topic.name), config.settings.storage_options
        self._raw = storage_for(self._folders.raw, self._options)
        self._sealed = storage_for(self._folders.sealed, self._options)
        self._holds = holds_for(config.settings, self._folders.sealed)
        self._release = config.settings.release
        ledger = open_table(self._folders.ledger, self._options)
        self._ledger = Ledger(ledger, f"{ERASE}/{self._release}/{by}")
        self.deleted: list[str] = []

    def check_sealed(self) -> None:
        """A closed hour is sealed from the files that it closed with: these must not change before."""
        due = self._ledger.history().due_to_seal()
        if due:
            raise LakehouseError(
                f"topic {self._topic.name}",
                found=f"{len(due)} closed hours without a seal, the oldest {due[0]}",
                expected="every closed hour sealed",
                next_step="Run the seal stage first, then erase again.",
            )

    def record_unrecorded(self) -> None:
        """A crash may have come between a new revision's commit and its ledger row."""
        silver, history = self._silver, self._ledger.history()
        for hour in history.hours():
            if (silver.transaction_version(app_of(hour)) or 0) > history.revision(hour):
                version, manifest = newest_seal(silver, hour)
                if self._holds is not None:
                    self._holds.put(f"silver/{file.path}" for file in files_of_hour(silver, hour))
                self._record(hour, {**manifest, "silver_version": version})

    # --- finding ---------------------------------------------------------------------------------------------------

    def found_in_silver(self) -> dict[Hour, list[_Match]]:
        found: dict[Hour, list[_Match]] = defaultdict(list)
        for match in _in_parallel(self._silver_match, files(self._silver)):
            if match.count and match.file.hour:
                found[match.file.hour].append(match)
        return dict(found)

    def found_in_bronze(self, event_ids: Sequence[str]) -> list[_Match]:
        """By the condition, and every other delivery of these events."""
        table = open_table(self._folders.bronze, self._options)
        matches = _in_parallel(partial(self._bronze_match, event_ids), files(table))
        return [match for match in matches if match.count]

    def _silver_match(self, file: DataFile) -> _Match:
        columns = [name for name in dict.fromkeys([*self._condition.columns, "event_time"]) if name != "hour"]
        count = skewed = 0
        event_ids: list[str] = []
        for batch in _batches(self._sealed, f"silver/{file.path}", columns):
            matching = self._with_hour(batch, file).filter(self._silver_mask(batch, file))
            count += len(matching)
            event_ids += matching["event_id"].to_pylist()
            start = pa.scalar(hours.start_of(str(file.hour)))
            skewed += pc.sum(pc.less(matching["event_time"], start)).as_py() or 0
        return _Match(file, count, skewed, tuple(event_ids))

    def _silver_mask(self, batch: pa.RecordBatch, file: DataFile) -> pa.ChunkedArray:
        return self._condition.mask(self._with_hour(batch, file))

    def _bronze_match(self, event_ids: Sequence[str], file: DataFile) -> _Match:
        is_event = file.hour is not None
        columns = ["event_id", "message_id", "publish_time", *(["event_time", "event"] if is_event else [])]
        batches = _batches(self._raw, f"bronze/{file.path}", columns)
        return _Match(file, sum(pc.sum(self._bronze_mask(batch, file, event_ids)).as_py() or 0 for batch in batches))

    def _bronze_mask(self, batch: pa.RecordBatch, file: DataFile, event_ids: Sequence[str]) -> pa.ChunkedArray:
        names = ["event_id", "message_id", "publish_time"]
        rows = batch.select(names) if file.hour is None else sealed_columns(batch, sealed_schema(self._topic))
        is_asked = self._condition.mask(self._with_hour(rows, file))
        is_known = pc.is_in(batch.column("event_id"), value_set=pa.array(event_ids, pa.string()))
        return pc.or_(is_asked.combine_chunks(), is_known)

    @staticmethod
    def _with_hour(batch: pa.RecordBatch, file: DataFile) -> pa.Table:
        rows = pa.Table.from_batches([batch])
        return rows.append_column("hour", pa.array([file.hour] * len(rows), pa.string()))

    # --- silver ----------------------------------------------------------------------------------------------------

    def would_be(self, hour: Hour, matches: Sequence[_Match]) -> ErasedHour:
        erased = sum(match.count for match in matches)
        rows = sum(file.rows for file in files_of_hour(self._silver, hour))
        return ErasedHour(hour, self._ledger.history().revision(hour) + 1, erased, rows - erased)

    def seal_anew(self, hour: Hour, matches: Sequence[_Match]) -> ErasedHour:
        """The hour's next revision: the files that held such rows are replaced, the others stay."""
        silver = open_table(self._folders.silver, self._options)
        seal = self._ledger.history().last("sealed", hour)
        if seal is None:
            raise ValueError(f"{hour} of {self._topic.name} is not sealed")
        rewritten = [copied for match in matches if (copied := self._without(match)) is not None]
        manifest = self._manifest(hour, seal.details, matches, len(files_of_hour(silver, hour)), len(rewritten))
        try:
            version = commit(
                silver,
                [copied.as_data_file(hour) for copied in rewritten],
                metadata=manifest,
                transactions={app_of(hour): manifest["revision"]},
                removed=[match.file for match in matches],
            )
        except ConflictError as conflict:
            raise LakehouseError(
                f"{self._topic.name} {hour}",
                found="another revision that was made at the same time",
                expected="one erasure at a time",
                next_step="Run this one again.",
            ) from conflict
        old = [f"silver/{match.file.path}" for match in matches]
        if self._holds is not None:
            self._holds.put(f"silver/{copied.path}" for copied in rewritten)
            self._holds.lift(old)
        self._record(hour, {**manifest, "silver_version": version})
        self._delete(self._sealed, [*old, *self._reports(hour)])
        return ErasedHour(hour, manifest["revision"], manifest["erased"], manifest["rows"])

    def _without(self, match: _Match) -> Copied | None:
        """The file's other rows in a new file; None when there are none."""
        file, schema = match.file, sealed_schema(self._topic)
        if match.count == file.rows:
            return None

        def kept() -> Iterator[pa.RecordBatch]:
            for batch in _batches(self._sealed, f"silver/{file.path}", None):
                rows = batch.filter(pc.invert(self._silver_mask(batch, file)).combine_chunks())
                yield _with_schema(rows, schema)

        stem = file.path.rpartition("/")[2].rpartition("-")[0] or "part"
        return write_silver(self._sealed, stem, str(file.hour), kept(), schema)

    def _manifest(
        self, hour: Hour, old: Mapping[str, Any], matches: Sequence[_Match], files_before: int, rewritten: int
    ) -> dict[str, Any]:
        erased = sum(match.count for match in matches)
        ids = pa.array([event_id for match in matches for event_id in match.event_ids], pa.string())
        evidence = ("revision", "rows", "skewed", "files", "id_checksum", "silver_version", "release")
        kept = ("kind", "hour", "bronze_version", "deliveries", "duplicates", "late_duplicates")
        return {
            **{key: old[key] for key in kept if key in old},
            "revision": int(old["revision"]) + 1,
            "release": self._release,
            "rows": int(old["rows"]) - erased,
            "skewed": int(old["skewed"]) - sum(match.skewed for match in matches),
            "files": files_before - len(matches) + rewritten,
            "id_checksum": str(int(old["id_checksum"]) - id_checksum(ids)),
            "erased": int(old.get("erased", 0)) + erased,
            "reason": self._reason,
            "requested_by": self._by,
            "previous": {key: old.get(key) for key in evidence},
        }

    def _record(self, hour: Hour, details: Mapping[str, Any]) -> None:
        revision = details["revision"]
        self._ledger.record("sealed", hour, details, unless=lambda history: history.revision(hour) >= revision)

    # --- bronze ----------------------------------------------------------------------------------------------------

    def rewrite_bronze(self, event_ids: Sequence[str]) -> int:
        """One commit, which no close of an hour can slip past; gives how many deliveries it took away."""
        conflicts = Conflicts(self._folders.bronze)
        while matches := self.found_in_bronze(event_ids):
            table = open_table(self._folders.bronze, self._options)
            self.check_sealed()
            rewritten = [file for match in matches if (file := self._delivery_file_without(match, event_ids))]
            open_hour = bronze_log.newest_state(table).open_hour
            transactions = {bronze_log.OPEN_HOUR: hours.ordinal_of(open_hour)} if open_hour else {}
            count = sum(match.count for match in matches)
            metadata = {"kind": ERASE, "deliveries": count, "reason": self._reason, "release": self._release}
            removed = [match.file for match in matches]
            try:
                commit(table, rewritten, metadata=metadata, transactions=transactions, removed=removed)
            except ConflictError as conflict:
                self._raw.delete(f"bronze/{file.path}" for file in rewritten)
                conflicts.meet(conflict)
                continue
            self._delete(self._raw, [f"bronze/{file.path}" for file in removed])
            return count
        return 0

    def _delivery_file_without(self, match: _Match, event_ids: Sequence[str]) -> DataFile | None:
        """The file's other rows under the same segment's name, in a folder of this erasure's own."""
        file = match.file
        if match.count == file.rows:
            return None
        path = f"erased-{uuid.uuid4().hex[:8]}/{file.path}"
        rows = 0
        times: list[Any] = []
        with self._raw.open(f"bronze/{file.path}") as source, pq.ParquetFile(source) as opened:
            schema = opened.schema_arrow
            with self._raw.create(f"bronze/{path}") as sink:
                with pq.ParquetWriter(sink, schema, **parquet.options(schema)) as writer:
                    for batch in opened.iter_batches():
                        kept = batch.filter(pc.invert(self._bronze_mask(batch, file, event_ids)))
                        writer.write_batch(kept)
                        rows += len(kept)
                        times += pc.min_max(kept.column("event_time")).values() if len(kept) else []
                size_bytes = sink.tell()
        self._raw.finish([f"bronze/{path}"])
        known = [time.as_py() for time in times if time.is_valid]
        stats = event_time_stats(min(known, default=None), max(known, default=None))
        return replace(file, path=path, rows=rows, size_bytes=size_bytes, stats=stats)

    # --- after it --------------------------------------------------------------------------------------------------

    def _reports(self, hour: Hour) -> list[str]:
        """Their examples are rows."""
        return [stored.path for stored in self._sealed.listed("reports") if hour in stored.path]

    def _delete(self, storage: Storage, paths: list[str]) -> None:
        storage.delete(paths)
        self.deleted += paths

    @cached_property
    def _silver(self) -> DeltaTable:
        return open_table(self._folders.silver, self._options)


def _batches(storage: Storage, path: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """The columns that the file has of those asked for."""
    with storage.open(path) as source, pq.ParquetFile(source) as file:
        present = file.schema_arrow.names
        yield from file.iter_batches(columns=None if columns is None else [name for name in columns if name in present])


def _with_schema(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Silver's columns of today; what the topic gained since the hour was sealed is null."""
    columns = [
        rows.column(each.name).cast(each.type) if each.name in rows.schema.names else pa.nulls(len(rows), each.type)
        for each in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _in_parallel(read: Callable[[DataFile], _Match], wanted: Iterable[DataFile]) -> list[_Match]:
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, wanted))
