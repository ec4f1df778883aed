"""A Pub/Sub in one process, in memory: a gRPC server for the ordinary client libraries."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from operator import methodcaller
from types import TracebackType
from typing import Any, NoReturn

import grpc
from google.cloud.monitoring_v3 import types as monitoring
from google.pubsub_v1 import types

from lakehouse.errors import UsageError
from lakehouse.sandbox.faults import Faults
from lakehouse.sandbox.monitoring import FRESH, Sampling, time_series
from lakehouse.sandbox.pubsub import PUBLISHER, SUBSCRIBER, PubSub
from lakehouse.sandbox.registry import Registry
from lakehouse.sandbox.subscriptions import ACK_ID_LENGTH, Clocks, Refusal

Method = Callable[[Any, grpc.ServicerContext], Any]

_MAX_CALLS = 512
"""Calls served at the same time; each waiting Pull and each StreamingPull is one, and holds a thread."""
_MAX_RECEIVE_BYTES = 16 * 1024 * 1024
"""More than a Publish may have, so that the refusal can say what is wrong with it."""


class Broker:
    """Serves from entering to leaving its context; `faults` and `sampling` may be replaced at any time.

    Leases go by `clock`, publish times and the ages of messages by `publish_clock`: that of the day that is replayed.
    Only a waiting Pull goes by real time, up to `longest_wait`.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        clock: Callable[[], float] = time.time,
        publish_clock: Callable[[], float] | None = None,
        faults: Faults | None = None,
        sampling: Sampling = FRESH,
        longest_wait: timedelta = timedelta(seconds=20),
        ack_id_length: int = ACK_ID_LENGTH,
    ) -> None:
        self.faults = faults or Faults()
        self.sampling = sampling
        self._host, self._port = host, port
        self._publish_clock = publish_clock or clock
        self._registry = Registry(Clocks(clock, self._publish_clock), ack_id_length)
        self._pubsub = PubSub(self._registry, lambda: self.faults, longest_wait)
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        """`host:port`, for PUBSUB_EMULATOR_HOST or an insecure channel; the port is known once the broker serves."""
        return f"{self._host}:{self._port}"

    def published(self, topic: str) -> list[str]:
        """Ids of all messages published to `projects/…/topics/…`, in order."""
        return self._registry.topic(topic).published()

    def unacked(self, subscription: str) -> list[str]:
        """Ids of the messages that `projects/…/subscriptions/…` still owes, in the order of their publishing."""
        return self._registry.subscription(subscription).unacked()

    def backlog(self, subscription: str) -> int:
        """How many messages `projects/…/subscriptions/…` owes whose publish time has come."""
        return self._registry.subscription(subscription).backlog()

    def create(self, subscription: str) -> str:
        """Makes `projects/…/subscriptions/…` and the topic that it reads, whose path it gives; both are new."""
        topic = topic_path(subscription)
        try:
            self._registry.create_topic(types.Topic.pb()(name=topic))
            self._registry.create_subscription(types.Subscription.pb()(name=subscription, topic=topic))
        except Refusal as refusal:
            raise UsageError(
                subscription,
                found=refusal.text,
                expected="a name that Pub/Sub takes, for a subscription and for its topic",
                next_step="Correct `subscription` in the topic's file.",
            ) from refusal
        return topic

    def answer(self, method: str) -> Method:
        """What answers the unary calls of that name, faults and all; also while no socket is open."""
        if method == "ListTimeSeries":
            return self._guarded(method, self._list_time_series)
        _, answering = (PUBLISHER | SUBSCRIBER)[method]
        return self._guarded(method, answering.__get__(self._pubsub))

    def __enter__(self) -> Broker:
        self._refuse_taken()
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES)]
        server = grpc.server(ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="broker"), options=options)
        server.add_generic_rpc_handlers(self._handlers())
        self._port = server.add_insecure_port(self.address)
        server.start()
        self._server = server
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop(grace=None).wait()

    def _refuse_taken(self) -> None:
        """UsageError where the address cannot be bound; gRPC would write a line of its own, too."""
        try:
            found = socket.getaddrinfo(self._host.strip("[]"), self._port, type=socket.SOCK_STREAM)
            family, kind, _, _, place = found[0]
            with socket.socket(family, kind) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(place)
        except OSError as error:
            raise UsageError(
                f"sandbox broker on {self.address}",
                found=f"an address that cannot be bound ({error.strerror or error})",
                expected="a free port of this machine",
                next_step="Stop what listens there, or choose another port; 0 takes any free one.",
            ) from error

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        streaming = grpc.stream_stream_rpc_method_handler(
            self._guarded_stream(self._pubsub.streaming_pull),
            request_deserializer=types.StreamingPullRequest.pb().FromString,
            response_serializer=methodcaller("SerializeToString"),
        )
        metrics = self._unary("ListTimeSeries", monitoring.ListTimeSeriesRequest, self._list_time_series)
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {
            "google.pubsub.v1.Publisher": self._bound(PUBLISHER),
            "google.pubsub.v1.Subscriber": self._bound(SUBSCRIBER) | {"StreamingPull": streaming},
            "google.monitoring.v3.MetricService": {"ListTimeSeries": metrics},
        }
        return tuple(grpc.method_handlers_generic_handler(service, calls) for service, calls in services.items())

    def _bound(self, calls: Mapping[str, tuple[Any, Callable[..., Any]]]) -> dict[str, grpc.RpcMethodHandler]:
        return {
            name: self._unary(name, request, method.__get__(self._pubsub)) for name, (request, method) in calls.items()
        }

    def _unary(self, name: str, request: Any, method: Method) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(name, method),
            request_deserializer=request.pb().FromString,
            response_serializer=methodcaller("SerializeToString"),
        )

    def _guarded(self, name: str, method: Method) -> Method:
        """The call with its faults before and after, and its refusals sent to the caller."""

        def call(request: Any, context: grpc.ServicerContext) -> Any:
            _fail(self.faults.refused(name), context)
            try:
                reply = method(request, context)
            except Refusal as refusal:
                _abort(refusal, context)
            _fail(self.faults.answer_lost(name), context)
            return reply

        return call

    def _guarded_stream(self, method: Method) -> Method:
        def call(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            _fail(self.faults.refused("StreamingPull"), context)
            try:
                yield from method(requests, context)
            except Refusal as refusal:
                _abort(refusal, context)

        return call

    def _list_time_series(self, request: Any, context: grpc.ServicerContext) -> Any:
        return time_series(request, list(self._registry.subscriptions.values()), self.sampling, self._publish_clock())


def topic_path(subscription: str) -> str:
    """The topic of the sandbox that a subscription reads: it has the subscription's project and name."""
    return subscription.replace("/subscriptions/", "/topics/")


def serve(
    host: str, port: int, ready: Callable[[Broker], None], publish_clock: Callable[[], float] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT; `ready` gets the broker. Only for the main thread, as signals are."""
    stopped = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Broker(port, host=host, publish_clock=publish_clock) as broker:
            ready(broker)
            stopped.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fail(code: grpc.StatusCode | None, context: grpc.ServicerContext) -> None:
    if code is not None:
        context.abort(code, "Fault injected by the sandbox")


def _abort(refusal: Refusal, context: grpc.ServicerContext) -> NoReturn:
    context.abort(refusal.code, refusal.text)
    raise AssertionError("abort always raises")
