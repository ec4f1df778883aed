"""What a target cannot take of a topic, asked before there is an hour: names, types, and what is shared in a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakehouse.schemas import sealed_schema
from lakehouse.topics import Topic


@dataclass(frozen=True)
class Neighbour:
    """A topic that a mirror of the same kind holds, too: another topic, or the same one in another mirror."""

    topic: Topic
    mirror: str
    options: Any


@dataclass(frozen=True)
class Part:
    """A column, or what is within one: a member of a struct, an element of an array, a key or value of a map."""

    path: str
    """As a person writes it: `track.bpm`, `tags[]`."""
    name: str | None
    """None for what has no name of its own."""
    kind: pa.DataType
    depth: int
    """0 for a column; the structs that it is in are counted."""


def parts_of(topic: Topic) -> Iterator[Part]:
    """Every column that a mirror of the topic shows, each followed by what is within it."""
    for column in sealed_schema(topic):
        yield from _parts(Part(column.name, column.name, column.type, 0))


def _parts(part: Part) -> Iterator[Part]:
    yield part
    if pa.types.is_struct(part.kind):
        for member in part.kind:
            yield from _parts(Part(f"{part.path}.{member.name}", member.name, member.type, part.depth + 1))
    elif pa.types.is_list(part.kind):
        yield from _parts(Part(f"{part.path}[]", None, part.kind.value_type, part.depth))
    elif pa.types.is_map(part.kind):
        yield from _parts(Part(f"{part.path}[]", None, part.kind.item_type, part.depth + 1))


def too_long(what: str, text: str, most_bytes: int) -> list[str]:
    """The objection to a name that has more bytes in UTF-8 than the target takes, or none."""
    size = len(text.encode())
    return [f"{what} of {size} bytes, where {most_bytes} are the most"] if size > most_bytes else []
