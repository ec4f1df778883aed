"""A channel to a broker in the same process, without a socket: the same calls, faults and refusals, in a fixed order.

What goes over it depends on no thread and no clock but the broker's, so a run that uses nothing else can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn

import grpc
from google.pubsub_v1 import types

from lakehouse.sandbox.broker import Broker


class DirectError(grpc.RpcError):  # type: ignore[misc]
    """A call that was refused, or whose answer was lost."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self._code, self._text = code, text

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text


class DirectChannel:
    """The part of grpc.Channel that a client of unary calls needs."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def unary_unary(
        self, path: str, *, response_deserializer: Callable[[bytes], Any] | None = None, **_: Any
    ) -> DirectCall:
        return DirectCall(self._broker.answer(path.rpartition("/")[2]), response_deserializer)

    def create(self, topic: str, subscription: str, ack_deadline: timedelta = timedelta(seconds=10)) -> None:
        """A topic and a subscription to it."""
        self.call("CreateTopic", types.Topic, name=topic)
        seconds = int(ack_deadline.total_seconds())
        self.call(
            "CreateSubscription", types.Subscription, name=subscription, topic=topic, ack_deadline_seconds=seconds
        )

    def publish(self, topic: str, payloads: Sequence[bytes]) -> None:
        """In requests of at most 1,000 messages; DirectError when the broker refuses, or loses its answer."""
        messages = [types.PubsubMessage.pb()(data=payload) for payload in payloads]
        for first in range(0, len(messages), 1000):
            self.call("Publish", types.PublishRequest, topic=topic, messages=messages[first : first + 1000])

    def call(self, method: str, kind: Any, **values: Any) -> Any:
        """The answer to a request of a kind of `google.pubsub_v1` with these values."""
        return self.unary_unary(f"/x/{method}")(kind.pb()(**values))

    def close(self) -> None:
        """Nothing is held."""


class DirectCall:
    """One method. A Pull is answered at once, with what there is."""

    def __init__(self, answer: Callable[[Any, Any], Any], read: Callable[[bytes], Any] | None = None) -> None:
        self._answer, self._read = answer, read

    def __call__(self, request: Any, timeout: float | None = None) -> Any:
        answer = self._answer(request, _Context())
        return self._read(answer.SerializeToString()) if self._read else answer

    def future(self, request: Any, timeout: float | None = None) -> _Done:
        try:
            return _Done(self(request), None)
        except DirectError as error:
            return _Done(None, error)


class _Done:
    def __init__(self, answer: Any, error: DirectError | None) -> None:
        self._answer, self._error = answer, error

    def exception(self) -> DirectError | None:
        return self._error

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """At once, as it is done."""
        callback(self)

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._answer


class _Context:
    """A servicer's context for a caller who does not wait."""

    def abort(self, code: grpc.StatusCode, text: str) -> NoReturn:
        raise DirectError(code, text)

    def time_remaining(self) -> float:
        return 0.0

    def is_active(self) -> bool:
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True
