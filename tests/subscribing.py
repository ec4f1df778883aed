"""The sample topic on a broker, and subscriptions of it, as Google's clients in this process make them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import PLAYS
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient

from lakehouse.sandbox.broker import Broker

TOPIC = "projects/test/topics/plays"
SUBSCRIPTION = PLAYS["subscription"]


@contextmanager
def subscribed_broker(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float] = time.time, **settings: Any
) -> Iterator[Broker]:
    """A broker that clients find, with the topic and its subscription, which is made with `settings`."""
    with Broker(clock=clock) as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        create_topic()
        create_subscription(**settings)
        yield broker


def create_topic() -> None:
    with PublisherClient() as publisher:
        publisher.create_topic(name=TOPIC)


def create_subscription(name: str = SUBSCRIPTION, **settings: Any) -> None:
    with SubscriberClient() as subscriber:
        subscriber.create_subscription(request={"name": name, "topic": TOPIC, **settings})


def delete_subscription(name: str = SUBSCRIPTION) -> None:
    with SubscriberClient() as subscriber:
        subscriber.delete_subscription(subscription=name)
