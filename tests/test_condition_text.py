"""A `row_condition` as text is parsed whole or refused: half of a condition would be another one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from lakehouse.validate.condition_text import number_of, parsed
from lakehouse.validate.conditions import columns_of
from lakehouse.validate.literals import NotExpressibleInSql


def compared(column: str, operator: str, value: Any) -> dict[str, Any]:
    return {"type": "comparison", "column": {"name": column}, "operator": operator, "parameter": value}


def is_null(column: str, expected: bool = True) -> dict[str, Any]:
    return {"type": "nullity", "column": {"name": column}, "is_null": expected}


def both(*members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "and", "conditions": list(members)}


def either(*members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "or", "conditions": list(members)}


A, B, C = (compared(name, "==", 1) for name in "abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('col("s") == "SE"', compared("s", "==", "SE")),
        ("col('s')!='SE' ", compared("s", "!=", "SE")),
        ('col( "s" ) == ""', compared("s", "==", "")),
        ('col("s") == " it\'s, (a) & b "', compared("s", "==", " it's, (a) & b ")),
        ('col("a b.größe") >= -1.5e3', compared("a b.größe", ">=", -1500.0)),
        ('col("n") > +1', compared("n", ">", 1)),
        ('col("n") < .5', compared("n", "<", 0.5)),
        ('col("d") <= 12345678901234567890.5', compared("d", "<=", Decimal("12345678901234567890.5"))),
        ('col("ok") == True', compared("ok", "==", True)),
        ('col("ok") != false', compared("ok", "!=", False)),
        ('col("day") == date("2026-11-23")', compared("day", "==", "2026-11-23")),
        ('col("at") < datetime("2026-11-23T05:00:00Z")', compared("at", "<", "2026-11-23T05:00:00Z")),
        ('col("s") in ["SE", "NO"]', compared("s", "IN", ["SE", "NO"])),
        ('col("n") not in (1, 2)', compared("n", "NOT_IN", [1, 2])),
        ('col("s").isNull()', is_null("s")),
        ('col("s").is_null()', is_null("s")),
        ('col("s").notNull()', is_null("s", False)),
        ('col("a") == 1 and col("b") == 1', both(A, B)),
        ('col("a")==1&col("b")==1 && col("c")==1', both(A, B, C)),
        ('col("a") == 1 OR col("b") == 1 | col("c") == 1', either(A, B, C)),
        ('col("a") == 1 or col("b") == 1 and col("c") == 1', either(A, both(B, C))),
        ('(col("a") == 1 or col("b") == 1) and (col("c") == 1)', either(both(A, C), both(B, C))),
    ],
)
def test_a_condition_means_all_that_it_says(text: str, expected: dict[str, Any]) -> None:
    assert parsed(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('col("n") == 1; drop', "'; drop'"),
        ('col("n") == 1 # or more', "'# or more'"),
        ('col("n") == 1_000', "'1_000'"),
        ('col("n") == 0x10', "'0x10'"),
        ('col("n") == 1 - 0', "'- 0'"),
        ('col("day") > 2026-11-23', "'-11-23'"),
        ('col("s") == "SE" "NO"', "'\"NO\"'"),
        ('col("s") == "SE" and', "it ends too soon"),
        ('(col("s") == "SE"', "it ends too soon"),
        ('col("s") == SE', "'SE'"),
        ('col("s") == "a\\"b"', "is not understood"),
        ('col("s")', "it ends too soon"),
        ('col("n") == col("m")', "'col(\"m\")'"),
        ('col("n") == null', "'null'"),
        ('not col("n") == 1', "'not col"),
        ('col("n").abs() == 1', "'abs() == 1'"),
        ('col("n") in []', "']'"),
        ("n == 1", "'n == 1'"),
        ("", "it ends too soon"),
    ],
)
def test_what_is_not_understood_is_refused_and_named(text: str, found: str) -> None:
    with pytest.raises(NotExpressibleInSql) as refused:
        parsed(text)
    assert found in str(refused.value)
    assert 'expected col("name")' in str(refused.value)
    assert list(columns_of(text)) == []


def test_a_condition_names_its_columns() -> None:
    assert list(columns_of("col('a')==1 or col(\"b\").isNull()")) == ["a", "b"]


@pytest.mark.parametrize("text", ["0.1", "1e400", "0.1000000000000000055511151231257827", "-12345678901234567890.5"])
def test_a_number_is_taken_as_it_is_spelled(text: str) -> None:
    value = number_of(text)
    assert Decimal(repr(value) if isinstance(value, float) else value) == Decimal(text)
