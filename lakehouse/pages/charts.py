"""Charts of an hour and of a topic as SVG, in the colours of the page that they are part of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lakehouse.hours import Hour, start_of
from lakehouse.pages.render import markup_of

Band = tuple[float, float]

_WIDTH, _HEIGHT = 520, 190
_LATENESS = ("< 1 s", "1–10 s", "10–60 s", "1–10 min", "10–60 min", "1–6 h", "6–24 h", "> 1 d")
_TICKS = 4
_MARKS = 7
_MARGIN = 14
"""Right of the last bar, for half of the text below it."""
_BAR = 0.7
"""Of a bar's place, the part that the bar fills."""


def lateness(rows: Sequence[int]) -> str:
    """How many rows came how long after they happened; `rows` by `latency.BOUNDS_SECONDS`."""
    base, step, most, total = _HEIGHT - 22, _WIDTH / len(_LATENESS), max(*rows, 1), sum(rows) or 1
    bars = [
        {
            "x": round(place * step + step * (1 - _BAR) / 2, 1),
            "y": round(base - count / most * (base - 18), 1),
            "width": round(step * _BAR, 1),
            "height": round(count / most * (base - 18), 1),
            "middle": round((place + 0.5) * step, 1),
            "share": _share(count / total),
            "name": name,
        }
        for place, (count, name) in enumerate(zip(rows, _LATENESS, strict=True))
    ]
    return markup_of("lateness.svg", width=_WIDTH, height=_HEIGHT, base=base, bars=bars)


def volume(hours: Sequence[Hour], rows: Sequence[int], bands: Mapping[Hour, Band], marked: Hour | None = None) -> str:
    """Rows of each hour, before the band that is usual for it where that is known; `marked` is the hour in question."""
    ticks = _ticks(max([*rows, *(high for _, high in bands.values()), 1]))
    base, left, top = _HEIGHT - 32, 12 + 6 * max(len(f"{tick:,}") for tick in ticks), 8
    step = (_WIDTH - left - _MARGIN) / max(1, len(hours))

    def height(value: float) -> float:
        return round(max(0.0, value) / ticks[-1] * (base - top), 1)

    return markup_of(
        "volume.svg",
        width=_WIDTH,
        height=_HEIGHT,
        base=base,
        left=left,
        ticks=[{"y": base - height(tick), "text": f"{tick:,}"} for tick in ticks],
        bands=[
            {
                "x": round(left + place * step, 1),
                "y": base - height(bands[hour][1]),
                "width": round(step, 1),
                "height": height(bands[hour][1]) - height(bands[hour][0]),
            }
            for place, hour in enumerate(hours)
            if hour in bands
        ],
        bars=[
            {
                "x": round(left + place * step + step * (1 - _BAR) / 2, 1),
                "y": base - height(count),
                "width": round(step * _BAR, 1),
                "height": height(count),
                "colour": _colour(hour, count, bands.get(hour), marked),
                "title": f"{hour}: {count:,} rows",
            }
            for place, (hour, count) in enumerate(zip(hours, rows, strict=True))
        ],
        marks=[
            {
                "x": round(left + (place + 0.5) * step, 1),
                "time": f"{hours[place][11:13]}:00",
                "day": f"{start_of(hours[place]):%-d %b}",
            }
            for place in _marked_places(len(hours))
        ],
    )


def _colour(hour: Hour, count: int, band: Band | None, marked: Hour | None) -> str:
    if band is not None and not band[0] <= count <= band[1]:
        return "bad"
    return "accent" if marked in (None, hour) else "pale"


def _share(share: float) -> str:
    return "" if not share else f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def _ticks(most: float) -> list[int]:
    """Round numbers from 0 to at least `most`, about four steps of 1, 2 or 5 times a power of ten."""
    rough = max(1.0, most / _TICKS)
    power = 10 ** math.floor(math.log10(rough))
    step = int(next(size * power for size in (1, 2, 5, 10) if size * power >= rough))
    return list(range(0, math.ceil(most / step) * step + 1, step))


def _marked_places(number: int) -> list[int]:
    """At most seven of `number` places, evenly apart, the last among them."""
    step = max(1, math.ceil(number / _MARKS))
    return list(range(number - 1, -1, -step))[::-1]
