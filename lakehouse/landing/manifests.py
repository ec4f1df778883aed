"""Manifests: what makes a segment real, and the slots that they answer for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pyspark.sql.datasource import InputPartition

from lakehouse.hours import Hour
from lakehouse.store.files import Storage, Stored


@dataclass
class Slot(InputPartition):
    """One share of an epoch: pulled by one task."""

    epoch: int
    slot: int
    open_hour: Hour | None


@dataclass(frozen=True)
class SegmentFile:
    """A data file, its path relative to bronze. `event_hour` is None when it holds rejected messages."""

    path: str
    event_hour: Hour | None
    rows: int
    size_bytes: int
    min_event_time: datetime | None
    max_event_time: datetime | None
    min_publish_time: datetime
    max_publish_time: datetime


@dataclass(frozen=True)
class Manifest:
    """What makes a segment real. Times are UTC; `attempt_id` says who wrote it, `attempt` which of Spark's tries."""

    epoch: int
    slot: int
    attempt_id: str
    attempt: int
    written_at: datetime
    dry_at: datetime | None
    full: bool
    files: tuple[SegmentFile, ...] = ()
    reasons: dict[str, int] = field(default_factory=dict)
    undeclared: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> bytes:
        return json.dumps(asdict(self), default=_iso).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        values = json.loads(content)
        files = tuple(SegmentFile(**_with_times(file)) for file in values.pop("files"))
        return cls(**_with_times(values), files=files)


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _with_times(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: datetime.fromisoformat(value) if value and key.endswith(("_at", "_time")) else value
        for key, value in values.items()
    }


def manifest_path(epoch: int, slot: int) -> str:
    """Relative to the topic's raw folder; sorts by epoch."""
    return f"segments/{epoch:012d}-{slot:04d}.json"


def epoch_and_slot(path: str) -> tuple[int, int]:
    epoch, _, slot = path.rpartition("/")[2].removesuffix(".json").partition("-")
    return int(epoch), int(slot)


def read_manifest(storage: Storage, epoch: int, slot: int) -> Manifest | None:
    content = storage.read(manifest_path(epoch, slot))
    return Manifest.from_json(content) if content is not None else None


def listed_manifests(storage: Storage) -> list[tuple[int, int]]:
    """(epoch, slot) of every manifest that is there, in order."""
    return sorted(stored_manifests(storage))


def stored_manifests(storage: Storage) -> dict[tuple[int, int], Stored]:
    """The manifests that are there by (epoch, slot), as they are to be cleared away: what is listed may be replaced.

    An attempt that was thought dead can put a manifest of its own where one was cleared; only its like may clear that.
    """
    found = storage.listed("segments")
    return {epoch_and_slot(each.path): each for each in found if each.path.endswith(".json") and "/." not in each.path}
