"""Topics on a counted store, ingested and delivered in this process as the crash kit plays it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from lakehouse.crash.driver import Driver
from lakehouse.crash.small_lake import PLAYS, small_config
from lakehouse.crash.world import World
from lakehouse.mirrors.stage import mirror_due
from lakehouse.seal.stage import seal_due
from lakehouse.store import tables as tables_module
from lakehouse.store.delta import await_checkpoints
from lakehouse.validate.stage import validate_due
from tests.servers.object_store import ObjectStoreServer, Request, serving
from tests.servers.warehouse import lake_options

BETWEEN = timedelta(seconds=10)
TRIGGERS_A_DAY = 8_640
DELAY_SECONDS = 0.04
"""Of a request, where time is measured: a regional bucket's usual answer."""


class PlayedTopics:
    """An application's topics, and their mirror, in a bucket that is named as its local folder; `topic` is the first.

    Without a store they are in the folder, and no request is counted.
    """

    def __init__(
        self,
        store: ObjectStoreServer | None,
        folder: Path,
        names: Sequence[str] = (PLAYS,),
    ) -> None:
        self.config = config = small_config(folder, names=names)
        if store is not None:
            roots = {"raw_root": f"gs://{folder.name}/raw", "sealed_root": f"gs://{folder.name}/sealed"}
            mirrors = {"folder": {"kind": "folder", "path": f"gs://{folder.name}/mirror"}}
            update = roots | {"storage_options": lake_options(store.address), "mirrors": mirrors}
            self.config = replace(config, settings=config.settings.model_copy(update=update))
        self.world = World(self.config, sweep_every=20)
        self.topic = self.world.topic
        self.store, self._published, self._runs = store, 0, 0
        self._checkpoint = folder / "checkpoint"
        self.start_again()

    def start_again(self) -> None:
        """Another run on the same checkpoint; the one before it, if any, just ends."""
        self._runs += 1
        topics = list(self.config.topics.values())
        self.driver = Driver(self.world, topics, self._checkpoint, f"bench {self._runs}", random.Random(1))
        self.driver.open()

    def trigger(self, events: int = 0) -> tuple[int, float]:
        """One batch of so many new events of the first topic: its requests and its seconds."""
        requests, seconds = self.asked(events)
        return len(requests), seconds

    def asked(self, events: int = 0) -> tuple[list[Request], float]:
        """The same, request by request."""
        self.publish(events)
        found = self.requests_of(self.driver.batch)
        self.world.now += BETWEEN
        return found

    def publish(self, events: int) -> None:
        """Of the first topic."""
        for _ in range(events):
            self._published += 1
            event = {"event_id": f"e{self._published}", "played_at": self.world.now.isoformat(), "n": 1}
            self.world.publish(json.dumps(event).encode())

    def counted(self, work: Callable[[], object]) -> tuple[int, float]:
        """Requests and seconds of the work."""
        requests, seconds = self.requests_of(work)
        return len(requests), seconds

    def requests_of(self, work: Callable[[], object]) -> tuple[list[Request], float]:
        requests = self.store.requests if self.store is not None else list
        requests()
        began = time.monotonic()
        work()
        seconds = time.monotonic() - began
        return requests(), seconds

    def close_hour(self, files: int) -> None:
        """A whole hour of the first topic with so many small files, closed and not delivered; those before it are."""
        self.world.now = self.world.now.replace(minute=0, second=0) + timedelta(hours=2)
        for number in range(files):
            self.trigger(events=2)
            if number == min(files, 3) - 1:
                self.deliver()
        self.world.now += timedelta(hours=2)
        for _ in range(3):
            self.trigger(events=2)

    def deliver(self) -> None:
        """What is due of the first topic, to the last stage."""
        seal_due(self.topic, self.config, run="bench")
        validate_due(self.topic, self.config, run="bench")
        mirror_due(self.topic, self.config, None, run="bench")


@contextmanager
def played(names: Sequence[str] = (PLAYS,)) -> Iterator[tuple[PlayedTopics, ObjectStoreServer]]:
    """Topics on a store of their own, in a process that goes with them; this process keeps nothing of them."""
    with TemporaryDirectory() as folder, serving() as store:
        try:
            yield PlayedTopics(store, Path(folder, "lake"), names), store  # a random name need not be a bucket's
        finally:
            await_checkpoints()
            for known in (tables_module._ledgers, tables_module._silver_heads):
                known.clear()


def chain(requests: Iterable[Request]) -> int:
    """How many of the requests came one after the other, each begun when the one before had been answered."""
    length, end = 0, float("-inf")
    for request in sorted(requests, key=lambda request: request.began + request.seconds):
        if request.began >= end:
            length, end = length + 1, request.began + request.seconds
    return length
