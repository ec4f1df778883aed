"""What the source says of the segments of an epoch, row by row, and the data files that come of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lakehouse.hours import Hour
from lakehouse.ingest.buckets import bucket_of
from lakehouse.store.bronze_log import Segment, segment_of
from lakehouse.store.delta import DataFile, event_time_stats

Fact = dict[str, Any]
"""A row of `FACTS`: a file of a segment, or a segment without files (`path` is then null)."""


def with_files(facts: Iterable[Fact]) -> list[Fact]:
    return [fact for fact in facts if fact["path"]]


def segments_of(facts: Iterable[Fact]) -> set[Segment]:
    return {segment_of(fact["path"]) for fact in facts if fact["path"]}


def data_file(fact: Fact, open_hour: Hour | None) -> DataFile:
    """The fact's file in the bucket that it has when `open_hour` is the first open hour."""
    bucket = bucket_of(fact["event_hour"], open_hour)
    stats = event_time_stats(fact["min_event_time"], fact["max_event_time"])
    return DataFile(fact["path"], bucket, fact["rows"], fact["size_bytes"], fact["written_at"], stats)
