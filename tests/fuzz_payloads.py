"""Payloads for the fuzzer: grammar-generated for declared types of every kind, then mutated.

All is drawn from one `random.Random`, so that a seed gives the same pages again.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from lakehouse.topics import Topic, topic_from

TYPES = {
    "text": "string",
    "tiny": "tinyint",
    "small": "smallint",
    "n": "int",
    "big": "bigint",
    "f": "float",
    "d": "double",
    "yes": "boolean",
    "at": "timestamp",
    "day": "date",
    "raw": "binary",
    "price": "decimal(5,2)",
    "exact": "decimal(38,18)",
    "fine": "decimal(38,38)",
    "whole": "decimal(38,0)",
    "list": "array<int>",
    "lists": "array<array<timestamp>>",
    "inner": "struct<a: int, b: struct<c: decimal(10,2), d: date>>",
    "items": "array<struct<a: int, price: decimal(38,2)>>",
    "tags": "map<string, string>",
    "scores": "map<string, struct<a: double, b: array<bigint>>>",
}
_LEAVES = {
    "number": "0 -0 1 -1 1.5 -0.0 127 128 -129 32768 2147483648 9223372036854775807 9223372036854775808 1e2 1E+2 1e-2 "
    "1e400 -1e400 1e-400 3.5e38 1.005 999.995 0.5e18 17 123456789012345678901234567890123456789 01 +1 .5 1. 1e 0x1 "
    "1e-19 1e-18 1e-38 1e-39 1e-40 1e-41 1e-77 1e39 1e77 1e-999999999 1e999999999 0e999999999 0e-999999999 "
    "1e-2147483648 1e2147483648 1e99999999999999999999 0.000000000000000000000000000000000000000001",
    "word": "true false null NaN Infinity -Infinity tru nul {} [] [[]] [{}] {\"a\":1,\"a\":2}",
    "text": "2026-11-23T05:30:00Z 2026-11-23t05:30:00z 2026-11-23T05:30:00 0001-01-01T00:00:00Z 9999-12-31T23:59:59Z "
    "2026-02-29T00:00:00Z 2024-02-29T05+01 0000-01-01T00:00:00Z 9999-12-31T23:59:59-01:00 2026-11-23T05:30:00.1234567Z "
    "2026-11-23 2026-02-30 0000-01-01 0001-01-01 10000-01-01 aGk= aGk a=== 1.50 1e-41 1e-999999999 1.5e3 NaN Infinity "
    "123 -5 007 +3 0x10 9223372036854775808 \\u0031e-999999999 "
    "\\u0031\\u0065-41 \\ud83d\\ude00 \\ud83d \\u0000 \\\\ \\\" å",
}  # fmt: skip
_TOKENS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\n", b" ", b"e", b"E", b"-", b".", b"0", b"9", b"\x00"]


_LOCATED = {"subscription": "projects/fuzz/subscriptions/fuzz", "event_id": "payload.id", "event_time": "payload.t"}


def topic_with(values: dict[str, Any]) -> Topic:
    return topic_from("fuzz", {**_LOCATED, **values})


def topics() -> list[Topic]:
    """Each type alone, so that no other field decides; some together; ids, times and options of each kind."""
    every = [{name: kind} for name, kind in TYPES.items()]
    quick = {name: kind for name, kind in TYPES.items() if name not in ("fine", "tags", "scores")}
    every += [TYPES, quick, {"text": "string", "tags": "map<string, string>", "price": "decimal(5,2)"}]
    made = [topic_with({"fields": fields}) for fields in every]
    for unit in ("s", "ms", "us", "ns"):
        options = {"event_time_unit": unit, "int64_as_text": unit == "ns", "fields": {"big": "bigint"}}
        made.append(topic_with(options))
    made.append(topic_with({"fields": {"big": "bigint", "text": "string"}, "int64_as_text": True}))
    located = {"event_id": "attributes.id", "event_time": "publish_time", "fields": {"n": "int"}}
    return [*made, topic_with(located)]


def page(random: Random, topic: Topic) -> list[bytes]:
    """A page of payloads: some clean, some odd in one field, some mutated, some nothing like JSON."""
    odd = random.choice([0.0, 0.05, 0.5, 1.0])
    payloads = []
    for _ in range(random.choice([1, 2, 7, 40])):
        payload = _event(random, topic, odd)
        while random.random() < odd * 0.4:
            payload = _mutated(random, payload)
        payloads.append(payload)
    if random.random() < 0.1:
        payloads.append(_hostile(random, topic))
    random.shuffle(payloads)
    return payloads


def _event(random: Random, topic: Topic, odd: float) -> bytes:
    members = [f'"id":"e{random.randrange(9)}"']
    if random.random() > odd * 0.2:
        members.append('"t":' + random.choice(['"2026-11-23T05:30:00Z"', "1795411800", _odd_value(random, 0)]))
    for name, kind in topic.fields.items():
        if random.random() < 0.8:
            value = _odd_value(random, 2) if random.random() < odd * 0.3 else _value(random, kind)
            members.append(f"{json.dumps(name)}:{value}")
    if random.random() < 0.2:
        members.append(f'"other{random.randrange(3)}":{_odd_value(random, 2)}')
    random.shuffle(members)
    space = random.choice(["", "", "", " ", "\n", "\r\n\t"])
    return (space + "{" + f",{space}".join(members) + "}" + space).encode("utf-8", "surrogatepass")


def _value(random: Random, kind: str) -> str:
    """A value of a type, as JSON."""
    if kind.startswith("array<"):
        return "[" + ",".join(_value(random, kind[6:-1]) for _ in range(random.randrange(3))) + "]"
    if kind.startswith("map<string, "):
        return "{" + ",".join(f'"k{n}":{_value(random, kind[12:-1])}' for n in range(random.randrange(3))) + "}"
    if kind.startswith("struct<"):
        return "{" + ",".join(f'"{n}":{_value(random, inner)}' for n, inner in _members(kind[7:-1])) + "}"
    if kind.startswith("decimal"):
        number = random.choice(["0", "1", "9.5", "1e0", "12e-1", f"{random.randrange(10**4)}", "0.25", "-3"])
        return random.choice([number, f'"{number}"'])
    exact = {"string": '"x"', "boolean": "true", "timestamp": '"2026-11-23T05:30:00.5Z"', "date": '"2026-11-23"'}
    exact["binary"] = '"aGk="'
    return exact.get(kind) or random.choice(
        ["0", "1", "-7", "100"] + (["1.5", "1e2"] if kind in "float double" else [])
    )


def _members(text: str) -> list[tuple[str, str]]:
    """The members of a struct's type: commas within brackets separate nothing."""
    members, depth, start = [], 0, 0
    for place, character in enumerate(text + ","):
        depth += (character in "<(") - (character in ">)")
        if character == "," and not depth:
            name, _, kind = text[start:place].partition(":")
            members.append((name.strip(), kind.strip()))
            start = place + 1
    return members


def _odd_value(random: Random, depth: int) -> str:
    kind = random.choice(["number", "number", "word", "text", "text", "nested" if depth else "word"])
    if kind == "nested":
        inner = [_odd_value(random, depth - 1) for _ in range(random.randrange(3))]
        if random.random() < 0.5:
            return "[" + ",".join(inner) + "]"
        return "{" + ",".join(f'"{random.choice("abckx")}":{value}' for value in inner) + "}"
    leaf = random.choice(_LEAVES[kind].split())
    return f'"{leaf}"' if kind == "text" else leaf


def _mutated(random: Random, payload: bytes) -> bytes:
    start = random.randint(0, len(payload))
    end = min(len(payload), start + random.choice([0, 1, 1, 2, 9]))
    piece = random.choice([b"", random.choice(_TOKENS), random.randbytes(2), payload[start:end] * 2])
    return payload[:start] + piece + payload[end:]


def _hostile(random: Random, topic: Topic) -> bytes:
    """Long in one dimension: nesting, names, digits, texts that do not end; or compressed."""
    size = random.choice([201, 3_000, 100_000])
    name = random.choice([*topic.fields, "other"]).encode()
    values = [
        b"[" * size + b"]" * size,
        b"[" * 201 + b'"' + b'\\"' * size,
        b'{"a":' * size + b"1" + b"}" * size,
        b"9" * size,
        b"0." + b"0" * size + b"1",
        b"1" + b"0" * size + b"e-%d" % size,
        b'"' + b"1" * size + b'x"',
        b'"1e' + b"0" * size + b'x"',
        b'"' + b"\\" * size,
        b'"' + b"a" * size + b'"',
        b"[" + b"1," * size + b"1]",
        b"{" + b",".join(b'"k%d":1' % number for number in range(size // 10)) + b"}",
    ]
    hostile = b'{"id":"e","t":"2026-11-23T05:30:00Z","%s":%s}' % (name, random.choice(values))
    return random.choice([hostile, hostile, b"\x1f\x8b\x08" + hostile, b"\x28\xb5\x2f\xfd" + hostile])
