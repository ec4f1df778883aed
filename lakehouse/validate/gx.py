"""Whether an hour is as its suite says: expectations and rows in, one finding per expectation out.

Great Expectations judges; what it asks for is measured in one scan (`metrics`). Only bounds on aggregates are compared
here (`bounds`), as it makes a double of each. It is used without a data context,
which would keep every hour's rows in memory, belong to the whole process and send telemetry; and it is imported at the
first hour, since that takes seconds which commands that only read should not pay.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import SuiteError, extras_named
from lakehouse.store.scratch import is_without_room
from lakehouse.validate.bounds import NO_VALUES, Bounds, bounds_of
from lakehouse.validate.condition_text import parsed
from lakehouse.validate.findings import EXAMPLES_BYTES, Finding, example_rows, observed_value
from lakehouse.validate.literals import NotExpressibleInSql
from lakehouse.validate.metrics import measure
from lakehouse.validate.rules import rule_of
from lakehouse.validate.sample_rows import sample_rows
from lakehouse.validate.scan import HourScan, Measure, Rule, Scan, UniqueRule, hour_scan
from lakehouse.validate.suites import Expectation, Suite, parameters_of, path_of

EXAMPLES = 100
"""How many rows that violate an expectation are kept by name; all of them are counted."""

_ANY_HOUR = "2026-11-23T05"
_FIX = "Fix it, then run `lakehouse topics check`."
_importing = threading.Lock()
_VERDICT_ONLY = {"result_format": "BOOLEAN_ONLY"}
_DETAILS = {"result_format": "SUMMARY", "partial_unexpected_count": 20}

_REASONS = {
    "expect_column_values_to_be_increasing": "the rows of an hour have no order",
    "expect_column_values_to_be_decreasing": "the rows of an hour have no order",
    "expect_table_row_count_to_equal_other_table": "an hour is judged by its own rows",
}
_NOT_MEASURED = "it asks for {}, which no scan of an hour measures"

log = logging.getLogger(__name__)


def load() -> None:
    """Import Great Expectations, in one thread while others wait: its modules import each other in circles.

    Its telemetry is off, and so are log lines about its internals. MissingExtraError where it is not installed.
    """
    with _importing:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        with extras_named():
            import_module("great_expectations.validator.validator")
        import_module("lakehouse.validate.volume_expectation")


def check(suite: Suite, schema: pa.Schema) -> None:
    """SuiteError for the first expectation that could not be answered in an hour of these columns."""
    for complaint in complaints(suite, schema):
        raise complaint


def complaints(suite: Suite, schema: pa.Schema) -> list[SuiteError]:
    """One for each expectation that could not be answered in an hour of these columns.

    What Great Expectations does not know, and what gives no answer on sample rows of every type with missing values.
    Whatever an expectation raises is a complaint about that one.
    """
    load()
    parameters = parameters_of(_ANY_HOUR, 0)
    rows = with_members(sample_rows(schema), suite.columns_read(schema))

    def scan(columns: Sequence[str]) -> pa.RecordBatchReader:
        return rows.select(list(columns)).to_reader()

    with hour_scan(scan) as hour:
        asked = [each.with_parameters(parameters) for each in suite.expectations]
        found = [_complaint_about(each, hour, rows.schema, schema.names) for each in asked]
    return [each for each in found if each is not None]


def _complaint_about(
    expectation: Expectation, hour: HourScan, schema: pa.Schema, table_columns: Sequence[str]
) -> SuiteError | None:
    try:
        judge_of(expectation)
        (finding,), _ = _findings(hour, [expectation], schema, table_columns=table_columns)
        remark = "" if finding.is_answered else finding.remark
    except SuiteError as refused:
        return refused
    except Exception as broken:
        remark = f"No answer: {_one_line(broken)}"
    if not remark:
        return None
    return SuiteError(
        expectation.origin,
        found=f"{expectation.type} of {expectation.subject}: {remark}",
        expected="an expectation that every hour of the declared columns answers",
        next_step=_FIX,
    )


def findings_in_scan(
    expectations: Sequence[Expectation],
    schema: pa.Schema,
    scan: Scan,
    also: Mapping[str, Measure] | None = None,
    examples: int = EXAMPLES,
    examples_bytes: int = EXAMPLES_BYTES,
    table_columns: Sequence[str] | None = None,
) -> tuple[list[Finding], dict[str, Any]]:
    """One finding per expectation, in their order, and what `also` asks for, all measured in one scan.

    `schema` is that of the scan, `table_columns` are those of silver where it differs. Rows that violate an expectation
    are looked for only where there are some. An expectation without an answer is a finding that says why; what the
    files raise is raised (duckdb.Error, OSError).
    """
    load()
    with hour_scan(scan) as hour:
        return _findings(hour, expectations, schema, also, examples, examples_bytes, table_columns)


def _findings(
    hour: HourScan,
    expectations: Sequence[Expectation],
    schema: pa.Schema,
    also: Mapping[str, Measure] | None = None,
    examples: int = EXAMPLES,
    examples_bytes: int = EXAMPLES_BYTES,
    table_columns: Sequence[str] | None = None,
) -> tuple[list[Finding], dict[str, Any]]:
    asked = [_asked(each, schema, table_columns) for each in expectations]
    questions = [each for each in asked if isinstance(each, _Question)]
    extra: dict[Any, Measure] = {("also", name): each for name, each in (also or {}).items()}
    judging = _Judging(hour, examples, examples_bytes, _shared_metrics(hour, questions, extra))
    findings = [judging.finding(each) if isinstance(each, _Question) else each for each in asked]
    return findings, {name: judging.metrics["also", name] for name in also or {}}


def with_members(rows: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Only `columns`, in which `route.origin` is a member of a struct as a column of that name."""
    names = list(columns)
    return pa.table({name: _member(rows, path_of(name, rows.schema)) for name in names})


def _member(rows: pa.Table, path: Sequence[str]) -> pa.ChunkedArray:
    top, *members = path
    return pc.struct_field(rows[top], members) if members else rows[top]


# --- the question --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """An expectation as Great Expectations has it, and how each metric that it asks for is measured.

    `rule` is what rows can violate, `count` the metric that counts them; None where it is not about rows. `bounds` are
    those of the metric `bounded`.
    """

    expectation: Expectation
    judge: Any
    measures: Mapping[Any, Measure]
    rule: Rule | None = None
    count: Any = None
    bounds: Bounds | None = None
    bounded: Any = None

    @property
    def is_of_values(self) -> bool:
        """Whether it is about an aggregate of a column's values."""
        return self.rule is None and any(each.columns for each in self.measures.values())

    @property
    def columns(self) -> list[str]:
        return sorted({column for each in self.measures.values() for column in each.columns})


def _asked(expectation: Expectation, schema: pa.Schema, table_columns: Sequence[str] | None) -> _Question | Finding:
    """The question, or the finding that there is none: whatever it raises is of this expectation alone."""
    try:
        return _question(expectation, schema, table_columns)
    except SuiteError as refused:
        return finding_without_answer(expectation, f"{refused.found}; expected {refused.expected}")
    except Exception as refused:
        return finding_without_answer(expectation, refused)


def _question(expectation: Expectation, schema: pa.Schema, table_columns: Sequence[str] | None) -> _Question:
    if expectation.type in _REASONS:
        raise NotExpressibleInSql(_REASONS[expectation.type])
    judge = judge_of(expectation)
    condition = _condition_of(judge, expectation.kwargs.get("row_condition"))
    dependencies = judge.get_validation_dependencies(runtime_configuration={"result_format": dict(_VERDICT_ONLY)})
    measures: dict[Any, Measure] = {}
    rule = count = None
    by_name: dict[str, Any] = {}
    for metric in dependencies.get_metric_configurations():
        values = {**metric.metric_domain_kwargs, **metric.metric_value_kwargs, **expectation.kwargs}
        values["row_condition"] = condition
        measured = measure(metric.metric_name, values, schema, table_columns)
        if measured is None:
            raise NotExpressibleInSql(_NOT_MEASURED.format(metric.metric_name))
        measures[metric.id] = measured
        by_name[metric.metric_name] = metric.id
        if metric.metric_name == f"{getattr(judge, 'map_metric', None)}.unexpected_count":
            rule, count = rule_of(judge.map_metric, values, schema), metric.id
    bounds = bounds_of(expectation.type, expectation.kwargs, schema)
    return _Question(expectation, judge, measures, rule, count, bounds, by_name.get(bounds.metric) if bounds else None)


def _condition_of(judge: Any, given: object) -> Mapping[str, Any] | None:
    """The `row_condition`, as Great Expectations has read it where it is no text."""
    if isinstance(given, str):
        return parsed(given)
    condition = getattr(judge, "row_condition", None)
    if condition is None:
        return None
    known = condition.dict() if hasattr(condition, "dict") else condition
    if not isinstance(known, Mapping) or known.get("type") == "pass_through":
        raise NotExpressibleInSql(f"the row_condition {given!r} is neither text nor a condition as JSON has it")
    return known


def judge_of(expectation: Expectation) -> Any:
    """Great Expectations' own; SuiteError when it does not know the type or refuses the kwargs.

    It gets a `row_condition` as we have parsed it; NotExpressibleInSql where it cannot be.
    """
    load()
    kwargs = _with_parsed_condition(expectation.kwargs)
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        return ExpectationConfiguration(type=expectation.type, kwargs=kwargs).to_domain_obj()
    except ExpectationNotFoundError as unknown:
        raise SuiteError(
            expectation.origin,
            found=f"the expectation {expectation.type!r}",
            expected="one that Great Expectations 1.24 has",
            next_step="Check the spelling in its gallery, then run `lakehouse topics check`.",
        ) from unknown
    except Exception as refused:  # whatever its libraries make of a value
        raise SuiteError(
            expectation.origin,
            found=f"{expectation.type} with {json.dumps(dict(expectation.kwargs), default=str)[:200]}",
            expected=_complaint(refused),
            next_step=f"Check its kwargs. {_FIX}",
        ) from refused


def _with_parsed_condition(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    condition = kwargs.get("row_condition")
    if not isinstance(condition, str):
        return dict(kwargs)
    return {**kwargs, "row_condition": parsed(condition), "condition_parser": None}


def _complaint(error: Exception) -> str:
    errors: Callable[[], list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is None:
        return _one_line(error)
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in errors())


# --- the answer ----------------------------------------------------------------------------------------------------


def finding_without_answer(expectation: Expectation, cause: object) -> Finding:
    """The finding that an expectation had no answer: it is not met, and stops no other."""
    return Finding(expectation, False, remark=f"No answer: {_one_line(cause)}", is_answered=False)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


def _shared_metrics(hour: HourScan, questions: Sequence[_Question], extra: Mapping[Any, Measure]) -> dict[Any, Any]:
    """All metrics of one scan; only `extra` where an expectation breaks it: then each is measured alone."""
    wanted = {metric: each for question in questions for metric, each in question.measures.items()}
    try:
        return hour.metrics(wanted | dict(extra))
    except duckdb.Error as broken:
        log.debug("validate: next=measure one by one error=%s", broken)
        return hour.metrics(extra)


@dataclass(frozen=True)
class _Judging:
    """An hour under judgement."""

    hour: HourScan
    examples: int
    examples_bytes: int
    metrics: Mapping[Any, Any]

    def finding(self, question: _Question) -> Finding:
        """What was found; when the database refuses the question but reads its columns, the finding says so."""
        try:
            return self._judged(question)
        except duckdb.Error as refused:
            if is_without_room(refused):
                raise
            self.hour.probe(question.columns)
            return finding_without_answer(question.expectation, refused)
        except (OSError, pa.ArrowException):
            raise
        except Exception as refused:
            return finding_without_answer(question.expectation, refused)

    def _judged(self, question: _Question) -> Finding:
        judge = self._answer if question.bounds is None else self._bounded
        try:
            return judge(question)
        except duckdb.OutOfMemoryException as refused:
            if is_without_room(refused):
                raise
            self.hour.with_one_thread()
            return judge(question)

    def _bounded(self, question: _Question) -> Finding:
        assert question.bounds is not None
        judged = question.bounds.judge(self._known(question)[question.bounded])
        return Finding(
            question.expectation, judged.success, observed=observed_value(judged.observed), remark=judged.remark
        )

    def _known(self, question: _Question) -> dict[Any, Any]:
        """Its metrics; measured alone where the shared scan could not."""
        known = {metric: self.metrics[metric] for metric in question.measures if metric in self.metrics}
        return known if len(known) == len(question.measures) else self.hour.metrics(question.measures)

    def _answer(self, question: _Question) -> Finding:
        rule, count = question.rule, question.count
        known = self._known(question)
        if isinstance(rule, UniqueRule):
            known[count] = self.hour.repeats(rule)
        result_format = _VERDICT_ONLY if rule else _DETAILS
        result = question.judge.metrics_validate(known, runtime_configuration={"result_format": dict(result_format)})
        success, details = bool(result.success), result.result or {}
        unexpected = known[count] if rule else details.get("unexpected_count")
        examples: Sequence[Mapping[str, Any]] = ()
        remark = _remark(details)
        if question.is_of_values and not success and details.get("observed_value") in ([], None):
            remark = remark or NO_VALUES
        if rule is not None and not success:
            examples, missing = self._examples_of(rule)
            remark = f"{remark} {missing}".strip()
        elif not success:
            examples = [{"value": value} for value in details.get("partial_unexpected_list") or ()]
        kept = example_rows(examples, self.examples_bytes)
        if len(kept) < len(examples):
            remark = f"{remark} Examples are cut: {len(kept)} of {len(examples)} shown.".strip()
        return Finding(
            question.expectation,
            success,
            int(unexpected) if unexpected is not None else None,
            observed_value(details.get("observed_value")),
            kept,
            remark,
        )

    def _examples_of(self, rule: Rule) -> tuple[Sequence[Mapping[str, Any]], str]:
        """And why there are none: what does not fit into memory must not decide the verdict."""
        try:
            return self.hour.examples(rule, ["event_id"], self.examples), ""
        except duckdb.OutOfMemoryException as refused:
            if is_without_room(refused):
                raise
            return (), "Examples are left out: the rows are too large to sort."


def _remark(details: Mapping[str, Any]) -> str:
    further = details.get("details")
    return str(further.get("remark", "")) if isinstance(further, Mapping) else ""
