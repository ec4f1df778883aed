"""What landing asks of a log's client, be it Kafka's or Pub/Sub Lite's: partitions, offsets, and streams of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from lakehouse.clock import Clock
from lakehouse.errors import SourceError
from lakehouse.landing.brokers.contract import Bounds
from lakehouse.landing.brokers.log_messages import LogPage
from lakehouse.progress import ReadFrom

ANSWER_SECONDS = 5.0
"""For an answer about topics and offsets; a bundle's other slots wait with it."""
LATEST, EARLIEST = "latest", "earliest"
NO_MESSAGE = -1
"""The offset at an instant where no message is as late."""

Offsets = dict[tuple[str, int], int | Exception]
"""By the log's name and partition."""


@dataclass(frozen=True)
class TopicFacts:
    """What the broker says of a topic. `log` is the id of this very one, or its name where there are no ids."""

    log: str
    partitions: int


@dataclass(frozen=True)
class Advance:
    """What a stream brought: messages, how far partitions are read now, and which of them have ended for now."""

    page: LogPage | None = None
    positions: Mapping[int, int] | None = None
    ended: Collection[int] = ()


@dataclass(frozen=True)
class ReadRequest:
    """What a stream is to read: each partition from `starts` up to `heads` at least, and never from `stops` on.

    `since` is when the newest message was published of those that were read before.
    """

    source: Any
    log: str
    starts: Mapping[int, int]
    heads: Mapping[int, int]
    stops: Mapping[int, int]
    since: datetime | None = None


class Stream(Protocol):
    def next(self, bounds: Bounds, messages: int) -> Advance | None:
        """What comes within a short while, `messages` at most; None when nothing did. SourceError."""

    @property
    def problem(self) -> Any:
        """The last failure that may pass, None without any."""


class LogClient(Protocol):
    """One process's way to a broker, for several threads. Logs go by the `log_name` of their sources."""

    @property
    def splits(self) -> bool:
        """Whether several may read a partition at the same time."""

    def topics(self, sources: Iterable[Any], seconds: float = ...) -> dict[str, TopicFacts | SourceError]:
        """What there is of each."""

    def offsets(self, wanted: Mapping[str, Collection[int]], spec: str | datetime) -> Offsets:
        """The offset of each partition: after its last message; of its first; or at an instant.

        At an instant: of the first message with a time no earlier, else `NO_MESSAGE`.
        """

    def is_same(self, source: Any, known: ReadFrom) -> bool:
        """Whether the log of that name is the one that was read up to there. SourceError when nobody answers."""

    def store(self, positions: Mapping[tuple[str, str], Mapping[int, int]]) -> None:
        """Say how far groups have come in logs, for the lag tools of others; nothing waits for it."""

    def stream(self, request: ReadRequest, clock: Clock) -> AbstractContextManager[Stream]:
        """Messages from there on. LostMessagesError when they are gone."""

    def error_of(self, source: Any, error: Any) -> SourceError:
        """In our words; UnansweredError for what may pass."""
