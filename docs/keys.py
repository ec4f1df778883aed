"""A key's unit and default as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pydantic.fields import FieldInfo

from lakehouse.durations import duration_text

_MIB = 1024**2
_EMPTY: tuple[object, ...] = (None, "", (), [], {})


def unit_of(field: FieldInfo) -> str:
    return _extra(field, "unit")


def default_of(field: FieldInfo) -> str:
    """`required`, `none`, or the value: a duration with its unit, whole MiB as such.

    One that depends on where the application runs has a text of its own (`shown`), the same on every machine.
    """
    if field.is_required():
        return "required"
    value = _extra(field, "shown") or _value(field)
    if isinstance(value, timedelta):
        return duration_text(value)
    if "bytes" in unit_of(field) and isinstance(value, int) and value and value % _MIB == 0:
        return f"{value // _MIB} MiB"
    return "none" if value in _EMPTY else str(value)


def is_literal(field: FieldInfo) -> bool:
    """Whether the default can be written into a file as it is shown."""
    return not field.is_required() and not _extra(field, "shown") and _value(field) not in _EMPTY


def _value(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True)


def _extra(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    return str(extra.get(name, "")) if isinstance(extra, Mapping) else ""
