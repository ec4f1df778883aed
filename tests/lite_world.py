"""The crash kit's world with a fake of Pub/Sub Lite in the place of Pub/Sub."""

from __future__ import annotations

from contextlib import nullcontext

import grpc
from fake_lite import FakeLite
from log_world import PARTITIONS, LogWorld

from lakehouse.config import Config
from lakehouse.decode.events import decode
from lakehouse.landing.pull import Puller
from lakehouse.sources import LiteSource, LogSource

_LOCATION = "projects/7/locations/europe-west1-b"


class LiteWorld(LogWorld):
    """Refused calls and lost answers are those of all methods of the fake, and streams that break."""

    def __init__(self, config: Config, fake: FakeLite) -> None:
        self._fake = fake
        super().__init__(config)
        fake.clock = lambda: self.now
        fake.fault = self._fault

    def source(self, log: str) -> LogSource:
        subscription = f"{_LOCATION}/subscriptions/{log}"
        self._fake.create(f"{_LOCATION}/topics/{log}", PARTITIONS, subscription)
        return LiteSource(subscription=subscription, endpoint=self._fake.endpoint)

    def send(self, log: str, partition: int, payload: bytes) -> None:
        self._fake.publish(f"{_LOCATION}/topics/{log}", payload, partition=partition)

    def puller(self) -> Puller:
        return Puller(clock=lambda: self.now, quarantine=lambda: nullcontext(decode))

    def _fault(self, method: str) -> grpc.StatusCode | None:
        faults = self.broker.faults
        return faults.answer_lost("Pull") if method == "MessageResponse" else faults.refused("Pull")
