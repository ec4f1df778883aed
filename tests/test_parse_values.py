"""Odd values that other parsers were reported for, each with the value or the reason that it has here."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from lakehouse.decode.events import decode
from tests.fuzz_decode import check, delivered
from tests.fuzz_payloads import topic_with

AT = datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)
FIELDS: dict[str, Any] = {"fields": {"n": "int"}}
OLD = {**FIELDS, "past_tolerance": "3660000 days"}
CLEAN = {"id": "e", "t": "2026-11-23T05:30:00Z"}


def row_of(topic: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """The decoded row, on which both paths agree."""
    made = topic_with(topic)
    check(made, [payload])
    (row,) = decode(delivered([payload]), made).columns.to_pylist()
    return dict(row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2016-12-31t23:59:59z", AT),
        ("2016-12-31T23:59:59.999999999Z", AT + timedelta(microseconds=999_999)),
        ("2016-12-31T23:59:60Z", None),  # a leap second: no instant of the tables stands for it
        ("1990-12-31T15:59:60-08:00", None),
        ("2018-06-15T12:30:60Z", None),
        ("2016-12-31T24:00:00Z", None),
        ("2016-12-31T23:59:61Z", None),
        ("2018-02-14T00:28:07.Z", None),
        ("2018-02-14T00:28:07.+00:00", None),
        ("1937-01-01T12:00:27.87+00:20", datetime(1937, 1, 1, 11, 40, 27, 870_000, tzinfo=UTC)),
        ("2016-12-31T23:59:59-00:00", AT),
        ("2017-01-01T23:58:59+23:59", AT),
        ("2016-12-31T00:00:59-23:59", AT),
        ("2016-12-31T23:59:59+24:00", None),
        ("2016-12-31T23:59:59+23:60", None),
        ("2016-12-31T23:59:59", None),
        ("2016-12-31T23:59:59 Z", None),
    ],
)
def test_a_time_of_rfc_3339_is_an_instant_or_a_wrong_type(text: str, expected: datetime | None) -> None:
    row = row_of(OLD, json.dumps({**CLEAN, "t": text}).encode())
    assert (row["event_time"], row["reject_reason"]) == (expected, None if expected else "wrong type: t")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"9223372036854775807"', 2**63 - 1),
        ('"-9223372036854775808"', -(2**63)),
        ('"9223372036854775808"', None),
        ('"-9223372036854775809"', None),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ('"9007199254740993"', 2**53 + 1),
        ('"0"', 0),
        ('"-0"', 0),
        ('"+1"', None),
        ('" 1"', None),
        ('"1 "', None),
        ('"1\\n"', None),
        ('""', None),
        ('"007"', None),
        ('"1e3"', None),
        ('"1.0"', None),
        ('"50$ OFF"', None),
        ('"0x10"', None),
        ('"1_000"', None),
        ('"\\u0661"', None),
        ('"\\u0031"', 1),
    ],
)
def test_a_64_bit_integer_may_be_text_by_an_option(text: str, expected: int | None) -> None:
    """Plain digits as JSON writes them: no sign +, blanks, exponent or leading zeros."""
    topic = {"fields": {"x": "bigint"}, "int64_as_text": True}
    row = row_of(topic, b'{"id":"e","t":"2026-11-23T05:30:00Z","x":%s}' % text.encode())
    assert row["reject_reason"] == (None if expected is not None else "wrong type: x")
    assert (row["event"] or {}).get("x") == expected


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (1_483_228_799_000_000_000, AT),
        (1_483_228_799_000_001_999, AT + timedelta(microseconds=1)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-(2**63), datetime(1677, 9, 21, 0, 12, 43, 145_224, tzinfo=UTC)),
        (2**63, None),
        (1.5, None),
    ],
)
def test_a_time_in_nanoseconds_is_cut_to_the_earlier_microsecond(nanoseconds: float, expected: datetime | None) -> None:
    row = row_of({**OLD, "event_time_unit": "ns"}, json.dumps({"id": "e", "t": nanoseconds}).encode())
    assert (row["event_time"], row["reject_reason"]) == (expected, None if expected else "wrong type: t")


MEMBER = gzip.compress(json.dumps(CLEAN).encode())


@pytest.mark.parametrize(
    "payload",
    [MEMBER, MEMBER[:15], MEMBER[:3], MEMBER + MEMBER, gzip.compress(b" " * 10_000_000)],
    ids=["whole", "cut", "only its beginning", "two members", "1,000 times its size"],
)
def test_a_compressed_payload_is_rejected_as_such_and_never_unpacked(payload: bytes) -> None:
    assert row_of(FIELDS, payload)["reject_reason"] == "compressed (gzip)"


@pytest.mark.parametrize(("payload", "reason"), [(b"", None), (b"{}", None), (b" ", "not JSON"), (b"null", "not JSON")])
def test_a_message_of_attributes_only_is_an_event(payload: bytes, reason: str | None) -> None:
    located = {"event_id": "attributes.id", "event_time": "publish_time", "fields": {"n": "int"}}
    row = row_of(located, payload)
    assert (row["event_id"], row["reject_reason"]) == (None if reason else "a", reason)


def test_wrong_types_in_several_items_of_a_list_name_the_first_item() -> None:
    """Columns are read field by field, messages item by item: the reason must not depend on which."""
    items = [{"a": 1}, {"b": "x"}, {"a": "x"}]
    topic = {"fields": {"items": "array<struct<a: int, b: int>>"}}
    assert row_of(topic, json.dumps({**CLEAN, "other": 1, "items": items}).encode())["reject_reason"] == (
        "wrong type: items.b"
    )


@pytest.mark.parametrize("number", ["0.1000000000000000055511151231257827", "1.2500000000000000000001", "1e-400"])
def test_a_decimal_beside_undeclared_fields_does_not_pass_through_a_double(number: str) -> None:
    payload = b'{"id":"e","t":"2026-11-23T05:30:00Z","other":1,"x":%s}' % number.encode()
    assert row_of({"fields": {"x": "decimal(5,2)"}}, payload)["reject_reason"] == "wrong type: x"
    escaped = payload.replace(b'"x"', b'"\\u0078"')
    assert row_of({"fields": {"x": "decimal(5,2)"}}, escaped)["reject_reason"] == "wrong type: x"


@pytest.mark.parametrize("spark_type", ["decimal(5,2)", "decimal(18,6)", "decimal(15,15)", "decimal(38,22)"])
def test_numbers_around_a_doubles_digits_are_read_as_decimals_exactly(spark_type: str) -> None:
    """Up to 15 digits a double says which decimal was written; from there on, only the text does."""
    random = Random(spark_type)
    numbers = []
    for digits in range(1, 19):
        for _ in range(20):
            whole = str(random.randrange(10 ** (digits - 1), 10**digits))
            point = random.randrange(len(whole))
            numbers.append(f"{random.choice(['', '-'])}{whole[:point] or 0}.{whole[point:]}")
            numbers.append(f"{whole}e-{random.randrange(24)}")
    payloads = [b'{"id":"e","t":"2026-11-23T05:30:00Z","other":1,"x":%s}' % number.encode() for number in numbers]
    topic = topic_with({"fields": {"x": spark_type}})
    check(topic, payloads)
    reasons = decode(delivered(payloads), topic).columns.column("reject_reason")
    assert 0 < reasons.null_count < len(payloads)


LARGE = ["1e400", "-1e400", "1E+0400", "0.1e310", "9" * 400, "-" + "9" * 5000, "1" + "0" * 250 + "e99", "1e99999999999"]


@pytest.mark.parametrize("number", LARGE)
@pytest.mark.parametrize(
    "spark_type", ["double", "float", "int", "bigint", "decimal(38,10)", "string", "array<double>"]
)
def test_a_number_beyond_a_double_is_a_wrong_type_of_its_field(number: str, spark_type: str) -> None:
    """It is JSON, and no value of any type. Of a member that nobody declared, it is counted like any other."""
    usual = b'{"id":"e","t":"2026-11-23T05:30:00Z","x":%s}' % number.encode()
    within = usual.replace(b'"x":', b'"x":["1e400 \\" 1e400",').replace(b"}", b"]}")
    assert row_of({"fields": {"x": spark_type}}, usual)["reject_reason"] == "wrong type: x"
    assert row_of({"fields": {"x": spark_type}}, within)["reject_reason"] == "wrong type: x"
    assert row_of({"fields": {"other": spark_type}}, usual)["reject_reason"] is None
    assert row_of({"fields": {"x": spark_type}}, usual[:-1])["reject_reason"] == "not JSON"


@pytest.mark.parametrize("hidden", ["1e400x", "01e400", r'"\ud83d"'])
def test_a_hidden_value_of_a_repeated_name_must_be_json_too(hidden: str) -> None:
    payload = b'{"id":"e","t":"2026-11-23T05:30:00Z","other":{"b":%s,"b":1}}' % hidden.encode()
    for spark_type in ("int", "decimal(5,2)"):
        assert row_of({"fields": {"x": spark_type}}, payload)["reject_reason"] == "not JSON"
