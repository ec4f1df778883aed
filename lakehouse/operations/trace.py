"""Trace: every delivery of an event id, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow.compute as pc

from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.operations.as_of import TablesAsOf, in_parallel
from lakehouse.operations.compaction import segments_in, written_in
from lakehouse.store import parquet
from lakehouse.store.bronze_log import ingest_commits, segment_of
from lakehouse.store.delta import DataFile, files
from lakehouse.store.history import Entry
from lakehouse.store.records import State
from lakehouse.topics import Topic


@dataclass(frozen=True)
class Delivered:
    """One delivery: where its message is and what became of it. Deliveries of one id can be of several events.

    `batch` is the commit that took it (`bronze_version`, `release`, `run`, `adopted`); empty once the log is cut.
    `written_at` is when the segment's file was written, also where a compacted `file` has taken its place.
    """

    message_id: str
    publish_time: datetime
    event_time: datetime | None
    hour: Hour | None
    epoch: int
    slot: int
    position: int
    segment: str
    file: str
    written_at: datetime
    batch: Mapping[str, Any]
    outcome: str


@dataclass(frozen=True)
class Trace:
    """Every delivery of an event id, earliest first, the hours that hold it, and what the ledger says of these."""

    topic: str
    event_id: str
    deliveries: tuple[Delivered, ...]
    hours: tuple[Hour, ...]
    story: tuple[Entry, ...] = ()


def trace_event(topic: Topic, config: Config, event_id: str, as_of: datetime | None = None) -> Trace:
    """Every delivery of the id that bronze still has, and the sealed hours that hold it. Reads all ids there are.

    LakehouseError when nothing has the id.
    """
    lake = TablesAsOf(topic, config, as_of)
    deliveries = [hit for found in in_parallel(partial(_deliveries_of, lake, event_id), lake.bronze_files())
                  for hit in found]  # fmt: skip
    sealed = {row for found in in_parallel(partial(_sealed_rows_of, lake, event_id), files(lake.silver))
              for row in found}  # fmt: skip
    if not deliveries and not sealed:
        raise LakeError(
            f"{topic.name} event {event_id!r}",
            found="no delivery and no sealed row",
            expected="an id that was delivered",
            next_step="Check the id; deliveries are kept for `bronze_retention`, and erased events leave no trace.",
        )
    deliveries.sort(key=lambda hit: (hit["publish_time"], hit["message_id"], hit["segment"], hit["position"]))
    batches = _batches(lake, {hit["segment"] for hit in deliveries})
    outcomes = _Outcomes(lake, deliveries, sealed)
    delivered = tuple(
        Delivered(
            **{name: value for name, value in hit.items() if name != "reject_reason"},
            batch=batches.get(hit["segment"], {}),
            outcome=outcomes.of(hit),
        )
        for hit in deliveries
    )
    sealed_in = sorted({hour for hour, _ in sealed})
    concerned = {*sealed_in, *(hit["hour"] for hit in deliveries if hit["reject_reason"] is None)}
    story = tuple(entry for entry in lake.history.entries if entry.hour in concerned and entry.state != State.HELD)
    return Trace(topic.name, event_id, delivered, tuple(sealed_in), story)


Hit = Mapping[str, Any]
"""A row of bronze with the columns of `Delivered` and `reject_reason`."""

Sealed = tuple[Hour, datetime]
"""The hour of a sealed row, and its event time."""


class _Outcomes:
    """What became of each delivery of one id, by what makes an event in this topic."""

    def __init__(self, lake: TablesAsOf, deliveries: Iterable[Hit], sealed: Iterable[Sealed]) -> None:
        self._history = lake.history
        self._has_own_time = "event_time" in lake.topic.identity
        self._sealed = {(hour, self._event(time)) for hour, time in sealed}
        self._firsts: dict[tuple[Hour, datetime | None], Hit] = {}
        for hit in deliveries:
            if hit["reject_reason"] is None:
                self._firsts.setdefault((hit["hour"], self._event(hit["event_time"])), hit)

    def _event(self, time: datetime) -> datetime | None:
        return time if self._has_own_time else None

    def of(self, hit: Hit) -> str:
        if hit["reject_reason"] is not None:
            return f"rejected: {hit['reject_reason']}"
        hour, event = hit["hour"], self._event(hit["event_time"])
        if not self._history.revision(hour):
            return f"waits for the seal of {hour}"
        if (hour, event) in self._sealed:
            return f"the row of {hour}" if self._firsts[hour, event] is hit else f"duplicate in {hour}"
        earlier = [each for each, sealed_event in sorted(self._sealed) if sealed_event == event and each < hour]
        if earlier:
            return f"late duplicate: {earlier[-1]} has it"
        return f"not in {hour}, though it should be: see `audit`"


def _deliveries_of(lake: TablesAsOf, event_id: str, file: DataFile) -> list[dict[str, Any]]:
    """The id's rows in one bronze file: first the ids, then the rest of the row groups that have it."""
    names = ["message_id", "publish_time", "event_time", "reject_reason", "epoch", "slot", "position"]
    found = []
    with parquet.LakeFile(lake.tables.raw.files(), f"bronze/{file.path}") as opened:
        for group in range(opened.num_row_groups):
            if not pc.any(pc.equal(opened.read_row_group(group, ["event_id"])["event_id"], event_id)).as_py():
                continue
            table = opened.read_row_group(group, ["event_id", *names])
            found += table.filter(pc.equal(table["event_id"], event_id)).select(names).to_pylist()
        segments, written = segments_in(opened.schema_arrow), written_in(opened.schema_arrow)
    hits = []
    for row in found:
        segment = segments.get((row["epoch"], row["slot"]), segment_of(file.path))
        written_at = written.get(segment, file.written_at)
        hits.append({**row, "hour": file.hour, "file": file.path, "written_at": written_at, "segment": segment})
    return hits


def _sealed_rows_of(lake: TablesAsOf, event_id: str, file: DataFile) -> list[Sealed]:
    rows = lake.silver_rows([file], "event_id", "event_time")
    times = [batch.filter(pc.equal(batch.column("event_id"), event_id)).column("event_time") for batch in rows]
    return [(str(file.hour), time) for each in times for time in each.to_pylist()]


def _batches(lake: TablesAsOf, segments: set[str]) -> dict[str, dict[str, Any]]:
    """The commit that took each segment: its version, release and run."""
    found: dict[str, dict[str, Any]] = {}
    for version, metadata in ingest_commits(lake.bronze):
        for segment in segments.intersection(metadata["segments"]):
            found[segment] = {
                "bronze_version": version,
                "release": metadata["release"],
                "run": metadata["run"],
                "adopted": segment in metadata.get("adopted", []),
            }
        if len(found) == len(segments):
            break
    return found
