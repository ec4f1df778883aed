"""Dataproc's JobController as its reference documents it, at a port of its own, with clusters that run real processes.

States and substates, ids and labels with their rules, request ids, filters, pages, restartable jobs, cancellation with
YARN's grace, quotas of the minute, refusals and losses. What is not known here is refused.
https://cloud.google.com/dataproc/docs/reference/rpc/google.cloud.dataproc.v1, .../concepts/jobs/life-of-a-job,
.../concepts/jobs/restartable-jobs and .../quotas.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.cloud.dataproc_v1 import types
from google.protobuf import empty_pb2

SERVICE = "google.cloud.dataproc.v1.JobController"
STATE, SUBSTATE = types.JobStatus.State, types.JobStatus.Substate
ENDED = (STATE.CANCELLED, STATE.DONE, STATE.ERROR)
QUOTAS = {"SubmitJob": ("JobOperation", 400), "UpdateJob": ("JobOperation", 400), "CancelJob": ("JobOperation", 400),
          "DeleteJob": ("JobOperation", 400), "GetJob": ("GetJob", 7500), "ListJobs": ("Default", 7500)}  # fmt: skip
"""Requests a minute and region, by method: its quota's name, and how many that one has."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_CONDITION = re.compile(r"(status\.state|labels\.[a-z0-9-]+)\s*=\s*(\S+)")
THRASHES_AT = 4
"""Deaths within 10 minutes, after which a job is given up."""


class Refused(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


@dataclass
class Cluster:
    """A cluster: `jobs` at a time; `grace` is YARN's between SIGTERM and SIGKILL, in seconds."""

    jobs: int = 11
    grace: float = 0.25
    takes_jobs: bool = True


@dataclass
class Process:
    """What a cluster runs for a job."""

    command: list[str]
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)


class FakeDataproc:
    """One project and region. `process` says what is run for a job, and raises OSError for what its nodes miss."""

    def __init__(self, folder: Path, process: Callable[[Any], Process]) -> None:
        self.folder, self._process = folder, process
        self.project, self.region = "example-project", "europe-north1"
        self.clusters: dict[str, Cluster] = {"lake": Cluster()}
        self.requests: list[str] = []
        self.refusals: list[tuple[str, grpc.StatusCode, str]] = []
        """Of the next calls of a method each: the first is refused so, and taken off."""
        self.lost_answers: Counter[str] = Counter()
        """Of so many next calls of a method the answer is lost although it was done."""
        self.denied: set[str] = set()
        self.quotas = dict(QUOTAS)
        self.minute_seconds = 60.0
        self.restart_seconds = 0.3
        """From a death to the next start; on real clusters some seconds."""
        self.pending: set[str] = set()
        """Jobs that no agent takes."""
        self.jobs: dict[str, Any] = {}
        self._by_request: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._spent: Counter[tuple[str, int]] = Counter()
        self._deaths: dict[str, list[float]] = {}
        self._cancelled_at: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self.folder.mkdir(parents=True, exist_ok=True)

    # --- the protocol ----------------------------------------------------------------------------------------------

    def answer(self, method: str, request: Any) -> Any:
        with self._lock:
            self.requests.append(method)
            self._check(method, request)
            found = getattr(self, f"_{method}")(request)
            if self.lost_answers[method] > 0:
                self.lost_answers[method] -= 1
                raise Refused(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
            return found

    def _check(self, method: str, request: Any) -> None:
        for place, (refused, code, details) in enumerate(self.refusals):
            if refused == method:
                del self.refusals[place]
                raise Refused(code, details)
        name, limit = self.quotas[method]
        spent = (name, int(time.monotonic() / self.minute_seconds))
        self._spent[spent] += 1
        if self._spent[spent] > limit:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Quota exceeded for quota metric '{name} requests' and limit "
                f"'{name}RequestsPerMinutePerProjectPerRegion' of service 'dataproc.googleapis.com' for consumer "
                "'project_number:1'.",
            )
        if method in self.denied or request.project_id != self.project:
            raise Refused(
                grpc.StatusCode.PERMISSION_DENIED,
                f"Permission 'dataproc.jobs.{method}' denied on resource "
                f"'//dataproc.googleapis.com/projects/{request.project_id}/regions/{request.region}' (or it may not "
                "exist).",
            )
        if request.region != self.region:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Region '{request.region}' is invalid or not supported")

    def _SubmitJob(self, request: Any) -> Any:
        if request.request_id and not _REQUEST_ID.fullmatch(request.request_id):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid request id {request.request_id!r}")
        if (first := self._by_request.get(request.request_id)) in self.jobs:  # whatever its state
            return self.jobs[first]
        job = types.Job(request.job)
        id_ = job.reference.job_id or f"made-{next(self._numbers)}"
        _check_job(job, id_)
        cluster = self.clusters.get(job.placement.cluster_name)
        name = f"projects/{self.project}/regions/{self.region}/clusters/{job.placement.cluster_name}"
        if cluster is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Not found: Cluster {name}")
        if not cluster.takes_jobs:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION, f"Cluster '{name}' is in state STOPPED and cannot accept jobs."
            )
        if id_ in self.jobs:
            raise Refused(
                grpc.StatusCode.ALREADY_EXISTS,
                f"Already exists: Job projects/{self.project}/regions/{self.region}/jobs/{id_}",
            )
        job.reference = types.JobReference(project_id=self.project, job_id=id_)
        job.job_uuid, job.driver_output_resource_uri = (
            f"uuid-{next(self._numbers)}",
            str(self.folder / id_ / "driveroutput"),
        )
        self.jobs[id_] = job
        if request.request_id:
            self._by_request[request.request_id] = id_
        self._move(job, STATE.PENDING)
        return job

    def _GetJob(self, request: Any) -> Any:
        return self._job(request.job_id)

    def _ListJobs(self, request: Any) -> Any:
        found = [job for _, job in sorted(self.jobs.items()) if _is_chosen(job, request.filter)]
        first = int(request.page_token or 0)
        last = first + (min(request.page_size, 1000) or 100)
        token = str(last) if last < len(found) else ""
        return types.ListJobsResponse(jobs=found[first:last], next_page_token=token)

    def _UpdateJob(self, request: Any) -> Any:
        if list(request.update_mask.paths) != ["labels"]:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Only labels can be updated")
        _check_labels(request.job.labels)
        job = self._job(request.job_id)
        job.labels = dict(request.job.labels)
        return job

    def _CancelJob(self, request: Any) -> Any:
        job = self._job(request.job_id)
        if job.status.state in ENDED:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Cannot cancel job {request.job_id}: it is {job.status.state.name}",
            )
        if job.status.state not in (STATE.CANCEL_PENDING, STATE.CANCEL_STARTED):
            self._move(job, STATE.CANCEL_PENDING)
        return job

    def _DeleteJob(self, request: Any) -> Any:
        job = self._job(request.job_id)
        if job.status.state not in ENDED:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"Job {request.job_id} is active and cannot be deleted")
        del self.jobs[request.job_id]
        return empty_pb2.Empty()

    def _job(self, id_: str) -> Any:
        if id_ not in self.jobs:
            raise Refused(
                grpc.StatusCode.NOT_FOUND, f"Not found: Job projects/{self.project}/regions/{self.region}/jobs/{id_}"
            )
        return self.jobs[id_]

    # --- clusters --------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """What agents do meanwhile: each job goes on by one state at most."""
        with self._lock:
            for id_, job in list(self.jobs.items()):
                self._go_on(id_, job)

    def _go_on(self, id_: str, job: Any) -> None:
        state, process = job.status.state, self._processes.get(id_)
        cluster = self.clusters.get(job.placement.cluster_name)
        if state in ENDED:
            return
        if cluster is None:
            self._kill(id_)
            self._move(job, STATE.ERROR, f"Cluster {job.placement.cluster_name} was deleted while the job was active.")
        elif state in (STATE.CANCEL_PENDING, STATE.CANCEL_STARTED):
            self._go_on_ending(id_, job, cluster)
        elif state == STATE.PENDING and id_ not in self.pending:
            self._move(job, STATE.SETUP_DONE)
        elif state == STATE.ATTEMPT_FAILURE and time.monotonic() - self._deaths[id_][-1] < self.restart_seconds:
            return
        elif state in (STATE.SETUP_DONE, STATE.ATTEMPT_FAILURE) or job.status.substate == SUBSTATE.QUEUED:
            self._begin(id_, job, cluster)
        elif state == STATE.RUNNING and process is not None and (code := process.poll()) is not None:
            del self._processes[id_]
            self._ended(id_, job, code)

    def _begin(self, id_: str, job: Any, cluster: Cluster) -> None:
        running = sum(self.jobs[each].placement.cluster_name == job.placement.cluster_name for each in self._processes)
        if running >= cluster.jobs:
            if job.status.substate != SUBSTATE.QUEUED:
                said = (
                    f"Awaiting execution [Throttling job {id_} (and maybe others): Too many running jobs "
                    f"(current={running} max={cluster.jobs})]"
                )
                self._move(job, STATE.RUNNING, said, SUBSTATE.QUEUED)
            return
        output = self.folder / id_ / "driveroutput.000000000"
        output.parent.mkdir(exist_ok=True)
        self._move(job, STATE.RUNNING, "", SUBSTATE.SUBMITTED)
        with output.open("ab") as log:
            try:
                made = self._process(job)
                self._processes[id_] = subprocess.Popen(
                    made.command, cwd=made.folder, env=dict(made.environment), stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError as missing:
                log.write(f"{missing}\n".encode())
                self._ended(id_, job, 1)

    def _ended(self, id_: str, job: Any, code: int) -> None:
        if code == 0:
            self._move(job, STATE.DONE)
            return
        said = (
            "Google Cloud Dataproc Agent reports job failure. If logs are available, they can be found at:\n"
            f"{job.driver_output_resource_uri}.*"
        )
        at = time.monotonic()
        deaths = self._deaths.setdefault(id_, [])
        deaths.append(at)
        is_thrashing = sum(at - each < 600 for each in deaths) >= THRASHES_AT
        allowed = job.scheduling.max_failures_per_hour
        if sum(at - each < 3600 for each in deaths) > allowed or is_thrashing:
            self._move(job, STATE.ERROR, f"Job is thrashing. {said}" if is_thrashing and allowed else said)
        else:
            self._move(job, STATE.ATTEMPT_FAILURE, said)

    def _go_on_ending(self, id_: str, job: Any, cluster: Cluster) -> None:
        process = self._processes.get(id_)
        if job.status.state == STATE.CANCEL_PENDING:
            self._move(job, STATE.CANCEL_STARTED)
            self._cancelled_at[id_] = time.monotonic()
            if process is not None:
                process.terminate()
            return
        if process is not None and process.poll() is None:
            if time.monotonic() - self._cancelled_at[id_] < cluster.grace:
                return
            self._kill(id_)
        self._processes.pop(id_, None)
        self._move(job, STATE.CANCELLED)

    def lose_agent(self, id_: str, *, for_good: bool = False) -> None:
        """The cluster's agent is silent; `for_good`: for so long that the job fails."""
        with self._lock:
            job = self.jobs[id_]
            self._move(job, STATE.RUNNING, "", SUBSTATE.STALE_STATUS)
            if for_good:
                self._kill(id_)
                self._move(job, STATE.ERROR, "Agent did not report status in time.")

    def forget(self, id_: str) -> None:
        """Somebody has deleted the job and what it ran."""
        with self._lock:
            self._kill(id_)
            del self.jobs[id_]

    def _kill(self, id_: str) -> None:
        process = self._processes.pop(id_, None)
        if process is not None:
            process.kill()
            process.wait()

    def end(self) -> None:
        with self._lock:
            for id_ in list(self._processes):
                self._kill(id_)

    def _move(self, job: Any, state: Any, details: str = "", substate: Any = SUBSTATE.UNSPECIFIED) -> None:
        if job.status.state != STATE.STATE_UNSPECIFIED:
            job.status_history = [*job.status_history, job.status]
        now = datetime.now(UTC)
        job.status = types.JobStatus(state=state, details=details, substate=substate, state_start_time=now)
        job.done = state in ENDED


def _check_job(job: Any, id_: str) -> None:
    if not _ID.fullmatch(id_):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid job id '{id_}'")
    if not job.placement.cluster_name:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Cluster name is required")
    if not 0 <= job.scheduling.max_failures_per_hour <= 10:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "max_failures_per_hour must be between 0 and 10")
    if not job.pyspark_job.main_python_file_uri.endswith(".py"):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Main python file must be a .py file")
    for address in job.pyspark_job.python_file_uris:
        if not address.endswith((".py", ".egg", ".zip")):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Unsupported python file {address}")
    for address in job.pyspark_job.archive_uris:
        if not address.partition("#")[0].endswith((".jar", ".tar", ".tar.gz", ".tgz", ".zip")):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Unsupported archive {address}")
    _check_labels(job.labels)


def _check_labels(labels: Mapping[str, str]) -> None:
    """RFC 1035, as the reference of `Job.labels` says."""
    if len(labels) > 32:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "No more than 32 labels can be associated with a job")
    for key, value in labels.items():
        if not _LABEL.fullmatch(key) or (value and not _LABEL.fullmatch(value)):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid label '{key}: {value}'")


def _is_chosen(job: Any, wanted: str) -> bool:
    rest = re.sub(_CONDITION, "", wanted).replace("AND", "").strip()
    if rest:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid filter: {rest}")
    for name, value in _CONDITION.findall(wanted):
        if name == "status.state":
            if (value == "ACTIVE") == (job.status.state in ENDED):
                return False
        elif value not in ("*", job.labels.get(name.removeprefix("labels."))) or name[7:] not in job.labels:
            return False
    return True


_REQUESTS = {"SubmitJob": types.SubmitJobRequest, "GetJob": types.GetJobRequest, "ListJobs": types.ListJobsRequest,
             "UpdateJob": types.UpdateJobRequest, "CancelJob": types.CancelJobRequest,
             "DeleteJob": types.DeleteJobRequest}  # fmt: skip


def _serialized(answer: Any) -> bytes:
    return bytes(answer.SerializeToString() if isinstance(answer, empty_pb2.Empty) else type(answer).serialize(answer))


def _handler(fake: FakeDataproc, method: str) -> grpc.RpcMethodHandler:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return fake.answer(method, request)
        except Refused as refused:
            context.abort(refused.code, refused.details)

    return grpc.unary_unary_rpc_method_handler(handle, _REQUESTS[method].deserialize, _serialized)


@contextmanager
def serving(fake: FakeDataproc, every_seconds: float = 0.03) -> Iterator[str]:
    """The fake at an address of its own, with agents that go on."""
    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {method: _handler(fake, method) for method in _REQUESTS}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    is_over = threading.Event()

    def agents() -> None:
        while not is_over.wait(every_seconds):
            fake.step()

    thread = threading.Thread(target=agents, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        is_over.set()
        thread.join()
        server.stop(None).wait()
        fake.end()
