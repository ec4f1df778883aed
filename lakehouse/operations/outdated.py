"""What a topic's tables need no longer of their own past: files of the ledger, and entries of the logs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime

from lakehouse import hours
from lakehouse.durations import duration_text
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.landing.manifests import stored_manifests
from lakehouse.operations.erasure.verdicts import JUDGED, without_observed_values
from lakehouse.operations.removal import Removal
from lakehouse.store.history import History
from lakehouse.store.log_cleaning import expired_log_files
from lakehouse.store.tables import REPLACED_FILES_KEPT, TopicTables


def outdated(
    tables: TopicTables, history: History, now: datetime, dry_run: bool, as_if_gone: Collection[tuple[int, int]]
) -> Iterator[Removal]:
    """Removes it, and gives what it was; with `dry_run` only that, as if those manifests were gone."""
    yield from _erased_from_ledger(tables, history, dry_run)
    yield from _replaced_in_ledger(tables, dry_run)
    yield from _log_entries(tables, now, dry_run, as_if_gone)


def _erased_from_ledger(tables: TopicTables, history: History, dry_run: bool) -> Iterator[Removal]:
    """Files whose rows still have values of what an erasure took away: written again without them."""
    erased: dict[Hour, int] = {}
    with suppress(LakeError):  # of a broken row, which `verify` reports: it keeps nothing else from being removed
        erased = history.erased_hours()
    changed = without_observed_values(erased)
    addresses = tables.ledger_files_to_change(changed, JUDGED) if erased else []
    if addresses and not dry_run:
        tables.ledger(f"maintain/{tables.settings.release}").erase(changed, JUDGED)
    for address in addresses:
        path = f"ledger/{address.rpartition('/')[2]}"
        why = "observed values of a revision that an erasure replaced"
        yield Removal(tables.topic.name, "ledger", path, 0, why)


def _replaced_in_ledger(tables: TopicTables, dry_run: bool) -> Iterator[Removal]:
    """Files that became part of a larger one, once nobody can still be reading them."""
    ledger = tables.sealed.below("ledger").table()
    expired = ledger.vacuum(dry_run=True)
    if expired and not dry_run:
        expired = ledger.vacuum(dry_run=False)
    why = f"part of a larger file for {duration_text(REPLACED_FILES_KEPT)}"
    for path in expired:
        yield Removal(tables.topic.name, "ledger", f"ledger/{path}", 0, why)


def _log_entries(
    tables: TopicTables, now: datetime, dry_run: bool, as_if_gone: Collection[tuple[int, int]]
) -> Iterator[Removal]:
    """Entries that no commit looks for. Of bronze those since its oldest manifest stay: only they say that its files
    were committed, once these are retired.
    """
    raw, sealed, window = tables.raw, tables.sealed, tables.topic.audit_window
    manifests = stored_manifests(raw.files()).items()
    needed_since = min((stored.modified_at for key, stored in manifests if key not in as_if_gone), default=now)
    kept_for = (
        (raw, "bronze", tables.bronze_log_kept, needed_since),
        (sealed, "silver", window, now),
        (sealed, "ledger", window, now),
    )
    for place, name, kept, since in kept_for:
        files = place.below(name).files()
        expired = expired_log_files(files, min(hours.instant_after(now, -kept), since))
        if not expired:
            continue
        if not dry_run:
            files.delete(stored.path for stored in expired)
        why = f"{len(expired)} older than {duration_text(kept)}, before a checkpoint"
        size_bytes = sum(stored.size_bytes for stored in expired)
        yield Removal(tables.topic.name, "log", f"{name}/_delta_log", size_bytes, why)
