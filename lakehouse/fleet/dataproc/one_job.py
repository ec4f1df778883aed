"""One of `jobs/` as a Dataproc job that a person starts, with this tree's code and configuration."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lakehouse.config import Config
from lakehouse.errors import CheckError
from lakehouse.fleet import releases
from lakehouse.fleet.dataproc import jobs
from lakehouse.fleet.dataproc.artifacts import Artifacts, store_errors
from lakehouse.fleet.dataproc.client import JobsClient
from lakehouse.fleet.dataproc.environment import recipe_of
from lakehouse.fleet.dataproc.labels import job_id, label_value, lake_label, request_id
from lakehouse.fleet.dataproc.reach import check_reachable
from lakehouse.fleet.dataproc.sizing import driver_properties, executor_properties
from lakehouse.fleet.wanted import Dataproc
from lakehouse.store.files import storage_for

ENDLESS = ("ingest", "run")
"""Jobs without an end of their own: Dataproc starts them again when they die."""
LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class OneJob:
    """A job of `jobs/` by its name, with its arguments, as it is or would be submitted."""

    name: str
    config: Config
    section: Dataproc
    document: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.document["reference"]["job_id"])

    def submit(self, client: JobsClient) -> None:
        """Code and configuration are kept first, unless they are there.

        ConfigError where their packages are not; and what Dataproc does not take, as a JobsClient says it.
        """
        artifacts, tree = _artifacts(self.config, self.section), releases.tree()
        release, snapshot = releases.release_of(tree), releases.snapshot_of(self.config)
        with store_errors(self.section.folder, "`dataproc.folder`"):
            artifacts.keep_release(release, releases.code(tree))
            artifacts.keep_snapshot(snapshot, releases.configuration(self.config))
            artifacts.of(f"job {self.name}", release, snapshot, self.name)
        client.submit(dict(self.document), request_id(self.id))


def one_job(
    config: Config, section: Dataproc, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> OneJob:
    """What would be submitted; nothing is asked of anybody. `environment`: variables of the driver.

    ConfigError where a cluster could not reach the lake.
    """
    check_reachable(config)
    code = releases.code(releases.tree())
    release, snapshot = releases.release_of(releases.tree()), releases.snapshot_of(config)
    recipe = recipe_of(code, section)
    made_of = _artifacts(config, section).addresses(release, snapshot, recipe.digest, name)
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    topics = [each for each in arguments if each in config.topics] or config.topics
    spark = dict(config.settings.spark)
    document = {
        "reference": {"job_id": job_id(lake_label(config.settings.raw_root), f"{name}-{stamp}")},
        "placement": {"cluster_name": section.cluster},
        "labels": {"lakehouse-job": label_value(name), "lakehouse-release": label_value(release)},
        "scheduling": {"max_failures_per_hour": section.max_failures_per_hour} if name in ENDLESS else {},
        "pyspark_job": {
            "main_python_file_uri": made_of.main,
            "python_file_uris": [made_of.code],
            "archive_uris": jobs.archives(made_of),
            "args": list(arguments),
            "properties": {
                **driver_properties(len(topics), spark),
                **executor_properties(spark, config.settings.ingest.max_bytes),
                **jobs.running_properties(
                    {
                        "LAKEHOUSE_RELEASE": release,
                        "LAKEHOUSE_CONF": f"snapshot/{releases.file_in_snapshot(config)}",
                        **(environment or {}),
                    }
                ),
            },
        },
    }
    return OneJob(name, config, section, document)


def _artifacts(config: Config, section: Dataproc) -> Artifacts:
    return Artifacts(storage_for(section.folder, config.settings.storage_options), section)


def wait_for(job: OneJob, client: JobsClient, on_state: Callable[[str], None] = lambda state: None) -> None:
    """Until the job has ended; CheckError when it failed, was cancelled or is not there any more."""
    while True:
        found = client.get(job.id)
        state = "gone" if found is None else str(found.status.state.name)
        on_state(state.lower().replace("_", " "))
        if state == "DONE":
            return
        if found is None or state in ("ERROR", "CANCELLED"):
            raise CheckError(
                f"job {job.id}",
                found=state.lower() + (f": {' '.join(found.status.details.split())}" if found else ""),
                expected="a job that ends by itself",
                next_step=f"Its log: gcloud dataproc jobs wait {job.id} --project {job.section.project} "
                f"--region {job.section.region}",
            )
        time.sleep(LOOK_SECONDS)
