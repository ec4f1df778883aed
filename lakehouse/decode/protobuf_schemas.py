"""A topic's Protobuf message as classes to read it with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from lakehouse.decode.writers import Writer
from lakehouse.protobuf_types import (
    BYTES,
    ENUM,
    GROUP,
    INT32,
    MESSAGE,
    STRING,
    Node,
    attribute_of,
    descriptors_of,
    message_name,
    node_of,
    pool_of,
)
from lakehouse.topics import Topic

_PAGE = "LakehousePage_"
"""A message that is in no schema: a page of the topic's own, in its first field."""
PAGE_TAG = b"\x0a"


_KINDS = {
    **dict.fromkeys((3, 4, 5, 8, 13, ENUM), "varint"),
    **dict.fromkeys((17, 18), "zigzag"),
    **dict.fromkeys((6, 16), "64 bits"),
    **dict.fromkeys((7, 15), "32 bits"),
    **dict.fromkeys((STRING, BYTES), "bytes"),
    **{1: "double", 2: "float", GROUP: "group", MESSAGE: "message"},
}
"""How each type of a field is written: types of one kind can be read as each other."""


@dataclass(frozen=True, eq=False)
class Schema:
    """`written` is the message as its schema has it; `plain` has the same wire format, and `page` many of it in `rows`.

    In `plain` texts are bytes, enums numbers and maps lists of entries: what is written is seen as it is, where the
    library would refuse the whole message, hide a number that the enum does not have, or forget an order. Its fields
    are named by their numbers (`Node.attribute`): the library's own methods hide those of their names.
    """

    node: Node
    written: Any
    plain: Any
    page: Any
    has_required: bool


def schema_of(topic: Topic) -> Schema:
    return _schema(next(iter(topic.schemas.values())), topic.message)


@lru_cache(maxsize=256)
def _schema(text: str, message: str) -> Schema:
    from google.protobuf.message_factory import GetMessageClass

    descriptors = descriptors_of(text)
    name = message_name(descriptors, message)
    written = GetMessageClass(pool_of(descriptors).FindMessageTypeByName(name))
    for file in descriptors.file:
        for each in file.message_type:
            _make_plain(each)
        for extension in file.extension:
            _make_field_plain(extension)
    last = descriptors.file.add(name=f"{_PAGE}.proto", syntax="proto3", dependency=[f.name for f in descriptors.file])
    page = last.message_type.add(name=_PAGE)
    page.field.add(name="rows", number=1, label=3, type=11, type_name=f".{name}")
    pool = pool_of(descriptors)
    plain, page = (GetMessageClass(pool.FindMessageTypeByName(each)) for each in (name, _PAGE))
    return Schema(node_of(text, message), written, plain, page, _has_required(pool, descriptors))


def writer_class(writer: Writer, topic: Topic) -> Any:
    """The message that a writer wrote; None where its place is that of another message than the topic's, or of none."""
    if not writer.schema:
        return schema_of(topic).written
    written = _written(writer.schema, writer.indexes or (0,))
    if written is None or (writer.indexes and written.DESCRIPTOR.full_name != schema_of(topic).node.full_name):
        return None
    return written


@lru_cache(maxsize=256)
def _written(text: str, indexes: tuple[int, ...]) -> Any:
    """The message at a place in the last file; None where there is none."""
    from google.protobuf.message_factory import GetMessageClass

    descriptors = descriptors_of(text)
    file = pool_of(descriptors).FindFileByName(descriptors.file[-1].name)
    found: Any = None
    messages = list(file.message_types_by_name.values())
    for index in indexes:
        if index >= len(messages):
            return None
        found = messages[index]
        messages = list(found.nested_types)
    return GetMessageClass(found)


def unlike_field(theirs: Any, schema: Schema, wanted: pa.StructType) -> str | None:
    """The first wanted field that a message (its descriptor) writes in a way in which the schema's type is not."""
    return _unlike(theirs, schema.written.DESCRIPTOR, wanted, "")


def _unlike(theirs: Any, ours: Any, wanted: pa.StructType, prefix: str) -> str | None:
    for each in wanted:
        path: str = prefix + each.name
        field = ours.fields_by_name[each.name]
        other = theirs.fields_by_number.get(field.number)
        if other is None:
            continue
        if _KINDS[other.type] != _KINDS[field.type]:
            return path
        if field.message_type is not None:
            deeper = _unlike_inside(other.message_type, field.message_type, each.type, path)
            if deeper is not None:
                return deeper
    return None


def _unlike_inside(theirs: Any, ours: Any, wanted: pa.DataType, path: str) -> str | None:
    """Of the messages that a field holds."""
    while pa.types.is_list(wanted) or pa.types.is_map(wanted):
        wanted = wanted.item_type if pa.types.is_map(wanted) else wanted.value_type
    their_values, our_values = _values_of(theirs), _values_of(ours)
    if our_values is None:
        return None
    if their_values is None:
        return path
    if pa.types.is_struct(wanted):
        return _unlike(their_values, our_values, wanted, f"{path}.")
    return None if their_values.full_name == our_values.full_name else path


def _values_of(message: Any) -> Any:
    """The message itself, or that of a map's values; None where these are none."""
    return message.fields_by_name["value"].message_type if message.GetOptions().map_entry else message


def _has_required(pool: Any, descriptors: Any) -> bool:
    waiting = [
        each for file in descriptors.file for each in pool.FindFileByName(file.name).message_types_by_name.values()
    ]
    while waiting:
        message = waiting.pop()
        if any(field.is_required for field in message.fields):
            return True
        waiting += message.nested_types
    return False


def _make_plain(message: Any) -> None:
    if message.options.map_entry:
        message.options.ClearField("map_entry")
    for field in [*message.field, *message.extension]:
        _make_field_plain(field)
    for field in message.field:
        field.name = attribute_of(field.number)
        field.ClearField("json_name")
    for place, oneof in enumerate(message.oneof_decl):
        oneof.name = f"oneof{place}"
    for inner in message.nested_type:
        _make_plain(inner)


def _make_field_plain(field: Any) -> None:
    field.ClearField("default_value")
    if field.options.HasField("features"):
        field.options.features.ClearField("utf8_validation")
    if field.type == ENUM:
        field.type = INT32
        field.ClearField("type_name")
    elif field.type == STRING:
        field.type = BYTES
