"""Faults that record what a broker was called for."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import grpc

from lakehouse.sandbox.faults import Faults


class Recorded(Faults):
    """Refuses the next calls of some methods, tells of every call, and says when a lease was extended."""

    def __init__(self, **refusals: Iterable[grpc.StatusCode]) -> None:
        self._refusals = {method: list(codes) for method, codes in refusals.items()}
        self.calls: list[str] = []
        self.extended = threading.Semaphore(0)

    def refused(self, method: str) -> grpc.StatusCode | None:
        self.calls.append(method)
        codes = self._refusals.get(method)
        return codes.pop(0) if codes else None

    def answer_lost(self, method: str) -> grpc.StatusCode | None:
        if method == "ModifyAckDeadline":
            self.extended.release()
        return None
