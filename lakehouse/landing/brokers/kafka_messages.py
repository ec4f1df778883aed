"""Kafka's messages as Arrow: in columns `DELIVERED`, as every broker's."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from lakehouse.schemas import DELIVERED, TIMESTAMP

BASE64 = ".base64"
"""At the end of an attribute's name whose value is no UTF-8: it is in base64."""
KEY = "kafka.key"
"""The attribute of a key that is no UTF-8, with `.base64` at its end."""

_NO_TIMESTAMP, _CREATED = 0, 1
"""Types of a message's time; the third is the broker's own, when it appended the message to its log."""


@dataclass(frozen=True)
class LogPage:
    """Messages of one or more partitions, each partition's in its order."""

    messages: pa.RecordBatch
    size_bytes: int


def page_of(messages: Sequence[Any], received_at: datetime) -> LogPage:
    """Of messages that are no errors.

    `message_id` is `partition:offset`. `publish_time` is the broker's where its topic says so; else it is the client's
    word, and no later than `received_at`: nothing is published after it was read.
    """
    latest = int(received_at.timestamp() * 1_000_000)
    ids, times, attributes, payloads, keys = [], [], [], [], []
    size_bytes = 0
    for each in messages:
        ids.append(f"{each.partition()}:{each.offset()}")
        kind, millis = each.timestamp()
        micros = latest if kind == _NO_TIMESTAMP else millis * 1000
        times.append(min(micros, latest) if kind == _CREATED else micros)
        value = each.value() or b""
        payloads.append(value)
        size_bytes += len(value)
        key, headers = each.key(), each.headers()
        named: list[tuple[str, str]] = []
        if headers:
            named = _attributes(headers)
        if key is not None:
            try:
                key = key.decode()
            except UnicodeDecodeError:
                named = [*named, (KEY + BASE64, base64.b64encode(key).decode())]
                key = None
        keys.append(key)
        attributes.append(named)
    columns = [
        pa.array(ids, pa.string()),
        pa.array(times, pa.int64()).cast(TIMESTAMP),
        pa.array(attributes, DELIVERED.field("attributes").type),
        pa.array(payloads, pa.binary()),
        pa.array(keys, pa.string()),
    ]
    return LogPage(pa.RecordBatch.from_arrays(columns, schema=DELIVERED), size_bytes)


def _attributes(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, str]]:
    """Of a name that is there several times, the last has it, as Kafka's clients do; the others `name#1`, `name#2`."""
    left = Counter(name for name, _ in headers)
    seen: Counter[str] = Counter()
    named: dict[str, str] = {}
    for name, value in headers:
        left[name] -= 1
        seen[name] += 1
        own = f"{name}#{seen[name]}" if left[name] else name
        try:
            named[own] = (value or b"").decode()
        except UnicodeDecodeError:
            named[own + BASE64] = base64.b64encode(value or b"").decode()
    return list(named.items())
