"""The same work of a topic that is a day, 30 and 400 days old: what it asks for and what it takes of a core."""

from __future__ import annotations

import ctypes
import gc
import logging
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pyarrow as pa

from bench.grown import grow, grow_ledger, put_files
from bench.played import DELAY_SECONDS, PlayedTopics, played
from bench.report import Report
from lakehouse import hours
from lakehouse.operations.maintain import maintain_topic
from lakehouse.store import tables as tables_module
from lakehouse.store.bronze_head import Head
from lakehouse.store.delta import DataFile, await_checkpoints, event_time_stats
from lakehouse.store.table_log import CHECKPOINT_EVERY
from tests.servers.object_store import ObjectStoreServer, serving

_AGES = (1, 30, 400)
_RESTART, _TRIGGER = "requests of a restart", "requests of a trigger with rows"
_LATE_RESTART = "requests of a restart 36 commits after bronze's checkpoint"
_BATCH = "batch with rows at 40 ms a request"
_DELIVERY = "an hour of 360 small files, closed to mirrored, at 40 ms a request"
_DELIVERY_REQUESTS = "requests to deliver an hour of 360 small files"
_COMMIT, _MEMORY = "core-seconds of a commit of 4 files", "memory of the topic's tables in the driver"
_HOURS, _LATER_FROM = 200, (800, 8_560)
"""Hours whose mean is taken, and those that a topic had before them; a process is warmed up by others."""
_WARM_UP = 10
_BATCHES_AN_HOUR = 4
_HANDLES = 4
_ROUNDS = 5
_FILES = 360


def measure(report: Report) -> None:
    """A trigger, a restart, a commit and an hour of a topic of a day, of 30 and of 400 days, and its tables' memory.

    Grown in one process and measured in another, as a restart is: near bronze's checkpoint, and some commits later.
    """
    bounds = {
        _RESTART: (20.0, "requests"),
        _TRIGGER: (12.0, "requests"),
        _BATCH: (0.4, "s"),
        _DELIVERY: (6.0, "s"),
        _COMMIT: (0.03, "s"),
        _MEMORY: (8.0, "MiB"),
    }
    found = {}
    for days in _AGES:
        with TemporaryDirectory() as folder, serving() as store:
            _apart(_grow, store.address, Path(folder, "another"), 30)
            _apart(_grow, store.address, Path(folder, "grown"), days)
            found[days] = _apart(_of_grown, store.address, Path(folder, "grown"), Path(folder, "another"))
        for name, (bound, unit) in bounds.items():
            report.at_most(f"{name}, at {days} day{'s' * (days > 1)}", found[days][name], bound, unit)
    report.at_most(f"{_LATE_RESTART}, at 30 days", found[30][_LATE_RESTART], 20.0, "requests")
    for name in (_RESTART, _TRIGGER, _BATCH, _DELIVERY, _DELIVERY_REQUESTS, _COMMIT):
        for days in _AGES[1:]:
            report.at_most(f"{name}: at {days} days against 1 day", found[days][name] / found[1][name], 1.2)


def _apart(work: Callable[..., dict[str, float]], *given: object) -> dict[str, float]:
    """In a process of its own, which is ended when it has answered: a tidy end would tell of what DuckDB leaves."""
    with get_context("spawn").Pool(1) as process:
        return process.apply(work, given)


def _grow(address: str, folder: Path, days: int) -> dict[str, float]:
    """A topic of that age in the bucket that is named as the folder, with the digest that a held hour leaves."""
    store = ObjectStoreServer(address)
    topic = PlayedTopics(store, folder)
    topic.trigger(events=2)
    grow(topic, store, days)
    grow_ledger(topic, 24 * days)
    topic.start_again()
    topic.trigger(events=2)
    shutil.rmtree(folder / "expectations")
    return {}


def _of_grown(address: str, folder: Path, another: Path) -> dict[str, float]:
    """In a process that has another topic of some age: what the first one takes is not taken again by each.

    The memory is that of an application with the topic alone, the mean of some beside each other.
    """
    logging.disable(logging.WARNING)
    store = ObjectStoreServer(address)
    first = PlayedTopics(store, another)
    for _ in range(12):
        first.trigger(events=2)
    before, topics, restarts = _resident_bytes(), [], []
    for _ in range(_HANDLES):
        tables_module._ledgers.clear()
        shutil.rmtree(folder / "expectations", ignore_errors=True)
        store.requests()
        topic = PlayedTopics(store, folder)
        restarts.append(len(store.requests()))
        topic.world.now += timedelta(minutes=5)
        asked = [topic.trigger(events=2)[0] for _ in range(12)]
        topics.append((topic, dict(tables_module._ledgers)))
    memory = max(0, _resident_bytes() - before) / 1024**2 / _HANDLES
    return {
        _RESTART: restarts[0],
        _LATE_RESTART: restarts[-1],
        _TRIGGER: statistics.median(asked[4:]),
        **_at_40_ms(topic, store),
        _COMMIT: _commit_seconds(topic),
        _MEMORY: memory,
    }


def _at_40_ms(topic: PlayedTopics, store: ObjectStoreServer) -> dict[str, float]:
    """Seconds of a batch, and of delivering an hour by a process that has delivered one before."""
    store.delay(DELAY_SECONDS)
    batch = statistics.median(topic.trigger(events=2)[1] for _ in range(9))
    store.delay(0)
    topic.close_hour(_FILES)
    store.delay(DELAY_SECONDS)
    requests, delivery = topic.counted(topic.deliver)
    store.delay(0)
    return {_BATCH: batch, _DELIVERY: delivery, _DELIVERY_REQUESTS: requests}


def _resident_bytes() -> int:
    """What is held: what was freed, and would serve the next topic, is given back before."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _commit_seconds(topic: PlayedTopics) -> float:
    """The mean of 50 commits, so that a checkpoint is among them; the least of some rounds."""
    head = Head(topic.world.tables.bronze())
    state, now = head.state(), topic.world.now
    hour, taken = hours.hour_of(now), []
    for round_ in range(_ROUNDS):
        began = time.process_time()
        for number in range(CHECKPOINT_EVERY):
            names = [f"{hour}/{state.epoch:012d}-{slot:04d}-{round_:03d}{number:03d}.parquet" for slot in range(4)]
            files = [DataFile(name, hour, 10, 1_000, now, event_time_stats(now, now)) for name in names]
            head.commit(files, state, {"segments": [], "closed": []})
        await_checkpoints()
        taken.append((time.process_time() - began) / CHECKPOINT_EVERY)
    return min(taken)


def measure_hours(report: Report) -> None:
    """Core-seconds of this process for an hour of a small topic, from its first pull until its mirror has it.

    `maintain` runs once a day and is counted.
    """
    about = "core-seconds of an hour of a small topic, pulled to mirrored"
    with played() as (topic, _):
        first = _hour_seconds(topic)
    report.at_most(f"{about}: the first {_HOURS}", first, 0.3, "s")
    for before in _LATER_FROM:
        with played() as (topic, store):
            topic.trigger(events=2)
            grow(topic, store, before // 24)
            grow_ledger(topic, before)
            put_files(topic, store)
            topic.start_again()
            later = _hour_seconds(topic)
        report.at_most(f"{about}: hours {before:,} to {before + _HOURS:,}", later, 0.3, "s")
        report.at_most(f"{about}: hours {before:,} to {before + _HOURS:,} against the first", later / first, 1.2)


def _hour_seconds(topic: PlayedTopics) -> float:
    """The mean of the topic's next hours."""
    for number in range(_WARM_UP + _HOURS):
        if number == _WARM_UP:
            began = time.process_time()
        topic.world.now = hours.start_of(hours.after(hours.hour_of(topic.world.now)))
        for _ in range(_BATCHES_AN_HOUR):
            topic.trigger(events=2)
            topic.world.now += timedelta(minutes=12)
        topic.deliver()
        if number % 24 == 0:
            maintain_topic(topic.topic, topic.config, topic.world.now)
    return (time.process_time() - began) / _HOURS
