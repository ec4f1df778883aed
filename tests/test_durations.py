from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lakehouse.durations import LONGEST, LONGEST_WAIT, Wait, duration_text, parse_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90 seconds", timedelta(seconds=90)),
        ("1 second", timedelta(seconds=1)),
        ("0.3 seconds", timedelta(milliseconds=300)),
        ("10 minutes", timedelta(minutes=10)),
        ("1.5 hours", timedelta(minutes=90)),
        ("400 days", timedelta(days=400)),
        ("0 seconds", timedelta()),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "value", ["", "90", 90, 1.5, "90s", "-1 hour", "1 week", "1  hour", "1 Hour", "hour", None, "1e3 days"]
)
def test_a_duration_without_a_clear_unit_is_refused(value: object) -> None:
    """A bare 90 could be meant as seconds, minutes or hours, and it would only show as hours that close late."""
    with pytest.raises(ValueError, match="a duration such as"):
        parse_duration(value)


def test_a_timedelta_is_taken_as_it_is() -> None:
    assert parse_duration(timedelta(minutes=7)) == timedelta(minutes=7)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(seconds=5400), "90 minutes"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(seconds=61), "61 seconds"),
        (timedelta(milliseconds=300), "0.3 seconds"),
        (timedelta(), "0 seconds"),
    ],
)
def test_a_duration_is_written_in_its_largest_whole_unit(duration: timedelta, text: str) -> None:
    assert duration_text(duration) == text


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("1000000 days", "1000000 days"),
        ("90061.123 seconds", "90061.123 seconds"),
        ("0.000001 seconds", "0.000001 seconds"),
        ("1234567 seconds", "1234567 seconds"),
        ("1.5 days", "36 hours"),
    ],
)
def test_no_digit_is_lost(text: str, again: str) -> None:
    assert duration_text(parse_duration(text)) == again


def test_a_duration_that_no_timedelta_can_hold_is_refused() -> None:
    """An OverflowError would not be shown as a mistake in the file."""
    with pytest.raises(ValueError, match="at most 3660000 days"):
        parse_duration("1000000000 days")


def test_no_process_waits_for_longer_than_its_clocks_can_count() -> None:
    """A socket's timeout of a million days is an OverflowError at the first connection."""
    assert TypeAdapter(Wait).validate_python("1 day") == LONGEST_WAIT
    with pytest.raises(ValidationError, match="at most 1 day"):
        TypeAdapter(Wait).validate_python("1000000 days")


@given(st.timedeltas(min_value=timedelta(), max_value=LONGEST))
def test_any_duration_survives_being_written(duration: timedelta) -> None:
    """Topics travel to the executors as JSON."""
    assert parse_duration(duration_text(duration)) == duration
