"""Avro schemas that refer to others, as one schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lakehouse.payload_types import UnreadableSchemaError

_NAMED = ("record", "error", "enum", "fixed")


def inlined(text: str, references: Mapping[str, str]) -> str:
    """A schema (JSON) with each type that it takes from `references`, by full name, where it is first used.

    UnreadableSchemaError where one of them is no JSON.
    """
    if not references:
        return text
    try:
        types = {name: json.loads(each) for name, each in references.items()}
        return json.dumps(_inlined(json.loads(text), "", types, set()))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableSchemaError(f"no Avro schema: {error}") from error


def _inlined(schema: Any, space: str, types: Mapping[str, Any], defined: set[str]) -> Any:
    """`space` is the namespace around it; `defined` has the full names of the types so far."""
    if isinstance(schema, list):
        return [_inlined(each, space, types, defined) for each in schema]
    if isinstance(schema, str):
        full = schema if "." in schema or not space else f"{space}.{schema}"
        name = next((each for each in (full, schema) if each in types and each not in defined), None)
        if name is None:
            return schema
        if not isinstance(types[name], dict) or types[name]["type"] not in _NAMED:
            raise UnreadableSchemaError(f"a reference to {name!r}, which is no record, enum or fixed")
        return _inlined(types[name], name.rpartition(".")[0], types, defined)
    inner = space
    if schema["type"] in _NAMED:
        name = schema["name"]
        inner = name.rpartition(".")[0] if "." in name else schema.get("namespace", space)
        defined.add(name if "." in name or not inner else f"{inner}.{name}")
        schema = {**schema, "namespace": inner} if inner and "." not in name else schema
    whole = dict(schema)
    for key in ("type", "items", "values"):
        if key in whole and whole[key] not in _NAMED:
            whole[key] = _inlined(whole[key], inner, types, defined)
    if "fields" in whole:
        whole["fields"] = [{**each, "type": _inlined(each["type"], inner, types, defined)} for each in whole["fields"]]
    return whole
