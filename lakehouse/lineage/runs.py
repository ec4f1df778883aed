"""One run of a stage over one hour: what it read, what it wrote, and how it ended."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lakehouse.concealed import without_secrets
from lakehouse.config import Settings
from lakehouse.hours import Hour
from lakehouse.lineage import emitting
from lakehouse.lineage.datasets import DatasetName
from lakehouse.lineage.events import Part, RunEvent, State


class LineageRun:
    """A run under way: the stage adds what it finds."""

    def __init__(self, reads: DatasetName, writes: DatasetName) -> None:
        self.reads, self.writes = Part(reads), Part(writes)
        self.facts: dict[str, Any] = {}

    def found(self, *, reads: Mapping[str, Any], writes: Mapping[str, Any], **facts: Any) -> None:
        """Fields of both parts, and facts."""
        self.reads, self.writes = replace(self.reads, **reads), replace(self.writes, **writes)
        self.facts |= facts


@contextmanager
def lineage_run(
    settings: Settings, job: str, hour: Hour, reads: DatasetName, writes: DatasetName
) -> Iterator[LineageRun]:
    """Tells of the run that is within, where `lineage.events` says so: its start, and its end or its failure.

    Nothing is waited for, and nothing that goes wrong in telling is raised.
    """
    run = LineageRun(reads, writes)
    if settings.lineage.events == "none":
        yield run
        return
    named = str(uuid.uuid4())

    def tell(state: State, error: str | None = None) -> None:
        emitting.emit(
            RunEvent(
                state=state,
                at=settings.clock(),
                run=named,
                namespace=settings.lineage.namespace,
                job=job,
                hour=hour,
                release=settings.release,
                reads=run.reads,
                writes=run.writes,
                facts=dict(run.facts),
                error=error,
            )
        )

    tell("START")
    try:
        yield run
    except BaseException as failure:
        tell("FAIL", without_secrets(str(failure) or type(failure).__name__))
        raise
    tell("COMPLETE")
