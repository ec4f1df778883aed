"""Whether an aggregate is within its bounds: compared exactly, in the type of its column. Rounded is what is shown.

Great Expectations makes a double of every bound, which is another number beyond 15 digits.

An aggregate of integers or decimals is a fraction, and so is its bound: 0.1 is a tenth. Of floats it is the nearest
float of the column's width, and so is its bound. Counts are integers, proportions are doubles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from lakehouse.validate.literals import NotExpressibleInSql, floor_of, is_float, is_number, type_name
from lakehouse.validate.sums import square_root

METRICS = {
    "expect_column_max_to_be_between": "column.max",
    "expect_column_mean_to_be_between": "column.mean",
    "expect_column_median_to_be_between": "column.median",
    "expect_column_min_to_be_between": "column.min",
    "expect_column_proportion_of_non_null_values_to_be_between": "column.non_null_proportion",
    "expect_column_proportion_of_unique_values_to_be_between": "column.unique_proportion",
    "expect_column_quantile_values_to_be_between": "column.quantile_values",
    "expect_column_stdev_to_be_between": "column.standard_deviation",
    "expect_column_sum_to_be_between": "column.sum",
    "expect_column_unique_value_count_to_be_between": "column.distinct_values.count",
    "expect_table_column_count_to_be_between": "table.column_count",
    "expect_table_row_count_to_be_between": "table.row_count",
}
"""The metric of each expectation that is judged here."""

NO_VALUES = "There is none: all values are missing."
_COUNTS = ("column.distinct_values.count", "table.column_count", "table.row_count")
_PROPORTIONS = ("column.non_null_proportion", "column.unique_proportion")
_SHOWN = Context(prec=30)
_EXACT_DIGITS = 40


@dataclass(frozen=True)
class Judged:
    """Whether it holds, what is shown of the aggregate, and why there is none."""

    success: bool
    observed: Any
    remark: str = ""


@dataclass(frozen=True)
class Interval:
    """Bounds of one value; None is no bound. `kind` is the type in which they are compared, None of exact numbers."""

    kind: pa.DataType | None
    low: Any = None
    high: Any = None
    is_above: bool = False
    is_below: bool = False

    def holds(self, value: Any) -> bool:
        """NaN is above every number, as the database orders floats."""
        if isinstance(value, float) and math.isnan(value):
            return self.high is None
        if self.kind is not None and not is_float(self.kind):
            return self._holds_in_order(value)
        above = self.low is None or (value > self.low if self.is_above else value >= self.low)
        return above and (self.high is None or (value < self.high if self.is_below else value <= self.high))

    def _holds_in_order(self, value: Any) -> bool:
        """Of text, dates and instants: a bound between two dates is one with its floor."""
        above = below = True
        if self.low is not None:
            floor, is_exact = self.low
            above = value >= floor if is_exact and not self.is_above else value > floor
        if self.high is not None:
            floor, is_exact = self.high
            below = value < floor if is_exact and self.is_below else value <= floor
        return bool(above and below)


@dataclass(frozen=True)
class Bounds:
    """What one expectation says of one metric; NotExpressibleInSql from `bounds_of` where it has no one meaning."""

    metric: str
    kind: pa.DataType | None
    intervals: tuple[Interval, ...]
    quantiles: tuple[float, ...] = ()

    def judge(self, measured: Any) -> Judged:
        """`measured` is the metric: a value, a fraction, or one for each quantile; None where the hour has none."""
        values = list(measured) if self.quantiles and measured is not None else [measured]
        if any(value is None for value in values):
            return Judged(False, None, self._why_none())
        compared = [rounded_to(value, self.kind) for value in values]
        success = all(interval.holds(value) for interval, value in zip(self.intervals, compared, strict=True))
        shown = [shown_of(value, self.kind) for value in compared]
        observed = {"quantiles": list(self.quantiles), "values": shown} if self.quantiles else shown[0]
        is_nan = any(isinstance(value, float) and math.isnan(value) for value in compared)
        return Judged(success, observed, "" if success or not is_nan else "It is NaN, which is above every number.")

    def _why_none(self) -> str:
        if self.metric == "column.standard_deviation":
            return "There is none: fewer than two values are there."
        return NO_VALUES


def bounds_of(kind_of_expectation: str, kwargs: Mapping[str, Any], schema: pa.Schema) -> Bounds | None:
    """The bounds of an expectation that is judged here; None of another one."""
    metric = METRICS.get(kind_of_expectation)
    if metric is None:
        return None
    column = str(kwargs.get("column"))
    kind = None if metric.startswith("table.") or column not in schema.names else schema.field(column).type
    if metric in _COUNTS:
        kind = None
    elif metric in _PROPORTIONS:
        kind = pa.float64()
    elif kind is not None and is_number(kind) and not is_float(kind):
        takes_text = pa.types.is_decimal(kind)
        return _bounds(metric, None, kwargs, takes_text)
    return _bounds(metric, kind, kwargs, False)


def _bounds(metric: str, kind: pa.DataType | None, kwargs: Mapping[str, Any], takes_text: bool) -> Bounds:
    if metric != "column.quantile_values":
        return Bounds(metric, kind, (_interval(kwargs, kind, takes_text),))
    ranges = kwargs.get("quantile_ranges")
    quantiles, values = (ranges.get("quantiles"), ranges.get("value_ranges")) if isinstance(ranges, Mapping) else (0, 0)
    if (
        not isinstance(quantiles, list)
        or not isinstance(values, list)
        or not quantiles
        or len(quantiles) != len(values)
    ):
        raise NotExpressibleInSql("quantile_ranges needs as many value_ranges as quantiles, and one at least")
    intervals = tuple(_interval(_pair(each), kind, takes_text) for each in values)
    return Bounds(metric, kind, intervals, tuple(map(_quantile, quantiles)))


def _pair(value: Any) -> dict[str, Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise NotExpressibleInSql(f"{value!r} is no pair of bounds")
    return {"min_value": value[0], "max_value": value[1]}


def _quantile(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise NotExpressibleInSql(f"{value!r} is no quantile (expected a number from 0 to 1)")
    return float(value)


def _interval(kwargs: Mapping[str, Any], kind: pa.DataType | None, takes_text: bool) -> Interval:
    low, high = (_bound(kwargs.get(name), kind, takes_text) for name in ("min_value", "max_value"))
    return Interval(kind, low, high, kwargs.get("strict_min") is True, kwargs.get("strict_max") is True)


def _bound(value: Any, kind: pa.DataType | None, takes_text: bool) -> Any:
    if value is None:
        return None
    if kind is None:
        return exact_number(value, takes_text)
    floor, is_exact = floor_of(value, kind)
    if is_float(kind):
        return floor
    if floor is None:
        raise NotExpressibleInSql(f"{value!r} is below every {type_name(kind)}")
    return floor, is_exact


def exact_number(value: Any, takes_text: bool = False) -> Fraction:
    """The number as it is spelled: of 0.1 a tenth; NotExpressibleInSql where it is none."""
    is_numeric = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if is_numeric or (takes_text and isinstance(value, str)):
        try:
            return Fraction(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
        except (ArithmeticError, ValueError):
            pass
    raise NotExpressibleInSql(f"{value!r} is no number" + (", nor one as text" if takes_text else ""))


def rounded_to(value: Any, kind: pa.DataType | None) -> Any:
    """The value that is compared: of floats the nearest one of the column's width, all else as it is."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        value = Fraction(value)
    if kind is None or not is_float(kind):
        return value
    if isinstance(value, Fraction):
        try:
            value = float(value)
        except OverflowError:  # beyond every double, and so beyond every bound on its side
            return value
    with np.errstate(over="ignore"):
        return float(np.float32(value)) if pa.types.is_float32(kind) else value


def shown_of(value: Any, kind: pa.DataType | None) -> Any:
    """For people: 15 digits, and more only where a bound could depend on them; a float by its shortest spelling."""
    if isinstance(value, float) and kind is not None and pa.types.is_float32(kind) and math.isfinite(value):
        return float(str(np.float32(value)))
    if not isinstance(value, Fraction):
        return value.isoformat() if isinstance(value, date) else value
    if value.denominator == 1:
        return value.numerator
    number = _SHOWN.divide(Decimal(value.numerator), Decimal(value.denominator))
    short = float(f"{number:.15g}")
    if Fraction(Decimal(repr(short))) == value or abs(value) < 1e6:
        return short
    return format(number.normalize(_SHOWN), "f") if len(str(number)) < _EXACT_DIGITS else str(number)


def middle(pair: Sequence[Any] | None) -> Any:
    """The median, from the two values in the middle; None where there is none."""
    if pair is None or any(each is None for each in pair):
        return None
    low, high = pair
    if any(isinstance(each, float) and not math.isfinite(each) for each in pair):
        return (low + high) / 2
    return (Fraction(low) + Fraction(high)) / 2


def deviation(variance: Fraction | None) -> Fraction | None:
    return None if variance is None else square_root(variance)
