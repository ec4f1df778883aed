"""What the source says of the segments of an epoch, row by row, and the data files that come of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lakehouse.hours import Hour
from lakehouse.ingest.buckets import bucket_of
from lakehouse.landing.manifests import PART_STRIDE
from lakehouse.store.bronze_log import Segment, segment_of
from lakehouse.store.delta import DataFile, event_time_stats

Fact = dict[str, Any]
"""A row of `FACTS`: a file of a segment, or a segment without files (`path` is then null)."""


class Arriving:
    """An epoch's facts as its tasks end: a topic's may be in several of them."""

    def __init__(self) -> None:
        self._facts: dict[str, list[Fact]] = {}

    def whole(self, facts: Iterable[Fact]) -> dict[str, list[Fact]]:
        """With these, all facts of the topics that they make whole: there are those of each of its slots."""
        names: dict[str, None] = {}
        for fact in facts:
            self._facts.setdefault(fact["topic"], []).append(fact)
            names[fact["topic"]] = None
        return {name: self._facts.pop(name) for name in names if _is_whole(self._facts[name])}


def _is_whole(facts: Sequence[Fact]) -> bool:
    return len({fact["slot"] % PART_STRIDE for fact in facts}) >= (facts[0]["slots"] or 1)


def with_files(facts: Iterable[Fact]) -> list[Fact]:
    return [fact for fact in facts if fact["path"]]


def segments_of(facts: Iterable[Fact]) -> set[Segment]:
    return {segment_of(fact["path"]) for fact in facts if fact["path"]}


def data_file(fact: Fact, open_hour: Hour | None) -> DataFile:
    """The fact's file in the bucket that it has when `open_hour` is the first open hour."""
    bucket = bucket_of(fact["event_hour"], open_hour)
    stats = event_time_stats(fact["min_event_time"], fact["max_event_time"])
    return DataFile(fact["path"], bucket, fact["rows"], fact["size_bytes"], fact["written_at"], stats)
