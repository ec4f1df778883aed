"""What the store is asked for: requests of a trigger and of the stages, counted, and their time at 40 ms a request.

    python -m bench.store [--only PART …]

Topics ingested and delivered in this process as the crash kit plays it, on `tests.servers.object_store`; logs of 30 and
400 days are made (`bench.grown`). Spark's own checkpoint is apart.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable

from bench import store_ages, store_bill, store_status
from bench.played import DELAY_SECONDS, PlayedTopics, chain, played
from bench.report import Report
from lakehouse.crash.small_lake import PLAYS
from lakehouse.mirrors.stage import mirror_due
from lakehouse.seal.stage import seal_due
from lakehouse.store.delta import await_checkpoints
from lakehouse.store.table_log import CHECKPOINT_EVERY
from lakehouse.validate.stage import validate_due
from tests.servers.object_store import ObjectStoreServer

_EARLY, _LATE = range(4, 9), range(54, 59)
"""Triggers that are compared: neither has a sweep of manifests or a close of an hour in it, nor a checkpoint."""
_TOPICS = 50
_FILES = 360


def main() -> int:
    parts: dict[str, Callable[[Report], None]] = {
        "triggers": _triggers,
        "application": _application,
        "hour": _hour,
        "status": store_status.measure,
        "ages": store_ages.measure,
        "hours": store_ages.measure_hours,
        "bill": store_bill.measure,
    }
    parser = argparse.ArgumentParser(prog="bench.store", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(parts), default=list(parts), help="parts to measure (all)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    report = Report("store", is_part=len(arguments.only) < len(parts))
    for name in arguments.only:
        parts[name](report)
    return report.finish()


def _triggers(report: Report) -> None:
    with played() as (topic, store):
        asked = [topic.trigger(events=2)[0] for _ in range(_LATE.stop)]
        early, late = (statistics.median(asked[number] for number in of) for of in (_EARLY, _LATE))
        report.at_most("requests of a trigger with rows, one topic", late, 12, "requests")
        report.at_most("the same against the topic's first triggers", late / early, 1.2)
        topic.trigger()
        idle = statistics.mean(topic.trigger()[0] for _ in range(5))
        report.shown("requests of an idle trigger, one topic alone", idle, "requests")
        store.delay(DELAY_SECONDS)
        timed = [topic.asked(events=2) for _ in range(5)]
        chains = [chain(requests) for requests, _ in timed]
        usual = statistics.median(chains)
        report.at_most("requests of a trigger with rows, one after the other", usual, 6, "requests")
        seconds = statistics.median(seconds for _, seconds in timed)
        report.at_most("batch with rows at 40 ms a request, all of it", seconds, 0.4, "s")
        store.delay(0)
        _stages(report, topic)
        _with_checkpoint(report, topic, store)


def _stages(report: Report, topic: PlayedTopics) -> None:
    """An hour of 60 small files, closed and then delivered by the three stages; then a pass with nothing due."""
    topic.close_hour(files=0)
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


def _with_checkpoint(report: Report, topic: PlayedTopics, store: ObjectStoreServer) -> None:
    """What a trigger with rows takes of a core, checkpoints included, and how long the one is that writes it."""
    cpu = time.process_time()
    for _ in range(CHECKPOINT_EVERY):
        topic.trigger(events=2)
    await_checkpoints()
    report.shown("core-seconds of a trigger with rows", (time.process_time() - cpu) / CHECKPOINT_EVERY, "s")
    store.delay(DELAY_SECONDS)
    checkpoint, while_written = max((topic.asked(events=2) for _ in range(CHECKPOINT_EVERY)), key=lambda of: of[1])
    report.shown("the longest of 50 batches with rows at 40 ms a request, with a checkpoint", while_written, "s")
    report.shown("requests of the longest of 50 batches with rows, one after the other", chain(checkpoint), "requests")


def _application(report: Report) -> None:
    """Triggers of an application of which no topic has anything, and of one of which one has."""
    names = [PLAYS, *(f"plays_{number:02d}" for number in range(_TOPICS - 1))]
    with played(names=names) as (topics, _):
        for _ in range(3):
            topics.trigger(events=2)
        topics.trigger()
        asked = statistics.mean(topics.trigger()[0] for _ in range(20))
        about = f"in an application of {_TOPICS}"
        report.at_most(f"requests of an idle trigger per topic, {about}", asked / _TOPICS, 0.2, "requests")
        busy = statistics.median(topics.trigger(events=2)[0] for _ in range(5))
        report.at_most(f"requests of a trigger with rows of one topic, {about}", busy, 12, "requests")


def _hour(report: Report) -> None:
    """From the commit that closed it until the target has it and the ledger says so, in the stages' own order.

    By a process that has delivered an hour before, as an application has.
    """
    with played() as (topic, store):
        topic.close_hour(1)
        topic.deliver()
        topic.close_hour(_FILES)
        store.delay(DELAY_SECONDS)
        cpu = time.process_time()
        requests, seconds = topic.requests_of(topic.deliver)
        cpu = time.process_time() - cpu
        about = f"an hour of {_FILES} small files, closed to mirrored, GCS to GCS"
        report.at_most(f"{about}, at 40 ms a request", seconds, 6, "s")
        report.shown(f"{about}: core-seconds", cpu, "s")
        report.shown(f"{about}: requests", len(requests), "requests")
        report.shown(f"{about}: one after the other", chain(requests), "requests")


if __name__ == "__main__":
    sys.exit(main())
