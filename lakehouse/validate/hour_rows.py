"""A sealed hour's rows: exactly the files that its seal named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.schemas import silver_schema
from lakehouse.store.delta import DataFile, files_of_hour
from lakehouse.store.records import Sealed
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import gx
from lakehouse.validate.scan import of_files
from lakehouse.validate.suites import is_there, path_of

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class SealedHour:
    """A sealed hour's files at the version that its seal made."""

    topic: Topic
    hour: Hour
    uri: str
    silver: DeltaTable
    files: Sequence[DataFile]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Of a scan: `route.origin` is a column of that name."""
        return gx.with_members(silver_schema(self.topic).empty_table(), columns).schema

    def scan(self, columns: Sequence[str]) -> pa.RecordBatchReader | str:
        present = pa.schema(self.silver.schema().to_arrow())
        is_readable_by_path = "://" not in self.uri and bool(self.files)
        if is_readable_by_path and all(is_there(name, present) for name in columns):
            paths = {name: path_of(name, present) for name in columns}
            return of_files([f"{self.uri}/{file.path}" for file in self.files], columns, {"hour": self.hour}, paths)
        return self.batches(columns)

    def batches(self, columns: Sequence[str]) -> pa.RecordBatchReader:
        """Of the columns that the table's version did not have yet, every value is missing."""
        schema = self.schema(columns)
        present = pa.schema(self.silver.schema().to_arrow())
        known = {name: pc.field(*path_of(name, present)) for name in columns if is_there(name, present)}
        if not self.files:
            return pa.RecordBatchReader.from_batches(schema, [])
        dataset = self.silver.to_pyarrow_dataset(file_pruning_predicate=f"hour = '{self.hour}'")
        reader = dataset.scanner(columns=known, filter=pc.field("hour") == self.hour).to_reader()
        return pa.RecordBatchReader.from_batches(schema, (_as_declared(batch, schema) for batch in reader))


def sealed_hour(topic: Topic, config: Config, hour: Hour, seal: Sealed) -> SealedHour:
    """The hour at the version that `seal` names; LakeError when there is no such version."""
    tables = TopicTables(topic, config.settings)
    silver = tables.silver(seal.silver_version)
    return SealedHour(topic, hour, tables.sealed.below("silver").uri, silver, files_of_hour(silver, hour))


@contextmanager
def as_lake_errors(topic: Topic, hour: Hour) -> Iterator[None]:
    """What reading the files raises, as LakeError."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise LakeError(
            f"{topic.name} {hour}: silver",
            found=" ".join(str(error).split())[:300],
            expected="the files that the seal's version names",
            next_step="Run `lakehouse verify` to see if a sealed hour was changed.",
        ) from error


def _as_declared(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    names = batch.schema.names
    columns = [
        batch.column(column.name).cast(column.type) if column.name in names else pa.nulls(len(batch), column.type)
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
