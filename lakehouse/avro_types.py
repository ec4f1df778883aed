"""The Spark types of an Avro schema's fields, and what of a schema cannot be read."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from lakehouse.payload_types import UnreadableSchemaError

_PRIMITIVES = {
    "boolean": "boolean",
    "int": "int",
    "long": "bigint",
    "float": "float",
    "double": "double",
    "bytes": "binary",
    "string": "string",
}
_LOGICAL = {
    ("int", "date"): "date",
    ("long", "timestamp-millis"): "timestamp",
    ("long", "timestamp-micros"): "timestamp",
    ("long", "timestamp-nanos"): "timestamp",
}
_MOST_DIGITS = 38
_NAMED = ("record", "error", "enum", "fixed")
_MOST_TYPES = 100_000
"""Of a schema in which each name stands for what it names; records that name each other would have no end of them."""
_ODD_IN_NAMES = re.compile(r"[\x00-\x1f\x7f`\ud800-\udfff]")


@dataclass(frozen=True)
class Node:
    """One type of a schema, without the names by which it refers to others and without `null` in unions.

    `kind` is Avro's own name of it; `logical` is "" where it has none that means something here. `why_not` says why no
    Spark type stands for it, for a union of several types or a decimal of too many digits. `branches` counts the types
    of the union that it is written as, 0 for none, and `null_at` is the place of `null` among them. `size` is in bytes.
    """

    kind: str
    logical: str = ""
    spark_type: str = ""
    members: tuple[tuple[str, Node], ...] = ()
    item: Node | None = None
    digits: int = 0
    scale: int = 0
    size: int = 0
    symbols: tuple[str, ...] = ()
    branches: int = 0
    null_at: int = -1
    why_not: str = ""

    def member(self, name: str) -> Node:
        return dict(self.members)[name]


def node_of(text: str) -> Node:
    """The record that a schema (JSON) declares; UnreadableSchemaError where it is no schema, or no record."""
    import fastavro

    try:
        schema = json.loads(text)
        if isinstance(schema, list):
            raise UnreadableSchemaError("a schema of union instead of a record")
        fastavro.parse_schema(schema)
        node = _node(schema, "", _Known(), ())
    except UnreadableSchemaError:
        raise
    except RecursionError as error:
        raise UnreadableSchemaError("types nested too deep") from error
    except KeyError as error:
        raise UnreadableSchemaError(f"no Avro schema: {error} is not in it") from error
    except Exception as error:  # each kind of mistake has its own kind of exception there
        raise UnreadableSchemaError(f"no Avro schema: {error}") from error
    if node.kind != "record":
        raise UnreadableSchemaError(f"a schema of {node.kind} instead of a record")
    return node


def plain_schema(text: str) -> dict[str, Any]:
    """The schema without logical types: what is written is read as numbers, bytes and text."""
    plain = _without_logical(json.loads(text))
    assert isinstance(plain, dict)
    return plain


def _without_logical(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    left = {name: value for name, value in schema.items() if name not in ("logicalType", "doc")}
    for name in ("type", "items", "values"):
        if name in left:
            left[name] = _without_logical(left[name])
    if "fields" in left:
        left["fields"] = [_without_logical(field) for field in left["fields"]]
    return left


@dataclass
class _Known:
    """The named types so far with their namespaces, and how many types there were."""

    types: dict[str, Any] = field(default_factory=dict)
    count: int = 0


def _node(schema: Any, space: str, known: _Known, around: tuple[str, ...]) -> Node:
    """`around` has the names of the records around this one."""
    known.count += 1
    if known.count > _MOST_TYPES:
        raise UnreadableSchemaError("types that name each other too many times")
    if isinstance(schema, list):
        return _union(schema, space, known, around)
    if isinstance(schema, str):
        if schema in _PRIMITIVES or schema == "null":
            return Node(schema, spark_type=_PRIMITIVES.get(schema, ""), why_not="" if schema != "null" else "null only")
        full = schema if "." in schema or not space else f"{space}.{schema}"
        full = full if full in known.types else schema
        if full in around:
            raise UnreadableSchemaError(f"{full!r}, which contains itself")
        declared, outer = known.types[full]
        return _node(declared, outer, known, around)
    kind = schema["type"]
    if kind in _NAMED:
        return _named(schema, space, known, around)
    if kind == "array":
        return _array(_node(schema["items"], space, known, around))
    if kind == "map":
        item = _node(schema["values"], space, known, around)
        return Node("map", spark_type=f"map<string, {item.spark_type}>", item=item, why_not=item.why_not)
    if isinstance(kind, (dict, list)):
        return _node(kind, space, known, around)
    return _leaf(_node(kind, space, known, around), schema)


def _union(schema: list[Any], space: str, known: _Known, around: tuple[str, ...]) -> Node:
    others = [_node(each, space, known, around) for each in schema if each != "null"]
    if len(others) == 1:
        null_at = schema.index("null") if "null" in schema else -1
        return replace(others[0], branches=len(schema), null_at=null_at)
    return Node("union", why_not=f"a union of {', '.join(each.kind for each in others) or 'nothing'}")


def _array(item: Node) -> Node:
    if item.kind == "null" or _takes_no_bytes(item):
        raise UnreadableSchemaError("an array of items that take no bytes, of which ten bytes can announce any number")
    return Node("array", spark_type=f"array<{item.spark_type}>", item=item, why_not=item.why_not)


def _takes_no_bytes(node: Node) -> bool:
    if node.kind == "record":
        return all(_takes_no_bytes(member) for _, member in node.members)
    return node.kind == "null" or node.kind == "fixed 0"


def _named(schema: dict[str, Any], space: str, known: _Known, around: tuple[str, ...]) -> Node:
    name = schema["name"]
    inner = name.rpartition(".")[0] if "." in name else schema.get("namespace", space)
    full = name if "." in name or not inner else f"{inner}.{name}"
    known.types[full] = (schema, space)
    if schema["type"] == "enum":
        if not isinstance(schema["symbols"], list):
            raise UnreadableSchemaError(f"{full!r}, whose symbols are no list")
        return Node("enum", spark_type="string", symbols=tuple(schema["symbols"]))
    if schema["type"] == "fixed":
        if not _is_whole(schema["size"]):
            raise UnreadableSchemaError(f"{full!r}, whose size is {schema['size']!r}")
        kind = "fixed" if schema["size"] else "fixed 0"
        return _leaf(Node(kind, spark_type="binary", size=schema["size"]), schema)
    _check_names(full, [each["name"] for each in schema["fields"]])
    members = [(each["name"], _node(each["type"], inner, known, (*around, full))) for each in schema["fields"]]
    readable = ", ".join(f"`{name}`: {node.spark_type}" for name, node in members)
    why_not = next((f"a record with {name!r}, {node.why_not}" for name, node in members if node.why_not), "")
    return Node("record", spark_type=f"struct<{readable}>", members=tuple(members), why_not=why_not)


def _check_names(record: str, names: list[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UnreadableSchemaError(f"{record!r}, which has {twice!r} twice")
    odd = next((name for name in names if not name or _ODD_IN_NAMES.search(name)), None)
    if odd is not None:
        raise UnreadableSchemaError(f"{record!r} with {odd!r}, which is no name")


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31


def _leaf(plain: Node, schema: dict[str, Any]) -> Node:
    """With the logical type that the schema gives it; one that Avro says to ignore is ignored."""
    logical = schema.get("logicalType")
    if not isinstance(logical, str):
        return plain
    if (plain.kind, logical) in _LOGICAL:
        return replace(plain, logical=logical, spark_type=_LOGICAL[plain.kind, logical])
    if logical == "uuid" and plain.kind == "fixed" and schema.get("size") == 16:
        return replace(plain, logical=logical, spark_type="string")
    if logical == "decimal" and plain.kind in ("bytes", "fixed"):
        digits, scale = schema.get("precision", 0), schema.get("scale", 0)
        if not _is_whole(digits) or not _is_whole(scale):
            return plain
        if digits > _MOST_DIGITS:
            return replace(plain, why_not=f"a decimal of {digits} digits")
        if digits > 0 and 0 <= scale <= digits:
            spark_type = f"decimal({digits},{scale})"
            return replace(plain, logical=logical, spark_type=spark_type, digits=digits, scale=scale)
    return plain
