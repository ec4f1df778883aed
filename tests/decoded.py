"""Pages of messages as events, by both ways of decoding."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lakehouse.decode.events import Schemas, decode, decode_by_message
from lakehouse.operations.replay import REASONS
from lakehouse.topics import Topic


def decoded_rows(messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None = None) -> list[dict[str, Any]]:
    """On which both ways agree, with reasons that the command `replay-rejected` knows."""
    fast, exact = decode(messages, topic, schemas), decode_by_message(messages, topic, schemas)
    fast.columns.validate(full=True)
    assert repr(fast.columns.to_pylist()) == repr(exact.columns.to_pylist())
    rows: list[dict[str, Any]] = fast.columns.to_pylist()
    assert {row["reject_reason"].partition(":")[0] for row in rows if row["reject_reason"]} <= set(REASONS)
    return rows
