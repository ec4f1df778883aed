"""Which files of a topic are gone or not as they were written: one listing for each folder, no data file opened."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress

from lakehouse.clock import Clock
from lakehouse.errors import LakeError
from lakehouse.landing.manifests import Manifest, listed_manifests, read_manifest
from lakehouse.store.bronze_log import segment_of, segments_in_log
from lakehouse.store.delta import sizes, table_errors
from lakehouse.store.files import Storage
from lakehouse.store.history import History
from lakehouse.store.log_cleaning import data_files
from lakehouse.store.place import Place
from lakehouse.store.records import Damaged, DamagedFile, State
from lakehouse.store.table_log import log_of
from lakehouse.store.tables import TopicTables

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Files; `verify` lists all of sealed hours."""


def damage(tables: TopicTables) -> Damaged:
    """By the sizes in the logs of bronze, silver and ledger, and what manifests say; an unreadable log counts, too.

    Bytes that changed and left the size as it was are found by `verify` and `audit` only.
    """
    of_sealed = [each for name in ("silver", "ledger") for each in _of_table(tables.sealed, name)]
    found = [*_of_table(tables.raw, "bronze"), *_of_manifests(tables), *of_sealed]
    return Damaged(count=len(found), files=tuple(found[:MOST_NAMED]))


def record_damage(tables: TopicTables, by: str, clock: Clock | None = None) -> None:
    """One row in the ledger where a look finds something else than the look before, so that `status` need not look."""
    if not tables.has_ledger():
        return
    found = damage(tables)
    for each in found.files:
        log.warning("damage: topic=%s path=%s found=%s", tables.topic.name, each.path, each.found)
    tables.ledger(by, clock).record(found, unless=lambda history: recorded_damage(history) == found)


def recorded_damage(history: History) -> Damaged:
    """What the newest look found; nothing where nobody has looked."""
    newest = history.last(State.DAMAGED)
    return newest.of(Damaged) if newest else Damaged()


def _of_table(place: Place, name: str) -> list[DamagedFile]:
    table_place = place.below(name)
    if not table_place.has_table():
        return []
    try:
        with table_errors(table_place.uri):
            table, storage = table_place.table(), place.files()
            wanted = {f"{name}/{path}": size_bytes for path, size_bytes in sizes(table).items()}
            found = dict(_differing(storage, name, wanted))
            if found:  # what was retired since the log was read is no damage
                table.update_incremental()
                retired = log_of(table).paths_since("remove")
                present = {f"{name}/{path}" for path in sizes(table) if path not in retired}
                found = {path: damaged for path, damaged in found.items() if path in present}
            return list(found.values())
    except LakeError as unreadable:
        return [_unreadable(unreadable)]


def _differing(storage: Storage, folder: str, wanted: Mapping[str, int]) -> Iterator[tuple[str, DamagedFile]]:
    sizes = {stored.path: stored.size_bytes for stored in data_files(storage, folder)}
    for path, size_bytes in wanted.items():
        there = sizes.get(path)
        if there != size_bytes:
            found = "no such file" if there is None else f"{there:,} bytes"
            yield path, DamagedFile(path=storage.address(path), found=found, expected=f"{size_bytes:,} bytes")


def _of_manifests(tables: TopicTables) -> list[DamagedFile]:
    """Manifests that cannot be read, and what the others name and no commit has taken yet."""
    storage = tables.raw.files()
    if not storage.listing("segments"):
        return []
    damaged: list[DamagedFile] = []
    manifests: list[Manifest] = []
    for key in listed_manifests(storage):
        try:
            manifests += [manifest] if (manifest := read_manifest(storage, *key)) else []
        except LakeError as unreadable:
            damaged.append(_unreadable(unreadable))
    wanted = {f"bronze/{file.path}": file.size_bytes for manifest in manifests for file in manifest.files}
    found = dict(_differing(storage, "bronze", wanted)) if wanted else {}
    if found and tables.has_bronze():  # what a commit has taken is compared with the log, or was retired since
        with suppress(LakeError):
            taken = segments_in_log(tables.bronze(), min(manifest.epoch for manifest in manifests))
            found = {path: each for path, each in found.items() if segment_of(path) not in taken}
    return [*damaged, *found.values()]


def _unreadable(error: LakeError) -> DamagedFile:
    return DamagedFile(path=error.subject, found=error.found, expected=error.expected)
