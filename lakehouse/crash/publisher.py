"""Who publishes: events late and on time, some twice, and messages that are none."""

from __future__ import annotations

import json
import random
from datetime import timedelta

from lakehouse.crash.world import World
from lakehouse.sandbox.direct import DirectError
from lakehouse.sandbox.faults import Faults

_NOT_AN_EVENT = b"not json"


class Publisher:
    """Publishes to a world's broker, and remembers what the lake must have in the end: ids of events, bad messages."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._events: list[bytes] = []
        self.good: set[str] = set()
        self.bad = 0

    def publish(self, count: int, chance: random.Random) -> None:
        """So many messages, each until the broker says that it has it."""
        for _ in range(count):
            payload = self._payload(chance)
            try:
                self._send(payload)
            except DirectError:
                broker = self._world.broker
                faults, broker.faults = broker.faults, Faults()
                try:
                    self._send(payload)
                finally:
                    broker.faults = faults

    def _send(self, payload: bytes) -> None:
        before = len(self._world.published())
        try:
            self._world.publish(payload)
        finally:
            if len(self._world.published()) > before:
                self._remember(payload)

    def _remember(self, payload: bytes) -> None:
        if payload == _NOT_AN_EVENT:
            self.bad += 1
        else:
            self.good.add(json.loads(payload)["event_id"])

    def _payload(self, chance: random.Random) -> bytes:
        """A new event, some time late; or one that was published before; or none at all."""
        if chance.random() < 0.05:
            return _NOT_AN_EVENT
        if self._events and chance.random() < 0.15:
            return chance.choice(self._events)
        skips = self._world.topic.empty_hours == "skip"
        late = chance.choice([0, 30, 600, 3000, 5000, 9000, 20_000] + [90_000, 250_000] * skips)
        event_id = f"e{len(self._events):04d}"
        played_at = self._world.now - timedelta(seconds=chance.uniform(0, late))
        event = {"event_id": event_id, "played_at": played_at.isoformat(), "n": chance.randrange(100)}
        self._events.append(json.dumps(event).encode())
        return self._events[-1]
