"""Applications as processes of this machine, each with a supervisor that outlives whoever started it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from lakehouse.errors import ConfigError, LakeError, require
from lakehouse.fleet.launchers import supervisor
from lakehouse.fleet.releases import NOTHING_BROUGHT, Brought, Parts, copied
from lakehouse.fleet.versions import ArtifactKind, Job, JobState, Launch

_COMES_UP_WITHIN = timedelta(seconds=20)
"""A supervisor that has not said anything by then never will."""
_KEPT_JOBS = 20
"""Of an application; those that ended longer ago go, with their logs."""
_TAIL_BYTES = 64 * 1024
_HEAP = "1g"
"""Of a driver of which `sizes` says nothing."""
_OTHERS = {"SPARK_HOME", "PYTHONPATH", "LAKEHOUSE_CONF", "LAKEHOUSE_RELEASE", "LAKEHOUSE_APPLICATION", "LAKEHOUSE_JOB"}
"""Of the environment of the one who deploys, what must not decide what an application runs."""


@dataclass(frozen=True)
class Command:
    """What a supervisor starts."""

    command: list[str]
    folder: str
    environment: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class _Launched:
    """What is read of `launch.json`."""

    launch: Launch
    created_at: AwareDatetime


@dataclass(frozen=True)
class _Said:
    """What is read of `state.json`; processes as `supervisor.identity` gives them."""

    supervisor: dict[str, Any]
    state: str = ""
    process: dict[str, Any] | None = None
    failures: int = 0
    started_at: float | None = None
    next_start_at: float | None = None
    why: str | None = None


def spark_submit(launch: Launch, releases: Path, snapshots: Path) -> Command:
    """`jobs/run.py` of the release by spark-submit, in the working directory: relative paths stay what they were."""
    require("pyspark")
    version, size = launch.version, launch.version.size
    spec = find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    home, code = Path(spec.origin).parent, releases / version.release
    environment = {name: value for name, value in os.environ.items() if name not in _OTHERS}
    environment |= {
        "SPARK_HOME": str(home),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(code),
        "LAKEHOUSE_RELEASE": version.release,
        "LAKEHOUSE_APPLICATION": launch.application,
        "LAKEHOUSE_JOB": launch.id,
    }
    java = Path(sys.prefix, "java-home")
    if java.is_file():
        environment["JAVA_HOME"] = java.read_text(encoding="utf-8").strip()
    settings = {"spark.log.level": "WARN", "spark.driver.memory": size.driver_memory or _HEAP, **size.spark}
    command = [str(home / "bin" / "spark-submit"), "--master", size.master]
    command += [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    command += [str(code / "jobs" / "run.py"), *version.topics]
    command += ["--conf", str(snapshots / version.snapshot / version.conf)]
    return Command(command, os.getcwd(), environment)


class LocalLauncher:
    """Releases, snapshots and jobs below one folder. `command` says what is run for a start."""

    kind = "local"

    def __init__(self, folder: Path, command: Callable[[Launch, Path, Path], Command] = spark_submit) -> None:
        self._folder, self._command = folder.absolute(), command

    # --- what jobs are made of -------------------------------------------------------------------------------------

    def keep(self, kind: ArtifactKind, name: str, parts: Parts) -> None:
        with _folder_errors(self._folder):
            (self._folder / kind).mkdir(parents=True, exist_ok=True)
            copied(parts, self._folder / kind / name)

    def check(self, launch: Launch, brought: Brought = NOTHING_BROUGHT) -> None:
        with _folder_errors(self._folder):
            for kind, name in launch.version.artifacts:
                if (kind, name) not in brought and not (self._folder / kind / name).is_dir():
                    raise self._missing(launch.application, kind, name)
        self._command_of(launch)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def start(self, launch: Launch) -> None:
        home = self._home(launch.id)
        if (home / "launch.json").exists():
            if not (home / "state.json").exists():  # who began it has died before there was a supervisor
                _supervise(home)
            return
        self.check(launch)
        command = self._command_of(launch)
        with _folder_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            home.chmod(0o700)  # the environment may hold what is secret
            values = {
                "launch": _launches().dump_python(launch, mode="json"),
                "created_at": datetime.now(UTC).isoformat(),
                "command": command.command,
                "folder": command.folder,
                "environment": command.environment,
            }
            supervisor.write_atomically(home / "launch.json", values)
            _supervise(home)
            self._forget_old(launch.application)

    def retire(self, job: str, *, is_retired: bool = True) -> None:
        mark = self._home(job) / "retired"
        with _folder_errors(mark.parent):
            if is_retired and mark.parent.is_dir():
                mark.touch()
            elif not is_retired:
                mark.unlink(missing_ok=True)

    def end(self, job: str) -> None:
        home = self._home(job)
        with _folder_errors(home):
            if not (home / "launch.json").exists():
                return
            (home / "end").touch()
            said = _read(home / "state.json", _said)
        if said is None or said.process is None:
            return
        if not supervisor.is_living(said.supervisor) and supervisor.is_living(said.process):
            orphan = psutil.Process(int(said.process["pid"]))
            threading.Thread(target=supervisor.end_process, args=(orphan,), name=f"end-{job}").start()

    def jobs(self, patience: timedelta | None = None) -> list[Job]:
        with _folder_errors(self._folder):
            found = [job for home in self._homes() if (job := _job(home)) is not None]
        return sorted(found, key=lambda job: (job.created_at, job.launch.id))

    def log_tail(self, job: str, lines: int) -> list[str]:
        file = self._home(job) / "log"
        with _folder_errors(file.parent):
            try:
                with file.open("rb") as log:
                    log.seek(max(0, file.stat().st_size - _TAIL_BYTES))
                    text = log.read().decode(errors="replace")
            except FileNotFoundError:
                return []
        return text.splitlines()[-lines:]

    def _command_of(self, launch: Launch) -> Command:
        """What it is started by; LakehouseError where that is not installed."""
        return self._command(launch, self._folder / "releases", self._folder / "snapshots")

    def _missing(self, application: str, kind: ArtifactKind, name: str) -> ConfigError:
        known = sorted(each.name for each in (self._folder / kind).glob("[!.]*"))
        return ConfigError(
            f"application {application}: {kind.removesuffix('s')} {name}",
            found=f"nothing at {self._folder / kind / name}",
            expected="one of " + (", ".join(known) or "(there are none)"),
            next_step="Check the name, or deploy that tree's code again.",
        )

    def _home(self, job: str) -> Path:
        return self._folder / "jobs" / job

    def _homes(self) -> Iterator[Path]:
        yield from (self._folder / "jobs").glob("*/")

    def _forget_old(self, application: str) -> None:
        """Of those that have ended, the newest are kept."""
        import shutil

        ended = [each for each in self.jobs() if each.launch.application == application and not each.is_active]
        for job in ended[:-_KEPT_JOBS]:
            shutil.rmtree(self._home(job.launch.id), ignore_errors=True)


def _supervise(home: Path) -> None:
    """Start a supervisor, by a process that ends at once."""
    with (home / "supervisor.log").open("ab") as log:
        subprocess.run(
            [sys.executable, supervisor.__file__, str(home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            check=True,
            start_new_session=True,
        )


def _job(home: Path) -> Job | None:
    """None for a folder of which nothing can be said, such as one that is being made; LakeError where something runs
    of which nothing can be said: a second one would be started beside it."""
    launched = _read(home / "launch.json", _launched)
    if launched is None:
        if _is_supervised(home):
            raise LakeError(
                str(home / "launch.json"),
                found="a job that runs, whose description this release does not understand",
                expected="what this release or an earlier one has started",
                next_step=f"Use the release that started it; or `touch {home}/end`, which ends it.",
            )
        return None
    said = _read(home / "state.json", _said)
    return Job(
        launched.launch,
        _state(said, launched.created_at, is_supervised=said is None and _is_supervised(home)),
        launched.created_at,
        started_at=_instant(said.started_at) if said else None,
        failures=said.failures if said else 0,
        next_start_at=_instant(said.next_start_at) if said else None,
        why=said.why if said else None,
        is_retired=(home / "retired").exists(),
        log=str(home / "log"),
    )


def _state(said: _Said | None, created_at: datetime, *, is_supervised: bool) -> JobState:
    """What the supervisor said last, unless it has been killed; `is_supervised` where that cannot be read."""
    if said is None:
        if is_supervised:
            return "running"
        return "pending" if datetime.now(UTC) - created_at < _COMES_UP_WITHIN else "lost"
    if said.state in ("ended", "failed"):
        return "ended" if said.state == "ended" else "failed"
    if supervisor.is_living(said.supervisor):
        return {"running": "running", "waiting": "waiting"}.get(said.state, "pending")  # type: ignore[return-value]
    if supervisor.is_living(said.process):
        return "running"  # though nobody starts it again
    return "lost"


def _is_supervised(home: Path) -> bool:
    """By the lock that a supervisor holds as long as it lives. One that comes up, and has noted nothing yet, is not
    disturbed: it ends when it does not get its lock."""
    if not (home / "state.json").exists():
        return False
    try:
        with (home / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


_Document = TypeVar("_Document")


def _read(file: Path, kind: Callable[[], TypeAdapter[_Document]]) -> _Document | None:
    """None where there is no such file, or nothing in it that can be understood."""
    try:
        return kind().validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _instant(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


@cache
def _launches() -> TypeAdapter[Launch]:
    return TypeAdapter(Launch)


@cache
def _launched() -> TypeAdapter[_Launched]:
    return TypeAdapter(_Launched)


@cache
def _said() -> TypeAdapter[_Said]:
    return TypeAdapter(_Said)


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.CalledProcessError) as refused:
        raise LakeError(
            str(folder),
            found=str(refused),
            expected="a folder for the launcher `local` that can be written",
            next_step="Give access, make room, or set another `local.folder` in fleet.yaml.",
        ) from refused
