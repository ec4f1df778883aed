"""Topics of format avro: fields by the schema, values as written, and a reason for each message that is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pyarrow as pa
import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lakehouse.config import topic_of
from lakehouse.decode import avro_pages
from lakehouse.decode.events import Decoded, decode
from lakehouse.errors import ConfigError
from lakehouse.topics import Topic, topic_from
from tests.decoded import decoded_rows
from tests.examples import examples
from tests.test_parse import PLAYED, delivered


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


TRACK = {
    "type": "record",
    "name": "Track",
    "fields": [{"name": "id", "type": "string"}, {"name": "ms", "type": ["null", "int"]}],
}
FIXED_DECIMAL = {"type": "fixed", "name": "Money", "size": 16, "logicalType": "decimal", "precision": 38, "scale": 2}
FIELDS: dict[str, Any] = {
    "id": "string",
    "at": logical("long", "timestamp-millis"),
    "user": ["null", "string"],
    "micros": ["null", logical("long", "timestamp-micros")],
    "nanos": ["null", logical("long", "timestamp-nanos")],
    "day": ["null", logical("int", "date")],
    "price": ["null", logical("bytes", "decimal", precision=9, scale=2)],
    "total": ["null", FIXED_DECIMAL],
    "key": ["null", logical("string", "uuid")],
    "kind": {"type": "enum", "name": "Kind", "symbols": ["PLAY", "SKIP"]},
    "flag": "boolean",
    "small": "int",
    "large": "long",
    "half": "float",
    "full": "double",
    "raw": "bytes",
    "track": TRACK,
    "queue": {"type": "array", "items": "Track"},
    "tags": {"type": "map", "values": ["null", "long"]},
}
RECORD = {
    "id": "e1",
    "at": PLAYED,
    "user": "u",
    "micros": PLAYED + timedelta(microseconds=1),
    "nanos": 1_795_411_800_000_001_999,
    "day": date(2026, 11, 23),
    "price": Decimal("-12.34"),
    "total": Decimal("9" * 36 + ".99"),
    "key": UUID(int=7),
    "kind": "SKIP",
    "flag": True,
    "small": -(2**31),
    "large": 2**63 - 1,
    "half": 0.5,
    "full": -0.0,
    "raw": b"\0\xff",
    "track": {"id": "t", "ms": 7},
    "queue": [{"id": "a", "ms": None}, {"id": "b", "ms": 2}],
    "tags": {"x": 1, "y": None},
}


def schema_of(fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "Play",
        "namespace": "test",
        "fields": [each if "name" in each else {"name": name, "type": each} for name, each in named(fields)],
        **more,
    }


def named(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(fields.items())


SCHEMA = schema_of({name: {"name": name, "type": kind} for name, kind in FIELDS.items()})
ID_AND_TIME = {name: {"name": name, "type": FIELDS[name]} for name in ("id", "at")}


def with_field(kind: Any, **more: Any) -> dict[str, Any]:
    return schema_of({**ID_AND_TIME, "x": {"name": "x", "type": kind, **more}})


def topic_of_schemas(*schemas: Any, **changes: Any) -> Topic:
    texts = {f"{number}.avsc": json.dumps(schema) for number, schema in enumerate(schemas)}
    values = {
        "subscription": "projects/test/subscriptions/plays",
        "format": "avro",
        "schemas": texts,
        "event_id": "payload.id",
        "event_time": "payload.at",
    }
    return topic_from("plays", {**values, **changes})


def written(schema: Any, record: dict[str, Any], single_object: bool = False) -> bytes:
    """By fastavro, which turns values of logical types into what is written by itself."""
    sink = BytesIO()
    fastavro.schemaless_writer(sink, fastavro.parse_schema(schema), record)
    return (header(schema) if single_object else b"") + sink.getvalue()


def header(schema: Any) -> bytes:
    form = to_parsing_canonical_form(fastavro.parse_schema(schema))
    return b"\xc3\x01" + bytes.fromhex(fingerprint(form, "CRC-64-AVRO"))


def read(topic: Topic, payloads: Sequence[bytes | None]) -> list[dict[str, Any]]:
    return decoded_rows(delivered(payloads), topic)


def spelled(value: Any) -> str:
    """So that -0.0 is not 0.0, and UTC is UTC."""
    return repr(value).replace("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc")


def test_fields_and_their_types_come_from_the_schema() -> None:
    topic = topic_of_schemas(SCHEMA)
    assert topic.fields == {
        "id": "string",
        "at": "timestamp",
        "user": "string",
        "micros": "timestamp",
        "nanos": "timestamp",
        "day": "date",
        "price": "decimal(9,2)",
        "total": "decimal(38,2)",
        "key": "string",
        "kind": "string",
        "flag": "boolean",
        "small": "int",
        "large": "bigint",
        "half": "float",
        "full": "double",
        "raw": "binary",
        "track": "struct<`id`: string, `ms`: int>",
        "queue": "array<struct<`id`: string, `ms`: int>>",
        "tags": "map<string, bigint>",
    }
    assert Topic.from_json(topic.as_json()) == topic


def test_every_value_is_what_was_written() -> None:
    row = read(topic_of_schemas(SCHEMA), [written(SCHEMA, RECORD)])[0]
    assert (row["event_id"], row["event_time"], row["reject_reason"]) == ("e1", PLAYED, None)
    nanos = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=RECORD["nanos"] // 1000)  # type: ignore[operator]
    expected = {**RECORD, "nanos": nanos, "key": str(RECORD["key"]), "tags": [("x", 1), ("y", None)]}
    assert spelled(row["event"]) == spelled(expected)


def test_an_integer_may_be_the_time_in_a_unit() -> None:
    schema = schema_of({"id": {"name": "id", "type": "long"}, "at": {"name": "at", "type": "long"}})
    topic = topic_of_schemas(schema, event_time_unit="ms")
    row = read(topic, [written(schema, {"id": 5, "at": int(PLAYED.timestamp() * 1000)})])[0]
    assert (row["event_id"], row["event_time"]) == ("5", PLAYED)


def test_declared_fields_are_all_that_is_kept_and_may_be_wider() -> None:
    topic = topic_of_schemas(SCHEMA, fields={"small": "bigint", "track": "struct<ms: int>"})
    row = read(topic, [written(SCHEMA, RECORD)])[0]
    assert row["event"] == {"small": -(2**31), "track": {"ms": 7}}
    assert row["event_id"] == "e1", "by the schema, though it is no field"


CLEAN = written(SCHEMA, RECORD)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"",
        b"{}",
        CLEAN[:-1],
        CLEAN[:5],
        CLEAN + b"\0",
        b"\xff" * 12,
        b"\x04\xff\xfe" + CLEAN[3:],
        b"\x80" * 5 + b"\x01",
        b"\xfe" + b"\xff" * 8 + b"\x01",
    ],
)
def test_bytes_that_are_no_datum_are_rejected_and_the_others_are_read(payload: bytes | None) -> None:
    reasons = [row["reject_reason"] for row in read(topic_of_schemas(SCHEMA), [CLEAN, payload, CLEAN])]
    assert reasons == [None, "not Avro", None]


CHOICES = {
    "a symbol": {"type": "enum", "name": "Kind", "symbols": ["PLAY", "SKIP"]},
    "a branch": ["null", "long"],
    "a branch of items": {"type": "array", "items": ["null", "long"]},
    "a symbol of values": {"type": "map", "values": {"type": "enum", "name": "Kind", "symbols": ["PLAY", "SKIP"]}},
}
BEFORE = {"a branch of items": b"\x02", "a symbol of values": b"\x02\x02k"}
AFTER = {"a branch": b"\x02", "a branch of items": b"\x02\x00", "a symbol of values": b"\x00"}


@pytest.mark.parametrize("choice", [b"\x01", b"\x03", b"\x04", b"\x05"], ids=["-1", "-2", "2", "-3"])
@pytest.mark.parametrize("where", CHOICES)
def test_a_choice_that_the_schema_has_not_is_no_datum(where: str, choice: bytes) -> None:
    """Also a negative one, which Python counts from the end."""
    whole = written(with_field("long"), {"id": "e1", "at": PLAYED, "x": 0})[:-1]
    payload = whole + BEFORE.get(where, b"") + choice + AFTER.get(where, b"")
    assert read(topic_of_schemas(with_field(CHOICES[where])), [payload])[0]["reject_reason"] == "not Avro"


DIGITS = logical("bytes", "decimal", precision=4, scale=1)


@pytest.mark.parametrize(
    ("kind", "plain", "value"),
    [
        (logical("long", "timestamp-millis"), "long", 2**62),
        (logical("long", "timestamp-micros"), "long", 2**62),
        (logical("long", "timestamp-micros"), "long", -62_135_596_800_000_001),
        (logical("int", "date"), "int", 2**31 - 1),
        (logical("int", "date"), "int", -719_163),
        (DIGITS, "bytes", (10_000).to_bytes(2, "big")),
        ("int", "long", 2**31),
        ({"type": "array", "items": logical("int", "date")}, {"type": "array", "items": "int"}, [0, 2**31 - 1]),
        ({"type": "map", "values": DIGITS}, {"type": "map", "values": "bytes"}, {"a": b"\x7f" * 20}),
    ],
)
def test_a_value_that_its_type_does_not_hold_is_rejected_by_the_field_s_name(kind: Any, plain: Any, value: Any) -> None:
    """Written by the same schema without the logical type: a publisher's library may not check."""
    schema, topic = with_field(plain), topic_of_schemas(with_field(kind))
    record = {"id": "e1", "at": PLAYED, "x": value}
    small = {"long": 1, "int": 1, "bytes": b"\1"}.get(plain if isinstance(plain, str) else "", type(value)())
    rows = read(topic, [written(schema, {**record, "x": small}), written(schema, record)])
    assert [row["reject_reason"] for row in rows] == [None, "wrong type: x"]


def test_the_first_and_last_instants_and_days_are_read() -> None:
    schema = with_field({"type": "array", "items": logical("long", "timestamp-micros")})
    values = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    rows = read(topic_of_schemas(schema), [written(schema, {"id": "e", "at": PLAYED, "x": values})])
    assert rows[0]["event"]["x"] == values


# --- evolution -----------------------------------------------------------------------------------------------------


def test_older_messages_are_resolved_to_the_last_schema() -> None:
    """A field that came later has its default, one that was removed is skipped, an int is read as a long."""
    older = schema_of({**ID_AND_TIME, "n": {"name": "n", "type": "int"}, "old": {"name": "old", "type": "string"}})
    new = {"name": "new", "type": ["null", "string"], "default": None}
    newer = schema_of({**ID_AND_TIME, "count": {"name": "count", "type": "long", "aliases": ["n"]}, "new": new})
    record = {"id": "e1", "at": PLAYED, "n": 3, "old": "x"}
    later = {"id": "e2", "at": PLAYED, "count": 4, "new": "y"}
    payloads = [written(older, record, True), written(newer, later, True), written(newer, later)]
    events = [row["event"] for row in read(topic_of_schemas(older, newer), payloads)]
    assert [(event["count"], event["new"]) for event in events] == [(3, None), (4, "y"), (4, "y")]


def test_a_message_of_a_schema_that_does_not_resolve_is_rejected() -> None:
    older, newer = with_field("string"), with_field("long")
    payload = written(older, {"id": "e1", "at": PLAYED, "x": "text"}, True)
    clean = written(newer, {"id": "e2", "at": PLAYED, "x": 1}, True)
    reasons = [row["reject_reason"] for row in read(topic_of_schemas(older, newer), [payload, clean])]
    assert reasons == ["wrong type: x", None]
    topic = topic_of_schemas(older, newer, fields={"id": "string"})
    assert [row["reject_reason"] for row in read(topic, [payload, clean])] == [None, None], "nobody wants the field"


ENUM = {"type": "enum", "name": "Kind", "symbols": ["PLAY", "SKIP"]}
VALUES: list[tuple[Any, Any]] = [
    ("int", 7),
    ("long", 2**40),
    ("float", 0.5),
    ("double", 0.1),
    ("string", "text"),
    ("bytes", b"\xff"),
    ("boolean", True),
    (logical("int", "date"), date(2026, 1, 1)),
    (logical("long", "timestamp-millis"), PLAYED),
    (logical("long", "timestamp-micros"), PLAYED),
    (logical("bytes", "decimal", precision=4, scale=1), Decimal("1.5")),
    (logical("bytes", "decimal", precision=5, scale=2), Decimal("1.25")),
    (logical("string", "uuid"), UUID(int=7)),
    (ENUM, "SKIP"),
    ({**ENUM, "symbols": ["SKIP", "PLAY"]}, "SKIP"),
    ({"type": "fixed", "name": "F", "size": 2}, b"ab"),
    ({"type": "fixed", "name": "F", "size": 3}, b"abc"),
    ({"type": "array", "items": "int"}, [1, 2]),
    ({"type": "array", "items": "long"}, [1, 2]),
    ({"type": "map", "values": ["null", "int"]}, {"a": None}),
    (TRACK, {"id": "t", "ms": None}),
    ({**TRACK, "fields": TRACK["fields"][:1]}, {"id": "t"}),
]


PAIRS = [(place, other) for place in range(len(VALUES)) for other in range(len(VALUES))]


@pytest.mark.parametrize("part", range(4))
def test_each_type_is_resolved_to_each_other_on_both_ways_alike(part: int) -> None:
    """Field by field where that is all, one by one where it takes more; `read` compares them."""
    for place, other in PAIRS[part::4]:
        (kind, value), (wanted, _) = VALUES[place], VALUES[other]
        more = [[kind], [kind, "null"], ["null", kind, "boolean"]] if place == other else []
        for theirs in [kind, ["null", kind], *more]:
            writer = with_field(theirs)
            values = [value, None] if isinstance(theirs, list) and "null" in theirs else [value]
            payloads = [written(writer, {"id": "e", "at": PLAYED, "x": each}, True) for each in values]
            for ours in [wanted, ["null", wanted], *([[wanted], [wanted, "null"]] if more else [])]:
                read(topic_of_schemas(writer, with_field(ours), fields={"x": topic_type(ours)}), payloads)


def test_an_older_schema_is_read_a_field_at_a_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """While publishers change their schema, most messages are of another one than the last."""
    monkeypatch.setattr(avro_pages, "datums_of", lambda *_: pytest.fail("one by one"))
    older = schema_of({**ID_AND_TIME, "n": {"name": "n", "type": "int"}, "old": {"name": "old", "type": TRACK}})
    new = {"name": "new", "type": ["null", "string"], "default": None}
    newer = schema_of({**ID_AND_TIME, "count": {"name": "count", "type": "long", "aliases": ["n"]}, "new": new})
    record = {"id": "e1", "at": PLAYED, "n": 3, "old": {"id": "t", "ms": 1}}
    topic = topic_of_schemas(newer, registry={"kind": "confluent", "url": "http://nowhere:1"})
    payload = b"\0\0\0\0\1" + written(older, record)
    rows = decode(delivered([payload] * 3), topic.with_writers({"1": json.dumps(older)})).columns.to_pylist()
    assert [(row["event"]["count"], row["event"]["new"]) for row in rows] == [(3, None)] * 3


def topic_type(kind: Any) -> str:
    return topic_of_schemas(with_field(kind)).fields["x"]


def test_a_fingerprint_that_no_schema_has_is_said() -> None:
    other = written(with_field("string"), {"id": "e1", "at": PLAYED, "x": "text"}, True)
    assert read(topic_of_schemas(SCHEMA), [other])[0]["reject_reason"] == "unknown schema"


# --- schemas that no topic can have --------------------------------------------------------------------------------

NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}


@pytest.mark.parametrize(
    ("schema", "changes", "found"),
    [
        ("string", {}, "a schema of string instead of a record"),
        ([with_field("int")], {}, "a schema of union instead of a record"),
        ({"type": "record", "name": "R"}, {}, "'fields' is not in it"),
        (with_field({"type": "fixed", "name": "F", "size": "8"}), {}, "'test.F', whose size is '8'"),
        (with_field({"type": "fixed", "name": "F", "size": -1}), {}, "'test.F', whose size is -1"),
        (with_field({"type": "enum", "name": "E", "symbols": "AB"}), {}, "'test.E', whose symbols are no list"),
        (with_field("int", name="id"), {}, "which has 'id' twice"),
        (with_field("int", name="a`b"), {}, "'a`b', which is no name"),
        (with_field("int", name="\ud800"), {}, "which is no name"),
        ({"type": "recor"}, {}, "no Avro schema"),
        (with_field("Missing"), {}, "no Avro schema"),
        (with_field(NODE), {}, "'test.Node', which contains itself"),
        (with_field({"type": "array", "items": "null"}), {}, "items that take no bytes"),
        (with_field(["int", "string"]), {}, "declared `fields` that leave out 'x', which is a union of int, string"),
        (with_field("null"), {}, "leave out 'x', which is null only"),
        (with_field(logical("bytes", "decimal", precision=39, scale=0)), {}, "a decimal of 39 digits"),
        (with_field("long"), {"fields": {"x": "int"}}, "'x' is int64, not int32"),
        (with_field("long"), {"fields": {"y": "int"}}, "'y' is not in it"),
        (with_field("long"), {"event_id": "payload.y"}, "a location in the schema: payload.y"),
        (with_field("long"), {"event_time": "payload.x"}, "a string or a timestamp"),
        (with_field("long"), {"format": "json", "fields": {"x": "int"}}, "schemas for the formats avro and protobuf"),
        (with_field("long"), {"schemas": {}}, "schemas for the formats avro and protobuf"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_topic_s_file(schema: Any, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError) as error:
        topic_of_schemas(schema, **changes)
    assert found in str(error.value)


def test_records_that_name_each_other_many_times_end_as_an_error() -> None:
    """Written out, the type would have 2 to the 40 fields."""
    inner: Any = "int"
    for n in range(40):
        again = f"M{n - 1}" if n else "int"
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": again}]
        inner = {"type": "record", "name": f"M{n}", "fields": fields}
    with pytest.raises(ValidationError, match="name each other too many times"):
        topic_of_schemas(with_field(inner))


@pytest.mark.parametrize(
    "odd",
    [
        {"logicalType": ["decimal"]},
        {"logicalType": {"a": 1}},
        {"logicalType": None},
        {"logicalType": "decimal", "precision": None},
        {"logicalType": "decimal", "precision": 4, "scale": None},
    ],
)
def test_a_logical_type_that_is_none_is_ignored(odd: dict[str, Any]) -> None:
    """As Avro says."""
    topic = topic_of_schemas(with_field({"type": "bytes", **odd}))
    assert topic.fields["x"] == "binary"


def test_a_union_that_is_not_declared_does_no_harm() -> None:
    schema = with_field(["int", "string"])
    topic = topic_of_schemas(schema, fields={"id": "string"})
    assert read(topic, [written(schema, {"id": "e", "at": PLAYED, "x": "s"})])[0]["event"] == {"id": "e"}


def test_columns_of_every_topic_are_no_derived_fields() -> None:
    schema = schema_of({**ID_AND_TIME, "event_id": {"name": "event_id", "type": "string"}})
    assert list(topic_of_schemas(schema, event_id="payload.event_id").fields) == ["id", "at"]


def test_schemas_are_read_from_the_folder_beside_the_topics(tmp_path: Path) -> None:
    """And travel with the topic: executors have no files."""
    for folder in ("topics", "schemas"):
        (tmp_path / folder).mkdir()
    file = tmp_path / "topics" / "plays.yaml"
    file.write_text(
        "subscription: projects/p/subscriptions/s\nformat: avro\nschemas: [play.avsc]\n"
        "event_id: payload.id\nevent_time: payload.at\n"
    )
    with pytest.raises(ConfigError, match=r"plays\.yaml: schemas: found .*play\.avsc, which cannot be read"):
        topic_of(file)
    (tmp_path / "schemas" / "play.avsc").write_text(json.dumps("string"))
    with pytest.raises(
        ConfigError, match=r"play\.avsc a schema of string instead of a record; expected an Avro schema"
    ):
        topic_of(file)
    (tmp_path / "schemas" / "play.avsc").write_text(json.dumps(SCHEMA))
    topic = Topic.from_json(topic_of(file).as_json())
    assert read(topic, [CLEAN])[0]["event_id"] == "e1"


# --- any page ------------------------------------------------------------------------------------------------------

INT, LONG = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
TIMES = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))
TRACKS = st.fixed_dictionaries({"id": st.text(max_size=3), "ms": st.none() | INT})
records = st.fixed_dictionaries(
    {
        "id": st.text(max_size=3),
        "at": st.datetimes(datetime(2026, 11, 23), datetime(2026, 11, 23, 6), timezones=st.just(UTC)),
        "user": st.none() | st.text(max_size=9),
        "micros": st.none() | TIMES,
        "nanos": st.none() | LONG,
        "day": st.none() | st.dates(),
        "price": st.none() | st.integers(-(10**9) + 1, 10**9 - 1).map(lambda number: Decimal(f"{number}E-2")),
        "total": st.none() | st.integers(-(10**38) + 1, 10**38 - 1).map(lambda number: Decimal(f"{number}E-2")),
        "key": st.none() | st.uuids(),
        "kind": st.sampled_from(["PLAY", "SKIP"]),
        "flag": st.booleans(),
        "small": INT,
        "large": LONG,
        "half": st.floats(width=32),
        "full": st.floats(),
        "raw": st.binary(max_size=5),
        "track": TRACKS,
        "queue": st.lists(TRACKS, max_size=3),
        "tags": st.dictionaries(st.text(max_size=2), st.none() | LONG, max_size=3),
    }
)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """A record as it is written, sometimes cut off or with other bytes in it."""
    payload = written(SCHEMA, draw(records), draw(st.booleans()))
    if not draw(st.integers(0, 3)):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(payload))] * 2)))
        payload = payload[:start] + draw(st.binary(max_size=4)) + payload[end:]
    return payload


TOPICS = [topic_of_schemas(SCHEMA), topic_of_schemas(SCHEMA, fields={"large": "bigint", "track": "struct<ms: int>"})]


@settings(
    max_examples=examples(300), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(st.lists(payloads() | st.binary(max_size=20), max_size=6), st.sampled_from(TOPICS), st.integers(0, 6))
def test_any_page_is_decoded_as_by_message_however_it_is_cut(page: list[bytes], topic: Topic, cut: int) -> None:
    rows = read(topic, page)
    assert repr(read(topic, page[:cut]) + read(topic, page[cut:])) == repr(rows)


@settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
@given(records)
def test_any_record_is_what_fastavro_reads(record: dict[str, Any]) -> None:
    """Its own reading of the logical types, which the application does not use."""
    payload = written(SCHEMA, {**record, "id": "e"})
    row = read(TOPICS[0], [payload])[0]
    theirs: Any = fastavro.schemaless_reader(BytesIO(payload), fastavro.parse_schema(SCHEMA), None)
    theirs["key"] = theirs["key"] and str(theirs["key"])
    theirs["tags"] = list(theirs["tags"].items())
    theirs["nanos"] = row["event"]["nanos"]
    assert row["reject_reason"] is None
    assert spelled(row["event"]) == spelled(theirs)


def test_data_of_the_last_schema_is_read_a_field_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Message by message takes many times as long; only those that are odd are read so."""
    one_by_one: list[int] = []
    by_records = avro_pages._by_records
    monkeypatch.setattr(
        avro_pages, "_by_records", lambda each, *rest: one_by_one.append(len(each)) or by_records(each, *rest)
    )
    page = [written(SCHEMA, {**RECORD, "id": f"e{number}"}, bool(number % 2)) for number in range(20)]
    rows = decode(delivered(page), TOPICS[0]).columns.to_pylist()
    assert [row["event_id"] for row in rows] == [f"e{number}" for number in range(20)]
    assert one_by_one == []
    read(TOPICS[0], [*page, b"odd", CLEAN[:-1]])
    assert one_by_one == [2]


def test_a_long_array_and_a_name_twice_are_read_too() -> None:
    record = {**RECORD, "queue": [{"id": "a", "ms": number} for number in range(700)]}
    assert len(read(TOPICS[0], [CLEAN, written(SCHEMA, record)])[1]["event"]["queue"]) == 700
    schema = with_field({"type": "map", "values": "int"})
    once = written(schema, {"id": "e", "at": PLAYED, "x": {"k": 1}})
    twice = once[:-1] + b"\x02\x02k\x04\x00"
    assert [row["event"]["x"] for row in read(topic_of_schemas(schema), [once, twice])] == [[("k", 1)], [("k", 2)]]


def test_blocks_that_say_their_size_are_read() -> None:
    schema = with_field({"type": "array", "items": "int"})
    start = written(schema, {"id": "e", "at": PLAYED, "x": []})[:-1]
    blocks = b"\x03\x04\x02\x04" + b"\x02\x06" + b"\x00"
    assert read(topic_of_schemas(schema), [start + blocks])[0]["event"]["x"] == [1, 2, 3]


def test_a_fixed_of_no_bytes_is_read() -> None:
    schema = with_field({"type": "fixed", "name": "None", "size": 0})
    rows = read(topic_of_schemas(schema), [written(schema, {"id": "e", "at": PLAYED, "x": b""})] * 2)
    assert rows[0]["event"]["x"] == b""


def test_an_empty_page_decodes_to_no_rows() -> None:
    decoded: Decoded = decode(delivered([]), TOPICS[0])
    assert decoded.columns.num_rows == 0
    assert isinstance(decoded.columns, pa.RecordBatch)
