"""Pub/Sub Lite's methods, as far as they are used: Google's messages, with the headers by which calls are routed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

import grpc
from google.cloud.pubsublite_v1.types import admin, common, cursor, subscriber, topic_stats

_PACKAGE = "google.cloud.pubsublite.v1"

Cursor = common.Cursor.pb()
FlowControlRequest = subscriber.FlowControlRequest.pb()
InitialSubscribeRequest = subscriber.InitialSubscribeRequest.pb()
SeekRequest = subscriber.SeekRequest.pb()
SubscribeRequest = subscriber.SubscribeRequest.pb()
SubscribeResponse = subscriber.SubscribeResponse.pb()

Ask = Callable[[], Any]
"""Sends a call; its future is returned."""


class Calls:
    """Over one channel; `seconds` is how long an answer is waited for."""

    def __init__(self, channel: grpc.Channel, seconds: float) -> None:
        self._channel, self._seconds = channel, seconds

    def subscription(self, name: str) -> Ask:
        request = admin.GetSubscriptionRequest.pb()(name=name)
        return self._unary("AdminService/GetSubscription", request, common.Subscription.pb(), name=name)

    def partitions(self, topic: str) -> Ask:
        request = admin.GetTopicPartitionsRequest.pb()(name=topic)
        return self._unary("AdminService/GetTopicPartitions", request, admin.TopicPartitions.pb(), name=topic)

    def head(self, topic: str, partition: int) -> Ask:
        request = topic_stats.ComputeHeadCursorRequest.pb()(topic=topic, partition=partition)
        answer = topic_stats.ComputeHeadCursorResponse.pb()
        return self._unary("TopicStatsService/ComputeHeadCursor", request, answer, topic=topic)

    def first_since(self, topic: str, partition: int, published_at: datetime) -> Ask:
        """The first message that was published then or later."""
        request = topic_stats.ComputeTimeCursorRequest.pb()(topic=topic, partition=partition)
        request.target.publish_time.FromDatetime(published_at)
        answer = topic_stats.ComputeTimeCursorResponse.pb()
        return self._unary("TopicStatsService/ComputeTimeCursor", request, answer, topic=topic)

    def stats(self, topic: str, partition: int, start: int, end: int) -> Ask:
        request = topic_stats.ComputeMessageStatsRequest.pb()(
            topic=topic, partition=partition, start_cursor=Cursor(offset=start), end_cursor=Cursor(offset=end)
        )
        answer = topic_stats.ComputeMessageStatsResponse.pb()
        return self._unary("TopicStatsService/ComputeMessageStats", request, answer, topic=topic)

    def commit(self, subscription: str, partition: int, offset: int) -> Ask:
        request = cursor.CommitCursorRequest.pb()(
            subscription=subscription, partition=partition, cursor=Cursor(offset=offset)
        )
        answer = cursor.CommitCursorResponse.pb()
        return self._unary("CursorService/CommitCursor", request, answer, subscription=subscription)

    def subscribe(self, subscription: str, partition: int, requests: Iterator[Any]) -> Any:
        """The call, whose responses are iterated. It has no deadline."""
        method = self._channel.stream_stream(
            f"/{_PACKAGE}.SubscriberService/Subscribe",
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=SubscribeResponse.FromString,
        )
        return method(requests, metadata=_routed(partition=str(partition), subscription=subscription))

    def _unary(self, path: str, request: Any, answer: Any, **routed: str) -> Ask:
        method = self._channel.unary_unary(
            f"/{_PACKAGE}.{path}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return partial(method.future, request, timeout=self._seconds, metadata=_routed(**routed))


def answers(asks: Mapping[Any, Ask], at_once: int) -> dict[Any, Any]:
    """What is answered to each, or its RpcError; so many are under way at a time."""
    found: dict[Any, Any] = {}
    for keys in _chunks(list(asks), at_once):
        under_way = {key: asks[key]() for key in keys}
        for key, future in under_way.items():
            error = future.exception()
            found[key] = future.result() if error is None else error
    return found


def _chunks(keys: list[Any], size: int) -> Iterable[list[Any]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _routed(**values: str) -> tuple[tuple[str, str], ...]:
    return (("x-goog-request-params", urlencode(values)),)
