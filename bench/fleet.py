"""Many topics: what idle ones cost, what busy ones reach beside each other, how soon all start, what commands take.

    python -m bench.fleet [--topics N] [--only PART …]

Synthetic topics on `bench.pages`, one Spark application, whose processes are measured as a whole; nothing is
extrapolated. What a run cannot measure is refused: no figure is printed for it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import closing, fleet_commands, pages
from bench.ingest import (
    BUILD,
    Bench,
    Running,
    ingesting,
    our_core_seconds,
    plain_spark,
    raw_folder,
    session,
    settings_of,
    topic_of,
)
from bench.measuring import resident_bytes
from bench.pages import PAGE
from bench.report import Report
from lakehouse.topics import Topic
from tests.servers.object_store import ObjectStoreServer, serving
from tests.servers.warehouse import lake_options

TRIGGER_SECONDS = 10
TRIGGERS = 6
"""Over which idle topics are measured."""
MIXED_SECONDS, MIXED_EVERY = 60.0, 5.0
WARM_UP = 60 * PAGE
HEALTHY = 45
ROUNDS = 4
REQUEST_SECONDS, SLOW_SECONDS = 0.04, 30.0
"""Of requests to a store: of a usual one, and of one that hardly answers."""
_PATIENCE = 400.0
"""For what is to be measured: a part has 8 minutes."""


class Unmeasured(Exception):
    """What was to be measured did not come to an end."""


def main() -> int:
    parts: dict[str, Callable[[Bench, int], None]] = {
        "alone": _alone,
        "mixed": lambda bench, count: _mixed(bench, 50, 0, 0.8),
        "mixed-300": lambda bench, count: _mixed(bench, 300, 200, 0.7),
        "isolation": _isolation,
        "idle": _idle,
        "idle-1800": lambda bench, count: _idle(bench, 1_800),
        "start": _start,
        "close": lambda bench, count: closing.measure(bench, count),
    }
    commands: dict[str, Callable[[Report, int], None]] = {
        "status": fleet_commands.status,
        "status-1800": lambda report, count: fleet_commands.status(report, 1_800),
        "watch": fleet_commands.watch,
        "deploy": fleet_commands.start,
    }
    names = [*parts, *commands]
    parser = argparse.ArgumentParser(prog="bench.fleet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--topics", type=int, default=300, help="of idle, start, close and the commands (%(default)s)")
    parser.add_argument("--messages", type=int, default=500_000, help="of one topic alone (%(default)s)")
    parser.add_argument("--only", nargs="*", choices=names, default=names, help="parts to measure (all)")
    arguments = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("fleet", is_part=len(arguments.only) < len(names) or arguments.topics != 300)
    with pages.served() as server:
        try:
            for name in arguments.only:
                try:
                    if name in commands:
                        commands[name](report, arguments.topics)
                    else:
                        with session(4) as spark:
                            parts[name](Bench(report, spark, server, arguments.messages, 0), arguments.topics)
                except (Unmeasured, closing.Unmeasured, fleet_commands.Unmeasured) as why:
                    report.refuse(name, str(why))
                report.finish()  # what comes later may take too long
        finally:
            shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


def _idle(bench: Bench, count: int) -> None:
    """Cores and memory of all our processes, from the third trigger on."""
    about = f"{count:,} idle topics at {TRIGGER_SECONDS} s"
    cores_bound, memory_bound = (0.25, 2.5) if count <= 300 else (0.75, 4.0)
    topics = [topic_of(f"idle_{number:04d}") for number in range(count)]
    with _with_lakes(bench, topics, rows=0) as root, ingesting(bench, topics, "10 seconds", root=root) as running:
        _wait(running, lambda: all(topic.triggers for topic in running), "the first trigger of each topic")
        settled = len(running[0].triggers) + 2
        _wait(running, lambda: len(running[0].triggers) >= settled, "two more triggers")
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
    reached, _ = _alone_speed(bench)
    bench.report.shown("one topic alone", reached, "events/s")
    bench.report.at_least("one topic alone against the plain Spark batch", reached / plain, 1.4)


def _alone_speed(bench: Bench) -> tuple[float, float]:
    """Events per second, and core-seconds per 100,000 events."""
    with ingesting(bench, [topic_of("alone", slots=2)]) as (topic,):
        topic.take(WARM_UP)
        cpu = our_core_seconds()
        seconds = [topic.take(bench.messages) for _ in range(2)]
        used = our_core_seconds() - cpu
    return bench.messages / min(seconds), used / (2 * bench.messages) * 100_000


def _mixed(bench: Bench, count: int, idle: int, bound: float) -> None:
    """The biggest has more than it can take, the next sizes are a half, a third … of its pages in every round."""
    alone, alone_cost = _alone_speed(bench)
    topics = [topic_of(f"mixed_{number:03d}", slots=2 if number == 0 else 1) for number in range(count)]
    with _with_lakes(bench, topics) as root, ingesting(bench, topics, root=root) as running:
        biggest, *others = running[: count - idle]
        _warm(running)
        biggest.release(2 * int(alone * MIXED_SECONDS) // PAGE * PAGE)
        before, started, round_number = sum(topic.rows for topic in running), time.monotonic(), 0
        cpu = our_core_seconds()
        while time.monotonic() - started < MIXED_SECONDS:
            for size, topic in enumerate(others, 2):
                if round_number % size == 0:
                    topic.release(max(PAGE, 20 * PAGE // size))
            round_number += 1
            time.sleep(MIXED_EVERY)
        seconds, used = time.monotonic() - started, our_core_seconds() - cpu
        taken = sum(topic.rows for topic in running) - before
        batches = biggest.batch_seconds()[-5:]
        if not biggest.is_alive or not taken:
            raise Unmeasured("the query ended, or brought nothing")
    about = f"{count} mixed topics in one application" + (f", {idle} of them idle" if idle else "")
    bench.report.shown(f"{about}: together", taken / seconds, "events/s")
    bench.report.shown(f"{about}: a batch", statistics.median(batches), "seconds")
    bench.report.shown(f"{about}: core-seconds of an event against alone", used / taken * 1e5 / alone_cost, "times")
    bench.report.at_least(f"{about}: against one topic alone in the same run", taken / seconds / alone, bound)


def _isolation(bench: Bench, count: int) -> None:
    """Healthy small topics, first without and then beside sick ones: how long until what comes to them is committed.

    The lake is on an object store, in which one sick topic's folder answers late and another one's is read-only.
    Spark's checkpoint, which needs a connector for such a store, is in a folder of this machine.
    """
    names = [f"healthy_{number:02d}" for number in range(HEALTHY)]
    sick = ["limit", "large", "gone", "refused", "slow"]
    topics = [topic_of(name) for name in (*names, *sick)]
    usual = settings_of("isolation", f"{TRIGGER_SECONDS} seconds").ingest
    with serving() as store:
        store.delay(REQUEST_SECONDS)
        changes = {
            "raw_root": "gs://bench/raw",
            "sealed_root": "gs://bench/sealed",
            "storage_options": lake_options(store.address),
            "ingest": usual.model_copy(update={"checkpoint_root": str(BUILD / "checkpoints")}),
        }
        with ingesting(bench, topics, changes=changes) as running:
            by_name = {topic.topic.name: topic for topic in running}
            healthy = [by_name[name] for name in names]
            _warm(running)
            alone = _rounds(healthy, lambda: None)
            _sicken(store, by_name)
            beside = _rounds(healthy, lambda: _feed(by_name))
            causes = {name: by_name[name].ingest.pulse.error for name in ("gone", "refused", "slow")}
    about, report = "healthy topics beside five sick ones", bench.report
    report.shown("healthy topics: from publish to commit", alone.published, "seconds")
    report.shown("healthy topics: from the epoch's start to commit", alone.committed, "seconds")
    report.at_most(f"{about}: from publish to commit", beside.published / alone.published, 1.5)
    report.at_most(f"{about}: from the epoch's start to commit", beside.committed / alone.committed, 1.5)
    report.shown(f"{about}: until the whole epoch is settled", beside.settled / alone.settled, "times")
    for name, cause in causes.items():
        print(f"  {name}: {cause}")
        if cause is None:
            bench.report.refuse(f"cause of the topic {name}", "it is not sick")


@dataclass(frozen=True)
class Rounds:
    """Medians of seconds, of the last of the topics in each round: until what came was committed, from its publish and
    from the epoch's start; and how long Spark's batches took, all topics included."""

    published: float
    committed: float
    settled: float


def _rounds(healthy: Sequence[Running], feed: Callable[[], None]) -> Rounds:
    """In each a page comes to each of them."""
    first = healthy[0].last_batch()
    published, committed = [], []
    for _ in range(ROUNDS):
        feed()
        started, wanted = time.monotonic(), [topic.rows + PAGE for topic in healthy]
        for topic in healthy:
            topic.release(PAGE)
        _wait(healthy, lambda wanted=wanted: _have(healthy, wanted), "what came to healthy topics")  # type: ignore[misc]
        published.append(time.monotonic() - started)
        committed.append(max(topic.commit_seconds for topic in healthy))
    last = healthy[0].last_batch()
    _wait(healthy, lambda: healthy[0].last_batch() > last, "the end of the last epoch")
    print("  from the epoch's start to commit: " + ", ".join(f"{seconds:.2f} s" for seconds in committed))
    settled = healthy[0].batch_seconds(first)
    return Rounds(*map(statistics.median, (published, committed, settled)))


def _have(topics: Sequence[Running], rows: Sequence[int]) -> bool:
    return all(topic.rows >= wanted for topic, wanted in zip(topics, rows, strict=True))


def _sicken(store: ObjectStoreServer, by_name: dict[str, Running]) -> None:
    """One at its limit, one without its subscription, one whose lake is read-only, one whose store hardly answers."""
    by_name["limit"].release(20_000 * PAGE)
    by_name["gone"].release(PAGE, "gone")
    store.make_read_only("/refused/")
    store.delay(SLOW_SECONDS, "/slow/")


def _feed(by_name: dict[str, Running]) -> None:
    by_name["large"].release(4 * PAGE, "large")
    for name in ("refused", "slow"):
        by_name[name].release(PAGE)


def _start(bench: Bench, count: int) -> None:
    """Of lakes that are there, until what waits for each topic is committed; the session is there already."""
    topics = [topic_of(f"start_{number:04d}") for number in range(count)]
    with _with_lakes(bench, topics) as root:
        for each in topics:
            bench.server.release(each.subscription, PAGE)
        cpu, started = our_core_seconds(), time.monotonic()
        with ingesting(bench, topics, "2 seconds", root=root) as running:
            opened = time.monotonic() - started
            _wait(running, lambda: all(topic.rows >= PAGE for topic in running), "the first batch of each topic")
            seconds, used = time.monotonic() - started, our_core_seconds() - cpu
    about = f"start of an application of {count:,} topics with lakes"
    bench.report.shown(f"{about}: until all are claimed", opened, "seconds")
    bench.report.shown(f"{about}: work of our processes", used, "core-seconds")
    bench.report.at_most(f"{about}: until the first batch of all is committed", seconds, 30, "seconds")


@contextmanager
def _with_lakes(bench: Bench, topics: Sequence[Topic], rows: int = PAGE) -> Iterator[Path]:
    """The root of a lake in which each topic has run before: the first has, the others have copies of its tables."""
    first, *others = topics
    with ingesting(bench, [first], keeps=True) as (running,):
        if rows:
            running.take(rows)
        _wait([running], lambda: bool(running.triggers), "a first trigger")
        home = raw_folder(running)
    for each in others:
        shutil.copytree(home, home.with_name(each.name))
    yield home.parent


def _warm(running: Sequence[Running]) -> None:
    """A page for each topic, and two triggers more."""
    for topic in running:
        topic.release(PAGE)
    _wait(running, lambda: all(topic.rows >= PAGE for topic in running), "a first page of each topic")
    settled = len(running[0].triggers) + 2
    _wait(running, lambda: len(running[0].triggers) >= settled, "two triggers")


def _wait(running: Sequence[Running], until: Callable[[], bool], what: str) -> None:
    """Unmeasured when the query ends, or it takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while not until():
        if not running[0].is_alive or time.monotonic() > deadline:
            error = running[0].query.exception()
            raise Unmeasured(f"{what} did not come within {_PATIENCE:.0f} s, or the query died: {error}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
