"""The pages above the hours': a lake's topics by hours as a coloured grid, and one topic's hours as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import groupby

from lakehouse.hours import Hour
from lakehouse.pages.render import live, markup_of, script

STATES = ("open", "held", "closed", "sealed", "valid", "invalid", "released", "mirrored")
"""Each has its colours in `templates/lake.css`."""
_SIGNS = {"open": "·", "held": "H", "closed": "C", "sealed": "S", "valid": "V", "invalid": "✕", "released": "R",
          "mirrored": "✓"}  # fmt: skip
"""Colour is not for everyone: each state has a sign, too."""
_MEANS = {
    "open": "events are still delivered in it",
    "held": "should have closed by the clock, and has not",
    "closed": "nothing is added to it any more",
    "sealed": "one row per event, waits to be validated",
    "valid": "as expected, waits for its mirrors",
    "invalid": "held back until it is released or sealed again",
    "released": "released by a person, waits for its mirrors",
    "mirrored": "everywhere it goes",
}

HOUR_COLUMNS = (
    "rows", "duplicates", "skewed", "rejected", "verdict", "waits for", "mirrored to", "end to closed", "to mirrored",
)  # fmt: skip
_NUMBERS = {"rows", "duplicates", "skewed", "rejected", "end to closed", "to mirrored"}


@dataclass(frozen=True)
class Line:
    """One topic's row of the grid: what each hour is, a complaint where the topic could not be read, and how it is.

    `cause` is what topics with the same trouble have in common.
    """

    topic: str
    states: Mapping[Hour, str] = field(default_factory=dict)
    complaint: str | None = None
    cause: str = "ok"


@dataclass(frozen=True)
class HourLine:
    """One hour's row of a topic's table; `cells` are those of `HOUR_COLUMNS`."""

    hour: Hour
    state: str
    cells: Sequence[str]


def index(
    lines: Sequence[Line], hours: Sequence[Hour], built_at: datetime, release: str, *, is_live: bool = False
) -> str:
    """The lake's page: topics by hours, newest hour last, each cell a link to the hour's page.

    Topics with one cause are together, in the order in which the first of each comes. One that is live looks every few
    seconds whether its server has another.
    """
    own = script("lake.js")
    states = [
        {
            "name": state,
            "sign": _SIGNS[state],
            "means": _MEANS[state],
            "topics": sum(state in line.states.values() for line in lines),
        }
        for state in STATES
    ]
    return markup_of(
        "lake.html",
        lines=lines,
        groups=_groups(lines),
        is_live=is_live,
        hours=hours,
        days=[(_day(day), len(list(of_day))) for day, of_day in groupby(hours, key=lambda hour: hour[:10])],
        marks=[hour[11:13] if int(hour[11:13]) % 3 == 0 else "" for hour in hours],
        states=states,
        signs=_SIGNS,
        built_at=built_at,
        release=release,
        script=own.script,
        script_digest=own.digest,
    )


def topic_page(
    topic: str,
    lines: Sequence[HourLine],
    facts: Iterable[tuple[str, str]],
    volume: str,
    freshness: str = "",
    *,
    is_live: bool = False,
) -> str:
    """A topic's page: how it is, its rows and delays over time, and a line per hour, newest first.

    `volume` and `freshness` are charts. One that is live shows what its server has newly built.
    """
    return markup_of(
        "topic.html",
        live=live(is_live),
        topic=topic,
        lines=lines,
        facts=[(name, value, "") for name, value in facts],
        volume=volume,
        freshness=freshness,
        columns=HOUR_COLUMNS,
        numbers=_NUMBERS,
        signs=_SIGNS,
    )


def _groups(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.cause, []).append(line)
    return list(groups.items())


def _day(day: str) -> str:
    return f"{date.fromisoformat(day):%a %-d %b}"
