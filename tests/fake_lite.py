"""Pub/Sub Lite on this machine: a gRPC server that holds clients to the documented protocol.

There is no emulator. What a client may rely on is as in the service's protos and "Quotas and limits"; what it must not
do breaks its stream here: a second request before the first one is answered, tokens below zero, a place past the head.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import methodcaller
from typing import Any
from urllib.parse import parse_qs

import grpc
from google.cloud.pubsublite_v1.types import admin, common, cursor, subscriber, topic_stats
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

LARGEST_MESSAGE_BYTES = 10 * 1024**2
LEAST_QUOTA_BYTES = 256
"""A message counts as no less."""
PAGE_MESSAGES = 100
"""Of a response of a stream."""

SequencedMessage = common.SequencedMessage.pb()
Code = grpc.StatusCode


@dataclass
class Partition:
    """`head` is the next offset to be given. A message at the head or after it is not stored yet."""

    messages: dict[int, Any] = field(default_factory=dict)
    head: int = 0

    def trim(self, before: int) -> None:
        self.messages = {offset: each for offset, each in self.messages.items() if offset >= before}


@dataclass
class Subscription:
    topic: str
    cursors: dict[int, int] = field(default_factory=dict)
    is_export: bool = False


class Refused(Exception):
    def __init__(self, code: Code, details: str, *, is_reset: bool = False) -> None:
        super().__init__(details)
        self.code, self.details, self.is_reset = code, details, is_reset


class FakeLite:
    """`clock` gives publish times.

    A request is refused with the next of `refusals` of its method (None: it is not), or as `fault` says, which is also
    asked after each `MessageResponse` of a stream. `when_trimmed` is what a stream that begins before the oldest
    message does: it is `clamped` to that message, `refused`, or goes on `silently`, as if that were the same.
    `answers_after` is how many seconds a stream's first answer takes. `breaks_after` ends each stream with a code after
    so many messages.
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.clock = clock
        self.topics: dict[str, list[Partition]] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.refusals: dict[str, deque[Code | None]] = {}
        self.fault: Callable[[str], Code | None] = lambda method: None
        self.when_trimmed = "clamped"
        self.answers_after = 0.0
        self.breaks_after: tuple[int, Code] | None = None
        self.requests: Counter[str] = Counter()
        self.violations: list[str] = []
        self.most_outstanding = (0, 0)
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._changed = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(self._handlers())
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        with self._changed:
            for stream in self._streams.values():
                stream.end(Refused(Code.UNAVAILABLE, "the server goes"))
            self._changed.notify_all()
        self._server.stop(0.2).wait()

    def __enter__(self) -> FakeLite:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # --- what an administrator and publishers do ---------------------------------------------------------------------

    def create(self, topic: str, partitions: int, *subscriptions: str) -> None:
        self.topics[topic] = [Partition() for _ in range(partitions)]
        for name in subscriptions:
            self.subscriptions[name] = Subscription(topic)

    def widen(self, topic: str, partitions: int) -> None:
        there = self.topics[topic]
        there += [Partition() for _ in range(partitions - len(there))]

    def publish(
        self,
        topic: str,
        *payloads: bytes,
        partition: int = 0,
        at: datetime | None = None,
        key: bytes = b"",
        attributes: dict[str, list[bytes]] | None = None,
        event_time: datetime | None = None,
    ) -> list[int]:
        """Their offsets."""
        offsets = []
        with self._changed:
            log = self.topics[topic][partition]
            for payload in payloads:
                message = SequencedMessage()
                message.cursor.offset = log.head
                message.publish_time.FromDatetime(at or self.clock())
                message.message.data, message.message.key = payload, key
                for name, values in (attributes or {}).items():
                    message.message.attributes[name].values.extend(values)
                if event_time is not None:
                    message.message.event_time.FromDatetime(event_time)
                message.size_bytes = max(LEAST_QUOTA_BYTES, message.message.ByteSize())
                assert message.size_bytes <= LARGEST_MESSAGE_BYTES
                log.messages[log.head] = message
                offsets.append(log.head)
                log.head += 1
            self._changed.notify_all()
        return offsets

    def deliver_early(self, topic: str, payload: bytes, partition: int = 0) -> None:
        """To subscriptions that deliver immediately: the message is not stored yet, and may be another one then."""
        log = self.topics[topic][partition]
        self.publish(topic, payload, partition=partition)
        log.head -= 1

    def seek(self, subscription: str, partition: int, offset: int) -> None:
        """By hand: the service resets the streams of the subscription."""
        self.subscriptions[subscription].cursors[partition] = offset
        self.reset(subscription)

    def reset(self, subscription: str) -> None:
        with self._changed:
            for (name, _), stream in self._streams.items():
                if name == subscription:
                    stream.end(Refused(Code.ABORTED, "the subscription was sought", is_reset=True))
            self._changed.notify_all()

    # --- methods -----------------------------------------------------------------------------------------------------

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        services = {
            "AdminService": {
                "GetSubscription": self._unary(admin.GetSubscriptionRequest, self._get_subscription),
                "GetTopicPartitions": self._unary(admin.GetTopicPartitionsRequest, self._get_topic_partitions),
            },
            "CursorService": {"CommitCursor": self._unary(cursor.CommitCursorRequest, self._commit_cursor)},
            "TopicStatsService": {
                "ComputeHeadCursor": self._unary(topic_stats.ComputeHeadCursorRequest, self._head),
                "ComputeTimeCursor": self._unary(topic_stats.ComputeTimeCursorRequest, self._time),
                "ComputeMessageStats": self._unary(topic_stats.ComputeMessageStatsRequest, self._stats),
            },
            "SubscriberService": {
                "Subscribe": grpc.stream_stream_rpc_method_handler(
                    self._subscribe,
                    request_deserializer=subscriber.SubscribeRequest.pb().FromString,
                    response_serializer=methodcaller("SerializeToString"),
                )
            },
        }
        return tuple(
            grpc.method_handlers_generic_handler(f"google.cloud.pubsublite.v1.{service}", methods)
            for service, methods in services.items()
        )

    def _unary(self, kind: Any, answer: Callable[[Any, dict[str, str]], Any]) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(kind.__name__.removesuffix("Request"), answer),
            request_deserializer=kind.pb().FromString,
            response_serializer=methodcaller("SerializeToString"),
        )

    def _guarded(self, method: str, answer: Callable[[Any, dict[str, str]], Any]) -> Callable[[Any, Any], Any]:
        def guarded(request: Any, context: Any) -> Any:
            try:
                self._admit(method)
                with self._changed:
                    return answer(request, _routed(context))
            except Refused as refused:
                context.abort(refused.code, refused.details)

        return guarded

    def _admit(self, method: str) -> None:
        self.requests[method] += 1
        waiting = self.refusals.get(method)
        code = waiting.popleft() if waiting else self.fault(method)
        if code is not None:
            raise Refused(code, f"as the test wants of {method}")

    def _get_subscription(self, request: Any, routed: dict[str, str]) -> Any:
        found = self._subscription(request.name, routed.get("name"))
        answer = common.Subscription.pb()(name=request.name, topic=found.topic)
        if found.is_export:
            answer.export_config.dead_letter_topic = "some"
        return answer

    def _get_topic_partitions(self, request: Any, routed: dict[str, str]) -> Any:
        return admin.TopicPartitions.pb()(partition_count=len(self._topic(request.name, routed.get("name"))))

    def _commit_cursor(self, request: Any, routed: dict[str, str]) -> Any:
        found = self._subscription(request.subscription, routed.get("subscription"))
        if request.cursor.offset > self.topics[found.topic][request.partition].head:
            raise Refused(Code.INVALID_ARGUMENT, "past the head")
        found.cursors[request.partition] = request.cursor.offset
        return cursor.CommitCursorResponse.pb()()

    def _head(self, request: Any, routed: dict[str, str]) -> Any:
        answer = topic_stats.ComputeHeadCursorResponse.pb()()
        answer.head_cursor.offset = self._log(request, routed).head
        return answer

    def _time(self, request: Any, routed: dict[str, str]) -> Any:
        answer, log = topic_stats.ComputeTimeCursorResponse.pb()(), self._log(request, routed)
        kind = request.target.WhichOneof("time")
        if kind != "publish_time":
            raise Refused(Code.INVALID_ARGUMENT, f"{kind} as a target")
        since = request.target.publish_time.ToDatetime(UTC)
        later = [n for n, each in sorted(log.messages.items()) if each.publish_time.ToDatetime(UTC) >= since]
        if later:
            answer.cursor.offset = later[0]
        return answer

    def _stats(self, request: Any, routed: dict[str, str]) -> Any:
        log = self._log(request, routed)
        places = range(request.start_cursor.offset, request.end_cursor.offset)
        found = [each for offset, each in log.messages.items() if offset in places]
        return topic_stats.ComputeMessageStatsResponse.pb()(
            message_count=len(found), message_bytes=sum(each.size_bytes for each in found)
        )

    def _log(self, request: Any, routed: dict[str, str]) -> Partition:
        logs = self._topic(request.topic, routed.get("topic"))
        if not 0 <= request.partition < len(logs):
            raise Refused(Code.INVALID_ARGUMENT, f"no partition {request.partition}")
        return logs[request.partition]

    def _topic(self, name: str, routed: str | None) -> list[Partition]:
        if routed != name:
            raise Refused(Code.INVALID_ARGUMENT, f"routed to {routed!r}, asked for {name}")
        if name not in self.topics:
            raise Refused(Code.NOT_FOUND, f"no topic {name}")
        return self.topics[name]

    def _subscription(self, name: str, routed: str | None) -> Subscription:
        if routed != name:
            raise Refused(Code.INVALID_ARGUMENT, f"routed to {routed!r}, asked for {name}")
        if name not in self.subscriptions:
            raise Refused(Code.NOT_FOUND, f"no subscription {name}")
        return self.subscriptions[name]

    # --- streams -----------------------------------------------------------------------------------------------------

    def _subscribe(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        stream = _Stream()
        try:
            yield from self._stream(stream, requests, context)
        except Refused as refused:
            if refused.code == Code.INVALID_ARGUMENT:
                self.violations.append(refused.details)
            if refused.is_reset:
                context.set_trailing_metadata((("grpc-status-details-bin", _reset(refused)),))
            context.abort(refused.code, refused.details)
        finally:
            stream.is_over = True

    def _stream(self, stream: _Stream, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self._admit("Subscribe")
        first = next(requests)
        if first.WhichOneof("request") != "initial":
            raise Refused(Code.INVALID_ARGUMENT, "a stream that does not begin with an initial request")
        name, number = first.initial.subscription, first.initial.partition
        routed = _routed(context)
        if routed.get("partition") != str(number):
            raise Refused(Code.INVALID_ARGUMENT, "not routed to its partition")
        with self._changed:
            found = self._subscription(name, routed.get("subscription"))
            logs = self._topic(found.topic, found.topic)
            if not 0 <= number < len(logs):
                raise Refused(Code.INVALID_ARGUMENT, f"no partition {number}")
            stream.log = logs[number]
            stream.at = self._place_of(first.initial, found, stream.log)
            if (former := self._streams.get((name, number))) is not None:
                former.end(Refused(Code.ABORTED, "another subscriber reads the partition"))
            self._streams[name, number] = stream
            self._changed.notify_all()
        threading.Thread(target=self._hear, args=(stream, requests), daemon=True).start()
        time.sleep(self.answers_after)
        answer = subscriber.SubscribeResponse.pb()()
        answer.initial.cursor.offset = stream.at
        stream.is_answered = True
        yield answer
        sent = 0
        while context.is_active():
            with self._changed:
                batch = stream.batch() or (self._changed.wait(0.05) and stream.batch())
            stream.check()
            if batch:
                yield subscriber.SubscribeResponse.pb()(messages=subscriber.MessageResponse.pb()(messages=batch))
                sent += len(batch)
                if (code := self.fault("MessageResponse")) is not None:
                    raise Refused(code, "a stream that breaks")
                if self.breaks_after and sent >= self.breaks_after[0]:
                    raise Refused(self.breaks_after[1], f"after {sent} messages")

    def _place_of(self, initial: Any, found: Subscription, log: Partition) -> int:
        place = initial.initial_location
        if place.WhichOneof("target") != "cursor":
            return found.cursors.get(initial.partition, 0)
        offset = int(place.cursor.offset)
        if offset > log.head:
            raise Refused(Code.OUT_OF_RANGE, "a place past the head")
        oldest = min(log.messages, default=log.head)
        if offset < oldest and self.when_trimmed != "silently":
            if self.when_trimmed == "refused":
                raise Refused(Code.OUT_OF_RANGE, "a place before the oldest message")
            return oldest
        return offset

    def _hear(self, stream: _Stream, requests: Iterator[Any]) -> None:
        """Requests after the first."""
        try:
            for request in requests:
                with self._changed:
                    if not stream.is_answered:
                        stream.end(Refused(Code.INVALID_ARGUMENT, "a request before the first one was answered"))
                    elif request.WhichOneof("request") != "flow_control":
                        stream.end(Refused(Code.INVALID_ARGUMENT, f"{request.WhichOneof('request')} here"))
                    else:
                        stream.grant(request.flow_control)
                        most = self.most_outstanding
                        self.most_outstanding = max(most[0], stream.messages), max(most[1], stream.size_bytes)
                    self._changed.notify_all()
        except Exception:  # the client has gone
            stream.is_over = True


class _Stream:
    """One that is open: where it is, and the tokens that it has."""

    def __init__(self) -> None:
        self.log = Partition()
        self.at = 0
        self.messages = self.size_bytes = 0
        self.is_answered = self.is_over = False
        self._ended: Refused | None = None

    def end(self, why: Refused) -> None:
        self._ended = self._ended or why

    def check(self) -> None:
        if self._ended is not None:
            raise self._ended

    def grant(self, tokens: Any) -> None:
        if tokens.allowed_messages < 0 or tokens.allowed_bytes < 0:
            self.end(Refused(Code.INVALID_ARGUMENT, "tokens below zero"))
        self.messages += tokens.allowed_messages
        self.size_bytes += tokens.allowed_bytes

    def batch(self) -> list[Any]:
        """What the tokens allow, in order; nothing more of a stream that has ended."""
        found: list[Any] = []
        waiting = [] if self._ended or not self.is_answered else self.log.messages.items()
        for offset, each in waiting:
            if offset < self.at:
                continue
            if len(found) == PAGE_MESSAGES or self.messages < 1 or self.size_bytes < each.size_bytes:
                break
            found.append(each)
            self.messages -= 1
            self.size_bytes -= each.size_bytes
            self.at = offset + 1
        return found


def _routed(context: Any) -> dict[str, str]:
    headers = dict(context.invocation_metadata())
    return {name: values[0] for name, values in parse_qs(headers.get("x-goog-request-params", "")).items()}


def _reset(refused: Refused) -> bytes:
    """As the service says it, in `google.rpc.Status`."""
    info = AnyMessage()
    info.Pack(ErrorInfo(reason="RESET", domain="pubsublite.googleapis.com"))
    status = Status(code=refused.code.value[0], message=refused.details, details=[info])
    return bytes(status.SerializeToString())
