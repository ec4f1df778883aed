"""A day that is replayed: its clock goes on in steps, each when the application has done all that was due by then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import google.cloud.pubsub_v1 as pubsub_v1

from lakehouse.clock import FILE, Replayed
from lakehouse.config import Config
from lakehouse.hours import EPOCH, Hour
from lakehouse.ingest.closing import Signals, decide
from lakehouse.progress import Frontier, IngestState
from lakehouse.sandbox.broker import Broker, topic_path
from lakehouse.sandbox.flights import Message
from lakehouse.sandbox.registry import PUBLISH_TIME
from lakehouse.store.bronze_head import Head
from lakehouse.store.delta import files
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

STEP = timedelta(minutes=20)
"""By which the day's clock goes on; between steps it goes as fast as the machine's, so seconds of work are seconds."""


def new_clock(config: Config) -> Replayed:
    """The clock of a lake that is yet to be made; it counts once it is set."""
    Path(config.settings.raw_root).mkdir(parents=True, exist_ok=True)
    return Replayed(Path(config.settings.raw_root, FILE))


class DayBroker(Protocol):
    """Who delivers the day's messages, each when the day's clock has got there."""

    address: str

    def begin(self, config: Config) -> None:
        """What the topics read is there, and empty."""

    def publish(self, messages: Sequence[Message]) -> None:
        """All of the day, once."""

    def reach(self, moment: datetime) -> None:
        """What is published by then can be read."""

    def waiting(self, topic: Topic) -> int:
        """Messages of the topic that wait, as far as the broker knows."""


class SandboxDay:
    """The sandbox's broker, which has the day's clock and knows by itself what is due."""

    def __init__(self, broker: Broker) -> None:
        self._broker, self.address = broker, broker.address
        self._config: Config | None = None

    def begin(self, config: Config) -> None:
        self._config = config
        for topic in config.topics.values():
            self._broker.create(topic.subscription)

    def publish(self, messages: Sequence[Message]) -> None:
        assert self._config is not None
        publish(messages, self._config)

    def reach(self, moment: datetime) -> None:
        pass

    def waiting(self, topic: Topic) -> int:
        return self._broker.backlog(topic.subscription)


def publish(messages: Sequence[Message], config: Config) -> None:
    """Hand the whole day to the sandbox's broker, which delivers each message when its clock has got there."""
    with pubsub_v1.PublisherClient() as publisher:
        sent = [
            publisher.publish(
                topic_path(config.topics[each.topic].subscription),
                each.payload,
                **each.attributes,
                **{PUBLISH_TIME: each.publish_at.isoformat()},
            )
            for each in messages
        ]
        for future in sent:
            future.result(timeout=30)


@dataclass
class Followed:
    """One topic of the replay, as its lake says."""

    topic: Topic
    tables: TopicTables
    publish_times: Sequence[datetime]
    hours: set[Hour] = field(default_factory=set)
    """Those that had closed when it was looked at last."""
    _bronze: Head | None = field(default=None, repr=False)
    _state: IngestState = field(default_factory=IngestState)
    _rows: int = 0

    @classmethod
    def of(cls, topic: Topic, config: Config, messages: Iterable[Message]) -> Followed:
        times = [each.publish_at for each in messages if each.topic == topic.name]
        return cls(topic, TopicTables(topic, config.settings), times)

    def is_settled(self, broker: DayBroker, now: datetime) -> bool:
        """Whether all that was published by `now` is in bronze, and every hour that can close by now is delivered."""
        published = sum(at <= now for at in self.publish_times)
        if broker.waiting(self.topic) or self._deliveries() < published:
            return False
        reached = Frontier(now, now, "everything published by now is consumed")
        signals = Signals.of(self._state, reached, now, quiet_awaited_since=EPOCH)
        return not decide(signals, self.topic).closed and self._is_delivered()

    def is_over(self, now: datetime) -> bool:
        """Whether no event of the day waits in an open hour."""
        return all(at <= now for at in self.publish_times) and not self._state.hours

    def _is_delivered(self) -> bool:
        """Whether every target of the topic has every hour that closed."""
        history = self.tables.history()
        self.hours = set(history.hours())
        return all(history.targets_done(hour) >= set(self.topic.mirrors) for hour in self.hours)

    def _deliveries(self) -> int:
        """Rows of bronze, whose newest state is known from here on."""
        if self._bronze is None:
            if not self.tables.has_bronze():
                return 0
            self._bronze = Head(self.tables.bronze())
        self._bronze.update()
        state = self._bronze.state()
        if state != self._state:
            self._state, self._rows = state, sum(file.rows for file in files(self.tables.bronze()))
        return self._rows
