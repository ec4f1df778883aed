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


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}" + ("" if number == 1 else "s")


Duration = Annotated[timedelta, BeforeValidator(parsed), PlainSerializer(written)]
