"""What BigQuery cannot take of a topic, by its documentation: names, types, and tables that meet in a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from lakehouse.mirrors.bigquery.dataset import BigQueryOptions
from lakehouse.mirrors.limits import Neighbour, Part, parts_of, too_long
from lakehouse.topics import Topic

_TABLE_NAME_BYTES, _COLUMN_NAME_BYTES, _COLUMNS, _DEPTH = 1024, 300, 10_000, 15
_STAMP_AND_SUFFIX_BYTES = len("_2026112305") + 16

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Loads of Parquet take no flexible column names."""
_RESERVED = ("_TABLE_", "_FILE_", "_PARTITION", "_ROW_TIMESTAMP", "__ROOT__", "_COLIDENTIFIER",
             "_CHANGE_SEQUENCE_NUMBER", "_CHANGE_TYPE", "_CHANGE_TIMESTAMP")  # fmt: skip


def objections(topic: Topic, options: BigQueryOptions, neighbours: Sequence[Neighbour]) -> list[str]:
    """What keeps BigQuery from ever taking the topic."""
    parts = list(parts_of(topic))
    found = too_long("the topic's name", topic.name, _TABLE_NAME_BYTES - _STAMP_AND_SUFFIX_BYTES)
    if options.staging and not options.staging.startswith("gs://"):
        found.append(f"the staging folder {options.staging}, where BigQuery reads gs:// alone")
    for part in parts:
        found += _objections_to(part)
    if len(parts) > _COLUMNS:
        found.append(f"{len(parts)} columns with their members, where {_COLUMNS} are the most")
    for each in neighbours:
        if (each.options.project, each.options.dataset) == (options.project, options.dataset):
            found += _meeting(topic, options, each)
    return found


def objections_to_lake(options: BigQueryOptions, sealed_root: str) -> list[str]:
    """BigQuery reads gs:// alone, and what is there is silver itself."""
    if options.staging:
        return []
    needed = [] if sealed_root.startswith("gs://") else [f"no `staging` for copies of a lake at {sealed_root}"]
    return needed + ["`array_nulls: drop` without a `staging` for the copies"] * (options.array_nulls == "drop")


def warnings(topic: Topic, options: BigQueryOptions) -> list[str]:
    """Fields whose nulls keep an hour out, as the option `array_nulls` says."""
    if options.array_nulls == "drop":
        return []
    arrays = [part.path for part in parts_of(topic) if pa.types.is_list(part.kind)]
    if not arrays:
        return []
    return [
        f"an hour with a null within {' or '.join(arrays)} is refused, as BigQuery's arrays hold no nulls; "
        "`array_nulls: drop` leaves such nulls out"
    ]


def _objections_to(part: Part) -> list[str]:
    found = []
    if pa.types.is_list(part.kind) and _is_repeated(part.kind.value_type):
        found.append(f"{part.path}: an array of {'maps' if pa.types.is_map(part.kind.value_type) else 'arrays'}")
    if part.depth > _DEPTH:
        found.append(f"{part.path}: a struct within {part.depth} others, where {_DEPTH} are the most")
    if part.name is None:
        return found
    if not _NAME.fullmatch(part.name):
        found.append(f"{part.path}: a name that is not of letters, digits and _, beginning with no digit")
    reserved = next((each for each in _RESERVED if part.name.upper().startswith(each)), None)
    if reserved:
        found.append(f"{part.path}: a name that begins with {reserved}")
    return found + too_long(f"{part.path}: a name", part.name, _COLUMN_NAME_BYTES)


def _is_repeated(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_map(kind))


def _meeting(topic: Topic, options: BigQueryOptions, other: Neighbour) -> list[str]:
    """Tables and views of both that have one name, or that a view of one finds although they are of the other."""
    whose = f"{other.topic.name} in the mirror {other.mirror}"
    shared = _fixed_names(topic, options) & _fixed_names(other.topic, other.options)
    if shared:
        return [f"{', '.join(sorted(shared))}: a table or view of {whose} has the same name"]
    found = []
    for one, its_options, name in (
        (topic.name, options, other.topic.name),
        (other.topic.name, other.options, topic.name),
    ):
        if its_options.layout == "table_per_hour" and name.startswith(f"{one}_20"):
            found.append(f"{one}: its view over `{one}_20*` finds the tables of {name}; shared with {whose}")
    return found


def _fixed_names(topic: Topic, options: BigQueryOptions) -> set[str]:
    if options.layout == "table_per_hour":
        return {topic.name}
    return {topic.name, f"{topic.name}_hours", f"{topic.name}_manifests"}
