"""Charts of an hour and of a topic as SVG, in the colours of the page that they are part of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lakehouse.durations import brief
from lakehouse.hours import Hour, start_of
from lakehouse.pages.render import markup_of

Band = tuple[float, float]

_WIDTH, _HEIGHT = 520, 190
_LATENESS = ("< 1 s", "1–10 s", "10–60 s", "1–10 min", "10–60 min", "1–6 h", "6–24 h", "> 1 d")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_THINNEST = 14.0
"""Of a path's ribbons: its name stands beside it."""
_TICKS = 4
_MARKS = 7
_MARGIN = 14
"""Right of the last bar, for half of the text below it."""
_BAR = 0.7
"""Of a bar's place, the part that the bar fills."""


@dataclass(frozen=True)
class Outcome:
    """What became of so many of an hour's messages; the colour is one of `style.css`."""

    name: str
    messages: int
    colour: str


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
        marks=_marks(hours, left, step),
    )


def freshness(delays: Mapping[Hour, tuple[float, bool]], goal: float | None) -> str:
    """How many seconds after its end each hour was delivered, or how long it has waited; `goal` is the longest allowed.

    `delays` says for each hour, oldest first, the seconds and whether it is delivered.
    """
    hours = list(delays)
    most = max([*(seconds for seconds, _ in delays.values()), goal or 0, 60.0])
    unit, in_words = next(((size, name) for size, name in _UNITS if most >= 2 * size), _UNITS[-1])
    ticks = _ticks(most / unit)
    base, left, top = _HEIGHT - 32, 46, 12
    step = (_WIDTH - left - _MARGIN) / max(1, len(hours))

    def height(seconds: float) -> float:
        return round(max(0.0, seconds) / unit / ticks[-1] * (base - top), 1)

    bars = [
        {
            "x": round(left + place * step + step * (1 - _BAR) / 2, 1),
            "y": base - height(seconds),
            "width": round(step * _BAR, 1),
            "height": height(seconds),
            "colour": "bad" if goal is not None and seconds > goal else "accent",
            "is_waiting": not is_delivered,
            "title": f"{hour}: {'delivered after' if is_delivered else 'has waited for'} {brief(seconds)}",
        }
        for place, (hour, (seconds, is_delivered)) in enumerate(delays.items())
    ]
    return markup_of(
        "freshness.svg",
        width=_WIDTH,
        height=_HEIGHT,
        base=base,
        left=left,
        ticks=[{"y": base - height(tick * unit), "text": f"{tick:,} {in_words}"} for tick in ticks],
        bars=bars,
        goal={"y": base - height(goal), "text": f"within {brief(goal)}"} if goal is not None else None,
        marks=_marks(hours, left, step),
    )


def events(received: int, outcomes: Sequence[Outcome]) -> str:
    """The path of an hour's messages: as many as were received, and what became of them."""
    kept = [outcome for outcome in outcomes if outcome.messages]
    gap, left, right, top = 10.0, 92, 250, 6.0
    room = _HEIGHT - 2 * top - gap * max(0, len(kept) - 1)
    heights = _heights([outcome.messages for outcome in kept], room)
    ribbons, y, at = [], top, top + gap * max(0, len(kept) - 1) / 2
    for outcome, height in zip(kept, heights, strict=True):
        start, end, bend = left + 10, right, (left + 10 + right) / 2
        ribbons.append(
            {
                "path": f"M{start} {at:.1f} C{bend} {at:.1f} {bend} {y:.1f} {end} {y:.1f} L{end} {y + height:.1f} "
                f"C{bend} {y + height:.1f} {bend} {at + height:.1f} {start} {at + height:.1f} Z",
                "y": round(y, 1),
                "height": round(height, 1),
                "middle": round(y + height / 2, 1),
                "colour": outcome.colour,
                "number": f"{outcome.messages:,}",
                "name": outcome.name,
                "title": f"{outcome.messages:,} {outcome.name}",
            }
        )
        y, at = y + height + gap, at + height
    source = {"y": round(top + gap * max(0, len(kept) - 1) / 2, 1), "height": round(sum(heights), 1)}
    told = ", ".join(f"{each.messages:,} {each.name}" for each in kept)
    return markup_of(
        "events.svg",
        width=_WIDTH,
        height=_HEIGHT,
        left=left,
        right=right,
        label=f"Of {received:,} messages: {told}",
        source={**source, "number": f"{received:,}", "name": "received"},
        ribbons=ribbons,
    )


def _heights(counts: Sequence[int], room: float) -> list[float]:
    """In proportion, but none thinner than what can be seen."""
    least = min(_THINNEST, room / max(1, len(counts)))
    total = sum(counts) or 1
    raised = [max(least, count / total * room) for count in counts]
    too_much, spare = sum(raised) - room, sum(height - least for height in raised)
    return [height - too_much * (height - least) / spare if spare else height for height in raised]


def _marks(hours: Sequence[Hour], left: float, step: float) -> list[dict[str, object]]:
    return [
        {
            "x": round(left + (place + 0.5) * step, 1),
            "time": f"{hours[place][11:13]}:00",
            "day": f"{start_of(hours[place]):%-d %b}",
        }
        for place in _marked_places(len(hours))
    ]


def _colour(hour: Hour, count: int, band: Band | None, marked: Hour | None) -> str:
    if band is not None and not band[0] <= count <= band[1]:
        return "bad"
    return "accent" if marked in (None, hour) else "pale"


def _share(share: float) -> str:
    """Never 0% for what is not nothing, nor 100% for what is not all."""
    if not share:
        return ""
    if share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{100 * share:.0f}%"


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
