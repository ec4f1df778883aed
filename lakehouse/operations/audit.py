"""Audit: what an hour should hold by its deliveries, and why each is or is not in it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.errors import CheckError, LakeError
from lakehouse.hours import Hour
from lakehouse.operations.as_of import TablesAsOf
from lakehouse.operations.verify import verify_hours
from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.copying import READ_COLUMNS, sealed_columns
from lakehouse.seal.dedup import ADDRESS
from lakehouse.seal.deliveries import Deliveries
from lakehouse.store.delta import DataFile, files, files_of_hour, files_of_hours
from lakehouse.store.parquet import FILE, ROW, readers
from lakehouse.store.scratch import scratch_database
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.underway import Work

MISSING, EXTRA, DIFFERENT = "missing", "extra", "different"
DUPLICATE, LATE_DUPLICATE, REJECTED, OTHER_HOUR = "duplicate", "late duplicate", "rejected", "in another hour"

_AUDITED_HOURS = 24
"""Newest hours that the job recomputes; `verify` proves the others unchanged since."""

log = logging.getLogger(__name__)


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
        return not any(self.counts.get(what) for what in (MISSING, EXTRA, DIFFERENT))


def audit_hour(
    topic: Topic,
    config: Config,
    hour: Hour,
    as_of: datetime | None = None,
    limit: int = 100,
    *,
    compares_values: bool = True,
    work: Work | None = None,
) -> Audit:
    """Recompute the hour from bronze and hold it to silver, both as they were at `as_of`; at most `limit` of a kind.

    With `compares_values` also every declared column that all of the hour's files have, for which both are read whole.
    `work` counts the rows that are read.
    LakeError when the deliveries are gone: `bronze_retention` says how long they stay.
    """
    lake = TablesAsOf(topic, config, as_of)
    deliveries = Deliveries(lake.tables, hour, lake.bronze_files(hour), work)
    seal = lake.history.seal_of(hour)
    if seal is not None and seal.deliveries and not deliveries.files:
        raise LakeError(
            f"{topic.name} {hour}",
            found="no deliveries in bronze",
            expected=f"{seal.deliveries}, as sealed",
            next_step="They are kept for `bronze_retention`; `lakehouse verify` still proves the sealed rows.",
        )
    doubled, late = deliveries.doubled, deliveries.late(lambda earlier: files_of_hours(lake.silver, earlier))
    sealed_files = files_of_hour(lake.silver, hour)
    explanations = _Explanations(limit)
    _compare(lake, hour, deliveries, doubled, late, sealed_files, explanations, is_sealed=seal is not None)
    if seal is not None and compares_values:
        _compare_values(lake, deliveries, doubled, late, sealed_files, explanations)
    explanations.add(OTHER_HOUR, _elsewhere(lake, hour), lambda row: f"after the close, delivered in {row.note}")
    explanations.add(REJECTED, _rejected(lake, hour), lambda row: row.note)
    return Audit(
        topic=topic.name,
        hour=hour,
        as_of=as_of,
        bronze_version=int(lake.bronze.version()),
        silver_version=int(lake.silver.version()) if seal is not None else None,
        deliveries=deliveries.count,
        rows=deliveries.count - len(doubled) - len(late),
        sealed_rows=sum(file.rows for file in sealed_files) if seal is not None else None,
        counts=dict(explanations.counts),
        explained=tuple(explanations.explained),
    )


def check_topic(topic: Topic, config: Config, now: datetime) -> None:
    """Verify all sealed hours and audit the newest that bronze still has; LakehouseError when any is not right."""
    tables = TopicTables(topic, config.settings)
    if not tables.has_ledger() or not tables.has_silver():
        return
    findings = verify_hours(topic, config, [], now).findings
    wrong = [f"{finding.hour or 'silver'}: {finding.kind} {finding.subject}" for finding in findings]
    history, bronze = tables.history(), tables.bronze()
    sealed = history.sealed_hours()
    for hour in sealed[-_AUDITED_HOURS:]:
        if files_of_hour(bronze, hour):
            audit = audit_hour(topic, config, hour, compares_values=False)
            wrong += [f"{hour}: {audit.counts[what]} {what}" for what in (MISSING, EXTRA) if audit.counts.get(what)]
    if wrong:
        raise CheckError(
            f"topic {topic.name}",
            found="; ".join(wrong[:10]) + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""),
            expected="every sealed hour as it was sealed",
            next_step=f"`lakehouse verify {topic.name}` and `lakehouse audit {topic.name} HOUR` show all of it.",
        )
    log.info("audit: topic=%s hours=%d differing=0", topic.name, len(sealed))


class _Row(NamedTuple):
    """A delivery or a sealed row to explain; `note` is what else the explanation needs."""

    event_id: str | None
    message_id: str | None
    publish_time: datetime | None
    note: str = ""


class _Explanations:
    """Explanations as they come: all are counted, some are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.counts: Counter[str] = Counter()
        self.explained: list[Explained] = []

    def query(self, database: duckdb.DuckDBPyConnection, what: str, query: str, where: Callable[[_Row], str]) -> None:
        """`query` gives event_id, message_id, publish_time and, if it likes, the note."""
        [(count,)] = database.execute(f"select count(*) from ({query})").fetchall()
        rows = database.sql(f"select * from ({query}) order by 1, 3, 2 limit {self._limit}").to_arrow_table()
        columns = [column.to_pylist() for column in rows.columns]
        self.add(what, [_Row(*row) for row in zip(*columns, strict=True)], where, count)

    def add(self, what: str, rows: Sequence[_Row], where: Callable[[_Row], str], count: int | None = None) -> None:
        if rows:
            self.counts[what] = len(rows) if count is None else count
        self.explained += [
            Explained(what, row.event_id, row.message_id, row.publish_time, where(row)) for row in rows[: self._limit]
        ]


# --- deliveries against sealed rows --------------------------------------------------------------------------------

_EVENT = pa.schema([("event_id", pa.string()), ("event_time", TIMESTAMP)])
_DELIVERY = pa.schema([*_EVENT, ("message_id", pa.string()), ("publish_time", TIMESTAMP), *ADDRESS])
_HOLDER = pa.schema([*_EVENT, ("hour", pa.string())])

_FIRSTS = f"(from deliveries anti join doubled using ({FILE}, {ROW}))"
_KEPT = f"(from {_FIRSTS} anti join late using ({FILE}, {ROW}))"
_LATE = f"(from deliveries semi join late using ({FILE}, {ROW}))"
_MISSING = f"""
    select event_id, message_id, publish_time from {_KEPT} anti join sealed using (event_id, event_time)
"""
_EXTRA = f"""
    select event_id, null as message_id, null as publish_time
    from (select event_id, event_time, count(*) as times from sealed group by all)
    left join (select event_id, event_time, true as is_kept from {_KEPT}) using (event_id, event_time)
    where times > 1 or is_kept is null
"""
"""A row of silver is one delivery of bronze, so both are compared by id and time whatever makes an event there."""


def _duplicates(event: str) -> str:
    return f"""
        select lost.event_id, lost.message_id, lost.publish_time, firsts.message_id as note
        from (from deliveries semi join doubled using ({FILE}, {ROW})) as lost
        join {_FIRSTS} as firsts using ({event})
    """


def _late_duplicates(event: str) -> str:
    return f"""
        select late.event_id, late.message_id, late.publish_time, max(holders.hour) as note
        from {_LATE} as late left join holders using ({event}) group by {FILE}, {ROW}, 1, 2, 3
    """


def _compare(
    lake: TablesAsOf,
    hour: Hour,
    deliveries: Deliveries,
    doubled: pa.Table,
    late: pa.Table,
    sealed_files: Sequence[DataFile],
    explanations: _Explanations,
    *,
    is_sealed: bool,
) -> None:
    event = ", ".join(lake.topic.identity)
    with scratch_database() as database:
        _load(database, "deliveries", _DELIVERY, deliveries.rows(_DELIVERY.names[:4]))
        _load(database, "sealed", _EVENT, lake.silver_rows(sealed_files, *_EVENT.names))
        database.register("doubled", doubled)
        database.register("late", late)
        explanations.query(database, DUPLICATE, _duplicates(event), lambda row: f"first delivered as {row.note}")
        late_ids = database.sql(f"select distinct event_id from {_LATE}").to_arrow_table()["event_id"]
        _load(database, "holders", _HOLDER, _holders(lake, late_ids, hour))
        explanations.query(
            database, LATE_DUPLICATE, _late_duplicates(event), lambda row: f"sealed in {row.note or 'an earlier hour'}"
        )
        if is_sealed:
            explanations.query(database, MISSING, _MISSING, lambda row: "delivered, and not in silver")
            explanations.query(database, EXTRA, _EXTRA, lambda row: "in silver, and no delivery asks for it")


_DIFFERENT = f"""
    select delivered.event_id, delivered.message_id, delivered.publish_time
    from {_KEPT} as delivered join sealed using (event_id, event_time) where delivered.content <> sealed.content
"""


def _compare_values(
    lake: TablesAsOf,
    deliveries: Deliveries,
    doubled: pa.Table,
    late: pa.Table,
    sealed_files: Sequence[DataFile],
    explanations: _Explanations,
) -> None:
    """Rows whose values are not those of their delivery, by a hash of each row."""
    schema = lake.silver_columns(sealed_files)
    if not len(schema):
        return
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in schema.names)
    content = f"hash({names}) as content"
    addressed = pa.schema([*schema, *ADDRESS])
    with scratch_database() as database:
        rows = (_as_sealed(batch, schema) for batch in deliveries.rows(READ_COLUMNS))
        _load(database, "deliveries", addressed, rows, f"{', '.join(_DELIVERY.names)}, {content}")
        sealed = (_with_members(batch, schema) for batch in lake.silver_rows(sealed_files, *schema.names))
        _load(database, "sealed", schema, sealed, f"event_id, event_time, {content}")
        database.register("doubled", doubled)
        database.register("late", late)
        explanations.query(database, DIFFERENT, _DIFFERENT, lambda row: "in silver with other values than delivered")


def _as_sealed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A page of deliveries as they would be sealed, each with its address."""
    rows = sealed_columns(batch, schema)
    columns = [*rows.columns, *(batch.column(name) for name in ADDRESS.names)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*schema, *ADDRESS]))


def _with_members(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """With the members that a struct gained later, which are null."""
    columns = [batch.column(each.name).cast(each.type) for each in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _load(
    database: duckdb.DuckDBPyConnection,
    name: str,
    schema: pa.Schema,
    rows: Iterable[pa.RecordBatch],
    selected: str = "*",
) -> None:
    with readers() as reader_of:
        database.register("reader", reader_of(schema, (batch.cast(schema) for batch in rows)))
        database.execute(f"create temp table {name} as select {selected} from reader")


def _holders(lake: TablesAsOf, event_ids: pa.ChunkedArray, before: Hour) -> Iterable[pa.RecordBatch]:
    """Sealed rows with one of these ids in the earlier hours within the horizon, and their hour."""
    if not len(event_ids):
        return
    first = hours.hour_of(hours.instant_after(hours.start_of(before), -lake.topic.dedup_horizon))
    for hour in sorted({file.hour for file in files(lake.silver) if file.hour and first <= file.hour < before}):
        for batch in lake.silver_rows(files_of_hour(lake.silver, hour), *_EVENT.names):
            found = batch.filter(pc.is_in(batch.column("event_id"), value_set=event_ids))
            yield found.append_column("hour", pa.array([hour] * len(found), pa.string()))


# --- what is not in the hour's bucket ------------------------------------------------------------------------------


def _elsewhere(lake: TablesAsOf, hour: Hour) -> list[_Row]:
    """Events of the hour that are delivered in a later one, which is the note."""
    start, end = pa.scalar(hours.start_of(hour)), pa.scalar(hours.end_of(hour))
    found = []
    for file in lake.bronze_files():
        if file.hour is None or file.hour <= hour or not _overlaps(file, hour):
            continue
        for batch in lake.bronze_rows([file], "event_id", "message_id", "publish_time", "event_time"):
            times = batch.column("event_time")
            mine = batch.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))
            ids, messages, published = (
                mine.column(name).to_pylist() for name in ("event_id", "message_id", "publish_time")
            )
            found += [_Row(*row) for row in zip(ids, messages, published, repeat(file.hour))]
    return found


def _rejected(lake: TablesAsOf, hour: Hour) -> list[_Row]:
    """What was published within the hour and has no place in any; the note is the reason."""
    start, end = hours.start_of(hour), hours.end_of(hour)
    wanted = [file for file in lake.bronze_files() if file.hour is None and file.written_at >= start]
    names = ("event_id", "message_id", "publish_time", "reject_reason")
    rows = [
        _Row(event_id, message_id, publish_time, reason or "")
        for batch in lake.bronze_rows(wanted, *names)
        for event_id, message_id, publish_time, reason in zip(
            *(batch.column(name).to_pylist() for name in names), strict=True
        )
    ]
    return [row for row in rows if row.publish_time is not None and start <= row.publish_time < end]


def _overlaps(file: DataFile, hour: Hour) -> bool:
    low, high = (file.stats.get(kind, {}).get("event_time") for kind in ("minValues", "maxValues"))
    return low is None or high is None or bool(low < hours.end_of(hour) and high >= hours.start_of(hour))
