"""Avro payloads to typed Arrow columns, one message at a time: the exact reference of `avro_pages`.

A payload is one datum in Avro's binary encoding, written by the topic's last schema, or in the single-object encoding,
whose fingerprint says by which of its schemas. Values are resolved to the last schema as Avro's specification says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

import pyarrow as pa

from lakehouse.avro_types import Node, node_of, plain_schema
from lakehouse.decode import avro_choices
from lakehouse.decode.columns import Parsed
from lakehouse.topics import Topic

NOT_AVRO = "not Avro"
UNKNOWN_SCHEMA = "unknown schema"
SINGLE_OBJECT = b"\xc3\x01"
"""How a datum begins in the single-object encoding, before the fingerprint of its schema."""

NANOS_PER_MICRO = 1000
UNITS_US = {"timestamp-millis": 1000, "timestamp-micros": 1}
_HEADER_BYTES = len(SINGLE_OBJECT) + 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_ZERO = date(1970, 1, 1)


class WrongTypeError(Exception):
    """Its text is the dotted name of the field."""


class UndecodableError(Exception):
    """Its text is the reason."""


@dataclass(frozen=True)
class Schemas:
    """The schemas of a topic as fastavro has them; `record` is the last one, by which all are read."""

    record: Node
    reader: Any
    fingerprint: bytes
    """Of the last one."""
    writers: dict[bytes, Any]
    """By fingerprint, as a datum has it."""


@lru_cache(maxsize=256)
def schemas_of(texts: tuple[str, ...]) -> Schemas:
    """The schemas of `Topic.schemas`, oldest first."""
    from fastavro import parse_schema
    from fastavro.schema import fingerprint, to_parsing_canonical_form

    plain = [parse_schema(plain_schema(text)) for text in texts]
    canonical = [to_parsing_canonical_form(parse_schema(json.loads(text))) for text in texts]
    prints = [bytes.fromhex(fingerprint(form, "CRC-64-AVRO")) for form in canonical]
    writers = dict(zip(prints, plain, strict=True))
    return Schemas(node_of(texts[-1]), plain[-1], prints[-1], writers)


def datum(payload: bytes | None, schemas: Schemas) -> dict[str, Any]:
    """The record in a payload, without logical types; UndecodableError where it holds none."""
    body = payload or b""
    if not body.startswith(SINGLE_OBJECT):
        return _record(body, schemas.reader, None)
    writer = schemas.writers.get(body[len(SINGLE_OBJECT) : _HEADER_BYTES])
    if writer is not None:
        return _record(body[_HEADER_BYTES:], writer, None if writer is schemas.reader else schemas.reader)
    try:
        return _record(body, schemas.reader, None)
    except UndecodableError:
        raise UndecodableError(UNKNOWN_SCHEMA) from None


def _record(body: bytes, writer: Any, reader: Any) -> dict[str, Any]:
    from fastavro import schemaless_reader

    source = pa.BufferReader(body)
    try:
        avro_choices.check(body, writer)
        record = schemaless_reader(source, writer, reader)
    except Exception:  # bytes that are none are met as exceptions of many kinds
        raise UndecodableError(NOT_AVRO) from None
    if source.tell() != len(body) or not isinstance(record, dict):
        raise UndecodableError(NOT_AVRO)
    return record


def by_message(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic) -> Parsed:
    """The exact reading, one message at a time."""
    schemas = schemas_of(tuple(topic.schemas.values()))
    values: list[Any] = []
    reasons: list[str | None] = []
    for payload in payloads.to_pylist():
        value = reason = None
        try:
            value = _value(datum(payload, schemas), schemas.record, wanted, "")
        except WrongTypeError as wrong:
            reason = f"wrong type: {wrong}"
        except UndecodableError as undecodable:
            reason = str(undecodable)
        values.append(value)
        reasons.append(reason)
    return Parsed(pa.array(values, wanted), pa.array(reasons, pa.string()))


def _value(value: Any, node: Node, wanted: pa.DataType, path: str) -> Any:
    """What `pa.array` takes for `wanted`; WrongTypeError with the field where its type does not hold the value."""
    if value is None:
        return None
    if node.kind == "record":
        prefix = f"{path}." if path else ""
        return {
            member.name: _value(value[member.name], node.member(member.name), member.type, prefix + member.name)
            for member in wanted
        }
    if node.kind == "array" and node.item:
        return [_value(each, node.item, wanted.value_type, path) for each in value]
    if node.kind == "map" and node.item:
        return [(name, _value(each, node.item, wanted.item_type, path)) for name, each in value.items()]
    try:
        return _leaf(value, node, wanted)
    except (OverflowError, ValueError):
        raise WrongTypeError(path) from None


def _leaf(value: Any, node: Node, wanted: pa.DataType) -> Any:
    """OverflowError or ValueError where the type does not hold it."""
    if node.logical == "timestamp-nanos":
        return _EPOCH + timedelta(microseconds=value // NANOS_PER_MICRO)
    if node.logical in UNITS_US:
        return _EPOCH + timedelta(microseconds=value * UNITS_US[node.logical])
    if node.logical == "date":
        return _DAY_ZERO + timedelta(days=value)
    if node.logical == "uuid":
        return str(UUID(bytes=value))
    if node.logical == "decimal":
        return decimal(value, node)
    if pa.types.is_floating(wanted):
        return float(value)
    if node.kind == "int" and not -(2**31) <= value < 2**31:
        raise OverflowError
    return value


def decimal(unscaled: bytes, node: Node) -> Decimal:
    """Exactly what is written; OverflowError where it has more digits than the schema says."""
    number = int.from_bytes(unscaled, "big", signed=True)
    if abs(number) >= 10**node.digits:
        raise OverflowError
    return Decimal(f"{number}E-{node.scale}")
