"""What it takes to ask how topics are: one, and 300 of six applications, at 40 ms a request."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from bench.grown import copies, grow_ledger
from bench.played import DELAY_SECONDS, played
from bench.report import Report
from lakehouse.config import Config
from lakehouse.operations.status import TopicStatus, statuses
from lakehouse.store.heartbeats import Heartbeat, Heartbeats, Pulse
from lakehouse.store.table_log import newest_log

_TOPICS, _APPLICATIONS, _DAYS = 300, 6, 400
_ROUNDS = 2
_SINCE = 2
"""Commits that came since the heartbeat was written: one every 10 s, and a heartbeat every 30."""


def measure(report: Report) -> None:
    """Of topics with a ledger of 400 days, an hour delivered by our own stages, and commits since the heartbeat."""
    with played() as (topic, store):
        topic.trigger(events=2)
        grow_ledger(topic, 24 * _DAYS)
        topic.start_again()
        topic.close_hour(4)
        topic.deliver()
        bronze = topic.world.tables.raw.below("bronze")
        log = newest_log(bronze.uri, bronze.options)
        assert log is not None
        names = copies(topic, store, _TOPICS - 1)
        for _ in range(_SINCE):
            topic.trigger(events=2)
        settings, now = topic.config.settings, topic.world.now
        for number in range(_APPLICATIONS):
            its = names[number::_APPLICATIONS]
            pulses = {name: _pulse(topic.topic.subscription, now, log.version) for name in its}
            Heartbeats(settings).write(_heartbeat(f"app-{number}", now, pulses))
        every = {name: topic.topic.model_copy(update={"name": name}) for name in names}
        config = replace(topic.config, topics=every)
        store.delay(DELAY_SECONDS)
        for count, bound in ((1, 1.0), (_TOPICS, 3.0)):
            store.requests()
            timed = [_timed(config, names[:count], now) for _ in range(_ROUNDS)]
            requests = len(store.requests()) / _ROUNDS
            seconds, cpu, rows = min(timed, key=lambda each: each[0])
            assert all(row.error is None and row.delivered_hour for row in rows), rows[0]
            of = f"`status` of {count} topic{'s' * (count > 1)}, {_DAYS} days old"
            report.at_most(f"{of}, at 40 ms a request", seconds, bound, "s")
            report.shown(f"{of}: core-seconds", cpu, "s")
            report.shown(f"{of}: requests", requests, "requests")
        seconds, _, _ = _timed(config, names[:1], now, looks_at_files=True)
        report.shown("`status` of 1 topic that is named, whose files are looked at", seconds, "s")


def _timed(
    config: Config, names: Sequence[str], now: datetime, *, looks_at_files: bool = False
) -> tuple[float, float, list[TopicStatus]]:
    """Seconds, core-seconds and rows, in a process that has begun."""
    began, cpu = time.monotonic(), time.process_time()
    rows = statuses(config, names, now, looks_at_files=looks_at_files)
    return time.monotonic() - began, time.process_time() - cpu, rows


def _pulse(subscription: str, now: datetime, version: int) -> Pulse:
    started = Pulse(subscription=subscription, state="running", since=now - timedelta(hours=1))
    return started.after_trigger(now, 1, now, version)


def _heartbeat(name: str, now: datetime, pulses: Mapping[str, Pulse]) -> Heartbeat:
    started_at = now - timedelta(hours=1)
    return Heartbeat(
        application=name,
        run="bench 2",
        host="here",
        release="crash",
        configuration="c",
        started_at=started_at,
        written_at=now,
        topics=pulses,
    )
