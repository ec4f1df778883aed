"""Manifests: what makes a segment real."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lakehouse import hours
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.store.files import Storage, Stored

PART_STRIDE = 10_000
"""Part n of slot s has the number s + n * 10,000; an epoch has at most 1,024 slots."""


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
    """What makes a segment real. Times are UTC; `attempt_id` says who wrote it, `attempt` which of Spark's tries.

    `continues` says that the slot goes on in another part. It is decided before the manifest is durable, so that
    whoever reads the slot again reads the same parts. `read` is a `LogRead` as text, of a source that is a log.
    `pulled_bytes` are those of the payloads.
    """

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
    unanswered_at: datetime | None = None
    continues: bool = False
    read: str | None = None
    pulled_bytes: int = 0

    def as_json(self) -> bytes:
        return json.dumps(asdict(self), default=_iso).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Keys that a newer release added are ignored; ValueError, in one line, when it is no manifest."""
        try:
            manifest = _adapter().validate_json(content)
        except ValidationError as wrong:
            first, *others = wrong.errors()
            where = ".".join(map(str, first["loc"]))
            more = f", and {len(others)} more" if others else ""
            raise ValueError(f"{where}: {first['msg']}{more}" if where else first["msg"]) from wrong
        for file in manifest.files:
            if file.event_hour is not None and not hours.is_hour(file.event_hour):
                raise ValueError(f"files: {file.event_hour!r} as an hour")
        return manifest


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


@cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


_MANIFEST = re.compile(r"segments/([0-9]{12,})-([0-9]{4,})\.json")


def manifest_path(epoch: int, slot: int) -> str:
    """Relative to the topic's raw folder; sorts by epoch."""
    return f"segments/{epoch:012d}-{slot:04d}.json"


def _epoch_and_slot(path: str) -> tuple[int, int] | None:
    """None for a path that `manifest_path` does not give: somebody else's file, or an attempt's own."""
    named = _MANIFEST.fullmatch(path)
    return (int(named[1]), int(named[2])) if named else None


def read_manifest(storage: Storage, epoch: int, slot: int) -> Manifest | None:
    """LakeError when something is there that is no manifest."""
    path = manifest_path(epoch, slot)
    content = storage.read(path)
    if content is None:
        return None
    try:
        manifest = Manifest.from_json(content)
        if (manifest.epoch, manifest.slot) != (epoch, slot):
            raise ValueError(f"that of epoch {manifest.epoch}, slot {manifest.slot}")
        return manifest
    except ValueError as broken:
        raise LakeError(
            storage.address(path),
            found=f"a file that is no manifest ({broken})",
            expected="what a slot wrote",
            next_step="Restore it from a backup. The segment's files are in the bronze folder, by its epoch and slot.",
        ) from broken


def read_parts(storage: Storage, epoch: int, slot: int) -> list[Manifest]:
    """The manifests of the slot's parts that are there, in order."""
    parts: list[Manifest] = []
    while (manifest := read_manifest(storage, epoch, slot + len(parts) * PART_STRIDE)) is not None:
        parts.append(manifest)
        if not manifest.continues:
            break
    return parts


def listed_manifests(storage: Storage) -> list[tuple[int, int]]:
    """(epoch, slot) of every manifest that is there, in order."""
    return sorted(stored_manifests(storage))


def stored_manifests(storage: Storage) -> dict[tuple[int, int], Stored]:
    """The manifests that are there by (epoch, slot), as they are to be cleared away: what is listed may be replaced.

    An attempt that was thought dead can put a manifest of its own where one was cleared; only its like may clear that.
    """
    found = ((_epoch_and_slot(each.path), each) for each in storage.listing("segments"))
    return {named: each for named, each in found if named is not None}
