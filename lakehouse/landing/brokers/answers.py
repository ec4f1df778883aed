"""Pub/Sub's answers as Arrow: straight from the wire, or by Google's own classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.pubsub_v1.types import PullResponse

from lakehouse.schemas import DELIVERED


@dataclass(frozen=True)
class Page:
    """Messages as one answer brought them, in columns `DELIVERED`, and what acknowledges each."""

    messages: pa.RecordBatch
    ack_ids: list[str]
    size_bytes: int

    @property
    def has_keys(self) -> bool:
        """Whether a message has an ordering key: Pub/Sub may then keep back what follows it."""
        keys = self.messages.column("ordering_key")
        return bool(keys.null_count < len(keys))


@cache
def empty_page() -> Page:
    """What most answers of idle subscriptions are."""
    return Page(pa.RecordBatch.from_pylist([], schema=DELIVERED), [], 0)


def page_by_ptars(answer: bytes) -> Page:
    """From a PullResponse, without an object for each message; ValueError when it is none."""
    received = _handler().list_to_record_batch([answer]).column(0).flatten()
    message = received.field("message")
    attributes = message.field("attributes")
    key = message.field("ordering_key")
    columns = [
        message.field("message_id"),
        pc.fill_null(message.field("publish_time"), _untimed()),
        pa.MapArray.from_arrays(attributes.offsets, attributes.keys, attributes.items),
        message.field("data"),
        pc.if_else(pc.equal(key, ""), _no_key(), key),
    ]
    messages = pa.RecordBatch.from_arrays(columns, schema=DELIVERED)
    return Page(messages, received.field("ack_id").to_pylist(), len(answer))


def page_by_google(answer: bytes) -> Page:
    """The same by Google's own classes: a fifth of the speed, and code that everybody else uses."""
    try:
        received = PullResponse.pb().FromString(answer).received_messages
    except Exception as unreadable:  # protobuf's DecodeError, whose class depends on the implementation
        raise ValueError(f"failed to decode a PullResponse: {unreadable}") from unreadable
    rows = [
        {
            "message_id": each.message.message_id,
            "publish_time": each.message.publish_time.ToDatetime(UTC),
            "attributes": list(each.message.attributes.items()),
            "payload": each.message.data,
            "ordering_key": each.message.ordering_key or None,
        }
        for each in received
    ]
    return Page(pa.RecordBatch.from_pylist(rows, schema=DELIVERED), [each.ack_id for each in received], len(answer))


PAGE_READERS: Mapping[str, Callable[[bytes], Page]] = {"ptars": page_by_ptars, "google": page_by_google}
"""By the setting `ingest.answers`."""


# Values of Arrow import pandas: Spark's planner, a process that has this module and reads no answer, starts without.


@cache
def _untimed() -> pa.Scalar:
    return pa.scalar(0, pa.int64()).cast(DELIVERED.field("publish_time").type)


@cache
def _no_key() -> pa.Scalar:
    return pa.scalar(None, pa.string())


@cache
def _handler() -> Any:
    """Where `ingest.answers` is `google`, ptars need not even be installed."""
    import ptars

    pool = ptars.HandlerPool([PullResponse.pb().DESCRIPTOR.file], config=ptars.PtarsConfig(timestamp_unit="us"))
    return pool.get_for_message(PullResponse.pb().DESCRIPTOR)
