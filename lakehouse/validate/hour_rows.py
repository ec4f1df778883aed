"""A sealed hour's rows: exactly the files that its seal named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.schemas import silver_schema
from lakehouse.store.delta import DataFile
from lakehouse.store.place import Place
from lakehouse.store.records import Sealed
from lakehouse.store.silver_log import files_of_seal
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import gx
from lakehouse.validate.scan import of_files
from lakehouse.validate.suites import is_there, path_of

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

_READERS = 16
_PARTITION = pa.field("hour", pa.string())


@dataclass(frozen=True)
class SealedHour:
    """A sealed hour's files at the version that its seal made; they all have the columns of that time."""

    topic: Topic
    hour: Hour
    silver: Place
    files: Sequence[DataFile]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Of a scan: `route.origin` is a column of that name."""
        return gx.with_members(silver_schema(self.topic).empty_table(), columns).schema

    def scan(self, columns: Sequence[str]) -> pa.RecordBatchReader | str:
        if "://" in self.silver.uri or not self.files:
            return self.batches(columns)
        paths = [f"{self.silver.uri}/{file.path}" for file in self.files]
        present = pq.read_schema(paths[0]).append(_PARTITION)
        if not all(is_there(name, present) for name in columns):
            return self.batches(columns)
        return of_files(paths, columns, {"hour": self.hour}, {name: path_of(name, present) for name in columns})

    def batches(self, columns: Sequence[str]) -> pa.RecordBatchReader:
        """Of the columns that the files do not have, every value is missing."""
        schema = self.schema(columns)
        if not self.files:
            return pa.RecordBatchReader.from_batches(schema, [])
        dataset = self._dataset()
        known = {name: pc.field(*path_of(name, dataset.schema)) for name in columns if is_there(name, dataset.schema)}
        reader = dataset.scanner(columns=known).to_reader()
        return pa.RecordBatchReader.from_batches(schema, (_as_declared(batch, schema) for batch in reader))

    def _dataset(self) -> Dataset:
        from pyarrow.dataset import FileSystemDataset, ParquetFileFormat

        encoding, here = ParquetFileFormat(), pc.field(_PARTITION.name) == self.hour
        with ThreadPoolExecutor(_READERS) as readers:
            sources = list(readers.map(self.silver.open, [file.path for file in self.files]))
        fragments = [encoding.make_fragment(source, partition_expression=here) for source in sources]
        return FileSystemDataset(fragments, fragments[0].physical_schema.append(_PARTITION), encoding)


def sealed_hour(topic: Topic, config: Config, hour: Hour, seal: Sealed) -> SealedHour:
    """The hour at the version that `seal` names; LakeError when there is no such version."""
    silver = TopicTables(topic, config.settings).sealed.below("silver")
    return SealedHour(topic, hour, silver, files_of_seal(silver, hour, seal))


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
