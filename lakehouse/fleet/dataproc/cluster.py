"""The cluster that a fleet needs: the command that makes it, and the rights that its service account must have."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from lakehouse.errors import ConfigError
from lakehouse.fleet.wanted import Dataproc

GRACE_SECONDS = 150
"""From SIGTERM to SIGKILL: an application ends after its batch, and a stage after its hour. YARN has 0.25 s."""
_RESERVED_MIB, _LAUNCHER_MIB = 3584, 1024
"""Of a master's memory, and what Dataproc counts for each job: in cluster mode the driver's launcher is there."""
_GIB_PER_CORE = 4
_CORES = (4, 8, 16, 32, 48, 64, 80, 96, 128)
"""Sizes of n2-standard, of 4 GiB for each core; n2-highmem has 8."""
_LEAST_WORKERS = 2
"""Of Dataproc's clusters of the type STANDARD, as its API's reference says."""
_YARN_SHARE = 0.8
"""Of a worker's memory, by Dataproc's default."""


@dataclass(frozen=True)
class Role:
    """What the service account is to be given, where, and what for."""

    role: str
    on: str
    purpose: str


ROLES = (
    Role("roles/dataproc.worker", "the project", "the cluster itself"),
    Role("roles/pubsub.subscriber", "the subscriptions", "pull and acknowledge"),
    Role("roles/pubsub.viewer", "the subscriptions", "their ack deadlines (GetSubscription)"),
    Role("roles/monitoring.viewer", "the project", "oldest_unacked_message_age, the frontier"),
    Role("roles/storage.objectAdmin", "the buckets of the lake, of mirrors and of dataproc.folder", "tables and code"),
    Role("roles/bigquery.jobUser", "the project", "mirrors of kind bigquery: load jobs"),
    Role("roles/bigquery.dataEditor", "the dataset", "mirrors of kind bigquery: tables"),
)
"""Of the service account. The last two only where a mirror is of kind bigquery."""

NETWORK = (
    "Nodes have internal addresses only: the subnet needs Private Google Access, which reaches Pub/Sub, Cloud Storage, "
    "Monitoring and BigQuery. Nothing is fetched from PyPI. Brokers and mirrors elsewhere, such as Kafka, must be "
    "reachable from the subnet."
)


def create_command(
    section: Dataproc, drivers: Sequence[int], *, subnet: str = "", workers: int = 0, machine: str = "n2-standard-8"
) -> list[str]:
    """`gcloud dataproc clusters create` for applications whose drivers take so many MiB each, word by word.

    While a deployment goes on each application runs twice: master and workers have room for that. `workers`: 0 for as
    many as the drivers need, and two for executors. ConfigError where one master does not do, and for a single worker.
    """
    if workers == 1:
        raise ConfigError(
            "--workers",
            found="1",
            expected=f"at least {_LEAST_WORKERS}, of which a standard cluster has no fewer",
            next_step="Give more, or none: then they are counted.",
        )
    jobs = 2 * max(1, len(drivers))
    words = ["gcloud", "dataproc", "clusters", "create", section.cluster, "--project", section.project]
    words += ["--region", section.region, "--image-version", section.image, "--optional-components", "DELTA"]
    words += ["--scopes", "cloud-platform", "--no-address"]
    words += ["--service-account", section.service_account] if section.service_account else []
    words += ["--subnet", subnet] if subnet else []
    words += ["--master-machine-type", _master(jobs)]
    words += ["--num-workers", str(workers or _workers(drivers, machine)), "--worker-machine-type", machine]
    return [*words, "--properties", ",".join(f"{name}={value}" for name, value in properties(jobs).items())]


def properties(jobs: int) -> dict[str, str]:
    """Of the cluster, each with the file that it is written to, for so many jobs at a time."""
    return {
        "dataproc:dataproc.logging.stackdriver.job.driver.enable": "true",
        "dataproc:dataproc.logging.stackdriver.job.yarn.container.enable": "true",
        "dataproc:dataproc.scheduler.max-concurrent-jobs": str(max(jobs, 5)),
        "yarn:yarn.nodemanager.sleep-delay-before-sigkill.ms": str(GRACE_SECONDS * 1000),
    }


def as_shell(words: Sequence[str]) -> str:
    """For a shell, an option on each line."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n    ".join(" ".join(line) for line in lines)


def _master(jobs: int) -> str:
    needed = _RESERVED_MIB + jobs * _LAUNCHER_MIB
    cores = next((each for each in _CORES if each * _GIB_PER_CORE * 1024 >= needed), None)
    if cores is None:
        raise ConfigError(
            "dataproc create-command",
            found=f"{jobs // 2} applications",
            expected="as many as one master has room for, twice",
            next_step="Give some sizes a `cluster` of their own in fleet.yaml, or put more topics into an application: "
            "`lakehouse fleet pack` proposes how.",
        )
    return f"n2-standard-{cores}"


def _workers(drivers: Sequence[int], machine: str) -> int:
    """What all drivers take, twice, and two for executors; ConfigError where a driver fits no worker."""
    share = _YARN_SHARE * _memory_mib(machine)
    if any(each > share for each in drivers):
        raise ConfigError(
            "--worker-machine-type",
            found=f"{machine}, of which YARN has {share:,.0f} MiB",
            expected=f"a machine for a driver of {max(drivers):,} MiB",
            next_step="Take a larger one, or give the application fewer topics or less memory in fleet.yaml.",
        )
    rooms: list[float] = []
    for each in sorted([*drivers, *drivers], reverse=True):
        place = next((place for place, room in enumerate(rooms) if room >= each), None)
        if place is None:
            rooms.append(share - each)
        else:
            rooms[place] -= each
    return 2 + len(rooms)


def _memory_mib(machine: str) -> int:
    """By the machine's name; ConfigError for one whose name does not say it."""
    found = re.fullmatch(r"[a-z0-9]+-(standard|highmem)-([0-9]+)", machine)
    if found is None:
        raise ConfigError(
            "--worker-machine-type",
            found=repr(machine),
            expected="a machine whose memory its name says, such as n2-standard-8 or n2-highmem-8",
            next_step="Give --workers, too, for any other machine: nothing is computed then.",
        )
    return _GIB_PER_CORE * (1 if found[1] == "standard" else 2) * 1024 * int(found[2])
