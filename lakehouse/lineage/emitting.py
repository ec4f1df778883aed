"""Events go to the lineage server in a thread of their own: no hour waits for it, and none fails because of it."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from lakehouse.errors import in_one_line
from lakehouse.lineage.events import RunEvent

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Events that wait for the server; what comes then is left out. 300 topics have 1,800 an hour and more."""
LAST_WAIT = timedelta(seconds=5)
"""At the end of a process."""
_WARNED_EVERY_SECONDS = 300.0


def _send(event: RunEvent) -> None:
    from lakehouse.lineage.openlineage import send  # its imports, which only this thread pays for

    send(event)


class Emitter:
    """Calls `send` for one event after the other. What fails is left out, and logged as a warning now and then."""

    def __init__(self, send: Callable[[RunEvent], None] = _send, most_waiting: int = MOST_WAITING) -> None:
        self._send = send
        self._events: queue.Queue[RunEvent] = queue.Queue(most_waiting)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._left_out, self._warned_at = 0, float("-inf")

    def emit(self, event: RunEvent) -> None:
        """Returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lineage", daemon=True)
                self._thread.start()
                atexit.register(self.finish)
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._leave_out("its server is too slow")

    def finish(self, longest: timedelta = LAST_WAIT) -> bool:
        """Wait until all is sent, at most so long; whether it is."""
        until = time.monotonic() + longest.total_seconds()
        with self._events.all_tasks_done:
            while self._events.unfinished_tasks and (left := until - time.monotonic()) > 0:
                self._events.all_tasks_done.wait(left)
            return not self._events.unfinished_tasks

    def _run(self) -> None:
        while True:
            event = self._events.get()
            try:
                self._send(event)
            except Exception as refused:  # whatever a server or its client can answer
                self._leave_out(in_one_line(refused))
            finally:
                self._events.task_done()

    def _leave_out(self, why: str) -> None:
        with self._lock:
            self._left_out += 1
            if time.monotonic() - self._warned_at < _WARNED_EVERY_SECONDS:
                return
            count, self._left_out, self._warned_at = self._left_out, 0, time.monotonic()
        log.warning("lineage: events=%d next=left out error=%s", count, why)


emit = Emitter().emit
"""All stages of a process have one."""
