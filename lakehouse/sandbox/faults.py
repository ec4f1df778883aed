"""What can go wrong between a client and the broker."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import grpc

from lakehouse.sandbox.subscriptions import Message

CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
)
MAX_ACK_REQUEST_BYTES = 512 * 1024
"""The service's, https://cloud.google.com/pubsub/quotas#resource_limits."""
METHODS = frozenset({"Publish", "Pull", "StreamingPull", "Acknowledge", "ModifyAckDeadline", "ListTimeSeries"})


class Faults:
    """Fair weather; a subclass overrides what shall go wrong. Called from many threads.

    Methods are named as in the protocol, without their service: `Pull`, `Acknowledge`.
    """

    def refused(self, method: str) -> grpc.StatusCode | None:
        """The answer to a call that then has no effect."""
        return None

    def answer_lost(self, method: str) -> grpc.StatusCode | None:
        """The answer to a call that has had its effect all the same; a stream has no such answer."""
        return None

    def arrivals(self, messages: Sequence[Message]) -> Sequence[tuple[float, Message]]:
        """When (in seconds from now), in which order and how often a subscription's new messages become ready.

        A message left out is lost for good, which the real service never does.
        """
        return [(0.0, message) for message in messages]

    def lease_seconds(self, seconds: float) -> float:
        """How long a lease of `seconds` really holds."""
        return seconds

    def most_bytes(self, method: str) -> int:
        """The largest request that Acknowledge and ModifyAckDeadline take."""
        return MAX_ACK_REQUEST_BYTES

    def ack_dropped(self, ack_id: str) -> bool:
        """Whether an acknowledgement is confirmed and forgotten."""
        return False


class RandomFaults(Faults):
    """Each fault with its own rate from 0 to 1; the same seed and the same order of calls give the same faults."""

    def __init__(
        self,
        seed: int,
        *,
        refused: float = 0.0,
        answer_lost: float = 0.0,
        duplicated: float = 0.0,
        reordered: float = 0.0,
        delayed: float = 0.0,
        ack_dropped: float = 0.0,
        lease_cut: float = 0.0,
        longest_delay: timedelta = timedelta(seconds=5),
        codes: Sequence[grpc.StatusCode] = CODES,
        methods: frozenset[str] = METHODS,
    ) -> None:
        self._random = random.Random(seed)
        self._refused, self._answer_lost, self._duplicated = refused, answer_lost, duplicated
        self._reordered, self._delayed, self._ack_dropped, self._lease_cut = reordered, delayed, ack_dropped, lease_cut
        self._longest_delay, self._codes, self._methods = longest_delay, codes, methods

    def refused(self, method: str) -> grpc.StatusCode | None:
        return self._code(method, self._refused)

    def answer_lost(self, method: str) -> grpc.StatusCode | None:
        return self._code(method, self._answer_lost)

    def arrivals(self, messages: Sequence[Message]) -> Sequence[tuple[float, Message]]:
        deliveries = [message for message in messages for _ in range(1 + self._happens(self._duplicated))]
        if self._happens(self._reordered):
            self._random.shuffle(deliveries)
        return [(self._delay(), message) for message in deliveries]

    def lease_seconds(self, seconds: float) -> float:
        return seconds * self._random.random() if self._happens(self._lease_cut) else seconds

    def ack_dropped(self, ack_id: str) -> bool:
        return self._happens(self._ack_dropped)

    def _code(self, method: str, rate: float) -> grpc.StatusCode | None:
        return self._random.choice(self._codes) if method in self._methods and self._happens(rate) else None

    def _delay(self) -> float:
        longest = self._longest_delay.total_seconds()
        return self._random.uniform(0.0, longest) if self._happens(self._delayed) else 0.0

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._random.random() < rate
