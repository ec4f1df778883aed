"""What landing asks of a broker, be it a queue (messages are leased, and acknowledged) or a log (offsets, read again).

A `Reading` is what one slot has of it: pages, until a bound is reached or nothing comes; then the broker may forget
them, or has them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from lakehouse.clock import Clock
from lakehouse.config import Ingest
from lakehouse.errors import SourceError
from lakehouse.progress import LogRead, Positions, ReadFrom
from lakehouse.sources import Source
from lakehouse.topics import Topic

if TYPE_CHECKING:  # Spark is needed to read for a lake, not to look at a message
    from lakehouse.landing.slots import Slot

Key = tuple[str, int]
"""Topic and slot."""


HOLD = timedelta(seconds=60)
"""How long what is leased for a slot is extended after the slot was given up: a slow store takes it by then, and of one
that never answers all comes again."""
LONGEST_CALL = timedelta(seconds=30)
"""Of a request to extend, end or acknowledge leases; then it counts as unanswered."""
LONGEST_HOLD = HOLD + LONGEST_CALL
"""After it no lease of such a slot is extended any more, as the last request may take so long."""


class Page(Protocol):
    """Messages as one answer brought them, in columns `DELIVERED`."""

    @property
    def messages(self) -> pa.RecordBatch: ...

    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True)
class Refused:
    """How many messages the broker would not forget (or keep back), and its words; 0 when it took all."""

    messages: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Bounds:
    """Of one part: `messages` at most, of `page_messages` a page; of bytes, what `bytes_left` says then.

    `ends` is when to read no more, by the steady clock; `wait` is in seconds: after so long without a message nothing
    comes.
    """

    messages: int
    page_messages: int
    bytes_left: Callable[[], int]
    ends: float
    wait: float


@dataclass(frozen=True)
class Ended:
    """How the reading of a part ended; times are as in `FACTS`. `goes_on`: in another part, when this one is durable.

    `drained_at` is the instant before which all that was published has been read; `read` is what was read of a log.
    """

    drained_at: datetime | None = None
    unanswered_at: datetime | None = None
    full: bool = False
    goes_on: bool = False
    read: LogRead | None = None


@dataclass(frozen=True)
class Idle:
    """There is nothing for the slot, as of `drained_at`; None where the broker did not say so.

    `read` is of a log: how far it is known that nothing comes.
    """

    drained_at: datetime | None
    unanswered_at: datetime | None = None
    read: LogRead | None = None


@dataclass(frozen=True)
class Wanted:
    """A slot that is to be read, with its topic. Once it `is_given_up`, its messages are not kept leased any longer."""

    topic: Topic
    slot: Slot
    is_given_up: Callable[[], bool] = field(default=lambda: False, compare=False)

    @property
    def of(self) -> tuple[str, str]:
        """Whose it is, for logs: topic, and epoch and slot."""
        return self.topic.name, f"{self.slot.epoch}-{self.slot.slot}"


class Reading(Protocol):
    """One part of a slot: its pages, and what becomes of them. For one thread at a time."""

    def pages(self, bounds: Bounds) -> Iterator[Page]:
        """Once. SourceError when the source cannot be read."""

    def ended(self) -> Ended:
        """When all pages were taken."""

    def forget(self) -> Refused:
        """The messages are durable, and the manifest is: the broker need not keep them."""

    def give_back(self) -> None:
        """Nothing of them is durable: somebody else is to have them."""

    def close(self) -> None:
        """Hold nothing any more; what was neither forgotten nor given back comes again by itself."""


class Broker(Protocol):
    """One kind of broker. Values of the topic's file say which, and where."""

    @property
    def is_log(self) -> bool:
        """Whether it has positions, which bronze keeps; else it knows by itself what was read."""

    def lease(self, topic: Topic, ingest: Ingest, patience: timedelta | None = None) -> timedelta:
        """How long a message is kept back for who has read it; zero for a log.

        SourceError when the source cannot be read, after `patience` where nothing answers.
        """

    def start(self, topic: Topic, ingest: Ingest, known: ReadFrom | None = None) -> Positions | None:
        """Where a log is read from that was never read, as the topic's file says; None for a queue.

        Given where it was read from, where it goes on of which messages are lost: there, or as early as it can.
        """

    def readings(
        self, wanted: Mapping[Key, Wanted], ingest: Ingest, clock: Clock, page_messages: int
    ) -> Iterator[tuple[Key, Reading | Idle | SourceError]]:
        """What there is for each slot, as it becomes known; all are asked at the same time."""

    def reading(self, wanted: Wanted, ingest: Ingest, clock: Clock) -> Reading:
        """Of one slot, whose source is asked with its first page."""

    def peek(self, source: Source, ingest: Ingest, most: int, seconds: float) -> pa.RecordBatch:
        """Up to so many messages that wait there, of which none is taken away, in columns `DELIVERED`.

        SourceError when there is none, or none comes for so many seconds.
        """
