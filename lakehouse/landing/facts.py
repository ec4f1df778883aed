"""What the source tells of each slot: its manifests as rows of `FACTS`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lakehouse.errors import LakehouseError, note_of
from lakehouse.landing.manifests import Manifest
from lakehouse.landing.slots import Slot
from lakehouse.schemas import FACTS

if TYPE_CHECKING:
    from lakehouse.landing.pull import Pulled

Row = dict[str, Any]
_NOTHING: Row = dict.fromkeys(FACTS.names)


def rows_of_slot(parts: Sequence[Pulled]) -> list[Row]:
    """For each part of one slot; how the slot ended is how its last part did."""
    last = parts[-1].manifest
    unanswered_at = _latest(part.manifest.unanswered_at for part in parts)
    rows: list[Row] = []
    for part in parts:
        ended = replace(part.manifest, dry_at=last.dry_at, full=last.full, unanswered_at=unanswered_at)
        rows += rows_of(ended, part.refused.messages, part.refused.error)
    return rows


def rows_of(manifest: Manifest, unacknowledged: int = 0, ack_error: str | None = None) -> list[Row]:
    """One for each file, or one where there is none."""
    counts = json.dumps({"reasons": manifest.reasons, "undeclared": manifest.undeclared}, sort_keys=True)
    common = {
        **_NOTHING,
        "epoch": manifest.epoch,
        "slot": manifest.slot,
        "written_at": manifest.written_at,
        "dry_at": manifest.dry_at,
        "unanswered_at": manifest.unanswered_at,
        "full": manifest.full,
        "read": manifest.read,
        "attempt": manifest.attempt,
        "unacknowledged": 0,
    }
    rows: list[Row] = [
        {**common, **vars(file), "rejected": 0 if file.event_hour else file.rows} for file in manifest.files
    ]
    rows = rows or [{**common, "rows": 0, "size_bytes": 0, "rejected": 0}]
    rows[0] |= {"counts": counts, "unacknowledged": unacknowledged, "ack_error": ack_error}
    rows[0] |= {"pulled_bytes": manifest.pulled_bytes}
    return rows


def row_of_idle(
    slot: Slot,
    at: datetime,
    drained_at: datetime | None,
    unanswered_at: datetime | None,
    attempt: int,
    read: str | None = None,
) -> Row:
    """A slot to which nothing came, and which leaves nothing behind."""
    return {
        **_NOTHING,
        "epoch": slot.epoch,
        "slot": slot.slot,
        "rows": 0,
        "size_bytes": 0,
        "rejected": 0,
        "written_at": at,
        "dry_at": drained_at,
        "unanswered_at": unanswered_at,
        "full": False,
        "attempt": attempt,
        "unacknowledged": 0,
        "read": read,
    }


def row_of_error(
    slot: Slot, at: datetime, error: LakehouseError, attempt: int, held_until: datetime | None = None
) -> Row:
    """A slot that could not be pulled. It may have leased messages, and may extend them until `held_until`."""
    return {**row_of_idle(slot, at, None, held_until or at, attempt), "error": note_of(error)}


def _latest(instants: Iterable[datetime | None]) -> datetime | None:
    return max((instant for instant in instants if instant is not None), default=None)
