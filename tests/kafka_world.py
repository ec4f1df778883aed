"""The crash kit's world with a real Kafka broker in the place of Pub/Sub: what outlives every driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from kafka_lake import Publisher

from lakehouse.clock import Clock
from lakehouse.config import Config, Ingest
from lakehouse.crash.small_lake import PLAYS
from lakehouse.crash.world import World
from lakehouse.decode.events import decode
from lakehouse.errors import SourceError, UnansweredError
from lakehouse.ingest.frontier import ClockCheck, FrontierSource, PositionFrontier
from lakehouse.landing.brokers.contract import Bounds, Idle, Key, Page, Reading, Wanted
from lakehouse.landing.brokers.kafka import Kafka
from lakehouse.landing.brokers.partitions import LogReading
from lakehouse.landing.pull import Puller
from lakehouse.sandbox.broker import Broker
from lakehouse.store.bronze_log import newest_state
from lakehouse.topics import KafkaSource

PARTITIONS = 2


class KafkaWorld(World):
    """Messages of a topic go to its partitions in turn. The faults of the sandbox's broker are played on answers."""

    def __init__(self, config: Config, bootstrap: str) -> None:
        self._publisher = Publisher(bootstrap)
        self._names = {name: f"{name}-{uuid4().hex[:8]}" for name in config.topics}
        self._ids: dict[str, list[str]] = {name: [] for name in config.topics}
        topics = {
            name: topic.model_copy(
                update={"subscription": "", "source": KafkaSource(bootstrap=bootstrap, topic=self._names[name])}
            )
            for name, topic in config.topics.items()
        }
        for kafka_name in self._names.values():  # this world's time is that of no machine
            self._publisher.create(kafka_name, PARTITIONS, message_timestamp_after_max_ms=str(2**63 - 1))
        super().__init__(replace(config, topics=topics))

    def publish(self, payload: bytes, name: str = PLAYS) -> None:
        partition = len(self._ids[name]) % PARTITIONS
        self._ids[name].append(f"{partition}:{len(self._ids[name]) // PARTITIONS}")
        self._publisher.publish(self._names[name], payload, partition=partition, at=self.now)

    def published(self, name: str = PLAYS) -> list[str]:
        return list(self._ids[name])

    def unacked(self, name: str = PLAYS) -> list[str]:
        """What bronze has not read up to."""
        tables = self.tables_of(name)
        state = newest_state(tables.bronze()) if tables.raw.below("bronze").has_table() else None
        reached = state.positions.offsets if state and state.positions else {}
        return [each for each in self._ids[name] if not _is_before(each, reached)]

    def puller(self) -> Puller:
        flaky = _Flaky(self.broker)
        return Puller(broker=lambda kind: flaky, clock=lambda: self.now, quarantine=lambda: nullcontext(decode))

    def frontier(self, name: str = PLAYS, reached: Callable[[], Mapping[int, int]] = dict) -> FrontierSource:
        return PositionFrontier(reached, timedelta(minutes=5), ClockCheck(lambda: self.now.timestamp()))


def _is_before(message_id: str, reached: Mapping[int, int]) -> bool:
    partition, _, offset = message_id.partition(":")
    return int(offset) < reached.get(int(partition), 0)


class _Flaky(Kafka):
    """Answers that do not come, or break off, as often as the faults of the sandbox's broker say."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker

    def readings(
        self, wanted: Mapping[Key, Wanted], ingest: Ingest, clock: Clock, page_messages: int
    ) -> Iterator[tuple[Key, Reading | Idle | SourceError]]:
        for key, found in super().readings(wanted, ingest, clock, page_messages):
            if self._broker.faults.refused("Pull") is not None:
                yield key, _silence(wanted[key])
            elif isinstance(found, LogReading) and self._broker.faults.answer_lost("Pull") is not None:
                yield key, _Breaking(found, wanted[key])  # type: ignore[misc]
            else:
                yield key, found


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
