"""One start of an application as a Dataproc job, and what such a job says of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lakehouse.fleet.dataproc.labels import job_id, label_value
from lakehouse.fleet.dataproc.sizing import driver_properties
from lakehouse.fleet.versions import Job, JobState, Launch

LAKE, RETIRED, ASKED_TO_END = "lakehouse-lake", "lakehouse-retired", "lakehouse-asked-to-end"
"""Labels: whose job it is, that it has a successor, and since when it is asked to end (`t` and seconds since 1970)."""
LAUNCH = "spark.lakehouse.launch"
"""The property that holds what was started; Spark ignores it."""
_WELL_AFTER = timedelta(minutes=10)
"""Who has run for so long was well: deaths before that count no more. Dataproc counts thrashing in as long."""


@dataclass(frozen=True)
class Materials:
    """Addresses of what a job is made of."""

    main: str
    code: str
    environment: str
    snapshot: str


def job_of(launch: Launch, lake: str, cluster: str, made_of: Materials, spark: Mapping[str, str], failures: int) -> Any:
    """The job to be submitted. `spark` are the environment's settings; those of the size take precedence.

    Arguments and settings of our own are in the environment and in properties: an argument such as --conf, the API's
    reference says, may be taken for Spark's.
    """
    version, id_ = launch.version, job_id(lake, launch.id)
    return {
        "reference": {"job_id": id_},
        "placement": {"cluster_name": cluster},
        "labels": {
            LAKE: lake,
            "lakehouse-application": label_value(launch.application),
            "lakehouse-release": label_value(version.release),
            "lakehouse-configuration": label_value(version.configuration),
        },
        "scheduling": {"max_failures_per_hour": failures} if failures else {},
        "pyspark_job": {
            "main_python_file_uri": made_of.main,
            "python_file_uris": [made_of.code],
            "archive_uris": archives(made_of),
            "args": list(version.topics),
            "properties": {
                **driver_properties(len(version.topics), spark, version.size),
                **running_properties(
                    {
                        "LAKEHOUSE_APPLICATION": launch.application,
                        "LAKEHOUSE_RELEASE": version.release,
                        "LAKEHOUSE_JOB": launch.id,
                        "LAKEHOUSE_CONF": f"snapshot/{version.conf}",
                    }
                ),
                LAUNCH: json.dumps(_launches().dump_python(launch, mode="json"), separators=(",", ":")),
            },
        },
    }


def archives(made_of: Materials) -> list[str]:
    """Unpacked in the working directory of driver and executors, under the name behind the #."""
    return [f"{made_of.environment}#environment", f"{made_of.snapshot}#snapshot"]


def running_properties(environment: Mapping[str, str]) -> dict[str, str]:
    """What every job of ours needs of Spark on YARN, with variables for its driver.

    The driver runs on a worker, so that many applications do not share the master; Dataproc alone starts it again, so
    that deaths are counted once.
    """
    python = "./environment/bin/python"
    driver = {**environment, "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python}
    return {
        "spark.submit.deployMode": "cluster",
        "spark.yarn.maxAppAttempts": "1",
        "spark.executorEnv.PYSPARK_PYTHON": python,
        **{f"spark.yarn.appMasterEnv.{name}": value for name, value in driver.items()},
    }


# --- what a job says -----------------------------------------------------------------------------------------------


def launch_of(job: Any) -> Launch | None:
    """What was started with it; None for a job of somebody else, or of a later release."""
    try:
        return _launches().validate_json(job.pyspark_job.properties.get(LAUNCH, ""))
    except ValidationError:
        return None


def known(job: Any) -> Job | None:
    """The job as launchers tell of it; None for one that is no start of ours."""
    launch = launch_of(job)
    if launch is None:
        return None
    statuses = [*job.status_history, job.status]
    began = [_instant(each.state_start_time) for each in statuses]
    started = [at for each, at in zip(statuses, began, strict=True) if _name(each) == "RUNNING"]
    return Job(
        launch,
        state_of(job.status),
        began[0],
        started_at=started[-1] if started else None,
        failures=_deaths_in_a_row(zip(statuses, began, strict=True)),
        why=_why(statuses),
        is_retired=RETIRED in job.labels,
        log=job.driver_output_resource_uri,
    )


def state_of(status: Any) -> JobState:
    """By state and, while it runs, by what the cluster's agent says.

    A job whose agent is silent still runs, as far as anybody knows: Dataproc lets it fail when that lasts.
    """
    if _name(status) == "RUNNING":
        return "pending" if status.substate.name == "QUEUED" else "running"
    return _STATES.get(_name(status), "lost")


_STATES: dict[str, JobState] = {
    "PENDING": "pending",
    "SETUP_DONE": "pending",
    "CANCEL_PENDING": "running",
    "CANCEL_STARTED": "running",
    "CANCELLED": "ended",
    "DONE": "ended",
    "ERROR": "failed",
    "ATTEMPT_FAILURE": "waiting",
}


def has_driver(status: Any) -> bool:
    """Whether there may be a process that can be asked to end."""
    return state_of(status) in ("running", "waiting")


def _deaths_in_a_row(statuses: Iterable[tuple[Any, datetime]]) -> int:
    deaths, since = 0, None
    for status, at in statuses:
        name = _name(status)
        if name == "RUNNING" and since is None:
            since = at
        elif name in ("ATTEMPT_FAILURE", "ERROR"):
            was_well = since is not None and at - since >= _WELL_AFTER
            deaths, since = 1 if was_well else deaths + 1, None
    return deaths


def _why(statuses: list[Any]) -> str | None:
    """Of the last death, or what keeps it from running."""
    said = [each.details for each in statuses if _name(each) in ("ATTEMPT_FAILURE", "ERROR") and each.details]
    now = statuses[-1]
    waits = _name(now) in ("PENDING", "SETUP_DONE") or now.substate.name in ("QUEUED", "STALE_STATUS")
    if waits and (now.details or now.substate.name == "STALE_STATUS"):
        return _line(now.details or "the cluster's agent is silent")
    return _line(said[-1]) if said else None


def _line(details: str) -> str:
    return " ".join(details.split())[:300]


def _name(status: Any) -> str:
    return str(status.state.name)


def _instant(timestamp: Any) -> datetime:
    return datetime.fromtimestamp(timestamp.timestamp(), UTC) if timestamp else datetime.fromtimestamp(0, UTC)


@cache
def _launches() -> TypeAdapter[Launch]:
    return TypeAdapter(Launch)
