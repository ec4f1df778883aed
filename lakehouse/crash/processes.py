"""A real server as a child process: started on free ports, waited for, and ended by its own process id."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

outlive_us = False
"""Whether servers go on when the process that started them ends; if not, they end even when it is killed."""


class UnavailableError(Exception):
    """This machine cannot have the server; the text is the whole reason."""


@dataclass
class Server:
    """`address` is what clients get; `folder` holds its log and whatever it keeps."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes]

    def end(self) -> None:
        """At once: what these servers hold is for trying out, and some of them wait for minutes when asked."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def start_server(
    name: str,
    command: Sequence[str],
    folder: Path,
    address: str,
    is_ready: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    within_seconds: float = 90,
) -> Server:
    """The server once it is ready; UnavailableError with the end of its log when it never is."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*bound_to_us(), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C ends who started it, who then ends this
        )
    server = Server(name, address, folder, process)
    try:
        _wait(server, is_ready, log, time.monotonic() + within_seconds)
    except BaseException:
        server.end()
        raise
    return server


def _wait(server: Server, is_ready: Callable[[], bool], log: Path, until: float) -> None:
    while not is_ready():
        if server.process.poll() is not None or time.monotonic() > until:
            state = "ended" if server.process.poll() is not None else "did not get ready"
            last = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
            raise UnavailableError(f"{server.name} {state}, see {log}: {last}")
        time.sleep(0.1)


def bound_to_us() -> list[str]:
    """Before a command: it ends with us, even when we are killed, and keeps the process id.

    Empty where there is no such tool, and an `end` has to do.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv and not outlive_us else []


def free_ports(count: int) -> list[int]:
    """Ports that were all free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
