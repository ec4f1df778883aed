"""Protobuf payloads to typed Arrow columns, one message at a time: the exact reference of `protobuf_pages`.

A payload is the topic's message in Protobuf's binary encoding. One of no bytes is a message of which nothing was
written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa

from lakehouse.decode.columns import Parsed
from lakehouse.decode.one_by_one import UndecodableError, WrongTypeError, each_read
from lakehouse.decode.protobuf_schemas import Schema, schema_of, unlike_field, writer_class
from lakehouse.decode.writers import Writer
from lakehouse.protobuf_types import Node
from lakehouse.topics import Topic

NOT_PROTOBUF = "not Protobuf"
NO_REQUIRED = "no required field"
OTHER_MESSAGE = "other message"

NANOS_PER_MICRO = 1000
NANOS = 1_000_000_000
LONGEST_DURATION_S = 315_576_000_000
"""Of either sign, as duration.proto has it: 10,000 years."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INDEX = re.compile(r"\[[0-9]+\]")


def by_message(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic, writer: Writer | None = None) -> Parsed:
    """The exact reading, one message at a time."""
    schema = schema_of(topic)
    misfit, as_binary = misfits_of(schema, wanted), binary_form(topic, wanted, writer)

    def record(payload: bytes) -> dict[str, Any]:
        message = message_in(as_binary(payload), schema)
        if (path := misfit(message)) is not None:
            raise WrongTypeError(path)
        return _record(message, schema.node, wanted, "")

    values, reasons = each_read(payloads.to_pylist(), record)
    return Parsed(pa.array(values, wanted), pa.array(reasons, pa.string()))


def binary_form(topic: Topic, wanted: pa.StructType, writer: Writer | None) -> Callable[[bytes], bytes]:
    """From a payload to the same in Protobuf's binary encoding, which the topic's own schema can read.

    UndecodableError where it holds no message, or one of another kind; WrongTypeError where its writer's schema has a
    field otherwise that is wanted.
    """
    if writer is None:
        return lambda payload: payload
    written = writer_class(writer, topic)
    if written is None:
        return _refusing(UndecodableError(OTHER_MESSAGE))
    path = unlike_field(written.DESCRIPTOR, schema_of(topic), wanted)
    if path is not None:
        return _refusing(WrongTypeError(path))
    return (lambda payload: _from_json(payload, written)) if writer.is_json else lambda payload: payload


def _refusing(error: Exception) -> Callable[[bytes], bytes]:
    def refuse(payload: bytes) -> bytes:
        raise error

    return refuse


def _from_json(payload: bytes, written: Any) -> bytes:
    """By Protobuf's JSON mapping; what the writer's schema does not have is left out."""
    from google.protobuf import json_format

    try:
        message = json_format.Parse(payload.decode(), written(), ignore_unknown_fields=True)
        binary: bytes = message.SerializePartialToString()
    except (json_format.ParseError, ValueError, RecursionError):
        raise UndecodableError(NOT_PROTOBUF) from None
    return binary


def message_in(payload: bytes | None, schema: Schema) -> Any:
    """What a payload holds, of the class `Schema.plain`; UndecodableError where it holds none."""
    from google.protobuf.message import DecodeError

    try:
        message = schema.plain.FromString(payload or b"")
    except DecodeError:
        raise UndecodableError(NOT_PROTOBUF) from None
    if not message.IsInitialized():
        missing = _path_of(message.FindInitializationErrors()[0], schema.written.DESCRIPTOR)
        raise UndecodableError(f"{NO_REQUIRED}: {missing}")
    return message


def _path_of(attributes: str, descriptor: Any) -> str:
    """The dotted name of a field that the class `Schema.plain` calls `f13[0].f2`."""
    names: list[str] = []
    for attribute in _INDEX.sub("", attributes).split("."):
        if not attribute.startswith("f"):  # an extension's
            break
        field = descriptor.fields_by_number[int(attribute[1:])]
        descriptor = field.message_type
        names.append(field.name)
    return ".".join(names)


Misfit = Callable[[Any], str | None]
"""From a message to its first field that is written in a way in which its type is not; None where there is none.

Protobuf keeps such a field among those that the schema does not have.
"""


@lru_cache(maxsize=256)
def misfits_of(schema: Schema, wanted: pa.StructType) -> Misfit:
    """For messages of the class `Schema.plain`, and the fields that are wanted of them."""
    return _misfits(schema.node, wanted, "")


def _misfits(node: Node, wanted: pa.StructType, prefix: str) -> Misfit:
    paths: dict[int, str] = {node.by_name[each.name].number: prefix + each.name for each in wanted}
    inner = [(member, _inner_misfits(member, each.type, prefix + each.name))
             for each in wanted if (member := node.by_name[each.name])]  # fmt: skip
    with_messages = [(member, member.attribute, misfit) for member, misfit in inner if misfit is not None]

    def misfit(message: Any) -> str | None:
        if unknown := _unknown_numbers(message):
            for number, path in paths.items():
                if number in unknown:
                    return path
        for member, name, check in with_messages:
            if member.kind in ("list", "map"):
                values = getattr(message, name)
            else:
                values = (getattr(message, name),) if not member.is_absent_null or message.HasField(name) else ()
            for value in values:
                if found := check(value):
                    return found
        return None

    return misfit


def _inner_misfits(node: Node, wanted: pa.DataType, path: str) -> Misfit | None:
    """For a message that a field holds; None for a field that holds none."""
    if node.kind == "message":
        return _misfits(node, wanted, f"{path}.")
    if node.kind == "list" and node.item:
        return _inner_misfits(node.item, wanted.value_type, path)
    if node.kind == "map" and node.item:
        values = _inner_misfits(node.item, wanted.item_type, path)
        return lambda entry: _of_numbers(entry, path) or (values(entry.f2) if values else None)
    return (lambda value: _of_numbers(value, path)) if node.kind in ("wrapper", "timestamp", "duration") else None


def _of_numbers(message: Any, path: str) -> str | None:
    """`path` where a message of Protobuf's own, or a map's entry, has one of its fields otherwise."""
    known = {each.number for each in message.DESCRIPTOR.fields}
    return path if known & _unknown_numbers(message) else None


def _unknown_numbers(message: Any) -> set[int]:
    return {each.field_number for each in _unknown_fields()(message)}


@cache
def _unknown_fields() -> Any:
    from google.protobuf.unknown_fields import UnknownFieldSet

    return UnknownFieldSet


def _record(message: Any, node: Node, wanted: pa.StructType, prefix: str) -> dict[str, Any]:
    """What `pa.array` takes for `wanted`; WrongTypeError with the field where its type does not hold the value."""
    return {each.name: _member(message, node.by_name[each.name], each, prefix + each.name) for each in wanted}


def _member(message: Any, node: Node, field: pa.Field, path: str) -> Any:
    if node.kind == "list" and node.item:
        return [_value(each, node.item, field.type.value_type, path) for each in getattr(message, node.attribute)]
    if node.kind == "map" and node.item:
        entries = {entry.f1: entry.f2 for entry in getattr(message, node.attribute)}
        return [
            (_text(map_key(key), path), _value(value, node.item, field.type.item_type, path))
            for key, value in entries.items()
        ]
    if node.is_absent_null and not message.HasField(node.attribute):
        return None if node.default is None else _value(node.default, node, field.type, path)
    return _value(getattr(message, node.attribute), node, field.type, path)


def map_key(key: Any) -> Any:
    """A key as text, or as the bytes of one: numbers and truth values as Protobuf's JSON form writes them."""
    if isinstance(key, bytes):
        return key
    return str(key).lower()


def _text(value: Any, path: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise WrongTypeError(path) from None


def _value(value: Any, node: Node, wanted: pa.DataType, path: str) -> Any:
    if node.kind == "message":
        return _record(value, node, wanted, f"{path}.")
    if node.kind == "wrapper" and node.item:
        return _value(value.f1, node.item, wanted, path)
    if node.kind == "enum":
        return enum_name(value, node)
    if pa.types.is_string(wanted) and node.kind == "scalar":
        return _text(value, path)
    try:
        return _leaf(value, node, wanted)
    except (OverflowError, ValueError):
        raise WrongTypeError(path) from None


def enum_name(number: int, node: Node) -> str:
    """By the schema, or the number as text where the schema does not have it."""
    return node.names.get(number) or str(number)


def _leaf(value: Any, node: Node, wanted: pa.DataType) -> Any:
    """OverflowError or ValueError where the type does not hold it."""
    if node.kind == "timestamp":
        if not 0 <= value.f2 < NANOS:
            raise ValueError
        return _EPOCH + timedelta(seconds=value.f1, microseconds=value.f2 // NANOS_PER_MICRO)
    if node.kind == "duration":
        return _micros(value.f1, value.f2)
    if node.kind == "json":
        return json_text(value.SerializeToString(), node.full_name)
    if pa.types.is_decimal(wanted):
        return Decimal(value)
    if pa.types.is_int64(wanted) and value >= 2**63:
        raise OverflowError
    return float(value) if pa.types.is_floating(wanted) else value


def _micros(seconds: int, nanos: int) -> int:
    """Of a duration; what is finer is cut off towards zero."""
    has_one_sign = not seconds or not nanos or (seconds < 0) == (nanos < 0)
    if abs(seconds) > LONGEST_DURATION_S or abs(nanos) >= NANOS or not has_one_sign:
        raise ValueError
    return seconds * 1_000_000 + (nanos // NANOS_PER_MICRO if nanos >= 0 else -(-nanos // NANOS_PER_MICRO))


def json_text(written: bytes, full_name: str) -> str:
    """A Struct, Value or ListValue as JSON, names sorted; ValueError for what JSON cannot have: NaN, half a text."""
    from google.protobuf import json_format, struct_pb2
    from google.protobuf.message import DecodeError

    try:
        message = getattr(struct_pb2, full_name.rpartition(".")[2]).FromString(written)
        return json.dumps(json_format.MessageToDict(message), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (DecodeError, json_format.SerializeToJsonError) as error:
        raise ValueError from error
