"""A consumer that reads ranges of a topic's partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from lakehouse.clock import Clock
from lakehouse.errors import SourceError, UnansweredError
from lakehouse.landing.brokers.contract import Bounds
from lakehouse.landing.brokers.kafka_messages import page_of
from lakehouse.landing.brokers.log_client import Advance, ReadRequest
from lakehouse.landing.brokers.losses import lost_messages

_POLL_SECONDS = 0.05
"""That a consumer waits for a page to be full."""
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class KafkaStream:
    """`consumer` is nobody else's meanwhile. What comes after a head was committed too, and is taken with it."""

    def __init__(
        self, consumer: Consumer, request: ReadRequest, clock: Clock, error_of: Callable[[KafkaError], SourceError]
    ) -> None:
        self._consumer, self._request, self._clock, self._error_of = consumer, request, clock, error_of
        self._positions = dict(request.starts)
        self.problem: KafkaError | None = None
        topic = request.source.topic
        consumer.assign([TopicPartition(topic, number, offset) for number, offset in request.starts.items()])

    def next(self, bounds: Bounds, messages: int) -> Advance | None:
        got: list[Any] = self._consumer.consume(min(bounds.page_messages, messages), _POLL_SECONDS)
        before, good, ended = dict(self._positions), [], []
        for each in got:
            error, number = each.error(), int(each.partition())
            if error is None:
                stop = self._request.stops.get(number)
                if stop is None or each.offset() < stop:
                    good.append(each)
                    self._positions[number] = each.offset() + 1
                else:
                    self._positions[number] = stop
            elif error.code() == KafkaError._PARTITION_EOF:
                self._positions[number] = max(self._positions[number], each.offset())
                ended.append(number)
            else:
                self._fail(number, error)
        if self._positions == before and not ended:  # nothing, or only what may pass
            return None
        return Advance(page_of(good, self._clock()) if good else None, dict(self._positions), ended)

    def _fail(self, number: int, error: KafkaError) -> None:
        """Raises what ends the reading; what librdkafka tries again by itself is waited for."""
        if error.code() in _OUT_OF_RANGE:
            raise lost_messages(self._request.source, {number: (self._positions[number], None)}, self._request.since)
        known = self._error_of(error)
        if not isinstance(known, UnansweredError):
            raise known
        self.problem = error
