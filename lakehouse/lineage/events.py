"""What is told of a run, as values: nothing of OpenLineage's client, which takes half a second to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from lakehouse.hours import Hour
from lakehouse.lineage.datasets import DatasetName

State = Literal["START", "COMPLETE", "FAIL"]


@dataclass(frozen=True)
class Check:
    """One expectation that was tested."""

    name: str
    is_met: bool
    column: str | None
    severity: str


@dataclass(frozen=True)
class Part:
    """A dataset that a run reads or writes, with what is known of it when the run ends."""

    dataset: DatasetName
    version: int | None = None
    rows: int | None = None
    files: int | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """What is told: `facts` are the lakehouse's own, such as a verdict or how many duplicates were removed."""

    state: State
    at: datetime
    run: str
    namespace: str
    job: str
    hour: Hour
    release: str
    reads: Part
    writes: Part
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
