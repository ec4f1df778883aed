"""Which bucket a segment's file is delivered in: pure, so that a repeated batch gives the same answer."""

from __future__ import annotations

from lakehouse.hours import Hour


def bucket_of(event_hour: Hour | None, open_hour: Hour | None) -> Hour | None:
    """The event hour if it is still open, else the first open hour; None for rejected messages, which have no hour."""
    if event_hour is None or open_hour is None:
        return event_hour
    return max(event_hour, open_hour)
