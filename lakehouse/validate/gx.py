"""Whether an hour is as its suite says: expectations and rows in, one finding per expectation out.

Great Expectations judges. What it asks is measured in one scan (`measures`) or, where that cannot say it, by its own
engines. These are used without a data context, which would keep every hour's rows in memory, belong to the whole
process and want to report to its makers; and it is imported at the first hour, since that takes seconds which commands
that only read should not pay.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import SuiteError
from lakehouse.validate.metrics import Hour, Measure, Rule, Scan, Sole, looked_at, measure, rule_of
from lakehouse.validate.suites import Expectation, Suite, parameters_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EXAMPLES = 100
"""How many rows that break an expectation are kept by name; all of them are counted."""

_ANY_HOUR = "2000-01-01T00"
_importing = threading.Lock()

_DETAILS = {
    "result_format": "SUMMARY",
    "partial_unexpected_count": EXAMPLES,
    "unexpected_index_column_names": ["event_id"],
}
_VERDICT_ONLY = {"result_format": "BOOLEAN_ONLY"}
_OBSERVED = {"result_format": "BASIC"}

GX = Callable[[Sequence[Expectation]], list["Finding"]]
"""An engine of Great Expectations at the hour's rows."""


@dataclass(frozen=True)
class Finding:
    """What one expectation found in one hour.

    `unexpected` counts the rows that break it, None where it speaks of something else than rows, or holds and was not
    asked for numbers. `examples` are up to EXAMPLES of them: `event_id` and the columns it speaks of. `remark` is what
    should be known though it holds.
    """

    expectation: Expectation
    success: bool
    unexpected: int | None = None
    observed: Any = None
    examples: tuple[Mapping[str, Any], ...] = ()
    remark: str = ""

    @property
    def gates(self) -> bool:
        return not self.success and self.expectation.severity == "critical"

    @property
    def warns(self) -> bool:
        return not self.success and self.expectation.severity == "warning"

    def as_json(self) -> dict[str, Any]:
        return {
            "expectation": self.expectation.type,
            "column": ", ".join(self.expectation.columns) or None,
            "kwargs": dict(self.expectation.kwargs),
            "severity": self.expectation.severity,
            "notes": self.expectation.notes,
            "success": self.success,
            "unexpected": self.unexpected,
            "observed": self.observed,
            "examples": [dict(example) for example in self.examples],
            "remark": self.remark,
        }


def findings_in_scan(
    expectations: Sequence[Expectation],
    schema: pa.Schema,
    scan: Scan,
    otherwise: GX,
    also: Mapping[str, Measure] | None = None,
    examples: int = EXAMPLES,
) -> tuple[list[Finding], dict[str, Any]]:
    """One finding per expectation, in their order, and what `also` asks for, all measured in one scan.

    `schema` is that of the scan. What cannot be measured so is left to `otherwise`. Rows that break an expectation are
    looked for only where there are some.
    """
    _ready()
    posed = [_posed(expectation, schema) for expectation in expectations]
    wanted: dict[Any, Measure] = {
        metric: each for question in posed if question for metric, each in question.measures.items()
    }
    with looked_at(scan) as hour:
        extra = {("also", name): each for name, each in (also or {}).items()}
        metrics = hour.measured(wanted | extra)
        answered = [_answered(question, metrics, hour, examples) if question else None for question in posed]
    rest = [expectation for expectation, finding in zip(expectations, answered, strict=True) if finding is None]
    others = iter(otherwise(rest) if rest else [])
    findings = [finding if finding is not None else next(others) for finding in answered]
    return findings, {name: metrics["also", name] for name in also or {}}


def findings_in_arrow(expectations: Sequence[Expectation], rows: pa.Table) -> list[Finding]:
    """One finding per expectation, in their order, by the pandas engine; SuiteError when one cannot be answered.

    Of an hour without rows everything holds that is said of its rows or their columns.
    """
    if not len(rows):
        answered = iter(_in_arrow([known for known in expectations if known.is_about_the_hour], rows))
        return [
            next(answered) if expectation.is_about_the_hour else Finding(expectation, True, 0)
            for expectation in expectations
        ]
    return _in_arrow(expectations, rows)


def _in_arrow(expectations: Sequence[Expectation], rows: pa.Table) -> list[Finding]:
    _ready()
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine

    return _findings(expectations, PandasExecutionEngine(batch_data_dict={"hour": _frame(rows)}), _DETAILS)


def findings_in_spark(expectations: Sequence[Expectation], rows: DataFrame) -> list[Finding]:
    """The same by Spark: first only whether each holds; numbers and examples for those that do not."""
    _ready()
    from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine

    def engine() -> Any:
        return SparkDFExecutionEngine(spark=rows.sparkSession, persist=False, batch_data_dict={"hour": rows})

    findings = _findings(expectations, engine(), _VERDICT_ONLY)
    failed = [finding.expectation for finding in findings if not finding.success]
    details = iter(_findings(failed, engine(), _DETAILS) if failed else [])
    return [finding if finding.success else next(details) for finding in findings]


# --- measured ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """An expectation as Great Expectations has it, and how each metric that it asks for is measured.

    `rule` is what rows can break, None where it speaks of something else than rows.
    """

    expectation: Expectation
    judge: Any
    measures: Mapping[Any, Measure]
    rule: Rule | None = None
    count: Any = None


def _posed(expectation: Expectation, schema: pa.Schema) -> _Question | None:
    """None when it asks for something that is not measured."""
    ((_, judge),) = _checked_by_gx([expectation])
    dependencies = judge.get_validation_dependencies(runtime_configuration={"result_format": dict(_VERDICT_ONLY)})
    measures: dict[Any, Measure] = {}
    rule, count = None, None
    for metric in dependencies.get_metric_configurations():
        domain, values = metric.metric_domain_kwargs, metric.metric_value_kwargs
        measured = measure(metric.metric_name, domain, values, schema)
        if measured is None:
            return None
        measures[metric.id] = measured
        if metric.metric_name == f"{getattr(judge, 'map_metric', None)}.unexpected_count":
            rule, count = rule_of(judge.map_metric, domain, values, schema), metric.id
    return _Question(expectation, judge, measures, rule, count)


def _answered(question: _Question, metrics: dict[Any, Any], hour: Hour, limit: int) -> Finding | None:
    rule, count = question.rule, question.count
    if isinstance(rule, Sole):
        metrics[count] = hour.repeats(rule)
    result_format = _VERDICT_ONLY if rule else _DETAILS
    try:
        result = question.judge.metrics_validate(
            {metric: metrics[metric] for metric in question.measures},
            runtime_configuration={"result_format": dict(result_format)},
        )
    except Exception:  # whatever it thinks of the metrics' types: its own engine says it in full
        return None
    success, details = bool(result.success), result.result or {}
    unexpected = metrics[count] if rule else details.get("unexpected_count")
    if success or rule is None:
        values = [] if success else details.get("partial_unexpected_list") or []
        examples: list[dict[str, Any]] = [{"value": value} for value in values[:limit]]
    else:
        examples = hour.examples(rule, ["event_id"], limit)
    return Finding(
        question.expectation,
        success,
        int(unexpected) if unexpected is not None else None,
        plain(details.get("observed_value")),
        tuple(_event_id_first(plain(example)) for example in examples),
        _remark(details),
    )


def _remark(details: Mapping[str, Any]) -> str:
    further = details.get("details")
    return str(further.get("remark", "")) if isinstance(further, Mapping) else ""


# --- by Great Expectations' own engines ----------------------------------------------------------------------------


def check(suite: Suite, schema: pa.Schema) -> None:
    """SuiteError when Great Expectations does not know an expectation, or cannot put it to columns of these types."""
    parameters = parameters_of(_ANY_HOUR, 0)
    _checked_by_gx([expectation.given(parameters) for expectation in suite.expectations])
    for expectation in suite.expectations:
        for pattern in _patterns(expectation.kwargs):
            _check_pattern(pattern, expectation)
    rows = with_members(schema.empty_table(), suite.columns_read(schema))
    _in_arrow([expectation.given(parameters) for expectation in suite.expectations], rows)


def with_members(rows: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Only `columns`, in which `route.origin` is a member of a struct as a column of that name."""
    names = list(columns)
    return pa.table({name: _member(rows, name) for name in names})


def _member(rows: pa.Table, column: str) -> pa.ChunkedArray:
    top, *path = column.split(".")
    return pc.struct_field(rows[top], path) if path else rows[top]


def _ready() -> None:
    """Great Expectations imported, by one thread while others wait: its modules import each other in circles.

    And before that: no reports to its makers, and no log lines about its own insides.
    """
    with _importing:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        import_module("great_expectations.validator.validator")
        import_module("lakehouse.validate.volume_expectation")


def _frame(rows: pa.Table) -> Any:
    """A pandas frame in which nulls turn no integer into a float: two large ids would become the same number."""
    import pandas as pd

    exact = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
    }
    return rows.to_pandas(types_mapper=exact.get)


def _findings(expectations: Sequence[Expectation], engine: Any, result_format: Mapping[str, Any]) -> list[Finding]:
    from great_expectations.validator.validator import Validator

    no_bars: Any = SimpleNamespace(progress_bars={"globally": False})
    validator = Validator(engine, data_context=no_bars)
    configurations = [configuration for configuration, _ in _checked_by_gx(expectations)]
    for place, configuration in enumerate(configurations):
        configuration.meta = {"place": place}
    results: list[Any] = validator.graph_validate(
        configurations, runtime_configuration={"catch_exceptions": True, "result_format": dict(result_format)}
    )
    ordered = sorted(results, key=lambda result: int(result.expectation_config.meta["place"]))
    return [_finding(expectation, result) for expectation, result in zip(expectations, ordered, strict=True)]


def _checked_by_gx(expectations: Sequence[Expectation]) -> list[tuple[Any, Any]]:
    _ready()
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError, GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    checked = []
    for expectation in expectations:
        try:
            configuration = ExpectationConfiguration(type=expectation.type, kwargs=dict(expectation.kwargs))
            checked.append((configuration, configuration.to_domain_obj()))
        except ExpectationNotFoundError as unknown:
            raise SuiteError(
                expectation.origin,
                found=f"the expectation {expectation.type!r}",
                expected="one that Great Expectations 1.24 has",
                next_step="Check the spelling in its gallery, then run `lakehouse topics check`.",
            ) from unknown
        except (GreatExpectationsError, ValueError, TypeError) as refused:
            raise SuiteError(
                expectation.origin,
                found=f"{expectation.type} with {json.dumps(dict(expectation.kwargs), default=str)[:200]}",
                expected=_complaint(refused),
                next_step="Mend its kwargs, then run `lakehouse topics check`.",
            ) from refused
    return checked


def _complaint(error: Exception) -> str:
    errors: Callable[[], list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is None:
        return _one_line(str(error))
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in errors())


def _patterns(kwargs: Mapping[str, Any]) -> list[str]:
    return [str(pattern) for pattern in [kwargs.get("regex"), *(kwargs.get("regex_list") or ())] if pattern]


def _check_pattern(pattern: str, expectation: Expectation) -> None:
    import re

    try:
        re.compile(pattern)
    except re.error as error:
        raise SuiteError(
            expectation.origin,
            found=f"the pattern {pattern!r}: {error}",
            expected="a regular expression",
            next_step="Mend it, then run `lakehouse topics check`.",
        ) from error


def _finding(expectation: Expectation, result: Any) -> Finding:
    complaint = _exception_in(result.exception_info)
    if complaint:
        raise SuiteError(
            f"{expectation.origin}: {expectation.type} of {expectation.subject}",
            found=f"no answer but {complaint}",
            expected="yes or no",
            next_step="Mend the expectation if it does not fit the column's type; "
            "else see why the files cannot be read, and run validate again: the hour stays due.",
        )
    details = result.result or {}
    success = bool(result.success)
    examples = [] if success else details.get("partial_unexpected_index_list") or []
    if not success and not examples:
        examples = [{"value": value} for value in details.get("partial_unexpected_list") or []]
    unexpected = details.get("unexpected_count")
    return Finding(
        expectation,
        success,
        int(unexpected) if unexpected is not None else None,
        plain(details.get("observed_value")),
        tuple(_event_id_first(plain(example)) for example in examples[:EXAMPLES]),
        _remark(details),
    )


def _event_id_first(example: dict[str, Any]) -> dict[str, Any]:
    return {key: example[key] for key in sorted(example, key=lambda key: key != "event_id")}


def _exception_in(info: Mapping[str, Any] | None) -> str | None:
    """Great Expectations keeps one exception, or one for each metric that was needed."""
    infos = [info or {}, *(value for value in (info or {}).values() if isinstance(value, Mapping))]
    for each in infos:
        if each.get("raised_exception") and each.get("exception_message"):
            return _one_line(str(each["exception_message"]))
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def plain(value: Any) -> Any:
    """The value as JSON has it: numbers of numpy, times, decimals and missing values made plain.

    Spark collects instants as times of the driver's own zone without saying so; `astimezone` takes them for that.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value == value else None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "asDict"):
        return plain(value.asDict(recursive=True))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(member) for member in value]
    return None if str(value) in ("<NA>", "NaT") else str(value)
