"""One scan judges an hour of any size: what it says is what Great Expectations' Spark engine says of such rows.

What its engines answer differently has one meaning here, which test_meaning.py states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lakehouse.validate import gx
from lakehouse.validate.findings import Finding
from lakehouse.validate.scan import Scan, UniqueRule, hour_scan
from lakehouse.validate.suites import Expectation
from tests.gx_engines import DETAILS, OBSERVED, findings_on_spark

START = datetime(2026, 11, 23, 5, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("hour", pa.string()),
        ("event_hour", pa.string()),
        ("user", pa.string()),
        ("city", pa.string()),
        ("n", pa.int64()),
        ("m", pa.int32()),
        ("x", pa.float64()),
        ("ok", pa.bool_()),
    ]
)


def expected(kind: str, **kwargs: Any) -> Expectation:
    if "pair" in kind:
        kwargs.setdefault("ignore_row_if", "either_value_is_missing")
    return Expectation(kind, kwargs)


CONDITION = {"type": "comparison", "column": {"name": "m"}, "operator": "==", "parameter": 1}
MEASURED = [
    expected("expect_table_row_count_to_equal", value=400),
    expected("expect_table_row_count_to_be_between", min_value=1, max_value=401),
    expected("expect_table_columns_to_match_set", column_set=SCHEMA.names),
    expected("expect_table_columns_to_match_ordered_list", column_list=SCHEMA.names),
    expected("expect_table_column_count_to_equal", value=10),
    expected("expect_column_to_exist", column="user"),
    expected("expect_column_values_to_not_be_null", column="user"),
    expected("expect_column_values_to_not_be_null", column="n", mostly=0.5),
    expected("expect_column_values_to_be_null", column="user", mostly=0.001),
    expected("expect_column_values_to_be_unique", column="event_id"),
    expected("expect_column_values_to_be_unique", column="n"),
    expected("expect_column_values_to_be_between", column="n", min_value=0, max_value=1000),
    expected("expect_column_values_to_be_between", column="n", min_value=0, max_value=399, strict_max=True),
    expected("expect_column_values_to_be_between", column="x", min_value=0.5, strict_min=True, mostly=0.9),
    expected(
        "expect_column_values_to_be_between",
        column="event_time",
        max_value="2026-11-23T06:00:00+00:00",
        strict_max=True,
    ),
    expected("expect_column_values_to_be_in_set", column="city", value_set=["Oslo", "Łódź"]),
    expected("expect_column_values_to_be_in_set", column="m", value_set=[0, 1, 2, 3.0, 4]),
    expected("expect_column_values_to_be_in_set", column="ok", value_set=[True]),
    expected("expect_column_values_to_not_be_in_set", column="city", value_set=["Rome", "it's"]),
    expected("expect_column_values_to_match_regex", column="user", regex="^u[0-9]+$"),
    expected("expect_column_values_to_match_regex", column="user", regex="^u.[0-9]*"),
    expected("expect_column_values_to_not_match_regex", column="user", regex=r"[\s<]|\d{5,}"),
    expected("expect_column_values_to_match_regex_list", column="user", regex_list=["^u", "^v$"]),
    expected("expect_column_values_to_match_regex_list", column="user", regex_list=["^u", "1"], match_on="all"),
    expected("expect_column_values_to_not_match_regex_list", column="user", regex_list=["^x", "<"]),
    expected("expect_column_value_lengths_to_be_between", column="city", min_value=4, max_value=4),
    expected("expect_column_value_lengths_to_equal", column="city", value=4),
    expected("expect_column_pair_values_a_to_be_greater_than_b", column_A="hour", column_B="event_hour", or_equal=True),
    expected("expect_column_pair_values_a_to_be_greater_than_b", column_A="n", column_B="m"),
    expected("expect_column_pair_values_to_be_equal", column_A="user", column_B="city", mostly=0.001),
    expected("expect_compound_columns_to_be_unique", column_list=["user", "m"]),
    expected("expect_select_column_values_to_be_unique_within_record", column_list=["user", "city", "event_id"]),
    expected("expect_multicolumn_sum_to_equal", column_list=["n", "m"], sum_total=4),
    expected("expect_column_min_to_be_between", column="n", min_value=0),
    expected("expect_column_max_to_be_between", column="n", max_value=399),
    expected("expect_column_max_to_be_between", column="x", max_value=500),
    expected("expect_column_mean_to_be_between", column="n", min_value=1, max_value=199.5),
    expected("expect_column_sum_to_be_between", column="n", min_value=79800, max_value=79800),
    expected("expect_column_stdev_to_be_between", column="x", min_value=0, max_value=120),
    expected("expect_column_median_to_be_between", column="n", min_value=199.5, max_value=199.5),
    expected(
        "expect_column_quantile_values_to_be_between",
        column="n",
        quantile_ranges={"quantiles": [0.0, 0.1, 0.5, 1.0], "value_ranges": [[0, 1], [39, 40], [199, 199], [0, 500]]},
    ),
    expected("expect_column_unique_value_count_to_be_between", column="city", min_value=2, max_value=2),
    expected("expect_column_proportion_of_unique_values_to_be_between", column="user", min_value=1),
    expected("expect_column_proportion_of_non_null_values_to_be_between", column="user", min_value=1),
    expected("expect_column_distinct_values_to_be_in_set", column="city", value_set=["Oslo", "Łódź"]),
    expected("expect_column_distinct_values_to_contain_set", column="city", value_set=["Oslo", "Łódź"]),
    expected("expect_column_distinct_values_to_equal_set", column="city", value_set=["Oslo", "Łódź"]),
    expected("expect_column_values_to_not_be_null", column="n", row_condition=CONDITION),
    expected("expect_column_values_to_be_between", column="n", min_value=0, max_value=500, row_condition=CONDITION),
    expected("expect_column_mean_to_be_between", column="x", min_value=0, max_value=500, row_condition=CONDITION),
    expected("expect_column_most_common_value_to_be_in_set", column="m", value_set=[0, 1, 2, 3, 4]),
]
"""Every type that the suites here name, the commonest of the rest, and each the way it is used and misused."""


def rows(**changed: Mapping[int, Any]) -> pa.Table:
    """400 rows of one hour, in which `changed` gives other values to some rows of a column."""
    clean = [
        {
            "event_id": f"e{number}",
            "event_time": START + timedelta(seconds=number),
            "hour": "2026-11-23T05",
            "event_hour": "2026-11-23T05",
            "user": f"u{number}",
            "city": ("Oslo", "Łódź")[number % 2],
            "n": number,
            "m": number % 5,
            "x": number + 0.75,
            "ok": True,
        }
        for number in range(400)
    ]
    for column, values in changed.items():
        for number, value in values.items():
            clean[number][column] = value
    return pa.Table.from_pylist(clean, SCHEMA)


CLEAN = rows()
DIRTY = rows(
    event_id={1: "e2", 3: None, 5: None, 7: "e8", 9: "e8"},
    event_time={4: START + timedelta(hours=1), 5: START + timedelta(hours=2), 6: None},
    event_hour={10: "2026-11-23T06", 11: None},
    user={1: None, 2: "u 2", 3: "x<1>", 4: "", 5: "u-1", 6: "u", 7: "U7", 8: "Oslo", 9: "u12345", 10: "u11"},
    city={number: (None, "Rome", "it's", "🤦🏼", "", "u13")[number % 6] for number in range(6, 30)},
    n={0: -1, 1: None, 2: 2**62, 3: 2**62, 4: 4, 398: None, **dict.fromkeys(range(100, 250), 1001)},
    m={20: None, 21: 7, 22: -(2**31)},
    x={1: None, 2: 0.5, 3: 1e300, 4: -0.0},
    ok={1: False, 2: None},
)
ALL_MISSING = pa.Table.from_pylist([{"event_id": "e1", "hour": "h"}, {"event_id": "e2", "hour": "h"}], SCHEMA)
OF_SOMETHING = ("expect_column_median_to_be_between", "expect_column_quantile_values_to_be_between")
"""What Spark's engine has no answer to where there is no value."""


INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
"""A hundred queries over 400 rows: compiling each takes longer than it runs."""


def scan_of(table: pa.Table) -> Scan:
    return lambda columns: table.select(list(columns)).to_reader()


def ours(expectations: list[Expectation], table: pa.Table) -> list[Finding]:
    return gx.findings_in_scan(expectations, SCHEMA, scan_of(table), examples=len(table))[0]


def on_spark(
    expectations: list[Expectation], table: pa.Table, spark: SparkSession, with_examples: bool
) -> list[Finding]:
    for key, value in INTERPRETED.items():
        spark.conf.set(key, value)
    frame = spark.createDataFrame(table).coalesce(1)
    details = DETAILS | {"partial_unexpected_count": len(table)}  # each names the first 100 in an order of its own
    try:
        return findings_on_spark(expectations, frame, details if with_examples else OBSERVED)
    finally:
        for key in INTERPRETED:
            spark.conf.unset(key)


def comparable(finding: Finding, with_examples: bool) -> dict[str, Any]:
    """Without the order of the examples; Spark counts nothing where a condition leaves no row: here that is 0."""
    examples = sorted(str(sorted(example.items(), key=str)) for example in finding.examples)
    is_conditional = finding.expectation.kwargs.get("row_condition") is not None
    return {
        "type": finding.expectation.type,
        "kwargs": dict(finding.expectation.kwargs),
        "success": finding.success,
        "unexpected": finding.unexpected or 0 if is_conditional else finding.unexpected,
        "observed": rounded(finding.observed),
        "examples": examples if with_examples else None,
    }


def rounded(observed: Any) -> Any:
    """Sums of floats depend on their order in the last digits; a set has no order."""
    if isinstance(observed, int | float) and not isinstance(observed, bool):
        return float(f"{observed:.12g}") if math.isfinite(observed) else None
    if isinstance(observed, str) and re.fullmatch(r"-?[0-9]+\.[0-9]+", observed):
        return rounded(float(observed))  # ours, of more digits than a double has
    if isinstance(observed, list):
        return sorted(map(rounded, observed), key=str)
    if isinstance(observed, dict):
        return {key: rounded(value) for key, value in observed.items()}
    return observed


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "table",
    [
        pytest.param(DIRTY, id="dirty"),
        pytest.param(CLEAN, id="clean", marks=pytest.mark.long),
        pytest.param(ALL_MISSING, id="all missing", marks=pytest.mark.long),
    ],
)
def test_a_scan_finds_what_great_expectations_finds_on_spark(table: pa.Table, spark: SparkSession) -> None:
    """Verdict, count, observed value and examples: an hour must not be judged otherwise because it is done cheaply."""
    asked = [each for each in MEASURED if table is not ALL_MISSING or each.type not in OF_SOMETHING]
    plain = on_spark(asked, table, spark, with_examples=table is DIRTY)
    broken = [finding.expectation for finding in plain if not finding.success]
    for by_scan, by_spark in zip(ours(asked, table), plain, strict=True):
        if "stdev" in by_scan.expectation.type and by_spark.observed is None:  # in doubles the squares overflow
            by_scan = replace(by_scan, observed=None, remark=by_spark.remark)
        assert comparable(by_scan, table is DIRTY) == comparable(by_spark, table is DIRTY)
    assert len(broken) > 25 or table is not DIRTY, "dirty data that breaks little shows little"


def test_all_that_can_share_it_is_one_scan() -> None:
    """The hour's files are the expensive part: only sums and repeats are sought apart, in their columns alone, and
    examples."""
    scans: list[list[str]] = []

    def counted(columns: Any) -> pa.RecordBatchReader:
        scans.append(list(columns))
        return CLEAN.select(list(columns)).to_reader()

    holding = [
        each
        for each in MEASURED
        if each.kwargs.get("column") in ("n", "city", "event_id") and "row_condition" not in each.kwargs
    ]
    findings, _ = gx.findings_in_scan(holding, SCHEMA, counted)
    failed = [finding for finding in findings if not finding.success]
    assert scans[0] == ["city", "event_id", "n"]
    repeats = [each for each in holding if each.type == "expect_column_values_to_be_unique"]
    assert scans[1] == ["n"], "of which sums are asked"
    assert scans[2:] == [[each.kwargs["column"]] for each in repeats] + [
        [*dict.fromkeys(["event_id", *finding.expectation.columns])] for finding in failed if finding.examples
    ]


def test_two_values_with_the_same_hash_are_not_one() -> None:
    """Repeats are sought among hashes; what is found is compared in full before it is said of a row."""
    table = pa.table({"event_id": ["a", "b", "c", "c"]})
    rule = UniqueRule(("event_id",), "event_id is not null")
    with hour_scan(scan_of(table), row_hash=lambda columns: "hash(length(event_id))") as hour:
        assert hour.repeats(rule) == 2
        assert hour.examples(rule, ["event_id"], 10) == [{"event_id": "c"}, {"event_id": "c"}]
