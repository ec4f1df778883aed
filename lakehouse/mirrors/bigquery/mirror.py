"""BigQuery: load jobs from the sealed hour's own files, one table per hour or one partition of the topic's table.

The ids of load jobs are made of what they load, so that a process that died finds its job instead of a second one. Jobs
replace what they load into, whole, when they end: a reader sees the old hour or the new.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Conflict, GoogleAPIError, NotFound, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from google.cloud.bigquery.format_options import ParquetOptions
from google.cloud.bigquery.retry import DEFAULT_RETRY
from pydantic import Field
from requests.exceptions import RequestException

from lakehouse import hours
from lakehouse.checksum import sql_for
from lakehouse.config import Root
from lakehouse.durations import Duration
from lakehouse.errors import LakehouseError, MirrorError
from lakehouse.hours import Hour
from lakehouse.mirrors.contract import Count, Mirror, SealedHour, is_wanted, manifest_of
from lakehouse.mirrors.files import first_line, open_file
from lakehouse.schemas import sealed_schema
from lakehouse.store.delta import DataFile
from lakehouse.store.files import storage_for
from lakehouse.topics import Frozen, Topic

LOADS_PER_TABLE_AND_DAY = 1500
"""BigQuery's own limit, which failed loads count for, too."""

TRIES = 3
"""Load jobs for one publish: as long as they fail for reasons that BigQuery says may pass."""

_PASSING = {"backendError", "internalError", "jobBackendError", "jobInternalError", "rateLimitExceeded",
            "jobRateLimitExceeded", "tableUnavailable", "timeout"}  # fmt: skip
"""Reasons of failed jobs, from BigQuery's table of error messages."""

_STAMP = r"[0-9]{10}"
_ATTEMPTS = 1000
_PAUSE_SECONDS = 2.0
_REFUSALS = (GoogleAPIError, GoogleAuthError, RequestException, OSError)

_LEAVES = {
    pa.string(): "STRING", pa.int8(): "INT64", pa.int16(): "INT64", pa.int32(): "INT64", pa.int64(): "INT64",
    pa.float32(): "FLOAT64", pa.float64(): "FLOAT64", pa.bool_(): "BOOL", pa.date32(): "DATE", pa.binary(): "BYTES",
    pa.timestamp("us", "UTC"): "TIMESTAMP",
}  # fmt: skip


class BigQueryOptions(Frozen):
    """`expires_after` counts from publishing; with partitions, from the hour itself, as BigQuery counts there."""

    kind: Literal["bigquery"]
    project: str
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    location: str = "US"
    layout: Literal["table_per_hour", "partition"] = "table_per_hour"
    staging: Root = ""
    expires_after: Duration | None = None
    loads_per_day: int = Field(LOADS_PER_TABLE_AND_DAY, ge=1)
    hours_at_once: int = Field(8, ge=1)
    patience: Duration = timedelta(minutes=1)
    timeout: Duration = timedelta(hours=1)
    endpoint: str = ""


class BigQueryMirror(Mirror):
    """Readers take `<topic>_<YYYYMMDDHH>`, or with partitions `<topic>`; a view has all hours with a column `hour`.

    What is known of an hour beside its rows stands in its table's description; with partitions, which have none, in
    `<topic>_manifests`, a second table with the same partitions.
    """

    Options = BigQueryOptions

    def __init__(self, name: str, options: BigQueryOptions, client: Any, uris: Callable[[SealedHour], Any]) -> None:
        """`uris` gives a context with the addresses at which BigQuery finds the hour's files."""
        self.name, self.hours_at_once = name, options.hours_at_once
        self._options, self._client, self._uris = options, client, uris
        self._retry = DEFAULT_RETRY.with_timeout(options.patience / timedelta(seconds=1))
        self._one_call = {"retry": self._retry, "timeout": min(60.0, options.patience / timedelta(seconds=1))}
        self._layout: _TablePerHour | _Partition = (
            _TablePerHour(self) if options.layout == "table_per_hour" else _Partition(self)
        )
        self._loads = _Loads(options.loads_per_day)
        self._defining = Lock()  # of hours side by side one makes what they share

    @classmethod
    def opened(cls, name: str, options: BigQueryOptions, spark: object) -> BigQueryMirror:
        return cls(name, options, client_of(options), lambda hour: staged(hour, options.staging, name))

    def where(self, topic: Topic, hour: Hour) -> str:
        return f"{self._options.project}.{self._options.dataset}.{self._layout.table_id(topic, hour)}"

    def hours(self, topic: Topic) -> set[Hour]:
        with self._refusals(topic, "*"):
            stamps = self._layout.stamps(topic)
        return hours.hours_among(f"{each[:4]}-{each[4:6]}-{each[6:8]}T{each[8:]}" for each in stamps)

    def publish(self, hour: SealedHour, *, anew: bool = False) -> None:
        with self._refusals(hour.topic, hour.hour):
            there = self._layout.manifest(hour.topic, hour.hour)
            if is_wanted(self, hour, there, anew) or not self._layout.is_complete(hour):
                with self._defining:
                    self._layout.prepare(hour)
                self._load(hour, anew)
                self._layout.describe(hour)
                with self._defining:
                    self._layout.show(hour.topic)

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        with self._refusals(topic, hour):
            try:
                query = f"select count(*), {sql_for('bigquery')} from {self._layout.rows_of(topic, hour)}"
                ((rows, checksum),) = self.query(query)
            except NotFound:
                return None
            count = Count(int(rows), int(checksum))
            is_there = count.rows > 0 or self._layout.manifest(topic, hour) is not None
            return count if is_there else None

    # --- what the layouts ask of BigQuery

    def table(self, table_id: str) -> Any:
        return bigquery.Table(f"{self._options.project}.{self._options.dataset}.{table_id}")

    def found(self, table_id: str) -> Any:
        """The table as it is; None when there is none."""
        try:
            return self._client.get_table(self.table(table_id), **self._one_call)
        except NotFound:
            return None

    def tables(self) -> list[str]:
        """The names of all tables and views of the dataset; none when it is not there."""
        dataset = f"{self._options.project}.{self._options.dataset}"
        try:
            return [table.table_id for table in self._client.list_tables(dataset, **self._one_call)]
        except NotFound:
            return []

    def created(self, table: Any) -> None:
        """A table or view, where there is none yet; with the dataset, where that is missing."""
        try:
            self._client.create_table(table, exists_ok=True, **self._one_call)
        except NotFound:
            self.ensure_dataset()
            self._client.create_table(table, exists_ok=True, **self._one_call)

    def ensure_dataset(self) -> None:
        dataset = bigquery.Dataset(f"{self._options.project}.{self._options.dataset}")
        try:
            self._client.get_dataset(dataset.reference, **self._one_call)
        except NotFound:
            dataset.location = self._options.location
            self._client.create_dataset(dataset, exists_ok=True, **self._one_call)

    def changed(self, table: Any, fields: Sequence[str]) -> None:
        self._client.update_table(table, fields, **self._one_call)

    def query(self, text: str) -> list[tuple[Any, ...]]:
        seconds = self._options.timeout / timedelta(seconds=1)
        rows = self._client.query_and_wait(
            text, location=self._options.location, api_timeout=self._one_call["timeout"], wait_timeout=seconds,
            retry=self._retry, job_retry=None,
        )  # fmt: skip
        return [tuple(row.values()) for row in rows]

    def loaded_from_memory(self, data: bytes, table_id: str, job_id: str, config: Any) -> Any:
        return self._client.load_table_from_file(
            io.BytesIO(data), self.table_reference(table_id), size=len(data), job_id=job_id, job_config=config,
            location=self._options.location, timeout=self._one_call["timeout"], num_retries=2,
        )  # fmt: skip

    def table_reference(self, table_id: str) -> str:
        return f"{self._options.project}.{self._options.dataset}.{table_id}"

    @property
    def options(self) -> BigQueryOptions:
        return self._options

    # --- loading

    def _load(self, hour: SealedHour, anew: bool) -> None:
        """One load job that succeeded, this process's or another's; a failed one is followed by the next attempt."""
        table_id = self._layout.table_id(hour.topic, hour.hour)
        config = self._load_config(hour)
        with self._uris(hour) as uris:
            tries = 0
            for attempt in range(1, _ATTEMPTS):
                job_id = job_id_of(self.options.dataset, hour, attempt)
                try:
                    job = self._begun(hour, uris, table_id, job_id, config)
                    tries += 1
                except Conflict:
                    job = self._client.get_job(job_id, location=self._options.location, **self._one_call)
                    is_past = job.state == "DONE" and (anew or job.error_result or not self._layout.is_complete(hour))
                    if is_past or not _loads_same(job, uris):
                        continue
                error = self._outcome(job)
                if error is None:
                    return
                if error.get("reason") not in _PASSING or tries >= TRIES:
                    raise _failed(self.name, hour, job, error)
                time.sleep(min(_PAUSE_SECONDS * 2 ** (tries - 1), self.options.patience / timedelta(seconds=1)))
        raise MirrorError(
            f"mirror {self.name}: {hour.topic.name} {hour.hour}",
            found=f"{_ATTEMPTS} load jobs of this revision",
            expected="one that succeeded",
            next_step="See the jobs in BigQuery; seal the hour anew to begin with new ones.",
        )

    def _begun(self, hour: SealedHour, uris: Sequence[str], table_id: str, job_id: str, config: Any) -> Any:
        self._loads.count(self.name, hour, self._options, table_id, self._loads_today)
        if not uris:
            empty = io.BytesIO()
            pq.write_table(sealed_schema(hour.topic).empty_table(), empty)
            return self.loaded_from_memory(empty.getvalue(), table_id, job_id, config)
        return self._client.load_table_from_uri(
            list(uris), self.table_reference(table_id), job_id=job_id, job_config=config,
            location=self._options.location, **self._one_call,
        )  # fmt: skip

    def _load_config(self, hour: SealedHour) -> Any:
        parquet = ParquetOptions()  # type: ignore[no-untyped-call]
        parquet.enable_list_inference = True
        parquet.map_target_type = "ARRAY_OF_STRUCT"
        config = bigquery.LoadJobConfig(
            source_format="PARQUET",
            write_disposition="WRITE_TRUNCATE",
            create_disposition="CREATE_IF_NEEDED",
            schema=self._layout.schema(hour),
            labels=labels_of(hour),
        )
        config.parquet_options = parquet
        return config

    def _outcome(self, job: Any) -> dict[str, Any] | None:
        """What BigQuery says of the ended job: None when it succeeded."""
        until = time.monotonic() + self.options.timeout / timedelta(seconds=1)
        pause = 0.05
        while job.state != "DONE":
            if time.monotonic() > until:
                return {"reason": "unfinished", "message": f"not done after {self.options.timeout}"}
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
            job.reload(**self._one_call)
        error: dict[str, Any] | None = job.error_result
        return error

    def _loads_today(self, table_id: str) -> int:
        """Load jobs into the table since midnight, by this account; BigQuery counts days in Pacific time, we all 24."""
        since = datetime.now(UTC) - timedelta(days=1)
        jobs = self._client.list_jobs(min_creation_time=since, **self._one_call)
        plain = table_id.partition("$")[0]
        return sum(
            1
            for job in jobs
            if job.job_type == "load" and job.destination.table_id.partition("$")[0] == plain
            and job.destination.dataset_id == self.options.dataset
        )  # fmt: skip

    @contextmanager
    def _refusals(self, topic: Topic, hour: Hour) -> Iterator[None]:
        try:
            yield
        except LakehouseError:
            raise
        except _REFUSALS as refused:
            cause = refused.cause if isinstance(refused, RetryError) and refused.cause else refused
            raise MirrorError(
                f"mirror {self.name}: {topic.name} {hour}",
                found=f"{type(cause).__name__}: {first_line(cause)}",
                expected=f"BigQuery to take and count it in {self._options.project}.{self._options.dataset}",
                next_step="Check the network, the dataset and the rights there; the hour stays due.",
            ) from refused


class _TablePerHour:
    """`<topic>_<YYYYMMDDHH>`."""

    def __init__(self, mirror: BigQueryMirror) -> None:
        self._mirror = mirror

    def table_id(self, topic: Topic, hour: Hour) -> str:
        return f"{topic.name}_{stamp(hour)}"

    def rows_of(self, topic: Topic, hour: Hour) -> str:
        return f"`{self._mirror.where(topic, hour)}`"

    def schema(self, hour: SealedHour) -> list[Any]:
        """That of the files as they are: those from before a field came do not have it."""
        found: list[Any] = [] if hour.files else schema_of(sealed_schema(hour.topic))
        for file in hour.files:
            with open_file(hour.silver_uri, file.path, hour.storage_options) as source:
                found = merged(found, schema_of(pq.read_schema(source)))
        return found

    def manifest(self, topic: Topic, hour: Hour) -> dict[str, Any] | None:
        table = self._mirror.found(self.table_id(topic, hour))
        return _manifest_in(table.description) if table else None

    def is_complete(self, hour: SealedHour) -> bool:
        table = self._mirror.found(self.table_id(hour.topic, hour.hour))
        return table is not None and table.num_rows == hour.rows

    def stamps(self, topic: Topic) -> set[str]:
        form = re.compile(rf"{topic.name}_({_STAMP})")
        return {found[1] for name in self._mirror.tables() if (found := form.fullmatch(name))}

    def prepare(self, hour: SealedHour) -> None:
        self._mirror.ensure_dataset()

    def describe(self, hour: SealedHour) -> None:
        """After the load: a description that is there before its rows would be believed.

        The table also gets the fields that came after its files, as the view over all takes the newest table's.
        """
        loaded = getattr(self._mirror.found(self.table_id(hour.topic, hour.hour)), "schema", [])
        table = self._mirror.table(self.table_id(hour.topic, hour.hour))
        table.description = json.dumps(manifest_of(hour))
        table.labels = labels_of(hour)
        fields = ["description", "labels"]
        wanted = merged(loaded, schema_of(sealed_schema(hour.topic)))
        if wanted != loaded:
            table.schema = wanted
            fields.append("schema")
        if self._mirror.options.expires_after:
            table.expires = datetime.now(UTC) + self._mirror.options.expires_after
            fields.append("expires")
        self._mirror.changed(table, fields)

    def show(self, topic: Topic) -> None:
        """The view named as the topic. Tables of topics whose names begin with this one's must not get into it."""
        view = self._mirror.table(topic.name)
        century = f"{self._mirror.options.project}.{self._mirror.options.dataset}.{topic.name}_20"
        year, month, day, clock = (f"substr(_TABLE_SUFFIX, {at}, 2)" for at in (1, 3, 5, 7))
        view.view_query = (
            f"select *, concat('20', {year}, '-', {month}, '-', {day}, 'T', {clock}) as hour"
            f" from `{century}*` where regexp_contains(_TABLE_SUFFIX, r'^[0-9]{{8}}$')"
        )
        if self._mirror.found(topic.name) is None:
            self._mirror.created(view)


class _Partition:
    """`<topic>`, partitioned by the hour of ingestion: skewed rows carry earlier event times than their hour."""

    def __init__(self, mirror: BigQueryMirror) -> None:
        self._mirror = mirror

    def table_id(self, topic: Topic, hour: Hour) -> str:
        return f"{topic.name}${stamp(hour)}"

    def rows_of(self, topic: Topic, hour: Hour) -> str:
        return self._in_hour(topic.name, hour)

    def schema(self, hour: SealedHour) -> list[Any]:
        """The table's own, with what the topic has gained: a load into a partition may not take columns away."""
        table = self._mirror.found(hour.topic.name)
        return merged(table.schema if table else [], schema_of(sealed_schema(hour.topic)))

    def manifest(self, topic: Topic, hour: Hour) -> dict[str, Any] | None:
        query = f"select manifest from {self._in_hour(self._manifests(topic), hour)}"
        try:
            rows = self._mirror.query(query)
        except NotFound:
            return None
        return _manifest_in(rows[0][0]) if rows else None

    def is_complete(self, hour: SealedHour) -> bool:
        query = f"select count(*) from {self.rows_of(hour.topic, hour.hour)}"
        try:
            return int(self._mirror.query(query)[0][0]) == hour.rows
        except NotFound:
            return False

    def stamps(self, topic: Topic) -> set[str]:
        """Partitions of rows, and those of manifests: an empty hour has no other."""
        view = f"`{self._mirror.options.project}.{self._mirror.options.dataset}.INFORMATION_SCHEMA.PARTITIONS`"
        names = f"('{topic.name}', '{self._manifests(topic)}')"
        try:
            found = self._mirror.query(f"select partition_id from {view} where table_name in {names}")
        except NotFound:
            return set()
        return {each for (each,) in found if re.fullmatch(_STAMP, each or "")}

    def prepare(self, hour: SealedHour) -> None:
        table = self._mirror.found(hour.topic.name)
        wanted = self.schema(hour)
        if table is None:
            self._create(hour.topic.name, wanted, hour)
        elif wanted != table.schema:
            table.schema = wanted
            self._mirror.changed(table, ["schema"])

    def describe(self, hour: SealedHour) -> None:
        name = self._manifests(hour.topic)
        fields = [bigquery.SchemaField("manifest", "STRING")]
        if self._mirror.found(name) is None:
            self._create(name, fields, hour)
        line = json.dumps({"manifest": json.dumps(manifest_of(hour))}).encode()
        config = bigquery.LoadJobConfig(
            source_format="NEWLINE_DELIMITED_JSON", write_disposition="WRITE_TRUNCATE", schema=fields,
            labels=labels_of(hour),
        )  # fmt: skip
        now = f"{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        job_id = f"{job_id_of(self._mirror.options.dataset, hour, 1)}_manifest_{now}"
        job = self._mirror.loaded_from_memory(line, f"{name}${stamp(hour.hour)}", job_id, config)
        if error := self._mirror._outcome(job):
            raise _failed(self._mirror.name, hour, job, error)

    def show(self, topic: Topic) -> None:
        view = self._mirror.table(f"{topic.name}_hours")
        table = f"{self._mirror.options.project}.{self._mirror.options.dataset}.{topic.name}"
        hour = "format_timestamp('%Y-%m-%dT%H', _PARTITIONTIME)"
        view.view_query = f"select *, {hour} as hour from `{table}`"
        if self._mirror.found(view.table_id) is None:
            self._mirror.created(view)

    def _create(self, name: str, schema: Sequence[Any], hour: SealedHour) -> None:
        table = bigquery.Table(self._mirror.table_reference(name), schema=schema)
        after = self._mirror.options.expires_after
        table.time_partitioning = bigquery.TimePartitioning(
            type_="HOUR", expiration_ms=after // timedelta(milliseconds=1) if after else None
        )
        table.labels = {"topic": _label(hour.topic.name)}
        self._mirror.created(table)

    def _manifests(self, topic: Topic) -> str:
        return f"{topic.name}_manifests"

    def _in_hour(self, table_id: str, hour: Hour) -> str:
        start = f"{hours.start_of(hour):%Y-%m-%d %H:00:00}"
        return f"`{self._mirror.table_reference(table_id)}` where _PARTITIONTIME = timestamp('{start}+00:00')"


class _Loads:
    """Load jobs of the last day for each table: asked once, then counted along, and asked again after an hour."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, tuple[int, float]] = {}
        self._lock = Lock()

    def count(
        self, mirror: str, hour: SealedHour, options: BigQueryOptions, table_id: str, asked: Callable[[str], int]
    ) -> None:
        """Count one more load; MirrorError when the day has no more of them for this table."""
        table, is_partition, _ = table_id.partition("$")
        if not is_partition:  # a table of its own for each hour never comes near the limit
            return
        with self._lock:
            known, since = self._counts.get(table, (0, 0.0))
            if not since or time.monotonic() - since > 3600:
                known, since = asked(table), time.monotonic()
            if known >= self._limit:
                raise MirrorError(
                    f"mirror {mirror}: {hour.topic.name} {hour.hour}",
                    found=f"{known} loads into {options.dataset}.{table} within a day",
                    expected=f"fewer than {self._limit}, the limit for a table",
                    next_step="Nothing to do: the hour stays due, and is loaded when the day has room again.",
                )
            self._counts[table] = known + 1, since


def client_of(options: BigQueryOptions) -> Any:
    if not options.endpoint:
        return bigquery.Client(project=options.project, location=options.location)
    return bigquery.Client(
        project=options.project,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options=ClientOptions(api_endpoint=options.endpoint),
    )


@contextmanager
def staged(hour: SealedHour, staging: str, mirror: str) -> Iterator[list[str]]:
    """The addresses of the hour's files: silver's own on GCS, else copies that are removed after the load."""
    if hour.silver_uri.startswith("gs://"):
        yield [f"{hour.silver_uri}/{file.path}" for file in hour.files]
        return
    if hour.files and not staging:
        raise MirrorError(
            f"mirror {mirror}: {hour.topic.name} {hour.hour}",
            found=f"a lake at {hour.silver_uri}",
            expected="one on gs://, which BigQuery can read",
            next_step=f"Give `staging` of mirrors.{mirror} a gs:// folder for copies.",
        )
    parts = {f"{hour.topic.name}/{hour.hour}-r{hour.revision}/{n:05d}.parquet": f for n, f in enumerate(hour.files)}
    storage = storage_for(staging, hour.storage_options) if parts else None
    try:
        for path, file in parts.items():
            _stage(storage, path, hour, file)
        yield [f"{staging}/{path}" for path in parts]
    finally:
        if storage is not None:
            storage.delete(parts)


def _stage(storage: Any, path: str, hour: SealedHour, file: DataFile) -> None:
    with open_file(hour.silver_uri, file.path, hour.storage_options) as source, storage.create(path) as target:
        shutil.copyfileobj(source, target, 4 * 1024**2)
    storage.finish([path])


def stamp(hour: Hour) -> str:
    """`2026112305`."""
    return f"{hours.start_of(hour):%Y%m%d%H}"


def job_id_of(dataset: str, hour: SealedHour, attempt: int) -> str:
    return f"lakehouse_{dataset}_{hour.topic.name}_{stamp(hour.hour)}_r{hour.revision}_a{attempt}"


def labels_of(hour: SealedHour) -> dict[str, str]:
    values = {"topic": hour.topic.name, "hour": hour.hour, "revision": str(hour.revision), "release": hour.release}
    return {key: _label(value) for key, value in values.items()}


def schema_of(schema: Any) -> list[Any]:
    """BigQuery's fields for Arrow's: lists are repeated fields, and maps repeated pairs."""
    return [_field(each.name, each.type) for each in schema]


def merged(present: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
    """`present` with the fields and members that only `wanted` has, after those it has."""
    new = {each.name.lower(): each for each in wanted}
    kept = [_merged_field(each, new.pop(each.name.lower(), None)) for each in present]
    return kept + list(new.values())


def _merged_field(present: Any, wanted: Any) -> Any:
    if wanted is None or present.field_type not in ("RECORD", "STRUCT"):
        return present
    return bigquery.SchemaField(
        present.name, "RECORD", mode=present.mode, fields=merged(present.fields, wanted.fields)
    )  # fmt: skip


def _field(name: str, kind: pa.DataType, mode: str = "NULLABLE") -> Any:
    if pa.types.is_list(kind):
        return _field(name, kind.value_type, "REPEATED")
    if pa.types.is_map(kind):
        pair = (_field("key", kind.key_type), _field("value", kind.item_type))
        return bigquery.SchemaField(name, "RECORD", mode="REPEATED", fields=pair)
    if pa.types.is_struct(kind):
        return bigquery.SchemaField(name, "RECORD", mode=mode, fields=schema_of(kind))
    if pa.types.is_decimal(kind):
        is_numeric = kind.scale <= 9 and kind.precision - kind.scale <= 29
        return bigquery.SchemaField(
            name, "NUMERIC" if is_numeric else "BIGNUMERIC", mode=mode, precision=kind.precision, scale=kind.scale
        )
    return bigquery.SchemaField(name, _STORED.get(_LEAVES[kind], _LEAVES[kind]), mode=mode)


_STORED = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}
"""As BigQuery's API gives them back."""


def _label(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def _manifest_in(text: str | None) -> dict[str, Any] | None:
    """None when it is not ours: such an hour is replaced."""
    try:
        manifest = json.loads(text or "")
        return manifest if isinstance(manifest, dict) and "revision" in manifest else None
    except ValueError:
        return None


def _loads_same(job: Any, uris: Sequence[str]) -> bool:
    """A lake that was built anew has the same revisions with other files."""
    return [urlsplit(uri).path for uri in job.source_uris or []] == [urlsplit(uri).path for uri in uris]


def _failed(mirror: str, hour: SealedHour, job: Any, error: dict[str, Any]) -> MirrorError:
    said = [error, *(each for each in job.errors or [] if each.get("message") != error.get("message"))]
    text = "; ".join(f"{each.get('reason')}: {each.get('message')}" for each in said)
    return MirrorError(
        f"mirror {mirror}: {hour.topic.name} {hour.hour}, load job {job.job_id}",
        found=text[:2000],
        expected="a load job that succeeds",
        next_step="Mend what BigQuery names; the hour stays due and is loaded by the next attempt.",
    )
