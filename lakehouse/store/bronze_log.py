"""What bronze's own log says of a topic: each ingest commit carries the whole state of assigning and closing.

So the files, their buckets, the closed hours and the reasons are one serialized history, and nothing else has to be
remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deltalake import DeltaTable

from lakehouse import hours
from lakehouse.progress import IngestState
from lakehouse.store.delta import DataFile, commit, metadata_of_commits

INGEST = "ingest"
OPEN_HOUR = "open-hour"
_LIKELY = 20
"""Commits to look at before the whole history is read: other kinds of commits are few."""

Segment = str
"""`<epoch>-<slot>-<attempt>`, the stem of its files' names: a slot that is ever pulled again is another segment."""


def newest_state(bronze: DeltaTable) -> IngestState:
    """The state after the newest ingest commit of the table's version; the initial one when there is none."""
    for _, metadata in ingest_commits(bronze):
        return IngestState.from_json(metadata["state"])
    return IngestState()


def ingest_commits(bronze: DeltaTable) -> Iterator[tuple[int, dict[str, Any]]]:
    """(version, metadata) of ingest's commits, newest first; the whole log is read only when it is asked for."""
    seen = None
    for limit in (_LIKELY, None):
        for version, metadata in metadata_of_commits(bronze, limit):
            if metadata.get("kind") == INGEST and (seen is None or version < seen):
                seen = version
                yield version, metadata


def segments_in_log(bronze: DeltaTable, since_epoch: int) -> set[Segment]:
    """Every segment of `since_epoch` or later whose files the log has.

    A segment is committed with its own epoch or, when it is adopted, with a later one: commits that stand at an earlier
    epoch cannot hold it.
    """
    found: set[Segment] = set()
    for _, metadata in ingest_commits(bronze):
        if metadata["state"]["epoch"] < since_epoch:
            break
        found.update(metadata["segments"])
    return found


def segment_of(path: str) -> Segment:
    """The segment that a data file belongs to."""
    return path.rpartition("/")[2].removesuffix(".parquet")


def commit_batch(bronze: DeltaTable, files: Iterable[DataFile], state: IngestState, metadata: Mapping[str, Any]) -> int:
    """One ingest commit: the files, the state after them and both app transactions; gives its version.

    ConflictError when another ingest commit came since `bronze` was read: then nothing was written.
    """
    transactions = {INGEST: state.epoch}
    if state.open_hour is not None:
        transactions[OPEN_HOUR] = hours.ordinal_of(state.open_hour)
    return commit(
        bronze, files, metadata={**metadata, "kind": INGEST, "state": state.as_json()}, transactions=transactions
    )
