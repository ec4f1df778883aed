"""Charts of an hour and of a topic as SVG text, in the colours of the page that they stand in."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lakehouse.hours import Hour, start_of

_COLOURS = {"#010203": "var(--ink)", "#040506": "var(--soft)", "#070809": "var(--line)", "#0a0b0c": "var(--accent)",
            "#0d0e0f": "var(--wash-accent)", "#101112": "var(--bad)",
            "#131415": "var(--pale)"}  # fmt: skip
_INK, _SOFT, _LINE, _ACCENT, _WASH, _BAD, _PALE = _COLOURS
"""Stand-ins that matplotlib draws in; the page's own light and dark colours take their place."""

_BARS = ("< 1 s", "1–10 s", "10–60 s", "1–10 min", "10–60 min", "1–6 h", "6–24 h", "> 1 d")

Band = tuple[float, float]


def lateness(rows: Sequence[int]) -> str:
    """How many rows came how long after they happened; `rows` by `delays.BOUNDS_SECONDS`."""
    figure, axes = _figure(6.4, 2.5)
    places = range(len(rows))
    axes.bar(places, rows, color=_ACCENT, width=0.72, linewidth=0)
    total = sum(rows) or 1
    for place, count in zip(places, rows, strict=True):
        if count:
            share = 100 * count / total
            text = f"{share:.0f}%" if share >= 1 else "<1%"
            axes.annotate(text, (place, count), (0, 3), textcoords="offset points", ha="center", fontsize=9, color=_INK)
    axes.set_xticks(list(places), _BARS[: len(rows)])
    axes.set_yticks([])
    axes.set_ylim(0, max(rows) * 1.18 or 1)
    axes.spines["left"].set_visible(False)
    return _svg(figure, "Rows by the time from the event to its publishing")


def volume(hours: Sequence[Hour], rows: Sequence[int], bands: Mapping[Hour, Band], marked: Hour | None = None) -> str:
    """Rows of each hour, before the band that is usual for it where that is known; `marked` is the hour in question."""
    figure, axes = _figure(6.4, 2.5)
    places = list(range(len(hours)))
    known = [(place, *bands[hour]) for place, hour in enumerate(hours) if hour in bands]
    if known:
        _stepped(axes, known)
    outside = [
        hour in bands and not bands[hour][0] <= count <= bands[hour][1] for hour, count in zip(hours, rows, strict=True)
    ]
    colours = [_BAD if is_out else _ACCENT if hour == marked or marked is None else _PALE
               for hour, is_out in zip(hours, outside, strict=True)]  # fmt: skip
    axes.bar(places, rows, color=colours, width=0.62 if len(places) < 100 else 0.9, linewidth=0)
    step = max(1, -(-len(places) // 7))
    shown = places[::-1][::step][::-1]
    axes.set_xticks(shown, [_spoken(hours[place]) for place in shown])
    axes.set_xlim(-0.7, len(places) - 0.3)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(_few_whole())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return _svg(figure, "Rows of each hour")


def _stepped(axes: Any, known: Sequence[tuple[int, float, float]]) -> None:
    for place, low, high in known:
        axes.fill_between([place - 0.5, place + 0.5], low, high, color=_WASH, linewidth=0, zorder=0.5)


def _spoken(hour: Hour) -> str:
    return f"{hour[11:13]}:00\n{start_of(hour):%-d %b}"


def _few_whole() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, integer=True)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """Without pyplot, which keeps every figure and one state for all threads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(colors=_SOFT, labelsize=9, length=0, pad=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.margins(x=0.01)
    return figure, axes


def _svg(figure: Any, label: str) -> str:
    """Only the drawing: sizes, fonts and colours are the page's, and no name in it clashes with another chart's."""
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lakehouse"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    text = re.sub(r"<(metadata|style).*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    salt = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', text)
    text = re.sub(r'(url\(|href=")#([^")]+)', rf"\1#{salt}-\2", text)
    text = re.sub(r'font: ([\d.]+)px [^;"]*', r"font-size: \1px", text)
    text = re.sub(
        r'\s(xmlns:xlink|width|height)="[^"]*"(?=[^>]*viewBox)', "", text.replace("xlink:href", "href"), count=3
    )
    for stand_in, colour in _COLOURS.items():
        text = text.replace(stand_in, colour)
    return f'<figure class="chart" role="img" aria-label="{label}">{text.strip()}</figure>'
