"""Durations as an operator writes them: `90 seconds`, `3 hours`, `400 days`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_FORM = re.compile(r"(\d+(?:\.\d+)?) (second|minute|hour|day)s?")


def parsed(value: object) -> timedelta:
    """A timedelta from `<number> seconds|minutes|hours|days`; ValueError for anything else."""
    if isinstance(value, timedelta):
        return value
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration such as '90 seconds', '10 minutes', '3 hours' or '400 days'")
    return timedelta(**{f"{match[2]}s": float(match[1])})


def written(duration: timedelta) -> str:
    """The shortest exact text: 5400 seconds are `90 minutes`."""
    seconds = duration.total_seconds()
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size and seconds % size == 0:
            return _counted(seconds / size, unit)
    return _counted(seconds, "second")


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


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}" + ("" if number == 1 else "s")


Duration = Annotated[timedelta, BeforeValidator(parsed), PlainSerializer(written)]
