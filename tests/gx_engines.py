"""Great Expectations' own Spark engine, used the ordinary way: what the product's one scan is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from pyspark.sql import DataFrame

from lakehouse.validate import gx
from lakehouse.validate.findings import Finding, example_rows, observed_value
from lakehouse.validate.suites import Expectation

OBSERVED = {"result_format": "BASIC"}
DETAILS = {
    "result_format": "SUMMARY",
    "partial_unexpected_count": gx.EXAMPLES,
    "unexpected_index_column_names": ["event_id"],
}


def findings_on_spark(
    expectations: Sequence[Expectation], rows: DataFrame, result_format: Mapping[str, Any] = OBSERVED
) -> list[Finding]:
    """One finding per expectation, in their order; AssertionError where one has no answer."""
    gx.load()
    from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.validator.validator import Validator

    no_bars: Any = SimpleNamespace(progress_bars={"globally": False})
    engine = SparkDFExecutionEngine(spark=rows.sparkSession, persist=False, batch_data_dict={"hour": rows})
    configurations = [
        ExpectationConfiguration(type=each.type, kwargs=dict(each.kwargs), meta={"place": place})
        for place, each in enumerate(expectations)
    ]
    results: list[Any] = Validator(engine, data_context=no_bars).graph_validate(
        configurations, runtime_configuration={"catch_exceptions": True, "result_format": dict(result_format)}
    )
    by_place = {int(result.expectation_config.meta["place"]): result for result in results}
    limit = int(result_format.get("partial_unexpected_count", gx.EXAMPLES))
    return [_finding(each, by_place[place], limit) for place, each in enumerate(expectations)]


def _finding(expectation: Expectation, result: Any, limit: int) -> Finding:
    infos = [result.exception_info or {}, *(result.exception_info or {}).values()]
    raised = [info for info in infos if isinstance(info, Mapping) and info.get("raised_exception")]
    assert not raised, (expectation, raised)
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
        observed_value(details.get("observed_value")),
        example_rows(examples[:limit]),
    )
