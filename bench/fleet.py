"""One application for many topics: what idle ones cost, what busy ones reach beside each other, how soon all start.

    python -m bench.fleet [--topics N] [--only PART …]

Synthetic topics on `bench.pages`, one Spark application, whose processes are measured as a whole; nothing is
extrapolated. What the machine is too busy for is refused. Not measured: the stages behind ingest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import ingest, pages
from bench.ingest import BUILD, Bench, Running, ingesting, our_core_seconds, plain_spark, session, topic_of
from bench.measuring import resident_bytes
from bench.pages import PAGE
from bench.report import Report

TRIGGER_SECONDS = 10
TRIGGERS = 6
"""Over which idle topics are measured."""
MIXED_TOPICS, MIXED_SECONDS, MIXED_EVERY = 50, 60.0, 5.0
WARM_UP = 60 * PAGE
HEALTHY = 45
ROUNDS = 6
SLOW_SECONDS = 30.0


def main() -> int:
    parts: dict[str, Callable[[Bench, int], None]] = {
        "alone": _alone,
        "mixed": _mixed,
        "isolation": _isolation,
        "idle": _idle,
        "start": _start,
    }
    parser = argparse.ArgumentParser(prog="bench.fleet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--topics", type=int, default=300, help="of the parts idle and start (%(default)s)")
    parser.add_argument("--messages", type=int, default=1_000_000, help="of one topic alone (%(default)s)")
    parser.add_argument("--only", nargs="*", choices=list(parts), default=list(parts), help="parts to measure (all)")
    arguments = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("fleet", is_part=len(arguments.only) < len(parts) or arguments.topics != 300)
    with pages.served() as server:
        try:
            for name in arguments.only:
                with session(4) as spark:
                    parts[name](Bench(report, spark, server, arguments.messages, 0), arguments.topics)
        finally:
            shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


def _idle(bench: Bench, count: int) -> None:
    """Cores and memory of all our processes, from the third trigger on."""
    about = f"{count:,} idle topics at {TRIGGER_SECONDS} s"
    cores_bound, memory_bound = (0.25, 2.5) if count <= 300 else (0.75, 4.0)
    topics = [topic_of(f"idle_{number:04d}") for number in range(count)]
    with ingesting(bench, topics, trigger=f"{TRIGGER_SECONDS} seconds") as running:
        for topic in running:
            topic.wait_for_first_trigger()
        running[0].wait_for_triggers(2)
        cpu, started = our_core_seconds(), time.monotonic()
        before = [len(topic.triggers) for topic in running]
        time.sleep(TRIGGERS * TRIGGER_SECONDS)
        used, seconds = our_core_seconds() - cpu, time.monotonic() - started
        triggers = [len(topic.triggers) - first for topic, first in zip(running, before, strict=True)]
        memory = resident_bytes(lambda process: pages.MODULE not in process.cmdline())
    if used <= 0 or min(triggers) < TRIGGERS - 1:
        bench.report.refuse(f"{about}: cores", f"{min(triggers)} triggers in {seconds:.0f} s, {used:.2f} core-seconds")
        return
    bench.report.at_most(f"{about}: cores", used / seconds, cores_bound, "cores")
    bench.report.at_most(f"{about}: memory of all processes", memory / 1024**3, memory_bound, "GiB")


def _alone(bench: Bench, count: int) -> None:
    """As `bench.ingest` has it, beside the same plain Spark batch."""
    plain = bench.messages / plain_spark(bench.spark, bench.messages)
    reached = _alone_speed(bench)
    bench.report.shown("one topic alone", reached, "events/s")
    bench.report.at_least("one topic alone against the plain Spark batch", reached / plain, 1.4)


def _alone_speed(bench: Bench) -> float:
    with ingesting(bench, [topic_of("alone", slots=2)]) as (topic,):
        topic.take(WARM_UP)
        return bench.messages / min(topic.take(bench.messages) for _ in range(2))


def _mixed(bench: Bench, count: int) -> None:
    """The biggest has more than it can take, the next sizes are a half, a third … of its pages in every round."""
    alone = _alone_speed(bench)
    topics = [topic_of(f"mixed_{number:02d}", slots=2 if number == 0 else 1) for number in range(MIXED_TOPICS)]
    with ingesting(bench, topics) as running:
        biggest, *others = running
        _warm(running)
        biggest.release(2 * int(alone * MIXED_SECONDS) // PAGE * PAGE)
        before, started, round_number = sum(topic.rows for topic in running), time.monotonic(), 0
        while time.monotonic() - started < MIXED_SECONDS:
            for size, topic in enumerate(others, 2):
                if round_number % size == 0:
                    topic.release(max(PAGE, 20 * PAGE // size))
            round_number += 1
            time.sleep(MIXED_EVERY)
        seconds = time.monotonic() - started
        reached = (sum(topic.rows for topic in running) - before) / seconds
        batches = biggest.batch_seconds()[-5:]
    about = f"{MIXED_TOPICS} mixed topics in one application"
    bench.report.shown(f"{about}: together", reached, "events/s")
    bench.report.shown(f"{about}: a batch", statistics.median(batches), "seconds")
    bench.report.at_least(f"{about}: against one topic alone in the same run", reached / alone, 0.8)


def _isolation(bench: Bench, count: int) -> None:
    """Healthy small topics, first without and then beside sick ones: how long until what comes to them is committed."""
    names = [f"healthy_{number:02d}" for number in range(HEALTHY)]
    sick = ["limit", "large", "gone", "refused", "slow"]
    topics = [topic_of(name) for name in (*names, *sick)]
    with ingesting(bench, topics, trigger="2 seconds") as running:
        by_name = {topic.topic.name: topic for topic in running}
        healthy = [by_name[name] for name in names]
        _warm(running)
        without = [_round_seconds(healthy) for _ in range(ROUNDS)]
        _sicken(bench, by_name)
        time.sleep(15)
        beside = []
        for _ in range(ROUNDS):
            by_name["large"].release(4 * PAGE, "large")
            for name in ("refused", "slow"):
                by_name[name].release(PAGE)
            beside.append(_round_seconds(healthy))
        causes = {name: by_name[name].ingest.pulse.error for name in ("gone", "refused", "slow")}
    bench.report.shown("healthy topics alone: from publish to commit", statistics.median(without), "seconds")
    bench.report.at_most(
        "the same beside five sick topics, against alone", statistics.median(beside) / statistics.median(without), 1.5
    )
    for name, cause in causes.items():
        if cause is None:
            bench.report.refuse(f"cause of the topic {name}", "it is not sick")
        print(f"  {name}: {cause}")


def _sicken(bench: Bench, by_name: dict[str, Running]) -> None:
    """One at its limit, one without its subscription, one whose lake refuses writes, one whose commits take 30 s."""
    by_name["limit"].release(20_000 * PAGE)
    by_name["gone"].release(PAGE, "gone")
    raw = ingest.raw_folder(by_name["refused"])
    shutil.rmtree(raw / "segments", ignore_errors=True)
    (raw / "segments").write_text("a file where manifests are to be put")
    slow = by_name["slow"].ingest
    commit, look = slow.commit_facts, slow.look

    def slow_commit(facts: Sequence[dict[str, Any]]) -> Any:
        time.sleep(SLOW_SECONDS)
        return commit(facts)

    def slow_look(facts: Sequence[dict[str, Any]]) -> bool:
        return False if any(fact["rows"] for fact in facts) else look(facts)

    slow.commit_facts = slow_commit  # type: ignore[method-assign]
    slow.look = slow_look  # type: ignore[method-assign]


def _round_seconds(topics: Sequence[Running]) -> float:
    """Until a page that comes to each of them is committed."""
    started, wanted = time.monotonic(), [topic.rows + PAGE for topic in topics]
    for topic in topics:
        topic.release(PAGE)
    while any(topic.rows < rows for topic, rows in zip(topics, wanted, strict=True)):
        time.sleep(0.01)
        if time.monotonic() - started > 300:
            raise RuntimeError("what came to healthy topics was not committed within 5 minutes")
    return time.monotonic() - started


def _start(bench: Bench, count: int) -> None:
    """Of lakes that are there, until what waits for each topic is committed; the session is there already."""
    topics = [topic_of(f"start_{number:04d}") for number in range(count)]
    with ingesting(bench, topics, trigger="2 seconds", keeps=True) as running:
        for topic in running:
            topic.wait_for_first_trigger()
        root = ingest.raw_folder(running[0]).parent
    for each in topics:
        bench.server.release(each.subscription, PAGE)
    started = time.monotonic()
    with ingesting(bench, topics, trigger="2 seconds", root=root) as running:
        opened = time.monotonic() - started
        while any(topic.rows < PAGE for topic in running):
            time.sleep(0.05)
        seconds = time.monotonic() - started
    about = f"start of an application of {count:,} topics with lakes"
    bench.report.shown(f"{about}: until all are claimed", opened, "seconds")
    bench.report.at_most(f"{about}: until the first batch of all is committed", seconds, 30, "seconds")


def _warm(running: Sequence[Running]) -> None:
    for topic in running:
        topic.release(PAGE)
    while any(topic.rows < PAGE for topic in running):
        time.sleep(0.05)
    running[0].wait_for_triggers(2)


if __name__ == "__main__":
    sys.exit(main())
