"""What an erasure took out of a topic's tables and reports, or never finished, and is still in a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from deltalake import DeltaTable

from lakehouse.hours import Hour
from lakehouse.landing.manifests import listed_manifests, read_manifest
from lakehouse.operations.compaction import COMPACT, is_compacted
from lakehouse.operations.erasure.order import ERASE
from lakehouse.seal.stage import app_of
from lakehouse.store.bronze_log import segment_of
from lakehouse.store.delta import files, metadata_of_commits
from lakehouse.store.delta_log import commits, commits_at
from lakehouse.store.files import Storage
from lakehouse.store.history import History
from lakehouse.store.log_cleaning import data_files
from lakehouse.store.silver_log import SEAL
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
    erased = _Erased.of(bronze, storage)
    listed = [stored.path.removeprefix("bronze/") for stored in storage.listing("bronze")]
    ours = [path for path in listed if path.startswith(ERASED_FOLDER) and path not in erased.known]
    return [f"bronze/{path}" for path in dict.fromkeys((*ours, *(path for path in listed if path in erased.gone)))]


def unnamed_deliveries(tables: TopicTables) -> list[str]:
    """Files of bronze from before the last erasure that neither its log nor a manifest names; compacted ones of any
    time, as a compaction can have read before the erasure what it wrote after it.

    An attempt that died left them, or still writes: so they are not ours to delete before `maintain` does, after a day.
    What was listed before is in the log by now, if it is to be.
    """
    storage = tables.raw.files()
    listed = [stored for stored in data_files(storage, "bronze") if stored.path.endswith(".parquet")]
    manifests = [read_manifest(storage, *key) for key in listed_manifests(storage)]
    named = {segment_of(file.path) for manifest in manifests if manifest for file in manifest.files}
    erased = _Erased.of(tables.bronze(), storage)
    if erased.at is None:
        return []
    return [
        stored.path
        for stored in listed
        if stored.path.removeprefix("bronze/") not in erased.known | erased.gone
        and segment_of(stored.path) not in named
        and (stored.modified_at <= erased.at or is_compacted(stored.path))
    ]


@dataclass(frozen=True)
class _Erased:
    """What bronze's log says of erasures: files that must be `gone`, and all others that it names, `known`.

    What was compacted after the last erasure, which was `at`, holds nobody who was erased.
    """

    at: datetime | None
    known: frozenset[str]
    gone: frozenset[str]

    @classmethod
    def of(cls, bronze: DeltaTable, storage: Storage) -> _Erased:
        kinds = {version: metadata.get("kind") for version, metadata in metadata_of_commits(bronze)}
        present = {file.path for file in files(bronze)}
        entries = commits_at(storage, "bronze", [each for each, kind in kinds.items() if kind in (ERASE, COMPACT)])
        erasures = [entry for entry in entries if kinds[entry.version] == ERASE]
        last = max((entry.version for entry in erasures), default=-1)
        gone = {path for entry in entries if entry.version <= last for _, path in entry.removed} - present
        later = {path for entry in entries if entry.version > last for _, path in entry.removed}
        at = max((entry.committed_at for entry in erasures if entry.committed_at), default=None)
        return cls(at, frozenset(present | later), frozenset(gone))


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
