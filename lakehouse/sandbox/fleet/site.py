"""A fleet below one folder of this machine: its files and its releases, and the end of its processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lakehouse.config import load
from lakehouse.fleet import releases
from lakehouse.fleet.files import Fleet, load_fleet
from lakehouse.fleet.launchers import supervisor
from lakehouse.fleet.launchers.local import LocalLauncher
from lakehouse.fleet.versions import Job

HOUSE = Path(__file__).parents[3]
MIRROR, ARCHIVE = "folder", "archive"
_LIKE = "flight_departed"
"""The topic whose keys the others have. Their hours are judged by what every topic's must meet."""
_ARCHIVED = 20
_ENDS_WITHIN_SECONDS = 30.0

# What the better compiler and collector gain by the hour, they cost a JVM of some minutes: a third of its time.
_SIZE = {
    "master": "local[2]",
    "driver_memory": "600m",
    "spark": {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"},
}
_SPARK = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.scheduler.mode": "FAIR",
    "spark.sql.shuffle.partitions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
}


@dataclass(frozen=True)
class Site:
    """`applications`: the topics of each, by name; the largest have a second mirror, the archive."""

    folder: Path
    applications: Mapping[str, tuple[str, ...]]
    webhook: str
    canary_for_seconds: int = 20

    @property
    def conf(self) -> Path:
        return self.folder / "conf" / "many.yaml"

    @property
    def names(self) -> list[str]:
        """All topics, the largest first."""
        return [name for topics in self.applications.values() for name in topics]

    @property
    def archive(self) -> Path:
        return self.folder / ARCHIVE

    @cached_property
    def fleet(self) -> Fleet:
        return load_fleet(load(self.conf))

    @cached_property
    def launcher(self) -> LocalLauncher:
        return LocalLauncher(self.folder / "applications")

    # --- files ---------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Everything anew: whatever an earlier run has left there is ended, and goes."""
        self.end_all()
        shutil.rmtree(self.folder, ignore_errors=True)
        topics, suites = self.folder / "conf" / "topics", self.folder / "expectations"
        for folder in (topics, suites, self.archive):
            folder.mkdir(parents=True)
        _write(self.conf, self._environment())
        _write(self.conf.with_name("fleet.yaml"), self._fleet_file())
        values = yaml.safe_load((HOUSE / "conf" / "topics" / f"{_LIKE}.yaml").read_text())
        shutil.copy(HOUSE / "expectations" / "_every_topic.json", suites)
        with_archive = next(iter(self.applications.values()))[:_ARCHIVED]
        for name in self.names:
            own = {
                "subscription": f"projects/sandbox/subscriptions/{name}",
                "lateness": "30 minutes",
                "deliver_within": "2 days",  # the day is of hours that are over
                "mirrors": [MIRROR, ARCHIVE] if name in with_archive else [MIRROR],
            }
            _write(topics / f"{name}.yaml", {**values, **own})
            (suites / f"{name}.json").write_text(json.dumps({"name": name, "expectations": []}))

    def _environment(self) -> dict[str, Any]:
        lake = str(self.folder.absolute() / "lake")
        mirrors = {name: {"kind": "folder", "path": str(self.folder.absolute() / name)} for name in (MIRROR, ARCHIVE)}
        return {
            "raw_root": lake,
            "sealed_root": lake,
            "ingest": {"trigger": "3 seconds", "max_pull": "5 seconds", "empty_after": "0.3 seconds"},
            "frontier": {"source": "drained"},
            "stages": {"workers": 2, "look_every": "5 minutes"},
            "maintain": {"every": "never"},
            "mlflow": {"tracking_uri": "none"},
            "mirrors": mirrors,
            "spark": _SPARK,
        }

    def _fleet_file(self) -> dict[str, Any]:
        return {
            "size": "small",
            "sizes": {"small": _SIZE},
            "applications": {name: {"topics": [f"{name}_*"]} for name in self.applications},
            "roll_out": {"canary_for": f"{self.canary_for_seconds} seconds", "wave_within": "5 minutes"},
            "watch": {"look_every": "6 seconds", "notify_after": "1 second", "webhooks": [{"url": self.webhook}]},
            "local": {"folder": "../applications"},
        }

    # --- releases ------------------------------------------------------------------------------------------------

    def keep_release(self, change: Callable[[Path], None]) -> str:
        """The name of a release that is kept with the launcher: this tree's code with a change in its folder."""
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        for name, part in releases.code(HOUSE).items():
            if part.is_dir():
                shutil.copytree(part, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(part, tree / name)
        change(tree)
        release = releases.release_of(tree)
        self.launcher.keep("releases", release, releases.code(tree))
        shutil.rmtree(tree)
        return release

    # --- processes -----------------------------------------------------------------------------------------------

    def kill(self, application: str) -> None:
        """SIGKILL to all processes of an application, as when the machine runs out of memory; not to its supervisor."""
        for job in self.launcher.jobs():
            if job.launch.application == application and job.is_active and not job.is_retired:
                _kill(job)

    def end_all(self) -> None:
        """All applications and supervisors, at once: also those of an earlier run, which nobody has ended."""
        until = time.monotonic() + _ENDS_WITHIN_SECONDS
        while (active := [job for job in self.launcher.jobs() if job.is_active]) and time.monotonic() < until:
            for job in active:
                self.launcher.end(job.launch.id)
                _kill(job)
            time.sleep(0.3)


def _kill(job: Job) -> None:
    """The process group that the supervisor has started, unless it has ended: its number may be another's by now."""
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        state = json.loads(Path(job.log).with_name("state.json").read_text())
        if supervisor.is_living(state.get("process")):
            os.killpg(int(state["process"]["pid"]), signal.SIGKILL)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(dict(values), sort_keys=False))
