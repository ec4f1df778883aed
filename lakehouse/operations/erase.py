"""Erase: take a person's events out of bronze and silver, as new revisions of the hours that held them.

The only way in which a sealed hour changes. The condition itself is written down nowhere, as it names the person; the
reason, who gave it, and the old revision's counts and checksum are.

One erasure at a time: each begins with a claim, an empty commit to both tables with the app transaction `erase` one
higher. Whoever lost the claim can commit nothing more, so what an interrupted erasure left can be removed at once.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse import hours
from lakehouse.checksum import id_checksum
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError, lake_errors
from lakehouse.hours import Hour
from lakehouse.operations.as_of import in_parallel
from lakehouse.operations.condition import Condition
from lakehouse.schemas import sealed_schema
from lakehouse.seal.copying import Copied, sealed_columns, write_silver
from lakehouse.seal.stage import SEAL, app_of, newest_seal
from lakehouse.store import bronze_log, parquet
from lakehouse.store.delta import (
    ConflictError,
    Conflicts,
    DataFile,
    commit,
    event_time_stats,
    files,
    files_of_hour,
    metadata_of_commits,
    table_errors,
)
from lakehouse.store.delta_log import commits, commits_at
from lakehouse.store.files import Storage
from lakehouse.store.holds import holds_for
from lakehouse.store.ledger import Ledger
from lakehouse.store.records import PreviousSeal, Sealed
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

ERASE = "erase"

_ERASED_FOLDER = "erased-"
_ERASED_STEM = re.compile(r"-e\d+$")
_REJECTED_COLUMNS = {"event_id", "message_id", "publish_time"}
"""What a rejected delivery has of silver's columns."""


@dataclass(frozen=True)
class ErasedHour:
    """A sealed hour that held such rows. `revision` is the one that it has now, or with a dry run would have."""

    hour: Hour
    revision: int
    erased: int
    rows: int


@dataclass(frozen=True)
class Erasure:
    """`deliveries` went from bronze, those of `hours` among them; `files` are deleted for good."""

    topic: str
    hours: tuple[ErasedHour, ...]
    deliveries: int
    files: tuple[str, ...] = field(default=(), repr=False)


def erase(topic: Topic, config: Config, where: str, *, reason: str, by: str, dry_run: bool = False) -> Erasure:
    """Erase all rows and deliveries for which `where` holds, and every delivery of a row's event.

    `where` is one condition over silver's columns, in DuckDB's SQL. It can be repeated: what is gone is gone, and an
    erasure that was interrupted, this one or another, is finished first. LakehouseError when a closed hour still waits
    for its seal. Rejected deliveries are found only by conditions over their `event_id`, `message_id` and
    `publish_time`; the others go with `bronze_retention`. What ingest has not committed yet is not searched: erase
    again once it has.
    """
    order = _Order(Condition(where, topic), reason, by, config.settings.release)
    with table_errors(f"topic {topic.name}"), lake_errors(f"topic {topic.name}"):
        return _erase(TopicTables(topic, config.settings), order, dry_run=dry_run)


def _erase(tables: TopicTables, order: _Order, *, dry_run: bool) -> Erasure:
    topic = tables.topic
    tables.bronze()
    ledger = tables.ledger(f"{ERASE}/{order.release}/{order.by}")
    silver = SilverErasure(tables, ledger, order)
    bronze = BronzeErasure(tables, ledger, order)
    bronze.check_sealed()
    if not dry_run:
        bronze.claim()
        silver.claim()
        bronze.finish_interrupted()
        silver.finish_interrupted()
    found = silver.matches()
    events = {event for matches in found.values() for match in matches for event in match.events}
    if dry_run:
        would_be = tuple(silver.would_be(hour, matches) for hour, matches in sorted(found.items()))
        return Erasure(topic.name, would_be, sum(match.count for match in bronze.matches(events)))
    deliveries = bronze.rewrite(events)
    sealed_again = tuple(silver.seal_again(hour, matches) for hour, matches in sorted(found.items()))
    log.info("erase: topic=%s hours=%d deliveries=%d", topic.name, len(sealed_again), deliveries)
    return Erasure(topic.name, sealed_again, deliveries, (*bronze.deleted, *silver.deleted))


Event = tuple[Any, ...]
"""The values of the topic's `identity`; an instant in microseconds."""


@dataclass(frozen=True)
class _Order:
    """What is to be erased, and on whose word."""

    condition: Condition
    reason: str
    by: str
    release: str


@dataclass(frozen=True)
class _Match:
    """A file that holds rows to erase."""

    file: DataFile
    count: int
    skewed: int = 0
    events: tuple[Event, ...] = ()
    event_ids: tuple[str, ...] = ()


class _Claim:
    """The fence of one table: only the newest erasure may commit to it."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._number = 0

    def take(self, table: DeltaTable, release: str) -> None:
        self._number = (table.transaction_version(ERASE) or 0) + 1
        try:
            commit(table, [], metadata={"kind": ERASE, "release": release}, transactions={ERASE: self._number})
        except ConflictError as conflict:
            raise self.lost() from conflict

    def transactions(self, table: DeltaTable) -> dict[str, int]:
        """What a commit to the table as it was read must carry; LakehouseError when another erasure has begun."""
        if table.transaction_version(ERASE) != self._number:
            raise self.lost()
        return {ERASE: self._number}

    def lost(self) -> LakehouseError:
        return LakeError(
            f"topic {self._topic.name}",
            found="another erasure, or another revision, that was made at the same time",
            expected="one erasure at a time",
            next_step="Run this one again when the other is done.",
        )


# --- silver --------------------------------------------------------------------------------------------------------


class SilverErasure:
    """Rows of sealed hours: an hour that held some gets a new revision, in one commit."""

    def __init__(self, tables: TopicTables, ledger: Ledger, order: _Order) -> None:
        self._tables, self._topic, self._ledger, self._order = tables, tables.topic, ledger, order
        self._storage = tables.sealed.files()
        self._holds = holds_for(tables.settings, tables.sealed.uri)
        self._claim = _Claim(tables.topic)
        self.deleted: list[str] = []

    def claim(self) -> None:
        self._claim.take(self._tables.silver(), self._order.release)

    def finish_interrupted(self) -> None:
        """A crash can come at each step: a revision without its ledger row, replaced files and reports still there."""
        silver, history = self._tables.silver(), self._ledger.history()
        for hour in history.sealed_hours():
            if (silver.transaction_version(app_of(hour)) or 0) > history.revision(hour):
                version, manifest = newest_seal(silver, hour)
                if self._holds is not None:
                    self._holds.put(f"silver/{file.path}" for file in files_of_hour(silver, hour))
                self._record(hour, Sealed.from_json({**manifest, "silver_version": version}))
        log_entries = commits(self._storage, "silver")
        present = {file.path for file in files(silver)}
        named = present | {path for entry in log_entries for _, path in (*entry.added, *entry.removed)}
        replaced = {
            path for entry in log_entries if (entry.metadata or {}).get("kind") == SEAL for _, path in entry.removed
        }
        listed = [stored.path.removeprefix("silver/") for stored in self._storage.listed("silver")]
        ours = [path for path in listed if path not in named and _ERASED_STEM.search(_stem_of(path))]
        leftover = [f"silver/{path}" for path in (*ours, *(path for path in listed if path in replaced - present))]
        if self._holds is not None:
            self._holds.lift(leftover)
        reports = [
            path
            for hour in history.sealed_hours()
            if (revision := self._ledger.history().revision(hour)) > 1
            for path in self._reports(hour, before=revision)
        ]
        self._delete([*leftover, *reports])

    def matches(self) -> dict[Hour, list[_Match]]:
        found: dict[Hour, list[_Match]] = defaultdict(list)
        for match in in_parallel(self._match, files(self._tables.silver())):
            if match.count and match.file.hour:
                found[match.file.hour].append(match)
        return dict(found)

    def _match(self, file: DataFile) -> _Match:
        wanted = dict.fromkeys([*self._order.condition.columns, "event_id", "event_time"])
        count = skewed = 0
        events: list[Event] = []
        event_ids: list[str] = []
        start = pa.scalar(hours.start_of(str(file.hour)))
        for batch in _batches(self._storage, f"silver/{file.path}", [name for name in wanted if name != "hour"]):
            matching = _with_hour(batch, file).filter(self._mask(batch, file))
            count += len(matching)
            events += _events(matching, self._topic)
            event_ids += matching["event_id"].to_pylist()
            skewed += pc.sum(pc.less(matching["event_time"], start)).as_py() or 0
        return _Match(file, count, skewed, tuple(events), tuple(event_ids))

    def _mask(self, batch: pa.RecordBatch, file: DataFile) -> pa.ChunkedArray:
        return self._order.condition.mask(_with_hour(batch, file))

    def would_be(self, hour: Hour, matches: Sequence[_Match]) -> ErasedHour:
        erased = sum(match.count for match in matches)
        rows = sum(file.rows for file in files_of_hour(self._tables.silver(), hour))
        return ErasedHour(hour, self._ledger.history().revision(hour) + 1, erased, rows - erased)

    def seal_again(self, hour: Hour, matches: Sequence[_Match]) -> ErasedHour:
        """The hour's next revision: the files that held such rows are replaced, the others stay."""
        silver = self._tables.silver()
        claim = self._claim.transactions(silver)
        old = self._ledger.history().seal_of(hour)
        if old is None:
            raise ValueError(f"{hour} of {self._topic.name} is not sealed")
        revision = old.revision + 1
        rewritten = [copied for match in matches if (copied := self._without(match, revision)) is not None]
        sealed = self._revision(old, matches, len(files_of_hour(silver, hour)) - len(matches) + len(rewritten))
        manifest = sealed.as_json() | {"kind": SEAL, "hour": hour}
        del manifest["silver_version"]
        try:
            version = commit(
                silver,
                [copied.as_data_file(hour) for copied in rewritten],
                metadata=manifest,
                transactions={app_of(hour): revision, **claim},
                removed=[match.file for match in matches],
            )
        except ConflictError as conflict:
            raise self._claim.lost() from conflict
        replaced = [f"silver/{match.file.path}" for match in matches]
        if self._holds is not None:
            self._holds.put(f"silver/{copied.path}" for copied in rewritten)
            self._holds.lift(replaced)
        self._record(hour, replace(sealed, silver_version=version))
        self._delete([*replaced, *self._reports(hour, before=revision)])
        return ErasedHour(hour, revision, sum(match.count for match in matches), sealed.rows)

    def _without(self, match: _Match, revision: int) -> Copied | None:
        """The file's other rows in a new file; None when there are none."""
        file, schema = match.file, sealed_schema(self._topic)
        if match.count == file.rows:
            return None

        def kept() -> Iterator[pa.RecordBatch]:
            for batch in _batches(self._storage, f"silver/{file.path}", None):
                rows = batch.filter(pc.invert(self._mask(batch, file)).combine_chunks())
                yield _with_schema(rows, schema)

        stem = f"{_ERASED_STEM.sub('', _stem_of(file.path)) or 'part'}-e{revision}"
        return write_silver(self._storage, stem, str(file.hour), kept(), schema)

    def _revision(self, old: Sealed, matches: Sequence[_Match], files_now: int) -> Sealed:
        """The new seal; its `silver_version` is known once it is committed."""
        erased = sum(match.count for match in matches)
        ids = pa.array([event_id for match in matches for event_id in match.event_ids], pa.string())
        evidence = {key: getattr(old, key) for key in PreviousSeal.__dataclass_fields__}
        return replace(
            old,
            silver_version=0,
            revision=old.revision + 1,
            release=self._order.release,
            rows=old.rows - erased,
            skewed=old.skewed - sum(match.skewed for match in matches),
            files=files_now,
            id_checksum=old.id_checksum - id_checksum(ids),
            seconds=None,
            erased=(old.erased or 0) + erased,
            reason=self._order.reason,
            requested_by=self._order.by,
            previous=PreviousSeal(**evidence),
        )

    def _record(self, hour: Hour, sealed: Sealed) -> None:
        self._ledger.record(sealed, hour, unless=lambda history: history.revision(hour) >= sealed.revision)

    def _reports(self, hour: Hour, before: int) -> list[str]:
        """Of older revisions: their examples are rows."""
        listed = [stored.path for stored in self._storage.listed("reports") if hour in stored.path]
        newer = re.compile(r"/r(\d+)\.")
        return [path for path in listed if not (name := newer.search(path)) or int(name[1]) < before]

    def _delete(self, paths: list[str]) -> None:
        self._storage.delete(paths)
        self.deleted += paths


# --- bronze --------------------------------------------------------------------------------------------------------


class BronzeErasure:
    """Deliveries: the files that held some are replaced in one commit, which no close of an hour can slip past."""

    def __init__(self, tables: TopicTables, ledger: Ledger, order: _Order) -> None:
        self._tables, self._topic, self._ledger, self._order = tables, tables.topic, ledger, order
        self._storage = tables.raw.files()
        self._claim = _Claim(tables.topic)
        self.deleted: list[str] = []

    def check_sealed(self) -> None:
        """A closed hour is sealed from the files that it closed with: these must not change before."""
        due = self._ledger.history().due_to_seal()
        if due:
            raise LakeError(
                f"topic {self._topic.name}",
                found=f"{len(due)} closed hours without a seal, the oldest {due[0]}",
                expected="every closed hour sealed",
                next_step="Run the seal stage first, then erase again.",
            )

    def claim(self) -> None:
        self._claim.take(self._tables.bronze(), self._order.release)

    def finish_interrupted(self) -> None:
        """Files that an erasure took out of the table, or never committed, are deleted."""
        bronze = self._tables.bronze()
        versions = [version for version, metadata in metadata_of_commits(bronze) if metadata.get("kind") == ERASE]
        replaced = {path for entry in commits_at(self._storage, "bronze", versions) for _, path in entry.removed} - (
            present := {file.path for file in files(bronze)}
        )
        listed = [stored.path.removeprefix("bronze/") for stored in self._storage.listed("bronze")]
        ours = [path for path in listed if path.startswith(_ERASED_FOLDER) and path not in present]
        self._delete([f"bronze/{path}" for path in dict.fromkeys((*ours, *(p for p in listed if p in replaced)))])

    def matches(self, events: set[Event]) -> list[_Match]:
        """By the condition, and every other delivery of these events."""
        found = in_parallel(partial(self._match, events), files(self._tables.bronze()))
        return [match for match in found if match.count]

    def rewrite(self, events: set[Event]) -> int:
        """One commit; gives how many deliveries it took away."""
        conflicts = Conflicts(f"{self._tables.raw.uri}/bronze")
        while matches := self.matches(events):
            table = self._tables.bronze()
            claim = self._claim.transactions(table)
            self.check_sealed()
            rewritten = [file for match in matches if (file := self._without(match, events))]
            count = sum(match.count for match in matches)
            metadata = {
                "kind": ERASE,
                "deliveries": count,
                "reason": self._order.reason,
                "release": self._order.release,
            }
            removed = [match.file for match in matches]
            try:
                bronze_log.commit_change(table, added=rewritten, removed=removed, metadata=metadata, transactions=claim)
            except ConflictError as conflict:
                self._storage.delete(f"bronze/{file.path}" for file in rewritten)
                conflicts.meet(conflict)
                continue
            self._delete([f"bronze/{file.path}" for file in removed])
            return count
        return 0

    def _match(self, events: set[Event], file: DataFile) -> _Match:
        columns = ["event_id", "message_id", "publish_time", "event_time"]
        columns += ["event"] if file.hour is not None else []
        batches = _batches(self._storage, f"bronze/{file.path}", columns)
        return _Match(file, sum(pc.sum(self._mask(batch, file, events)).as_py() or 0 for batch in batches))

    def _mask(self, batch: pa.RecordBatch, file: DataFile, events: set[Event]) -> pa.Array:
        is_known = self._is_delivery_of(batch, events)
        condition = self._order.condition
        if file.hour is None:
            if not set(condition.columns) <= _REJECTED_COLUMNS:
                return is_known
            rows = batch.select(sorted(_REJECTED_COLUMNS))
        else:
            rows = sealed_columns(batch, sealed_schema(self._topic))
        return pc.or_(condition.mask(_with_hour(rows, file)).combine_chunks(), is_known)

    def _is_delivery_of(self, batch: pa.RecordBatch, events: set[Event]) -> pa.Array:
        """Whether each row is a delivery of one of the events; of a rejected one only the id is known, so it is not."""
        ids = pa.array(sorted({event[0] for event in events}), pa.string())
        mask = pc.is_in(batch.column("event_id"), value_set=ids)
        if not pc.any(mask).as_py():
            return mask
        found = _events(pa.Table.from_batches([batch]), self._topic)
        times = batch.column("event_time").is_valid().to_pylist()
        return pa.array(
            [is_event and event in events for is_event, event in zip(times, found, strict=True)], pa.bool_()
        )

    def _without(self, match: _Match, events: set[Event]) -> DataFile | None:
        """The file's other rows under the same segment's name, in a folder of this erasure's own."""
        file = match.file
        if match.count == file.rows:
            return None
        path = f"{_ERASED_FOLDER}{uuid.uuid4().hex[:8]}/{file.path}"
        rows = 0
        times: list[Any] = []
        with parquet.LakeFile(self._storage, f"bronze/{file.path}") as opened:
            schema = opened.schema_arrow
            with self._storage.create(f"bronze/{path}") as sink:
                with pq.ParquetWriter(sink, schema, **parquet.options(schema)) as writer:
                    for batch in opened.iter_batches():
                        kept = batch.filter(pc.invert(self._mask(batch, file, events)))
                        writer.write_batch(kept)
                        rows += len(kept)
                        times += pc.min_max(kept.column("event_time")).values() if len(kept) else []
                size_bytes = sink.tell()
        self._storage.finish([f"bronze/{path}"])
        known = [time.as_py() for time in times if time.is_valid]
        stats = event_time_stats(min(known, default=None), max(known, default=None))
        return replace(file, path=path, rows=rows, size_bytes=size_bytes, stats=stats)

    def _delete(self, paths: list[str]) -> None:
        self._storage.delete(paths)
        self.deleted += paths


# --- rows ----------------------------------------------------------------------------------------------------------


def _events(rows: pa.Table, topic: Topic) -> list[Event]:
    """What makes each row's event."""
    columns = [rows[name].cast(pa.int64()) if name == "event_time" else rows[name] for name in topic.identity]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def _with_hour(batch: pa.RecordBatch, file: DataFile) -> pa.Table:
    rows = pa.Table.from_batches([batch])
    return rows.append_column("hour", pa.array([file.hour] * len(rows), pa.string()))


def _batches(storage: Storage, path: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """The columns that the file has of those asked for."""
    with parquet.LakeFile(storage, path) as file:
        present = file.schema_arrow.names
        yield from file.iter_batches(columns=None if columns is None else [name for name in columns if name in present])


def _with_schema(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Silver's columns of today; what the topic gained since the hour was sealed is null."""
    columns = [
        rows.column(each.name).cast(each.type) if each.name in rows.schema.names else pa.nulls(len(rows), each.type)
        for each in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _stem_of(path: str) -> str:
    """A silver file's name without what makes it its own."""
    return path.rpartition("/")[2].rpartition("-")[0]
