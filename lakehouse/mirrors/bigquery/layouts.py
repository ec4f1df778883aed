"""Where an hour's rows are in BigQuery: a table per hour, or a partition of the topic's table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pyarrow.parquet as pq
from google.api_core.exceptions import NotFound
from google.cloud import bigquery

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.mirrors.bigquery.dataset import Dataset, load_failure
from lakehouse.mirrors.bigquery.schema import label, labels_of, merged_fields, schema_of, stamp
from lakehouse.mirrors.contract import SealedHour, manifest_of
from lakehouse.topics import Topic
from lakehouse.value_checksum import ROWS

_STAMP = r"[0-9]{10}"


class Layout(Protocol):
    """What the mirror asks of a layout. `manifest` is None where no hour of ours is."""

    def table_id(self, topic: Topic, hour: Hour) -> str:
        """What a load job loads into."""

    def rows_of(self, topic: Topic, hour: Hour) -> str:
        """What a query has after `from` to count the hour."""

    def schema(self, hour: SealedHour) -> list[Any]: ...

    def manifest(self, topic: Topic, hour: Hour) -> dict[str, Any] | None: ...

    def is_complete(self, hour: SealedHour) -> bool:
        """Whether as many rows are there as the hour has."""

    def stamps(self, topic: Topic) -> set[str]:
        """The hours that are there, as `2026112305`."""

    def prepare(self, hour: SealedHour) -> None:
        """What must be there before a load."""

    def describe(self, hour: SealedHour) -> None:
        """Write the manifest, after the load: one that is there before its rows would be believed."""

    def show(self, topic: Topic) -> None:
        """The view over all hours."""

    def remove(self, topic: Topic, hour: Hour) -> None:
        """Rows first, then the manifest."""


class TablePerHour:
    """`<topic>_<YYYYMMDDHH>`."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def table_id(self, topic: Topic, hour: Hour) -> str:
        return f"{topic.name}_{stamp(hour)}"

    def rows_of(self, topic: Topic, hour: Hour) -> str:
        return f"`{self._dataset.address(self.table_id(topic, hour))}` as {ROWS}"

    def schema(self, hour: SealedHour) -> list[Any]:
        """That of the files as they are: those from before a field came do not have it."""
        found: list[Any] = [] if hour.files else schema_of(hour.columns)
        for file in hour.files:
            with hour.silver.open(file.path) as source:
                found = merged_fields(found, schema_of(pq.read_schema(source)))
        return found

    def manifest(self, topic: Topic, hour: Hour) -> dict[str, Any] | None:
        table = self._dataset.table_or_none(self.table_id(topic, hour))
        return _manifest_in(table.description) if table else None

    def is_complete(self, hour: SealedHour) -> bool:
        table = self._dataset.table_or_none(self.table_id(hour.topic, hour.hour))
        return table is not None and table.num_rows == hour.rows

    def stamps(self, topic: Topic) -> set[str]:
        form = re.compile(rf"{topic.name}_({_STAMP})")
        return {found[1] for name in self._dataset.tables() if (found := form.fullmatch(name))}

    def prepare(self, hour: SealedHour) -> None:
        self._dataset.ensure()

    def describe(self, hour: SealedHour) -> None:
        """In the table's description. The table also gets the fields that came after its files: the view over all
        hours takes the newest table's.
        """
        loaded = getattr(self._dataset.table_or_none(self.table_id(hour.topic, hour.hour)), "schema", [])
        table = self._dataset.table(self.table_id(hour.topic, hour.hour))
        table.description = json.dumps(manifest_of(hour))
        table.labels = labels_of(hour)
        fields = ["description", "labels"]
        wanted = merged_fields(loaded, schema_of(hour.columns))
        if wanted != loaded:
            table.schema = wanted
            fields.append("schema")
        if self._dataset.options.expires_after:
            table.expires = datetime.now(UTC) + self._dataset.options.expires_after
            fields.append("expires")
        self._dataset.update(table, fields)

    def remove(self, topic: Topic, hour: Hour) -> None:
        self._dataset.delete(self.table_id(topic, hour))

    def show(self, topic: Topic) -> None:
        """The view named as the topic. Tables of topics whose names begin with this one's must not get into it."""
        view = self._dataset.table(topic.name)
        century = self._dataset.address(f"{topic.name}_20")
        year, month, day, clock = (f"substr(_TABLE_SUFFIX, {at}, 2)" for at in (1, 3, 5, 7))
        view.view_query = (
            f"select *, concat('20', {year}, '-', {month}, '-', {day}, 'T', {clock}) as hour"
            f" from `{century}*` where regexp_contains(_TABLE_SUFFIX, r'^[0-9]{{8}}$')"
        )
        if self._dataset.table_or_none(topic.name) is None:
            self._dataset.create(view)


class Partition:
    """`<topic>`, partitioned by the hour of ingestion: skewed rows carry earlier event times than their hour."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def table_id(self, topic: Topic, hour: Hour) -> str:
        return f"{topic.name}${stamp(hour)}"

    def rows_of(self, topic: Topic, hour: Hour) -> str:
        return self._in_hour(topic.name, hour)

    def schema(self, hour: SealedHour) -> list[Any]:
        """The table's own, with what the topic has gained: a load into a partition may not take columns away."""
        table = self._dataset.table_or_none(hour.topic.name)
        return merged_fields(table.schema if table else [], schema_of(hour.columns))

    def manifest(self, topic: Topic, hour: Hour) -> dict[str, Any] | None:
        query = f"select manifest from {self._in_hour(self._manifests(topic), hour)}"
        try:
            rows = self._dataset.query(query)
        except NotFound:
            return None
        return _manifest_in(rows[0][0]) if rows else None

    def is_complete(self, hour: SealedHour) -> bool:
        query = f"select count(*) from {self.rows_of(hour.topic, hour.hour)}"
        try:
            return int(self._dataset.query(query)[0][0]) == hour.rows
        except NotFound:
            return False

    def stamps(self, topic: Topic) -> set[str]:
        """Partitions of rows, and those of manifests: an empty hour has no other."""
        view = f"`{self._dataset.address('INFORMATION_SCHEMA.PARTITIONS')}`"
        names = f"('{topic.name}', '{self._manifests(topic)}')"
        try:
            found = self._dataset.query(f"select partition_id from {view} where table_name in {names}")
        except NotFound:
            return set()
        return {each for (each,) in found if re.fullmatch(_STAMP, each or "")}

    def prepare(self, hour: SealedHour) -> None:
        table = self._dataset.table_or_none(hour.topic.name)
        wanted = self.schema(hour)
        if table is None:
            self._create(hour.topic.name, wanted, hour)
        elif wanted != table.schema:
            table.schema = wanted
            self._dataset.update(table, ["schema"])

    def describe(self, hour: SealedHour) -> None:
        name = self._manifests(hour.topic)
        fields = [bigquery.SchemaField("manifest", "STRING")]
        if self._dataset.table_or_none(name) is None:
            self._create(name, fields, hour)
        line = json.dumps({"manifest": json.dumps(manifest_of(hour))}).encode()
        config = bigquery.LoadJobConfig(
            source_format="NEWLINE_DELIMITED_JSON", write_disposition="WRITE_TRUNCATE", schema=fields,
            labels=labels_of(hour),
        )  # fmt: skip
        now = f"{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        job_id = f"{self._dataset.job_id(hour, 1)}_manifest_{now}"
        job = self._dataset.load_from_memory(line, f"{name}${stamp(hour.hour)}", job_id, config)
        if error := self._dataset.outcome(job):
            raise load_failure(self._dataset.mirror, hour, job, error)

    def remove(self, topic: Topic, hour: Hour) -> None:
        self._dataset.delete(self.table_id(topic, hour))
        self._dataset.delete(f"{self._manifests(topic)}${stamp(hour)}")

    def show(self, topic: Topic) -> None:
        view = self._dataset.table(f"{topic.name}_hours")
        table = self._dataset.address(topic.name)
        hour = "format_timestamp('%Y-%m-%dT%H', _PARTITIONTIME)"
        view.view_query = f"select *, {hour} as hour from `{table}`"
        if self._dataset.table_or_none(view.table_id) is None:
            self._dataset.create(view)

    def _create(self, name: str, schema: Sequence[Any], hour: SealedHour) -> None:
        table = bigquery.Table(self._dataset.address(name), schema=schema)
        after = self._dataset.options.expires_after
        table.time_partitioning = bigquery.TimePartitioning(
            type_="HOUR", expiration_ms=after // timedelta(milliseconds=1) if after else None
        )
        table.labels = {"topic": label(hour.topic.name)}
        self._dataset.create(table)

    def _manifests(self, topic: Topic) -> str:
        return f"{topic.name}_manifests"

    def _in_hour(self, table_id: str, hour: Hour) -> str:
        start = f"{hours.start_of(hour):%Y-%m-%d %H:00:00}"
        return f"`{self._dataset.address(table_id)}` as {ROWS} where _PARTITIONTIME = timestamp('{start}+00:00')"


def _manifest_in(text: str | None) -> dict[str, Any] | None:
    """None when it is not ours: such an hour is replaced."""
    try:
        manifest = json.loads(text or "")
        return manifest if isinstance(manifest, dict) and "revision" in manifest else None
    except ValueError:
        return None
