from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse import hours

ordinals = st.integers(hours.ordinal_of("0001-01-01T00"), hours.ordinal_of("9999-12-31T23"))


@given(ordinals)
def test_an_hour_and_its_ordinal_name_each_other(ordinal: int) -> None:
    assert hours.ordinal_of(hours.from_ordinal(ordinal)) == ordinal


@given(ordinals, ordinals)
def test_hours_sort_as_text(one: int, other: int) -> None:
    """Partitions, folders and SQL compare hours as strings."""
    assert (one < other) == (hours.from_ordinal(one) < hours.from_ordinal(other))


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))
def test_an_instant_lies_in_its_hour(instant: datetime) -> None:
    hour = hours.hour_of(instant)
    assert hours.start_of(hour) <= instant < hours.end_of(hour)


def test_an_hour_is_half_open() -> None:
    """An event on the stroke belongs to the hour that begins."""
    assert hours.hour_of(datetime(2026, 11, 23, 5, 59, 59, 999999, tzinfo=UTC)) == "2026-11-23T05"
    assert hours.hour_of(datetime(2026, 11, 23, 6, tzinfo=UTC)) == "2026-11-23T06"


def test_hours_are_those_of_utc() -> None:
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    assert hours.hour_of(datetime(2026, 11, 23, 5, 30, tzinfo=kathmandu)) == "2026-11-22T23"


def test_an_instant_without_a_time_zone_is_refused() -> None:
    """It would silently be read as the machine's local time."""
    with pytest.raises(ValueError, match="no time zone"):
        hours.hour_of(datetime(2026, 11, 23, 5))


@pytest.mark.parametrize(
    "text", ["", "2026-11-23", "2026-11-23T5", "2026-11-23T24", "2026-02-30T05", "2026-11-23T05:00", "2026-11-23 05"]
)
def test_what_is_not_an_hour_is_refused(text: str) -> None:
    """`strptime` alone would take `2026-11-23T5`, which sorts after `2026-11-23T10`."""
    with pytest.raises(ValueError, match=r"hour|date|day|unconverted|time data"):
        hours.parse_hour(text)


def test_an_hour_is_parsed_to_itself() -> None:
    assert hours.parse_hour("2026-11-23T05") == "2026-11-23T05"


def test_1970_begins_at_ordinal_0() -> None:
    assert hours.ordinal_of("1970-01-01T00") == 0
    assert hours.ordinal_of("1969-12-31T23") == -1
    assert hours.from_ordinal(hours.ordinal_of("2026-11-23T05")) == "2026-11-23T05"


def test_hours_follow_each_other_over_days_and_years() -> None:
    assert hours.after("2026-12-31T23") == "2027-01-01T00"
    assert hours.after("2024-02-28T23", 25) == "2024-03-01T00"
    assert hours.after("2027-01-01T00", -1) == "2026-12-31T23"


def test_a_range_of_hours_leaves_out_its_end() -> None:
    assert list(hours.hours_between("2026-11-23T22", "2026-11-24T01")) == [
        "2026-11-23T22",
        "2026-11-23T23",
        "2026-11-24T00",
    ]
    assert list(hours.hours_between("2026-11-23T22", "2026-11-23T22")) == []
