"""The Spark types of a Protobuf message's fields, and what of a message cannot be read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lakehouse.payload_types import UnreadableSchemaError

_SCALARS = {
    1: "double",
    2: "float",
    3: "bigint",  # int64
    4: "decimal(20,0)",  # uint64
    5: "int",  # int32
    6: "decimal(20,0)",  # fixed64
    7: "bigint",  # fixed32
    8: "boolean",
    9: "string",
    12: "binary",
    13: "bigint",  # uint32
    14: "string",  # enum
    15: "int",  # sfixed32
    16: "bigint",  # sfixed64
    17: "int",  # sint32
    18: "bigint",  # sint64
}
"""By `FieldDescriptorProto.Type`, without groups (10) and messages (11)."""
STRING, GROUP, MESSAGE, BYTES, ENUM, INT32 = 9, 10, 11, 12, 14, 5
_WELL_KNOWN = {
    "google.protobuf.Timestamp": ("timestamp", "timestamp"),
    "google.protobuf.Duration": ("duration", "bigint"),
    "google.protobuf.Struct": ("json", "string"),
    "google.protobuf.Value": ("json", "string"),
    "google.protobuf.ListValue": ("json", "string"),
}
"""Kind and Spark type of the messages that are no structs."""
_WRAPPERS = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_WRAPPED = {f"google.protobuf.{name}Value" for name in _WRAPPERS}
_LONGEST_TYPE = 100_000
"""Letters of one Spark type; messages that name each other many times would have no end of them."""


@dataclass(frozen=True)
class Node:
    """One field of a message, or the message itself.

    `kind` is message, list, map, wrapper, timestamp, duration, json (one of Struct, Value, ListValue), enum or scalar.
    `is_absent_null` says that the field knows whether it was written; `default` is what it is where it was not (None
    for null). `symbols` are an enum's names by number, `full_name` is a message's. `why_not` says why no Spark type
    stands for it.
    """

    kind: str
    spark_type: str = ""
    members: tuple[tuple[str, Node], ...] = ()
    item: Node | None = None
    number: int = 0
    is_absent_null: bool = False
    default: Any = None
    symbols: tuple[tuple[int, str], ...] = ()
    full_name: str = ""
    why_not: str = ""

    @property
    def attribute(self) -> str:
        return attribute_of(self.number)

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return dict(self.members)

    @cached_property
    def names(self) -> Mapping[int, str]:
        """An enum's names; of two names of a number the first."""
        return dict(reversed(self.symbols))


def attribute_of(number: int) -> str:
    """The name of a field in `lakehouse.decode.protobuf_schemas.Schema.plain`."""
    return f"f{number}"


def schema_text(descriptors: bytes) -> str:
    """A serialized FileDescriptorSet as `Topic.schemas` has it."""
    return base64.b64encode(descriptors).decode()


def descriptors_of(text: str) -> Any:
    """The FileDescriptorSet that `schema_text` made a text of; UnreadableSchemaError where it is none."""
    from google.protobuf import descriptor_pb2
    from google.protobuf.message import DecodeError

    try:
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, DecodeError, UnicodeDecodeError) as error:
        raise UnreadableSchemaError("no FileDescriptorSet") from error
    if not descriptors.file:
        raise UnreadableSchemaError("a FileDescriptorSet without files")
    return descriptors


def pool_of(descriptors: Any) -> Any:
    """A DescriptorPool with these files; UnreadableSchemaError where one of them lacks what it imports."""
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    known = {file.name for file in descriptors.file}
    for file in descriptors.file:
        missing = next((name for name in file.dependency if name not in known), None)
        if missing is not None:
            raise UnreadableSchemaError(f"no {missing}, which {file.name} imports (protoc --include_imports)")
    try:
        for file in descriptors.file:
            pool.Add(file)
        for file in descriptors.file:
            pool.FindFileByName(file.name)
    except (TypeError, KeyError) as error:
        raise UnreadableSchemaError(f"files that do not fit together: {error}") from error
    return pool


def message_name(descriptors: Any, wanted: str) -> str:
    """The full name of the topic's message; UnreadableSchemaError where it is not there, or not the only one.

    `wanted` is a name with or without its package, or "" for the only message of the last file.
    """
    last = descriptors.file[-1]
    package = f"{last.package}." if last.package else ""
    own = [f"{package}{message.name}" for message in last.message_type]
    if not wanted:
        if len(own) != 1:
            raise UnreadableSchemaError(f"a `message`, which of {', '.join(own) or 'no messages'} it is")
        return own[0]
    known = [name for file in descriptors.file for name in _all_names(file)]
    for name in (wanted, f"{package}{wanted}"):
        if name in known:
            return name
    raise UnreadableSchemaError(f"no message {wanted!r} in {last.name}, which has {', '.join(own) or 'none'}")


def _all_names(file: Any) -> list[str]:
    package = f"{file.package}." if file.package else ""
    names: list[str] = []
    waiting = [(f"{package}{message.name}", message) for message in file.message_type]
    while waiting:
        name, message = waiting.pop()
        names.append(name)
        waiting += [(f"{name}.{inner.name}", inner) for inner in message.nested_type]
    return names


def node_of(text: str, message: str) -> Node:
    """The message that a topic reads; UnreadableSchemaError where there is no such message."""
    descriptors = descriptors_of(text)
    name = message_name(descriptors, message)
    try:
        node = _message(pool_of(descriptors).FindMessageTypeByName(name), {}, ())
    except RecursionError as error:
        raise UnreadableSchemaError("types nested too deep") from error
    if node.kind != "message":
        raise UnreadableSchemaError(f"a schema of {name} instead of a message of its own")
    return node


def _message(descriptor: Any, known: dict[str, Node], around: tuple[str, ...]) -> Node:
    """`known` has the messages so far by their full names, `around` the names of those around this one."""
    name = descriptor.full_name
    if name in _WELL_KNOWN:
        kind, spark_type = _WELL_KNOWN[name]
        return Node(kind, spark_type, full_name=name)
    if name in _WRAPPED:
        item = _field(descriptor.fields[0], known, around)
        return Node("wrapper", item.spark_type, item=item, full_name=name)
    if name in around:
        return Node("message", full_name=name, why_not="a message that contains itself")
    if name not in known:
        members = tuple((each.name, _field(each, known, (*around, name))) for each in descriptor.fields)
        known[name] = _limited(Node("message", _struct(members), members, full_name=name, why_not=_why_not(members)))
    return known[name]


def _struct(members: tuple[tuple[str, Node], ...]) -> str:
    return f"struct<{', '.join(f'`{name}`: {node.spark_type}' for name, node in members)}>"


def _why_not(members: tuple[tuple[str, Node], ...]) -> str:
    if not members:
        return "a message without fields"
    if len({name.lower() for name, _ in members}) < len(members):
        return "a message with names that differ in case only"
    return next((f"a message with {name!r}, {node.why_not}" for name, node in members if node.why_not), "")


def _limited(node: Node) -> Node:
    if node.why_not or len(node.spark_type) > _LONGEST_TYPE:
        return replace(node, spark_type="", why_not=node.why_not or "a message of too many fields")
    return node


def _field(field: Any, known: dict[str, Node], around: tuple[str, ...]) -> Node:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map(field, known, around)
    plain = _singular(field, known, around)
    if field.is_repeated:
        spark_type = f"array<{plain.spark_type}>"
        return _limited(Node("list", spark_type, item=plain, number=field.number, why_not=plain.why_not))
    return replace(plain, number=field.number, is_absent_null=field.has_presence, default=_default(field, plain))


def _singular(field: Any, known: dict[str, Node], around: tuple[str, ...]) -> Node:
    if field.type in (GROUP, MESSAGE):
        return _message(field.message_type, known, around)
    if field.type == ENUM:
        return Node("enum", "string", symbols=tuple((each.number, each.name) for each in field.enum_type.values))
    return Node("scalar", _SCALARS[field.type])


def _default(field: Any, node: Node) -> Any:
    """What the schema says that a field is which was not written, as the wire has it."""
    if not field.has_presence or not field.has_default_value:
        return None
    return field.default_value.encode() if node.spark_type == "string" and node.kind != "enum" else field.default_value


def _map(field: Any, known: dict[str, Node], around: tuple[str, ...]) -> Node:
    values = field.message_type.fields_by_name["value"]
    item = replace(_singular(values, known, around), number=values.number)
    spark_type = f"map<string, {item.spark_type}>"
    return _limited(Node("map", spark_type, item=item, number=field.number, why_not=item.why_not))
