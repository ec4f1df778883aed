"""The same work of a topic that is a day, 30 and 400 days old: what it asks for and what it takes of a core."""

from __future__ import annotations

import gc
import statistics
import time
from datetime import timedelta

import psutil

from bench.grown import grow, grow_ledger
from bench.played import PlayedTopics
from bench.report import Report
from lakehouse import hours
from lakehouse.store import tables as tables_module
from lakehouse.store.bronze_head import Head
from lakehouse.store.delta import DataFile, event_time_stats
from lakehouse.store.table_log import CHECKPOINT_EVERY

_AGES = (1, 30, 400)
_FIRST, _LATER = 200, 40
"""Hours whose mean is taken: the first of a topic's life, and some of its 8,561st to 8,760th."""
_BATCHES_AN_HOUR = 4


def measure(report: Report) -> None:
    """A trigger, a restart and a commit of a topic of a day, of 30 and of 400 days, and the memory of its tables."""
    from bench.store import played

    found: dict[str, dict[int, float]] = {}
    for days in _AGES:
        with played() as (topic, store):
            topic.trigger(events=2)
            grow(topic, store, days)
            grow_ledger(topic, 24 * days)
            before = _resident_bytes()
            restart, _ = topic.counted(topic.start_again)
            asked = [topic.trigger(events=2)[0] for _ in range(12)]
            memory = max(0, _resident_bytes() - before) / 1024**2
            about = {
                "requests of a restart": (restart, 20.0, "requests"),
                "requests of a trigger with rows": (statistics.median(asked[4:]), 12.0, "requests"),
                "core-seconds of a commit of 4 files": (_commit_seconds(topic), 0.03, "s"),
                "memory of the topic's tables in the driver": (memory, 8.0, "MiB"),
            }
        for name, (value, bound, unit) in about.items():
            report.at_most(f"{name}, at {days} days", value, bound, unit)
            found.setdefault(name, {})[days] = value
    for name in ("requests of a restart", "requests of a trigger with rows", "core-seconds of a commit of 4 files"):
        for days in _AGES[1:]:
            report.at_most(f"{name}: at {days} days against 1 day", found[name][days] / found[name][1], 1.2)


def _resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def _commit_seconds(topic: PlayedTopics) -> float:
    """Of 50 commits, so that a checkpoint is among them."""
    head = Head(topic.world.tables.bronze())
    state, now = head.state(), topic.world.now
    began = time.process_time()
    for number in range(CHECKPOINT_EVERY):
        hour = hours.hour_of(now)
        names = [f"{hour}/{state.epoch:012d}-{slot:04d}-{number:06d}.parquet" for slot in range(4)]
        files = [DataFile(name, hour, 10, 1_000, now, event_time_stats(now, now)) for name in names]
        head.commit(files, state, {"segments": [], "closed": []})
    return (time.process_time() - began) / CHECKPOINT_EVERY


def measure_hours(report: Report) -> None:
    """Core-seconds of this process for an hour of a small topic, from its first pull until its mirror has it."""
    from bench.store import played

    with played() as (topic, _):
        first = statistics.mean([_hour_seconds(topic) for _ in range(_FIRST)][10:])
    with played() as (topic, store):
        topic.trigger(events=2)
        grow(topic, store, 365)
        grow_ledger(topic, 8_560)
        topic.start_again()
        later = statistics.mean([_hour_seconds(topic) for _ in range(_LATER)][10:])
    tables_module._ledgers.clear()
    report.at_most("core-seconds of an hour of a small topic, pulled to mirrored: first 200", first, 0.3, "s")
    report.at_most("core-seconds of an hour of a small topic, pulled to mirrored: from the 8,561st", later, 0.3, "s")
    report.at_most("the later against the first", later / first, 1.2)


def _hour_seconds(topic: PlayedTopics) -> float:
    topic.world.now = hours.start_of(hours.after(hours.hour_of(topic.world.now)))
    began = time.process_time()
    for _ in range(_BATCHES_AN_HOUR):
        topic.trigger(events=2)
        topic.world.now += timedelta(minutes=12)
    topic.deliver()
    return time.process_time() - began
