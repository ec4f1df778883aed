"""UTC hours, half-open, written `2026-11-23T05`; as ordinals they count from 1970-01-01T00."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache

Hour = str
"""`YYYY-MM-DDTHH`. Hours sort as text for all years from 0001 to 9999."""

ONE_HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)
LAST_INSTANT = datetime.max.replace(tzinfo=UTC)
_FORM = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}")


def hour_of(instant: datetime) -> Hour:
    """The hour that holds `instant`, which must carry a time zone."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone")
    utc = instant.astimezone(UTC)
    return f"{utc.year:04d}-{utc.month:02d}-{utc.day:02d}T{utc.hour:02d}"


LAST_HOUR: Hour = "9999-12-31T23"
"""None comes after it: `after` gives it again."""


def parse_hour(text: str) -> Hour:
    """`text` when it is an hour; ValueError otherwise."""
    if not _FORM.fullmatch(text):
        raise ValueError(f"{text!r} is not an hour such as 2026-11-23T05")
    start_of(text)
    return text


def is_hour(text: str) -> bool:
    """Whether `text` is an hour; cheap enough to ask of every row of a ledger."""
    try:
        return bool(_FORM.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False


def hours_among(names: Iterable[str]) -> set[Hour]:
    """Those of the names that are hours."""
    found = set()
    for name in names:
        with suppress(ValueError):
            found.add(parse_hour(name))
    return found


@lru_cache(maxsize=1_000)
def start_of(hour: Hour) -> datetime:
    return datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC)


def end_of(hour: Hour) -> datetime:
    return instant_after(start_of(hour), ONE_HOUR)


def instant_text(instant: datetime) -> str:
    """For people: `2026-11-23T05:30:00Z`, to the second; `instant` is in UTC."""
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


def instant_after(instant: datetime, span: timedelta) -> datetime:
    """`instant + span`; the first or last instant that there is when that lies outside of the years 1 to 9999."""
    try:
        return instant + span
    except OverflowError:
        return LAST_INSTANT if span > timedelta(0) else YEAR_ONE


def ordinal_of(hour: Hour) -> int:
    """Hours since 1970-01-01T00, negative before it."""
    return (start_of(hour) - EPOCH) // ONE_HOUR


def from_ordinal(ordinal: int) -> Hour:
    """The hour of that number, or the first or last that there is."""
    return hour_of(instant_after(EPOCH, ordinal * ONE_HOUR))


def after(hour: Hour, hours: int = 1) -> Hour:
    """The hour that comes `hours` later (or earlier, when negative)."""
    return from_ordinal(ordinal_of(hour) + hours)


def hours_between(first: Hour, until: Hour) -> Iterator[Hour]:
    """Hours from `first` up to and without `until`."""
    return (from_ordinal(ordinal) for ordinal in range(ordinal_of(first), ordinal_of(until)))
