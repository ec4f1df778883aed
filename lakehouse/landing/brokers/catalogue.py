"""The kinds of brokers there are: a new one is one line here, and its keys one class in `lakehouse/sources.py`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from lakehouse.errors import extras_named

if TYPE_CHECKING:  # nobody who asks for a kind needs Spark for it
    from lakehouse.landing.brokers.contract import Broker

KINDS = {
    "kafka": "lakehouse.landing.brokers.kafka:Kafka",
    "pubsub": "lakehouse.landing.brokers.subscriptions:PubSub",
    "pubsublite": "lakehouse.landing.brokers.lite:Lite",
}


@cache
def broker_of(kind: str) -> Broker:
    """This process's; MissingExtraError where its packages are not installed."""
    module, _, name = KINDS[kind].partition(":")
    with extras_named():
        broker: Broker = getattr(import_module(module), name)()
    return broker
