"""Durations as an operator writes them: `90 seconds`, `3 hours`, `400 days`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

_FORM = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) (second|minute|hour|day)s?")
LONGEST = timedelta(days=3_660_000)
"""Ten thousand years, more than all that a time can have; sums of a few of these are durations, too."""
_MICROSECONDS = {"day": 86_400_000_000, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000}


def parse_duration(value: object) -> timedelta:
    """A timedelta from `<number> seconds|minutes|hours|days`, to the microsecond; ValueError for anything else."""
    if isinstance(value, timedelta):
        return value
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration such as '90 seconds', '10 minutes', '3 hours' or '400 days'")
    microseconds = round(Fraction(match[1]) * _MICROSECONDS[match[2]])
    if microseconds > LONGEST // timedelta(microseconds=1):
        raise ValueError(f"a duration such as '400 days', of at most {duration_text(LONGEST)}")
    return timedelta(microseconds=microseconds)


def duration_text(duration: timedelta) -> str:
    """The shortest exact text, in the largest whole unit: 5400 seconds are `90 minutes`. `parse_duration` reads it."""
    microseconds = duration // timedelta(microseconds=1)
    for unit, size in _MICROSECONDS.items():
        if abs(microseconds) >= size and microseconds % size == 0:
            return _count_text(str(microseconds // size), unit)
    whole, fraction = divmod(abs(microseconds), _MICROSECONDS["second"])
    digits = f"{whole}.{fraction:06d}".rstrip("0").rstrip(".")
    return _count_text(f"-{digits}" if microseconds < 0 else digits, "second")


def brief(seconds: float) -> str:
    """For people, the two largest units: `0.4 s`, `12 min 5 s`, `2 h 10 min`, `400 d 4 h`; with − before a negative."""
    if abs(seconds) < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s").replace("-", "−")
    left = round(abs(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    shown = [part for part in parts[:2] if not part.startswith("0 ")]
    return ("−" if seconds < 0 else "") + " ".join(shown)


def seconds_since(since: datetime, now: datetime) -> float:
    """To the millisecond; negative where `since` is later than `now`."""
    return round((now - since) / timedelta(seconds=1), 3)


def age_seconds(since: datetime | None, now: datetime) -> float | None:
    """Never negative: the clock that wrote `since` may be ahead of ours."""
    return max(seconds_since(since, now), 0.0) if since else None


def _count_text(number: str, unit: str) -> str:
    return f"{number} {unit}" + ("" if number == "1" else "s")


def _short(duration: timedelta) -> timedelta:
    if duration > LONGEST_WAIT:
        raise ValueError(f"a duration of at most {duration_text(LONGEST_WAIT)}: so long a process waits")
    return duration


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(duration_text)]
"""A key of the configuration: any span of time."""

LONGEST_WAIT = timedelta(days=1)
"""Far less than what sockets and locks take: 292 years in the standard library, 24 days in milliseconds of 31 bits."""

Wait = Annotated[Duration, AfterValidator(_short)]
"""A key of the configuration: how long a process waits for something, at most a day."""
