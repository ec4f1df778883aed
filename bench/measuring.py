"""What work takes: its time, and the processor time and memory of this process and its children."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

REPEATS = 2
"""The best of so many counts: what is slower was disturbed."""

Chosen = Callable[[psutil.Process], bool]


def best(work: Callable[[], object]) -> float:
    return min(seconds_of(work) for _ in range(REPEATS))


def seconds_of(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def is_java(process: psutil.Process) -> bool:
    return "java" in process.name()


def is_python(process: psutil.Process) -> bool:
    return not is_java(process)


def core_seconds(chosen: Chosen = lambda process: True) -> float:
    """What they have used until now, with what their ended children had used."""
    total = 0.0
    for process in _family():
        try:
            if chosen(process):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        except psutil.Error:
            continue
    return total


def core_seconds_by_process(chosen: Chosen) -> dict[int, float]:
    """What each has used until now, by its number; its children are apart."""
    found = {}
    for process in _family():
        try:
            if chosen(process):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        except psutil.Error:
            continue
    return found


def resident_bytes(chosen: Chosen = lambda process: True) -> int:
    """The sum of what they hold in memory now; what several share is divided among them."""
    total = 0
    for process in _family():
        try:
            total += process.memory_full_info().pss if chosen(process) else 0
        except psutil.Error:
            continue
    return total


@contextmanager
def peak_memory(chosen: Chosen = is_python) -> Iterator[list[int]]:
    """The largest sum, so far, of what they hold: bytes, in a list of one."""
    peak, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            peak[0] = max(peak[0], resident_bytes(chosen))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    is_over.set()
    watcher.join()


def _family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]
