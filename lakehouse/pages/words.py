"""Values and expectations in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any


def sentence(expectation: Mapping[str, Any]) -> str:
    """What an expectation demands, for people."""
    kwargs = {key: value for key, value in expectation["kwargs"].items() if value is not None}
    known = _SENTENCES.get(expectation["expectation"])
    words = known(kwargs) if known else _words_for(expectation["expectation"], kwargs)
    mostly = kwargs.get("mostly", 1)
    return words if mostly == 1 else f"{words}, in at least {_percent(mostly)}% of the rows"


def text(value: Any) -> str:
    """A value of an event or of a result: large whole numbers in groups, what is no text as JSON."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 9999 else str(value)
    if isinstance(value, list):
        return ", ".join(map(text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def second(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}"


def _percent(share: float) -> str:
    """Exact: nearly all is not all."""
    return f"{(100 * Decimal(str(share))).normalize():f}"


def _between(kwargs: Mapping[str, Any], what: str = "", unbounded: str = "has any value") -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    is_above, is_below = kwargs.get("strict_min"), kwargs.get("strict_max")
    if low is not None and high is not None and not (is_above or is_below):
        return f"{what or 'lies'} between {text(low)} and {text(high)}"
    if low is None and high is None:
        return unbounded
    bounds = []
    if low is not None:
        above = "after" if isinstance(low, str) else "more than"
        bounds.append(f"{above if is_above else 'at least'} {text(low)}")
    if high is not None:
        below = "before" if isinstance(high, str) else "less than"
        bounds.append(f"{below if is_below else 'at most'} {text(high)}")
    return f"{what or 'is'} {' and '.join(bounds)}"


def _pair(kwargs: Mapping[str, Any]) -> str:
    return f"{kwargs['column_A']} {'≥' if kwargs.get('or_equal') else '>'} {kwargs['column_B']}"


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "expect_column_values_to_not_be_null": lambda kwargs: "is not missing",
    "expect_column_values_to_be_null": lambda kwargs: "is missing",
    "expect_column_values_to_be_unique": lambda kwargs: "comes only once",
    "expect_compound_columns_to_be_unique": lambda kwargs: "come together only once",
    "expect_column_values_to_be_between": _between,
    "expect_column_value_lengths_to_be_between": lambda kwargs: _between(kwargs, "has a length", "has any length"),
    "expect_column_mean_to_be_between": lambda kwargs: _between(kwargs, "has a mean", "has any mean"),
    "expect_column_max_to_be_between": lambda kwargs: _between(kwargs, "has a largest value", "has any largest value"),
    "expect_column_min_to_be_between": lambda kwargs: _between(
        kwargs, "has a smallest value", "has any smallest value"
    ),
    "expect_column_values_to_be_in_set": lambda kwargs: f"is one of {text(kwargs.get('value_set'))}",
    "expect_column_values_to_not_be_in_set": lambda kwargs: f"is none of {text(kwargs.get('value_set'))}",
    "expect_column_values_to_match_regex": lambda kwargs: f"matches {kwargs.get('regex')}",
    "expect_column_values_to_not_match_regex": lambda kwargs: f"does not match {kwargs.get('regex')}",
    "expect_column_pair_values_a_to_be_greater_than_b": _pair,
    "expect_table_row_count_to_equal": lambda kwargs: f"has exactly {text(kwargs.get('value'))} rows",
    "expect_volume_as_usual": lambda kwargs: "holds as much as is usual for its hour of the day and week",
    "expect_table_row_count_to_be_between": lambda kwargs: f"{_between(kwargs, 'has', 'has any number of')} rows",
}

_SAID_ELSEWHERE = ("column", "column_A", "column_B", "column_list", "mostly", "ignore_row_if")


def _words_for(kind: str, kwargs: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in kwargs.items() if key not in _SAID_ELSEWHERE}
    words = kind.removeprefix("expect_").replace("_", " ")
    return f"{words} ({', '.join(f'{key} {text(value)}' for key, value in rest.items())})" if rest else words
