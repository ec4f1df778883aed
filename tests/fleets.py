"""Fleets for tests: topics without lakes, and applications that are small real processes which write heartbeats."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml
from fake_dataproc import Process
from lake import write_conf, write_suite

from lakehouse.config import Settings, load
from lakehouse.fleet.dataproc.client import Pauses
from lakehouse.fleet.dataproc.environment import recipe_of
from lakehouse.fleet.dataproc.jobs import launch_of
from lakehouse.fleet.files import Fleet, load_fleet
from lakehouse.fleet.launchers import supervisor
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.launchers.dataproc import DataprocLauncher
from lakehouse.fleet.launchers.local import Command, LocalLauncher
from lakehouse.fleet.releases import Parts
from lakehouse.fleet.versions import ArtifactKind, Job, Launch, Version
from lakehouse.fleet.wanted import Dataproc
from lakehouse.topics import Topic, topic_from

PATIENCE_SECONDS = 60.0
TOPIC: dict[str, Any] = {
    "event_id": "payload.event_id",
    "event_time": "payload.played_at",
    "fields": {"user": "string"},
}
RELEASE, SNAPSHOT = "0.1.0+aaaa", "cccc"
VERSION = Version(RELEASE, "hash", "suites", SNAPSHOT, "conf/test.yaml", ("plays",))


def topics_named(*names: str) -> dict[str, Topic]:
    return {name: topic_from(name, topic_values(name)) for name in names}


def topic_values(name: str) -> dict[str, Any]:
    return {**TOPIC, "subscription": f"projects/test/subscriptions/{name}"}


def write_fleet(folder: Path, applications: Mapping[str, Any], names: Sequence[str], **keys: Any) -> Path:
    """An environment of these topics with a fleet.yaml below the folder; the environment's file."""
    settings = {"raw_root": str(folder / "lake"), "ingest": {"trigger": "1 second"}}
    conf = write_conf(folder, settings, {name: topic_values(name) for name in names})
    for name in ("_every_topic", *names):
        write_suite(folder / "expectations", name)
    keys = {"local": {"folder": str(folder / "fleet")}, "applications": dict(applications), **keys}
    (conf.parent / "fleet.yaml").write_text(yaml.safe_dump(keys))
    return conf


def fleet_at(conf: Path) -> Fleet:
    return load_fleet(load(conf))


# --- launchers -----------------------------------------------------------------------------------------------------


def python(code: str) -> Callable[[Launch, Path, Path], Command]:
    """A program instead of Spark: it finds the launch's release and topics in its environment."""

    def command(launch: Launch, releases: Path, snapshots: Path) -> Command:
        environment = {
            "RELEASE": launch.version.release,
            "APPLICATION": launch.application,
            "CONFIGURATION": launch.version.configuration,
            "TOPICS": " ".join(launch.version.topics),
            "CODE": str(releases / launch.version.release),
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PATH": "/usr/bin:/bin",
        }
        return Command([sys.executable, "-c", code], str(releases), environment)

    return command


def local_launcher(folder: Path, code: str) -> LocalLauncher:
    launcher = LocalLauncher(folder, python(code))
    code_folder = folder.parent / "code"
    code_folder.mkdir(exist_ok=True, parents=True)
    (code_folder / "run.py").write_text("print('a')\n")
    for kind, name in (("releases", RELEASE), ("releases", "0.2.0+bbbb"), ("snapshots", SNAPSHOT)):
        launcher.keep(kind, name, {"jobs": code_folder})  # type: ignore[arg-type]
    return launcher


OBEYS = """
import os, pathlib, sys, threading, time
folder = pathlib.Path(os.environ["ROOT"], "_applications", os.environ["APPLICATION"])
if (folder / "retired" / os.environ["JOB"]).exists():
    sys.exit(0)
def obey():
    while not any((folder / "notes" / "_stop" / os.environ["JOB"]).glob("[!.]*")):
        time.sleep(0.02)
    os._exit(0)
threading.Thread(target=obey, daemon=True).start()
"""
"""What comes before a program that a cluster runs: it ends when its launcher asks for it through the lake."""


def of_cluster(folder: Path, made: Callable[[Launch, Path, Path], Command]) -> Callable[[Any], Process]:
    """What the nodes of a cluster run for a job, whose lake is `folder`; OSError where a part of it is missing."""

    def process(job: Any) -> Process:
        parts = [job.pyspark_job.main_python_file_uri, *job.pyspark_job.python_file_uris, *job.pyspark_job.archive_uris]
        for part in parts:
            Path(part.partition("#")[0]).stat()
        launch = launch_of(job)
        assert launch is not None
        command = made(launch, folder, folder)
        prefix = "spark.yarn.appMasterEnv."
        driver = {
            name.removeprefix(prefix): value
            for name, value in job.pyspark_job.properties.items()
            if name.startswith(prefix)
        }
        own = {"ROOT": str(folder), "JOB": driver["LAKEHOUSE_JOB"], "RELEASE": driver["LAKEHOUSE_RELEASE"]}
        return Process(command.command, command.folder, {**command.environment, **own})

    return process


SHORT = Pauses(timedelta(seconds=0.01), timedelta(seconds=0.05), timedelta(seconds=20))
SECTION = Dataproc(
    project="example-project", region="europe-north1", cluster="lake", extras=(), max_failures_per_hour=10
)


class ClusterLauncher(DataprocLauncher):
    """Of the fake: what it keeps is in a folder of this machine, and any release is of the same tree."""

    def __init__(self, folder: Path, lake: Path, pauses: Pauses = SHORT) -> None:
        self.folder = folder
        section = SECTION.model_copy(update={"folder": str(folder)})
        super().__init__(section, Settings(raw_root=str(lake), sealed_root=str(lake)), pauses)
        house = Path(__file__).parent.parent
        self._packages = {each: house / each for each in ("pyproject.toml", "constraints.txt")}
        self._artifacts.keep_environment(recipe_of(self._packages, self._section), b"an environment")

    def keep(self, kind: ArtifactKind, name: str, parts: Parts) -> None:
        super().keep(kind, name, {**parts, **(self._packages if kind == "releases" else {})})


def cluster_launcher(folder: Path, lake: Path) -> ClusterLauncher:
    """With the releases and the snapshot of `local_launcher`."""
    launcher = ClusterLauncher(folder, lake)
    code = folder.parent / "code"
    code.mkdir(exist_ok=True, parents=True)
    (code / "run.py").write_text("print('a')\n")
    conf = folder.parent / "test.yaml"
    conf.write_text(f"raw_root: {lake}\nspark: {{spark.scheduler.mode: FAIR}}\n")
    for release in (RELEASE, "0.2.0+bbbb"):
        launcher.keep("releases", release, {"jobs": code})
    launcher.keep("snapshots", SNAPSHOT, {"conf/test.yaml": conf})
    return launcher


def job_of(launcher: Launcher, job: str) -> Job:
    (found,) = [each for each in launcher.jobs() if each.launch.id == job]
    return found


def awaited(is_so: Callable[[], Any], what: str = "") -> Any:
    """What the function gives once it is true; AssertionError when that takes too long."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := is_so():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not so after {PATIENCE_SECONDS} seconds: {what}")


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def small_application(root: Path) -> Callable[[Launch, Path, Path], Command]:
    """The command of `tests/small_application.py` for a launch."""

    def command(launch: Launch, releases: Path, snapshots: Path) -> Command:
        environment = {
            "ROOT": str(root),
            "APPLICATION": launch.application,
            "RELEASE": launch.version.release,
            "CONFIGURATION": launch.version.configuration,
            "TOPICS": " ".join(launch.version.topics),
        }
        program = Path(__file__).with_name("small_application.py")
        return Command([sys.executable, "-S", "-E", str(program)], str(root), environment)

    return command


def end_all(launcher: LocalLauncher) -> None:
    """Kill whatever a test has left."""
    for job in launcher.jobs():
        launcher.end(job.launch.id)
    for file in launcher._folder.glob("jobs/*/state.json"):
        state = json.loads(file.read_text())
        for which in ("supervisor", "process"):
            if supervisor.is_living(state.get(which)):
                psutil.Process(int(state[which]["pid"])).kill()
