"""An orderly end: of the JVM, which waits for what is under way, and of this process when the JVM is gone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

_LONGEST_BATCH = timedelta(minutes=2)
"""How long the JVM's end waits for ours: one batch and what follows from it."""
_BEFORE_SPARK = 100
"""Hooks of a higher priority run first; Spark's has 40."""
LOOK_EVERY = timedelta(seconds=1)
GRACE = timedelta(seconds=10)
"""How long this process may still take once the JVM is gone: an hour's last commit, not another hour."""


def end_in_order(session: SparkSession, stop: threading.Event, ended: threading.Event) -> Callable[[], None]:
    """Hold the JVM's end back until `ended` is set, and end this process soon after the JVM.

    When it is asked to end, the JVM sets `stop`: spark-submit's process is the JVM, and gets the SIGTERM. When it is
    gone all the same (killed, out of memory, or waited long enough), `stop` is set, and after `GRACE` the process ends
    with 1.
    Gives what takes the hook away again.
    """
    unhook = _hooked(session, stop, ended)
    watch_jvm(jvm_is_gone(session), stop, ended)
    return unhook


def watch_jvm(
    is_gone: Callable[[], bool],
    stop: threading.Event,
    ended: threading.Event,
    *,
    look_every: timedelta = LOOK_EVERY,
    grace: timedelta = GRACE,
    end: Callable[[int], object] = os._exit,
) -> threading.Thread:
    """A thread that looks for the JVM until `ended` is set; without it nothing new begins, and then all is over."""

    def look() -> None:
        while not ended.wait(look_every.total_seconds()):
            if is_gone():
                log.error("spark: seconds_to_end=%d error=the JVM is gone", grace.total_seconds())
                stop.set()
                if not ended.wait(grace.total_seconds()):
                    end(1)
                return

    thread = threading.Thread(target=look, name="watch-jvm", daemon=True)
    thread.start()
    return thread


def jvm_is_gone(session: SparkSession) -> Callable[[], bool]:
    """Whether the JVM has ended: our child when Python started it, our parent under spark-submit."""
    process = getattr(session.sparkContext._gateway, "proc", None)
    if process is not None:
        return lambda: process.poll() is not None
    parent = os.getppid()
    return lambda: os.getppid() != parent


def concerns_all(error: BaseException) -> bool:
    """Whether no topic can go on: the JVM does not answer, memory is short, or this process is asked to end."""
    if not isinstance(error, Exception):
        # What Rust libraries panic with is no Exception either, and concerns whoever called them.
        return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
    from py4j.protocol import Py4JError, Py4JJavaError

    has_no_jvm = isinstance(error, Py4JError) and not isinstance(error, Py4JJavaError)
    return has_no_jvm or isinstance(error, MemoryError)


class _BeforeTheEnd:
    """Run by the JVM when it is asked to end."""

    def __init__(self, stop: threading.Event, ended: threading.Event) -> None:
        self._stop, self._ended = stop, ended

    def run(self) -> None:
        self._stop.set()
        self._ended.wait(_LONGEST_BATCH.total_seconds())

    class Java:
        implements = ["java.lang.Runnable"]  # noqa: RUF012 - py4j reads it


def _hooked(session: SparkSession, stop: threading.Event, ended: threading.Event) -> Callable[[], None]:
    """End before Spark's own hook stops the session under our feet; gives what takes this hook away again."""
    from py4j.protocol import Py4JError
    from pyspark.java_gateway import ensure_callback_server_started

    gateway: Any = session.sparkContext._gateway
    ensure_callback_server_started(gateway)  # type: ignore[no-untyped-call]
    jvm = gateway.jvm
    # In a Thread, because the hooks are kept by their hash code, and a proxy has none.
    hook = jvm.java.lang.Thread(_BeforeTheEnd(stop, ended))
    hooks = jvm.org.apache.hadoop.util.ShutdownHookManager.get()
    seconds = int(_LONGEST_BATCH.total_seconds())
    hooks.addShutdownHook(hook, _BEFORE_SPARK, seconds, jvm.java.util.concurrent.TimeUnit.SECONDS)

    def unhook() -> None:
        # Refused while the JVM is ending (then the hook is what we have just served), or when it is gone.
        with suppress(Py4JError, OSError):
            hooks.removeShutdownHook(hook)

    return unhook
