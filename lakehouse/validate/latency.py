"""How late the events of an hour were: from when they happened to when they were published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lakehouse.validate.scan import Measure

BOUNDS_SECONDS = (1, 10, 60, 600, 3600, 21600, 86400)
"""Upper ends of the histogram's bars; the last bar holds what is later than all of them."""
PERCENTILES = (50, 90, 99)

_COLUMNS = ("event_time", "publish_time")
_SECONDS = "(epoch_us(publish_time) - epoch_us(event_time)) / 1e6"


def _bar(low: int | None, high: int | None) -> Measure:
    above = f"{_SECONDS} >= {low}" if low is not None else "true"
    below = f"{_SECONDS} < {high}" if high is not None else "true"
    return Measure(f"count(*) filter ({above} and {below})", _COLUMNS)


MEASURES: dict[str, Measure] = {
    "rows": Measure("count(*)"),
    "percentiles": Measure(
        f"approx_quantile({_SECONDS}, {[percent / 100 for percent in PERCENTILES]})",
        _COLUMNS,
        lambda found: found or (),
    ),
    "largest": Measure(f"max({_SECONDS})", _COLUMNS),
    **{
        f"bar {place}": _bar(low, high)
        for place, (low, high) in enumerate(zip((None, *BOUNDS_SECONDS), (*BOUNDS_SECONDS, None), strict=True))
    },
}


def summary(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """Percentiles and bars as they are kept with an hour's result; None for an hour without rows."""
    if not measured["rows"] or not measured["percentiles"]:
        return None
    percentiles = {
        f"p{percent}_seconds": round(value, 3)
        for percent, value in zip(PERCENTILES, measured["percentiles"], strict=True)
    }
    return {
        **percentiles,
        "largest_seconds": round(measured["largest"], 3),
        "bounds_seconds": list(BOUNDS_SECONDS),
        "rows": [measured[f"bar {place}"] for place in range(len(BOUNDS_SECONDS) + 1)],
    }
