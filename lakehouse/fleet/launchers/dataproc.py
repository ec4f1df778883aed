"""Applications as jobs of Dataproc clusters, which start them again when they die."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from lakehouse.config import Settings
from lakehouse.errors import ConfigError
from lakehouse.fleet.dataproc import jobs
from lakehouse.fleet.dataproc.artifacts import Artifacts, store_errors
from lakehouse.fleet.dataproc.client import JobsClient, Pauses
from lakehouse.fleet.dataproc.labels import job_id, lake_label, request_id
from lakehouse.fleet.dataproc.sizing import executor_properties
from lakehouse.fleet.releases import NOTHING_BROUGHT, Brought, Parts
from lakehouse.fleet.versions import ArtifactKind, Job, Launch
from lakehouse.fleet.wanted import Dataproc
from lakehouse.store.files import storage_for
from lakehouse.store.notes import Notes, StopRequest
from lakehouse.store.retired_jobs import RetiredJobs

GRACE = timedelta(minutes=5)
"""From the request to end, which an application sees with its next trigger, until its job is cancelled."""
_KEPT_JOBS = 5
"""Of an application; those that ended longer ago are forgotten."""


class DataprocLauncher:
    """Jobs of one project and region, on the cluster that `section` or an application's size names.

    No signal reaches a driver in YARN before it is killed, and Dataproc starts again what ends with an error. So a job
    is asked to end through the lake, as by `lakehouse stop`; and one that has a successor is marked there, so that it
    ends at once where it is started again.
    """

    kind = "dataproc"

    def __init__(self, section: Dataproc, settings: Settings, pauses: Pauses | None = None) -> None:
        self._section, self._settings = section, settings
        self._client = JobsClient(section.project, section.region, pauses)
        self._artifacts = Artifacts(storage_for(section.folder, settings.storage_options), section)
        self._lake = lake_label(settings.raw_root)

    # --- what jobs are made of -------------------------------------------------------------------------------------

    def keep(self, kind: ArtifactKind, name: str, parts: Parts) -> None:
        with self._folder_errors():
            if kind == "releases":
                self._artifacts.keep_release(name, parts)
            else:
                self._artifacts.keep_snapshot(name, parts)

    def check(self, launch: Launch, brought: Brought = NOTHING_BROUGHT) -> None:
        with self._folder_errors():
            self._artifacts.materials(launch, brought)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def start(self, launch: Launch) -> None:
        with self._folder_errors():
            made_of, spark = self._artifacts.materials(launch), self._artifacts.spark_of(launch)
        spark |= executor_properties({**spark, **launch.version.size.spark}, self._settings.ingest.max_bytes)
        cluster = launch.version.size.cluster or self._section.cluster
        job = jobs.job_of(launch, self._lake, cluster, made_of, spark, self._section.max_failures_per_hour)
        id_ = job["reference"]["job_id"]
        _check_ours(id_, self._client.submit(job, request_id(id_)) or self._client.get(id_), launch)
        self._forget_old(launch.application)

    def retire(self, job: str, *, is_retired: bool = True) -> None:
        found = self._found(job)
        if found is None:
            return
        retired, label = self._retired(found[1].application), {jobs.RETIRED: "yes"}
        if is_retired:
            with self._lake_errors():
                retired.add(job)
            self._relabel(found[0], {**found[0].labels, **label})
        else:
            with self._lake_errors():
                retired.remove(job)
            self._relabel(found[0], {name: value for name, value in found[0].labels.items() if name not in label})

    def end(self, job: str) -> None:
        """It is asked through the lake; asked again after `GRACE`, or where it has no driver yet, it is cancelled."""
        found = self._found(job)
        if found is None or not _is_active(found[0]):
            return
        asked_at = found[0].labels.get(jobs.ASKED_TO_END)
        is_overdue = asked_at is not None and time.time() - int(asked_at[1:]) > GRACE.total_seconds()
        if is_overdue or not jobs.has_driver(found[0].status):
            self._client.cancel(found[0].reference.job_id)
        elif asked_at is None:
            application = found[1].application
            with self._lake_errors():
                self._retired(application).add(job)
                Notes(self._of(application)).ask_to_stop(job, StopRequest(None, "lakehouse fleet", "its job is to end"))
            self._relabel(found[0], {**found[0].labels, jobs.ASKED_TO_END: f"t{int(time.time())}"})

    def jobs(self, patience: timedelta | None = None) -> list[Job]:
        found = [job for each in self._all(patience) if (job := jobs.known(each)) is not None]
        return sorted(found, key=lambda job: (job.created_at, job.launch.id))

    def log_tail(self, job: str, lines: int) -> list[str]:
        """Of what Dataproc keeps in the cluster's bucket: in cluster mode what the driver's launcher prints."""
        found = self._client.get(job_id(self._lake, job))
        if found is None or not found.driver_output_resource_uri:
            return []
        folder, _, name = found.driver_output_resource_uri.rpartition("/")
        storage = storage_for(folder, self._settings.storage_options)
        with store_errors(folder, "the cluster's bucket"):
            parts = [each.path for each in storage.listing("") if each.path.startswith(name)]
            text = b"".join(storage.read(each) or b"" for each in parts[-2:]).decode(errors="replace")
        return text.splitlines()[-lines:]

    # ---------------------------------------------------------------------------------------------------------------

    def _all(self, patience: timedelta | None = None) -> list[Any]:
        return self._client.jobs(f"labels.{jobs.LAKE} = {self._lake}", patience)

    def _found(self, job: str) -> tuple[Any, Launch] | None:
        found = self._client.get(job_id(self._lake, job))
        launch = None if found is None else jobs.launch_of(found)
        return None if launch is None else (found, launch)

    def _forget_old(self, application: str) -> None:
        """Of those that have ended, the newest are kept: each listing has them all. A mark goes with its job."""
        ended = [
            (job.created_at, each.reference.job_id, job.launch.id)
            for each in self._all()
            if (job := jobs.known(each)) is not None and job.launch.application == application and not job.is_active
        ]
        for _, id_, launch in sorted(ended)[:-_KEPT_JOBS]:
            self._client.delete(id_)
            with self._lake_errors():
                self._retired(application).remove(launch)

    def _relabel(self, job: Any, labels: Mapping[str, str]) -> None:
        self._client.relabel(job.reference.job_id, dict(labels))

    def _of(self, application: str) -> Settings:
        return self._settings.model_copy(update={"application": application})

    def _retired(self, application: str) -> RetiredJobs:
        return RetiredJobs(self._of(application))

    def _lake_errors(self) -> AbstractContextManager[None]:
        return store_errors(self._settings.raw_root, "`raw_root`")

    def _folder_errors(self) -> AbstractContextManager[None]:
        return store_errors(self._section.folder, "`dataproc.folder`")


def _check_ours(id_: str, there: Any, launch: Launch) -> None:
    """ConfigError where the job that is there was started for something else."""
    if there is not None and jobs.launch_of(there) != launch:
        raise ConfigError(
            f"job {id_}",
            found="a job of that id that was started with something else",
            expected="one id for each start in a project",
            next_step="Deploy once more: the job's id is then another.",
        )


def _is_active(job: Any) -> bool:
    return jobs.state_of(job.status) in ("pending", "running", "waiting")
