"""Topics of format protobuf: fields by the schema, values as written, and a reason for each message that is none."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lakehouse import local_cache, protoc
from lakehouse.config import topic_of
from lakehouse.decode import protobuf_pages
from lakehouse.decode.events import decode
from lakehouse.decode.protobuf_schemas import schema_of
from lakehouse.errors import ConfigError
from lakehouse.payload_types import UnreadableSchemaError
from lakehouse.protobuf_types import schema_text
from lakehouse.topics import Topic, topic_from
from tests.decoded import decoded_rows
from tests.examples import examples
from tests.test_parse import PLAYED, delivered

PLAY = """
syntax = "proto3";
package test;
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

enum Kind { UNKNOWN = 0; PLAY = 1; SKIP = 2; }

message Track { string id = 1; optional int32 ms = 2; }

message Play {
  string id = 1;
  google.protobuf.Timestamp at = 2;
  optional string user = 3;
  int32 small = 4;
  sint64 large = 5;
  uint64 huge = 6;
  fixed32 fixed = 7;
  float half = 8;
  double full = 9;
  bool flag = 10;
  bytes raw = 11;
  Kind kind = 12;
  Track track = 13;
  repeated Track queue = 14;
  repeated sint32 steps = 15;
  repeated Kind kinds = 16;
  map<string, int64> tags = 17;
  map<int32, Track> tracks = 18;
  oneof source { string list = 19; Track radio = 20; bool shuffle = 21; }
  google.protobuf.Duration length = 22;
  google.protobuf.StringValue note = 23;
  google.protobuf.UInt64Value count = 24;
  google.protobuf.Struct context = 25;
  google.protobuf.Value extra = 26;
}
"""
OLD = """
syntax = "proto2";
package test;
enum Kind { PLAY = 1; SKIP = 7; }
message Old {
  required string id = 1;
  required int64 at = 2;
  optional Kind kind = 3 [default = SKIP];
  repeated Kind kinds = 4 [packed = true];
  optional string user = 5 [default = "n\\"\\303\\266"];
  optional bytes raw = 6 [default = "\\001\\xff"];
  optional double score = 7 [default = inf];
  optional group Place = 8 { optional int32 x = 1; required int32 y = 2; }
  optional int32 plain = 9;
  repeated int32 apart = 10;
  extensions 100 to 199;
}
"""


def plain(name: str, body: str) -> str:
    return f'syntax = "proto3"; package test; message {name} {{ string id = 1; int64 at = 2; {body} }}'


@cache
def text_of(schema: str) -> str:
    return schema_text(protoc.compiled("play.proto", {"play.proto": schema}))


def topic_of_schema(schema: str, **changes: Any) -> Topic:
    values = {
        "subscription": "projects/test/subscriptions/plays",
        "format": "protobuf",
        "schemas": {"play.proto": text_of(schema)},
        "event_id": "payload.id",
        "event_time": "payload.at",
        "event_time_unit": "iso8601" if schema is PLAY else "ms",
    }
    return topic_from("plays", {**values, **changes})


TOPIC = topic_of_schema(PLAY, message="Play")


def with_field(body: str, **changes: Any) -> Topic:
    return topic_of_schema(plain("Play", body), message="Play", **changes)


def read(topic: Topic, payloads: Sequence[bytes | None]) -> list[dict[str, Any]]:
    return decoded_rows(delivered(payloads), topic)


def reason(topic: Topic, payload: bytes | None) -> str | None:
    """Of one message, which is the same between others."""
    found = read(topic, [payload])[0]["reject_reason"]
    usual = CLEAN if topic.event_time_unit == "iso8601" else HEAD
    assert [row["reject_reason"] for row in read(topic, [usual, payload, usual])] == [None, found, None]
    return None if found is None else str(found)


# --- the wire, without the library -----------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes, wire: int | None = None) -> bytes:
    """A varint or something with its length, unless `wire` says otherwise: then the bytes as they are."""
    if wire is not None:
        assert isinstance(value, bytes)
        return varint(number << 3 | wire) + value
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


SECONDS, NANOS = int(PLAYED.timestamp()), 1_999
INSTANT = field(1, SECONDS) + field(2, NANOS)
HEAD = field(1, b"e1") + field(2, SECONDS * 1000)
"""Id and time of the schemas that `plain` makes."""
TRACK = field(1, b"t") + field(2, 7)
CLEAN = b"".join(
    [
        field(1, b"e1"),
        field(2, INSTANT),
        field(3, b"u"),
        field(4, -(2**31)),
        field(5, 2**64 - 1),  # zigzag of the least
        field(6, 2**64 - 1),
        field(7, struct.pack("<I", 2**32 - 1), 5),
        field(8, struct.pack("<f", 0.5), 5),
        field(9, struct.pack("<d", -0.0), 1),
        field(10, 1),
        field(11, b"\0\xff"),
        field(12, 2),
        field(13, TRACK),
        field(14, field(1, b"a")),
        field(14, TRACK),
        field(15, b"\x01\x02"),
        field(16, b"\x01\x63"),
        field(17, field(1, b"x") + field(2, 1)),
        field(18, field(1, 5) + field(2, TRACK)),
        field(20, TRACK),
        field(22, field(1, -1) + field(2, -500_000_999)),
        field(23, field(1, b"n")),
        field(24, field(1, 2**63)),
        field(
            25, field(1, field(1, b"b") + field(2, field(4, 1))) + field(1, field(1, b"a") + field(2, field(3, b"x")))
        ),
        field(26, field(2, struct.pack("<d", 1.5), 1)),
    ]
)
EVENT = {
    "id": "e1",
    "at": PLAYED + timedelta(microseconds=1),
    "user": "u",
    "small": -(2**31),
    "large": -(2**63),
    "huge": Decimal(2**64 - 1),
    "fixed": 2**32 - 1,
    "half": 0.5,
    "full": -0.0,
    "flag": True,
    "raw": b"\0\xff",
    "kind": "SKIP",
    "track": {"id": "t", "ms": 7},
    "queue": [{"id": "a", "ms": None}, {"id": "t", "ms": 7}],
    "steps": [-1, 1],
    "kinds": ["PLAY", "99"],
    "tags": [("x", 1)],
    "tracks": [("5", {"id": "t", "ms": 7})],
    "list": None,
    "radio": {"id": "t", "ms": 7},
    "shuffle": None,
    "length": -1_500_000,
    "note": "n",
    "count": Decimal(2**63),
    "context": '{"a": "x", "b": true}',
    "extra": "1.5",
}
EMPTY = {
    **dict.fromkeys(("at", "user", "track", "list", "radio", "shuffle", "length", "note", "count", "context", "extra")),
    **{"id": "", "small": 0, "large": 0, "huge": Decimal(0), "fixed": 0, "half": 0.0, "full": 0.0, "flag": False},
    **{"raw": b"", "kind": "UNKNOWN", "queue": [], "steps": [], "kinds": [], "tags": [], "tracks": []},
}


def spelled(value: Any) -> str:
    """So that -0.0 is not 0.0, and UTC is UTC."""
    return repr(value).replace("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc")


# --- values ----------------------------------------------------------------------------------------------------------


def test_fields_and_their_types_come_from_the_schema() -> None:
    track = "struct<`id`: string, `ms`: int>"
    assert TOPIC.fields == {
        **{"id": "string", "at": "timestamp", "user": "string", "small": "int", "large": "bigint"},
        **{"huge": "decimal(20,0)", "fixed": "bigint", "half": "float", "full": "double", "flag": "boolean"},
        **{"raw": "binary", "kind": "string", "track": track, "queue": f"array<{track}>", "steps": "array<int>"},
        **{"kinds": "array<string>", "tags": "map<string, bigint>", "tracks": f"map<string, {track}>"},
        **{"list": "string", "radio": track, "shuffle": "boolean", "length": "bigint", "note": "string"},
        **{"count": "decimal(20,0)", "context": "string", "extra": "string"},
    }
    assert Topic.from_json(TOPIC.as_json()) == TOPIC


def test_every_value_is_what_was_written() -> None:
    row = read(TOPIC, [CLEAN])[0]
    assert (row["event_id"], row["event_time"], row["reject_reason"]) == ("e1", EVENT["at"], None)
    assert spelled(row["event"]) == spelled({name: EVENT[name] for name in TOPIC.fields})


def test_what_was_not_written_is_null_where_the_field_knows_it_and_else_zero() -> None:
    row = read(TOPIC, [field(1, b"e1") + field(2, INSTANT)])[0]
    expected = {**EMPTY, "id": "e1", "at": EVENT["at"]}
    assert spelled(row["event"]) == spelled({name: expected[name] for name in TOPIC.fields})


def test_a_message_of_no_bytes_is_one_in_which_nothing_was_written() -> None:
    assert [row["reject_reason"] for row in read(TOPIC, [b"", None])] == ["no event id"] * 2
    outside = topic_of_schema(PLAY, message="Play", event_id="attributes.id", event_time="publish_time")
    rows = decode(delivered([b""], attributes=[{"id": "a"}]), outside).columns.to_pylist()
    assert spelled(rows[0]["event"]) == spelled({name: EMPTY[name] for name in TOPIC.fields})


def test_defaults_groups_and_closed_enums_of_proto2() -> None:
    """An enum of proto2 hides numbers that it does not have; here they are seen."""
    topic = topic_of_schema(OLD)
    head = field(1, b"e1") + field(2, SECONDS * 1000)
    place = varint(8 << 3 | 3) + field(2, 5) + varint(8 << 3 | 4)
    rows = read(topic, [head, head + field(3, 2) + field(4, b"\x01\x02") + place + field(10, 1) + field(10, b"\2\3")])
    assert [row["reject_reason"] for row in rows] == [None, None]
    absent, present = (row["event"] for row in rows)
    assert (absent["kind"], absent["user"], absent["raw"]) == ("SKIP", 'n"ö', b"\1\xff")
    assert (absent["score"], absent["place"], absent["plain"], absent["kinds"]) == (float("inf"), None, None, [])
    assert (present["kind"], present["kinds"], present["place"]) == ("2", ["PLAY", "2"], {"x": None, "y": 5})
    assert present["apart"] == [1, 2, 3], "packed or not"


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (field(2, 1), "no required field: id"),
        (field(1, b"e"), "no required field: at"),
        (field(1, b"e") + field(2, 1) + varint(8 << 3 | 3) + varint(8 << 3 | 4), "no required field: place.y"),
    ],
)
def test_a_required_field_that_is_missing_is_named(payload: bytes, found: str) -> None:
    assert read(topic_of_schema(OLD), [payload])[0]["reject_reason"] == found


def test_editions_are_read_by_their_features() -> None:
    """Presence, how messages are delimited, closed enums and texts that nobody validates, each as the field says it."""
    schema = """
        edition = "2023";
        enum Kind { option features.enum_type = CLOSED; PLAY = 1; SKIP = 2; }
        message Play {
          string id = 1 [features.field_presence = LEGACY_REQUIRED];
          int64 at = 2 [features.field_presence = IMPLICIT];
          int32 plain = 3;
          string text = 4 [features.utf8_validation = NONE, features.field_presence = IMPLICIT];
          Kind kind = 5;
          message In { int32 x = 1; }
          In inner = 6 [features.message_encoding = DELIMITED];
          repeated int32 apart = 7 [features.repeated_field_encoding = EXPANDED];
        }
    """
    topic = topic_of_schema(schema)
    inner = varint(6 << 3 | 3) + field(1, 4) + varint(6 << 3 | 4)
    payloads = [HEAD, HEAD + field(3, 0) + field(4, b"x") + field(5, 9) + inner + field(7, b"\1\2"), field(2, 1)]
    payloads.append(HEAD + field(4, b"\xff"))
    rows = read(topic, payloads)
    empty = {"plain": None, "text": "", "kind": None, "inner": None, "apart": []}
    full = {"plain": 0, "text": "x", "kind": "9", "inner": {"x": 4}, "apart": [1, 2]}
    head = {"id": "e1", "at": SECONDS * 1000}
    assert [row["event"] for row in rows] == [{**head, **empty}, {**head, **full}, None, None]
    assert [row["reject_reason"] for row in rows[2:]] == ["no required field: id", "wrong type: text"]


def test_options_of_others_and_services_do_no_harm() -> None:
    """As linters, validators and gateways put them into schemas; they bring descriptor.proto with them."""
    schema = """
        syntax = "proto3";
        package test;
        import "google/protobuf/any.proto";
        import "google/protobuf/descriptor.proto";
        import "google/protobuf/field_mask.proto";
        extend google.protobuf.FieldOptions { string note = 50001; }
        extend google.protobuf.MessageOptions { Kind kind = 50002; }
        enum Kind { A = 0; B = 1; }
        message Play {
          option (kind) = B;
          string id = 1 [(note) = "the id", deprecated = true];
          int64 at = 2 [json_name = "when"];
          google.protobuf.Any any = 3;
          google.protobuf.FieldMask mask = 4;
        }
        message Asked { string x = 1; }
        service Plays { rpc Get(Asked) returns (Play); }
    """
    topic = topic_of_schema(schema, message="Play")
    more = field(3, field(1, b"u") + field(2, b"v")) + field(4, field(1, b"a") + field(1, b"b"))
    event = read(topic, [HEAD + more])[0]["event"]
    assert (event["any"], event["mask"]) == ({"type_url": "u", "value": b"v"}, {"paths": ["a", "b"]})


def test_the_last_of_several_counts_and_messages_are_merged() -> None:
    twice = field(3, b"old") + field(3, b"new") + field(13, field(1, b"a")) + field(13, field(2, 9))
    several = field(19, b"list") + field(21, 0)
    again = (
        field(17, field(1, b"k") + field(2, 1)) + field(17, field(1, b"l")) + field(17, field(2, 3) + field(1, b"k"))
    )
    head = field(1, b"e1") + field(2, INSTANT)
    event = read(TOPIC, [head + twice + several + again])[0]["event"]
    assert (event["user"], event["track"]) == ("new", {"id": "a", "ms": 9})
    assert (event["list"], event["shuffle"]) == (None, False)
    assert event["tags"] == [("k", 3), ("l", 0)]


def test_declared_fields_are_all_that_is_kept_and_may_be_wider() -> None:
    topic = topic_of_schema(
        PLAY, message="test.Play", fields={"small": "double", "huge": "bigint", "track": "struct<ms: bigint>"}
    )
    largest = CLEAN + field(6, 2**63 - 1)
    rows = read(topic, [largest, CLEAN])
    assert rows[0]["event"] == {"small": -(2.0**31), "huge": 2**63 - 1, "track": {"ms": 7}}
    assert rows[1]["reject_reason"] == "wrong type: huge", "beyond 64 bits with a sign"


def test_an_unsigned_number_may_be_the_id() -> None:
    schema = 'syntax = "proto3"; message Play { uint64 id = 1; fixed64 at = 2; }'
    topic = topic_of_schema(schema)
    row = read(topic, [field(1, 2**64 - 1) + field(2, struct.pack("<Q", SECONDS * 1000), 1)])[0]
    assert (row["event_id"], row["event_time"]) == (str(2**64 - 1), datetime.fromtimestamp(SECONDS, UTC))


def test_a_oneof_may_be_named_like_what_we_call_a_field() -> None:
    topic = with_field("oneof f1 { string a = 3; int32 b = 4; } oneof oneof0 { string c = 5; }")
    assert read(topic, [HEAD + field(3, b"x")])[0]["event"]["a"] == "x"


def test_fields_may_be_named_like_what_the_library_calls_its_own() -> None:
    names = "HasField Clear ByteSize SerializeToString DESCRIPTOR class None import rows _x ListFields".split()
    body = " ".join(f"optional int32 {name} = {number};" for number, name in enumerate(names, 3))
    event = read(with_field(body), [HEAD + b"".join(field(number + 3, number) for number in range(len(names)))])[0]
    assert event["event"] == {"id": "e1", "at": SECONDS * 1000, **{name: at for at, name in enumerate(names)}}


# --- messages that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        CLEAN[:-1],
        CLEAN[:5],
        CLEAN + b"\0",
        CLEAN + b"\x0f",
        b"\xff" * 12,
        CLEAN + field(3, b"")[:1] + varint(2**31),
        CLEAN + field(3, b"")[:1] + varint(2**63),
        CLEAN + field(3, b"")[:1] + b"\xff" * 10 + b"\1",
        CLEAN + varint(99 << 3 | 3),
        CLEAN + varint(99 << 3 | 4),
        CLEAN + varint(99 << 3 | 3) * 10_000,
        CLEAN + field(13, b"\xff"),
        CLEAN + field(15, b"\xff"),
        CLEAN + field(17, b"\x0a"),
        b'{"id": "e1"}',
    ],
)
def test_bytes_that_are_no_message_are_rejected_and_the_others_are_read(payload: bytes) -> None:
    assert reason(TOPIC, payload) == "not Protobuf"


@pytest.mark.parametrize(
    ("more", "path"),
    [
        (field(1, b"\xff"), "id"),
        (field(1, 5), "id"),
        (field(3, 5), "user"),
        (field(4, b"7"), "small"),
        (field(9, struct.pack("<f", 1), 5), "full"),
        (field(13, field(2, b"x")), "track.ms"),
        (field(13, field(1, b"\xed\xa0\x80")), "track.id"),
        (field(14, field(1, 1)), "queue.id"),
        (field(15, struct.pack("<I", 1), 5), "steps"),
        (field(17, field(1, b"\xff") + field(2, 1)), "tags"),
        (field(17, field(1, b"k") + field(2, b"1")), "tags"),
        (field(18, field(1, b"k")), "tracks"),
        (field(18, field(1, 6) + field(2, field(1, 1))), "tracks.id"),
        (field(2, field(1, b"")), "at"),
        (field(2, field(2, 10**9)), "at"),
        (field(2, field(2, -1)), "at"),
        (field(2, field(1, 253_402_300_800)), "at"),
        (field(2, field(1, -62_135_596_801)), "at"),
        (field(2, field(1, -(2**63))), "at"),
        (field(22, field(1, 315_576_000_001)), "length"),
        (field(22, field(1, 1) + field(2, -1)), "length"),
        (field(22, field(1, -(2**63))), "length"),
        (field(23, field(1, 1)), "note"),
        (field(23, field(1, b"\xff")), "note"),
        (field(25, field(1, field(1, b"a") + field(2, field(2, struct.pack("<d", float("nan")), 1)))), "context"),
        (field(26, field(3, b"\xff")), "extra"),
    ],
)
def test_a_value_that_its_type_does_not_hold_is_rejected_by_the_field_s_name(more: bytes, path: str) -> None:
    """A number that was a text once is seen, too: by itself, Protobuf would take such a field for one it has not."""
    assert reason(TOPIC, CLEAN + more) == f"wrong type: {path}"


def test_unknown_fields_and_extensions_do_no_harm() -> None:
    group = varint(99 << 3 | 3) + field(1, 1) + varint(99 << 3 | 4)
    more = field(77, b"new") + group + field(13, field(9, 1)) + field(2, field(7, 7))
    assert read(TOPIC, [CLEAN + more, CLEAN])[0]["event"] == read(TOPIC, [CLEAN])[0]["event"]
    head = field(1, b"e1") + field(2, SECONDS * 1000)
    assert reason(topic_of_schema(OLD), head + field(100, b"x")) is None


def test_a_field_of_another_type_that_is_not_wanted_does_no_harm() -> None:
    topic = topic_of_schema(PLAY, message="Play", fields={"id": "string", "track": "struct<id: string>"})
    assert reason(topic, CLEAN + field(4, b"text") + field(13, field(2, b"x"))) is None


def nested(levels: int) -> bytes:
    payload = b""
    for _ in range(levels):
        payload = field(3, payload)
    return HEAD + payload


def test_messages_may_nest_a_hundred_deep_and_no_deeper() -> None:
    """Also where the field is none of the topic's: it is read all the same."""
    topic = with_field("Play inner = 3; string x = 4;", fields={"x": "string"})
    assert [reason(topic, nested(levels)) for levels in (10, 99, 100, 101, 5_000)] == [
        *(None, None, None),
        *("not Protobuf", "not Protobuf"),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 5e-324])
def test_any_double_is_read(value: float) -> None:
    event = read(TOPIC, [CLEAN + field(9, struct.pack("<d", value), 1)])[0]["event"]
    assert spelled(event["full"]) == spelled(value)


def test_many_odd_messages_are_found_among_many() -> None:
    page = [CLEAN if number % 7 else CLEAN + field(1, b"\xff") for number in range(300)]
    assert sum(row["reject_reason"] is not None for row in read(TOPIC, page)) == 43


# --- schemas that no topic can have ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "changes", "found"),
    [
        ("Play inner = 3;", {}, "leave out 'inner', which is a message that contains itself"),
        ("message E {} E e = 3;", {}, "leave out 'e', which is a message without fields"),
        ("message E { int32 aB = 1; int32 ab = 2; } E e = 3;", {}, "names that differ in case only"),
        ("message E { Play p = 1; } repeated E e = 3;", {}, "a message with 'p', a message that contains itself"),
        ("string x = 3;", {"fields": {"x": "int"}}, "'x' is string, not int32"),
        ("string x = 3;", {"fields": {"y": "int"}}, "'y' is not in it"),
        ("string x = 3;", {"event_id": "payload.y"}, "a location in the schema: payload.y"),
        ("string x = 3;", {"message": "Other"}, "no message 'Other' in play.proto, which has test.Play"),
        ("string x = 3;", {"format": "avro"}, "no Avro schema"),
        ("string x = 3;", {"schemas": {}}, "schemas for the formats avro and protobuf"),
        ("string x = 3;", {"schemas": {"a": "AAAA"}}, "no FileDescriptorSet"),
        ("string x = 3;", {"schemas": {"a": "x", "b": "x"}}, "one schema for the format protobuf"),
        ("string x = 3; } message Second { int32 y = 1;", {"message": ""}, "which of test.Play, test.Second it is"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_topic_s_file(body: str, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError) as error:
        topic_of_schema(plain("Play", body), **{"message": "Play", **changes})
    assert found in str(error.value)


def test_messages_that_name_each_other_many_times_end_as_an_error() -> None:
    """Written out, the type would have 2 to the 40 fields."""
    doubled = " ".join(f"message M{n} {{ M{n + 1} a = 1; M{n + 1} b = 2; }}" for n in range(40))
    with pytest.raises(ValidationError, match="a message of too many fields"):
        with_field(f"{doubled} message M40 {{ int32 x = 1; }} M0 m = 3;")


def test_a_descriptor_set_without_its_imports_says_what_it_lacks() -> None:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(protoc.compiled("p.proto", {"p.proto": PLAY}))
    alone = descriptor_pb2.FileDescriptorSet(file=[descriptors.file[-1]])
    with pytest.raises(ValidationError, match=r"no google/protobuf/duration\.proto, which p\.proto imports"):
        topic_of_schema(PLAY, message="Play", schemas={"p.desc": schema_text(alone.SerializeToString())})


def topic_file(folder: Path, schema: str) -> Path:
    for name in ("topics", "schemas"):
        (folder / name).mkdir()
    file = folder / "topics" / "plays.yaml"
    file.write_text(
        f"subscription: projects/p/subscriptions/s\nformat: protobuf\nschemas: [{schema}]\nmessage: Play\n"
        "event_id: payload.id\nevent_time: payload.at\n"
    )
    return file


def test_schemas_are_read_from_the_folder_beside_the_topics(tmp_path: Path) -> None:
    """With what they import, and travel with the topic: executors have no files, and no protoc."""
    file = topic_file(tmp_path, "play.proto")
    with pytest.raises(ConfigError, match=r"plays\.yaml: schemas: found .*play\.proto, which cannot be read"):
        topic_of(file)
    (tmp_path / "schemas/play.proto").write_text('syntax = "proto3"; message Play { string id = 1 }')
    with pytest.raises(ConfigError, match=r'play\.proto:1:\d+: Expected ";"'):
        topic_of(file)
    track = 'syntax = "proto3"; package shared; message Track { string id = 1; }'
    (tmp_path / "schemas/shared").mkdir()
    (tmp_path / "schemas/shared/track.proto").write_text(track)
    (tmp_path / "schemas/play.proto").write_text(
        'syntax = "proto3"; import "shared/track.proto"; import "google/protobuf/timestamp.proto";\n'
        "message Play { string id = 1; google.protobuf.Timestamp at = 2; shared.Track track = 3; }"
    )
    topic = Topic.from_json(topic_of(file).as_json())
    assert topic.fields["track"] == "struct<`id`: string>"
    assert read(topic, [field(1, b"e") + field(2, INSTANT) + field(3, b"\n\1t")])[0]["event"]["track"] == {"id": "t"}


def test_a_descriptor_set_is_a_schema_too(tmp_path: Path) -> None:
    file = topic_file(tmp_path, "play.desc")
    (tmp_path / "schemas/play.desc").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"in .*play\.desc no FileDescriptorSet"):
        topic_of(file)
    (tmp_path / "schemas/play.desc").write_bytes(protoc.compiled("p.proto", {"p.proto": PLAY}))
    assert read(topic_of(file), [CLEAN])[0]["event_id"] == "e1"


def test_no_schema_is_written_outside_the_folder_that_is_protoc_s() -> None:
    for name in ("../x.proto", "/x.proto", "-x.proto"):
        with pytest.raises(UnreadableSchemaError, match="no path below a folder"):
            protoc.compiled(name, {name: "// another"})


def test_a_name_that_is_a_file_and_a_folder_is_refused() -> None:
    with pytest.raises(UnreadableSchemaError, match="of a file and of a folder"):
        protoc.compiled("p.proto", {"p.proto": PLAY, "p.proto/x.proto": PLAY})


def test_what_protoc_made_is_kept_and_may_be_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    runs: list[str] = []
    run = protoc._by_protoc
    monkeypatch.setattr(protoc, "_by_protoc", lambda main, texts: runs.append(main) or run(main, texts))
    texts = {"p.proto": plain("Kept", "")}
    made = protoc.compiled("p.proto", texts)
    assert protoc.compiled("p.proto", texts) == made
    assert len(runs) == 1
    (folder,) = tmp_path.iterdir()
    for file in folder.iterdir():
        file.unlink()
    assert protoc.compiled("p.proto", texts) == made
    folder.chmod(0o777)
    assert protoc.compiled("p.proto", texts) == made
    assert len(runs) == 3, "a folder that others can write to is not trusted"


# --- any page --------------------------------------------------------------------------------------------------------

TRACKS = st.fixed_dictionaries({"id": st.text(max_size=3)}, optional={"ms": st.integers(-(2**31), 2**31 - 1)})
INSTANTS = st.tuples(st.integers(-62_135_596_800, 253_402_300_799), st.integers(0, 10**9 - 1))
RECORDS = st.fixed_dictionaries(
    {"id": st.text(max_size=3)},
    optional={
        "at": st.tuples(st.integers(SECONDS - 9_000, SECONDS), st.integers(0, 10**9 - 1)) | INSTANTS,
        "user": st.text(max_size=9),
        "small": st.integers(-(2**31), 2**31 - 1),
        "large": st.integers(-(2**63), 2**63 - 1),
        "huge": st.integers(0, 2**64 - 1),
        "fixed": st.integers(0, 2**32 - 1),
        "half": st.floats(width=32),
        "full": st.floats(),
        "flag": st.booleans(),
        "raw": st.binary(max_size=5),
        "kind": st.sampled_from([0, 1, 2, 3, -1]),
        "track": TRACKS,
        "queue": st.lists(TRACKS, max_size=3),
        "steps": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        "kinds": st.lists(st.sampled_from([0, 1, 2, 99]), max_size=3),
        "tags": st.dictionaries(st.text(max_size=2), st.integers(-(2**63), 2**63 - 1), max_size=1),
        "tracks": st.dictionaries(st.integers(-(2**31), 2**31 - 1), TRACKS, max_size=1),
        "list": st.text(max_size=2),
        "shuffle": st.booleans(),
        "length": st.tuples(st.integers(0, 315_576_000_000), st.integers(0, 10**9 - 1)),
        "note": st.text(max_size=2),
        "count": st.integers(0, 2**64 - 1),
        "context": st.dictionaries(st.text(max_size=2), st.booleans() | st.text(max_size=2) | st.none(), max_size=2),
    },
)


def written(record: dict[str, Any]) -> bytes:
    """By the library's own classes."""
    message = schema_of(TOPIC).written()
    for name, value in record.items():
        if name in ("at", "length"):
            getattr(message, name).seconds, getattr(message, name).nanos = value
        elif name == "track":
            message.track.SetInParent()
            message.track.MergeFrom(type(message.track)(**value))
        elif name in ("note", "count"):
            getattr(message, name).value = value
        elif name == "context":
            message.context.update(value)
        elif name == "tracks":
            for key, track in value.items():
                message.tracks[key].CopyFrom(type(message.track)(**track))
        elif name == "tags":
            message.tags.update(value)
        elif isinstance(value, list):
            getattr(message, name).extend([type(message.track)(**each) for each in value] if name == "queue" else value)
        else:
            setattr(message, name, value)
    payload: bytes = message.SerializeToString()
    return payload


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """A record as it is written, sometimes cut off or with other bytes in it, or a part of another after it."""
    payload = written(draw(RECORDS))
    if not draw(st.integers(0, 3)):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(payload))] * 2)))
        payload = payload[:start] + draw(st.binary(max_size=4)) + payload[end:]
    if not draw(st.integers(0, 2)):
        number, value = draw(st.integers(1, 30)), draw(st.integers(0, 2**64 - 1) | st.binary(max_size=6))
        payload += field(number, value)
    return payload


TOPICS = [TOPIC, topic_of_schema(PLAY, message="Play", fields={"huge": "bigint", "track": "struct<ms: int>"})]
SETTINGS: dict[str, Any] = {"deadline": None, "derandomize": True, "database": None}


@settings(max_examples=examples(300), suppress_health_check=list(HealthCheck), **SETTINGS)
@given(st.lists(payloads() | st.binary(max_size=20), max_size=6), st.sampled_from(TOPICS), st.integers(0, 6))
def test_any_page_is_decoded_as_by_message_however_it_is_cut(page: list[bytes], topic: Topic, cut: int) -> None:
    rows = read(topic, page)
    assert repr(read(topic, page[:cut]) + read(topic, page[cut:])) == repr(rows)


def sampled(count: int) -> list[bytes]:
    """So many payloads of the property test, each the same in every run."""
    found: list[bytes] = []

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), **SETTINGS)
    @given(payloads() | st.binary(max_size=20))
    def collect(payload: bytes) -> None:
        found.append(payload)

    collect()
    return found


OTHER = """
import json, sys
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation
assert api_implementation.Type() == "python"
descriptors, payloads = (bytes.fromhex(part) if number == 0 else json.loads(part)
                         for number, part in enumerate(sys.stdin.read().split("|")))
pool = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
    pool.Add(file)
Play = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Play"))
for payload in payloads:
    try:
        play = Play.FromString(bytes.fromhex(payload))
    except Exception:
        print("null")
        continue
    print(json.dumps([
        play.id, play.user if play.HasField("user") else None, play.small, play.large, str(play.huge), play.fixed,
        repr(play.half), repr(play.full), play.flag, play.raw.hex(), play.kind,
        [play.track.id, play.track.ms] if play.HasField("track") else None,
        [track.id for track in play.queue], list(play.steps), list(play.kinds), sorted(play.tags.items()),
        sorted(play.tracks), play.WhichOneof("source"), play.length.seconds if play.HasField("length") else None,
    ]))
"""


def test_another_implementation_reads_the_same() -> None:
    """The library's own, in Python only. What it refuses is not Protobuf here, or has a field that is no text."""
    pages = sampled(400)
    sent = "|".join([protoc.compiled("p.proto", {"p.proto": PLAY}).hex(), json.dumps([each.hex() for each in pages])])
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run(
        [sys.executable, "-c", OTHER], input=sent, env=environment, capture_output=True, text=True, check=True
    )
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    outside = topic_of_schema(PLAY, message="Play", event_id="attributes.id", event_time="publish_time")
    rows = decode(delivered(pages, attributes=[{"id": "a"}] * len(pages)), outside).columns.to_pylist()
    read_by_both = lenient = 0
    for row, their in zip(rows, theirs, strict=True):
        found = row["reject_reason"]
        if their is None:
            assert found is not None
        elif found == "not Protobuf":
            lenient += 1
        elif found is None:
            assert _compared(row["event"]) == their
            read_by_both += 1
    assert read_by_both > len(pages) // 3
    assert lenient < len(pages) // 50, "it takes groups that do not end, and numbers of fields beyond 29 bits"


def _compared(event: dict[str, Any]) -> list[Any]:
    kinds = {"UNKNOWN": 0, "PLAY": 1, "SKIP": 2}
    oneof = next((name for name in ("list", "radio", "shuffle") if event[name] is not None), None)
    return [
        *(event["id"], event["user"], event["small"], event["large"], str(event["huge"]), event["fixed"]),
        *(repr(event["half"]), repr(event["full"]), event["flag"], event["raw"].hex()),
        kinds[event["kind"]] if event["kind"] in kinds else int(event["kind"]),
        event["track"] and [event["track"]["id"], event["track"]["ms"] or 0],
        [track["id"] for track in event["queue"]],
        event["steps"],
        [kinds[kind] if kind in kinds else int(kind) for kind in event["kinds"]],
        sorted(list(tag) for tag in event["tags"]),
        sorted(int(key) for key, _ in event["tracks"]),
        oneof,
        None if event["length"] is None else int(event["length"] / 1_000_000),
    ]


def test_usual_messages_are_read_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one takes many times as long; a publisher whose schema has more fields must not cost that."""
    monkeypatch.setattr(protobuf_pages, "by_message", lambda *_: pytest.fail("one by one"))
    monkeypatch.setattr(protobuf_pages, "message_in", lambda *_: pytest.fail("one by one"))
    rows = decode(delivered([CLEAN + field(99, number) for number in range(50)]), TOPIC).columns
    assert rows.column("reject_reason").null_count == 50


def test_an_empty_page_decodes_to_no_rows() -> None:
    columns = decode(delivered([]), TOPIC).columns
    assert columns.num_rows == 0
    assert isinstance(columns, pa.RecordBatch)
