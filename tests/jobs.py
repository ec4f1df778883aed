"""The doors in `jobs/` as processes that have the application imported already: that takes seconds, every time."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_PATIENCE_SECONDS = 60

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["lakehouse.application"])


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
