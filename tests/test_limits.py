"""What a target cannot take is said before there is an hour, with the name of the field."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs import generate
from lakehouse.config import Config
from lakehouse.errors import ConfigError
from lakehouse.mirrors.bigquery.dataset import BigQueryOptions
from lakehouse.mirrors.bigquery.mirror import BigQueryMirror
from lakehouse.mirrors.bigquery.staging import copy_without_nulls, holds_null_elements
from lakehouse.mirrors.catalogue import Checks, class_of
from lakehouse.mirrors.limits import Neighbour
from lakehouse.topics import Topic, topic_from

REFUSED = [
    ("BigQuery", {"x": "array<array<int>>"}, "x: an array of arrays"),
    ("BigQuery", {"x": "struct<y: array<map<string,int>>>"}, "x.y: an array of maps"),
    ("BigQuery", {"_PARTITIONTIME": "timestamp"}, "_PARTITIONTIME: a name that begins with _PARTITION"),
    ("BigQuery", {"x": "array<struct<_file_: int>>"}, "x[]._file_: a name that begins with _FILE_"),
    ("BigQuery", {"größe": "int"}, "größe: a name that is not of letters"),
    ("BigQuery", {"x" * 301: "int"}, "a name of 301 bytes, where 300 are the most"),
    ("Hive", {"a b": "int"}, "a b: ' ' in a name"),
    ("Hive", {"user.id": "int"}, "user.id: '.' in a name"),
    ("Hive", {"x": "map<string,struct<`a-b`: int>>"}, "x[].a-b: '-' in a name"),
    ("Hive", {"row__id": "int"}, "row__id: the name of a column that Hive has"),
]


@pytest.mark.parametrize(("target", "fields", "expected"), REFUSED)
def test_an_objection_names_the_field(target: str, fields: dict[str, str], expected: str) -> None:
    (objection,) = generate.objections_of(target, fields)
    assert expected in objection


@pytest.mark.parametrize("target", generate.TARGETS)
def test_every_target_takes_a_plain_topic_and_no_name_that_is_too_long(target: str) -> None:
    assert generate.objections_of(target, {"x": "struct<id: string, ms: array<int>>"}) == []
    assert (generate.objections_of(target, {}, "t" * 2000) == []) is (target == "DuckDB")


def topic(name: str, **fields: str) -> Topic:
    values: dict[str, Any] = {**generate.SAMPLE}
    return topic_from(name, {**values, "fields": {**values["fields"], **fields}})


def bigquery(**changes: Any) -> BigQueryOptions:
    return BigQueryOptions.model_validate({**generate.TARGETS["BigQuery"], **changes})


@pytest.mark.parametrize(
    ("other", "layouts", "is_refused"),
    [
        ("plays_2026", ("table_per_hour", "table_per_hour"), True),
        ("plays_2026", ("table_per_hour", "partition"), True),
        ("plays_2026", ("partition", "table_per_hour"), False),
        ("plays_hours", ("partition", "table_per_hour"), True),
        ("plays_manifests", ("partition", "partition"), True),
        ("plays_hours", ("table_per_hour", "table_per_hour"), False),
        ("plays", ("table_per_hour", "partition"), True),
        ("skips", ("partition", "table_per_hour"), False),
    ],
)
def test_tables_that_meet_are_refused_on_both_sides(other: str, layouts: tuple[str, str], is_refused: bool) -> None:
    """By Google's documentation a wildcard that finds a view breaks every query."""
    one, two = (bigquery(layout=layout) for layout in layouts)
    here = BigQueryMirror.objections(topic("plays"), one, [Neighbour(topic(other), "b", two)])
    there = BigQueryMirror.objections(topic(other), two, [Neighbour(topic("plays"), "a", one)])
    assert (bool(here), bool(there)) == (is_refused, is_refused)
    elsewhere = two.model_copy(update={"dataset": "another"})
    assert BigQueryMirror.objections(topic("plays"), one, [Neighbour(topic(other), "b", elsewhere)]) == []


@pytest.mark.parametrize("target", ["Hive", "HDFS", "GCS", "DuckDB"])
def test_two_mirrors_of_a_topic_in_one_place_are_refused(target: str) -> None:
    kind = class_of(generate.TARGETS[target]["kind"])
    options = kind.Options.model_validate(generate.TARGETS[target])
    assert kind.objections(topic("plays"), options, [Neighbour(topic("plays"), "second", options)])
    assert kind.objections(topic("plays"), options, [Neighbour(topic("skips"), "second", options)]) == []


def test_an_array_warns_until_its_nulls_are_dropped() -> None:
    tagged = topic("plays", x="struct<tags: array<string>>")
    (warning,) = BigQueryMirror.warnings(tagged, bigquery())
    assert "x.tags" in warning
    assert BigQueryMirror.warnings(tagged, bigquery(array_nulls="drop")) == BigQueryMirror.warnings(
        topic("p"), bigquery()
    )


INNER = st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3)
ROWS = st.lists(
    st.none()
    | st.fixed_dictionaries(
        {
            "a": st.none() | st.lists(st.none() | st.fixed_dictionaries({"b": INNER}), max_size=3),
            "m": st.none()
            | st.dictionaries(st.sampled_from("xyz"), INNER, max_size=2).map(lambda each: [*each.items()]),
        }
    ),
    max_size=5,
)
NESTED = pa.struct(
    [
        ("a", pa.list_(pa.struct([("b", pa.list_(pa.int32()))]))),
        ("m", pa.map_(pa.string(), pa.list_(pa.int32()))),
    ]
)


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return value[0], without(value[1])
    return [without(each) for each in value if each is not None] if isinstance(value, list) else value


@given(rows=ROWS)
def test_only_nulls_within_arrays_are_dropped(rows: list[Any]) -> None:
    column = pa.array(rows, NESTED)
    source, target = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"x": column}), source)
    copy_without_nulls(io.BytesIO(source.getvalue()), target)
    kept = pq.read_table(io.BytesIO(target.getvalue()))["x"].combine_chunks()
    expected = [without(row) for row in rows]
    assert kept.to_pylist() == expected
    assert not holds_null_elements(kept)
    assert holds_null_elements(column) is (expected != rows)


# --- places that meet ------------------------------------------------------------------------------------------------

FOLDER = {"kind": "folder", "path": "{root}/copies"}
BASE = {"kind": "duckdb", "path": "{root}/copies.duckdb"}
HIVE = {"kind": "hive", "host": "h", "database": "db", "path": "{root}/hive"}
BIGQUERY = {"kind": "bigquery", "project": "p", "dataset": "d"}
MEETING = [
    (FOLDER, {**FOLDER, "path": "{root}/copies/../copies"}),
    (FOLDER, {**FOLDER, "path": "{root}/link"}),
    (FOLDER, {**FOLDER, "path": "file://{root}/copies"}),
    (FOLDER, {**FOLDER, "path": "{root}/copies/plays"}),
    (FOLDER, {**HIVE, "path": "{root}/copies"}),
    (FOLDER, {**BASE, "path": "{root}/copies/plays/base.duckdb"}),
    (BASE, {**BASE, "path": "{root}/x/../copies.duckdb"}),
    (HIVE, {**HIVE, "host": "H", "path": "{root}/elsewhere"}),
    ({**FOLDER, "path": "gs://b/x"}, {**FOLDER, "path": "gs://B/y/../x"}),
    ({**FOLDER, "path": "hdfs://h/x"}, {**FOLDER, "path": "hdfs://H:8020/x/"}),
    ({**FOLDER, "path": "gs://b/s/m1"}, {**BIGQUERY, "staging": "gs://b/s"}),
    (BASE, {**BASE, "path": "{root}/copies.duckdb.wal"}),
    (BASE, {**FOLDER, "path": "{root}/copies.duckdb.tmp"}),
    (FOLDER, {**BASE, "path": "{root}/copies"}),
    ({**FOLDER, "path": "{root}/lake/_applications"}, {**BASE}),
    ({**FOLDER, "path": "{root}/lake/_report"}, {**BASE}),
    ({**FOLDER, "path": "{root}/lake"}, {**BASE}),
    ({**FOLDER, "path": "{root}/lake/plays/silver"}, {**BASE}),
    ({**BASE, "path": "{root}/lake/plays/base.duckdb"}, {**FOLDER}),
]
APART = [
    (FOLDER, {**FOLDER, "path": "{root}/copies2"}),
    (FOLDER, HIVE),
    (BASE, {**BASE, "path": "{root}/other.duckdb"}),
    (FOLDER, {**FOLDER, "path": "{root}/copies/skips"}),
]


def complaints(config: Config, tmp_path: Path, mirrors: Sequence[dict[str, Any]], held: Topic) -> list[str]:
    named = {f"m{place}": {key: str(value).format(root=tmp_path) for key, value in values.items()}
             for place, values in enumerate(mirrors)}  # fmt: skip
    both = held.model_copy(update={"mirrors": tuple(named)})
    settings = config.settings.model_copy(update={"mirrors": named})
    checks = Checks(replace(config, settings=settings, topics={held.name: both}))
    found = []
    for name in named:
        try:
            checks.check(name, both)
        except ConfigError as refused:
            found.append(str(refused))
    return found


@pytest.mark.parametrize("mirrors", MEETING)
def test_one_store_in_two_spellings_is_refused(
    config: Config, tmp_path: Path, mirrors: Sequence[dict[str, Any]]
) -> None:
    """Whoever sweeps there deletes the other's files, and the lake's are not for a mirror to sweep."""
    (tmp_path / "copies").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "copies")
    assert any("same" in each for each in complaints(config, tmp_path, mirrors, topic("plays")))


@pytest.mark.parametrize("mirrors", APART)
def test_stores_that_lie_beside_each_other_are_two(
    config: Config, tmp_path: Path, mirrors: Sequence[dict[str, Any]]
) -> None:
    assert complaints(config, tmp_path, mirrors, topic("plays")) == []


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ({**FOLDER, "path": "s3://b/x"}, "the address s3://b/x, which is none of a path, file://, hdfs://, gs://"),
        ({**FOLDER, "path": "gs:///x"}, "the address gs:///x without a bucket"),
        ({**HIVE, "path": "gcs://b/x"}, "the address gcs://b/x"),
        ({**BASE, "path": "hdfs://h/x.db"}, "the address hdfs://h/x.db, where it takes a file"),
        (BIGQUERY, "no `staging` for copies of a lake at"),
        ({**BIGQUERY, "array_nulls": "drop"}, "`array_nulls: drop` without a `staging`"),
    ],
)
def test_a_store_that_can_never_be_reached_is_refused(
    config: Config, tmp_path: Path, mirror: dict[str, Any], expected: str
) -> None:
    """Before any hour, not when the first one is there."""
    (found,) = complaints(config, tmp_path, [mirror], topic("plays"))
    assert expected in found
