"""What one subscription owes its pullers: messages that are ready, leased, and not yet acknowledged."""

from __future__ import annotations

import heapq
import itertools
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

PAGE_MESSAGES = 1000
PAGE_BYTES = 3_500_000
"""What one reply carries at most, unless its only message is bigger.

With PUBSUB_EMULATOR_HOST the client libraries make a channel that receives no more than gRPC's default of 4 MiB.
"""

ACK_ID_LENGTH = 212
"""Characters, as the service's ids are since August 2026: https://github.com/googleapis/google-cloud-go/issues/20391."""
_FILLING = "."

_POLL_SECONDS = 0.05
"""How soon a waiting puller sees that the clock has moved or its caller is gone: nobody notifies it of either."""


class Refusal(Exception):
    """The gRPC status and text with which a call is answered."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


class Message(NamedTuple):
    """A published message; `proto` is shared by all subscriptions and never changed."""

    number: int
    proto: Any
    size_bytes: int
    published: float
    key: str


@dataclass(frozen=True)
class Clocks:
    """What gives seconds since 1970, for leases and for publish times: a day that is replayed goes on in leaps."""

    leases: Callable[[], float]
    publishing: Callable[[], float]


class Numbers:
    """Numbers that no two messages and no two leases of a broker share."""

    def __init__(self) -> None:
        self._lock, self._next = threading.Lock(), 1

    def take(self, count: int) -> range:
        with self._lock:
            taken = range(self._next, self._next + count)
            self._next = taken.stop
        return taken


class Flow:
    """How many messages and bytes one puller may hold, and holds; 0 or less means any number."""

    def __init__(self, messages: int = 0, size_bytes: int = 0) -> None:
        self._messages = messages if messages > 0 else float("inf")
        self._bytes = size_bytes if size_bytes > 0 else float("inf")
        self._held = self._held_bytes = 0

    def room(self) -> int:
        """Messages that may still be handed out; the bytes only stop a puller that already holds them."""
        return int(min(PAGE_MESSAGES, self._messages - self._held)) if self._held_bytes < self._bytes else 0

    def hold(self, messages: int, size_bytes: int) -> None:
        self._held += messages
        self._held_bytes += size_bytes


class _Lease(NamedTuple):
    message: Message
    deadline: float
    flow: Flow


class _Lane:
    """The messages of one ordering key; only one batch of them is out at a time.

    Google's documentation, "Order messages", promises that what comes again brings all later messages of its key again,
    in their order and also those that were acknowledged, which must then be acknowledged again; and it does not promise
    that later ones come before the earlier are acknowledged. The strictest reading of that is modelled. What it says of
    streams (messages of a key go to one of them) does not show where one batch is out.
    """

    def __init__(self) -> None:
        self.waiting: deque[Message] = deque()
        self.out = 0
        self._acknowledged: list[Message] = []
        self._again_from: int | None = None

    def next(self) -> Message:
        self.out += 1
        return self.waiting.popleft()

    def wait_again(self, message: Message) -> list[Message]:
        """It is delivered again, and so are these, which had been acknowledged."""
        insort(self.waiting, message, key=lambda waiting: waiting.number)
        self._again_from = min(message.number, self._again_from or message.number)
        later = [each for each in self._acknowledged if each.number > message.number]
        self._acknowledged = [each for each in self._acknowledged if each.number < message.number]
        for each in later:
            insort(self.waiting, each, key=lambda waiting: waiting.number)
        return later

    def acknowledge(self, message: Message) -> bool:
        """Whether that is the end of it: not where an earlier one is delivered again."""
        if self._again_from is not None and message.number > self._again_from:
            self.wait_again(message)
            return False
        self._acknowledged.append(message)
        return True

    def settle(self) -> None:
        """One that was out is not any more; after the last one a new batch begins."""
        self.out -= 1
        if not self.out:
            self._acknowledged, self._again_from = [], None


class Subscription:
    """Hands out messages under leases with deadlines, until each is acknowledged once.

    A lease that has run out is worth nothing, even if its message was not handed out again: the strictest
    reading of the service's promise. Whatever is done, it costs time by the messages it touches, not by the backlog.
    """

    def __init__(self, settings: Any, numbers: Numbers, clocks: Clocks, ack_id_length: int) -> None:
        self.name: str = settings.name
        self._ack_id_length = ack_id_length
        self.settings = settings
        self.deleted = False
        self._numbers, self._clock, self._publish_clock = numbers, clocks.leases, clocks.publishing
        self._changed = threading.Condition()
        self._unacked: dict[int, Message] = {}
        self._ready: deque[Message | _Lane] = deque()
        self._lanes: dict[str, _Lane] = {}
        self._leases: dict[int, _Lease] = {}
        self._deadlines: list[tuple[float, int, Sequence[int]]] = []
        self._delayed: list[tuple[float, int, Message]] = []
        self._scheduled: list[tuple[float, int, Message]] = []
        self._ties = itertools.count()

    def offer(self, messages: Iterable[Message], arrivals: Iterable[tuple[float, Message]]) -> None:
        """Owes `messages` from now on; they become ready as `arrivals` (seconds from now, message) says.

        A message whose publish time is still to come is ready when it has come.
        """
        now, today = self._clock(), self._publish_clock()
        with self._changed:
            self._unacked.update((message.number, message) for message in messages)
            for delay, message in arrivals:
                if message.published > today:
                    heapq.heappush(self._scheduled, (message.published, next(self._ties), message))
                elif delay > 0:
                    heapq.heappush(self._delayed, (now + delay, next(self._ties), message))
                else:
                    self._make_ready(message)
            self._changed.notify_all()

    def pull(self, flow: Flow, seconds: float, give_up: Callable[[], bool]) -> list[tuple[str, Message]]:
        """Ack ids and messages, leased for `seconds`; waits for the first one until `give_up` says so."""
        with self._changed:
            while not (leased := self._lease(flow, seconds)) and not self.deleted and not give_up():
                self._changed.wait(_POLL_SECONDS)
            if self.deleted:
                raise Refusal(grpc.StatusCode.NOT_FOUND, "Subscription does not exist")
            return leased

    def acknowledge(self, ack_ids: Iterable[str]) -> None:
        numbers = self._lease_numbers(ack_ids)
        with self._changed:
            self._catch_up()
            for message in (lease.message for lease in self._ended_leases(numbers)):
                if not self._in_lane(message) or self._lanes[message.key].acknowledge(message):
                    self._unacked.pop(message.number, None)
                self._settle(message)
            self._changed.notify_all()

    def give_back(self, ack_ids: Iterable[str]) -> None:
        numbers = self._lease_numbers(ack_ids)
        with self._changed:
            self._catch_up()
            self._return(self._ended_leases(numbers))
            self._changed.notify_all()

    def extend(self, ack_ids: Iterable[str], seconds: float) -> None:
        """Moves the deadlines to `seconds` from now, be that later or earlier."""
        numbers = self._lease_numbers(ack_ids)
        with self._changed:
            self._catch_up()
            deadline = self._clock() + seconds
            live = [number for number in numbers if number in self._leases]
            self._leases.update((number, self._leases[number]._replace(deadline=deadline)) for number in live)
            self._watch(deadline, live)

    def update(self, settings: Any) -> None:
        with self._changed:
            self.settings = settings

    def delete(self) -> None:
        with self._changed:
            self.deleted = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def unacked(self) -> list[str]:
        """Ids of the messages not yet acknowledged, in the order in which they were sent."""
        with self._changed:
            return [str(number) for number in self._unacked]

    def backlog(self) -> int:
        """Messages not yet acknowledged whose publish time has come."""
        with self._changed:
            return len(self._unacked) - sum(at > self._publish_clock() for at, _, _ in self._scheduled)

    def oldest_publish_time(self) -> float | None:
        with self._changed:
            today = self._publish_clock()
            return min((each.published for each in self._unacked.values() if each.published <= today), default=None)

    def _lease(self, flow: Flow, seconds: float) -> list[tuple[str, Message]]:
        self._catch_up()
        taken = self._next_messages(flow.room())
        numbers, deadline = self._numbers.take(len(taken)), self._clock() + seconds
        self._leases.update((n, _Lease(message, deadline, flow)) for n, message in zip(numbers, taken, strict=True))
        self._watch(deadline, numbers)
        flow.hold(len(taken), sum(message.size_bytes for message in taken))
        return [(self._ack_id(n), message) for n, message in zip(numbers, taken, strict=True)]

    def _ack_id(self, number: int) -> str:
        return f"{self.name}:{number}".ljust(self._ack_id_length, _FILLING)

    def _next_messages(self, limit: int) -> list[Message]:
        taken: list[Message] = []
        left_bytes = PAGE_BYTES
        while self._ready and len(taken) < limit:
            head = self._ready[0]
            left_bytes -= (head.waiting[0] if isinstance(head, _Lane) else head).size_bytes
            if left_bytes < 0 and taken:
                break
            taken.append(head.next() if isinstance(head, _Lane) else head)
            if not (isinstance(head, _Lane) and head.waiting):
                self._ready.popleft()
        self._withdraw_lane_in_use()
        return taken

    def _withdraw_lane_in_use(self) -> None:
        head = self._ready[0] if self._ready else None
        if isinstance(head, _Lane) and head.out:
            self._ready.popleft()

    def _catch_up(self) -> None:
        """Makes ready what is published by now, has been delayed long enough, or leased for too long."""
        now, today = self._clock(), self._publish_clock()
        while self._scheduled and self._scheduled[0][0] <= today:
            self._make_ready(heapq.heappop(self._scheduled)[2])
        while self._delayed and self._delayed[0][0] <= now:
            self._make_ready(heapq.heappop(self._delayed)[2])
        while self._deadlines and self._deadlines[0][0] <= now:
            numbers = heapq.heappop(self._deadlines)[2]
            self._return(
                self._ended_leases([n for n in numbers if n in self._leases and self._leases[n].deadline <= now])
            )

    def _watch(self, deadline: float, numbers: Sequence[int]) -> None:
        if numbers:
            heapq.heappush(self._deadlines, (deadline, next(self._ties), numbers))

    def _ended_leases(self, numbers: Iterable[int]) -> list[_Lease]:
        ended = [lease for number in numbers if (lease := self._leases.pop(number, None))]
        for lease in ended:
            lease.flow.hold(-1, -lease.message.size_bytes)
        return ended

    def _return(self, ended: Iterable[_Lease]) -> None:
        """Makes ready again what is still owed: another delivery of a message may have been acknowledged."""
        owed_again: list[Message] = []
        for message in (lease.message for lease in ended):
            owed = message.number in self._unacked
            if self._in_lane(message):
                if owed:
                    owed_again += self._lanes[message.key].wait_again(message)
                self._settle(message)
            elif owed:
                self._ready.append(message)
        if owed_again:
            self._unacked.update((message.number, message) for message in owed_again)
            self._unacked = dict(sorted(self._unacked.items()))

    def _make_ready(self, message: Message) -> None:
        if not self._in_lane(message):
            self._ready.append(message)
            return
        lane = self._lanes.setdefault(message.key, _Lane())
        if not lane.out and not lane.waiting:
            self._ready.append(lane)
        lane.waiting.append(message)

    def _settle(self, message: Message) -> None:
        if not self._in_lane(message):
            return
        lane = self._lanes[message.key]
        lane.settle()
        if not lane.out and lane.waiting:
            self._ready.append(lane)
        elif not lane.out:
            del self._lanes[message.key]

    def _in_lane(self, message: Message) -> bool:
        return bool(message.key) and bool(self.settings.enable_message_ordering)

    def _lease_numbers(self, ack_ids: Iterable[str]) -> list[int]:
        prefix = f"{self.name}:"
        return [_number(ack_id, prefix) for ack_id in ack_ids]


def _number(ack_id: str, prefix: str) -> int:
    digits = ack_id.removeprefix(prefix).rstrip(_FILLING)
    if not ack_id.startswith(prefix) or not digits.isdecimal():
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid ack id (ack_id={ack_id})")
    return int(digits)
