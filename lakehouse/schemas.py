"""The columns of each table, as Arrow schemas."""

from __future__ import annotations

import pyarrow as pa

from lakehouse.topics import Topic

TIMESTAMP = pa.timestamp("us", "UTC")

DELIVERED = pa.schema(
    [
        ("message_id", pa.string()),
        ("publish_time", TIMESTAMP),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("payload", pa.binary()),
        ("ordering_key", pa.string()),
    ]
)
"""A message as the subscription delivered it; `ordering_key` is null where it has none."""

WHERE_FROM = pa.schema([("epoch", pa.int64()), ("slot", pa.int32()), ("position", pa.int32())])
"""Which row of which segment; unique in a topic and the same after every replay."""

LEDGER = pa.schema(
    [
        ("hour", pa.string()),
        ("state", pa.string()),
        ("at", TIMESTAMP),
        ("by", pa.string()),
        ("details", pa.string()),
    ]
)

FACTS = pa.schema(
    [
        ("topic", pa.string()),
        ("epoch", pa.int64()),
        ("slot", pa.int32()),
        ("path", pa.string()),
        ("event_hour", pa.string()),
        ("rows", pa.int64()),
        ("size_bytes", pa.int64()),
        ("rejected", pa.int64()),
        ("min_event_time", TIMESTAMP),
        ("max_event_time", TIMESTAMP),
        ("min_publish_time", TIMESTAMP),
        ("max_publish_time", TIMESTAMP),
        ("written_at", TIMESTAMP),
        ("dry_at", TIMESTAMP),
        ("unanswered_at", TIMESTAMP),
        ("full", pa.bool_()),
        ("attempt", pa.int32()),
        ("unacknowledged", pa.int64()),
        ("ack_error", pa.string()),
        ("counts", pa.string()),
        ("error", pa.string()),
        ("read", pa.string()),
        ("slots", pa.int32()),
        ("pulled_bytes", pa.int64()),
    ]
)
"""What the source gives to Spark: one row per file of a segment, and one without a path for a segment without files.

`event_hour` is null for rejected messages and the smallest of several for late events that share a file. `dry_at` is
when the subscription was last asked and answered that it has nothing, which is when it was drained (the name is that of
older releases' manifests); null when the slot stopped for another reason, or when messages may wait behind its own of
an ordering key. `unanswered_at` is when a pull last ended without an answer, or until when a slot that was given up may
extend its leases: what it has comes back within an ack deadline after that. `full` says that the slot stopped at its
bound, so that more slots would have pulled more. `attempt` counts Spark's tries at the slot. `unacknowledged` counts,
on the first row of a segment only, the messages that were made durable and whose acknowledgement was refused, as
`ack_error` says: they come again. `counts` is JSON, on the first row of a segment only: rejects by `reasons` and
`undeclared` fields by name. `error` says why the slot could not be pulled (`lakehouse.errors.from_trace` reads it): its
row has no path and nothing drained. `read` is what was read of a source that is a log (`lakehouse.progress.LogRead`),
the same in every row of the segment. `slots` is how many the topic has in the epoch. `pulled_bytes` are those of the
payloads, on the first row of a segment only.
"""


def decoded_schema(topic: Topic) -> pa.Schema:
    """What decoding adds to a delivered message; `reject_reason` is null for an event."""
    return pa.schema(
        [
            ("event_id", pa.string()),
            ("event_time", TIMESTAMP),
            ("event", topic.event_type),
            ("reject_reason", pa.string()),
        ]
    )


def segment_schema(topic: Topic) -> pa.Schema:
    """Bronze without its partition column: the columns of its files."""
    return pa.schema([*DELIVERED, *decoded_schema(topic), *WHERE_FROM])


def bronze_schema(topic: Topic) -> pa.Schema:
    """A row per delivery; `hour` is the bucket that it is in, null where the message was rejected."""
    return segment_schema(topic).append(pa.field("hour", pa.string()))


def sealed_schema(topic: Topic) -> pa.Schema:
    """Silver without its partition column: the columns of its files."""
    return pa.schema(
        [
            *topic.event_type,
            pa.field("event_id", pa.string()),
            pa.field("event_time", TIMESTAMP),
            pa.field("event_hour", pa.string()),
            pa.field("publish_time", TIMESTAMP),
            pa.field("message_id", pa.string()),
        ]
    )


def silver_schema(topic: Topic) -> pa.Schema:
    """A row per event; `hour` is the sealed hour that it was delivered in, `event_hour` that of its own time."""
    return sealed_schema(topic).append(pa.field("hour", pa.string()))
