"""The one dataset that a mirror writes to: its tables, queries and load jobs, each call with a bound on its time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import NotFound, RetryError
from google.api_core.retry import exponential_sleep_generator, if_exception_type, retry_target
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY

from lakehouse.config import Root
from lakehouse.durations import Duration, Wait
from lakehouse.errors import MirrorError
from lakehouse.keys import Frozen, key
from lakehouse.mirrors.bigquery.schema import stamp
from lakehouse.mirrors.contract import SealedHour

LOADS_PER_TABLE_AND_DAY = 1500
"""BigQuery's own limit, which failed loads count for, too."""


class BigQueryOptions(Frozen):
    """The keys of a mirror of kind `bigquery`."""

    kind: Literal["bigquery"]
    project: str = key(
        min_length=1,
        unit="project's id",
        doc="Where the dataset is and the load jobs run.",
    )
    dataset: str = key(
        pattern=r"^[A-Za-z0-9_]{1,1024}$",
        unit="letters, digits and _",
        doc="Made when it is missing; needs the roles `bigquery.jobUser` and `bigquery.dataEditor`.",
    )
    location: str = key(
        "US",
        unit="location",
        doc="That of the lake's bucket: BigQuery loads from no other.",
    )
    layout: Literal["table_per_hour", "partition"] = key(
        "table_per_hour",
        unit="table_per_hour, partition",
        doc=(
            "`<topic>_<YYYYMMDDHH>` with the view `<topic>` over all; or partitions of `<topic>` with the view "
            "`<topic>_hours`, which queries over many hours read faster."
        ),
    )
    staging: Root = key(
        "",
        unit="gs:// folder",
        doc="For copies of a lake that is not on GCS. They are removed after each load.",
    )
    array_nulls: Literal["refuse", "drop"] = key(
        "refuse",
        unit="refuse, drop",
        doc=(
            "BigQuery's arrays hold no nulls. `refuse`: an hour that has one within an array stays out. `drop`: such "
            "nulls are left out of the copy that is loaded, for which `staging` must be given."
        ),
    )
    expires_after: Duration | None = key(
        None,
        unit="duration",
        doc=(
            "When BigQuery removes an hour by itself. From publishing; with partitions from the hour itself, as "
            "BigQuery counts, so longer than any back-fill reaches."
        ),
    )
    loads_per_day: int = key(
        LOADS_PER_TABLE_AND_DAY,
        ge=1,
        unit="load jobs into a table",
        doc="Less where others load into the same partitioned table.",
    )
    hours_at_once: int = key(
        8,
        ge=1,
        unit="hours of a topic",
        doc="Load jobs side by side; they cost BigQuery's time, not ours.",
    )
    patience: Wait = key(
        timedelta(minutes=1),
        unit="duration",
        doc="How long a call is tried again before the hour is left to the next run.",
    )
    timeout: Wait = key(
        timedelta(hours=1),
        unit="duration",
        doc="Longest wait for a load job or a count.",
    )
    endpoint: str = key(
        "",
        unit="address",
        doc="An emulator's; Google's when left out.",
    )


class _UnfinishedError(Exception):
    """A load job is still running."""


class Dataset:
    """Tables are named by their ids in the dataset; `address` gives the whole name."""

    def __init__(self, mirror: str, options: BigQueryOptions, client: Any) -> None:
        self.mirror, self.options, self._client = mirror, options, client
        self._retry = DEFAULT_RETRY.with_timeout(options.patience / timedelta(seconds=1))
        self._one_call = {"retry": self._retry, "timeout": min(60.0, options.patience / timedelta(seconds=1))}

    def address(self, table_id: str) -> str:
        return f"{self.options.project}.{self.options.dataset}.{table_id}"

    def table(self, table_id: str) -> Any:
        """A table to be created or changed; nothing is asked of BigQuery."""
        return bigquery.Table(self.address(table_id))

    def table_or_none(self, table_id: str) -> Any:
        """The table as it is; None when there is none."""
        try:
            return self._client.get_table(self.table(table_id), **self._one_call)
        except NotFound:
            return None

    def tables(self) -> list[str]:
        """The ids of all tables and views; none when there is no dataset."""
        dataset = f"{self.options.project}.{self.options.dataset}"
        try:
            return [table.table_id for table in self._client.list_tables(dataset, **self._one_call)]
        except NotFound:
            return []

    def create(self, table: Any) -> None:
        """Create a table or view where there is none yet, and the dataset where that is missing."""
        try:
            self._client.create_table(table, exists_ok=True, **self._one_call)
        except NotFound:
            self.ensure()
            self._client.create_table(table, exists_ok=True, **self._one_call)

    def ensure(self) -> None:
        """Create the dataset where there is none."""
        dataset = bigquery.Dataset(f"{self.options.project}.{self.options.dataset}")
        try:
            self._client.get_dataset(dataset.reference, **self._one_call)
        except NotFound:
            dataset.location = self.options.location
            self._client.create_dataset(dataset, exists_ok=True, **self._one_call)

    def update(self, table: Any, fields: Sequence[str]) -> None:
        self._client.update_table(table, fields, **self._one_call)

    def delete(self, table_id: str) -> None:
        """Delete a table or partition; none there is fine."""
        self._client.delete_table(self.address(table_id), not_found_ok=True, **self._one_call)

    def query(self, text: str) -> list[tuple[Any, ...]]:
        seconds = self.options.timeout / timedelta(seconds=1)
        rows = self._client.query_and_wait(
            text, location=self.options.location, api_timeout=self._one_call["timeout"], wait_timeout=seconds,
            retry=self._retry, job_retry=None,
        )  # fmt: skip
        return [tuple(row.values()) for row in rows]

    # --- load jobs

    def job_id(self, hour: SealedHour, attempt: int) -> str:
        """Made of what is loaded: a process that died finds its job instead of starting a second one."""
        return f"lakehouse_{self.options.dataset}_{hour.topic.name}_{stamp(hour.hour)}_r{hour.revision}_a{attempt}"

    def load(self, uris: Sequence[str], table_id: str, job_id: str, config: Any) -> Any:
        """A new load job; google's Conflict when there is one of that id."""
        return self._client.load_table_from_uri(
            list(uris), self.address(table_id), job_id=job_id, job_config=config, location=self.options.location,
            **self._one_call,
        )  # fmt: skip

    def load_from_memory(self, data: bytes, table_id: str, job_id: str, config: Any) -> Any:
        return self._client.load_table_from_file(
            io.BytesIO(data), self.address(table_id), size=len(data), job_id=job_id, job_config=config,
            location=self.options.location, timeout=self._one_call["timeout"], num_retries=2,
        )  # fmt: skip

    def job(self, job_id: str) -> Any:
        return self._client.get_job(job_id, location=self.options.location, **self._one_call)

    def outcome(self, job: Any) -> dict[str, Any] | None:
        """Wait for the job's end; what BigQuery says of its failure, None when it succeeded."""

        def check() -> None:
            if job.state != "DONE":
                job.reload(**self._one_call)
            if job.state != "DONE":
                raise _UnfinishedError

        try:
            retry_target(
                check,
                if_exception_type(_UnfinishedError),
                exponential_sleep_generator(initial=0.05, maximum=5.0),
                timeout=self.options.timeout / timedelta(seconds=1),
            )
        except RetryError as late:
            if not isinstance(late.cause, _UnfinishedError):
                raise
            return {"reason": "unfinished", "message": f"not done after {self.options.timeout}"}
        error: dict[str, Any] | None = job.error_result
        return error

    def loads_today(self, table_id: str) -> int:
        """Load jobs into the table in the last 24 hours, by this account; BigQuery's own day is one in Pacific time."""
        since = datetime.now(UTC) - timedelta(days=1)
        jobs = self._client.list_jobs(min_creation_time=since, **self._one_call)
        plain = table_id.partition("$")[0]
        return sum(
            1
            for job in jobs
            if job.job_type == "load" and job.destination.table_id.partition("$")[0] == plain
            and job.destination.dataset_id == self.options.dataset
        )  # fmt: skip


def client_of(options: BigQueryOptions) -> Any:
    if not options.endpoint:
        return bigquery.Client(project=options.project, location=options.location)
    return bigquery.Client(
        project=options.project,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options=ClientOptions(api_endpoint=options.endpoint),
    )


def load_failure(mirror: str, hour: SealedHour, job: Any, error: dict[str, Any]) -> MirrorError:
    said = [error, *(each for each in job.errors or [] if each.get("message") != error.get("message"))]
    text = "; ".join(f"{each.get('reason')}: {each.get('message')}" for each in said)
    return MirrorError(
        f"mirror {mirror}: {hour.topic.name} {hour.hour}, load job {job.job_id}",
        found=text[:2000],
        expected="a load job that succeeds",
        next_step="Fix what BigQuery names; the hour stays due and is loaded by the next attempt.",
    )
