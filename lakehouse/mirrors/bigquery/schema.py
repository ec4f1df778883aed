"""Arrow's types as BigQuery's fields, and how hours are called there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from google.cloud import bigquery

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.mirrors.contract import SealedHour

_LEAVES = {
    pa.string(): "STRING", pa.int8(): "INT64", pa.int16(): "INT64", pa.int32(): "INT64", pa.int64(): "INT64",
    pa.float32(): "FLOAT64", pa.float64(): "FLOAT64", pa.bool_(): "BOOL", pa.date32(): "DATE", pa.binary(): "BYTES",
    pa.timestamp("us", "UTC"): "TIMESTAMP",
}  # fmt: skip

_STORED = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}
"""As BigQuery's API gives them back."""


def schema_of(schema: Any) -> list[Any]:
    """BigQuery's fields for Arrow's: lists are repeated fields, and maps repeated pairs."""
    return [_field(each.name, each.type) for each in schema]


def merged_fields(present: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
    """`present` with the fields and members that only `wanted` has, after those it has."""
    new = {each.name.lower(): each for each in wanted}
    kept = [_merged_field(each, new.pop(each.name.lower(), None)) for each in present]
    return kept + list(new.values())


def _merged_field(present: Any, wanted: Any) -> Any:
    if wanted is None or present.field_type not in ("RECORD", "STRUCT"):
        return present
    return bigquery.SchemaField(
        present.name, "RECORD", mode=present.mode, fields=merged_fields(present.fields, wanted.fields)
    )  # fmt: skip


def _field(name: str, kind: pa.DataType, mode: str = "NULLABLE") -> Any:
    if pa.types.is_list(kind):
        return _field(name, kind.value_type, "REPEATED")
    if pa.types.is_map(kind):
        pair = (_field("key", kind.key_type), _field("value", kind.item_type))
        return bigquery.SchemaField(name, "RECORD", mode="REPEATED", fields=pair)
    if pa.types.is_struct(kind):
        return bigquery.SchemaField(name, "RECORD", mode=mode, fields=schema_of(kind))
    if pa.types.is_decimal(kind):
        is_numeric = kind.scale <= 9 and kind.precision - kind.scale <= 29
        return bigquery.SchemaField(
            name, "NUMERIC" if is_numeric else "BIGNUMERIC", mode=mode, precision=kind.precision, scale=kind.scale
        )
    return bigquery.SchemaField(name, _STORED.get(_LEAVES[kind], _LEAVES[kind]), mode=mode)


def type_name(kind: pa.DataType) -> str:
    """As BigQuery's SQL spells the type of a column."""
    if pa.types.is_list(kind):
        return f"ARRAY<{type_name(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"ARRAY<STRUCT<key {type_name(kind.key_type)}, value {type_name(kind.item_type)}>>"
    if pa.types.is_struct(kind):
        return f"STRUCT<{', '.join(f'{each.name} {type_name(each.type)}' for each in kind)}>"
    if pa.types.is_decimal(kind):
        return f"{_field('x', kind).field_type}({kind.precision}, {kind.scale})"
    return _LEAVES[kind]


def stamp(hour: Hour) -> str:
    """`2026112305`."""
    return f"{hours.start_of(hour):%Y%m%d%H}"


def labels_of(hour: SealedHour) -> dict[str, str]:
    values = {"topic": hour.topic.name, "hour": hour.hour, "revision": str(hour.revision), "release": hour.release}
    return {key: label(value) for key, value in values.items()}


def label(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]
