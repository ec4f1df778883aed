"""What an erasure took out of a topic's tables and reports, or never finished, and is still in a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import datetime

from deltalake import DeltaTable

from lakehouse.hours import Hour
from lakehouse.landing.manifests import listed_manifests, read_manifest
from lakehouse.operations.compaction import COMPACT
from lakehouse.operations.erasure.order import ERASE
from lakehouse.seal.stage import SEAL, app_of
from lakehouse.store.bronze_log import segment_of
from lakehouse.store.delta import files, metadata_of_commits
from lakehouse.store.delta_log import commits, commits_at
from lakehouse.store.files import Storage
from lakehouse.store.history import History
from lakehouse.store.log_cleaning import data_files
from lakehouse.store.tables import TopicTables

ERASED_FOLDER = "erased-"
ERASED_STEM = re.compile(r"-e\d+$")
_REVISION = re.compile(r"[/.]r(\d+)(\.|$)")


def unrecorded_revisions(silver: DeltaTable, history: History) -> Iterator[Hour]:
    """Hours whose newest revision is in silver, and not in the ledger yet."""
    for hour in history.sealed_hours():
        if (silver.transaction_version(app_of(hour)) or 0) > history.revision(hour):
            yield hour


def silver_leftovers(silver: DeltaTable, storage: Storage, erased_hours: Collection[Hour]) -> list[str]:
    """Files that a revision replaced, or that an erasure wrote and no version has; paths are those of the storage.

    Of `erased_hours` all that the table has no more, or never had: a seal that died left the rows of the one that came
    after it, and none can commit any more.
    """
    log_entries = commits(storage, "silver")
    present = {file.path for file in files(silver)}
    named = present | {path for entry in log_entries for _, path in (*entry.added, *entry.removed)}
    replaced = {
        path for entry in log_entries if (entry.metadata or {}).get("kind") == SEAL for _, path in entry.removed
    }
    listed = [stored.path.removeprefix("silver/") for stored in storage.listing("silver")]
    ours = [path for path in listed if path not in named and ERASED_STEM.search(stem_of(path))]
    folders = tuple(f"hour={hour}/" for hour in erased_hours)
    unnamed = [path for path in listed if path.startswith(folders) and path not in present] if folders else []
    gone = [path for path in listed if path in replaced - present]
    return [f"silver/{path}" for path in dict.fromkeys((*ours, *gone, *unnamed))]


def bronze_leftovers(bronze: DeltaTable, storage: Storage) -> list[str]:
    """As of silver; and the small files that a compaction before an erasure replaced, and kept for a day."""
    kinds = {version: metadata.get("kind") for version, metadata in metadata_of_commits(bronze)}
    last = max((version for version, kind in kinds.items() if kind == ERASE), default=-1)
    versions = [version for version, kind in kinds.items() if version <= last and kind in (ERASE, COMPACT)]
    present = {file.path for file in files(bronze)}
    replaced = {path for entry in commits_at(storage, "bronze", versions) for _, path in entry.removed} - present
    listed = [stored.path.removeprefix("bronze/") for stored in storage.listing("bronze")]
    ours = [path for path in listed if path.startswith(ERASED_FOLDER) and path not in present]
    return [f"bronze/{path}" for path in dict.fromkeys((*ours, *(path for path in listed if path in replaced)))]


def unnamed_deliveries(tables: TopicTables) -> list[str]:
    """Files of bronze from before the last erasure that neither its log nor a manifest names.

    An attempt that died left them, or still writes: so they are not ours to delete before `maintain` does, after a day.
    What was listed before is in the log by now, if it is to be.
    """
    storage = tables.raw.files()
    listed = [stored for stored in data_files(storage, "bronze") if stored.path.endswith(".parquet")]
    manifests = [read_manifest(storage, *key) for key in listed_manifests(storage)]
    named = {segment_of(file.path) for manifest in manifests if manifest for file in manifest.files}
    bronze = tables.bronze()
    erased_at = _last_erasure(bronze, storage)
    if erased_at is None:
        return []
    known = {f"bronze/{file.path}" for file in files(bronze)} | set(bronze_leftovers(bronze, storage))
    return [
        stored.path
        for stored in listed
        if stored.path not in known and segment_of(stored.path) not in named and stored.modified_at <= erased_at
    ]


def _last_erasure(bronze: DeltaTable, storage: Storage) -> datetime | None:
    versions = (version for version, metadata in metadata_of_commits(bronze) if metadata.get("kind") == ERASE)
    newest = next(versions, None)
    entries = commits_at(storage, "bronze", [] if newest is None else [newest])
    return entries[0].committed_at if entries else None


def older_reports(storage: Storage, history: History) -> list[str]:
    """Reports on revisions before the newest, and the notes that MLflow lacks them: their examples are rows."""
    newest = history.erased_hours()
    listed = [stored.path for stored in storage.listing("reports")] if newest else []
    return [path for path in listed for hour in newest if hour in path and _revision_of(path) < newest[hour]]


def stem_of(path: str) -> str:
    """A silver file's name without what makes it its own."""
    return path.rpartition("/")[2].rpartition("-")[0]


def _revision_of(path: str) -> int:
    """0 of a report by the name of its hour alone, as the first releases wrote them."""
    found = _REVISION.search(path)
    return int(found[1]) if found else 0
