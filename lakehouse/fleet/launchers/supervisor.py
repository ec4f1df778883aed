"""Keeps one application running on this machine: a process of its own session, which needs nobody.

    python supervisor.py FOLDER

`FOLDER/launch.json` says what is run. `state.json` there is replaced at each change, `log` gets what it prints, and the
files `end` and `retired` are what others ask of it. It is run by its path and imports nothing of this project, so that
it takes little memory, and a release that cannot be imported is a job that fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

POLL_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 3600.0
WELL_AFTER_SECONDS = 600.0
"""Who has run for so long was well: deaths before that count no more."""
GRACE_SECONDS = 150.0
"""From SIGTERM to SIGKILL: an application ends after its batch, and a stage after its hour."""
LONGEST_LOG_BYTES = 64 * 1024 * 1024
"""A longer one begins anew; what it had is in `log.1`."""
LOOKS_PER_LOG_LOOK = 300
"""A minute."""


def pause_seconds(failures: int) -> float:
    """How long the start after so many deaths in a row is waited for: 2 s, 6 s, 12 s, up to an hour."""
    return min(failures * failures + failures, LONGEST_PAUSE_SECONDS)


def write_atomically(file: Path, values: dict[str, Any]) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(json.dumps(values), encoding="utf-8")
    os.replace(aside, file)


def identity(pid: int) -> dict[str, Any] | None:
    """What no other process has, also after a restart of the machine; None when it has ended.

    On Linux it began so many ticks after the machine did: an instant would move when the clock is set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if stat[0] in "ZX" else {"pid": pid, "began": int(stat[19]), "boot": boot}
    except OSError:
        pass
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else {"pid": pid, "began": process.create_time()}
    except psutil.NoSuchProcess:
        return None


def is_living(known: dict[str, Any] | None) -> bool:
    return known is not None and isinstance(known.get("pid"), int) and identity(known["pid"]) == known


class Supervisor:
    """One job's life: its application is started, and started again with growing pauses when it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._launch = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
        self._state: dict[str, Any] = {"state": "pending", "supervisor": identity(os.getpid()), "failures": 0}
        self._is_noted = False

    def run(self) -> None:
        self._note()
        while not self._is_asked("end"):
            code, seconds = self._run_once()
            if code == 0 or self._is_asked("end"):
                break
            failures = 1 if seconds > WELL_AFTER_SECONDS else self._state["failures"] + 1
            self._note(failures=failures, why=_ending(code))
            if not self._wait(pause_seconds(failures)):
                self._note(state="failed", process=None, next_start_at=None)
                return
        self._note(state="ended", process=None, next_start_at=None)

    def _run_once(self) -> tuple[int, float]:
        """(exit code, how long it ran)."""
        began = time.monotonic()
        try:
            process = self._start()
        except OSError as error:
            self._say(f"supervisor: error={error}\n")
            return 127, 0.0
        self._note(state="running", process=identity(process.pid), started_at=time.time(), next_start_at=None)
        looks = 0
        while (code := process.poll()) is None:
            if self._is_asked("end"):
                return _ended(process), time.monotonic() - began
            if (looks := looks + 1) % LOOKS_PER_LOG_LOOK == 0:
                self._make_room()
            self._pause()
        return code, time.monotonic() - began

    def _start(self) -> subprocess.Popen[bytes]:
        self._make_room()
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                self._launch["command"],
                cwd=self._launch["folder"],
                env=self._launch["environment"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self, seconds: float) -> bool:
        """Pause, unless the end is asked for; False when the application is not to be started again."""
        self._note(state="waiting", process=None, next_start_at=time.time() + seconds)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._is_asked("end"):
            if self._is_asked("retired"):
                return False
            self._pause()
        return True

    def _pause(self) -> None:
        if not self._is_noted:
            self._note()
        time.sleep(POLL_SECONDS)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError), (self._folder / "log").open("a", encoding="utf-8") as log:
            log.write(line)

    def _make_room(self) -> None:
        """A long log goes to `log.1`, where the disk has room for both. Who writes to it, writes at its end, wherever
        that is."""
        file, former = self._folder / "log", self._folder / "log.1"
        if not file.exists() or file.stat().st_size <= LONGEST_LOG_BYTES:
            return
        try:
            shutil.copyfile(file, former)
            os.truncate(file, 0)
        except OSError:
            former.unlink(missing_ok=True)

    def _is_asked(self, what: str) -> bool:
        return (self._folder / what).exists()

    def _note(self, **changes: Any) -> None:
        """A disk that is full for a while costs nobody an application: what could not be kept is kept later.

        FileNotFoundError where the job's folder is gone: nobody could end the application any more.
        """
        self._state |= changes
        try:
            write_atomically(self._folder / "state.json", self._state)
            self._is_noted = True
        except FileNotFoundError:
            raise
        except OSError:
            self._is_noted = False


def end_process(process: psutil.Process, grace_seconds: float = GRACE_SECONDS) -> None:
    """SIGTERM to a job's process and, when it does not end in time, SIGKILL to its whole session."""
    with contextlib.suppress(psutil.NoSuchProcess):
        group = os.getpgid(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_seconds)
        except psutil.TimeoutExpired:
            os.killpg(group, signal.SIGKILL)


def _ended(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _ending(code: int) -> str:
    """Signals of real time have numbers alone."""
    if code >= 0:
        return f"exit code {code}"
    names = {each.value: each.name for each in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}"


def main(folder: Path) -> None:
    """Go on without whoever started it: the process that was started ends at once, and is nobody's zombie.

    Of two supervisors of one job, the second ends.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (folder / "lock").open("w") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Supervisor(folder).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
