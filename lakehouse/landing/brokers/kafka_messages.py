"""Kafka's messages as Arrow: in columns `DELIVERED`, as every broker's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lakehouse.landing.brokers.log_messages import LogPage, PageBuilder, attributes_of

KEY = "kafka.key"
"""The attribute of a key that is no UTF-8, with `.base64` at its end."""

_NO_TIMESTAMP, _CREATED = 0, 1
"""Types of a message's time; the third is the broker's own, when it appended the message to its log."""


def page_of(messages: Sequence[Any], received_at: datetime) -> LogPage:
    """Of messages that are no errors.

    `message_id` is `partition:offset`. `publish_time` is the broker's where its topic says so; else it is the client's
    word, and no later than `received_at`: nothing is published after it was read.
    """
    latest = int(received_at.timestamp() * 1_000_000)
    builder = PageBuilder(KEY)
    for each in messages:
        kind, millis = each.timestamp()
        micros = latest if kind == _NO_TIMESTAMP else millis * 1000
        published = min(micros, latest) if kind == _CREATED else micros
        headers = each.headers()
        attributes = attributes_of(headers) if headers else []
        builder.add(each.partition(), each.offset(), published, attributes, each.value() or b"", each.key())
    return builder.page()
