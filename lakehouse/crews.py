"""Works side by side, in threads: one that hangs holds up no other, and is waited for only so long."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")

OVERTIME_SECONDS = 1.0
"""A work that takes longer leaves its place to another: it waits for something that does not answer."""


class Crew(Generic[Key, Result]):
    """At most `size` works at a time, beside those in overtime; with size 0 each is done where it is begun.

    One that ends makes place for the next, whether or not its result is taken. Not for several threads: one begins
    works and takes their results.
    """

    def __init__(self, size: int, name: str = "crew") -> None:
        self._size, self._name = size, name
        self._waiting: deque[tuple[Key, Callable[[], Result]]] = deque()
        self._began: dict[Key, float] = {}
        self._running: dict[Key, float] = {}
        self._staffing = threading.Lock()
        self._ended: SimpleQueue[tuple[Key, Result | None, BaseException | None]] = SimpleQueue()

    @property
    def busy(self) -> Collection[Key]:
        """Keys of the works that have not ended, as far as `results` has said."""
        with self._staffing:
            return {*self._began, *(key for key, _ in self._waiting)}

    def begin(self, key: Key, work: Callable[[], Result]) -> None:
        """ValueError when there is a work of that key already."""
        if key in self.busy:
            raise ValueError(f"a second work of {key} at a time")
        if self._size:
            with self._staffing:
                self._waiting.append((key, work))
            self._staff()
        else:
            self._began[key] = time.monotonic()
            self._ended.put((key, work(), None))

    def results(
        self, patience: float | Callable[[Key, float], float], unawaited: Collection[Key] = ()
    ) -> Iterator[tuple[Key, Result]]:
        """As works end: of all but those that run for longer than `patience` seconds, or are `unawaited`.

        A `patience` that is a function gives, for a key and the instant at which its work began, that until which it is
        waited for, by the steady clock; it may give another one later. Works that are not waited for go on, and their
        results are among those of a later call. Raises what a work raises.
        """
        until = patience if callable(patience) else lambda key, began: began + patience
        while True:
            self._staff()
            now = time.monotonic()
            with self._staffing:
                begun, is_any_waiting = dict(self._began), bool(self._waiting)
            ends = [until(key, began) for key, began in begun.items() if key not in unawaited]
            left = [end - now for end in ends if end > now]
            try:
                wait = min([*left, OVERTIME_SECONDS]) if left or is_any_waiting else 0.0
                key, result, failure = self._ended.get(timeout=wait) if wait else self._ended.get_nowait()
            except Empty:
                if not left and not is_any_waiting:
                    return
                continue
            with self._staffing:
                del self._began[key]
            if failure is not None:
                raise failure
            yield key, result  # type: ignore[misc]

    def _staff(self) -> None:
        with self._staffing:
            now = time.monotonic()
            in_time = sum(now - began < OVERTIME_SECONDS for began in self._running.values())
            while self._waiting and in_time < self._size:
                key, work = self._waiting.popleft()
                self._began[key] = self._running[key] = now
                threading.Thread(target=self._run, args=(key, work), name=f"{self._name} {key}", daemon=True).start()
                in_time += 1

    def _run(self, key: Key, work: Callable[[], Result]) -> None:
        result: Result | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            failure = raised
        with self._staffing:
            del self._running[key]
        self._staff()
        self._ended.put((key, result, failure))
