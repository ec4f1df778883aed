"""What outlives every driver: the broker and its clock, and the lake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

from google.cloud.monitoring_v3 import types as monitoring

from lakehouse.clock import Clock
from lakehouse.config import Config
from lakehouse.crash.small_lake import PLAYS, pubsub_topic, subscription_of
from lakehouse.decode.events import decode
from lakehouse.ingest.frontier import FrontierSource, MonitoringFrontier
from lakehouse.landing.brokers.pubsub import Pauses, SubscriptionReader
from lakehouse.landing.brokers.subscriptions import PubSub
from lakehouse.landing.pull import Puller
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel, DirectError
from lakehouse.store.ledger import Ledger
from lakehouse.store.tables import TopicTables

ACK_DEADLINE = timedelta(seconds=10)
_START = datetime(2035, 3, 5, 9, 20, tzinfo=UTC)
"""Later than any real time, as files carry the time of their writing and hours must be quiet by this clock."""


class World:
    """A broker with the lake's topics, the lake, and one clock for all. Sweeps come at every `sweep_every`th batch.

    Where no name is given it is the topic `plays` that is meant. Commits of topics that are `broken` fail, those of
    topics that `hang` end when they no longer do.
    """

    def __init__(self, config: Config, *, sweep_every: int = 3) -> None:
        self.config, self.sweep_every = config, sweep_every
        self.topic = config.topic(PLAYS)
        self.tables = self.tables_of(PLAYS)
        self.broken: set[str] = set()
        self.hanging: set[str] = set()
        self.now = _START
        self.broker = Broker(clock=lambda: self.now.timestamp())
        self._channel = DirectChannel(self.broker)
        for name in config.topics:
            self._channel.create(pubsub_topic(name), subscription_of(name), ACK_DEADLINE)

    def tables_of(self, name: str) -> TopicTables:
        return TopicTables(self.config.topic(name), self.config.settings)

    def publish(self, payload: bytes, name: str = PLAYS) -> None:
        """DirectError when the broker refuses, or loses its answer."""
        self._channel.publish(pubsub_topic(name), [payload])

    def published(self, name: str = PLAYS) -> list[str]:
        """The ids of all messages that the broker has taken."""
        return list(self.broker.published(pubsub_topic(name)))

    def unacked(self, name: str = PLAYS) -> list[str]:
        return list(self.broker.unacked(subscription_of(name)))

    def puller(self) -> Puller:
        """What a driver reads with."""
        return hasty_puller(self.broker, lambda: self.now)

    def frontier(self, name: str = PLAYS, reached: Callable[[], Mapping[int, int]] = dict) -> FrontierSource:
        """`reached` gives the positions of a log."""
        client = _Monitoring(self._channel.unary_unary("/x/ListTimeSeries"))
        return MonitoringFrontier(subscription_of(name), client, timedelta(minutes=5), ask_every=timedelta(0))

    def restart(self, what: str = "") -> None:
        """The broker ends, at once, and starts again; where `what` is `reading`, in the middle of the next reading.

        Of Pub/Sub that is nothing: it is no process.
        """

    def ledger(self, name: str = PLAYS) -> Ledger:
        return self.tables_of(name).ledger("world", lambda: self.now)


class _Monitoring:
    """The one call of a MetricServiceClient that a frontier makes."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._call = call

    def list_time_series(self, request: Mapping[str, Any], timeout: float) -> Iterable[Any]:
        from google.api_core.exceptions import from_grpc_status

        try:
            answer = self._call(monitoring.ListTimeSeriesRequest.pb(monitoring.ListTimeSeriesRequest(**request)))
        except DirectError as error:
            refused: Exception = from_grpc_status(error.code(), error.details())  # type: ignore[no-untyped-call]
            raise refused from error
        series: Iterable[Any] = answer.time_series
        return series


def hasty_puller(broker: Broker, clock: Clock) -> Puller:
    """One whose calls reach the broker directly, with short pauses and small requests.

    After a death it decodes in this process: no message here kills a decoder, and a process takes a second.
    """
    direct = PubSub(connect=_hasty_reader, channel=lambda subscription, number: _direct(broker))
    return Puller(
        broker=lambda kind: direct,
        clock=clock,
        quarantine=lambda: nullcontext(decode),
    )


def _direct(broker: Broker) -> Any:
    return DirectChannel(broker)


def _hasty_reader(subscription: str, answers: str, channel: Any, clock: Clock) -> SubscriptionReader:
    pauses = Pauses(timedelta(seconds=0.0005), timedelta(seconds=0.001))
    return SubscriptionReader(subscription, answers=answers, channel=channel, pauses=pauses, max_ack_ids=3, clock=clock)
