"""The calls of google.pubsub.v1 that the ordinary client libraries make, on the messages of the wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

from lakehouse.sandbox.faults import Faults
from lakehouse.sandbox.registry import MAX_ACK_DEADLINE_SECONDS, Registry, page
from lakehouse.sandbox.streaming import Page, Stream, check_first
from lakehouse.sandbox.subscriptions import Flow, Refusal, Subscription

MAX_REQUEST_MESSAGES = 1000
MAX_REQUEST_BYTES = 10 * 1024 * 1024
"""The service's limits on one Publish, https://cloud.google.com/pubsub/quotas#resource_limits."""

_PullResponse = types.PullResponse.pb()
_StreamingPullResponse = types.StreamingPullResponse.pb()


class PubSub:
    """A Publisher and a Subscriber on one registry; each method answers a request or raises a `Refusal`."""

    def __init__(self, registry: Registry, faults: Callable[[], Faults], longest_wait: timedelta) -> None:
        self._registry, self._faults = registry, faults
        self._longest_wait_seconds = longest_wait.total_seconds()

    def create_topic(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._registry.create_topic(request).settings

    def get_topic(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._registry.topic(request.topic).settings

    def list_topics(self, request: Any, context: grpc.ServicerContext) -> Any:
        topics = self._registry.topics.copy()
        names, token = page(topics, f"{request.project}/topics/", request.page_size, request.page_token)
        found = [topics[name].settings for name in names]
        return types.ListTopicsResponse.pb()(topics=found, next_page_token=token)

    def list_topic_subscriptions(self, request: Any, context: grpc.ServicerContext) -> Any:
        subscriptions = self._registry.topic(request.topic).subscriptions
        names, token = page(subscriptions, "", request.page_size, request.page_token)
        return types.ListTopicSubscriptionsResponse.pb()(subscriptions=names, next_page_token=token)

    def delete_topic(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._registry.delete_topic(request.topic)
        return Empty()

    def publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        topic = self._registry.topic(request.topic)
        _check_publishable(request)
        return types.PublishResponse.pb()(message_ids=topic.publish(request.messages, self._faults()))

    def create_subscription(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._registry.create_subscription(request).settings

    def get_subscription(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._registry.subscription(request.subscription).settings

    def list_subscriptions(self, request: Any, context: grpc.ServicerContext) -> Any:
        subscriptions = self._registry.subscriptions.copy()
        names, token = page(subscriptions, f"{request.project}/subscriptions/", request.page_size, request.page_token)
        found = [subscriptions[name].settings for name in names]
        return types.ListSubscriptionsResponse.pb()(subscriptions=found, next_page_token=token)

    def update_subscription(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._registry.update_subscription(request.subscription, request.update_mask.paths).settings

    def delete_subscription(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._registry.delete_subscription(request.subscription)
        return Empty()

    def pull(self, request: Any, context: grpc.ServicerContext) -> Any:
        subscription = self._registry.subscription(request.subscription)
        if request.max_messages <= 0:
            raise _invalid("No max_messages specified")
        give_up = _always if request.return_immediately else _gone_or_after(self._wait_seconds(context), context)
        context.add_callback(subscription.wake)
        seconds = self._faults().lease_seconds(subscription.settings.ack_deadline_seconds)
        return _with_messages(_PullResponse(), subscription.pull(Flow(request.max_messages), seconds, give_up))

    def streaming_pull(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        first = next(requests, None)
        if first is None:
            return
        check_first(first)
        subscription = self._registry.subscription(first.subscription, _missing_stream(first.subscription))
        self._apply(subscription, first)
        stream = Stream(subscription, first, self._apply)
        context.add_callback(stream.end)
        for leased in stream.pages(requests, self._faults().lease_seconds):
            yield _with_messages(_StreamingPullResponse(), leased)

    def acknowledge(self, request: Any, context: grpc.ServicerContext) -> Any:
        subscription = self._registry.subscription(request.subscription)
        if not request.ack_ids:
            raise _invalid("No ack ids specified.")
        self._check_size("Acknowledge", request)
        self._acknowledge(subscription, request.ack_ids)
        return Empty()

    def modify_ack_deadline(self, request: Any, context: grpc.ServicerContext) -> Any:
        subscription = self._registry.subscription(request.subscription)
        if not request.ack_ids:
            raise _invalid("No ack ids specified")
        self._check_size("ModifyAckDeadline", request)
        self._move_deadline(subscription, request.ack_ids, request.ack_deadline_seconds)
        return Empty()

    def _check_size(self, method: str, request: Any) -> None:
        most = self._faults().most_bytes(method)
        if request.ByteSize() > most:
            raise _invalid(f"Request payload size exceeds the limit: {most} bytes.")

    def _apply(self, subscription: Subscription, request: Any) -> None:
        self._acknowledge(subscription, request.ack_ids)
        if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise _invalid("modify_deadline_seconds and modify_deadline_ack_ids must be of the same length")
        for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
            self._move_deadline(subscription, [ack_id], seconds)

    def _acknowledge(self, subscription: Subscription, ack_ids: Iterable[str]) -> None:
        faults = self._faults()
        subscription.acknowledge([ack_id for ack_id in ack_ids if not faults.ack_dropped(ack_id)])

    def _move_deadline(self, subscription: Subscription, ack_ids: Iterable[str], seconds: int) -> None:
        if not 0 <= seconds <= MAX_ACK_DEADLINE_SECONDS:
            raise _invalid("Ack deadline cannot be negative" if seconds < 0 else "ack_deadline_secs out of bounds")
        if seconds:
            subscription.extend(ack_ids, self._faults().lease_seconds(seconds))
        else:
            subscription.give_back(ack_ids)

    def _wait_seconds(self, context: grpc.ServicerContext) -> float:
        """An empty answer shall reach the caller before its own deadline does."""
        remaining = context.time_remaining()
        remaining = self._longest_wait_seconds if remaining is None else remaining - min(1.0, remaining / 2)
        return min(self._longest_wait_seconds, remaining)


PUBLISHER: dict[str, tuple[Any, Callable[..., Any]]] = {
    "CreateTopic": (types.Topic, PubSub.create_topic),
    "GetTopic": (types.GetTopicRequest, PubSub.get_topic),
    "ListTopics": (types.ListTopicsRequest, PubSub.list_topics),
    "ListTopicSubscriptions": (types.ListTopicSubscriptionsRequest, PubSub.list_topic_subscriptions),
    "DeleteTopic": (types.DeleteTopicRequest, PubSub.delete_topic),
    "Publish": (types.PublishRequest, PubSub.publish),
}
SUBSCRIBER: dict[str, tuple[Any, Callable[..., Any]]] = {
    "CreateSubscription": (types.Subscription, PubSub.create_subscription),
    "GetSubscription": (types.GetSubscriptionRequest, PubSub.get_subscription),
    "ListSubscriptions": (types.ListSubscriptionsRequest, PubSub.list_subscriptions),
    "UpdateSubscription": (types.UpdateSubscriptionRequest, PubSub.update_subscription),
    "DeleteSubscription": (types.DeleteSubscriptionRequest, PubSub.delete_subscription),
    "Pull": (types.PullRequest, PubSub.pull),
    "Acknowledge": (types.AcknowledgeRequest, PubSub.acknowledge),
    "ModifyAckDeadline": (types.ModifyAckDeadlineRequest, PubSub.modify_ack_deadline),
}
"""Unary calls: the class of the request, and who answers it."""


def _check_publishable(request: Any) -> None:
    if not request.messages:
        raise _invalid("No messages to publish")
    if len(request.messages) > MAX_REQUEST_MESSAGES:
        raise _invalid("Too many messages to publish")
    if request.ByteSize() > MAX_REQUEST_BYTES:
        raise _invalid(f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")
    if not all(message.data or message.attributes for message in request.messages):
        raise _invalid("Some messages are empty")


def _with_messages(reply: Any, leased: Page) -> Any:
    add = reply.received_messages.add
    for ack_id, message in leased:
        add(ack_id=ack_id, message=message.proto)
    return reply


def _gone_or_after(seconds: float, context: grpc.ServicerContext) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until or not context.is_active()


def _always() -> bool:
    return True


def _missing_stream(name: str) -> str:
    return f"Subscription does not exist (resource={name.rpartition('/')[2]})"


def _invalid(text: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)
