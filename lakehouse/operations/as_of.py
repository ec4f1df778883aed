"""A topic's tables as they were at some time, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import TypeVar

import pyarrow as pa

from lakehouse.config import Config
from lakehouse.hours import Hour
from lakehouse.schemas import sealed_schema
from lakehouse.store import parquet
from lakehouse.store.delta import DataFile, as_it_was, files
from lakehouse.store.history import History
from lakehouse.store.place import Place
from lakehouse.store.records import State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

_READERS = 8

Found = TypeVar("Found")


class TablesAsOf:
    """`as_of` None is now. LakeError when the topic has no tables, or had none then."""

    def __init__(self, topic: Topic, config: Config, as_of: datetime | None = None) -> None:
        self.topic = topic
        self.tables = TopicTables(topic, config.settings)
        entries = self.tables.history().entries
        self.history = History(tuple(entry for entry in entries if as_of is None or entry.at <= as_of))
        self.bronze = as_it_was(self.tables.bronze(), as_of, config.settings.machine_time)
        self._newest_bronze = self.bronze if as_of is None else self.tables.bronze()
        self.silver = as_it_was(self.tables.silver(), as_of, config.settings.machine_time)

    def bronze_files(self, hour: Hour | None = None) -> list[DataFile]:
        """Those of an hour, or all; of hours that had closed by then as they are now.

        Nothing is ever added to a closed hour, and where its rows were put into other files the old ones go.
        """
        then, now = (files(table) for table in (self.bronze, self._newest_bronze))
        closed = {file.hour for file in then if file.hour and self.history.first(State.CLOSED, file.hour)}
        found = [file for file in then if file.hour not in closed] + [file for file in now if file.hour in closed]
        return sorted((file for file in found if hour in (None, file.hour)), key=lambda file: file.path)

    def bronze_rows(self, files: Sequence[DataFile], *columns: str) -> Iterator[pa.RecordBatch]:
        return _rows(self.tables.raw.below("bronze"), files, columns)

    def silver_rows(self, files: Sequence[DataFile], *columns: str) -> Iterator[pa.RecordBatch]:
        return _rows(self.tables.sealed.below("silver"), files, columns)

    def silver_columns(self, files: Sequence[DataFile]) -> pa.Schema:
        """The declared columns that all of the files have; none where there is no file."""
        storage = self.tables.sealed.below("silver").files()
        names = [_names(parquet.LakeFile(storage, file.path)) for file in files]
        return pa.schema([each for each in sealed_schema(self.topic) if files and all(each.name in of for of in names)])


def _names(opened: parquet.LakeFile) -> set[str]:
    with opened as file:
        return set(file.schema_arrow.names)


def in_parallel(read: Callable[[DataFile], Found], files: Iterable[DataFile]) -> list[Found]:
    """What `read` gives of each file, in their order; most of it is waiting for storage."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, files))


def _rows(place: Place, files: Sequence[DataFile], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    storage = place.files()
    for file in parquet.open_ahead(partial(parquet.LakeFile, storage, each.path) for each in files):
        yield from file.iter_batches(columns=list(columns))
