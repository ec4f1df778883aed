"""Who publishes: events late and on time, some twice, some under an id that is used, and messages that are none."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta

from lakehouse import hours
from lakehouse.crash.invariants import Event
from lakehouse.crash.small_lake import PLAYS
from lakehouse.crash.world import World
from lakehouse.sandbox.direct import DirectError
from lakehouse.sandbox.faults import Faults

_NOT_AN_EVENT = b"not json"
_LATE_SECONDS = (0, 30, 600, 3000, 5000, 9000, 20_000)
_LATE_BY_DAYS_SECONDS = (90_000, 250_000)
"""Only where empty hours are skipped: else each of the hours in between would be sealed."""

TRICKLES = ("late", "rejected", "repeated", "a clock that stands still")
"""Messages that must not keep an hour open, however steadily they come."""


class Publisher:
    """Publishes to one topic of a world's broker, and remembers what the lake must have in the end: events, and bad
    messages."""

    def __init__(self, world: World, name: str = PLAYS) -> None:
        self._world, self._name = world, name
        self._published: list[tuple[str, datetime]] = []
        self._payloads: list[bytes] = []
        self.good: set[Event] = set()
        self.bad = 0

    def publish(self, count: int, chance: random.Random) -> None:
        """So many messages, each until the broker says that it has it."""
        for _ in range(count):
            self._surely_send(self._payload(chance))

    def trickle(self, kind: str, chance: random.Random) -> None:
        """One message of a kind of `TRICKLES`."""
        match kind:
            case "rejected":
                payload = _NOT_AN_EVENT
            case "repeated" if self._payloads:
                payload = self._payloads[0]
            case "a clock that stands still" if self._published:
                payload = self._new_event(f"e{len(self._payloads):04d}", self._published[0][1], chance)
            case _:
                late = timedelta(seconds=chance.uniform(3600, 20_000))
                payload = self._new_event(f"e{len(self._payloads):04d}", self._world.now - late, chance)
        self._surely_send(payload)

    def _surely_send(self, payload: bytes) -> None:
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
        before = len(self._world.published(self._name))
        try:
            self._world.publish(payload, self._name)
        finally:
            if len(self._world.published(self._name)) > before:
                self._remember(payload)

    def _remember(self, payload: bytes) -> None:
        if payload == _NOT_AN_EVENT:
            self.bad += 1
        else:
            event = json.loads(payload)
            self.good.add((event["event_id"], datetime.fromisoformat(event["played_at"])))

    def _payload(self, chance: random.Random) -> bytes:
        """A new event, some time late; or one that was published before; or none at all."""
        if chance.random() < 0.05:
            return _NOT_AN_EVENT
        if self._payloads and chance.random() < 0.15:
            return chance.choice(self._payloads)
        late = chance.choice(_LATE_SECONDS + _LATE_BY_DAYS_SECONDS * (self._world.topic.empty_hours == "skip"))
        played_at = self._world.now - timedelta(seconds=chance.uniform(0, late))
        if self._published and chance.random() < 0.15:
            return self._event_of_a_used_id(played_at, chance)
        return self._new_event(f"e{len(self._payloads):04d}", played_at, chance)

    def _event_of_a_used_id(self, played_at: datetime, chance: random.Random) -> bytes:
        """Another event, as its time is another: in the same hour as the first, or in any."""
        event_id, first = chance.choice(self._published[-6:])
        if chance.random() < 0.5:
            in_its_hour = hours.start_of(hours.hour_of(first)) + timedelta(seconds=chance.uniform(0, 3599))
            played_at = min(in_its_hour, self._world.now)
        return self._new_event(event_id, played_at, chance)

    def _new_event(self, event_id: str, played_at: datetime, chance: random.Random) -> bytes:
        event = {"event_id": event_id, "played_at": played_at.isoformat(), "n": chance.randrange(100)}
        self._published.append((event_id, played_at))
        self._payloads.append(json.dumps(event).encode())
        return self._payloads[-1]
