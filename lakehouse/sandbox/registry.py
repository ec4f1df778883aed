"""Topics and subscriptions by name: created, found, listed, deleted."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import grpc
from google.pubsub_v1 import types

from lakehouse.sandbox.faults import Faults
from lakehouse.sandbox.subscriptions import ACK_ID_LENGTH, Clocks, Message, Numbers, Refusal, Subscription

PUBLISH_TIME = "sandbox-publish-time"
"""The attribute by which a publisher says when a message is published, as ISO 8601; only the sandbox honours it.

The message is delivered from that time on, and without the attribute.
"""

MIN_ACK_DEADLINE_SECONDS, MAX_ACK_DEADLINE_SECONDS = 10, 600
_WEEK_SECONDS = 604_800
_DELETED_TOPIC = "_deleted-topic_"
_NAME = re.compile(r"projects/[^/]+/(topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
_SERVED_SETTINGS = {"name", "topic", "ack_deadline_seconds", "message_retention_duration", "labels"}
_SERVED_SETTINGS |= {"enable_message_ordering", "expiration_policy"}


class Topic:
    """Numbers and stamps what is published and offers it to the subscriptions there are at that moment."""

    def __init__(self, settings: Any, numbers: Numbers, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.subscriptions: dict[str, Subscription] = {}
        self._numbers, self._clock = numbers, clock
        self._lock = threading.Lock()
        self._published: list[range] = []

    def publish(self, protos: Sequence[Any], faults: Faults) -> list[str]:
        """The ids of the messages, whose protos are kept and stamped in place."""
        with self._lock:
            now = self._clock()
            numbers = self._numbers.take(len(protos))
            messages = _stored_messages(protos, numbers, now)
            self._published.append(numbers)
            for subscription in self.subscriptions.values():
                subscription.offer(messages, faults.arrivals(messages))
        return [str(number) for number in numbers]

    def subscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self.subscriptions = {**self.subscriptions, subscription.name: subscription}

    def unsubscribe(self, name: str) -> None:
        with self._lock:
            self.subscriptions = {n: each for n, each in self.subscriptions.items() if n != name}

    def published(self) -> list[str]:
        """Ids of all messages ever published here, in order."""
        with self._lock:
            return [str(number) for numbers in self._published for number in numbers]


class Registry:
    """The broker's topics and subscriptions, whose messages share one count of ids. Usable by several threads.

    What it refuses is a `Refusal` with the status that Pub/Sub would answer.
    """

    def __init__(self, clocks: Clocks, ack_id_length: int = ACK_ID_LENGTH) -> None:
        self._clocks, self._numbers, self._ack_id_length = clocks, Numbers(), ack_id_length
        self._lock = threading.RLock()
        self.topics: dict[str, Topic] = {}
        self.subscriptions: dict[str, Subscription] = {}

    def create_topic(self, settings: Any) -> Topic:
        _check_name(settings.name, "topics")
        with self._lock:
            if settings.name in self.topics:
                raise Refusal(grpc.StatusCode.ALREADY_EXISTS, "Topic already exists")
            return self.topics.setdefault(settings.name, Topic(settings, self._numbers, self._clocks.publishing))

    def topic(self, name: str, missing: str = "Topic not found") -> Topic:
        _check_name(name, "topics")
        if (topic := self.topics.get(name)) is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, missing)
        return topic

    def delete_topic(self, name: str) -> None:
        """Its subscriptions stay, with what they still owe."""
        with self._lock:
            topic = self.topic(name)
            del self.topics[name]
            for subscription in topic.subscriptions.values():
                subscription.update(_settings_with_changes(subscription.settings, topic=_DELETED_TOPIC))

    def create_subscription(self, settings: Any) -> Subscription:
        _check_name(settings.name, "subscriptions")
        with self._lock:
            topic = self.topic(settings.topic, missing="Subscription topic does not exist")
            complete = _complete(settings)
            if settings.name in self.subscriptions:
                raise Refusal(grpc.StatusCode.ALREADY_EXISTS, "Subscription already exists")
            subscription = Subscription(complete, self._numbers, self._clocks, self._ack_id_length)
            topic.subscribe(subscription)
            return self.subscriptions.setdefault(settings.name, subscription)

    def subscription(self, name: str, missing: str = "Subscription does not exist") -> Subscription:
        _check_name(name, "subscriptions")
        if (subscription := self.subscriptions.get(name)) is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, missing)
        return subscription

    def update_subscription(self, settings: Any, fields: Sequence[str]) -> Subscription:
        _check_update(fields)
        with self._lock:
            subscription = self.subscription(settings.name, missing="Subscription not found.")
            seconds = _ack_deadline_seconds(settings.ack_deadline_seconds)
            subscription.update(_settings_with_changes(subscription.settings, ack_deadline_seconds=seconds))
        return subscription

    def delete_subscription(self, name: str) -> None:
        with self._lock:
            subscription = self.subscription(name)
            del self.subscriptions[name]
            if (topic := self.topics.get(subscription.settings.topic)) is not None:
                topic.unsubscribe(name)
        subscription.delete()


def page(resources: Iterable[str], prefix: str, size: int, token: str) -> tuple[list[str], str]:
    """Names that start with `prefix`, sorted, and the token of the next page: the last name of this one."""
    names = sorted(name for name in list(resources) if name.startswith(prefix) and name > token)
    shown = names[: size or None]
    return shown, shown[-1] if len(shown) < len(names) else ""


def _stored_messages(protos: Sequence[Any], numbers: range, now: float) -> list[Message]:
    messages = []
    for number, proto in zip(numbers, protos, strict=True):
        at = _publish_time(proto.attributes) if PUBLISH_TIME in proto.attributes else now
        proto.message_id = str(number)
        proto.publish_time.FromMicroseconds(int(at * 1e6))
        messages.append(Message(number, proto, proto.ByteSize(), at, proto.ordering_key))
    return messages


def _publish_time(attributes: Any) -> float:
    """Takes the attribute away and gives what it says, in seconds since 1970."""
    said = attributes.pop(PUBLISH_TIME)
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        text = f"The sandbox cannot read the attribute {PUBLISH_TIME}: a time with its zone, not {said}"
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)
    return moment.timestamp()


def _check_name(name: str, kind: str) -> None:
    match = _NAME.fullmatch(name)
    if match is None or match[1] != kind:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid [{kind}] name: (name={name})")


def _complete(settings: Any) -> Any:
    """The settings with the service's defaults."""
    set_fields = {field.name for field, value in settings.ListFields() if value != types.PushConfig.pb()()}
    unserved = set_fields - _SERVED_SETTINGS
    if unserved:
        raise Refusal(grpc.StatusCode.UNIMPLEMENTED, f"The sandbox has no {', '.join(sorted(unserved))}")
    complete = _settings_with_changes(
        settings, ack_deadline_seconds=_ack_deadline_seconds(settings.ack_deadline_seconds)
    )
    complete.push_config.SetInParent()
    complete.message_retention_duration.seconds = settings.message_retention_duration.seconds or _WEEK_SECONDS
    return complete


def _ack_deadline_seconds(asked: int) -> int:
    seconds = asked or MIN_ACK_DEADLINE_SECONDS
    if not MIN_ACK_DEADLINE_SECONDS <= seconds <= MAX_ACK_DEADLINE_SECONDS:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_secs out of bounds")
    return seconds


def _check_update(fields: Sequence[str]) -> None:
    problem = "Invalid update_mask provided in the UpdateSubscriptionRequest: "
    if not fields:
        problem = (
            "The update_mask in the UpdateSubscriptionRequest must be set, and must contain a non-empty paths list."
        )
    elif immutable := [field for field in fields if field != "ack_deadline_seconds"]:
        problem += f"the {immutable[0]} field in the Subscription is not mutable."
    else:
        return
    raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, problem)


def _settings_with_changes(settings: Any, **fields: Any) -> Any:
    changed = type(settings)()
    changed.CopyFrom(settings)
    for field, value in fields.items():
        setattr(changed, field, value)
    return changed
