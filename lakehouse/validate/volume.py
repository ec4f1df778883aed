"""What an hour of a topic usually holds, by hour of day and week: fitted to sealed hours, as bands.

Counts are compared as ratios: half of the usual is as far from it as double. A band is as wide as hours like this one
have varied, and as chance alone makes it where few events come; where many come it is never so wide that a halved or a
doubled hour would lie in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from lakehouse import hours
from lakehouse.hours import Hour

DAYS = 28
"""The training window: usage changes with timetables and seasons, and each weekday should come four times."""
ENOUGH_HOURS = 14 * 24
"""Two weeks: with less, a weekday was seen once, and one sample does not show what is usual."""
ROWS = "rows"

_SPREADS = 3.5
"""How many spreads off the usual is unusual: of a thousand usual hours fewer than one, were they normally spread."""
_WIDEST = math.log(2) * 0.95
"""Half of a band of counts at most, as the logarithm of a ratio: half and double must lie outside."""
_NARROWEST = math.log(1.15)
_NARROWEST_SHARE = 0.05
_DAY_WEIGHT = 3
"""The hour of the day counts as much as so many hours of the same weekday."""
_MAD_TO_SPREAD = 1.4826


@dataclass(frozen=True)
class Observed:
    """What one sealed hour held: `rows`, `distinct <column>`, `share of nulls <column>`."""

    hour: Hour
    values: Mapping[str, float]


@dataclass(frozen=True)
class Band:
    """What is usual for one measure in one hour, on the measure's own scale; both ends belong to it."""

    low: float
    usual: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Curve:
    """The usual value of one measure and how it spreads, by hour of the week from Monday 00; on the measure's scale."""

    usual: tuple[float, ...]
    spread: tuple[float, ...]


@dataclass(frozen=True)
class Model:
    """A topic's usual hours. `hours` is how many it was fitted to, `version` its number in the registry."""

    topic: str
    hours: int
    first: Hour
    last: Hour
    curves: Mapping[str, Curve] = field(default_factory=dict)
    version: str | None = None

    @property
    def has_enough(self) -> bool:
        return self.hours >= ENOUGH_HOURS

    def band(self, measure: str, hour: Hour) -> Band | None:
        """Where the measure usually lies in that hour; None when nothing is known of it."""
        curve = self.curves.get(measure)
        if curve is None or not self.has_enough:
            return None
        place = _hour_of_week(hour)
        usual, spread = curve.usual[place], _SPREADS * curve.spread[place]
        if _is_share(measure):
            width = max(spread, _NARROWEST_SHARE)
            return Band(max(usual - width, 0.0), usual, min(usual + width, 1.0))
        count = math.expm1(usual)
        chance = _SPREADS / math.sqrt(max(count, 1.0))
        width = max(min(max(spread, chance), max(_WIDEST, chance)), _NARROWEST)
        return Band(max(math.exp(usual - width) - 1, 0.0), count, math.exp(usual + width) - 1)

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Model:
        values: dict[str, Any] = json.loads(text)
        curves = {
            name: Curve(tuple(curve["usual"]), tuple(curve["spread"])) for name, curve in values["curves"].items()
        }
        return cls(**{**values, "curves": curves})


def distinct_of(column: str) -> str:
    """The measure's name in models, suites and reports."""
    return f"distinct {column}"


def share_of_nulls(column: str) -> str:
    """The measure's name in models, suites and reports; its values are shares from 0 to 1."""
    return f"share of nulls {column}"


def fit(topic: str, observed: Iterable[Observed]) -> Model:
    """The model of these hours; an hour counts only for the measures that are known of it."""
    known = sorted(observed, key=lambda each: each.hour)
    if not known:
        return Model(topic, 0, "", "")
    measures = sorted({name for each in known for name in each.values})
    curves = {
        name: _curve([(each.hour, _scale(name)(each.values[name])) for each in known if name in each.values])
        for name in measures
    }
    return Model(topic, len(known), known[0].hour, known[-1].hour, curves)


def _curve(points: Sequence[tuple[Hour, float]]) -> Curve:
    by_week: dict[int, list[float]] = {}
    by_day: dict[int, list[float]] = {}
    for hour, value in points:
        place = _hour_of_week(hour)
        by_week.setdefault(place, []).append(value)
        by_day.setdefault(place % 24, []).append(value)
    everything = median(value for _, value in points)
    usual = []
    for place in range(168):
        of_day = median(by_day.get(place % 24, [everything]))
        same = by_week.get(place, [])
        weight = len(same)
        of_week = median(same) if same else of_day
        usual.append((weight * of_week + _DAY_WEIGHT * of_day) / (weight + _DAY_WEIGHT))
    off: dict[int, list[float]] = {}
    for hour, value in points:
        place = _hour_of_week(hour)
        off.setdefault(place % 24, []).append(abs(value - usual[place]))
    typical = _MAD_TO_SPREAD * median(each for values in off.values() for each in values)
    spread = [_MAD_TO_SPREAD * median(off[place % 24]) if len(off.get(place % 24, ())) > 6 else typical
              for place in range(168)]  # fmt: skip
    return Curve(tuple(round(each, 5) for each in usual), tuple(round(each, 5) for each in spread))


def _scale(measure: str) -> Callable[[float], float]:
    return float if _is_share(measure) else math.log1p


def _is_share(measure: str) -> bool:
    return measure.startswith("share of nulls")


def _hour_of_week(hour: Hour) -> int:
    start = hours.start_of(hour)
    return start.weekday() * 24 + start.hour
