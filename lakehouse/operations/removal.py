"""What maintain removes, or would remove."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.hours import Hour


@dataclass(frozen=True)
class Removal:
    """Something that goes, or would go: what it is, where it lies under the topic's folders, and why it may."""

    topic: str
    kind: str
    path: str
    size_bytes: int
    why: str
    hour: Hour | None = None
