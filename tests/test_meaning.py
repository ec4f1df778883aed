"""What an expectation means: the same by each way of reading an hour, and as Python says it, row by row."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lakehouse.errors import SuiteError
from lakehouse.topics import Topic
from lakehouse.validate import gx
from lakehouse.validate.findings import OBSERVED_BYTES, Finding, example_rows, plain
from lakehouse.validate.scan import HourScan, of_files
from lakehouse.validate.suites import Expectation, Suite, path_of, suite_from
from tests.clock import NOON
from tests.examples import examples

Row = Mapping[str, Any]

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("n", pa.int64()),
        ("m", pa.int32()),
        ("x", pa.float64()),
        ("y", pa.float32()),
        ("price", pa.decimal128(10, 2)),
        ("name", pa.string()),
        ("größe", pa.string()),
        ("ok", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("tags", pa.list_(pa.string())),
    ]
)
VALUES: dict[str, list[Any]] = {
    "n": [0, 1, 2, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)],
    "m": [0, 1, 2, -(2**31)],
    "x": [0.0, -0.0, 0.5, 1.0, 1.5, -2.25],
    "y": [0.0, 0.5, 1.5],
    "price": [Decimal(each) for each in ("1.10", "2.20", "3.30", "-0.01", "99999999.99")],
    "name": ["", "SE", "NO", "größe", "it's", "a\nb", "12", '{"a": 1}', "2026-11-23"],
    "größe": ["S", "M", "L"],
    "ok": [True, False],
    "day": [date(2000, 5, 1), date(2000, 5, 2), date(2026, 11, 23)],
    "at": [NOON, datetime(2026, 11, 23, 12, 0, 0, 1, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)],
    "tags": [[], ["a"], ["a", None], ["b"]],
}
ROW = st.fixed_dictionaries({name: st.sampled_from([None, *values]) for name, values in VALUES.items()})
ROWS = st.lists(ROW, min_size=1, max_size=12).map(
    lambda rows: [{"event_id": f"e{place:02}", **row} for place, row in enumerate(rows)]
)


def at_least(low: Any) -> Callable[[Any], bool]:
    return lambda value: bool(value >= low)


def one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


BETWEEN = "expect_column_values_to_be_between"
IN_SET = "expect_column_values_to_be_in_set"
NOT_IN_SET = "expect_column_values_to_not_be_in_set"
MATCH = "expect_column_values_to_match_regex"
SCHEMA_OF = "expect_column_values_to_match_json_schema"
SUM_OF_ROW = "expect_multicolumn_sum_to_equal"

OF_VALUES: list[tuple[str, dict[str, Any], Callable[[Any], bool]]] = [
    (BETWEEN, {"column": "n", "min_value": 0.5, "max_value": 2**53}, lambda v: 1 <= v <= 2**53),
    (BETWEEN, {"column": "n", "min_value": 2**53 + 1}, at_least(2**53 + 1)),
    (BETWEEN, {"column": "m", "min_value": 0, "max_value": 2, "strict_max": True}, lambda v: 0 <= v < 2),
    (BETWEEN, {"column": "m", "max_value": 10**12}, lambda v: True),
    (BETWEEN, {"column": "x", "min_value": 0, "strict_min": True}, lambda v: v > 0),
    (BETWEEN, {"column": "price", "min_value": 1.1, "max_value": 3.3}, lambda v: Decimal("1.1") <= v <= Decimal("3.3")),
    (BETWEEN, {"column": "price", "min_value": 1.105}, at_least(Decimal("1.105"))),
    (BETWEEN, {"column": "day", "min_value": "2000-05-02"}, at_least(date(2000, 5, 2))),
    (BETWEEN, {"column": "day", "max_value": "2026-11-22T23:00:00+00:00"}, lambda v: v <= date(2026, 11, 22)),
    (BETWEEN, {"column": "at", "max_value": "2026-11-23T13:00:00+01:00"}, lambda v: v <= NOON),
    (BETWEEN, {"column": "at", "min_value": "2026-11-23T12:00:00", "strict_min": True}, lambda v: v > NOON),
    (BETWEEN, {"column": "at", "max_value": "2026-11-23"}, lambda v: v <= datetime(2026, 11, 23, tzinfo=UTC)),
    (IN_SET, {"column": "n", "value_set": [1, 2.0, 2**53 + 1]}, one_of(1, 2, 2**53 + 1)),
    (IN_SET, {"column": "price", "value_set": [1.1, "2.20"]}, one_of(Decimal("1.1"), Decimal("2.2"))),
    (IN_SET, {"column": "day", "value_set": ["2000-05-01"]}, one_of(date(2000, 5, 1))),
    (NOT_IN_SET, {"column": "day", "value_set": ["2000-05-01"]}, lambda v: v != date(2000, 5, 1)),
    (IN_SET, {"column": "at", "value_set": ["2026-11-23T12:00:00+00:00"]}, one_of(NOON)),
    (IN_SET, {"column": "ok", "value_set": [True]}, one_of(True)),
    (IN_SET, {"column": "y", "value_set": [0.5, 0]}, one_of(0.5, 0.0)),
    (NOT_IN_SET, {"column": "name", "value_set": ["SE", "it's"]}, lambda v: v not in ("SE", "it's")),
    (MATCH, {"column": "name", "regex": r"(?i)^\w+$"}, lambda v: re.fullmatch(r"\w+", v, re.A) is not None),
    (MATCH, {"column": "name", "regex": "^.*$"}, lambda v: "\n" not in v),
    ("expect_column_values_to_not_match_regex", {"column": "name", "regex": "^S"}, lambda v: not v.startswith("S")),
    (
        "expect_column_values_to_match_regex_list",
        {"column": "name", "regex_list": ["^S", "[0-9]"], "match_on": "any"},
        lambda v: re.search("^S|[0-9]", v) is not None,
    ),
    (
        "expect_column_values_to_match_regex_list",
        {"column": "name", "regex_list": ["^1", "2$"], "match_on": "all"},
        one_of("12"),
    ),
    ("expect_column_values_to_not_match_regex_list", {"column": "name", "regex_list": ["^S", "^N"]},
     lambda v: v not in ("SE", "NO")),
    ("expect_column_value_lengths_to_be_between", {"column": "name", "min_value": 1, "max_value": 4},
     lambda v: 1 <= len(v) <= 4),
    ("expect_column_value_lengths_to_equal", {"column": "name", "value": 5}, lambda v: len(v) == 5),
    ("expect_column_values_to_be_json_parseable", {"column": "name"}, one_of("12", '{"a": 1}')),
    ("expect_column_values_to_match_json_schema", {"column": "name", "json_schema": {"type": "object"}},
     one_of('{"a": 1}')),
    ("expect_column_values_to_match_strftime_format", {"column": "name", "strftime_format": "%Y-%m-%d"},
     one_of("2026-11-23")),
    ("expect_column_values_to_be_dateutil_parseable", {"column": "name"}, one_of("12", "2026-11-23")),
]  # fmt: skip
"""About the values of one column that are not missing: what of a value holds."""

PAIR = {"column_A": "m", "column_B": "n", "ignore_row_if": "either_value_is_missing"}
OF_ROWS: list[tuple[str, dict[str, Any], Callable[[Row], bool], Callable[[Row], bool]]] = [
    ("expect_column_values_to_not_be_null", {"column": "tags"}, lambda r: True, lambda r: r["tags"] is not None),
    ("expect_column_values_to_be_null", {"column": "größe"}, lambda r: True, lambda r: r["größe"] is None),
    ("expect_column_pair_values_a_to_be_greater_than_b", PAIR, lambda r: None not in (r["m"], r["n"]),
     lambda r: r["m"] > r["n"]),
    ("expect_column_pair_values_to_be_equal", PAIR, lambda r: None not in (r["m"], r["n"]), lambda r: r["m"] == r["n"]),
    ("expect_column_pair_values_to_be_in_set",
     {"column_A": "größe", "column_B": "m", "value_pairs_set": [["S", 1], ["M", 2]],
      "ignore_row_if": "either_value_is_missing"},
     lambda r: None not in (r["größe"], r["m"]), lambda r: (r["größe"], r["m"]) in (("S", 1), ("M", 2))),
    ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["name", "größe"]},
     lambda r: (r["name"], r["größe"]) != (None, None), lambda r: r["name"] != r["größe"]),
    ("expect_multicolumn_values_to_be_equal", {"column_list": ["name", "größe"]},
     lambda r: (r["name"], r["größe"]) != (None, None), lambda r: r["name"] == r["größe"]),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["m", "price"], "sum_total": 2.1},
     lambda r: (r["m"], r["price"]) != (None, None), lambda r: (r["m"] or 0) + (r["price"] or 0) == Decimal("2.1")),
]  # fmt: skip
"""About rows: which it is about, and what of them holds."""

UNIQUE = [["n"], ["x"], ["price"], ["tags"], ["name", "day"], ["ok", "tags"]]
CONDITIONS: list[tuple[Any, Callable[[Row], bool]]] = [
    (None, lambda r: True),
    ({"type": "comparison", "column": {"name": "name"}, "operator": "!=", "parameter": "SE"},
     lambda r: r["name"] is not None and r["name"] != "SE"),
    ({"type": "comparison", "column": {"name": "größe"}, "operator": "IN", "parameter": ["S", "M"]},
     lambda r: r["größe"] in ("S", "M")),
    ({"type": "or", "conditions": [
        {"type": "nullity", "column": {"name": "ok"}, "is_null": True},
        {"type": "comparison", "column": {"name": "price"}, "operator": ">=", "parameter": 2.2}]},
     lambda r: r["ok"] is None or (r["price"] is not None and r["price"] >= Decimal("2.2"))),
    ('col("m") > 0', lambda r: r["m"] is not None and r["m"] > 0),
    ('(col("m") > 0 or col("name") == "") and col("ok") == true',
     lambda r: ((r["m"] or 0) > 0 or r["name"] == "") and r["ok"] is True),
]  # fmt: skip


def numbers(rows: list[Row], column: str) -> list[Any]:
    return [row[column] for row in rows if row[column] is not None]


def between(low: Any, high: Any, value: Any) -> bool:
    return value is not None and low <= value <= high


AGGREGATES: list[tuple[str, dict[str, Any], Callable[[list[Row]], bool]]] = [
    ("expect_column_max_to_be_between", {"column": "at", "max_value": "2026-11-23T12:00:00"},
     lambda rows: bool(found := numbers(rows, "at")) and max(found) <= NOON),
    ("expect_column_min_to_be_between", {"column": "day", "min_value": "2000-05-01T10:00:00+00:00"},
     lambda rows: bool(found := numbers(rows, "day")) and min(found) > date(2000, 5, 1)),
    ("expect_column_max_to_be_between", {"column": "price", "max_value": 3.3},
     lambda rows: bool(found := numbers(rows, "price")) and max(found) <= Decimal("3.3")),
    ("expect_column_mean_to_be_between", {"column": "m", "min_value": 0, "max_value": 1.5},
     lambda rows: bool(found := numbers(rows, "m")) and 0 <= sum(found) / len(found) <= 1.5),
    ("expect_column_sum_to_be_between", {"column": "price", "min_value": 0, "max_value": 3.3},
     lambda rows: bool(found := numbers(rows, "price")) and 0 <= sum(found) <= Decimal("3.3")),
    ("expect_column_median_to_be_between", {"column": "x", "min_value": 0, "max_value": 1},
     lambda rows: bool(found := sorted(numbers(rows, "x")))
     and 0 <= (found[(len(found) - 1) // 2] + found[len(found) // 2]) / 2 <= 1),
    ("expect_column_unique_value_count_to_be_between", {"column": "x", "max_value": 2},
     lambda rows: len(set(numbers(rows, "x"))) <= 2),
    ("expect_column_proportion_of_unique_values_to_be_between", {"column": "price", "min_value": 0.9},
     lambda rows: bool(found := numbers(rows, "price")) and len(set(found)) / len(found) >= 0.9),
    ("expect_column_proportion_of_non_null_values_to_be_between", {"column": "tags", "min_value": 0.5},
     lambda rows: bool(rows) and len(numbers(rows, "tags")) / len(rows) >= 0.5),
    ("expect_column_distinct_values_to_be_in_set", {"column": "price", "value_set": [1.1, "2.2"]},
     lambda rows: set(numbers(rows, "price")) <= {Decimal("1.1"), Decimal("2.2")}),
    ("expect_column_distinct_values_to_contain_set", {"column": "day", "value_set": ["2000-05-01", "2000-05-01"]},
     lambda rows: date(2000, 5, 1) in numbers(rows, "day")),
    ("expect_column_distinct_values_to_equal_set", {"column": "ok", "value_set": [True]},
     lambda rows: set(numbers(rows, "ok")) == {True}),
    ("expect_column_most_common_value_to_be_in_set", {"column": "name", "value_set": ["SE", "NO"]},
     lambda rows: (common := Counter(numbers(rows, "name"))) != {}
     and len(top := [v for v, c in common.items() if c == max(common.values())]) == 1 and top[0] in ("SE", "NO")),
]  # fmt: skip


def kept_in_scope(condition: Any) -> dict[str, Any]:
    if condition is None:
        return {}
    return {
        "row_condition": condition,
        **({"condition_parser": "great_expectations"} if isinstance(condition, str) else {}),
    }


def by_each_reading(expectations: list[Expectation], rows: list[Row]) -> list[list[Finding]]:
    """By path in one file and in many, and as batches of one row, last row first: all read the same rows."""
    table = pa.Table.from_pylist([dict(row) for row in rows], SCHEMA)
    backwards = table.take(list(reversed(range(len(table)))))
    with TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder, "all.parquet"))
        for place in range(len(table)):
            pq.write_table(backwards.slice(place, 1), Path(folder, f"{place}.parquet"))
        one, many = [f"{folder}/all.parquet"], [f"{folder}/{place}.parquet" for place in range(len(table))]
        scans: list[Any] = [
            lambda columns: of_files(one, columns, {}),
            lambda columns: of_files(many, columns, {}),
            lambda columns: pa.RecordBatchReader.from_batches(
                backwards.select(list(columns)).schema, backwards.select(list(columns)).to_batches(max_chunksize=1)
            ),
        ]
        return [gx.findings_in_scan(expectations, SCHEMA, scan)[0] for scan in scans]


Asked = tuple[Expectation, bool, set[str] | None]


def asked_of(rows: list[Row], condition: Any, scope: Callable[[Row], bool]) -> list[Asked]:
    """(expectation, verdict, ids that violate it) as Python has them; no ids where it is not about rows."""
    asked: list[Asked] = []
    extra, inside = kept_in_scope(condition), [row for row in rows if scope(row)]
    for kind, kwargs, holds in OF_VALUES:
        violating = {
            r["event_id"] for r in inside if r[kwargs["column"]] is not None and not holds(r[kwargs["column"]])
        }
        asked.append((Expectation(kind, {**kwargs, **extra}), not violating, violating))
    for kind, kwargs, is_about, row_holds in OF_ROWS:
        violating = {r["event_id"] for r in inside if is_about(r) and not row_holds(r)}
        asked.append((Expectation(kind, {**kwargs, **extra}), not violating, violating))
    for columns in UNIQUE:
        single = len(columns) == 1
        is_missing = any if single else all
        about = [r for r in inside if not is_missing(r[column] is None for column in columns)]
        keys = {r["event_id"]: repr([0.0 if column == "x" and r[column] == 0 else r[column] for column in columns])
                for r in about}  # fmt: skip
        often = Counter(keys.values())
        violating = {event_id for event_id, key in keys.items() if often[key] > 1}
        kind = "expect_column_values_to_be_unique" if single else "expect_compound_columns_to_be_unique"
        named: dict[str, Any] = {"column": columns[0]} if single else {"column_list": columns}
        asked.append((Expectation(kind, {**named, **extra}), not violating, violating))
    asked += [(Expectation(kind, {**kwargs, **extra}), holds_of(inside), None) for kind, kwargs, holds_of in AGGREGATES]
    return asked


@pytest.mark.slow
@settings(max_examples=examples(10), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(ROWS, st.sampled_from(CONDITIONS))
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*row_condition:DeprecationWarning", "ignore:.*condition_parser:DeprecationWarning")
def test_an_expectation_means_the_same_in_every_hour(
    rows: list[Row], condition: tuple[Any, Callable[[Row], bool]]
) -> None:
    """Verdict, count and examples, whatever the files are: the size of an hour, or where it lies, must not decide."""
    asked = asked_of(rows, *condition)
    readings = by_each_reading([expectation for expectation, _, _ in asked], rows)
    for reading in readings[1:]:
        assert reading == readings[0]
    for (expectation, success, violating), finding in zip(asked, readings[0], strict=True):
        assert finding.is_answered, finding
        assert (finding.success, finding.expectation) == (success, expectation)
        if violating is not None:
            assert (finding.unexpected, [row["event_id"] for row in finding.examples]) == (
                len(violating),
                sorted(violating),
            )


def test_all_types_that_the_check_accepts_are_among_them() -> None:
    """A type that Great Expectations gains is either given a meaning here, or refused."""
    gx.load()
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    stated = {expectation.type for expectation, _, _ in asked_of([], None, lambda row: True)}
    known = set(list_registered_expectation_implementations())
    elsewhere = {kind for kind in known if kind.startswith(("expect_table_", "expect_volume_"))} | {
        "expect_column_to_exist",
        "expect_column_stdev_to_be_between",
        "expect_column_quantile_values_to_be_between",
    }
    assert known - stated - elsewhere == {
        "expect_column_kl_divergence_to_be_less_than",
        "expect_column_type_to_be",
        "expect_column_value_z_scores_to_be_less_than",
        "expect_column_values_to_be_decreasing",
        "expect_column_values_to_be_in_type_list",
        "expect_column_values_to_be_increasing",
        "expect_column_values_to_be_of_type",
        "expect_column_values_to_match_like_pattern",
        "expect_column_values_to_match_like_pattern_list",
        "expect_column_values_to_not_be_outliers",
        "expect_column_values_to_not_match_like_pattern",
        "expect_column_values_to_not_match_like_pattern_list",
        "expect_query_results_to_match_comparison",
        "unexpected_rows_expectation",
    }


def refusal(kind: str, **kwargs: Any) -> str:
    with pytest.raises(SuiteError) as caught:
        gx.check(Suite("t", (Expectation(kind, kwargs),), ""), SCHEMA)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "kwargs", "cause"),
    [
        (IN_SET, {"column": "n", "value_set": ["1"]}, "'1' is no bigint (expected a number)"),
        (NOT_IN_SET, {"column": "n", "value_set": ["1"]}, "'1' is no bigint"),
        (IN_SET, {"column": "n", "value_set": [1.5]}, "1.5 is no bigint"),
        (IN_SET, {"column": "m", "value_set": [2**40]}, "is no int"),
        (IN_SET, {"column": "n", "value_set": [True]}, "True is no bigint"),
        (IN_SET, {"column": "name", "value_set": [1]}, "1 is no string"),
        (IN_SET, {"column": "price", "value_set": ["1.105"]}, "is no decimal(10, 2)"),
        (IN_SET, {"column": "day", "value_set": ["May"]}, "a date such as"),
        (IN_SET, {"column": "tags", "value_set": ["a"]}, "cannot be asked that"),
        (BETWEEN, {"column": "ok", "max_value": 1}, "values of boolean cannot be asked that"),
        ("expect_column_mean_to_be_between", {"column": "ok", "max_value": 1}, "values of boolean"),
        (MATCH, {"column": "name", "regex": "^([0-9]{1,40} ?){1,40}$"}, "invalid repetition size: {1,40}"),
        (MATCH, {"column": "name", "regex": "^(?!x)"}, "invalid perl operator: (?!"),
        ("expect_column_values_to_be_increasing", {"column": "n"}, "the rows of an hour have no order"),
        (
            "expect_column_value_z_scores_to_be_less_than",
            {"column": "n", "threshold": 3, "double_sided": True},
            "z_score",
        ),
        (SCHEMA_OF, {"column": "name", "json_schema": {"pattern": "(?!x)"}}, "invalid perl operator: (?!"),
        (SCHEMA_OF, {"column": "name", "json_schema": {"items": {"patternProperties": {"x": {}}}}}, "patternProp"),
        (SCHEMA_OF, {"column": "name", "json_schema": {"$ref": "#"}}, "recursion"),
        (SCHEMA_OF, {"column": "name", "json_schema": {"$ref": "http://127.0.0.1:9/x"}}, "Unresolvable"),
        ("expect_table_row_count_to_equal_other_table", {"other_table_name": "x"}, "judged by its own rows"),
        (IN_SET, {"column": "n", "value_set": [1], "row_condition": 'col("m") == 1 or m'}, "'m' is not understood"),
        (BETWEEN, {"column": "price", "max_value": math.nan}, "nan is no decimal(10, 2)"),
        (SUM_OF_ROW, {"column_list": ["n", "price"], "sum_total": 0.001}, "0.001 is no sum of these columns"),
        ("expect_column_values_to_be_dateutil_parseable", {"column": "at"}, "values of timestamp cannot be asked that"),
        (
            BETWEEN,
            {"column": "n", "min_value": 1, "row_condition": {"type": "comparison", "column": {"name": "m"},
                                                             "operator": "==", "parameter": "1"}},
            "'1' is no int",
        ),
    ],
)  # fmt: skip
def test_what_has_no_one_meaning_is_refused_before_any_hour(kind: str, kwargs: dict[str, Any], cause: str) -> None:
    """`lakehouse topics check` says why, in one line."""
    assert cause in refusal(kind, **kwargs)


def test_an_expectation_without_an_answer_fails_alone() -> None:
    """As a warning it is reported, as critical it holds its hour: neither stops what else is expected."""
    table = pa.Table.from_pylist([{"event_id": "e1", "x": 1.5}], SCHEMA)
    asked = [
        Expectation(MATCH, {"column": "name", "regex": "["}, "warning"),
        Expectation(MATCH, {"column": "name", "regex": "("}),
        Expectation("expect_column_values_to_not_be_null", {"column": "x"}),
    ]
    findings, _ = gx.findings_in_scan(asked, SCHEMA, lambda columns: table.select(list(columns)).to_reader())
    assert [(each.success, each.is_answered) for each in findings] == [(False, False), (False, False), (True, True)]
    assert "missing )" in findings[1].remark
    assert (findings[0].warns, findings[1].gates) == (True, True)


def test_what_is_kept_of_large_values_is_small_and_says_so() -> None:
    """A hundred large rows made a page, a result and an artifact as large as all of them."""
    rows = [{"event_id": f"e{place}", "name": f"{place}" * 20_000} for place in range(120)]
    table = pa.Table.from_pylist(rows, SCHEMA)
    asked = [
        Expectation(IN_SET, {"column": "name", "value_set": ["SE"]}),
        Expectation("expect_column_most_common_value_to_be_in_set", {"column": "name", "value_set": ["SE"]}),
        Expectation("expect_column_distinct_values_to_be_in_set", {"column": "name", "value_set": ["SE"]}),
    ]
    findings, _ = gx.findings_in_scan(asked, SCHEMA, lambda columns: table.select(list(columns)).to_reader())
    assert findings[0].unexpected == 120
    assert "bytes, cut)" in findings[0].examples[0]["name"]
    assert all(len(json.dumps(plain(each.as_json()))) < 80_000 for each in findings)
    assert all(len(json.dumps(each.observed)) < 10_000 for each in findings)


@given(
    st.recursive(
        st.text(max_size=5).map(lambda text: text * 400) | st.binary(max_size=5).map(lambda data: data * 400),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda each: each * 60)
            | st.dictionaries(st.text(max_size=3).map(lambda name: name * 200), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_a_single_row_is_kept_small_however_it_is_nested(value: Any) -> None:
    """The first example is kept whatever its size: so each of its values is bounded by itself."""
    (kept,) = example_rows([{"event_id": "e", "x": value}])
    assert len(json.dumps(kept)) < 4 * OBSERVED_BYTES


# --- bounds on aggregates ------------------------------------------------------------------------------------------

NUMBERS = pa.schema(
    [
        ("event_id", pa.string()),
        ("i", pa.int32()),
        ("big", pa.int64()),
        ("d", pa.float64()),
        ("f", pa.float32()),
        ("dec", pa.decimal128(38, 18)),
        ("s", pa.string()),
    ]
)
EDGE = 2**53
MANY = Decimal("12345678901234567.89")
BOUNDED: list[tuple[str, str, list[Any], dict[str, Any], bool]] = [
    ("max", "big", [EDGE + 4], {"max_value": EDGE + 3}, False),
    ("max", "big", [EDGE + 4], {"min_value": EDGE + 1, "max_value": EDGE + 4}, True),
    ("min", "big", [1234567890123456780], {"min_value": 1234567890123456789}, False),
    ("sum", "big", [EDGE, 4], {"max_value": EDGE + 3}, False),
    ("sum", "big", [2**63 - 1, 2**63 - 1], {"min_value": 2**64 - 2, "max_value": 2**64 - 2}, True),
    ("mean", "big", [EDGE, EDGE + 2], {"min_value": EDGE + 1, "max_value": EDGE + 1}, True),
    ("median", "big", [EDGE, EDGE + 2], {"min_value": EDGE + 1, "max_value": EDGE + 1}, True),
    ("mean", "i", [1, 2], {"min_value": 1.5, "max_value": 1.5}, True),
    ("mean", "i", [1, 1, 2], {"max_value": 4 / 3}, False),
    ("max", "d", [2 / 3], {"max_value": 2 / 3}, True),
    ("min", "d", [3.141592653589793], {"min_value": 3.141592653589793}, True),
    ("max", "d", [1.0000000000000002], {"min_value": 1, "strict_min": True}, True),
    ("max", "d", [1732579200123457.0], {"max_value": 1732579200123456.0}, False),
    ("median", "d", [2 / 3], {"min_value": 2 / 3, "max_value": 2 / 3}, True),
    ("mean", "d", [2 / 3] * 3, {"min_value": 2 / 3, "max_value": 2 / 3}, True),
    ("sum", "d", [0.1] * 10, {"min_value": 1, "max_value": 1}, True),
    ("sum", "d", [1e16, 1.0, -1e16], {"min_value": 1, "max_value": 1}, True),
    ("sum", "d", [1.7e308, 1.7e308], {"min_value": 0}, True),
    ("mean", "d", [1.7e308, 1.7e308], {"min_value": 1.7e308, "max_value": 1.7e308}, True),
    ("stdev", "d", [1.7e308, 1.7e308], {"max_value": 0}, True),
    ("stdev", "big", [EDGE, EDGE + 2], {"min_value": 1.4142135623730950, "max_value": 1.4142135623730951}, True),
    ("stdev", "dec", [Decimal("0.1")] * 3, {"min_value": 0, "max_value": 0}, True),
    ("max", "d", [math.nan, 1.0], {"max_value": 5}, False),
    ("max", "d", [math.nan, 1.0], {"min_value": 5}, True),
    ("max", "d", [math.inf], {"max_value": 5}, False),
    ("sum", "d", [math.inf, -math.inf], {"max_value": 5}, False),
    *(
        (each, "f", [1.1], {"min_value": 1.1, "max_value": 1.1}, True)
        for each in ("min", "max", "median", "sum", "mean")
    ),
    ("mean", "f", [1.1] * 7, {"min_value": 1.1, "max_value": 1.1}, True),
    ("max", "f", [1.1], {"max_value": 1.09}, False),
    ("max", "dec", [MANY], {"min_value": str(MANY), "max_value": str(MANY)}, True),
    ("max", "dec", [MANY], {"max_value": "12345678901234567.88"}, False),
    ("sum", "dec", [MANY], {"max_value": "12345678901234567.88"}, False),
    ("sum", "dec", [Decimal("0.1")] * 3, {"min_value": 0.3, "max_value": 0.3}, True),
    ("max", "dec", [Decimal("0.1000000000000000001").quantize(Decimal(10) ** -18)], {"max_value": 0.1}, True),
    ("max", "dec", [Decimal("0.100000000000000001")], {"max_value": 0.1}, False),
    ("sum", "dec", [Decimal(9) * 10**19] * 3, {"min_value": 0}, True),
    ("unique_value_count", "i", [1, 2, 2], {"min_value": 1.5, "max_value": 2}, True),
    ("proportion_of_unique_values", "i", [1, 1, 1], {"min_value": 1 / 3, "max_value": 1 / 3}, True),
]


def in_pages_of_one(table: pa.Table) -> Callable[..., pa.RecordBatchReader]:
    def scan(names: Any) -> pa.RecordBatchReader:
        pages = table.select(list(names)).to_batches(max_chunksize=1)
        return pa.RecordBatchReader.from_batches(pages[0].schema, pages)

    return scan


def judged(kind: str, kwargs: dict[str, Any], **columns: list[Any]) -> Finding:
    rows = max(map(len, columns.values()), default=1)
    values = {**columns, "event_id": [f"e{place}" for place in range(rows)]}
    table = pa.table({each.name: pa.array(values.get(each.name, [None] * rows), each.type) for each in NUMBERS})
    findings: list[Finding] = []
    for one in (table, table.take(list(reversed(range(rows))))):
        findings += gx.findings_in_scan([Expectation(kind, kwargs)], NUMBERS, in_pages_of_one(one))[0]
    assert findings[0] == findings[1]
    return findings[0]


@pytest.mark.parametrize(("what", "column", "values", "bounds", "success"), BOUNDED)
def test_bounds_are_compared_exactly(
    what: str, column: str, values: list[Any], bounds: dict[str, Any], success: bool
) -> None:
    """Great Expectations makes a double of each: an hour beyond its bound was delivered, and a right one held."""
    name = f"expect_column_{what}_to_be_between"
    finding = judged(name, {"column": column, **bounds}, **{column: values})
    assert (finding.is_answered, finding.success) == (True, success), finding


@pytest.mark.parametrize(
    ("column", "values", "quantile", "bound", "success"),
    [
        ("big", [EDGE + 1] * 2, 0.5, EDGE + 1, True),
        ("big", [EDGE + 2] * 2, 0.5, EDGE + 1, False),
        ("d", [2 / 3], 0.5, 2 / 3, True),
        ("f", [1.1, 1.1], 0.25, 1.1, True),
        ("dec", [MANY], 1, str(MANY), True),
        ("i", [1, 2, 3, 4], 0.25, 1, True),
        ("i", [], 0.25, 1, False),
    ],
)
def test_quantiles_are_values_of_the_column(
    column: str, values: list[Any], quantile: float, bound: Any, success: bool
) -> None:
    ranges = {"quantiles": [quantile], "value_ranges": [[bound, bound]]}
    kwargs = {"column": column, "quantile_ranges": ranges}
    finding = judged("expect_column_quantile_values_to_be_between", kwargs, **{column: values or [None]})
    assert (finding.is_answered, finding.success) == (True, success), finding
    assert success or finding.remark or finding.observed


@pytest.mark.parametrize(
    ("column", "values", "shown"),
    [
        ("f", [1.1], 1.1),
        ("big", [EDGE + 1], EDGE + 1),
        ("dec", [MANY], str(MANY)),
        ("dec", [Decimal("1.10")], 1.1),
        ("d", [0.1], 0.1),
        ("i", [1, 1, 2], 1.33333333333333),
    ],
)
def test_what_is_observed_is_shown_short_unless_a_bound_could_depend_on_it(
    column: str, values: list[Any], shown: Any
) -> None:
    kind = "expect_column_mean_to_be_between"
    finding = judged(kind, {"column": column, "max_value": 0}, **{column: values})
    assert finding.observed == shown


@pytest.mark.parametrize(
    ("what", "values", "said"),
    [
        ("max", [None, None], "all values are missing"),
        ("mean", [None], "all values are missing"),
        ("median", [None], "all values are missing"),
        ("stdev", [1.0], "fewer than two values"),
        ("max", [math.nan], "NaN"),
        ("stdev", [math.inf, 1.0], "NaN"),
    ],
)
def test_what_has_no_value_says_why_it_is_not_met(what: str, values: list[Any], said: str) -> None:
    kwargs = {"column": "d", "min_value": -5, "max_value": 5}
    finding = judged(f"expect_column_{what}_to_be_between", kwargs, d=values)
    assert (finding.success, said in finding.remark) == (False, True), finding


def test_a_most_common_value_of_none_says_why_it_is_not_met() -> None:
    kwargs = {"column": "s", "value_set": ["a"]}
    finding = judged("expect_column_most_common_value_to_be_in_set", kwargs, s=[None])
    assert (finding.success, finding.remark) == (False, "There is none: all values are missing.")


COERCED: list[tuple[str, dict[str, Any], str]] = [
    ("expect_column_max_to_be_between", {"column": "i", "min_value": "1"}, "'1' is no number"),
    ("expect_column_max_to_be_between", {"column": "i", "min_value": True}, "True is no number"),
    ("expect_column_mean_to_be_between", {"column": "d", "min_value": "1"}, "'1' is no double"),
    ("expect_column_sum_to_be_between", {"column": "dec", "min_value": "x"}, "expect_column_sum_to_be_between with"),
    ("expect_column_max_to_be_between", {"column": "d", "max_value": 10**400}, "expect_column_max_to_be_between"),
    (BETWEEN, {"column": "d", "max_value": 10**400}, "too large"),
    ("expect_table_row_count_to_be_between", {"min_value": "1"}, "'1' is no number"),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["i", "big"], "sum_total": "1"}, "'1' is no number"),
    (IN_SET, {"column": "i", "value_set": {"1": 2}}, "no list of values"),
    ("expect_column_distinct_values_to_be_in_set", {"column": "i", "value_set": {"1": 2}}, ""),
    ("expect_column_quantile_values_to_be_between",
     {"column": "i", "quantile_ranges": {"quantiles": [0.1, 0.9], "value_ranges": [[0, 1]]}}, "as many value_ranges"),
    ("expect_column_quantile_values_to_be_between",
     {"column": "i", "quantile_ranges": {"quantiles": ["a"], "value_ranges": [[0, 1]]}}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "kwargs", "cause"), COERCED)
def test_nothing_is_made_a_number_in_silence(kind: str, kwargs: dict[str, Any], cause: str) -> None:
    """A text or a truth value in place of a bound is a mistake, and one that decides verdicts."""
    with pytest.raises(SuiteError) as caught:
        gx.check(Suite("t", (Expectation(kind, kwargs),), ""), NUMBERS)
    assert cause in str(caught.value)


def test_half_a_row_is_a_bound() -> None:
    """As it is spelled, not as the integer before it."""
    finding = judged("expect_table_row_count_to_be_between", {"min_value": 1.5}, i=[1])
    assert (finding.is_answered, finding.success) == (True, False)


# --- names, and what a check may never do ----------------------------------------------------------------------------

DOTTED = pa.schema(
    [
        ("event_id", pa.string()),
        ("user.id", pa.string()),
        ("route", pa.struct([("a", pa.string()), ("b.c", pa.int32())])),
    ]
)


@pytest.mark.parametrize("kind", ["expect_table_column_count_to_be_between", "expect_table_columns_to_match_set",
                                  "expect_table_columns_to_match_ordered_list", "expect_column_to_exist"])  # fmt: skip
def test_the_shape_of_the_table_is_answered_without_any_other_question(kind: str) -> None:
    """With a name that has a dot, and where nothing else is asked of the rows."""
    kwargs: dict[str, Any] = {"column_set": DOTTED.names} if "set" in kind else {"column_list": DOTTED.names}
    kwargs = {"min_value": 3, "max_value": 3} if "count" in kind else kwargs
    kwargs = {"column": "user.id"} if "exist" in kind else kwargs
    suite = Suite("t", (Expectation(kind, kwargs),), "")
    gx.check(suite, DOTTED)
    rows = pa.Table.from_pylist([{"event_id": "e1"}, {"event_id": "e2"}], DOTTED)
    seen = gx.with_members(rows, [*suite.columns_read(DOTTED), "route.a"])
    (finding,), _ = gx.findings_in_scan(
        list(suite.expectations), seen.schema, lambda names: seen.select(list(names)).to_reader(),
        table_columns=DOTTED.names,
    )  # fmt: skip
    assert (finding.is_answered, finding.success) == (True, True), finding


@pytest.mark.parametrize(
    ("column", "rows", "expected"),
    [
        ("user.id", [{"user.id": "x"}, {"user.id": None}], False),
        ("route.a", [{"route": {"a": "x"}}, {"route": {"a": "y"}}], True),
        ("route.b.c", [{"route": {"b.c": 1}}, {"route": None}], False),
    ],
)
def test_a_name_with_a_dot_is_a_field_or_a_member(column: str, rows: list[Row], expected: bool) -> None:
    asked = Expectation("expect_column_values_to_not_be_null", {"column": column})
    suite = Suite("t", (asked,), "")
    gx.check(suite, DOTTED)
    table = pa.Table.from_pylist([{"event_id": "e", **row} for row in rows], DOTTED)
    with TemporaryDirectory() as folder:
        pq.write_table(table, f"{folder}/0.parquet")
        schema, columns = gx.with_members(table, suite.columns_read(DOTTED)).schema, suite.columns_read(DOTTED)
        paths = {name: path_of(name, DOTTED) for name in columns}
        for scan in (
            lambda names: of_files([f"{folder}/0.parquet"], names, {}, paths),
            lambda names: gx.with_members(table, columns).select(list(names)).to_reader(),
        ):
            (finding,), _ = gx.findings_in_scan([asked], schema, scan)
            assert (finding.is_answered, finding.success) == (True, expected), finding


def test_a_name_that_means_two_things_is_refused(topic_with: Callable[..., Topic]) -> None:
    """One of the two would be read in silence."""
    both = topic_with(fields={"user.id": "string", "user": "struct<id: string>"})
    asked = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "user.id"}}
    with pytest.raises(SuiteError, match=r"both the field 'user.id' and the member 'id' of 'user'"):
        suite_from(both, {"plays.json": json.dumps({"expectations": [asked]})})


def test_every_expectation_that_cannot_be_answered_is_a_line_of_its_own() -> None:
    """Whatever it raises: the others are checked, too."""
    wrong = [
        Expectation("expect_column_max_to_be_between", {"column": "i", "max_value": 10**400}, origin="1"),
        Expectation(BETWEEN, {"column": "at", "min_value": "0001-01-01T00:00:00+02:00"}, origin="2"),
        Expectation(IN_SET, {"column": "n", "value_set": ["1"]}, origin="3"),
        Expectation("expect_no_such_thing", {}, origin="4"),
    ]
    sound = Expectation(IN_SET, {"column": "n", "value_set": [1]}, origin="5")
    schema = pa.schema([*SCHEMA, ("i", pa.int32())])
    found = list(gx.complaints(Suite("t", (sound, *wrong), ""), schema))
    assert [each.subject for each in found] == ["1", "2", "3", "4"]
    assert "year 1 to 9999" in str(found[1])


@pytest.mark.parametrize("condition", ['col("name") == "SE"', 'col("n") > 100 and col("n") < 99', None])
@pytest.mark.filterwarnings("ignore:.*row_condition:DeprecationWarning", "ignore:.*condition_parser:DeprecationWarning")
def test_a_condition_that_no_sample_meets_is_no_complaint(condition: str | None) -> None:
    """What has no value in the samples may have one in an hour."""
    extra = {} if condition is None else {"row_condition": condition, "condition_parser": "great_expectations"}
    ranges = {"quantile_ranges": {"quantiles": [0.5], "value_ranges": [[0, 1]]}}
    for kind, kwargs in (
        ("expect_column_quantile_values_to_be_between", ranges),
        ("expect_column_stdev_to_be_between", {"max_value": 1}),
        ("expect_column_median_to_be_between", {"max_value": 1}),
        ("expect_column_most_common_value_to_be_in_set", {"value_set": [1]}),
        ("expect_column_distinct_values_to_equal_set", {"value_set": [1]}),
    ):
        gx.check(Suite("t", (Expectation(kind, {"column": "m", **kwargs, **extra}),), ""), SCHEMA)


def test_rows_too_large_to_sort_decide_no_verdict() -> None:
    """More than the database may have of memory: counted all the same, and shown by their beginnings."""
    large = [{"event_id": f"e{place:03}", "name": f"{place:06}" * 175_000} for place in range(120)]
    table = pa.Table.from_pylist([{**row, "größe": row["name"]} for row in large], SCHEMA)
    asked = Expectation("expect_select_column_values_to_be_unique_within_record", {"column_list": ["name", "größe"]})
    (finding,), _ = gx.findings_in_scan([asked], SCHEMA, lambda names: table.select(list(names)).to_reader())
    assert (finding.is_answered, finding.success, finding.unexpected) == (True, False, 120), finding.remark
    assert finding.examples[0]["name"].endswith("… (1,050,000 bytes, cut)")


def test_examples_that_cannot_be_had_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise duckdb.OutOfMemoryException("failed to allocate")

    monkeypatch.setattr(HourScan, "examples", full)
    table = pa.Table.from_pylist([{"event_id": "e1", "n": 1}], SCHEMA)
    asked = Expectation(IN_SET, {"column": "n", "value_set": [2]})
    (finding,), _ = gx.findings_in_scan([asked], SCHEMA, lambda names: table.select(list(names)).to_reader())
    assert (finding.is_answered, finding.success, finding.unexpected, finding.examples) == (True, False, 1, ())
    assert "left out" in finding.remark


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, -1, EDGE, EDGE + 1, 2**63 - 1, -(2**63)]),
            st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, float(EDGE), 2.0**63, -(2.0**63), 1e300, math.inf, -math.inf]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_integers_and_floats_are_compared_as_numbers(pairs: list[tuple[int, float]], or_equal: bool) -> None:
    """Python compares them exactly; as doubles, two integers beyond 2**53 are one."""
    rows = [{"event_id": f"e{place}", "n": n, "x": x} for place, (n, x) in enumerate(pairs)]
    table = pa.Table.from_pylist(rows, SCHEMA)
    both = {"ignore_row_if": "either_value_is_missing"}
    greater = "expect_column_pair_values_a_to_be_greater_than_b"
    asked = [
        Expectation(greater, {"column_A": "n", "column_B": "x", "or_equal": or_equal, **both}),
        Expectation(greater, {"column_A": "x", "column_B": "n", "or_equal": or_equal, **both}),
        Expectation("expect_column_pair_values_to_be_equal", {"column_A": "x", "column_B": "n", **both}),
    ]
    findings, _ = gx.findings_in_scan(asked, SCHEMA, lambda names: table.select(list(names)).to_reader())
    violating = [
        sum(not (n >= x if or_equal else n > x) for n, x in pairs),
        sum(not (x >= n if or_equal else x > n) for n, x in pairs),
        sum(x != n for n, x in pairs),
    ]
    assert [finding.unexpected for finding in findings] == violating, findings


@pytest.mark.parametrize("or_equal", [True, False])
def test_integers_and_decimals_are_compared_as_numbers(or_equal: bool) -> None:
    """Also where the one has no room for the other's digits."""
    schema = pa.schema([("event_id", pa.string()), ("n", pa.int64()), ("p", pa.decimal128(38, 30))])
    least_above = "-1.000000000000000000000000000001"
    pairs = [(n, Decimal(p)) for n in (0, 1, -1, 2**62) for p in ("0", "0.5", "-0.5", "1", least_above)]
    rows = [{"event_id": f"e{place}", "n": n, "p": p} for place, (n, p) in enumerate(pairs)]
    table = pa.Table.from_pylist(rows, schema)
    both = {"ignore_row_if": "either_value_is_missing"}
    greater = "expect_column_pair_values_a_to_be_greater_than_b"
    asked = [
        Expectation(greater, {"column_A": "n", "column_B": "p", "or_equal": or_equal, **both}),
        Expectation(greater, {"column_A": "p", "column_B": "n", "or_equal": or_equal, **both}),
        Expectation("expect_column_pair_values_to_be_equal", {"column_A": "p", "column_B": "n", **both}),
    ]
    gx.check(Suite("t", tuple(asked), ""), schema)
    findings, _ = gx.findings_in_scan(asked, schema, lambda names: table.select(list(names)).to_reader())
    violating = [
        sum(not (n >= p if or_equal else n > p) for n, p in pairs),
        sum(not (p >= n if or_equal else p > n) for n, p in pairs),
        sum(p != n for n, p in pairs),
    ]
    assert [finding.unexpected for finding in findings] == violating, findings


WIDE = pa.schema(
    [
        ("event_id", pa.string()),
        ("n", pa.int64()),
        ("cents", pa.decimal128(38, 2)),
        ("fine", pa.decimal128(38, 18)),
        ("x", pa.float64()),
        ("y", pa.float32()),
    ]
)
MOST_CENTS, LEAST_CENTS = Decimal("9" * 36 + ".99"), Decimal("-" + "9" * 36 + ".99")


@pytest.mark.parametrize(
    ("kind", "kwargs", "row", "expected"),
    [
        ("greater", {"column_A": "cents", "column_B": "fine"}, {"cents": MOST_CENTS, "fine": Decimal(1)}, True),
        ("greater", {"column_A": "fine", "column_B": "cents"}, {"cents": LEAST_CENTS, "fine": Decimal("-1E-18")}, True),
        ("equal", {"column_A": "cents", "column_B": "fine"}, {"cents": Decimal("-0.5"), "fine": Decimal("-0.5")}, True),
        (
            "equal",
            {"column_A": "cents", "column_B": "fine"},
            {"cents": Decimal("-0.5"), "fine": Decimal("-0.500000000000000001")},
            False,
        ),
        ("equal", {"column_A": "cents", "column_B": "x"}, {"cents": Decimal("1.10"), "x": 1.1}, True),
        ("equal", {"column_A": "y", "column_B": "cents"}, {"cents": Decimal("1.10"), "y": 1.1}, True),
        ("sum", {"column_list": ["cents", "n"], "sum_total": 0.5}, {"cents": Decimal("1.50"), "n": -1}, True),
        ("sum", {"column_list": ["cents", "n"], "sum_total": 0.5}, {"cents": MOST_CENTS, "n": 2**62}, False),
        (
            "sum",
            {"column_list": ["cents", "fine"], "sum_total": "1" + "0" * 36},
            {"cents": MOST_CENTS, "fine": Decimal("0.01")},
            True,
        ),
    ],
)
def test_decimals_are_compared_and_added_whatever_their_digits(
    kind: str, kwargs: dict[str, Any], row: dict[str, Any], expected: bool
) -> None:
    """No decimal of the database holds the digits of both, and an overflow is no answer."""
    name = {
        "greater": "expect_column_pair_values_a_to_be_greater_than_b",
        "equal": "expect_column_pair_values_to_be_equal",
        "sum": SUM_OF_ROW,
    }[kind]
    asked = Expectation(name, kwargs if kind == "sum" else {**kwargs, "ignore_row_if": "either_value_is_missing"})
    gx.check(Suite("t", (asked,), ""), WIDE)
    values = {"event_id": "e", **row}
    table = pa.table({each.name: pa.array([values.get(each.name)], each.type) for each in WIDE}, WIDE)
    finding = found_in(table, asked)
    assert (finding.is_answered, finding.success) == (True, expected), finding


def test_a_bound_in_a_suite_keeps_its_digits(topic_with: Callable[..., Topic]) -> None:
    """A float has 17 of them."""
    topic = topic_with(fields={"fine": "decimal(38, 18)"})
    text = '{"expectations": [{"type": "%s", "kwargs": {"column": "fine", "max_value": 12345678901234567890.5}}]}'
    for kind in (BETWEEN, "expect_column_max_to_be_between"):
        (asked,) = suite_from(topic, {"plays.json": text % kind}).expectations
        assert asked.kwargs["max_value"] == Decimal("12345678901234567890.5")
        for value, expected in (("12345678901234567890.5", True), ("12345678901234567890.500000000000000001", False)):
            finding = found_in(pa.table({"event_id": ["e"], "fine": pa.array([Decimal(value)], FINE)}), asked)
            assert finding.success == expected


FINE = pa.decimal128(38, 18)


def found_in(table: pa.Table, asked: Expectation) -> Finding:
    (finding,), _ = gx.findings_in_scan([asked], table.schema, lambda names: table.select(list(names)).to_reader())
    return finding


TREE = {"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}


@pytest.mark.parametrize(
    ("kind", "kwargs", "text", "expected"),
    [
        (SCHEMA_OF, {"json_schema": {"pattern": "^(a+)+$"}}, json.dumps("a" * 40 + "!"), False),
        (SCHEMA_OF, {"json_schema": {"pattern": "^(a+)+$"}}, json.dumps("a" * 40), True),
        (SCHEMA_OF, {"json_schema": {"pattern": "x"}}, "5", True),
        (SCHEMA_OF, {"json_schema": TREE}, "[[[]]]", True),
        (SCHEMA_OF, {"json_schema": TREE}, "[" * 500 + "]" * 500, False),
        ("expect_column_values_to_be_dateutil_parseable", {}, "Feb 29", True),
        ("expect_column_values_to_be_dateutil_parseable", {}, "Feb 30", False),
    ],
)
def test_neither_a_text_nor_the_day_decides_whether_there_is_an_answer(
    kind: str, kwargs: dict[str, Any], text: str, expected: bool
) -> None:
    """Python's regular expressions need minutes for the first, and a schema may be nested as deep as a text is."""
    asked = Expectation(kind, {"column": "s", **kwargs})
    table = pa.table({"event_id": ["e"], "s": [text]})
    gx.check(Suite("t", (asked,), ""), table.schema)
    finding = found_in(table, asked)
    assert (finding.is_answered, finding.success) == (True, expected), finding
