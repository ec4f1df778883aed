"""Doors of `jobs/` and commands as processes that have it all imported already: that takes seconds, every time."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parent.parent
_PATIENCE_SECONDS = 60

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["lakehouse.application", "lakehouse.cli.app", "lakehouse.cli.look"])


@dataclass(frozen=True)
class Ended:
    returncode: int | None
    stderr: str


def run_job(name: str, arguments: Sequence[str], environment: Mapping[str, str], said: Path) -> Ended:
    """`jobs/<name>.py`, to its end; what it says on stderr goes through the file `said`."""
    job = _processes.Process(target=_run, args=(name, arguments, dict(environment), said))
    job.start()
    job.join(_PATIENCE_SECONDS)
    if job.is_alive():
        job.kill()
        job.join()
    return Ended(job.exitcode, said.read_text())


def command_on(terminal: int, arguments: Sequence[str], environment: Mapping[str, str]) -> BaseProcess:
    """`lakehouse` as somebody starts it at the terminal with that descriptor."""
    ours, its = _processes.Pipe()
    command = _processes.Process(target=_run_command, args=(its, list(arguments), dict(environment)))
    command.start()
    assert command.pid is not None
    reduction.send_handle(ours, terminal, command.pid)
    return command


def _run_command(given: Connection, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    terminal = reduction.recv_handle(given)
    for stream in (0, 1, 2):
        os.dup2(terminal, stream)
    os.close(terminal)
    sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))  # noqa: SIM115
    from lakehouse.cli import app

    app.main(arguments)


def _run(name: str, arguments: Sequence[str], environment: Mapping[str, str], said: Path) -> None:
    """As an interpreter that is started with it: own session, environment, arguments and stderr."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with said.open("wb") as errors:
        os.dup2(errors.fileno(), 2)
    file = ROOT / "jobs" / f"{name}.py"
    sys.argv = [str(file), *arguments]
    runpy.run_path(str(file), run_name="__main__")
