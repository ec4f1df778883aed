"""Whether an hour is as its suite says: expectations and rows in, one finding per expectation out.

Great Expectations judges. What it asks is measured in one scan (`metrics`) or, where SQL cannot express it, by its own
engines. These are used without a data context, which would keep every hour's rows in memory, belong to the whole
process and send telemetry; and it is imported at the first hour, since that takes seconds which commands
that only read should not pay.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import SuiteError
from lakehouse.validate.extra import needs_quality
from lakehouse.validate.findings import Finding, event_id_first, plain
from lakehouse.validate.metrics import measure
from lakehouse.validate.rules import rule_of
from lakehouse.validate.scan import HourScan, Measure, Rule, Scan, UniqueRule, hour_scan
from lakehouse.validate.suites import Expectation, Suite, parameters_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EXAMPLES = 100
"""How many rows that break an expectation are kept by name; all of them are counted."""

_ANY_HOUR = "2000-01-01T00"
_importing = threading.Lock()
log = logging.getLogger(__name__)

_DETAILS = {
    "result_format": "SUMMARY",
    "partial_unexpected_count": EXAMPLES,
    "unexpected_index_column_names": ["event_id"],
}
_VERDICT_ONLY = {"result_format": "BOOLEAN_ONLY"}
_OBSERVED = {"result_format": "BASIC"}

GX = Callable[[Sequence[Expectation]], list[Finding]]
"""An engine of Great Expectations at the hour's rows."""


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
    load()
    questions = {place: question for place, each in enumerate(expectations) if (question := _question(each, schema))}
    wanted = {metric: each for question in questions.values() for metric, each in question.measures.items()}
    with hour_scan(scan) as hour:
        extra: dict[Any, Measure] = {("also", name): each for name, each in (also or {}).items()}
        metrics = hour.metrics(wanted | extra)
        answers = {place: _answer(question, metrics, hour, examples) for place, question in questions.items()}
    findings = {place: finding for place, finding in answers.items() if finding is not None}
    rest = {place: each for place, each in enumerate(expectations) if place not in findings}
    if rest:
        findings |= dict(zip(rest, otherwise(list(rest.values())), strict=True))
    return [findings[place] for place in range(len(expectations))], {name: metrics["also", name] for name in also or {}}


def findings_in_arrow(expectations: Sequence[Expectation], rows: pa.Table) -> list[Finding]:
    """One finding per expectation, in their order, by the pandas engine; SuiteError when one cannot be answered.

    Of an hour without rows everything holds that is said of its rows or their columns.
    """
    asked = {place: each for place, each in enumerate(expectations) if len(rows) or each.is_about_the_hour}
    found = dict(zip(asked, _in_arrow(list(asked.values()), rows), strict=True))
    return [found.get(place) or Finding(each, True, 0) for place, each in enumerate(expectations)]


def _in_arrow(expectations: Sequence[Expectation], rows: pa.Table) -> list[Finding]:
    load()
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine

    return _findings(expectations, PandasExecutionEngine(batch_data_dict={"hour": _frame(rows)}), _DETAILS)


def findings_in_spark(expectations: Sequence[Expectation], rows: DataFrame) -> list[Finding]:
    """The same by Spark: first only whether each holds; numbers and examples for those that do not."""
    load()
    from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine

    def engine() -> Any:
        return SparkDFExecutionEngine(spark=rows.sparkSession, persist=False, batch_data_dict={"hour": rows})

    findings = _findings(expectations, engine(), _VERDICT_ONLY)
    failed = {place: finding.expectation for place, finding in enumerate(findings) if not finding.success}
    detailed = dict(zip(failed, _findings(list(failed.values()), engine(), _DETAILS), strict=True)) if failed else {}
    return [detailed.get(place, finding) for place, finding in enumerate(findings)]


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


def _question(expectation: Expectation, schema: pa.Schema) -> _Question | None:
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


def _answer(question: _Question, metrics: Mapping[Any, Any], hour: HourScan, limit: int) -> Finding | None:
    rule, count = question.rule, question.count
    known = {metric: metrics[metric] for metric in question.measures}
    if isinstance(rule, UniqueRule):
        known[count] = hour.repeats(rule)
    result_format = _VERDICT_ONLY if rule else _DETAILS
    from great_expectations.exceptions.exceptions import GreatExpectationsError

    try:
        result = question.judge.metrics_validate(
            known,
            runtime_configuration={"result_format": dict(result_format)},
        )
    except (GreatExpectationsError, TypeError, ValueError) as refused:  # the metric's type: its own engine is asked
        log.debug("%s cannot judge what was measured: %s", question.expectation.type, refused)
        return None
    success, details = bool(result.success), result.result or {}
    unexpected = known[count] if rule else details.get("unexpected_count")
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
        tuple(event_id_first(plain(example)) for example in examples),
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


def load() -> None:
    """Import Great Expectations, in one thread while others wait: its modules import each other in circles.

    Its telemetry is off, and so are log lines about its internals. MissingExtraError where it is not installed.
    """
    with _importing:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        with needs_quality("Great Expectations"):
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
    load()
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
                next_step="Fix its kwargs, then run `lakehouse topics check`.",
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
            next_step="Fix it, then run `lakehouse topics check`.",
        ) from error


def _finding(expectation: Expectation, result: Any) -> Finding:
    complaint = _exception_in(result.exception_info)
    if complaint:
        raise SuiteError(
            f"{expectation.origin}: {expectation.type} of {expectation.subject}",
            found=f"Great Expectations raised {complaint}",
            expected="an answer",
            next_step="Fix the expectation if it does not fit the column's type; "
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
        tuple(event_id_first(plain(example)) for example in examples[:EXAMPLES]),
        _remark(details),
    )


def _exception_in(info: Mapping[str, Any] | None) -> str | None:
    """Great Expectations keeps one exception, or one for each metric that was needed."""
    infos = [info or {}, *(value for value in (info or {}).values() if isinstance(value, Mapping))]
    for each in infos:
        if each.get("raised_exception") and each.get("exception_message"):
            return _one_line(str(each["exception_message"]))
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
