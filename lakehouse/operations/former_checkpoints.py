"""Spark's checkpoint of one topic's own query, which release 0.1 kept in the topic's folder; nobody reads it now."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from lakehouse.hours import instant_after
from lakehouse.store.files import Storage, Stored
from lakehouse.store.history import History
from lakehouse.store.records import Started, State

_FOLDER = "checkpoint"
WHY = "an application's one query has the topic"


def former_checkpoint(raw: Storage, history: History, now: datetime, untouched_for: timedelta) -> list[Stored]:
    """Its files, once an application of one query has the topic and nothing was written to them for so long.

    Nothing of a checkpoint that may be a person's own query's, with `read=messages`: only ingest's offset had the open
    hour in it.
    """
    started = history.last(State.STARTED)
    if started is None or started.of(Started).application is None:
        return []
    files = list(raw.listing(_FOLDER))
    newest = max([started.at, *(stored.modified_at for stored in files)])
    if instant_after(newest, untouched_for) >= now or not _is_of_ingest(raw, files):
        return []
    return files


def _is_of_ingest(raw: Storage, files: list[Stored]) -> bool:
    prefix = f"{_FOLDER}/offsets/"
    numbers = [int(name) for stored in files if (name := stored.path.removeprefix(prefix)).isdigit()]
    content = raw.read(f"{prefix}{max(numbers)}") if numbers else None
    try:
        offset = json.loads((content or b"").decode().splitlines()[-1])
    except (ValueError, IndexError):
        return False
    return isinstance(offset, dict) and bool(offset.get("open_hour"))
