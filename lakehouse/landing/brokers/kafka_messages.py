"""Kafka's messages as Arrow: in columns `DELIVERED`, as every broker's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lakehouse.errors import in_one_line
from lakehouse.landing.brokers.log_messages import LogPage, PageBuilder, attributes_of

KEY = "kafka.key"
"""The attribute of a key that is no UTF-8, with `.base64` at its end."""

HEADERS_UNREAD = "kafka.headers.unread"
"""The attribute of a message of whose headers one has a name that is no UTF-8, with what was found."""

_NO_TIMESTAMP, _CREATED = 0, 1
"""Types of a message's time; the third is the broker's own, when it appended the message to its log."""


def page_of(messages: Sequence[Any], received_at: datetime) -> LogPage:
    """Of messages that are no errors.

    `message_id` is `partition:offset`. `publish_time` is the broker's where its topic says so; else it is the client's
    word, and no later than `received_at`: nothing is published after it was read. A negative one is none.
    """
    latest = int(received_at.timestamp() * 1_000_000)
    builder = PageBuilder(KEY)
    for each in messages:
        kind, millis = each.timestamp()
        micros = latest if kind == _NO_TIMESTAMP or millis < 0 else millis * 1000
        published = min(micros, latest) if kind == _CREATED else micros
        builder.add(each.partition(), each.offset(), published, _attributes(each), each.value() or b"", each.key())
    return builder.page()


def _attributes(message: Any) -> list[tuple[str, str]]:
    try:
        headers = message.headers()
    except (SystemError, UnicodeDecodeError) as error:
        # The client gives all names as text, or none. What it keeps of them after that must not be touched.
        return [(HEADERS_UNREAD, in_one_line(error.__cause__ or error))]
    return attributes_of(headers) if headers else []
