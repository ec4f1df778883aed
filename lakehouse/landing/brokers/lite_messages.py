"""Pub/Sub Lite's messages as Arrow: in columns `DELIVERED`, as every broker's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse.landing.brokers.log_messages import LogPage, PageBuilder, attributes_of

KEY = "pubsublite.key"
"""The attribute of a key that is no UTF-8, with `.base64` at its end."""
EVENT_TIME = "pubsublite.event_time"
"""The attribute with the event time that a publisher may give a message: RFC 3339, in UTC, to the microsecond."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def page_of(partition: int, messages: Iterable[Any]) -> LogPage:
    """Of `SequencedMessage`s. `message_id` is `partition:offset`, `publish_time` the service's.

    An attribute may have several values there: they become attributes as Kafka's repeated headers do.
    """
    builder = PageBuilder(KEY)
    for each in messages:
        message = each.message
        named = [(name, value) for name, many in message.attributes.items() for value in many.values]
        if message.HasField("event_time"):
            named.append((EVENT_TIME, _text_of(message.event_time).encode()))
        attributes = attributes_of(named) if named else []
        published = _micros_of(each.publish_time)
        builder.add(partition, each.cursor.offset, published, attributes, message.data, message.key or None)
    return builder.page()


def _micros_of(timestamp: Any) -> int:
    return int(timestamp.seconds * 1_000_000 + timestamp.nanos // 1000)


def _text_of(timestamp: Any) -> str:
    """What is no instant of the years 1 to 9999 is a text that is no time, so that its event is rejected."""
    try:
        return (_EPOCH + timedelta(microseconds=_micros_of(timestamp))).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{timestamp.seconds} s, {timestamp.nanos} ns"
