"""Streams of Pub/Sub Lite that read ranges of a topic's partitions, with flow control and through resets.

Messages below the head have been stored; those after it may yet vanish where a subscription delivers immediately. So
nothing is taken from the head on. Where the service resets a stream, or breaks it, it is opened again at the position:
what the service thinks of as read is nothing to go by.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Protocol

import grpc

from lakehouse.errors import SourceError
from lakehouse.landing.brokers.contract import Bounds
from lakehouse.landing.brokers.lite_calls import (
    Calls,
    Cursor,
    FlowControlRequest,
    InitialSubscribeRequest,
    SeekRequest,
    SubscribeRequest,
)
from lakehouse.landing.brokers.lite_messages import page_of
from lakehouse.landing.brokers.log_client import Advance, ReadRequest
from lakehouse.landing.brokers.losses import lost_messages

_POLL_SECONDS = 0.05
_LARGEST_BYTES = 10 * 1024**2
"""A message's largest size: with fewer tokens it would never come ("Quotas and limits")."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
"""Seconds before a stream is opened again."""
_ASK_EVERY_SECONDS = 1.0
"""Whether there is anything at all in a range of which nothing comes."""
_END = None
PASSING = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
}
"""As Google's own client has them, and quotas, which are by the minute."""


def is_passing(error: Any) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() in PASSING


class _Client(Protocol):
    def message_count(self, name: str, partition: int, start: int, end: int) -> int: ...

    def first_offset(self, name: str, partition: int) -> int: ...

    def error_of(self, source: Any, error: Any) -> SourceError: ...


@dataclass
class _Partition:
    """`messages` and `size_bytes` are the tokens that the service has of us; `attempt` is the number of the stream."""

    number: int
    position: int
    head: int
    call: Any = None
    requests: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    is_ready: bool = False
    messages: int = 0
    size_bytes: int = 0
    attempt: int = 0
    pause: float = _FIRST_PAUSE
    opens_at: float = 0.0
    heard_at: float = 0.0

    def cancel(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.requests.put(_END)
            self.call = None


class LiteStream:
    """For one thread. Some partitions at a time; messages are asked for as they are wanted, and no more."""

    SIDE_BY_SIDE: ClassVar[int] = 16

    def __init__(self, client: _Client, request: ReadRequest, calls: Calls) -> None:
        self._client, self._request, self._calls = client, request, calls
        self._later = deque(_Partition(n, at, request.heads[n]) for n, at in request.starts.items())
        self._open: dict[int, _Partition] = {}
        self._events: SimpleQueue[tuple[int, int, Any]] = SimpleQueue()
        self.problem: Any = None

    def next(self, bounds: Bounds, messages: int) -> Advance | None:
        self._open_some(bounds)
        for each in self._open.values():
            self._grant(each, bounds, messages)
        try:
            number, attempt, what = self._events.get(timeout=_POLL_SECONDS)
        except Empty:
            return self._found_empty(bounds)
        partition = self._open.get(number)
        if partition is None or partition.attempt != attempt:
            return None
        partition.heard_at = time.monotonic()
        if what is None or isinstance(what, grpc.RpcError):
            self._broken(partition, what)
            return None
        try:
            return self._heard(partition, what)
        except grpc.RpcError as error:  # of a question about a hole: the same comes again
            self._broken(partition, error)
            return None

    def close(self) -> None:
        for each in self._open.values():
            each.cancel()

    # --- streams ---------------------------------------------------------------------------------------------------

    def _open_some(self, bounds: Bounds) -> None:
        most = max(1, min(self.SIDE_BY_SIDE, bounds.bytes_left() // _LARGEST_BYTES))
        while self._later and len(self._open) < most:
            partition = self._later.popleft()
            self._open[partition.number] = partition
        at = time.monotonic()
        for each in self._open.values():
            if each.call is None and at >= each.opens_at:
                self._begin(each)

    def _begin(self, partition: _Partition) -> None:
        """At the position, without tokens: the service's answer has to come before more is asked."""
        partition.attempt += 1
        partition.is_ready, partition.messages, partition.size_bytes = False, 0, 0
        partition.requests, partition.heard_at = SimpleQueue(), time.monotonic()
        subscription = self._request.source.subscription
        place = SeekRequest(cursor=Cursor(offset=partition.position))
        initial = InitialSubscribeRequest(subscription=subscription, partition=partition.number, initial_location=place)
        partition.requests.put(SubscribeRequest(initial=initial))
        partition.call = self._calls.subscribe(subscription, partition.number, iter(partition.requests.get, _END))
        threading.Thread(target=self._receive, args=(partition.number, partition.attempt, partition.call),
                         daemon=True).start()  # fmt: skip

    def _receive(self, number: int, attempt: int, call: Any) -> None:
        try:
            for response in call:
                self._events.put((number, attempt, response))
            self._events.put((number, attempt, None))
        except grpc.RpcError as error:
            self._events.put((number, attempt, error))

    def _broken(self, partition: _Partition, error: Any) -> None:
        """Open it again a little later, where it may be that; else raise what is wrong."""
        source, number = self._request.source, partition.number
        partition.cancel()
        if error is not None and error.code() == grpc.StatusCode.OUT_OF_RANGE:
            raise lost_messages(source, {number: (partition.position, None)}, self._request.since)
        if error is not None and not is_passing(error):
            raise self._client.error_of(source, error)
        self.problem = error or self.problem
        partition.opens_at = time.monotonic() + partition.pause
        partition.pause = min(partition.pause * 2, _LONGEST_PAUSE)

    def _heard(self, partition: _Partition, response: Any) -> Advance:
        """RpcError where a question that it raises is not answered; nothing has changed then."""
        if response.WhichOneof("response") == "messages":
            return self._taken(partition, response.messages.messages)
        self._check_hole(partition.number, partition.position, response.initial.cursor.offset)
        partition.is_ready = True
        return Advance()

    # --- messages --------------------------------------------------------------------------------------------------

    def _grant(self, partition: _Partition, bounds: Bounds, messages: int) -> None:
        """Tokens for a page, once half of the last ones are used; together for no more `messages` than are wanted."""
        if not partition.is_ready:
            return
        left = messages - sum(each.messages for each in self._open.values())
        wanted = min(bounds.page_messages, partition.head - partition.position)
        more = min(wanted - partition.messages, left) if partition.messages <= wanted // 2 else 0
        needs_bytes = partition.size_bytes < _LARGEST_BYTES and partition.messages + more > 0
        more_bytes = _LARGEST_BYTES - partition.size_bytes if needs_bytes else 0
        if more > 0 or more_bytes > 0:
            partition.messages += max(more, 0)
            partition.size_bytes += more_bytes
            tokens = FlowControlRequest(allowed_messages=max(more, 0), allowed_bytes=more_bytes)
            partition.requests.put(SubscribeRequest(flow_control=tokens))

    def _taken(self, partition: _Partition, messages: Any) -> Advance:
        good, position = [], partition.position
        for each in messages:
            offset = each.cursor.offset
            self._check_hole(partition.number, position, offset)
            if position <= offset < partition.head:
                good.append(each)
            position = max(position, min(offset + 1, partition.head))
        partition.messages -= len(messages)
        partition.size_bytes -= sum(each.size_bytes for each in messages)
        partition.position, partition.pause = position, _FIRST_PAUSE
        page = page_of(partition.number, good) if good else None
        return self._advance(partition, page)

    def _advance(self, partition: _Partition, page: Any = None) -> Advance:
        is_done = partition.position >= partition.head
        if is_done:
            partition.cancel()
            del self._open[partition.number]
        return Advance(page, {partition.number: partition.position}, [partition.number] if is_done else [])

    def _check_hole(self, number: int, position: int, offset: int) -> None:
        """LostMessagesError where what lies between the two is gone."""
        if offset > position and not self._is_hole(number, position):
            raise lost_messages(self._request.source, {number: (position, offset)}, self._request.since)

    def _is_hole(self, number: int, position: int) -> bool:
        """Whether what is not there at the position was never there: something before it still is, and the oldest go
        first. RpcError."""
        return self._client.first_offset(self._request.source.log_name, number) < position

    def _found_empty(self, bounds: Bounds) -> Advance | None:
        """Offsets may have holes: where nothing is left up to a head, nothing comes that would say so."""
        at = time.monotonic()
        for each in self._open.values():
            if at - each.heard_at < min(bounds.wait, _ASK_EVERY_SECONDS):
                continue
            each.heard_at = at + _ASK_EVERY_SECONDS - min(bounds.wait, _ASK_EVERY_SECONDS)
            try:
                name = self._request.source.log_name
                count = self._client.message_count(name, each.number, each.position, each.head)
                if not count and self._is_hole(each.number, each.position):
                    each.position = each.head
                    return self._advance(each)
            except grpc.RpcError as error:
                self.problem = error
        return None
