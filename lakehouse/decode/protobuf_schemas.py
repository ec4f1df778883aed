"""A topic's Protobuf message as classes to read it with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lakehouse.protobuf_types import (
    BYTES,
    ENUM,
    INT32,
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
