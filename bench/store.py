"""What the store is asked for: requests of a trigger and of the stages, counted, and their time at 40 ms a request.

    python -m bench.store

One small topic, ingested and delivered in this process as the crash kit plays it, on `tests.servers.object_store`.
Spark's own checkpoint is apart. What it does not measure: an application with many topics, logs of 30 and 400 days.
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

from bench.report import Report
from lakehouse.crash.driver import Driver
from lakehouse.crash.small_lake import small_config
from lakehouse.crash.world import World
from lakehouse.mirrors.stage import mirror_due
from lakehouse.seal.stage import seal_due
from lakehouse.validate.stage import validate_due
from tests.servers.object_store import ObjectStoreServer, serving
from tests.servers.warehouse import lake_options

_EARLY, _LATE = range(4, 9), range(54, 59)
"""Triggers that are compared: neither has a sweep of manifests or a close of an hour in it, nor a checkpoint."""
BETWEEN = timedelta(seconds=10)
_DELAY_SECONDS = 0.04


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
        report.at_most("batch with rows at 40 ms a request", seconds, 0.4, "s")
        store.delay(0)
        _stages(report, topic)
    return report.finish()


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
