"""Avro payloads to typed Arrow columns, one message at a time: the exact reference of `avro_pages`.

A payload is one datum in Avro's binary encoding, written by the topic's last schema, or in the single-object encoding,
whose fingerprint says by which of its schemas. Values are resolved to the last schema as Avro's specification says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
from lakehouse.decode.one_by_one import UndecodableError, WrongTypeError, each_read
from lakehouse.decode.writers import UNKNOWN_SCHEMA, Writer
from lakehouse.topics import Topic

NOT_AVRO = "not Avro"
SINGLE_OBJECT = b"\xc3\x01"
"""How a datum begins in the single-object encoding, before the fingerprint of its schema."""

NANOS_PER_MICRO = 1000
UNITS_US = {"timestamp-millis": 1000, "timestamp-micros": 1}
_HEADER_BYTES = len(SINGLE_OBJECT) + 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_ZERO = date(1970, 1, 1)


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


Datum = Callable[[bytes], dict[str, Any]]
"""From a payload to the record in it, without logical types and at least with the fields that are wanted.

UndecodableError where it holds none, WrongTypeError where a field of its writer's is no such field of the last schema.
"""


def datums_of(topic: Topic, wanted: pa.StructType, writer: Writer | None) -> Datum:
    """How payloads of a topic are read; without a writer, each says itself by which of the topic's schemas."""
    schemas = schemas_of(tuple(topic.schemas.values()))
    names = tuple(member.name for member in wanted)
    if writer is None:
        return lambda payload: _said_datum(payload, schemas, names)
    written, is_ours = _written_by(writer, schemas)

    def datum(payload: bytes) -> dict[str, Any]:
        body = _as_binary(payload, written) if writer.is_json else payload
        return _record(body, written, None if is_ours else schemas.reader, names)

    return datum


def _written_by(writer: Writer, schemas: Schemas) -> tuple[Any, bool]:
    """The writer's schema as fastavro has it, and whether data of it are data of the last one."""
    if not writer.schema:
        return schemas.reader, True
    theirs = schemas_of((writer.schema,))
    return theirs.reader, theirs.fingerprint == schemas.fingerprint


def _said_datum(body: bytes, schemas: Schemas, names: tuple[str, ...]) -> dict[str, Any]:
    if not body.startswith(SINGLE_OBJECT):
        return _record(body, schemas.reader, None, names)
    writer = schemas.writers.get(body[len(SINGLE_OBJECT) : _HEADER_BYTES])
    if writer is not None:
        reader = None if writer is schemas.reader else schemas.reader
        return _record(body[_HEADER_BYTES:], writer, reader, names)
    try:
        return _record(body, schemas.reader, None, names)
    except UndecodableError:
        raise UndecodableError(UNKNOWN_SCHEMA) from None


def _record(body: bytes, writer: Any, reader: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """By the writer's schema, and the fields of these names as the reader's has them, if there is one."""
    try:
        avro_choices.check(body, writer)
        if reader is None:
            return _read(body, writer, None)
    except Exception:  # bytes that are none are met as exceptions of many kinds
        raise UndecodableError(NOT_AVRO) from None
    try:
        return _read(body, writer, _with_fields(reader, names))
    except Exception:
        for name in names:
            try:
                _read(body, writer, _with_fields(reader, (name,)))
            except Exception:
                raise WrongTypeError(name) from None
        raise UndecodableError(NOT_AVRO) from None


def _with_fields(reader: Any, names: tuple[str, ...]) -> Any:
    """A record that fastavro has parsed with fewer fields: what nobody wants need not resolve."""
    return {**reader, "fields": [field for field in reader["fields"] if field["name"] in names]}


def _read(body: bytes, writer: Any, reader: Any) -> dict[str, Any]:
    from fastavro import schemaless_reader

    source = pa.BufferReader(body)
    record = schemaless_reader(source, writer, reader)
    if source.tell() != len(body) or not isinstance(record, dict):
        raise UndecodableError(NOT_AVRO)
    return record


def _as_binary(body: bytes, schema: Any) -> bytes:
    """What Avro's JSON encoding says, in the binary one; UndecodableError where it says nothing of the schema."""
    from fastavro import json_reader, schemaless_writer

    try:
        lines: Any = [body.decode().replace("\n", " ")]
        (record,) = json_reader(lines, schema)
        sink = pa.BufferOutputStream()
        schemaless_writer(sink, schema, record)
    except Exception:
        raise UndecodableError(NOT_AVRO) from None
    written: bytes = sink.getvalue().to_pybytes()
    return written


def by_message(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic, writer: Writer | None = None) -> Parsed:
    """The exact reading, one message at a time."""
    record, datum = schemas_of(tuple(topic.schemas.values())).record, datums_of(topic, wanted, writer)
    values, reasons = each_read(payloads.to_pylist(), lambda payload: _value(datum(payload), record, wanted, ""))
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
