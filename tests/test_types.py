from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse.types import MAX_NESTING, arrow_type


@pytest.mark.parametrize(
    ("spark_type", "expected"),
    [
        ("string", pa.string()),
        ("tinyint", pa.int8()),
        ("byte", pa.int8()),
        ("smallint", pa.int16()),
        ("int", pa.int32()),
        ("integer", pa.int32()),
        ("bigint", pa.int64()),
        ("long", pa.int64()),
        ("float", pa.float32()),
        ("double", pa.float64()),
        ("boolean", pa.bool_()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("date", pa.date32()),
        ("binary", pa.binary()),
        ("decimal(12,2)", pa.decimal128(12, 2)),
        ("decimal(12)", pa.decimal128(12, 0)),
        ("decimal", pa.decimal128(10, 0)),
        ("STRING", pa.string()),
        ("array<int>", pa.list_(pa.field("element", pa.int32()))),
        ("map<string, double>", pa.map_(pa.string(), pa.float64())),
        ("struct<a: int, b: string>", pa.struct([("a", pa.int32()), ("b", pa.string())])),
        ("struct<a:int>", pa.struct([("a", pa.int32())])),
        (
            "array<struct<at: timestamp, tags: map<string, array<string>>>>",
            pa.list_(
                pa.field(
                    "element",
                    pa.struct(
                        [
                            ("at", pa.timestamp("us", "UTC")),
                            ("tags", pa.map_(pa.string(), pa.list_(pa.field("element", pa.string())))),
                        ]
                    ),
                )
            ),
        ),
    ],
)
def test_a_spark_type_has_its_arrow_type(spark_type: str, expected: pa.DataType) -> None:
    assert arrow_type(spark_type) == expected


@pytest.mark.parametrize(
    "spark_type",
    [
        "",
        "text",
        "varchar(10)",
        "uuid",
        "strng",
        "int64",
        "int, b string",
        "array",
        "array<>",
        "array<strng>",
        "map<string>",
        "map<int, string>",
        "struct<>",
        "struct<a>",
        "struct<a: int, a: string>",
        "struct<a: strng>",
        "decimal(39,0)",
        "decimal(5,6)",
        "array<int",
        "string not null",
        "int comment 'x'",
    ],
)
def test_what_spark_does_not_know_is_refused_with_what_it_knows(spark_type: str) -> None:
    """A type that is guessed at would only show when events are rejected in production."""
    with pytest.raises(ValueError, match="a Spark type: string, tinyint"):
        arrow_type(spark_type)


def test_the_names_of_members_keep_their_case() -> None:
    """JSON keys differ by case."""
    assert arrow_type("struct<Origin: string>").field(0).name == "Origin"


def test_a_type_may_be_nested_deep_but_not_without_end() -> None:
    """3,000 levels were a RecursionError, and no topic got an answer."""
    assert arrow_type("array<" * MAX_NESTING + "int" + ">" * MAX_NESTING).num_fields == 1
    for levels in (MAX_NESTING + 1, 3000, 200_000):
        with pytest.raises(ValueError, match="at most 64 levels"):
            arrow_type("array<" * levels + "int" + ">" * levels)
