"""A topic's slots as a task of the application pulls them, without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lakehouse.config import Ingest
from lakehouse.errors import from_trace
from lakehouse.landing.bundles import Bundle, Land, pulled
from lakehouse.landing.pull import Puller
from lakehouse.landing.slots import Slot
from lakehouse.store.place import Place
from lakehouse.topics import Topic


def land_of(topic: Topic, raw: str, ingest: Ingest, options: Mapping[str, str] | None = None) -> Land:
    """Of one topic, whose raw folder is `raw`."""
    return Land(lambda name: topic, lambda name: Place(raw, options or {}), ingest)


def facts_of(
    land: Land, slots: Iterable[Slot], puller: Puller | None = None, name: str = "plays"
) -> list[dict[str, Any]]:
    """The facts of slots, each of which has a task of its own; raises what one of them failed of."""
    rows = [row for slot in slots for row in pulled(Bundle(((name, slot),)), land, puller or Puller(), 0)]
    for row in rows:
        if row["error"]:
            error = from_trace(row["error"])
            assert error is not None
            raise error
    return rows
