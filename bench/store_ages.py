"""The same work of a topic that is a day, 30 and 400 days old: what it asks for and what it takes of a core."""

from __future__ import annotations

import gc
import logging
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context

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
_RESTART, _TRIGGER = "requests of a restart", "requests of a trigger with rows"
_COMMIT, _MEMORY = "core-seconds of a commit of 4 files", "memory of the topic's tables in the driver"
_FIRST, _LATER = 60, 30
"""Hours whose mean is taken: the first of a topic's life, and some of its 8,561st to 8,760th."""
_BATCHES_AN_HOUR = 4


def measure(report: Report) -> None:
    """A trigger, a restart and a commit of a topic of a day, of 30 and of 400 days, and the memory of its tables.

    Each in a process of its own, as a restart is. The newest entry of either log is a checkpoint: each that came since,
    at most 49, is one request more of a restart, side by side.
    """
    bounds = {_RESTART: (20.0, "requests"), _TRIGGER: (12.0, "requests"), _COMMIT: (0.03, "s"), _MEMORY: (8.0, "MiB")}
    found = {}
    for days in _AGES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found[days] = process.submit(_of_age, days).result()
        for name, (bound, unit) in bounds.items():
            report.at_most(f"{name}, at {days} days", found[days][name], bound, unit)
    for name in (_RESTART, _TRIGGER, _COMMIT):
        for days in _AGES[1:]:
            report.at_most(f"{name}: at {days} days against 1 day", found[days][name] / found[1][name], 1.2)


def _of_age(days: int) -> dict[str, float]:
    from bench.store import played

    logging.disable(logging.WARNING)
    with played() as (topic, store):
        topic.trigger(events=2)
        grow(topic, store, days)
        grow_ledger(topic, 24 * days)
        before = _resident_bytes()
        restart, _ = topic.counted(topic.start_again)
        asked = [topic.trigger(events=2)[0] for _ in range(12)]
        memory = max(0, _resident_bytes() - before) / 1024**2
        return {
            _RESTART: restart,
            _TRIGGER: statistics.median(asked[4:]),
            _COMMIT: _commit_seconds(topic),
            _MEMORY: memory,
        }


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
    about = "core-seconds of an hour of a small topic, pulled to mirrored"
    report.at_most(f"{about}, of the first {_FIRST}", first, 0.3, "s")
    with played() as (topic, store):
        topic.trigger(events=2)
        grow(topic, store, 365)
        grow_ledger(topic, 8_560)
        topic.start_again()
        later = statistics.mean([_hour_seconds(topic) for _ in range(_LATER)][10:])
    tables_module._ledgers.clear()
    report.at_most(f"{about}, from the 8,561st", later, 0.3, "s")
    report.at_most(f"{about}: the later against the first", later / first, 1.2)


def _hour_seconds(topic: PlayedTopics) -> float:
    topic.world.now = hours.start_of(hours.after(hours.hour_of(topic.world.now)))
    began = time.process_time()
    for _ in range(_BATCHES_AN_HOUR):
        topic.trigger(events=2)
        topic.world.now += timedelta(minutes=12)
    topic.deliver()
    return time.process_time() - began
