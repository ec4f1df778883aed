"""BigQuery: load jobs from the sealed hour's own files, one table per hour or one partition of the topic's table.

Jobs replace what they load into, whole, when they end: a reader sees the old hour or the new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import Any

import pyarrow as pa
from google.api_core.exceptions import GoogleAPIError, NotFound, RetryError
from google.auth.exceptions import GoogleAuthError
from requests.exceptions import RequestException

from lakehouse import hours
from lakehouse.checksum import sql_for
from lakehouse.errors import LakehouseError, MirrorError
from lakehouse.hours import Hour
from lakehouse.lineage.datasets import DatasetName
from lakehouse.mirrors.bigquery import limits
from lakehouse.mirrors.bigquery.dataset import BigQueryOptions, Dataset, client_of
from lakehouse.mirrors.bigquery.layouts import Layout, Partition, TablePerHour
from lakehouse.mirrors.bigquery.loads import PAUSE, LoadAttempts
from lakehouse.mirrors.bigquery.quota import LoadQuota
from lakehouse.mirrors.bigquery.schema import type_name
from lakehouse.mirrors.bigquery.staging import remove_staged, stage_files, staged_before
from lakehouse.mirrors.contract import Count, Mirror, SealedHour, is_wanted
from lakehouse.mirrors.limits import Neighbour
from lakehouse.store.delta import first_line
from lakehouse.topics import Topic
from lakehouse.value_checksum import Leaf, value_sql

_REFUSALS = (GoogleAPIError, GoogleAuthError, RequestException, OSError)


class BigQueryMirror(Mirror):
    """Readers take `<topic>_<YYYYMMDDHH>`, or with partitions `<topic>`; a view has all hours with a column `hour`.

    What is known of an hour beside its rows is in its table's description; with partitions, which have none, in
    `<topic>_manifests`, a second table with the same partitions.
    """

    Options = BigQueryOptions
    keeps_rows = True

    def __init__(
        self,
        name: str,
        options: BigQueryOptions,
        client: Any,
        uris: Callable[[SealedHour], Any],
        pause: timedelta = PAUSE,
    ) -> None:
        """`uris` gives a context with the addresses at which BigQuery finds the hour's files.

        `pause` is the time before a second load job.
        """
        self.name, self.hours_at_once = name, options.hours_at_once
        self._uris = uris
        self._dataset = Dataset(name, options, client)
        is_table_per_hour = options.layout == "table_per_hour"
        self._layout: Layout = TablePerHour(self._dataset) if is_table_per_hour else Partition(self._dataset)
        self._attempts = LoadAttempts(self._dataset, self._layout, LoadQuota(self._dataset), pause)
        self._defining = Lock()  # of several hours at once only one makes what they share

    @classmethod
    def from_config(cls, name: str, options: BigQueryOptions, spark: object) -> BigQueryMirror:
        return cls(
            name,
            options,
            client_of(options),
            lambda hour: stage_files(hour, options.staging, name, drops_nulls=options.array_nulls == "drop"),
        )

    @classmethod
    def objections(cls, topic: Topic, options: BigQueryOptions, neighbours: Sequence[Neighbour]) -> list[str]:
        return limits.objections(topic, options, neighbours)

    @classmethod
    def objections_to_lake(cls, options: BigQueryOptions, sealed_root: str) -> list[str]:
        return limits.objections_to_lake(options, sealed_root)

    @classmethod
    def warnings(cls, topic: Topic, options: BigQueryOptions) -> list[str]:
        return limits.warnings(topic, options)

    @classmethod
    def type_name(cls, kind: pa.DataType) -> str:
        return type_name(kind)

    def where(self, topic: Topic, hour: Hour) -> str:
        return self._dataset.address(self._layout.table_id(topic, hour))

    def dataset(self, topic: Topic) -> DatasetName:
        return DatasetName("bigquery", self._dataset.address(topic.name))

    def hours(self, topic: Topic) -> set[Hour]:
        with self._refusals(topic, "*"):
            stamps = self._layout.stamps(topic)
        return hours.hours_among(f"{each[:4]}-{each[4:6]}-{each[6:8]}T{each[8:]}" for each in stamps)

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        with self._refusals(hour.topic, hour.hour):
            present = self._layout.manifest(hour.topic, hour.hour)
            if is_wanted(self, hour, present, force) or not self._layout.is_complete(hour):
                with self._defining:
                    self._layout.prepare(hour)
                self._load(hour, force)
                remove_staged(hour, self._dataset.options.staging, self.name, before=hour.revision)
                self._layout.describe(hour)
                with self._defining:
                    self._layout.show(hour.topic)

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        with self._refusals(topic, hour):
            try:
                query = f"select count(*), {sql_for('bigquery')} from {self._layout.rows_of(topic, hour)}"
                ((rows, checksum),) = self._dataset.query(query)
            except NotFound:
                return None
            count = Count(int(rows), int(checksum))
            is_there = count.rows > 0 or self._layout.manifest(topic, hour) is not None
            return count if is_there else None

    def value_checksum(self, topic: Topic, hour: Hour, leaves: Sequence[Leaf]) -> int | None:
        with self._refusals(topic, hour):
            query = f"select {value_sql('bigquery', leaves)} from {self._layout.rows_of(topic, hour)}"
            return int(self._dataset.query(query)[0][0])

    def withdraw(self, hour: SealedHour) -> None:
        with self._refusals(hour.topic, hour.hour):
            self._layout.remove(hour.topic, hour.hour)
            remove_staged(hour, self._dataset.options.staging, self.name, before=hour.revision + 1)

    def remains(self, hour: SealedHour) -> list[str]:
        """Beside it BigQuery itself keeps what was replaced for the dataset's time travel."""
        with self._refusals(hour.topic, hour.hour):
            present = self._layout.manifest(hour.topic, hour.hour)
            is_older = present is not None and int(present["revision"]) < hour.revision
            staged = staged_before(hour, self._dataset.options.staging, self.name, hour.revision)
        return [self.where(hour.topic, hour.hour)] * is_older + staged

    def _load(self, hour: SealedHour, force: bool) -> None:
        with self._uris(hour) as uris:
            self._attempts.load(hour, uris, force)

    @contextmanager
    def _refusals(self, topic: Topic, hour: Hour) -> Iterator[None]:
        try:
            yield
        except LakehouseError:
            raise
        except _REFUSALS as refused:
            cause = refused.cause if isinstance(refused, RetryError) and refused.cause else refused
            dataset = self._dataset.options
            raise MirrorError(
                f"mirror {self.name}: {topic.name} {hour}",
                found=f"{type(cause).__name__}: {first_line(cause)}",
                expected=f"BigQuery to take and count it in {dataset.project}.{dataset.dataset}",
                next_step="Check the network, the dataset and the rights there; the hour stays due.",
            ) from refused
