"""Dataproc's JobController, with a patience for what passes and words for what does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from lakehouse.errors import ConfigError, LakeError, LakehouseError, in_one_line, require

EMULATOR = "DATAPROC_EMULATOR_HOST"
"""`host:port` of a server that stands in for Dataproc."""
PAGE = 500
_CALL_SECONDS = 60.0


@dataclass(frozen=True)
class Pauses:
    """Between tries of a call that was refused in passing, doubled from `first` to `longest` until `patience` ends.

    Quotas are counted anew each minute: so long is waited for at least.
    """

    first: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(seconds=20)
    patience: timedelta = timedelta(minutes=3)


class JobsClient:
    """Calls for the jobs of one project and region. ConfigError for what somebody has to put right, LakeError when
    Dataproc does not answer or refuses for longer than `pauses` allow."""

    def __init__(self, project: str, region: str, pauses: Pauses | None = None) -> None:
        self.project, self.region = project, region
        self._pauses = pauses or Pauses()

    def submit(self, job: dict[str, Any], request_id: str) -> Any:
        """The job; that which is there where the request came before. None where another request made one of its id.

        ConfigError naming the cluster where there is none of that name, or it takes no jobs.
        """
        from google.api_core.exceptions import AlreadyExists

        with self._errors(f"job {job['reference']['job_id']}", "roles/dataproc.editor", job["placement"]):
            try:
                return self._call("submit_job", job=job, request_id=request_id)
            except AlreadyExists:
                return None

    def get(self, job: str) -> Any:
        """None where there is no such job."""
        from google.api_core.exceptions import NotFound

        with self._errors(f"job {job}", "roles/dataproc.viewer"):
            try:
                return self._call("get_job", job_id=job)
            except NotFound:
                return None

    def jobs(self, wanted: str, patience: timedelta | None = None) -> list[Any]:
        """Those that a filter chooses, such as `labels.lake = l1`; `patience` in the place of that of `pauses`."""
        with self._errors("jobs", "roles/dataproc.viewer"):
            request = {"filter": wanted, "page_size": PAGE}
            found: list[Any] = self._retried(
                lambda: list(self._client.list_jobs(request=self._scoped(request), **self._options_for(patience))),
                patience,
            )
            return found

    def relabel(self, job: str, labels: dict[str, str]) -> None:
        """Replace all of a job's labels: nothing else of a job can be changed."""
        with self._errors(f"job {job}", "roles/dataproc.editor"):
            self._call("update_job", job_id=job, job={"labels": labels}, update_mask={"paths": ["labels"]})

    def cancel(self, job: str) -> None:
        """Nothing for a job that has ended, or is not there any more."""
        self._quietly("cancel_job", job)

    def delete(self, job: str) -> None:
        """Forget a job that has ended; nothing for one that has not."""
        self._quietly("delete_job", job)

    def _quietly(self, method: str, job: str) -> None:
        from google.api_core.exceptions import FailedPrecondition, NotFound

        with self._errors(f"job {job}", "roles/dataproc.editor"):
            try:
                self._call(method, job_id=job)
            except (FailedPrecondition, NotFound):
                return

    # --- calls -----------------------------------------------------------------------------------------------------

    def _call(self, method: str, **request: Any) -> Any:
        call = getattr(self._client, method)
        return self._retried(lambda: call(request=self._scoped(request), **self._options_for()))

    def _scoped(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"project_id": self.project, "region": self.region, **request}

    @staticmethod
    def _options_for(patience: timedelta | None = None) -> dict[str, Any]:
        seconds = _CALL_SECONDS if patience is None else min(_CALL_SECONDS, patience.total_seconds())
        return {"retry": None, "timeout": seconds}

    def _retried(self, call: Callable[[], Any], patience: timedelta | None = None) -> Any:
        from google.api_core import exceptions
        from google.api_core.retry import Retry, if_exception_type

        passing = if_exception_type(
            exceptions.ServiceUnavailable,
            exceptions.TooManyRequests,  # and its kind ResourceExhausted: a quota of the minute
            exceptions.InternalServerError,
            exceptions.GatewayTimeout,
            exceptions.Aborted,
        )
        return Retry(
            predicate=passing,
            initial=self._pauses.first.total_seconds(),
            maximum=self._pauses.longest.total_seconds(),
            timeout=(patience or self._pauses.patience).total_seconds(),
        )(call)()

    @cached_property
    def _client(self) -> Any:
        require("google.cloud.dataproc_v1")
        from google.cloud.dataproc_v1 import JobControllerClient
        from google.cloud.dataproc_v1.services.job_controller.transports import JobControllerGrpcTransport

        emulator = os.environ.get(EMULATOR)
        if not emulator:
            return JobControllerClient(client_options={"api_endpoint": f"{self.region}-dataproc.googleapis.com:443"})
        import grpc

        return JobControllerClient(transport=JobControllerGrpcTransport(channel=grpc.insecure_channel(emulator)))

    @contextmanager
    def _errors(self, subject: str, role: str, placement: dict[str, str] | None = None) -> Iterator[None]:
        """What Google says, in an operator's words."""
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError

        where = f"Dataproc in {self.project}, {self.region}: {subject}"
        try:
            yield
        except GoogleAuthError as refused:
            raise ConfigError(
                where,
                found=f"no valid Google credentials here ({in_one_line(refused)})",
                expected="Application Default Credentials",
                next_step="Run `gcloud auth application-default login`.",
            ) from refused
        except (GoogleAPICallError, RetryError) as refused:
            cause = refused.cause if isinstance(refused, RetryError) and refused.cause else refused
            raise _error_of(where, cause, role, placement) from refused


def _error_of(where: str, refused: Any, role: str, placement: dict[str, str] | None) -> LakehouseError:
    from google.api_core import exceptions

    said = in_one_line(refused)
    if isinstance(refused, exceptions.Forbidden):
        return ConfigError(
            where,
            found=f"no permission ({said})",
            expected=f"an account with {role} in the project",
            next_step=f"Grant {role} to whoever runs the command, and check the project's id and that the Dataproc API "
            "is enabled in it.",
        )
    if isinstance(refused, exceptions.Unauthenticated):
        return ConfigError(
            where,
            found=f"no valid credentials ({said})",
            expected="Application Default Credentials",
            next_step="Run `gcloud auth application-default login`.",
        )
    if isinstance(refused, exceptions.NotFound | exceptions.FailedPrecondition) and placement is not None:
        return ConfigError(
            where,
            found=f"no cluster {placement['cluster_name']} that takes jobs ({said})",
            expected="a running cluster of that name in the project and region",
            next_step="Correct `dataproc.cluster`, start the cluster, or make it: `lakehouse dataproc create-command` "
            "prints how.",
        )
    if isinstance(refused, exceptions.BadRequest | exceptions.NotFound):
        return ConfigError(
            where,
            found=f"a refused request ({said})",
            expected="a project, a region and a cluster that there are",
            next_step="Check the section `dataproc` of fleet.yaml.",
        )
    return LakeError(
        where,
        found=said,
        expected="an answer of Dataproc",
        next_step="Run the command again; https://status.cloud.google.com says whether Google has an outage.",
    )
