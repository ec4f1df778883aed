"""One StreamingPull: its requests, read in a thread of their own, govern what its replies may carry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from lakehouse.sandbox.registry import MAX_ACK_DEADLINE_SECONDS, MIN_ACK_DEADLINE_SECONDS
from lakehouse.sandbox.subscriptions import Flow, Message, Refusal, Subscription

Page = list[tuple[str, Message]]


class Stream:
    """Pages for one streaming caller, until it closes its side, leaves, or says what it may not."""

    def __init__(self, subscription: Subscription, first: Any, apply: Callable[[Subscription, Any], None]) -> None:
        """`apply` does the acknowledgements and deadlines that a request carries."""
        self._subscription, self._apply = subscription, apply
        self._flow = Flow(first.max_outstanding_messages, first.max_outstanding_bytes)
        self._ack_deadline_seconds = first.stream_ack_deadline_seconds
        self._refusal: Refusal | None = None
        self._ended = threading.Event()

    def pages(self, requests: Iterator[Any], lease_seconds: Callable[[float], float]) -> Iterator[Page]:
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        while not self._ended.is_set():
            seconds = lease_seconds(self._ack_deadline_seconds)
            if page := self._subscription.pull(self._flow, seconds, self._ended.is_set):
                yield page
        if self._refusal:
            raise self._refusal

    def end(self) -> None:
        self._ended.set()
        self._subscription.wake()

    def _read(self, requests: Iterator[Any]) -> None:
        try:
            for request in requests:
                self._obey(request)
        except Refusal as refusal:
            self._refusal = refusal
        except grpc.RpcError:
            pass  # the caller has left
        finally:
            self.end()

    def _obey(self, request: Any) -> None:
        if request.subscription:
            raise _invalid("subscription may only be set in first message")
        if request.stream_ack_deadline_seconds:
            self._ack_deadline_seconds = checked_ack_deadline_seconds(request)
        self._apply(self._subscription, request)


def checked_ack_deadline_seconds(request: Any) -> int:
    seconds = int(request.stream_ack_deadline_seconds)
    if not MIN_ACK_DEADLINE_SECONDS <= seconds <= MAX_ACK_DEADLINE_SECONDS:
        raise _invalid("stream_ack_deadline_seconds must be between 10 and 600 seconds")
    return seconds


def check_first(request: Any) -> None:
    if not request.subscription:
        raise _invalid("first message must set subscription")
    if not request.stream_ack_deadline_seconds:
        raise _invalid("first message must set stream_ack_deadline_seconds")
    checked_ack_deadline_seconds(request)


def _invalid(text: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)
