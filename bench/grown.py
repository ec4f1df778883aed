"""A topic whose bronze log has grown, made in the time of one checkpoint: as maintain and compaction leave it.

A real checkpoint is given the number that it would have; the entries before it are there by their names, all with the
content of one batch of an early epoch. Live files are those of delivered hours, two each, and of the open hour.
"""

from __future__ import annotations

from datetime import timedelta

from bench.store import TRIGGERS_A_DAY, PlayedTopic
from lakehouse import hours
from lakehouse.store import bronze_log
from lakehouse.store.delta import DataFile, event_time_stats, open_table
from lakehouse.store.files import storage_for
from lakehouse.store.table_log import CHECKPOINT_EVERY, checkpoint_path, entry_path, newest_log
from tests.servers.object_store import ObjectStoreServer

_LOG_DAYS = 37
"""That bronze's log is kept."""
_BRONZE_DAYS = 30


def grow(topic: PlayedTopic, store: ObjectStoreServer, days: int) -> None:
    """Let the topic's bronze be so many days old; whoever follows its log has to begin again."""
    bronze = topic.world.tables.raw.below("bronze")
    live = [_file(topic, hour, part) for hour in range(24 * min(days, _BRONZE_DAYS)) for part in range(2)]
    table = bronze.table()
    state = bronze_log.newest_state(table)
    bronze_log.commit_change(table, added=live, removed=(), metadata={"kind": "grown"}, state=state)
    table = open_table(bronze.uri, bronze.options)
    table.create_checkpoint()
    newest, files = int(table.version()), storage_for(bronze.uri, bronze.options)
    first = TRIGGERS_A_DAY * max(0, days - _LOG_DAYS)
    aged = TRIGGERS_A_DAY * days // CHECKPOINT_EVERY * CHECKPOINT_EVERY - 1
    for path, like in ((checkpoint_path(aged), checkpoint_path(newest)), (entry_path(aged), entry_path(newest))):
        files.write(path, files.read(like) or b"")
    files.write("_delta_log/_last_checkpoint", b'{"version":%d,"size":1}' % aged)
    batch = (files.read(entry_path(newest - 1)) or b"").replace(b'\\"epoch\\": 1', b'\\"epoch\\": 0')
    begin = max(first, newest)
    files.write(entry_path(begin), batch)
    root = bronze.uri.removeprefix("gs://")
    store.fill(f"{root}/_delta_log/{{:020d}}.json", f"{root}/{entry_path(begin)}", begin, aged - 1)
    if first:
        files.delete([entry_path(version) for version in range(newest)])
    log = newest_log(bronze.uri, bronze.options)
    assert log is not None
    assert log.version == aged


def _file(topic: PlayedTopic, ago: int, part: int) -> DataFile:
    """Of a delivered hour; it is in the log alone."""
    end = topic.world.now - timedelta(hours=ago + 1)
    hour = hours.hour_of(end)
    name = f"{hour}/compacted-{ago:06d}-{part}.parquet"
    return DataFile(name, hour, 1_000, 100_000, end, event_time_stats(hours.start_of(hour), end))
