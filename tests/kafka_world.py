"""The crash kit's world with a real Kafka broker in the place of Pub/Sub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from kafka_lake import Publisher
from log_world import PARTITIONS, LogWorld

from lakehouse.clock import Clock
from lakehouse.config import Config, Ingest
from lakehouse.decode.events import decode
from lakehouse.errors import SourceError, UnansweredError
from lakehouse.landing.brokers.contract import Bounds, Idle, Key, Page, Reading, Wanted
from lakehouse.landing.brokers.kafka import Kafka
from lakehouse.landing.brokers.partitions import LogReading
from lakehouse.landing.pull import Puller
from lakehouse.sources import KafkaSource, LogSource
from tests.servers.kafka import Kafka as Server


class KafkaWorld(LogWorld):
    """On the broker that is given. `restarts` counts how often that was ended and started again."""

    def __init__(self, config: Config, server: Server) -> None:
        self._server, self._publisher = server, Publisher(server.address)
        self.restarts = 0
        self.is_reading_to_be_cut = False
        super().__init__(config)

    def restart(self, what: str = "") -> None:
        if what:
            self.is_reading_to_be_cut = True
            return
        self._server.end()
        self._server.start()
        self.restarts += 1

    def source(self, log: str) -> LogSource:
        """This world's time is that of no machine."""
        self._publisher.create(log, PARTITIONS, message_timestamp_after_max_ms=str(2**63 - 1))
        return KafkaSource(bootstrap=self._server.address, topic=log)

    def send(self, log: str, partition: int, payload: bytes) -> None:
        self._publisher.publish(log, payload, partition=partition, at=self.now)

    def puller(self) -> Puller:
        flaky = _Flaky(self)
        return Puller(broker=lambda kind: flaky, clock=lambda: self.now, quarantine=lambda: nullcontext(decode))


class _Flaky(Kafka):
    """Answers that do not come, or break off, as often as the faults of the sandbox's broker say."""

    def __init__(self, world: KafkaWorld) -> None:
        super().__init__()
        self._world = world

    def readings(
        self, wanted: Mapping[Key, Wanted], ingest: Ingest, clock: Clock, page_messages: int
    ) -> Iterator[tuple[Key, Reading | Idle | SourceError]]:
        world, faults = self._world, self._world.broker.faults
        for key, found in super().readings(wanted, ingest, clock, page_messages):
            if isinstance(found, LogReading) and world.is_reading_to_be_cut:
                world.is_reading_to_be_cut = False
                yield key, _Cut(found, world)  # type: ignore[misc]
            elif faults.refused("Pull") is not None:
                yield key, _silence(wanted[key])
            elif isinstance(found, LogReading) and faults.answer_lost("Pull") is not None:
                yield key, _Breaking(found, wanted[key])  # type: ignore[misc]
            else:
                yield key, found


class _Cut:
    """A reading in whose middle the broker restarts."""

    def __init__(self, reading: LogReading, world: KafkaWorld) -> None:
        self._reading, self._world = reading, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reading, name)

    def pages(self, bounds: Bounds) -> Iterator[Page]:
        for number, page in enumerate(self._reading.pages(replace(bounds, page_messages=1))):
            if number == 1:
                self._world.restart()
            yield page


class _Breaking:
    """A reading that ends with an error after its first page."""

    def __init__(self, reading: LogReading, wanted: Wanted) -> None:
        self._reading, self._wanted = reading, wanted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reading, name)

    def pages(self, bounds: Bounds) -> Iterator[Page]:
        yield from list(self._reading.pages(replace(bounds, messages=1)))
        raise _silence(self._wanted)


def _silence(wanted: Wanted) -> UnansweredError:
    return UnansweredError(
        wanted.topic.reads.address, found="silence", expected="an answer", next_step="It is asked again."
    )
