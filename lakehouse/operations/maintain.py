"""Maintain: take away what nobody needs any more. What is delivered to nobody yet, or not committed yet, stays.

Nothing of a bronze or a silver table goes by age alone: a driver that was down for months finds all it left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.durations import duration_text
from lakehouse.errors import LakeError, lake_errors
from lakehouse.hours import Hour
from lakehouse.landing.manifests import listed_manifests, read_manifest, stored_manifests
from lakehouse.operations.compaction import compact_hour, is_compacted, origins, small_files
from lakehouse.operations.damage import record_damage
from lakehouse.operations.former_checkpoints import WHY as FORMER_WHY
from lakehouse.operations.former_checkpoints import former_checkpoint
from lakehouse.operations.outdated import outdated
from lakehouse.operations.removal import Removal
from lakehouse.store.bronze_log import Compactions, commit_change, newest_state, segment_of, segments_in_log
from lakehouse.store.delta import Conflicts, DataFile, files, sizes, table_errors
from lakehouse.store.delta_log import commits
from lakehouse.store.files import Stored
from lakehouse.store.holds import holds_for
from lakehouse.store.ledger_rows import StoredRows
from lakehouse.store.log_cleaning import data_files
from lakehouse.store.records import State
from lakehouse.store.silver_log import SEAL
from lakehouse.store.table_log import ConflictError, log_of
from lakehouse.store.tables import REPLACED_FILES_KEPT, TopicTables
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

RETIRE = "retire"

IN_FLIGHT = timedelta(days=1)
"""A younger file may belong to somebody who is still writing; no task lives nearly as long."""


def maintain_topic(
    topic: Topic,
    config: Config,
    now: datetime,
    *,
    dry_run: bool = False,
    is_stopping: Callable[[], bool] = lambda: False,
) -> list[Removal]:
    """As `removals`; nothing more is removed once `is_stopping`."""
    done: list[Removal] = []
    for removal in removals(topic, config, now, dry_run=dry_run):
        done.append(removal)
        if is_stopping():
            break
    return done


def removals(topic: Topic, config: Config, now: datetime, *, dry_run: bool = False) -> Iterator[Removal]:
    """Remove what is due, and say each time what it was; with `dry_run` only say it.

    What is damaged is recorded before. A topic without a lake has nothing. Several may do it at the same time: what
    another removed is no error.
    """
    tables = TopicTables(topic, config.settings).opened_once()
    if not (tables.has_bronze() and tables.has_ledger()):
        return
    with table_errors(f"topic {topic.name}"), lake_errors(f"topic {topic.name}"):
        if not dry_run:
            record_damage(tables, f"maintain/{config.settings.release}")
        yield from _Maintenance(tables, now, dry_run).removals()


class _Maintenance:
    def __init__(self, tables: TopicTables, now: datetime, dry_run: bool) -> None:
        self._topic, self._now, self._dry_run = tables.topic, now, dry_run
        self._tables = tables
        self._raw, self._sealed = tables.raw.files(), tables.sealed.files()
        self._holds = holds_for(tables.settings, tables.sealed.uri)
        self._release = tables.settings.release
        self._as_if_gone: set[tuple[int, int]] = set()
        """Manifests that a dry run would have removed by then."""
        self._digest = tables.digest_history(0) or tables.history()
        """Says up to which hour all have closed, and which an erasure sealed again."""

    @cached_property
    def _ledger(self) -> StoredRows:
        return self._tables.stored_rows()

    def removals(self) -> Iterator[Removal]:
        yield from self._manifests()  # before files go: the table says which segments are committed
        yield from self._retire()
        yield from self._bronze_orphans()
        yield from self._compact()
        former = former_checkpoint(self._raw, self._digest, self._now, IN_FLIGHT)
        yield from self._delete("checkpoint", former, FORMER_WHY)
        yield from self._silver_orphans()
        yield from self._reports()
        yield from outdated(self._tables, self._digest, self._now, self._dry_run, self._as_if_gone)

    # --- bronze ----------------------------------------------------------------------------------------------------

    def _retire(self) -> Iterator[Removal]:
        """Deliveries of hours that are everywhere they go, and rejected ones, after `bronze_retention`."""
        conflicts = Conflicts(f"{self._tables.raw.uri}/bronze")
        while True:
            bronze = self._tables.bronze()
            due = self._retired(files(bronze))
            if not due:
                return
            retired = sorted({file.hour for file in due if file.hour})
            metadata = {"kind": RETIRE, "hours": retired, "files": len(due), "release": self._release}
            if not self._dry_run:
                try:
                    commit_change(bronze, removed=due, metadata=metadata)
                except ConflictError as conflict:
                    conflicts.meet(conflict)
                    continue
                self._raw.delete(f"bronze/{file.path}" for file in due)
            log.info("maintain: topic=%s retired_hours=%d files=%d", self._topic.name, len(retired), len(due))
            break
        for file in due:
            what = "sealed, mirrored" if file.hour else "rejected"
            yield self._removal(
                "bronze file",
                f"bronze/{file.path}",
                file.size_bytes,
                f"{what} and older than {duration_text(self._topic.bronze_retention)}",
                file.hour,
            )

    def _retired(self, of_bronze: Iterable[DataFile]) -> list[DataFile]:
        def is_old(since: datetime) -> bool:
            return hours.instant_after(since, self._topic.bronze_retention) < self._now

        # No hour closes before it begins: of those that began lately nothing is asked.
        old = [file for file in of_bronze if is_old(hours.start_of(file.hour) if file.hour else file.written_at)]
        delivered = self._delivered({file.hour for file in old if file.hour})
        return [file for file in old if file.hour is None or (file.hour in delivered and is_old(delivered[file.hour]))]

    def _delivered(self, wanted: Collection[Hour]) -> dict[Hour, datetime]:
        """Those of some hours with which no stage has anything left to do, and when they closed."""
        closed_through = self._digest.closed_through() or ""
        wanted = [hour for hour in wanted if hour <= closed_through]
        if not wanted:
            return {}
        history, mirrors = self._ledger.of_hours(wanted), set(self._topic.mirrors)
        closes = ((hour, history.first(State.CLOSED, hour)) for hour in history.hours())
        return {
            hour: closed.at
            for hour, closed in closes
            if closed is not None and history.is_cleared(hour) and mirrors <= history.targets_done(hour)
        }

    def _manifests(self) -> Iterator[Removal]:
        """Of epochs that Spark cannot plan again, once the log has all their files."""
        bronze = self._tables.bronze()
        epoch = newest_state(bronze).epoch
        past = {key: stored for key, stored in stored_manifests(self._raw).items() if key[0] < epoch - 1}
        if not past:
            return
        known = segments_in_log(bronze, min(past)[0])
        for key, stored in sorted(past.items()):
            manifest = read_manifest(self._raw, *key)
            named = {segment_of(file.path) for file in manifest.files} if manifest else set()
            if named <= known:
                if self._dry_run:
                    self._as_if_gone.add(key)
                else:
                    self._raw.delete_as_listed([stored])
                yield self._removal("manifest", stored.path, stored.size_bytes, "long committed")

    def _bronze_orphans(self) -> Iterator[Removal]:
        """Files of attempts that lost or died. Listed first, the log read last: what is committed meanwhile is seen."""
        listed = list(data_files(self._raw, "bronze"))
        asides = [stored for stored in self._raw.listing("segments") if "/." in stored.path]
        manifests = [read_manifest(self._raw, *key) for key in listed_manifests(self._raw)]
        named = {segment_of(file.path) for manifest in manifests if manifest for file in manifest.files}
        bronze = self._tables.bronze()
        in_table = files(bronze)
        present = {f"bronze/{file.path}" for file in in_table}
        epoch = newest_state(bronze).epoch
        orphans = [
            stored
            for stored in listed
            if stored.path not in present
            and segment_of(stored.path) not in named
            and (_epoch_of(stored.path) <= epoch or is_compacted(stored.path))
            and self._is_settled(stored)
        ]
        if orphans:
            newer = {f"bronze/{path}" for path in log_of(bronze).paths_since("add")}
            orphans = self._no_longer_read([stored for stored in orphans if stored.path not in newer], in_table)
        yield from self._delete("orphan", orphans, "neither the log nor a manifest names it")
        yield from self._delete("orphan", filter(self._is_settled, asides), "a manifest that was never finished")

    def _no_longer_read(self, orphans: Iterable[Stored], in_table: Iterable[DataFile]) -> list[Stored]:
        """Without those that a compaction has just replaced, which its files name; none where one cannot be read."""
        new = [
            file for file in in_table if is_compacted(file.path) and file.written_at + REPLACED_FILES_KEPT >= self._now
        ]
        try:
            replaced = {f"bronze/{path}" for file in new for path in origins(self._raw, f"bronze/{file.path}")}
        except LakeError as damaged:  # it is recorded as damage
            log.warning("maintain: topic=%s orphans=left error=%s", self._topic.name, damaged)
            return []
        return [stored for stored in orphans if stored.path not in replaced]

    def _compact(self) -> Iterator[Removal]:
        """Many small files of an hour that is delivered; none of which a manifest is still there."""
        bronze = self._tables.bronze()
        by_hour: dict[Hour, list[DataFile]] = {}
        for file in files(bronze):
            if file.hour is not None:
                by_hour.setdefault(file.hour, []).append(file)
        small = {hour: found for hour, of_hour in sorted(by_hour.items()) if (found := small_files(of_hour))}
        delivered = self._delivered(small)
        due = {hour: found for hour, found in small.items() if hour in delivered}
        if not due:
            return
        waiting = {f"{epoch:012d}-{slot:04d}-" for epoch, slot in {*listed_manifests(self._raw)} - self._as_if_gone}
        compactions = Compactions(log_of(bronze))
        for hour, found in due.items():
            if any(segment_of(file.path).startswith(tuple(waiting)) for file in found):
                continue
            if self._dry_run or self._compact_one(compactions, hour, found):
                size = sum(file.size_bytes for file in found)
                why = f"{len(found)} small files become one; they go after {duration_text(REPLACED_FILES_KEPT)}"
                yield self._removal("small files", f"bronze/{hour}", size, why, hour)

    def _compact_one(self, compactions: Compactions, hour: Hour, found: Sequence[DataFile]) -> bool:
        """Whether the hour is compacted now; not where a file went meanwhile, or is damaged: the other hours go on."""
        try:
            return compact_hour(self._tables, compactions, hour, found) is not None
        except LakeError as error:
            if error.subject not in {self._raw.address(f"bronze/{file.path}") for file in found}:
                raise
            if not compactions.have_lost(found):
                log.warning("maintain: topic=%s hour=%s files=left error=%s", self._topic.name, hour, error)
            return False

    # --- silver and what lies beside it ---------------------------------------------------------------------------

    def _silver_orphans(self) -> Iterator[Removal]:
        """Files of seals that died or lost, in hours that are sealed. What others took out of the table is evidence."""
        listed = list(data_files(self._sealed, "silver"))
        if not listed or not self._tables.has_silver():
            return
        present = {f"silver/{path}" for path in sizes(self._tables.silver())}
        orphans = [stored for stored in listed if stored.path not in present and self._is_settled(stored)]
        if orphans:  # the ledger and the whole log are read only where there are any
            of_orphans = self._ledger.of_hours({_hour_of_path(stored.path) for stored in orphans})
            orphans = [stored for stored in orphans if of_orphans.revision(_hour_of_path(stored.path))]
            others = [done for done in commits(self._sealed, "silver") if (done.metadata or {}).get("kind") != SEAL]
            spared = {f"silver/{path}" for done in others for _, path in (*done.added, *done.removed)}
            orphans = [stored for stored in orphans if stored.path not in spared]
        if self._holds is not None and not self._dry_run:
            self._holds.lift(stored.path for stored in orphans)
        yield from self._delete("orphan", orphans, "no version of the sealed hour has it")

    def _reports(self) -> Iterator[Removal]:
        expired = [
            stored
            for stored in self._sealed.listing("reports")
            if hours.instant_after(stored.modified_at, self._topic.audit_window) < self._now
        ]
        yield from self._delete("report", expired, f"older than {duration_text(self._topic.audit_window)}")

    # --- removing --------------------------------------------------------------------------------------------------

    def _delete(self, kind: str, found: Iterable[Stored], why: str) -> Iterator[Removal]:
        found = list(found)
        if not self._dry_run and found:
            storage = self._sealed if found[0].path.startswith(("silver/", "reports/")) else self._raw
            storage.delete(stored.path for stored in found)
        for stored in found:
            yield self._removal(kind, stored.path, stored.size_bytes, why)

    def _removal(self, kind: str, path: str, size_bytes: int, why: str, hour: Hour | None = None) -> Removal:
        return Removal(self._topic.name, kind, path, size_bytes, why, hour)

    def _is_settled(self, stored: Stored) -> bool:
        return stored.modified_at + IN_FLIGHT < self._now


def _epoch_of(path: str) -> float:
    """Of a segment's file; what has another name is nobody's we know, and is left alone."""
    epoch = segment_of(path).partition("-")[0]
    return int(epoch) if epoch.isdigit() else float("inf")


def _hour_of_path(path: str) -> Hour:
    folder = path.removeprefix("silver/").partition("/")[0]
    try:
        return hours.parse_hour(folder.removeprefix("hour="))
    except ValueError:
        return ""
