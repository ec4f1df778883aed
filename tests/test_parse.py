from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from math import copysign
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse.decode import json_pages
from lakehouse.decode.columns import Parsed
from lakehouse.decode.events import (
    FORMATS,
    FROM_THE_FUTURE,
    NO_EVENT_ID,
    NO_EVENT_TIME,
    Decoded,
    _json,
    decode,
    decode_by_message,
)
from lakehouse.decode.json_messages import NOT_JSON
from lakehouse.decode.undeclared import KEPT, OTHERS, top_names
from lakehouse.schemas import DELIVERED, decoded_schema
from lakehouse.topics import Topic, topic_from
from tests.examples import examples

PUBLISHED = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
PLAYED = datetime(2026, 11, 23, 5, 30, tzinfo=UTC)
FIELDS = {"user": "string", "track": "struct<id: string, ms: int>", "n": "bigint"}
PLAY = {"event_id": "e1", "played_at": "2026-11-23T05:30:00Z"}

Attributes = dict[str, str] | None


def delivered(payloads: Sequence[bytes | None], attributes: Sequence[Attributes] | None = None) -> pa.RecordBatch:
    count = len(payloads)
    columns = [
        [f"m{number}" for number in range(count)],
        [PUBLISHED] * count,
        [None if pairs is None else list(pairs.items()) for pairs in attributes or [{}] * count],
        list(payloads),
        [None] * count,
    ]
    arrays = [pa.array(column, member.type) for column, member in zip(columns, DELIVERED, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=DELIVERED)


def read(topic: Topic, messages: pa.RecordBatch) -> Decoded:
    """What all ways of decoding agree on, whatever the page before was like."""
    exact = decode_by_message(messages, topic)
    after_odd, fast = (_decoded_after(page, messages, topic) for page in (b'{"nobody": "declared it"}', b"{}"))
    assert repr(after_odd) == repr(fast)
    assert after_odd.columns.equals(fast.columns)
    fast.columns.validate(full=True)
    assert fast.columns.schema == decoded_schema(topic)
    assert repr(fast.columns.to_pylist()) == repr(exact.columns.to_pylist()), "-0.0 is not 0.0"
    assert fast.columns.equals(exact.columns)
    assert fast.undeclared == exact.undeclared
    return fast


def _decoded_after(payload: bytes, messages: pa.RecordBatch, topic: Topic) -> Decoded:
    decode(delivered([payload]), topic)
    return decode(messages, topic)


def rows_of(topic: Topic, *payloads: bytes | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read(topic, delivered(payloads)).columns.to_pylist()
    return rows


def reason_of(topic: Topic, payload: bytes | None) -> str | None:
    """Why the payload is rejected, alone and between two clean ones."""
    clean = json.dumps(PLAY).encode()
    alone = rows_of(topic, payload)[0]
    before, among, after = rows_of(topic, clean, payload, clean)
    assert among == alone
    assert before["reject_reason"] is after["reject_reason"] is None
    reason: str | None = alone["reject_reason"]
    if reason not in (None, FROM_THE_FUTURE):
        assert alone == {"event_id": None, "event_time": None, "event": None, "reject_reason": reason}
    return reason


def play(**fields: Any) -> bytes:
    return json.dumps({**PLAY, **fields}).encode()


def with_value(text: str) -> bytes:
    """A play whose field `x` holds the JSON text as it stands."""
    return b'{"event_id": "e1", "played_at": "2026-11-23T05:30:00Z", "x": %s}' % text.encode()


def test_every_format_of_a_topic_can_be_read() -> None:
    assert set(FORMATS) == set(get_args(Topic.model_fields["format"].annotation))


@pytest.fixture
def value_of(topic_with: Callable[..., Topic]) -> Callable[[str, str], Any]:
    """The value of field `x` of a Spark type, or the reason why there is none."""

    def value(spark_type: str, text: str) -> Any:
        topic = topic_with(fields={"x": spark_type})
        reason = reason_of(topic, with_value(text))
        return reason or rows_of(topic, with_value(text))[0]["event"]["x"]

    return value


def test_an_event_has_its_id_its_time_and_the_declared_fields(topic: Topic) -> None:
    rows = rows_of(topic, play(user="u", track={"id": "t", "ms": 7}, n=2**62))
    event = {"user": "u", "track": {"id": "t", "ms": 7}, "n": 2**62}
    assert rows == [{"event_id": "e1", "event_time": PLAYED, "event": event, "reject_reason": None}]


@pytest.mark.parametrize("read_page", [decode, decode_by_message])
def test_an_empty_page_decodes_to_no_rows(topic: Topic, read_page: Callable[..., Decoded]) -> None:
    decoded = read_page(delivered([]), topic)
    assert decoded.columns.schema == decoded_schema(topic)
    assert decoded.columns.num_rows == 0
    assert decoded.undeclared == Counter()


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"",
        b" ",
        b"\n",
        b"null",
        b"1",
        b"true",
        b'"x"',
        b"[1]",
        b"[{}]",
        b"{",
        b"}",
        b"{}{}",
        b"{}\n{}",
        b'{"user": "a"}{"user": "b"}',
        b'{"user": "a"}\n{"user": "b"}',
        b'{"user": "a"} }',
        b"{'user': 'a'}",
        b'{"user": "a",}',
        b'{"user": "a" "n": 1}',
        b'{"n": [1, 2,]}',
        b'{"user": "a", n: 1}',
        b'{"user": "a"} // comment',
        b'{/**/"user": "a"}',
        b'{"user": "a"}\x00',
        b'{"user": "a\x00"}',
        b'{"user": "a"\x00}',
        b"\x00",
        b'{"user": "a\nb"}',
        b'{"user": "a\tb"}',
        b'\xef\xbb\xbf{"user": "a"}',
        '{"user": "a"}'.encode("utf-16"),
        b'{"user": "\xff"}',
        b'{"\xff": 1}',
        b'{"user": "\xed\xa0\x80"}',
        b'{"user": "\xc0\x80"}',
        rb'{"user": "\ud83d"}',
        rb'{"user": "\ude00"}',
        rb'{"user": "\ude00\ud83d"}',
        rb'{"\ud83d": "undeclared"}',
        rb'{"user": "\x61"}',
        rb'{"user": "\u12"}',
        b'{"n": NaN}',
        b'{"other": NaN}',
        b'{"other": Infinity}',
        b'{"other": [-Infinity]}',
        b'{"other": Inf}',
        b'{"other": 1e400x}',
        b'{"other": 01e400}',
        b'{"other": %sx}' % (b"9" * 400),
        b'{"other": 0%s}' % (b"9" * 5000),
        b'{"n": 01}',
        b'{"n": +1}',
        b'{"n": 1.}',
        b'{"n": .5}',
        b'{"n": 0x10}',
        b'{"n": 1e}',
        b'{"n": --1}',
        b'{"n": tru}',
        b'{"n": nullx}',
        b'\x0b{"n": 1}',
    ],
)
def test_what_is_no_json_object_is_rejected(topic: Topic, payload: bytes | None) -> None:
    assert reason_of(topic, payload) == NOT_JSON


@pytest.mark.parametrize(
    "payload",
    [
        b" \r\n\t%s\n",
        b"%s\n",
        b"\n%s",
        b"%s ",
    ],
)
def test_white_space_around_an_object_is_no_harm(topic: Topic, payload: bytes) -> None:
    assert reason_of(topic, payload % play(user="u")) is None


def test_a_payload_may_be_spread_over_lines(topic: Topic) -> None:
    spread = json.dumps({**PLAY, "track": {"id": "t", "ms": 1}}, indent=2).encode()
    assert [row["event"]["track"] for row in rows_of(topic, spread, spread)] == [{"id": "t", "ms": 1}] * 2


@pytest.mark.parametrize(
    ("joined", "reasons"),
    [
        ([b'{"track": {}', b'{"n": 1}'], [NOT_JSON, NO_EVENT_ID]),
        ([b'{"track":', b'{"id": "t"}}', b"{}{}"], [NOT_JSON] * 3),
        ([b'{"track": {}', b', "n": 1}', b"{}{}"], [NOT_JSON] * 3),
        ([b'{"track": {}', b"{}}", b"{}{}"], [NOT_JSON] * 3),
        ([b'{"user": "}', b'{"}', b"{}{}"], [NOT_JSON] * 3),
        ([b'{"user": "\\}', b'{\\"}', b"{}{}"], [NOT_JSON] * 3),
        ([b'{"other": [{}', b"{}]}", b"{}{}"], [NOT_JSON] * 3),
        ([b"{}{}", b"{}\x00}", b"{}"], [NOT_JSON, NOT_JSON, NO_EVENT_ID]),
        ([b"{}\n{}", b" ", b"{}"], [NOT_JSON, NOT_JSON, NO_EVENT_ID]),
        ([b"{}{}", b""], [NOT_JSON] * 2),
        ([b"{}{}", None], [NOT_JSON] * 2),
    ],
)
def test_messages_of_a_page_do_not_complete_each_other(
    topic: Topic, joined: list[bytes | None], reasons: list[str]
) -> None:
    """As many objects as payloads must mean one object in each."""
    assert [row["reject_reason"] for row in rows_of(topic, *joined)] == reasons


def test_escaped_text_is_read(topic: Topic) -> None:
    user = rows_of(topic, rb'{"user": "\ud83d\ude00 \u00e9 \u0000 \/ \"", %s' % play()[1:])[0]["event"]["user"]
    assert user == '😀 é \x00 / "'


def test_of_a_repeated_name_the_last_value_counts(topic: Topic) -> None:
    repeated = play(user="u")[:-1] + b', "user": "v", "user": "w", "track": {"ms": "x"}, "track": {"ms": 2, "ms": 3}}'
    event = rows_of(topic, repeated)[0]["event"]
    assert event == {"user": "w", "track": {"id": None, "ms": 3}, "n": None}
    assert read(topic, delivered([play()[:-1] + b', "other": 1, "other": null}'])).undeclared == Counter()


@pytest.mark.parametrize("depth", [2, 199, 200, 201, 300, 2000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_a_limit(topic: Topic, depth: int, opening: str, closing: str) -> None:
    """The object itself is one of the 200 levels."""
    nested = opening * (depth - 1) + "1" + closing * (depth - 1)
    assert reason_of(topic, with_value(nested)) == (NOT_JSON if depth > 200 else None)


def test_brackets_in_text_are_no_nesting(topic: Topic) -> None:
    assert reason_of(topic, play(user='[{"' * 1000)) is None
    assert reason_of(topic, play(other=[{}] * 1000, user='\\"[')) is None
    assert (
        reason_of(topic, play(other=']"]' * 500, deep=1)[:-1] + b', "z": %s}' % (b"[" * 201 + b"]" * 201)) == NOT_JSON
    )


def test_a_wrong_type_is_named_with_its_path(topic_with: Callable[..., Topic]) -> None:
    fields = {"a": "struct<b: struct<c: int>, d: array<struct<e: string>>, f: map<string, array<int>>>"}
    topic = topic_with(fields=fields)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"a": 1}, "a"),
        ({"a": []}, "a"),
        ({"a": {"b": "x"}}, "a.b"),
        ({"a": {"b": {"c": "x"}}}, "a.b.c"),
        ({"a": {"d": {}}}, "a.d"),
        ({"a": {"d": [1]}}, "a.d"),
        ({"a": {"d": [None, {"e": 1}]}}, "a.d.e"),
        ({"a": {"f": [1]}}, "a.f"),
        ({"a": {"f": {"k": 1}}}, "a.f"),
        ({"a": {"f": {"k": [1, None, 1.5]}}}, "a.f"),
    ]
    assert [reason_of(topic, play(**event)) for event, _ in wrong] == [f"wrong type: {path}" for _, path in wrong]


def test_the_first_wrong_field_in_declared_order_is_named(topic: Topic) -> None:
    assert reason_of(topic, play(n="x", track={"ms": "x", "id": 1}, event_id=7)) == "wrong type: track.id"


@pytest.mark.parametrize(("spark_type", "bits"), [("tinyint", 8), ("smallint", 16), ("int", 32), ("bigint", 64)])
def test_integers_have_the_range_of_their_type(value_of: Callable[[str, str], Any], spark_type: str, bits: int) -> None:
    most, least = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    assert value_of(spark_type, str(most)) == most
    assert value_of(spark_type, str(least)) == least
    for text in (str(most + 1), str(least - 1), "1" * 19 + "0", "9" * 100, "1.0", "1e2", '"1"', "true", "[]", "{}"):
        assert value_of(spark_type, text) == "wrong type: x"
    assert value_of(spark_type, "-0") == 0


WRONG = "wrong type: x"
DAY = date(2026, 11, 23)


@pytest.mark.parametrize(
    ("spark_type", "text", "expected"),
    [
        ("string", '"1"', "1"),
        ("string", '""', ""),
        ("string", "1", WRONG),
        ("string", "true", WRONG),
        ("string", "null", None),
        ("boolean", "true", True),
        ("boolean", "1", WRONG),
        ("boolean", '"true"', WRONG),
        ("double", "1", 1.0),
        ("double", "1.5e300", 1.5e300),
        ("double", "1e-400", 0.0),
        ("double", "0", 0.0),
        ("double", "1" + "0" * 30, 1e30),
        ("double", "0.1000000000000000055511151231257827", 0.1),
        ("double", '"1.5"', WRONG),
        ("double", "true", WRONG),
        ("float", "0.5", 0.5),
        ("float", "3.4028234663852886e38", 3.4028234663852886e38),
        ("float", "3.4028235677973362e38", 3.4028234663852886e38),
        ("float", "3.4028235677973366e38", WRONG),
        ("float", "-1e39", WRONG),
        ("float", "1" + "0" * 39, WRONG),
        ("decimal(5,2)", "1.5", Decimal("1.50")),
        ("decimal(5,2)", '"1.5"', Decimal("1.50")),
        ("decimal(5,2)", "999.99", Decimal("999.99")),
        ("decimal(5,2)", "1e2", Decimal("100.00")),
        ("decimal(5,2)", "-0", Decimal("0.00")),
        ("decimal(5,2)", "1.500", Decimal("1.50")),
        ("decimal(5,2)", "1.005", WRONG),
        ("decimal(5,2)", "99999", WRONG),
        ("decimal(5,2)", '"1000"', WRONG),
        ("decimal(5,2)", '""', WRONG),
        ("decimal(5,2)", '" 1"', WRONG),
        ("decimal(5,2)", '"1_0"', WRONG),
        ("decimal(5,2)", '"NaN"', WRONG),
        ("decimal(5,2)", '"Infinity"', WRONG),
        ("decimal(5,2)", '"\u0661"', WRONG),
        ("decimal(5,2)", '"1e99999999999999999999"', WRONG),
        ("decimal(5,2)", "true", WRONG),
        ("decimal(38,0)", "9" * 38, Decimal("9" * 38)),
        ("decimal(38,0)", "9" * 39, WRONG),
        ("decimal(38,18)", "0.100000000000000001", Decimal("0.100000000000000001")),
        ("decimal(38,18)", "12345678901234567890.1", Decimal("12345678901234567890.1" + "0" * 17)),
        ("binary", '"aGk="', b"hi"),
        ("binary", '""', b""),
        ("binary", '"aGk"', WRONG),
        ("binary", '"a Gk="', WRONG),
        ("binary", '"aGk=="', WRONG),
        ("binary", '"_-8="', WRONG),
        ("binary", '"\u00e9"', WRONG),
        ("binary", "1", WRONG),
        ("date", '"2026-11-23"', DAY),
        ("date", '"0001-01-01"', date(1, 1, 1)),
        ("date", '"2024-02-29"', date(2024, 2, 29)),
        ("date", '"2026-02-29"', WRONG),
        ("date", '"0000-12-31"', WRONG),
        ("date", '"2026-11-23T00:00:00Z"', WRONG),
        ("date", "20261123", WRONG),
        ("timestamp", '"2026-11-23T05:30:00Z"', PLAYED),
        ("timestamp", '"2026-11-23 07:00:00.5+01:30"', PLAYED + timedelta(seconds=0.5)),
        ("timestamp", '"2026-11-23T05:30:00.123456Z"', PLAYED + timedelta(microseconds=123456)),
        ("timestamp", '"2026-11-23T05:30:00.123456999Z"', PLAYED + timedelta(microseconds=123456)),
        ("timestamp", '"2026-11-23T05:30:00.12345699999999Z"', PLAYED + timedelta(microseconds=123456)),
        ("timestamp", '"0001-01-01T00:00:00Z"', datetime(1, 1, 1, tzinfo=UTC)),
        ("timestamp", '"9999-12-31T23:59:59.999999Z"', datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("timestamp", '"2026-11-23T05:30:00"', WRONG),
        ("timestamp", '"2026-11-23"', WRONG),
        ("timestamp", '"2026-11-31T05:30:00Z"', WRONG),
        ("timestamp", '"2026-11-23T24:00:00Z"', WRONG),
        ("timestamp", '"2026-11-23T05:30:60Z"', WRONG),
        ("timestamp", '"2026-11-23T05:30:00.Z"', WRONG),
        ("timestamp", '" 2026-11-23T05:30:00Z"', WRONG),
        ("timestamp", '"0000-06-01T00:00:00Z"', WRONG),
        ("timestamp", '"0001-01-01T00:00:00+00:01"', WRONG),
        ("timestamp", '"9999-12-31T23:59:59-00:01"', WRONG),
        ("timestamp", '"9999-12-31T23:00:00-01:00"', WRONG),
        ("timestamp", '"10000-01-01T00:00:00Z"', WRONG),
        ("timestamp", "1795411800", WRONG),
        ("timestamp", '""', WRONG),
        ("array<int>", "[]", []),
        ("array<int>", "[1, null]", [1, None]),
        ("array<int>", "[[1]]", WRONG),
        ("array<array<timestamp>>", '[["2026-11-23T05:30:00Z"], [], null]', [[PLAYED], [], None]),
        ("array<struct<a: date>>", '[{"a": "2026-11-23"}, {}, null]', [{"a": DAY}, {"a": None}, None]),
        ("array<struct<a: float>>", '[null, {"a": 1e39}]', "wrong type: x.a"),
        ("map<string, int>", '{"b": 1, "a": null, "b": 2}', [("b", 2), ("a", None)]),
        ("map<string, int>", "{}", []),
        ("map<string, timestamp>", '{"a": "2026-11-23T05:30:00Z"}', [("a", PLAYED)]),
        ("map<string, struct<a: binary>>", '{"k": {"a": "aGk=", "other": 1}}', [("k", {"a": b"hi"})]),
        ("map<string, int>", "[]", WRONG),
        ("struct<a: int>", "{}", {"a": None}),
        ("struct<a: int>", "null", None),
        ("struct<a: struct<b: timestamp>>", '{"a": null}', {"a": None}),
        ("struct<a: decimal(3,1)>", '{"a": 100}', "wrong type: x.a"),
    ],
)  # fmt: skip
def test_values_are_of_the_declared_type_or_named(
    value_of: Callable[[str, str], Any], spark_type: str, text: str, expected: Any
) -> None:
    assert value_of(spark_type, text) == expected


@pytest.mark.parametrize(("text", "sign"), [("0", 1), ("-0", -1), ("-0.0", -1), ("0.0", 1), ("-1e-400", -1)])
def test_a_zero_keeps_its_sign(value_of: Callable[[str, str], Any], text: str, sign: int) -> None:
    """Else the bytes of a file would hang on which other messages were in the page."""
    assert copysign(1, value_of("double", text)) == sign
    assert copysign(1, value_of("float", text)) == sign


def test_a_null_is_the_same_as_a_missing_field(topic: Topic) -> None:
    missing, null = rows_of(topic, play(), play(user=None, track=None, n=None))
    assert missing == null
    assert missing["event"] == {"user": None, "track": None, "n": None}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_id": None}, NO_EVENT_ID),
        ({"event_id": ""}, NO_EVENT_ID),
        ({"event_id": 7}, "wrong type: event_id"),
        ({"played_at": None}, NO_EVENT_TIME),
        ({"played_at": ""}, "wrong type: played_at"),
        ({"played_at": 1795411800}, "wrong type: played_at"),
        ({"played_at": "2026-11-23T05:30:00"}, "wrong type: played_at"),
        ({"played_at": "2026-11-23T06:10:00Z"}, None),
        ({"played_at": "2026-11-23T06:10:00.000001Z"}, FROM_THE_FUTURE),
        ({"played_at": "yesterday", "event_id": None}, "wrong type: played_at"),
        ({"played_at": None, "event_id": None}, NO_EVENT_ID),
        ({"played_at": "2027-01-01T00:00:00Z", "event_id": None}, NO_EVENT_ID),
        ({"played_at": "2027-01-01T00:00:00Z", "n": "x"}, "wrong type: n"),
    ],
)
def test_of_several_reasons_the_first_counts(topic: Topic, fields: dict[str, Any], reason: str | None) -> None:
    """Not JSON, then the wrong types, then the id, then the time, then the future."""
    assert reason_of(topic, play(**fields)) == reason


def test_an_event_from_the_future_keeps_all_it_has(topic: Topic) -> None:
    row = rows_of(topic, play(), play(played_at="2100-01-01T00:00:00Z", user="u"))[1]
    assert row["reject_reason"] == FROM_THE_FUTURE
    assert row["event_id"] == "e1"
    assert row["event_time"] == datetime(2100, 1, 1, tzinfo=UTC)
    assert row["event"]["user"] == "u"


@pytest.mark.parametrize(
    ("event_id", "fields", "payload", "expected"),
    [
        ("payload.user", FIELDS, {"user": "u"}, "u"),
        ("payload.n", FIELDS, {"n": 12}, "12"),
        ("payload.track.id", FIELDS, {"track": {"id": "t"}}, "t"),
        ("payload.track.key", FIELDS, {"track": {"key": "k"}}, "k"),
        ("payload.meta.deep.id", FIELDS, {"meta": {"deep": {"id": "d"}}}, "d"),
        ("payload.meta.id", {"n": "int"}, {"meta": None}, None),
        ("payload.meta.id", {"meta": "struct<source: string>"}, {"meta": {"id": "i", "source": "s"}}, "i"),
    ],
)
def test_the_id_may_stand_anywhere_in_the_payload(
    topic_with: Callable[..., Topic],
    event_id: str,
    fields: dict[str, str],
    payload: dict[str, Any],
    expected: str | None,
) -> None:
    topic = topic_with(event_id=event_id, fields=fields)
    decoded = read(topic, delivered([play(**payload)]))
    row = decoded.columns.to_pylist()[0]
    assert row["event_id"] == expected
    assert row["reject_reason"] == (None if expected else NO_EVENT_ID)
    assert decoded.undeclared == {"event_id": 1}


def test_a_wrong_parent_of_the_id_is_named(topic_with: Callable[..., Topic]) -> None:
    topic = topic_with(event_id="payload.meta.id")
    clean = play(meta={"id": "i"})
    reasons = [row["reject_reason"] for row in rows_of(topic, clean, play(meta=1), play(meta={"id": 1}), clean)]
    assert reasons == [None, "wrong type: meta", "wrong type: meta.id", None]


def test_the_id_and_the_time_may_be_attributes(topic_with: Callable[..., Topic]) -> None:
    topic = topic_with(
        event_id="attributes.id", event_time="attributes.at", event_time_unit="ms", past_tolerance="999999 days"
    )
    attributes: list[Attributes] = [
        {"at": "1795411800000", "id": "a"},
        {"id": "b"},
        {"at": "1795411800000"},
        {"id": "c", "at": "1795411800000.5"},
        {"id": "c", "at": "0x10"},
        {"id": "c", "at": " 1"},
        {"id": "", "at": "1"},
        {},
        None,
        {"id": "d", "at": "-1"},
    ]
    decoded = read(topic, delivered([b'{"n": 1}'] * len(attributes), attributes)).columns
    wrong = "wrong type: at"
    reasons = [None, NO_EVENT_TIME, NO_EVENT_ID, wrong, wrong, wrong, NO_EVENT_ID, NO_EVENT_ID, NO_EVENT_ID, None]
    assert decoded.column("reject_reason").to_pylist() == reasons
    assert decoded.column("event_time").to_pylist()[0] == PLAYED
    assert decoded.column("event_id").to_pylist()[-1] == "d"
    assert decode(delivered([]), topic).columns.num_rows == 0


def test_an_attribute_may_be_an_iso_time(topic_with: Callable[..., Topic]) -> None:
    topic = topic_with(event_time="attributes.at")
    attributes: list[Attributes] = [{"at": "2026-11-23T05:30:00.1234567Z"}, {"at": "2026-11-23"}, {"at": ""}]
    decoded = read(topic, delivered([play()] * 3, attributes)).columns
    assert decoded.column("reject_reason").to_pylist() == [None, "wrong type: at", "wrong type: at"]
    assert decoded.column("event_time").to_pylist()[0] == PLAYED + timedelta(microseconds=123456)


def test_the_publish_time_may_be_the_event_time(topic_with: Callable[..., Topic]) -> None:
    row = rows_of(topic_with(event_time="publish_time"), b'{"event_id": "e"}')[0]
    assert row["event_time"] == PUBLISHED


@pytest.mark.parametrize(
    ("unit", "at", "expected"),
    [
        ("s", 1795411800, PLAYED),
        ("s", 1795411800.25, PLAYED + timedelta(seconds=0.25)),
        ("s", 1795411800.123456, PLAYED + timedelta(microseconds=123456)),
        ("s", -62135596800, datetime(1, 1, 1, tzinfo=UTC)),
        ("s", -62135596801, None),
        ("s", 253402300800, None),
        ("s", 253402300799.99999999, None),
        ("s", 1e300, None),
        ("s", "1795411800", None),
        ("ms", 1795411800000, PLAYED),
        ("ms", 1795411800000.5, None),
        ("ms", 2**63 - 1, None),
        ("ms", -(2**63), None),
        ("us", 1795411800000001, PLAYED + timedelta(microseconds=1)),
        ("us", 253402300800000000, None),
        ("us", 2**63, None),
        ("us", True, None),
    ],
)
def test_event_times_may_be_numbers(
    topic_with: Callable[..., Topic], unit: str, at: Any, expected: datetime | None
) -> None:
    row = rows_of(topic_with(event_time_unit=unit, past_tolerance="999999 days"), play(played_at=at))[0]
    assert row["reject_reason"] == (None if expected else "wrong type: played_at")
    assert row["event_time"] == expected


@pytest.mark.parametrize(
    ("spark_type", "unit", "at"),
    [
        ("timestamp", "iso8601", "2026-11-23T05:30:00Z"),
        ("timestamp", "ms", "2026-11-23T05:30:00Z"),
        ("string", "iso8601", "2026-11-23T05:30:00Z"),
        ("string", "s", "1795411800"),
        ("string", "ms", "1795411800000"),
        ("bigint", "us", 1795411800000000),
        ("int", "s", 1795411800),
        ("double", "s", 1795411800.0),
        ("double", "ms", 1795411800000.0),
        ("decimal(20,3)", "s", "1795411800"),
    ],
)
def test_the_event_time_may_be_declared_too(
    topic_with: Callable[..., Topic], spark_type: str, unit: str, at: Any
) -> None:
    topic = topic_with(fields={"played_at": spark_type}, event_time_unit=unit)
    row = rows_of(topic, play(played_at=at))[0]
    assert row["reject_reason"] is None
    assert row["event_time"] == PLAYED
    assert row["event"]["played_at"] is not None


def test_undeclared_fields_are_counted_by_message(topic: Topic) -> None:
    payloads = [
        play(other=1, track={"genre": "x", "more": {"deep": 1}}),
        play(other=None, track={"genre": "y"}, empty={}),
        play(other=[{"a": 1}], n="wrong", **{"track.genre": 1}),
        b'{"other": ',
        play(),
    ]
    decoded = read(topic, delivered(payloads))
    assert decoded.undeclared == {"other": 2, "track.genre": 3, "track.more": 1, "empty": 1}


def test_an_undeclared_field_may_have_any_type(topic: Topic) -> None:
    odd: list[Any] = [1, "x", None, True, [1, "x"], {"a": 1}, {"a": "x"}, 1.5, "2026-01-01", [[]], 2**70]
    decoded = read(topic, delivered([play(other=value) for value in odd]))
    assert decoded.columns.column("reject_reason").null_count == len(odd)
    assert decoded.undeclared == {"other": len(odd) - 1}


def test_names_that_are_ids_do_not_fill_memory(topic: Topic) -> None:
    """Arrow, if it inferred them, would make a column of each, and in it a row for each message or item."""
    many = play(**{f"id-{number}": number for number in range(5_000)})
    listed = play(other=[{f"id-{number}": number} for number in range(20_000)])
    decoded = decode(delivered([many] * 3 + [listed] + [play(**{f"key-{n}": n}) for n in range(15_000)]), topic)
    assert decoded.columns.column("reject_reason").null_count == len(decoded.columns)
    assert len(decoded.undeclared) == KEPT + 1
    assert decoded.undeclared[OTHERS] == 3 * 5_000 + 15_001 - sum(
        count for name, count in decoded.undeclared.items() if name != OTHERS
    )


@settings(max_examples=examples(60), deadline=None, derandomize=True, database=None)
@given(st.integers(0, 3 * KEPT), st.integers(1, 5), st.booleans())
def test_the_most_frequent_names_are_counted_each_and_the_others_together(names: int, kinds: int, twice: bool) -> None:
    counts = Counter({f"n{number:03d}" + "x" * (number % 7 * 20): 1 + number % kinds for number in range(names)})
    named = [(name if len(name) <= 100 else f"{name[:100]}…", count) for name, count in counts.items()]
    ranked = sorted(named, key=lambda each: (-each[1], each[0]))
    expected = dict(ranked[:KEPT])
    if others := sum(count for _, count in ranked[KEPT:]):
        expected[OTHERS] = others
    top = top_names(counts)
    assert list(top.items()) == list(expected.items()) if names > KEPT else top == expected
    assert not twice or top_names(top) == expected


def test_a_page_may_be_a_slice(topic_with: Callable[..., Topic]) -> None:
    topic = topic_with(event_id="attributes.id")
    payloads = [b"", play(n=1), b'{"x"', play(n=2, track={"id": "t"}), play(n=3), b"{}"]
    whole = delivered(payloads, [{"id": str(number)} for number in range(len(payloads))])
    part = whole.slice(3, 2)
    assert read(topic, part).columns.to_pylist() == read(topic, whole).columns.to_pylist()[3:5]


def test_a_long_page_with_odd_messages_is_read_as_by_message(topic: Topic) -> None:
    payloads = [play(n=number) for number in range(2_000)]
    payloads[700], payloads[1_999] = b"{}{}", play(n="x")
    payloads[100] = play(other="x")
    reasons = read(topic, delivered(payloads)).columns.column("reject_reason")
    assert reasons.null_count == len(payloads) - 2
    assert (reasons[700].as_py(), reasons[1_999].as_py()) == (NOT_JSON, "wrong type: n")


@dataclass
class Ways:
    """How many messages were read by each way, each time that some were."""

    by_arrow: list[int] = field(default_factory=list)
    by_documents: list[int] = field(default_factory=list)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Of the pages of JSON that the test decodes."""
    ways = Ways()

    def by_arrow(texts: pa.StringArray, *arguments: Any) -> Parsed | None:
        ways.by_arrow.append(len(texts))
        return json_pages.by_arrow(texts, *arguments)

    def by_documents(payloads: pa.BinaryArray, *arguments: Any) -> Parsed:
        ways.by_documents.append(len(payloads))
        return json_pages.by_documents(payloads, *arguments)

    reader = json_pages.PageReader(by_arrow, by_documents)
    monkeypatch.setitem(FORMATS, "json", replace(FORMATS["json"], page=_json(reader.page)))
    return ways


def test_a_clean_page_is_read_at_once(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the pages of a topic would decode several times slower, and no other test would see it."""
    monkeypatch.setattr(json_pages, "by_message", None)
    payloads = [play(n=number, user="😀") for number in range(1_000)]
    assert decode(delivered(payloads), topic).columns.column("reject_reason").null_count == 1_000
    undeclared = [play(other={"a": [1]}, track={"genre": "x" * 500}) for _ in range(1_000)]
    assert decode(delivered(undeclared), topic).undeclared == {"other": 1_000, "track.genre": 1_000}


def test_a_few_messages_of_odd_form_are_read_alone(topic_with: Callable[..., Topic], ways: Ways) -> None:
    """One cut off, compressed or too fine would else cost its whole page the quick way."""
    topic = topic_with(fields={"price": "decimal(5,2)"})
    payloads: list[bytes | None] = [play(price=number) for number in range(100)]
    payloads[3], payloads[40], payloads[41], payloads[99] = b'{"event_id": ', play(price=1.255), None, play(price="1e2")
    decoded = decode(delivered(payloads), topic)
    assert ways.by_documents == [4]
    rejected = decoded.columns.column("reject_reason").to_pylist()
    assert {row: reason for row, reason in enumerate(rejected) if reason} == {
        3: NOT_JSON,
        40: "wrong type: price",
        41: NOT_JSON,
    }
    read(topic, delivered(payloads))


def test_decimals_of_many_digits_written_as_text_are_read_at_once(topic_with: Callable[..., Topic], ways: Ways) -> None:
    topic = topic_with(fields={"price": "decimal(38,18)"})
    page = delivered([play(price=f"{number}12345678901234.123456789012345678") for number in range(10)])
    decoded = decode(page, topic)
    assert not ways.by_documents
    assert decoded.columns.column("reject_reason").null_count == 10
    assert read(topic, page).columns.equals(decoded.columns)


def test_after_an_odd_page_the_quick_way_is_not_tried_until_one_is_clean(topic: Topic, ways: Ways) -> None:
    decode(delivered([b"{}"]), topic)
    ways.by_arrow.clear()
    for payloads in ([play(n="x")] * 2, [play(n="x")] * 3, [play()] * 4, [play()] * 5):
        decode(delivered(payloads), topic)
    assert ways.by_arrow == [2, 5]


# --- any page ------------------------------------------------------------------------------------------------------

EVERY_TYPE = {
    "user": "string",
    "track": "struct<id: string, at: timestamp, more: struct<f: float, d: date>>",
    "n": "bigint",
    "small": "tinyint",
    "score": "double",
    "yes": "boolean",
    "price": "decimal(5,2)",
    "tags": "array<string>",
    "items": "array<struct<a: int, price: decimal(38,2)>>",
    "raw": "binary",
}
PLAYED_AT = {"subscription": "projects/test/subscriptions/plays", "event_id": "payload.event_id"}
TOPICS = [
    topic_from("plays", {**PLAYED_AT, "event_time": "payload.played_at", "fields": {**EVERY_TYPE, "at": "bigint"}}),
    topic_from(
        "plays",
        {
            **PLAYED_AT,
            "event_id": "payload.track.id",
            "event_time": "payload.track.at",
            "fields": {name: EVERY_TYPE[name] for name in ("user", "track", "n", "score", "tags", "price")},
        },
    ),
    topic_from("plays", {**PLAYED_AT, "event_time": "payload.n", "event_time_unit": "ms", "fields": {"n": "bigint"}}),
    topic_from(
        "plays",
        {**PLAYED_AT, "event_time": "payload.at", "event_time_unit": "s", "fields": {"tags": "map<string, double>"}},
    ),
]

numbers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1795411800, 1795411800000, 1e39, 3.4028235677973366e38, 10**38, 999.99, 99999, 0.005]),
)
texts = st.one_of(
    st.text(max_size=5),
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
    st.dates().map(str),
    st.binary(max_size=4).map(lambda raw: base64.b64encode(raw).decode()),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(
        ["", "}", "{", "}\n{", "0000-01-01", "2026-11-23T05:30:00.1234567+01:00", "1.50", "\x00", "e1", "Ā="]
    ),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
names = st.sampled_from(
    [*EVERY_TYPE, "event_id", "played_at", "at", "id", "more", "a", "f", "d", "other", "track.x", ""]
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
instants = st.datetimes(datetime(2026, 11, 22), datetime(2026, 11, 23, 6)).map(lambda at: at.isoformat() + "Z")
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "event_id": st.just("e1"),
    "played_at": instants,
    "at": st.integers(1_795_000_000, 1_796_000_000),
    "user": st.text(max_size=5),
    "track": st.fixed_dictionaries(
        {"id": st.just("t")},
        optional={
            "at": instants,
            "more": st.fixed_dictionaries({}, optional={"f": st.floats(-9, 9), "d": st.dates().map(str)}),
        },
    ),
    "n": st.integers(1_795_000_000_000, 1_796_000_000_000),
    "small": st.integers(-128, 127),
    "score": st.one_of(st.floats(-1e9, 1e9), st.integers(-9, 9)),
    "yes": st.booleans(),
    "price": st.decimals(-999, 999, places=2).map(str),
    "tags": st.lists(st.text(max_size=3), max_size=3),
    "items": st.lists(st.fixed_dictionaries({"a": st.integers(0, 9), "price": st.integers(0, 9)}), max_size=2),
    "raw": st.binary(max_size=3).map(lambda raw: base64.b64encode(raw).decode()),
    "other": values,
}
ALWAYS = ("event_id", "played_at", "at", "track", "n")
SOMETIMES = ("user", "small", "score", "yes", "price", "tags", "items", "raw")
clean = st.fixed_dictionaries(
    {name: PLAUSIBLE[name] for name in ALWAYS}, optional={name: PLAUSIBLE[name] for name in SOMETIMES}
)


def as_payload(event: Any, spaces: int | None = None) -> bytes:
    return json.dumps(event, indent=spaces).encode("utf-8", "surrogatepass")


@st.composite
def odd_in_one_field(draw: st.DrawFn) -> bytes:
    """A clean event but for one field, so that the check of that field decides."""
    return as_payload({**draw(clean), draw(names): draw(values)})


ODD_SPELLINGS = [
    *"-0 -0.0 1E5 1e2 1e400 1e-400 NaN -Infinity 1.0 01 1. 0.1e1 1.10 1000.00 18446744073709551616 tru".split(),
    *"0.1e310 1e+0400 1e400x".split(),
    *(r'"\ud83d\ude00"', r'"\ud83d"', r'"\u0000"', '"2026-11-23T05:30Z"', '"2026-11-23T05:30:00.9999999Z"'),
    *('"+1.5"', '".5"', '"1."', '"0001.50"', '"1e2"', '"-0"', '{"a":1,"a":2}', '{"at":1}', "[{}]", "9" * 310),
    "[" * 250 + "]" * 250,
]


@st.composite
def written_by_hand(draw: st.DrawFn) -> bytes:
    """A clean event but for one value, spelled as no JSON writer would."""
    spelling = draw(st.sampled_from(ODD_SPELLINGS))
    payload = as_payload({**draw(clean), draw(names): "HERE"})
    return payload.replace(b'"HERE"', spelling.encode())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The bytes of an event with some of them changed, left out or doubled."""
    payload = bytearray(as_payload(draw(clean)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(payload)))
        end = start + draw(st.integers(0, 3))
        payload[start:end] = draw(
            st.one_of(st.sampled_from([b"", b'"', b"{", b"}", b",", b"\\", b"0"]), st.binary(max_size=2))
        )
    return bytes(payload)


@st.composite
def cut_in_two(draw: st.DrawFn) -> list[bytes]:
    """An event cut so that both pieces look like events: only joined, without a line break, they might be one."""
    payload = as_payload(draw(clean))
    at = draw(st.integers(0, len(payload)))
    opening, closing = draw(st.sampled_from([(b"", b""), (b"{", b"}"), (b"}", b"{"), (b'{"', b'"}'), (b"{}", b"{}")]))
    return [payload[:at] + closing, opening + payload[at:]]


single = st.one_of(
    clean.map(as_payload),
    st.fixed_dictionaries({}, optional=PLAUSIBLE).map(as_payload),
    odd_in_one_field(),
    written_by_hand(),
    mutated(),
)
shapes = st.lists(
    st.sampled_from([b"{", b"}", b'"', b"[", b"]", b",", b'"a":', b"\n", b"\\", b"\x00", b" ", b"1"]), max_size=8
)
groups = st.one_of(
    single.map(lambda payload: [payload]),
    single.map(lambda payload: [payload]),
    cut_in_two(),
    st.lists(clean.map(as_payload), min_size=2, max_size=2).map(lambda two: [b"\n".join(two)]),
    st.lists(clean.map(as_payload), min_size=2, max_size=2).map(lambda two: [b"".join(two), b"{}"]),
    clean.map(lambda event: [as_payload(event, 1) + b"\n"]),
    shapes.map(lambda pieces: [b"{" + b"".join(pieces) + b"}"]),
    st.sampled_from([[None], [b""], [b"{}"], [b"{"], [b"}"], [b"{}{}"], [b"[1]"], [b"null"], [b"\xff"]]),
)
pages = st.one_of(
    st.lists(clean.map(as_payload), max_size=8),
    st.lists(groups, min_size=1, max_size=5).map(lambda lists: [payload for group in lists for payload in group]),
)


def in_parts(messages: pa.RecordBatch, topic: Topic, cuts: Sequence[int]) -> Decoded:
    edges = [0, *sorted(cut for cut in cuts if cut < len(messages)), len(messages)]
    parts = [decode(messages.slice(start, end - start), topic) for start, end in pairwise(edges)]
    columns = pa.Table.from_batches([part.columns for part in parts]).combine_chunks().to_batches()
    return Decoded(columns[0] if columns else parts[0].columns, sum((part.undeclared for part in parts), Counter()))


@settings(
    max_examples=examples(300), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(pages, st.lists(st.integers(0, 8), max_size=3), st.sampled_from(TOPICS))
def test_any_page_is_decoded_as_by_message_however_it_is_cut(
    payloads: list[bytes | None], cuts: list[int], topic: Topic
) -> None:
    messages = delivered(payloads)
    decoded = read(topic, messages)
    again = in_parts(messages, topic, cuts)
    assert again.columns.equals(decoded.columns)
    assert again.undeclared == decoded.undeclared
