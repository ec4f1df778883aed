"""What the types of all schemas of payloads have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lakehouse.errors import joined_lines


class UnreadableSchemaError(ValueError):
    """A schema that no topic can have; its text says what was found, in one line."""

    def __init__(self, found: str) -> None:
        super().__init__(joined_lines(found))


class Node(Protocol):
    """One type of a schema.

    `spark_type` is "" and `why_not` says why where no Spark type stands for it. `members` are those of a record.
    """

    @property
    def spark_type(self) -> str: ...
    @property
    def why_not(self) -> str: ...
    @property
    def members(self) -> Sequence[tuple[str, Node]]: ...


def derived_fields(record: Node, left_out: tuple[str, ...]) -> dict[str, str]:
    """Name and Spark type of each field not in `left_out`; UnreadableSchemaError for one that has no such type."""
    fields: dict[str, str] = {}
    for name, node in record.members:
        if name.lower() not in left_out:
            if node.why_not:
                raise UnreadableSchemaError(f"declared `fields` that leave out {name!r}, which is {node.why_not}")
            fields[name] = node.spark_type
    return fields


def node_at(record: Node, path: str) -> Node | None:
    """The type at a dotted path; None where there is nothing."""
    node = record
    for name in path.split("."):
        members = dict(node.members)
        if name not in members:
            return None
        node = members[name]
    return node
