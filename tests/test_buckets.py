"""The bucket of a file: its own hour while that is open, else the first open hour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse import hours
from lakehouse.ingest.buckets import bucket_of

HOURS = st.integers(-500_000, 1_000_000).map(hours.from_ordinal)


@pytest.mark.parametrize(
    ("event_hour", "open_hour", "bucket"),
    [
        ("2026-11-23T05", "2026-11-23T05", "2026-11-23T05"),
        ("2026-11-23T09", "2026-11-23T05", "2026-11-23T09"),
        ("2026-11-23T04", "2026-11-23T05", "2026-11-23T05"),
        ("1999-12-31T23", "2026-11-23T05", "2026-11-23T05"),
    ],
)
def test_late_events_go_to_the_first_open_hour_and_all_others_to_their_own(
    event_hour: str, open_hour: str, bucket: str
) -> None:
    assert bucket_of(event_hour, open_hour) == bucket


def test_rejected_messages_have_no_bucket() -> None:
    assert bucket_of(None, "2026-11-23T05") is None
    assert bucket_of(None, None) is None


def test_before_a_topic_has_an_open_hour_every_event_is_in_time() -> None:
    assert bucket_of("2013-01-01T00", None) == "2013-01-01T00"


@given(HOURS, HOURS)
def test_no_bucket_is_closed_nor_before_its_events(event_hour: str, open_hour: str) -> None:
    bucket = bucket_of(event_hour, open_hour)
    assert bucket in (event_hour, open_hour)
    assert bucket is not None
    assert bucket >= event_hour
    assert bucket >= open_hour
