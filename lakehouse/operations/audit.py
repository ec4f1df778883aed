"""Audit: what an hour should hold by its deliveries, why each is or is not in it, and one event's whole way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError
from lakehouse.hours import Hour
from lakehouse.operations.verify import verified
from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.dedup import ADDRESS
from lakehouse.seal.deliveries import Deliveries
from lakehouse.store import parquet
from lakehouse.store.bronze_log import ingest_commits, segment_of
from lakehouse.store.delta import DataFile, as_it_was, files, files_of_hour, open_table, table_exists
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.ledger import Entry, History, Ledger
from lakehouse.store.parquet import FILE, ROW
from lakehouse.store.tables import Folders, folders_of
from lakehouse.topics import Topic

MISSING, EXTRA = "missing", "extra"
DUPLICATE, LATE_DUPLICATE, REJECTED, OTHER_HOUR = "duplicate", "late duplicate", "rejected", "in another hour"

_READERS = 8
_AUDITED_HOURS = 24
"""Newest hours that the job recomputes; `verify` proves the others unchanged since."""

log = logging.getLogger(__name__)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Explained:
    """One delivery that is not a row of the sealed hour, or a row that should not be or is not there, and why."""

    what: str
    event_id: str | None
    message_id: str | None
    publish_time: datetime | None
    where: str


@dataclass(frozen=True)
class Audit:
    """`rows` is what the deliveries come to and `sealed_rows` what the hour holds; None while it is not sealed.

    `counts` has every kind of explanation in full, `explained` the first of each.
    """

    topic: str
    hour: Hour
    as_of: datetime | None
    bronze_version: int
    silver_version: int | None
    deliveries: int
    rows: int
    sealed_rows: int | None
    counts: Mapping[str, int]
    explained: tuple[Explained, ...]

    @property
    def is_right(self) -> bool:
        return not (self.counts.get(MISSING) or self.counts.get(EXTRA))


@dataclass(frozen=True)
class Delivered:
    """One delivery of an event: where its message lies and what became of it."""

    message_id: str
    publish_time: datetime
    event_time: datetime | None
    hour: Hour | None
    epoch: int
    slot: int
    position: int
    segment: str
    file: str
    written_at: datetime
    batch: Mapping[str, Any]
    outcome: str


@dataclass(frozen=True)
class Trace:
    """Every delivery of an event, earliest first, the hours that hold it, and what the ledger says of these."""

    topic: str
    event_id: str
    deliveries: tuple[Delivered, ...]
    hours: tuple[Hour, ...]
    story: tuple[Entry, ...] = field(default=())


def audited(topic: Topic, config: Config, hour: Hour, as_of: datetime | None = None, limit: int = 100) -> Audit:
    """Recompute the hour from bronze and hold it to silver, both as they were at `as_of`; at most `limit` of a kind.

    LakeError when the deliveries are gone: `bronze_retention` says how long they stay.
    """
    lake = _Lake(topic, config, as_of)
    deliveries = Deliveries(topic, hour, lake.bronze, lake.folders, lake.options)
    seal = lake.history.last("sealed", hour)
    if seal is not None and seal.details["deliveries"] and not deliveries.files:
        raise LakeError(
            f"{topic.name} {hour}",
            found="no deliveries in bronze",
            expected=f"{seal.details['deliveries']}, as sealed",
            next_step="They are kept for `bronze_retention`; `lakehouse verify` still proves the sealed rows.",
        )
    found = _Found(limit)
    doubled, late = deliveries.doubled, deliveries.late(lake.silver)
    sealed_files = files_of_hour(lake.silver, hour)
    with duckdb.connect() as database:
        database.execute("set timezone = 'UTC'")
        _loaded(database, "deliveries", _ROW, deliveries.rows(_ROW.names[:3]))
        _loaded(database, "sealed", _ID, lake.column("silver", sealed_files, "event_id"))
        database.register("doubled", doubled)
        database.register("late", late)
        found.query(database, DUPLICATE, _DUPLICATES, lambda row: f"first delivered as {row[3]}")
        holders = lake.holders(_listed(database, _LATE, limit)["event_id"], hour)
        found.query(database, LATE_DUPLICATE, _LATE, lambda row: f"sealed in {holders.get(row[0], 'an earlier hour')}")
        if seal is not None:
            found.query(database, MISSING, _MISSING, lambda row: "delivered, and not in silver")
            found.query(database, EXTRA, _EXTRA, lambda row: "in silver, and no delivery asks for it")
    found.add(OTHER_HOUR, lake.elsewhere(hour), lambda row: f"came after the close, delivered in {row[3]}")
    found.add(REJECTED, lake.rejected(hour), lambda row: row[3])
    return Audit(
        topic.name,
        hour,
        as_of,
        int(lake.bronze.version()),
        int(lake.silver.version()) if seal is not None else None,
        deliveries.count,
        deliveries.count - len(doubled) - len(late),
        sum(file.rows for file in sealed_files) if seal is not None else None,
        dict(found.counts),
        tuple(found.explained),
    )


_ID = pa.schema([("event_id", pa.string())])
_ROW = pa.schema([*_ID, ("message_id", pa.string()), ("publish_time", TIMESTAMP), *ADDRESS])

_FIRSTS = f"(from deliveries anti join doubled using ({FILE}, {ROW}))"
_KEPT = f"(from {_FIRSTS} anti join late using ({FILE}, {ROW}))"
_DUPLICATES = f"""
    select lost.event_id, lost.message_id, lost.publish_time, firsts.message_id as first_message_id
    from (from deliveries semi join doubled using ({FILE}, {ROW})) as lost join {_FIRSTS} as firsts using (event_id)
"""
_LATE = f"select event_id, message_id, publish_time from deliveries semi join late using ({FILE}, {ROW})"
_MISSING = f"select event_id, message_id, publish_time from {_KEPT} anti join sealed using (event_id)"
_EXTRA = f"""
    select event_id, null as message_id, null as publish_time
    from (select event_id, count(*) as times from sealed group by event_id)
    left join (select event_id, true as is_kept from {_KEPT}) using (event_id) where times > 1 or is_kept is null
"""


def _loaded(
    database: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    reader = pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in batches))
    database.register("reader", reader)
    database.execute(f"create table {name} as select * from reader")


def _listed(database: duckdb.DuckDBPyConnection, query: str, limit: int) -> pa.Table:
    return database.sql(f"select * from ({query}) order by 1, 3, 2 limit {limit}").to_arrow_table()


def traced(topic: Topic, config: Config, event_id: str, as_of: datetime | None = None) -> Trace:
    """Every delivery of the event that bronze still has, and the sealed hours that hold it. Reads all ids there are."""
    lake = _Lake(topic, config, as_of)
    present = files(lake.bronze)
    hits = [hit for found in _in_parallel(partial(lake.deliveries_of, event_id), present) for hit in found]
    in_hours = sorted({str(file.hour) for file in lake.silver_files_with(event_id, files(lake.silver))})
    if not hits and not in_hours:
        raise LakehouseError(
            f"{topic.name} event {event_id!r}",
            found="no delivery and no sealed row",
            expected="an id that was delivered",
            next_step="Check the id; deliveries are kept for `bronze_retention`, and erased events leave no trace.",
        )
    batches = lake.batches({hit["segment"] for hit in hits})
    ordered = sorted(hits, key=lambda hit: (hit["publish_time"], hit["message_id"], hit["segment"], hit["position"]))
    events = [hit for hit in ordered if hit["reject_reason"] is None]
    firsts = {hour: next((hit for hit in events if hit["hour"] == hour), None) for hour in in_hours}
    delivered = tuple(
        Delivered(
            outcome=_outcome(hit, firsts, lake.history, in_hours),
            batch=batches.get(hit["segment"], {}),
            **{name: value for name, value in hit.items() if name != "reject_reason"},
        )
        for hit in ordered
    )
    concerned = {*in_hours, *(hit["hour"] for hit in events)}
    story = tuple(entry for entry in lake.history.entries if entry.hour in concerned and entry.state != "held")
    return Trace(topic.name, event_id, delivered, tuple(in_hours), story)


def check_topic(topic: Topic, config: Config, now: datetime) -> None:
    """Verify all sealed hours and audit the newest that bronze still has; LakehouseError when any is not right."""
    folders, options = folders_of(config.settings, topic.name), config.settings.storage_options
    if not table_exists(folders.ledger, options) or not table_exists(folders.silver, options):
        return
    lake = _Lake(topic, config, None)
    findings = list(verified(topic, config, [], now).findings)
    wrong = [f"{finding.hour or 'silver'}: {finding.kind} {finding.subject}" for finding in findings]
    sealed = [hour for hour in lake.history.hours() if lake.history.revision(hour)]
    for hour in sealed[-_AUDITED_HOURS:]:
        if files_of_hour(lake.bronze, hour):
            audit = audited(topic, config, hour)
            wrong += [f"{hour}: {audit.counts[what]} {what}" for what in (MISSING, EXTRA) if audit.counts.get(what)]
    if wrong:
        raise LakehouseError(
            f"topic {topic.name}",
            found="; ".join(wrong[:10]) + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""),
            expected="every sealed hour as it was sealed",
            next_step=f"`lakehouse verify {topic.name}` and `lakehouse audit {topic.name} HOUR` show all of it.",
        )
    log.info("audit: topic=%s verified=%d hours, all as sealed", topic.name, len(sealed))


def _outcome(
    hit: Mapping[str, Any], firsts: Mapping[Hour, Mapping[str, Any] | None], history: History, in_hours: Sequence[Hour]
) -> str:
    hour = hit["hour"]
    if hit["reject_reason"] is not None:
        return f"rejected: {hit['reject_reason']}"
    if not history.revision(hour):
        return f"waits for the seal of {hour}"
    if firsts.get(hour) is hit:
        return f"the row of {hour}"
    if hour in firsts:
        return f"duplicate in {hour}"
    earlier = [each for each in in_hours if each < hour]
    return f"late duplicate: {earlier[-1]} has it" if earlier else f"not in {hour}, though it should be: see `audit`"


Row = tuple[Any, ...]
"""Event id, message id, publish time, and what else the explanation needs."""


class _Found:
    """Explanations as they come: all are counted, some are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.counts: Counter[str] = Counter()
        self.explained: list[Explained] = []

    def query(self, database: duckdb.DuckDBPyConnection, what: str, query: str, where: Callable[[Row], str]) -> None:
        [(count,)] = database.execute(f"select count(*) from ({query})").fetchall()
        rows = _listed(database, query, self._limit)
        self.add(what, list(zip(*(column.to_pylist() for column in rows.columns), strict=True)), where, count)

    def add(self, what: str, rows: Sequence[Row], where: Callable[[Row], str], count: int | None = None) -> None:
        if rows:
            self.counts[what] = len(rows) if count is None else count
        self.explained += [Explained(what, row[0], row[1], row[2], where(row)) for row in rows[: self._limit]]


class _Lake:
    """A topic's tables as they were at some time."""

    def __init__(self, topic: Topic, config: Config, as_of: datetime | None) -> None:
        self.folders: Folders = folders_of(config.settings, topic.name)
        self.options = config.settings.storage_options
        self._topic = topic
        ledger = Ledger(open_table(self.folders.ledger, self.options), by="").history()
        self.history = History(tuple(entry for entry in ledger.entries if as_of is None or entry.at <= as_of))
        self.bronze = as_it_was(open_table(self.folders.bronze, self.options), as_of)
        self.silver = as_it_was(open_table(self.folders.silver, self.options), as_of)
        raw, sealed = storage_for(self.folders.raw, self.options), storage_for(self.folders.sealed, self.options)
        self._storages: dict[str, Storage] = {"bronze": raw, "silver": sealed}

    def column(self, table: str, wanted: Sequence[DataFile], *columns: str) -> Iterator[pa.RecordBatch]:
        openers = [partial(self._storages[table].open, f"{table}/{file.path}") for file in wanted]
        for file in parquet.opened_ahead(openers):
            yield from file.iter_batches(columns=list(columns))

    def deliveries_of(self, event_id: str, file: DataFile) -> list[dict[str, Any]]:
        """The event's rows in one bronze file: first the ids, then the rest of the row groups that have it."""
        names = ["message_id", "publish_time", "event_time", "reject_reason", "epoch", "slot", "position"]
        with self._storages["bronze"].open(f"bronze/{file.path}") as source, pq.ParquetFile(source) as opened:
            found = []
            for group in range(opened.num_row_groups):
                if not pc.any(pc.equal(opened.read_row_group(group, ["event_id"])["event_id"], event_id)).as_py():
                    continue
                table = opened.read_row_group(group, ["event_id", *names])
                found += table.filter(pc.equal(table["event_id"], event_id)).select(names).to_pylist()
        place = {"hour": file.hour, "file": file.path, "segment": segment_of(file.path), "written_at": file.written_at}
        return [{**row, **place} for row in found]

    def silver_files_with(self, event_id: str, wanted: Sequence[DataFile]) -> list[DataFile]:
        def has(file: DataFile) -> bool:
            ids = self.column("silver", [file], "event_id")
            return any(pc.any(pc.equal(batch.column(0), event_id)).as_py() for batch in ids)

        return [file for file, is_there in zip(wanted, _in_parallel(has, wanted), strict=True) if is_there]

    def holders(self, event_ids: pa.ChunkedArray, before: Hour) -> dict[str, Hour]:
        """The earlier hour within the horizon that has each of the events."""
        if not len(event_ids):
            return {}
        first = hours.hour_of(hours.start_of(before) - self._topic.dedup_horizon)
        found: dict[str, Hour] = {}
        for hour in hours.hours_between(first, before):
            for batch in self.column("silver", files_of_hour(self.silver, hour), "event_id"):
                ids = batch.column(0)
                found |= dict.fromkeys(ids.filter(pc.is_in(ids, value_set=event_ids)).to_pylist(), hour)
        return found

    def elsewhere(self, hour: Hour) -> list[Row]:
        """Events of the hour that are delivered in a later one: (id, message, published, hour)."""
        start, end = pa.scalar(hours.start_of(hour)), pa.scalar(hours.end_of(hour))
        found = []
        for file in files(self.bronze):
            if file.hour is None or file.hour <= hour or not _overlaps(file, hour):
                continue
            for batch in self.column("bronze", [file], "event_id", "message_id", "publish_time", "event_time"):
                times = batch.column("event_time")
                mine = batch.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))
                columns = (mine.column(name).to_pylist() for name in ("event_id", "message_id", "publish_time"))
                found += [(*row, file.hour) for row in zip(*columns, strict=True)]
        return found

    def rejected(self, hour: Hour) -> list[Row]:
        """What was published within the hour and has no place in any: (id, message, published, reason)."""
        start, end = hours.start_of(hour), hours.end_of(hour)
        wanted = [file for file in files(self.bronze) if file.hour is None and file.written_at >= start]
        found = []
        for batch in self.column("bronze", wanted, "event_id", "message_id", "publish_time", "reject_reason"):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            found += [row for row in rows if start <= row[2] < end]
        return found

    def batches(self, segments: set[str]) -> dict[str, dict[str, Any]]:
        """The commit that took each segment: its version, release and run."""
        found: dict[str, dict[str, Any]] = {}
        for version, metadata in ingest_commits(self.bronze):
            for segment in segments.intersection(metadata["segments"]):
                found[segment] = {
                    "bronze_version": version,
                    "release": metadata["release"],
                    "run": metadata["run"],
                    "adopted": segment in metadata.get("adopted", []),
                }
            if len(found) == len(segments):
                break
        return found


def _overlaps(file: DataFile, hour: Hour) -> bool:
    low, high = (file.stats.get(kind, {}).get("event_time") for kind in ("minValues", "maxValues"))
    return low is None or high is None or bool(low < hours.end_of(hour) and high >= hours.start_of(hour))


def _in_parallel(read: Callable[[DataFile], Found], wanted: Sequence[DataFile]) -> list[Found]:
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, wanted))
