"""Load jobs for one hour, until one has succeeded."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
from google.api_core.exceptions import Conflict
from google.api_core.retry import exponential_sleep_generator, if_exception_type, retry_target
from google.cloud import bigquery
from google.cloud.bigquery.format_options import ParquetOptions

from lakehouse.errors import MirrorError
from lakehouse.mirrors.bigquery.dataset import Dataset, load_failure
from lakehouse.mirrors.bigquery.layouts import Layout
from lakehouse.mirrors.bigquery.quota import LoadQuota
from lakehouse.mirrors.bigquery.schema import labels_of
from lakehouse.mirrors.contract import SealedHour
from lakehouse.mirrors.retries import last_error

TRIES = 3
"""Load jobs for one publish: as long as they fail for reasons that BigQuery says may pass."""

PAUSE = timedelta(seconds=2)
"""Before the second job; doubled before each further one, on average."""

_PASSING = {"backendError", "internalError", "jobBackendError", "jobInternalError", "rateLimitExceeded",
            "jobRateLimitExceeded", "tableUnavailable", "timeout"}  # fmt: skip
"""Reasons of failed jobs, from BigQuery's table of error messages."""

_ATTEMPTS = 1000


def load_config(schema: Sequence[Any], labels: Mapping[str, str]) -> Any:
    """A load that replaces all of its table or partition when it ends, and nothing before."""
    parquet = ParquetOptions()  # type: ignore[no-untyped-call]
    parquet.enable_list_inference = True
    parquet.map_target_type = "ARRAY_OF_STRUCT"
    config = bigquery.LoadJobConfig(
        source_format="PARQUET",
        write_disposition="WRITE_TRUNCATE",
        create_disposition="CREATE_IF_NEEDED",
        schema=schema,
        labels=labels,
    )
    config.parquet_options = parquet
    return config


class _PassingError(Exception):
    """A job failed for a reason that may pass: the next one may succeed."""


class LoadAttempts:
    """The load jobs of an hour's revision, numbered from 1: this process's and those of others before it."""

    def __init__(self, dataset: Dataset, layout: Layout, quota: LoadQuota, pause: timedelta = PAUSE) -> None:
        self._dataset, self._layout, self._quota = dataset, layout, quota
        self._pause = pause

    def load(self, hour: SealedHour, uris: Sequence[str], force: bool) -> None:
        """One job that succeeded, this process's or another's; one that failed is followed by the next.

        MirrorError when a job fails for a reason that does not pass, or too many have failed.
        """
        jobs = self._jobs(hour, uris, force)
        tries = 0

        def load_once() -> None:
            nonlocal tries
            job, is_ours = next(jobs)
            tries += is_ours
            error = self._dataset.outcome(job)
            if error is not None:
                failure = load_failure(self._dataset.mirror, hour, job, error)
                raise _PassingError(failure) if error.get("reason") in _PASSING and tries < TRIES else failure

        longest = self._dataset.options.patience / timedelta(seconds=1)
        pauses = exponential_sleep_generator(self._pause / timedelta(seconds=1), longest)
        retry_target(load_once, if_exception_type(_PassingError), pauses, timeout=None, exception_factory=last_error)

    def _jobs(self, hour: SealedHour, uris: Sequence[str], force: bool) -> Iterator[tuple[Any, bool]]:
        """The jobs of this revision that can serve, each with whether we started it; MirrorError after very many."""
        config = load_config(self._layout.schema(hour), labels_of(hour))
        for attempt in range(1, _ATTEMPTS):
            job_id = self._dataset.job_id(hour, attempt)
            try:
                yield self._start(hour, uris, job_id, config), True
            except Conflict:
                job = self._dataset.job(job_id)
                if self._is_usable(job, hour, uris, force):
                    yield job, False
        raise MirrorError(
            f"mirror {self._dataset.mirror}: {hour.topic.name} {hour.hour}",
            found=f"{_ATTEMPTS} load jobs of this revision",
            expected="one that succeeded",
            next_step="See the jobs in BigQuery; seal the hour again to begin with new ones.",
        )

    def _start(self, hour: SealedHour, uris: Sequence[str], job_id: str, config: Any) -> Any:
        table_id = self._layout.table_id(hour.topic, hour.hour)
        self._quota.count(hour, table_id)
        if uris:
            return self._dataset.load(uris, table_id, job_id, config)
        empty = io.BytesIO()
        pq.write_table(hour.columns.empty_table(), empty)
        return self._dataset.load_from_memory(empty.getvalue(), table_id, job_id, config)

    def _is_usable(self, job: Any, hour: SealedHour, uris: Sequence[str], force: bool) -> bool:
        """Whether a job that is there already loads the same files and has not come to nothing."""
        if job.state == "DONE" and (force or job.error_result or not self._layout.is_complete(hour)):
            return False
        return _loads_same(job, uris)


def _loads_same(job: Any, uris: Sequence[str]) -> bool:
    """A lake that was built again from nothing has the same revisions with other files."""
    return [urlsplit(uri).path for uri in job.source_uris or []] == [urlsplit(uri).path for uri in uris]
