"""What is broken while the fleet runs, and when the watch has said so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.pubsub_v1 import types

from lakehouse.sandbox.broker import Broker, topic_path
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.sandbox.fleet.alerts import Notified
from lakehouse.sandbox.fleet.publishing import Publisher
from lakehouse.sandbox.fleet.site import Site


@dataclass
class Breakage:
    """One thing that is broken, and repaired if nobody does it by itself; instants as `Notified` has them.

    `cause` is what the watch is to say, `concerns` the topic or the application that it is to say it of. One that
    `recurs` is done again and again until somebody is notified: else it would have passed by itself by then.
    """

    words: str
    cause: str
    concerns: str
    break_it: Callable[[], object] = field(repr=False)
    repair: Callable[[], object] = field(repr=False, default=lambda: None)
    recurs: bool = False
    broken_at: float | None = None
    repaired_at: float | None = None

    def begin(self) -> None:
        self.break_it()
        self.broken_at = time.monotonic()

    def is_noticed(self, notified: Sequence[Notified]) -> bool:
        found = self.incident(notified) is not None
        if self.recurs and not found:
            self.break_it()
        return found

    def end(self) -> None:
        self.repair()
        self.repaired_at = time.monotonic()

    def incident(self, notified: Sequence[Notified]) -> Notified | None:
        """The first that says it; None while nobody was notified."""
        if self.broken_at is None:
            return None
        mine = [each for each in notified if each.cause == self.cause and each.at >= self.broken_at]
        return next((each for each in mine if self.concerns in each.topics | each.applications), None)


def breakages(site: Site, broker: Broker, publisher: Publisher) -> list[Breakage]:
    """A subscription deleted and a mirror's target gone, both of the first application; the last one killed."""
    (first, (_, deleted, *_)), (*_, last) = next(iter(site.applications.items())), site.applications
    subscription = site.fleet.config.topics[deleted].subscription
    channel = DirectChannel(broker)

    def delete() -> None:
        """Once it owes nothing: with a subscription goes what nobody has acknowledged."""
        publisher.hold(deleted)
        while broker.unacked(subscription):
            time.sleep(0.2)
        channel.call("DeleteSubscription", types.DeleteSubscriptionRequest, subscription=subscription)

    def create() -> None:
        channel.call("CreateSubscription", types.Subscription, name=subscription, topic=topic_path(subscription))
        publisher.let_go(deleted)

    away = site.archive.with_name("archive-away")

    def take_away() -> None:
        site.archive.rename(away)
        site.archive.write_text("A file where the mirror's folder was.\n")

    def bring_back() -> None:
        site.archive.unlink()
        away.rename(site.archive)

    return [
        Breakage("a subscription deleted", "cannot read", deleted, delete, create),
        Breakage("a mirror's target gone", "mirror", first, take_away, bring_back),  # whichever topic meets it first
        Breakage("an application killed", "not running", last, lambda: site.kill(last), recurs=True),
    ]


DIES_AT = "ingest.offsets_logged"


def poison(tree: Path) -> None:
    """A release that dies of its first batch, each time, when it has taken the topics over."""
    job = tree / "jobs" / "run.py"
    code = job.read_text()
    ahead = f'import os\n\nos.environ["LAKEHOUSE_DIE_AT"] = "{DIES_AT}"\n'
    docstring, _, rest = code.partition("\n\n")
    job.write_text(f"{docstring}\n\n{ahead}\n{rest}")


def harmless(tree: Path) -> None:
    """Another release that does the same."""
    with (tree / "lakehouse" / "__init__.py").open("a") as module:
        module.write("\n# The next release.\n")
