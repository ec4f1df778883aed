"""Workers that give an application's topics their turns, as a `Schedule` says: a topic holds one worker at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from lakehouse.running.schedule import Outcome, Schedule

TURN = timedelta(seconds=10)
"""How long a topic may go on with hour after hour while another waits for a worker."""
_LOOK_SECONDS = 1.0
"""How soon a worker sees that the run is to stop."""

MakesRoom = Callable[[float], bool]
"""Whether a turn shall begin nothing more, having begun at that second of `time.monotonic`."""
Turn = Callable[[str, MakesRoom], Outcome]
"""Does what is due of a topic."""


class Pool:
    """`size` threads. What a turn raises ends the pool: it is raised by `finish`, and `stop` is set at once."""

    def __init__(self, schedule: Schedule, topics: Sequence[str], turn: Turn, stop: threading.Event, size: int) -> None:
        self._schedule, self._turn, self._stop = schedule, turn, stop
        self._topics, self._size = list(topics), min(size, len(topics))
        self._changed = threading.Condition()
        self._last_turns: list[str] | None = None
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._size)]
        for thread in self._threads:
            thread.start()

    def tell(self, topic: str, due_since: datetime, now: datetime) -> None:
        """Something of the topic is due; both instants are by one clock."""
        with self._changed:
            at = time.monotonic()
            self._schedule.tell(topic, at - (now - due_since).total_seconds(), at)
            self._changed.notify()

    def finish(self, *, last_turns: bool, patience: timedelta | None = None) -> None:
        """End, once the turns under way are over and, unless `stop` is set, each topic had one more if `last_turns`.

        Waits for `patience` at most. Raises what ended the pool.
        """
        with self._changed:
            self._last_turns = list(self._topics) if last_turns else []
            self._changed.notify_all()
        if not self._threads and last_turns:
            self.start()
        until = time.monotonic() + (patience.total_seconds() if patience else 0)
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0) if patience else None)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while (topic := self._next()) is not None:
                outcome = self._turn(topic, self._makes_room)
                with self._changed:
                    self._schedule.done(topic, outcome, time.monotonic())
                    self._changed.notify_all()
        except BaseException as failure:
            self._failure = failure
            self._stop.set()

    def _next(self) -> str | None:
        """The topic of the next turn, awaited; None at the end."""
        with self._changed:
            while self._last_turns is None:
                topic = None if self._stop.is_set() else self._schedule.next(time.monotonic())
                if topic is not None:
                    return topic
                self._changed.wait(min(self._schedule.seconds_to_next(time.monotonic()) or 1, _LOOK_SECONDS))
            return self._next_of_the_last(self._last_turns)

    def _next_of_the_last(self, left: list[str]) -> str | None:
        """One whose turn before is over."""
        while left and not self._stop.is_set():
            topic = next((topic for topic in left if not self._schedule.has_turn(topic)), None)
            if topic is not None:
                left.remove(topic)
                self._schedule.begin(topic)
                return topic
            self._changed.wait(_LOOK_SECONDS)
        return None

    def _makes_room(self, began: float) -> bool:
        if self._stop.is_set():
            return True
        if self._last_turns is not None or time.monotonic() - began < TURN.total_seconds():
            return False
        with self._changed:
            return self._schedule.has_waiting(time.monotonic())
