"""Data of another schema than the last one, read a field at a time: where Avro's resolution is a matter of columns."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from lakehouse.avro_types import Node, node_of

_PROMOTIONS = {("int", "long"), ("int", "double"), ("float", "double")}
"""Of the writer's number to the reader's, without loss. Avro has more; these are read one by one."""


@dataclass(frozen=True)
class Resolution:
    """How data of a writer's schema become the wanted fields of the reader's.

    `record` is the writer's, its fields as the reader has them; `read` are the columns to read by it, under the
    writer's names; `sources` has for each wanted field the writer's name of it, None for one that is null.
    """

    record: Node
    read: pa.StructType
    sources: tuple[str | None, ...]

    def values(self, columns: pa.StructArray, wanted: pa.StructType) -> pa.StructArray:
        """The wanted fields of what was read."""
        found = dict(zip(self.read.names, columns.flatten(), strict=True))
        arrays = [
            pa.nulls(len(columns), member.type) if source is None else found[source]
            for member, source in zip(wanted, self.sources, strict=True)
        ]
        return pa.StructArray.from_arrays(arrays, fields=list(wanted))


@lru_cache(maxsize=256)
def resolution(writer: str, reader: str, wanted: pa.StructType) -> Resolution | None:
    """None where it is not as simple: then each message is resolved by itself."""
    theirs, ours = node_of(writer), node_of(reader)
    plain, declared = json.loads(writer), json.loads(reader)
    if _name(plain) != _name(declared):
        return None
    fields = {field["name"]: field for field in declared["fields"]}
    members = dict(theirs.members)
    sources: list[str | None] = []
    read: list[pa.Field] = []
    for member in wanted:
        node, field = dict(ours.members)[member.name], fields[member.name]
        names = [name for name in (member.name, *field.get("aliases", ())) if name in members]
        if not names:
            if node.null_at < 0 or field.get("default", ...) is not None:
                return None
            sources.append(None)
            continue
        fitting = _fitting(members[names[0]], node)
        if fitting is None or names[0] in sources:
            return None
        members[names[0]] = fitting
        sources.append(names[0])
        read.append(pa.field(names[0], member.type))
    record = replace(theirs, members=tuple(members.items()))
    return Resolution(record, pa.struct(read), tuple(sources))


def _name(schema: dict[str, Any]) -> str:
    name: str = schema["name"]
    return name.rpartition(".")[2]


def _fitting(theirs: Node, ours: Node) -> Node | None:
    """The writer's type, to be read as the reader's; None where that takes more than reading."""
    if theirs == ours:
        return ours
    may_be_null = theirs.null_at >= 0
    if ours.why_not or (may_be_null and ours.null_at < 0) or (ours.branches and ours.null_at < 0):
        return None
    as_written = replace(ours, branches=theirs.branches, null_at=theirs.null_at)
    if (theirs.kind, ours.kind) in _PROMOTIONS and not ours.logical:
        return replace(as_written, kind=theirs.kind)
    is_leaf = not ours.members and ours.item is None
    if is_leaf and theirs.kind == ours.kind and (theirs.size, theirs.symbols) == (ours.size, ours.symbols):
        return as_written
    return as_written if theirs == as_written else None
