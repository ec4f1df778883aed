"""The benchmark's events in each payload format, with the topic's keys that read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from io import BytesIO
from typing import Any

import fastavro

from lakehouse import protoc
from lakehouse.protobuf_types import schema_text

LEAST_SHARE = 0.7
"""Of JSON's events a second in the same run."""
_AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Play",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "played_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "user", "type": ["null", "string"]},
        {"name": "country", "type": ["null", "string"]},
        {"name": "track", "type": "string"},
        {"name": "ms", "type": "int"},
        {"name": "score", "type": "double"},
        {"name": "shuffled", "type": "boolean"},
        {"name": "context", "type": ["null", "string"]},
    ],
}
_PROTOBUF = """
syntax = "proto3";
import "google/protobuf/timestamp.proto";
message Play {
  string event_id = 1;
  google.protobuf.Timestamp played_at = 2;
  optional string user = 3;
  optional string country = 4;
  string track = 5;
  int32 ms = 6;
  double score = 7;
  bool shuffled = 8;
  optional string context = 9;
}
"""

Event = dict[str, Any]


@cache
def options(name: str) -> dict[str, Any]:
    """The keys of a topic of this format, `avro` or `protobuf`, beside those that all have."""
    if name == "avro":
        return {"format": name, "schemas": {"play.avsc": json.dumps(_AVRO)}}
    return {
        "format": name,
        "schemas": {"play.proto": schema_text(protoc.compiled("play.proto", {"play.proto": _PROTOBUF}))},
    }


def _at(event: Event) -> datetime:
    return datetime.fromisoformat(event["played_at"].replace("Z", "+00:00"))


def _as_avro(event: Event) -> bytes:
    sink = BytesIO()
    fastavro.schemaless_writer(sink, _parsed(), {**event, "played_at": _at(event)})
    return sink.getvalue()


@cache
def _parsed() -> Any:
    return fastavro.parse_schema(_AVRO)


def _as_protobuf(event: Event) -> bytes:
    message = _class()(**{name: value for name, value in event.items() if name != "played_at"})
    message.played_at.FromDatetime(_at(event))
    written: bytes = message.SerializeToString()
    return written


@cache
def _class() -> Any:
    from google.protobuf.message_factory import GetMessageClass

    from lakehouse.protobuf_types import descriptors_of, pool_of

    pool = pool_of(descriptors_of(next(iter(options("protobuf")["schemas"].values()))))
    return GetMessageClass(pool.FindMessageTypeByName("Play"))


WRITTEN: dict[str, Callable[[Event], bytes]] = {"avro": _as_avro, "protobuf": _as_protobuf}
"""An event of `bench.pages.payload` in each format."""
