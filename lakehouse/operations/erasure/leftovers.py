"""What an erasure took out of a topic's tables and reports, or never finished, and is still in a file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deltalake import DeltaTable

from lakehouse.hours import Hour
from lakehouse.operations.erasure.order import ERASE
from lakehouse.seal.stage import SEAL, app_of
from lakehouse.store.delta import files, metadata_of_commits
from lakehouse.store.delta_log import commits, commits_at
from lakehouse.store.files import Storage
from lakehouse.store.history import History

ERASED_FOLDER = "erased-"
ERASED_STEM = re.compile(r"-e\d+$")
_REVISION = re.compile(r"[/.]r(\d+)(\.|$)")


def unrecorded_revisions(silver: DeltaTable, history: History) -> Iterator[Hour]:
    """Hours whose newest revision is in silver, and not in the ledger yet."""
    for hour in history.sealed_hours():
        if (silver.transaction_version(app_of(hour)) or 0) > history.revision(hour):
            yield hour


def silver_leftovers(silver: DeltaTable, storage: Storage) -> list[str]:
    """Files that a revision replaced, or that an erasure wrote and no version has; paths are those of the storage."""
    log_entries = commits(storage, "silver")
    present = {file.path for file in files(silver)}
    named = present | {path for entry in log_entries for _, path in (*entry.added, *entry.removed)}
    replaced = {
        path for entry in log_entries if (entry.metadata or {}).get("kind") == SEAL for _, path in entry.removed
    }
    listed = [stored.path.removeprefix("silver/") for stored in storage.listing("silver")]
    ours = [path for path in listed if path not in named and ERASED_STEM.search(stem_of(path))]
    return [f"silver/{path}" for path in (*ours, *(path for path in listed if path in replaced - present))]


def bronze_leftovers(bronze: DeltaTable, storage: Storage) -> list[str]:
    """As of silver."""
    versions = [version for version, metadata in metadata_of_commits(bronze) if metadata.get("kind") == ERASE]
    present = {file.path for file in files(bronze)}
    replaced = {path for entry in commits_at(storage, "bronze", versions) for _, path in entry.removed} - present
    listed = [stored.path.removeprefix("bronze/") for stored in storage.listing("bronze")]
    ours = [path for path in listed if path.startswith(ERASED_FOLDER) and path not in present]
    return [f"bronze/{path}" for path in dict.fromkeys((*ours, *(path for path in listed if path in replaced)))]


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
