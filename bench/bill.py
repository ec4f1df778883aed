"""What Google bills for a lake's requests and its logs: list prices of one region's Standard storage, in dollars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.servers.object_store import Request

CLASS_A, CLASS_B = 5.0e-6, 0.4e-6
"""An insert or a list; a read. Deletions are free. cloud.google.com/storage/pricing, November 2026."""
GIGABYTE_MONTH = 0.020

_KIND_A, _KIND_B = {"insert", "list", "other"}, {"get", "stat"}
HOURS_A_MONTH, TRIGGERS_A_MONTH = 720, 259_200
"""Of 30 days; a trigger every 10 seconds."""


@dataclass(frozen=True)
class Bill:
    """Requests of each class; `*` and `+` give those of more."""

    a: float
    b: float

    @classmethod
    def of(cls, requests: Iterable[Request], times: int = 1) -> Bill:
        """Of one time, where the requests are those of so many."""
        kinds = [request.kind for request in requests]
        return cls(sum(kind in _KIND_A for kind in kinds) / times, sum(kind in _KIND_B for kind in kinds) / times)

    @property
    def dollars(self) -> float:
        return self.a * CLASS_A + self.b * CLASS_B

    def __mul__(self, times: float) -> Bill:
        return Bill(self.a * times, self.b * times)

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.a + other.a, self.b + other.b)


def a_month(topics: int, trigger: Bill, idle_trigger: Bill, hour: Bill) -> Bill:
    """Of topics at a trigger every 10 s, half of them idle, whose hours are each of 360 small files."""
    busy = trigger * TRIGGERS_A_MONTH + hour * HOURS_A_MONTH
    return busy * (topics / 2) + idle_trigger * (TRIGGERS_A_MONTH * topics / 2)
