"""`expect_volume_as_usual`: an expectation of Great Expectations that knows what an hour of the topic usually holds.

In a suite: {"type": "expect_volume_as_usual", "kwargs": {"hour": {"$PARAMETER": "hour"},
"model": {"$PARAMETER": "volume_model"}, "distinct": "user", "null_shares": ["country"]}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.validator.metric_configuration import MetricConfiguration

from lakehouse.validate.volume import ENOUGH_HOURS, ROWS, distinct_of, share_of_nulls
from lakehouse.validate.volume_models import model_at


class ExpectVolumeAsUsual(BatchExpectation):
    """Rows, distinct values of a column and shares of nulls lie where they do in other weeks at this hour.

    `model` is an address of a model's file or `models:/<name>@<alias>` in MLflow's registry. With too little history
    it holds, and says so in `details`. Both can be left to the hour, as `{"$PARAMETER": …}`.
    """

    hour: str | dict[str, str]
    model: str | dict[str, str]
    distinct: str | None = None
    null_shares: list[str] | None = None

    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.row_count",)
    success_keys: ClassVar[tuple[str, ...]] = ("hour", "model", "distinct", "null_shares")
    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id", "table")

    def get_validation_dependencies(
        self, execution_engine: Any = None, runtime_configuration: dict[str, Any] | None = None
    ) -> Any:
        dependencies = super().get_validation_dependencies(execution_engine, runtime_configuration)
        table = dependencies.metric_configurations["table.row_count"].metric_domain_kwargs
        wanted = {f"nulls of {column}": ("column_values.nonnull.unexpected_count", column) for column in self._shares()}
        if self.distinct:
            wanted["distinct"] = ("column.distinct_values.count", self.distinct)
        for name, (metric, column) in wanted.items():
            dependencies.set_metric_configuration(name, MetricConfiguration(metric, {**table, "column": column}, {}))
        return dependencies

    def _shares(self) -> list[str]:
        return list(self.null_shares or ())

    def _validate(
        self, metrics: Mapping[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> dict[str, Any]:
        rows = int(metrics["table.row_count"])
        values: dict[str, float] = {ROWS: rows}
        if self.distinct:
            values[distinct_of(self.distinct)] = int(metrics["distinct"])
        for column in self._shares():
            values[share_of_nulls(column)] = int(metrics[f"nulls of {column}"]) / rows if rows else 0.0
        model = model_at(str(self.model))
        if model is None or not model.has_enough:
            known = model.hours if model else 0
            remark = f"Too little history to know what is usual: {known} hours of at least {ENOUGH_HOURS}."
            return {"success": True, "result": {"observed_value": values, "details": {"remark": remark}}}
        off = {
            name: f"{value:g}, usually {band.low:.4g} to {band.high:.4g}"
            for name, value in values.items()
            if (band := model.band(name, str(self.hour))) is not None and not band.holds(value)
        }
        observed = {**values, "unusual": off} if off else values
        return {"success": not off, "result": {"observed_value": observed, "details": {}}}
