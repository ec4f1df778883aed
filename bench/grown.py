"""A topic that has lived for long, made in a minute, as maintain and compaction leave it.

Of bronze a real checkpoint is given the number that it would have; the entries before it are there by their names, each
with the content of one batch of an early epoch. Live files are two of each delivered hour, and those of the open one.
The ledger has the rows of delivered hours, in the files that its own compaction makes; silver has their files by name.
`put_files` puts all these files there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from bench.played import TRIGGERS_A_DAY, PlayedTopics
from lakehouse import hours
from lakehouse.store import bronze_log
from lakehouse.store import tables as tables_module
from lakehouse.store.delta import DataFile, commit, commit_to_log, event_time_stats, files, open_table
from lakehouse.store.files import storage_for
from lakehouse.store.history import Entry, rows_of
from lakehouse.store.ledger import FAN_OUT
from lakehouse.store.ledger_files import LedgerFile
from lakehouse.store.records import Closed, Condition, Held, Mirrored, Record, Sealed, Valid
from lakehouse.store.table_log import CHECKPOINT_EVERY, Change, checkpoint_path, entry_path, newest_log
from tests.servers.object_store import ObjectStoreServer


def _parquet(rows: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(rows, buffer, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


_LOG_DAYS = 37
"""That bronze's log is kept."""
_BRONZE_DAYS = 30
_PARQUET = _parquet(pa.table({"n": [1]}))
"""What each file of a delivered hour is."""


def grow(topic: PlayedTopics, store: ObjectStoreServer, days: int) -> None:
    """Let the topic's bronze be so many days old; whoever follows its log has to begin again."""
    bronze = topic.world.tables.raw.below("bronze")
    live = [_file(topic, hour, part) for hour in range(24 * min(days, _BRONZE_DAYS)) for part in range(2)]
    table = bronze.table()
    state = bronze_log.newest_state(table)
    bronze_log.commit_change(table, added=live, removed=(), metadata={"kind": "grown"}, state=state)
    table = open_table(bronze.uri, bronze.options)
    table.create_checkpoint()
    newest, storage = int(table.version()), storage_for(bronze.uri, bronze.options)
    first = TRIGGERS_A_DAY * max(0, days - _LOG_DAYS)
    aged = TRIGGERS_A_DAY * days // CHECKPOINT_EVERY * CHECKPOINT_EVERY - 1
    for path, like in ((checkpoint_path(aged), checkpoint_path(newest)), (entry_path(aged), entry_path(newest))):
        storage.write(path, storage.read(like) or b"")
    storage.write("_delta_log/_last_checkpoint", b'{"version":%d,"size":1}' % aged)
    batch = (storage.read(entry_path(newest - 1)) or b"").replace(b'\\"epoch\\": 1', b'\\"epoch\\": 0')
    begin = max(first, newest)
    storage.write(entry_path(begin), batch)
    root = bronze.uri.removeprefix("gs://")
    entries = (f"{root}/{entry_path(version)}" for version in range(begin, aged))
    store.fill(entries, f"{root}/{entry_path(begin)}")
    if first:
        storage.delete([entry_path(version) for version in range(newest)])
    log = newest_log(bronze.uri, bronze.options)
    assert log is not None
    assert log.version == aged


def _file(topic: PlayedTopics, ago: int, part: int) -> DataFile:
    """Of a delivered hour; it is in the log alone."""
    end = topic.world.now - timedelta(hours=ago + 1)
    hour = hours.hour_of(end)
    name = f"{hour}/compacted-{ago:06d}-{part}.parquet"
    return DataFile(name, hour, 1, len(_PARQUET), end, event_time_stats(hours.start_of(hour), end))


def grow_ledger(topic: PlayedTopics, count: int) -> None:
    """Let so many hours have been delivered before the topic's first one; this process begins again with the ledger."""
    tables = topic.world.tables
    tables.ledger("grown").digest()
    ledger = tables.sealed.below("ledger")
    newest = hours.start_of(hours.hour_of(topic.world.now)) - timedelta(hours=2)
    entries = [entry for ago in range(count, 0, -1) for entry in _rows(newest - timedelta(hours=ago), count - ago)]
    log = newest_log(ledger.uri, ledger.options)
    assert log is not None
    added = []
    while entries:
        size = FAN_OUT ** int(math.log(len(entries), FAN_OUT))
        chunk, entries = entries[:size], entries[size:]
        content = _parquet(rows_of(chunk))
        file = LedgerFile(f"grown-{len(added)}.parquet", size, len(content))
        log.files.write(file.path, content)
        added.append(file.as_added(is_new=True))
    commit_to_log(log, Change(tuple(added), transactions={"ledger": log.version + 1}), lambda version: None)
    open_table(ledger.uri, ledger.options).create_checkpoint()
    tables_module._ledgers.clear()
    _grow_silver(topic, newest, count)


def _rows(start: datetime, number: int) -> Iterator[Entry]:
    """Of an hour that was delivered as it should be."""
    hour, end = hours.hour_of(start), start + timedelta(hours=1)
    met = [
        Condition(condition=name, is_met=True, required="r", measured="m", text=f"{name} met")
        for name in ("time", "backlog", "quiet")
    ]
    closed = Closed(bronze_version=360 * number, conditions=tuple(met), rows=8, epoch=360 * number, release="crash")
    sealed = Sealed(silver_version=number, bronze_version=360 * number, rows=8, id_checksum=1, deliveries=8, files=1)
    mirrored = Mirrored(target="folder", where=f"/mirror/plays/{hour}", rows=8, id_checksum=1, seconds=0.2)
    held = Held(reasons=(replace(met[0], is_met=False),), rows=8, epoch=360 * number)
    told: list[tuple[float, Record]] = [
        (1, held),
        (31, held),
        (32, closed),
        (33, sealed),
        (34, Valid()),
        (35, mirrored),
    ]
    for minutes, record in told:
        at = end + timedelta(minutes=minutes)
        yield Entry(hour, record.state, at, "grown/crash/bench", record.as_json())


def _grow_silver(topic: PlayedTopics, newest: datetime, count: int) -> None:
    table = topic.world.tables.ensure_silver()
    added = []
    for ago in range(count, 0, -1):
        start = newest - timedelta(hours=ago)
        hour, stats = hours.hour_of(start), event_time_stats(start, start + timedelta(minutes=59))
        name = f"hour={hour}/grown.parquet"
        added.append(DataFile(name, hour, 1, len(_PARQUET), start + timedelta(hours=2), stats))
    commit(table, added, metadata={"kind": "grown"}, transactions={})
    table.create_checkpoint()


def put_files(topic: PlayedTopics, store: ObjectStoreServer) -> None:
    """Let each data file that bronze and silver were grown by be in the store."""
    tables = topic.world.tables
    for place, name, table in ((tables.raw, "bronze", tables.bronze()), (tables.sealed, "silver", tables.silver())):
        storage, root = place.files(), f"{place.uri.removeprefix('gs://')}/{name}"
        first, *others = [file.path for file in files(table) if file.size_bytes == len(_PARQUET)]
        storage.write(f"{name}/{first}", _PARQUET)
        store.fill((f"{root}/{path}" for path in others), f"{root}/{first}")


def copies(topic: PlayedTopics, store: ObjectStoreServer, count: int) -> list[str]:
    """Names of the topic and of others whose lakes are the same as its, object by object."""
    name, places = topic.topic.name, (topic.world.tables.raw, topic.world.tables.sealed)
    others = [f"{name}_{number:03d}" for number in range(1, count + 1)]
    for place in places:
        for stored in place.files().listing(""):
            here = f"{place.uri.removeprefix('gs://')}/{stored.path}"
            root, _, path = here.partition(f"/{name}/")
            store.fill((f"{root}/{other}/{path}" for other in others), here)
    return [name, *others]
