"""The deliveries of one hour at a bronze version, and which of them its seal leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.dedup import ADDRESS, duplicates, late_duplicates
from lakehouse.store import parquet
from lakehouse.store.delta import DataFile, files_of_hour
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.parquet import FILE, ROW
from lakehouse.store.tables import Folders
from lakehouse.topics import Topic

_TICK = timedelta(microseconds=1)


class Deliveries:
    """One bucket's rows. An address is the file's place in `files` and the row's in the file."""

    def __init__(
        self, topic: Topic, hour: Hour, bronze: DeltaTable, folders: Folders, options: Mapping[str, str]
    ) -> None:
        self._topic, self._hour = topic, hour
        self._raw, self._sealed = storage_for(folders.raw, options), storage_for(folders.sealed, options)
        self.files = files_of_hour(bronze, hour)

    @property
    def count(self) -> int:
        return sum(file.rows for file in self.files)

    def rows(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The columns of every delivery, with its address."""
        return parquet.addressed(_opened(self._raw, "bronze", self.files), columns)

    def footers(self) -> Iterator[pq.FileMetaData]:
        """The footer of each file, in their order."""
        return (file.metadata for file in parquet.opened_ahead(_opened(self._raw, "bronze", self.files)))

    def has_skewed(self, file: DataFile) -> bool:
        """Whether the file may hold skewed events; a file holds these only, or none."""
        return _may_hold(file, hours.YEAR_ONE, hours.start_of(self._hour) - _TICK)

    @cached_property
    def doubled(self) -> pa.Table:
        """Addresses of every delivery but the first of its event."""
        return duplicates(self.rows)

    def late(self, silver: DeltaTable) -> pa.Table:
        """Addresses of the skewed deliveries, not doubled here, whose event an earlier sealed hour in the horizon has.

        The deliveries of an event agree in its time, so only files of about that time are searched.
        """
        skewed = self._skewed()
        if not len(skewed):
            return ADDRESS.empty_table()
        bounds = pc.min_max(skewed["event_time"])
        earliest, latest = bounds["min"].as_py(), bounds["max"].as_py()
        horizon = hours.hour_of(hours.start_of(self._hour) - self._topic.dedup_horizon)
        earlier = hours.hours_between(max(hours.hour_of(earliest), horizon), self._hour)
        files = [file for hour in earlier for file in files_of_hour(silver, hour) if _may_hold(file, earliest, latest)]
        return late_duplicates(skewed.drop_columns(["event_time"]), self._ids(files))

    def _skewed(self) -> pa.Table:
        schema = pa.schema([("event_id", pa.string()), ("event_time", TIMESTAMP), *ADDRESS])
        start = pa.scalar(hours.start_of(self._hour))
        numbers = [number for number, file in enumerate(self.files) if self.has_skewed(file)]
        sources = _opened(self._raw, "bronze", [self.files[number] for number in numbers])
        batches = []
        for batch in parquet.addressed(sources, ["event_id", "event_time"]):
            number_of_file = np.array(numbers, np.int32)[batch.column(FILE).to_numpy()]
            batch = batch.set_column(batch.schema.get_field_index(FILE), FILE, pa.array(number_of_file))
            batches.append(batch.filter(pc.less(batch.column("event_time"), start)).cast(schema))
        skewed = pa.Table.from_batches(batches, schema)
        is_doubled = len(self.doubled) and len(skewed)
        return skewed.join(self.doubled, [FILE, ROW], join_type="left anti") if is_doubled else skewed

    def _ids(self, files: Sequence[DataFile]) -> Iterator[pa.RecordBatch]:
        for file in parquet.opened_ahead(_opened(self._sealed, "silver", files)):
            yield from file.iter_batches(columns=["event_id"])


def _opened(storage: Storage, table: str, files: Sequence[DataFile]) -> list[parquet.Opener]:
    return [partial(storage.open, f"{table}/{file.path}") for file in files]


def _may_hold(file: DataFile, first: datetime, last: datetime) -> bool:
    """Whether the file may hold an event of [first, last]; a file without figures may."""
    low, high = (file.stats.get(kind, {}).get("event_time") for kind in ("minValues", "maxValues"))
    return low is None or high is None or (low <= last and high >= first)
