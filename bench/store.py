"""What the store is asked for: requests of a trigger and of the stages, counted, and their time at 40 ms a request.

    python -m bench.store

One small topic, ingested and delivered in this process as the crash kit plays it, on `tests.servers.object_store`.
Spark's own checkpoint is apart. What it does not measure: an application with many topics.
"""

from __future__ import annotations

import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from bench.bill import Bill, a_month
from bench.report import Report
from lakehouse import hours
from lakehouse.crash.driver import Driver
from lakehouse.crash.small_lake import small_config
from lakehouse.crash.world import World
from lakehouse.mirrors.stage import mirror_due
from lakehouse.seal.stage import seal_due
from lakehouse.store.bronze_head import Head
from lakehouse.store.delta import DataFile, event_time_stats
from lakehouse.store.table_log import CHECKPOINT_EVERY, KEPT_CHECKPOINTS, RECENT_CHECKPOINTS, newest_log
from lakehouse.validate.stage import validate_due
from tests.servers.object_store import ObjectStoreServer, Request, serving
from tests.servers.warehouse import lake_options

_EARLY, _LATE = range(4, 9), range(54, 59)
"""Triggers that are compared: neither has a sweep of manifests or a close of an hour in it, nor a checkpoint."""
BETWEEN = timedelta(seconds=10)
_DELAY_SECONDS = 0.04
_TRIGGERS = 100
TRIGGERS_A_DAY = 8_640


class PlayedTopic:
    """A topic on a counted store, in a bucket named as its local folder, which the crash kit's driver ingests."""

    def __init__(self, store: ObjectStoreServer, folder: Path) -> None:
        config = small_config(folder)
        roots = {"raw_root": f"gs://{folder.name}/raw", "sealed_root": f"gs://{folder.name}/sealed"}
        options = {"storage_options": lake_options(store.address)}
        self.config = replace(config, settings=config.settings.model_copy(update=roots | options))
        self.world = World(self.config, sweep_every=20)
        self.topic = self.world.topic
        self._store, self._published, self._runs = store, 0, 0
        self._checkpoint = folder / "checkpoint"
        self.start_again()

    def start_again(self) -> None:
        """Another run on the same checkpoint; the one before it, if any, just ends."""
        self._runs += 1
        self.driver = Driver(self.world, [self.topic], self._checkpoint, f"bench {self._runs}", random.Random(1))
        self.driver.open()

    def trigger(self, events: int = 0) -> tuple[int, float]:
        """One batch of so many new events: its requests and its seconds."""
        self.publish(events)
        counted = self.counted(self.driver.batch)
        self.world.now += BETWEEN
        return counted

    def publish(self, events: int) -> None:
        for _ in range(events):
            self._published += 1
            event = {"event_id": f"e{self._published}", "played_at": self.world.now.isoformat(), "n": 1}
            self.world.publish(json.dumps(event).encode())

    def counted(self, work: Callable[[], object]) -> tuple[int, float]:
        """Requests and seconds of the work."""
        self._store.requests()
        began = time.monotonic()
        work()
        seconds = time.monotonic() - began
        return len(self._store.requests()), seconds


def main() -> int:
    logging.disable(logging.WARNING)
    report = Report("store")
    with tempfile.TemporaryDirectory() as folder, serving() as store:
        topic = PlayedTopic(store, Path(folder))
        asked = [topic.trigger(events=2)[0] for _ in range(_LATE.stop)]
        early, late = (statistics.median(asked[number] for number in of) for of in (_EARLY, _LATE))
        report.at_most("requests of a trigger with rows, one topic", late, 12, "requests")
        report.at_most("the same against the topic's first triggers", late / early, 1.2)
        report.at_most("requests of an idle trigger, one topic", _idle(topic), 0.2, "requests")
        store.delay(_DELAY_SECONDS)
        seconds = statistics.median(topic.trigger(events=2)[1] for _ in range(3))
        report.at_most("batch with rows at 40 ms a request, all of it", seconds, 0.4, "s")
        store.delay(0)
        _stages(report, topic)
    _grown(report)
    _bill(report)
    return report.finish()


def _grown(report: Report) -> None:
    """A trigger, a restart and a commit on bronze logs of a day, of 30 and of 400 days."""
    from bench.grown import grow

    triggers: dict[int, float] = {}
    for days in (1, 30, 400):
        with tempfile.TemporaryDirectory() as folder, serving() as store:
            topic = PlayedTopic(store, Path(folder))
            topic.trigger(events=2)
            grow(topic, store, days)
            restart, _ = topic.counted(topic.start_again)
            report.at_most(f"requests of a restart, bronze at {days} days", restart, 20, "requests")
            asked = [topic.trigger(events=2)[0] for _ in range(12)]
            triggers[days] = statistics.median(asked[4:])
            report.at_most(f"requests of a trigger with rows, bronze at {days} days", triggers[days], 12, "requests")
            seconds = _commit_seconds(topic)
            report.at_most(f"core-seconds of a commit of 4 files, bronze at {days} days", seconds, 0.03, "s")
    report.at_most("requests of a trigger at 400 days against 1 day", triggers[400] / triggers[1], 1.2)


def _commit_seconds(topic: PlayedTopic) -> float:
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


def _bill(report: Report) -> None:
    """Requests of 100 triggers, checkpoints and clearing included, and of the delivery of an hour of 360 files."""
    with tempfile.TemporaryDirectory() as folder, serving() as store:
        topic = PlayedTopic(store, Path(folder))
        for _ in range(20):
            topic.trigger(events=2)
        store.requests()
        busy, idle = (Bill.of(_asked(topic, store, events), _TRIGGERS) for events in (2, 0))
        topic.world.now = topic.world.now.replace(minute=0) + timedelta(hours=2)
        for _ in range(360):
            topic.trigger(events=2)
        topic.world.now += timedelta(hours=2)
        for _ in range(3):
            topic.trigger(events=2)
        store.requests()
        _deliver(topic)
        hour = Bill.of(store.requests())
        kept = _bytes_kept(topic)
    for name, bill in (
        ("a trigger with rows", busy),
        ("an idle trigger", idle),
        ("delivering an hour of 360 files", hour),
    ):
        report.shown(f"class A requests of {name}", bill.a, "requests")
        report.shown(f"class B requests of {name}", bill.b, "requests")
    for topics, bound in ((10, 50), (300, 1_500), (1_800, 9_000)):
        dollars = a_month(topics, busy, idle, hour).dollars
        report.at_most(f"requests billed for {topics:,} topics at 10 s, half of them idle", dollars, bound, "$ a month")
    report.at_most("logs and checkpoints kept of a busy topic's bronze", kept / 1e9, 5, "GB")


def _asked(topic: PlayedTopic, store: ObjectStoreServer, events: int) -> list[Request]:
    for _ in range(_TRIGGERS):
        topic.publish(events)
        topic.driver.batch()
        topic.world.now += BETWEEN
    return store.requests()


def _deliver(topic: PlayedTopic) -> None:
    seal_due(topic.topic, topic.config, run="bench")
    validate_due(topic.topic, topic.config, run="bench")
    mirror_due(topic.topic, topic.config, None, run="bench")


def _bytes_kept(topic: PlayedTopic) -> float:
    """Entries of 37 days at a trigger every 10 s, and the checkpoints that stay of these, each of 30 days of hours.

    entries × bytes of an entry + (32 + checkpoints / 64) × bytes of a checkpoint, which is that of the files that it
    holds: two for each of 720 delivered hours, and 24 × 360 until maintain has put them together.
    """
    log = newest_log(topic.world.tables.raw.below("bronze").uri, topic.world.tables.raw.options)
    assert log is not None
    listed = list(log.files.walk("_delta_log"))
    entry = statistics.median(each.size_bytes for each in listed if each.path.endswith(".json"))
    checkpoint = max(each.size_bytes for each in listed if each.path.endswith(".checkpoint.parquet"))
    files = sum(each.path.endswith(".json") for each in listed)
    entries = 37 * TRIGGERS_A_DAY
    checkpoints = RECENT_CHECKPOINTS + entries / CHECKPOINT_EVERY / KEPT_CHECKPOINTS
    return float(entries * entry + checkpoints * checkpoint / files * (2 * 720 + 24 * 360))


def _idle(topic: PlayedTopic) -> float:
    topic.trigger()
    return statistics.mean(topic.trigger()[0] for _ in range(5))


def _stages(report: Report, topic: PlayedTopic) -> None:
    """An hour of many small files, closed and then delivered by the three stages; then a pass with nothing due."""
    topic.world.now += timedelta(hours=2)
    for _ in range(3):
        topic.trigger(events=2)
    config, of = topic.config, topic.topic
    passes: dict[str, Callable[[], object]] = {
        "seal": lambda: seal_due(of, config, run="bench"),
        "validate": lambda: validate_due(of, config, run="bench"),
        "mirror": lambda: mirror_due(of, config, None, run="bench"),
    }
    for name, work in passes.items():
        report.shown(f"requests to {name} an hour of 60 small files", topic.counted(work)[0], "requests")
    for name, work in passes.items():
        report.shown(f"requests of a pass of {name} with nothing due", topic.counted(work)[0], "requests")


if __name__ == "__main__":
    sys.exit(main())
