"""Publishes the day at a steady pace, while the fleet is deployed and broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from lakehouse.sandbox.broker import Broker, topic_path
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.sandbox.fleet.day import of_topics
from lakehouse.sandbox.flights import Message

_STEP_SECONDS = 1.0


class Publisher:
    """Sends the messages in their order, the last of them `seconds` after the start, unless told to `finish` earlier.

    A publisher knows no subscription: what it sends while there is none, nobody gets. So it waits for those that are
    to be `held`.
    """

    def __init__(
        self, broker: Broker, messages: Sequence[Message], subscriptions: dict[str, str], seconds: float
    ) -> None:
        """`subscriptions`: the path of each topic's."""
        self._channel, self._subscriptions = DirectChannel(broker), subscriptions
        self._left, self._seconds = list(messages), seconds
        self._first = messages[0].publish_at
        self._span = (messages[-1].publish_at - self._first).total_seconds()
        self._held: set[str] = set()
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.sent = 0

    def start(self) -> None:
        self._thread.start()

    def hold(self, topic: str) -> None:
        """Nothing is published to it from now on."""
        with self._lock:
            self._held.add(topic)

    def let_go(self, topic: str) -> None:
        with self._lock:
            self._held.discard(topic)

    def finish(self) -> None:
        """What is left, at once."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._publish(1.0)

    def _run(self) -> None:
        began = time.monotonic()
        while self._left and not self._is_over.wait(_STEP_SECONDS):
            self._publish(min(1.0, (time.monotonic() - began) / self._seconds))

    def _publish(self, share: float) -> None:
        """All up to that share of the day."""
        with self._lock:
            due = [each for each in self._left if self._share(each) <= share and each.topic not in self._held]
            chosen = set(map(id, due))
            self._left = [each for each in self._left if id(each) not in chosen]
            for topic, messages in of_topics(due).items():
                path = topic_path(self._subscriptions[topic])
                self._channel.publish(path, [message.payload for message in messages])
            self.sent += len(due)

    def _share(self, message: Message) -> float:
        return (message.publish_at - self._first).total_seconds() / self._span
