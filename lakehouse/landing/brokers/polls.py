"""Many subscriptions asked at the same time, from one thread: each whether it has anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import grpc

from lakehouse.errors import SourceError
from lakehouse.landing.brokers.answers import Page
from lakehouse.landing.brokers.pubsub import ANSWER_SECONDS, EMPTY_PAUSE, SubscriptionReader, is_passing

Key = TypeVar("Key")

PATIENCE_SECONDS = 2.0
"""How long a subscription that fails in passing is asked again: others wait with it."""


@dataclass(frozen=True)
class Polled:
    """What one subscription answered: a page; or that it has nothing, as of `drained_at`; or an error.

    `unanswered_at` is as in `PendingPull`.
    """

    page: Page | None = None
    drained_at: datetime | None = None
    unanswered_at: datetime | None = None
    error: SourceError | None = None


def polled(
    readers: Mapping[Key, SubscriptionReader], messages: int, wait: float, patience: float = PATIENCE_SECONDS
) -> Iterator[tuple[Key, Polled]]:
    """Each subscription's answer, as they come: a page of so many `messages`, or that nothing came for `wait` seconds.

    However soon a server says that it has nothing, it is asked again within the wait, with growing pauses.
    """
    answered: SimpleQueue[_Poll] = SimpleQueue()
    polls = [_Poll(key, reader, messages, wait, patience, answered) for key, reader in readers.items()]
    left, later, ties = len(polls), list[tuple[float, int, _Poll]](), count()
    for poll in polls:
        poll.ask()
    while left:
        while later and later[0][0] <= time.monotonic():
            heappop(later)[2].ask()
        try:
            poll = answered.get(timeout=max(later[0][0] - time.monotonic(), 0) if later else None)
        except Empty:
            continue
        result = poll.result()
        if isinstance(result, Polled):
            left -= 1
            yield poll.key, result
        else:
            heappush(later, (time.monotonic() + result, next(ties), poll))


class _Poll:
    """One subscription's, from its first question to its answer."""

    def __init__(
        self,
        key: Any,
        reader: SubscriptionReader,
        messages: int,
        wait: float,
        patience: float,
        answered: SimpleQueue[_Poll],
    ) -> None:
        self.key = key
        self._reader, self._messages, self._answered = reader, messages, answered
        began = time.monotonic()
        self._ends, self._gives_up = began + wait, began + max(wait, patience)
        self._pause, self._failure_pause = EMPTY_PAUSE, reader.pauses.first.total_seconds()
        self._unanswered_at: datetime | None = None
        self._is_confirming = False
        self._call: Any = None
        self._at = reader.clock()

    def ask(self) -> None:
        self._at = self._reader.clock()
        request = self._reader.pull_request(self._messages, at_once=self._is_confirming)
        seconds = ANSWER_SECONDS if self._is_confirming else max(self._ends - time.monotonic(), 0.0)
        self._call = self._reader.start_pull(request, seconds or ANSWER_SECONDS)
        self._call.add_done_callback(lambda _: self._answered.put(self))

    def result(self) -> Polled | float:
        """Of the call that has ended: the answer, or in how many seconds the next question is due."""
        try:
            page: Page = self._call.result()
        except grpc.RpcError as error:
            return self._after(error)
        if len(page.messages):
            return Polled(page, unanswered_at=self._unanswered_at)
        if self._is_confirming or time.monotonic() >= self._ends:
            return Polled(drained_at=self._at, unanswered_at=self._unanswered_at)
        pause, self._pause = self._pause, 2 * self._pause
        return self._within(pause, self._ends)

    def _after(self, error: Any) -> Polled | float:
        if not is_passing(error):
            return Polled(error=self._reader.source_error_of(error))
        self._unanswered_at = self._reader.clock()
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            if self._is_confirming:
                return Polled(unanswered_at=self._unanswered_at)
            # A server that holds an empty pull looks like a network that is silent: only an answer shows which it is.
            self._is_confirming = True
            return 0.0
        if time.monotonic() >= self._gives_up:
            return Polled(unanswered_at=self._unanswered_at, error=self._reader.source_error_of(error))
        pause, self._failure_pause = self._failure_pause, 2 * self._failure_pause
        return self._within(pause, self._gives_up)

    @staticmethod
    def _within(pause: float, ends: float) -> float:
        return max(min(pause, ends - time.monotonic()), 0.0)
