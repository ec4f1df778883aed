"""All hours of many small topics that close at the same time: how long until each is mirrored."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench.ingest import BUILD, SPARK, Bench, ingesting, our_core_seconds, raw_folder, topic_of
from bench.pages import PAGE
from lakehouse.application import Application, run
from lakehouse.config import Config, Settings
from lakehouse.store.history import History
from lakehouse.store.notes import leave_note
from lakehouse.store.records import CloseRequested, Started, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

HOUR = "2026-01-01T05"
"""Of the events of `bench.pages`."""
_PATIENCE = 300.0
_SUITE = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "ms", "min_value": 0, "max_value": 300_000},
    "severity": "critical",
}


class Unmeasured(Exception):
    """Not all hours were delivered."""


def measure(bench: Bench, count: int) -> None:
    """`run` serves topics with an open hour each; then somebody asks for the close of all of them."""
    # The hours would close by themselves as soon as the topics are drained, each at its own time.
    topics = [topic_of(f"close_{number:04d}", lateness="87600 hours", mirrors=["folder"]) for number in range(count)]
    config = _config(topics)
    _make_lakes(bench, topics, Path(config.settings.raw_root))
    application = Application(config, tuple(topics))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run(application)
        except BaseException as failure:
            failures.append(failure)

    running = threading.Thread(target=work, name="run")
    running.start()
    try:
        _wait(topics, config, failures, lambda history: _is_run_by(history, application.run), "started")
        time.sleep(config.settings.ingest.trigger.total_seconds())
        cpu = our_core_seconds()
        _request(topics, config)
        _wait(topics, config, failures, lambda history: "folder" in history.targets_done(HOUR), "mirrored")
        used = our_core_seconds() - cpu
    finally:
        application.stop.set()
        running.join()
    histories = [TopicTables(topic, config.settings).history() for topic in topics]
    closed = [entry.at for history in histories if (entry := history.first(State.CLOSED, HOUR))]
    mirrored = [entry.at for history in histories if (entry := history.first(State.MIRRORED, HOUR))]
    if len(closed) < count or len(mirrored) < count:
        raise Unmeasured(f"{len(closed)} hours were closed and {len(mirrored)} mirrored, of {count}")
    about = f"hours of {count} small topics that close at the same time"
    bench.report.shown(f"{about}: until all are closed", (max(closed) - min(closed)).total_seconds(), "seconds")
    bench.report.shown(f"{about}: work of our processes", used, "core-seconds")
    bench.report.at_most(
        f"{about}: until all are mirrored", (max(mirrored) - min(closed)).total_seconds(), 60, "seconds"
    )


def _make_lakes(bench: Bench, topics: Sequence[Topic], root: Path) -> None:
    """A page in the open hour of one, and copies of its lake for the others."""
    first, *others = topics
    with ingesting(bench, [first], keeps=True) as (running,):
        running.take(PAGE)
        home = raw_folder(running)
    shutil.rmtree(root, ignore_errors=True)
    for each in (first, *others):
        shutil.copytree(home, root / each.name)


def _request(topics: Sequence[Topic], config: Config) -> None:
    """All requests, and only then the notes: an application that sees one looks at that topic alone."""
    for topic in topics:
        ledger = TopicTables(topic, config.settings).ledger("close/bench/bench")
        ledger.record(CloseRequested(by="bench", reason="the hour is over"), HOUR)
    for topic in topics:
        leave_note(config.settings, config.settings.application, topic.name)


def _wait(topics: Sequence[Topic], config: Config, failures: list[BaseException], is_done: object, what: str) -> None:
    assert callable(is_done)
    deadline, left = time.monotonic() + _PATIENCE, list(topics)
    while left:
        if is_done(TopicTables(left[0], config.settings).history()):
            left.pop(0)
            continue
        if failures or time.monotonic() > deadline:
            raise Unmeasured(f"{len(left)} of {len(topics)} topics were not {what}: {failures or 'too slow'}")
        time.sleep(0.5)


def _is_run_by(history: History, name: str) -> bool:
    started = history.last(State.STARTED)
    return started is not None and started.of(Started).run == name


def _config(topics: Sequence[Topic]) -> Config:
    root = BUILD / "closing"
    expectations = root / "expectations"
    expectations.mkdir(parents=True, exist_ok=True)
    (expectations / "_every_topic.json").write_text(json.dumps({"name": "_every_topic", "expectations": []}))
    for topic in topics:
        suite = {"name": topic.name, "expectations": [_SUITE]}
        (expectations / f"{topic.name}.json").write_text(json.dumps(suite))
    lake = str(root / "lake")
    settings = Settings(
        raw_root=lake,
        sealed_root=lake,
        release="bench",
        application="bench",
        frontier={"source": "drained"},
        ingest={"trigger": "10 seconds", "empty_after": "0.3 seconds"},
        mirrors={"folder": {"kind": "folder", "path": str(root / "mirror")}},
        spark=SPARK,
    )
    return Config(root / "conf" / "bench.yaml", settings, {topic.name: topic for topic in topics}, expectations)
