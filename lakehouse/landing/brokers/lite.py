"""Pub/Sub Lite: what there is of a subscription's topic, and the cursors by which others watch lag.

Raw gRPC with Google's own messages. Nothing is read by committed cursors, and the service's partition assignment is not
used: slots share the partitions.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import grpc

from lakehouse.clock import Clock
from lakehouse.errors import SourceError, UnansweredError
from lakehouse.landing.brokers.channel import STREAMS, authorized_channel, open_channel, status_text
from lakehouse.landing.brokers.lite_calls import Calls, answers
from lakehouse.landing.brokers.lite_stream import LiteStream, is_passing
from lakehouse.landing.brokers.log_client import (
    ANSWER_SECONDS,
    EARLIEST,
    LATEST,
    NO_MESSAGE,
    Offsets,
    ReadRequest,
    TopicFacts,
)
from lakehouse.landing.brokers.losses import another_log
from lakehouse.landing.brokers.partitions import LogBroker
from lakehouse.progress import ReadFrom
from lakehouse.sources import LiteSource

log = logging.getLogger(__name__)

COMMIT_EVERY_SECONDS = 30.0
"""Between two commits of a partition's cursor: each counts as an administrator's write, of which a region has 600 a
minute ("Quotas and limits" in the service's documentation)."""
KNOWN_SECONDS = 60.0
"""How long it is believed which topic a subscription has; each question is an administrator's read, 600 a minute."""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_FINER = timedelta(milliseconds=1)
"""Than this no two publish times are compared: ours are cut off at the microsecond."""
_PLACE = "https://www.googleapis.com/auth/cloud-platform"


class LiteClient:
    """One process's connections to a region, for several threads."""

    splits = False

    def __init__(self, target: str, subject: str) -> None:
        """`subject` is the subscription that an error about credentials names."""
        self._target, self._subject = target, subject
        self._lock = threading.Lock()
        self._channels: list[tuple[grpc.Channel, set[object]]] = []
        self._topics: dict[str, tuple[str, float]] = {}
        self._stored: dict[tuple[str, int], tuple[int, float]] = {}
        self._questions = self._channel_for(object())
        self._calls = Calls(self._questions, ANSWER_SECONDS)

    # --- questions -------------------------------------------------------------------------------------------------

    def topics(
        self, sources: Iterable[LiteSource], seconds: float = ANSWER_SECONDS
    ) -> dict[str, TopicFacts | SourceError]:
        by_name = {source.log_name: source for source in sources}
        found: dict[str, TopicFacts | SourceError] = {}
        at, calls = time.monotonic(), Calls(self._questions, seconds)
        with self._lock:
            known = {name for name, (_, until) in self._topics.items() if until > at}
        asked = answers({name: calls.subscription(name) for name in by_name if name not in known}, STREAMS)
        for name, answer in asked.items():
            try:
                topic = _topic_of(by_name[name], answer)
                with self._lock:
                    self._topics[name] = topic, at + KNOWN_SECONDS
            except Exception as error:
                found[name] = self.error_of(by_name[name], error)
        names = {name: self._topics[name][0] for name in by_name if name not in found}
        for name, answer in answers({n: calls.partitions(topic) for n, topic in names.items()}, STREAMS).items():
            if isinstance(answer, grpc.RpcError):
                found[name] = self.error_of(by_name[name], answer)
            else:
                found[name] = TopicFacts(names[name], answer.partition_count)
        return found

    def offsets(self, wanted: Mapping[str, Collection[int]], spec: str | datetime) -> Offsets:
        places = [(name, number) for name, numbers in wanted.items() for number in numbers]
        if spec == LATEST:
            return self._heads(places)
        since = _BEGINNING if spec == EARLIEST else spec
        assert isinstance(since, datetime)
        found = self._first_since(places, since)
        empty = [place for place, offset in found.items() if offset == NO_MESSAGE and spec == EARLIEST]
        if empty:  # one that comes between the two answers is not to be passed over
            heads = self._heads(empty)
            found |= {place: heads[place] if at == NO_MESSAGE else at
                      for place, at in self._first_since(empty, since).items()}  # fmt: skip
        return found

    def is_same(self, source: LiteSource, known: ReadFrom) -> bool:
        """Lite's topics have no ids. What bronze has of one was published up to `since`: where the first message after
        that comes before the position, or the log ends before it, it is another log.
        """
        name = source.log_name
        places = [(name, number) for number, (at, _) in known.offsets.items() if at]
        if known.since is None or not places:
            return True
        later = self._first_since(places, known.since + _FINER)
        for (_, number), offset in [*later.items(), *self._heads(places).items()]:
            if isinstance(offset, Exception):
                raise self.error_of(source, offset)
            if offset != NO_MESSAGE and offset < known.offsets[number][0]:
                return False
        return True

    def message_count(self, name: str, partition: int, start: int, end: int) -> int:
        """Of those that are still there. RpcError."""
        return int(self._calls.stats(self._topic(name), partition, start, end)().result().message_count)

    def first_offset(self, name: str, partition: int) -> int:
        """Of the oldest message there is; after the last where there is none. RpcError."""
        offset = self.offsets({name: [partition]}, EARLIEST)[name, partition]
        if isinstance(offset, Exception):
            raise offset
        return offset

    # --- cursors ---------------------------------------------------------------------------------------------------

    def store(self, positions: Mapping[tuple[str, str], Mapping[int, int]]) -> None:
        at = time.monotonic()
        for (_, name), offsets in positions.items():
            for number, offset in offsets.items():
                stored, since = self._stored.get((name, number), (0, -COMMIT_EVERY_SECONDS))
                if offset != stored and at - since >= COMMIT_EVERY_SECONDS:
                    self._stored[name, number] = offset, at
                    future = self._calls.commit(name, number, offset)()
                    future.add_done_callback(partial(self._note_stored, name, number))

    def _note_stored(self, name: str, number: int, future: Any) -> None:
        error = future.exception()
        if error is not None:
            _, since = self._stored.get((name, number), (0, 0.0))
            self._stored[name, number] = 0, since  # the same once more, when it is time for the next
            log.warning("pubsublite: subscription=%s partition=%d cursor=not committed error=%s", name, number,
                        error.code().name)  # fmt: skip

    # --- messages --------------------------------------------------------------------------------------------------

    @contextmanager
    def stream(self, request: ReadRequest, clock: Clock) -> Iterator[LiteStream]:
        known = ReadFrom(request.log, {number: (at, at) for number, at in request.starts.items()}, request.since)
        if not self.is_same(request.source, known):
            found = f"{self._topic(request.source.log_name)} has messages that are newer than what was read before them"
            raise another_log(request.source, found, "the topic that was read before", request.since)
        owner = object()
        stream = LiteStream(self, request, Calls(self._channel_for(owner), ANSWER_SECONDS))
        try:
            yield stream
        finally:
            stream.close()
            with self._lock:
                for _, owners in self._channels:
                    owners.discard(owner)

    def error_of(self, source: LiteSource, error: Any) -> SourceError:
        """In our words; UnansweredError for what may pass."""
        if isinstance(error, SourceError):
            return error
        found, next_step = _fatal(error)
        is_answer = isinstance(error, grpc.RpcError)
        text = status_text(error) if is_answer else f"{type(error).__name__}: {error}"
        kind = UnansweredError if found is None else SourceError
        return kind(
            source.address,
            found=f"Pub/Sub Lite at {self._target} {text}" if found is None else f"{found} ({text})",
            expected=f"a subscription that can be read from Pub/Sub Lite at {self._target}",
            next_step=next_step,
        )

    def _heads(self, places: Iterable[tuple[str, int]]) -> Offsets:
        found = answers({place: self._calls.head(self._topic(place[0]), place[1]) for place in places}, STREAMS)
        return {
            place: each if isinstance(each, Exception) else each.head_cursor.offset for place, each in found.items()
        }

    def _first_since(self, places: Iterable[tuple[str, int]], since: datetime) -> Offsets:
        asks = {place: self._calls.first_since(self._topic(place[0]), place[1], since) for place in places}
        return {place: _offset_in(each) for place, each in answers(asks, STREAMS).items()}

    def _topic(self, name: str) -> str:
        with self._lock:
            return self._topics[name][0]

    def _channel_for(self, owner: object) -> grpc.Channel:
        """One that has room for a slot's streams; the first is for questions."""
        with self._lock:
            for channel, owners in self._channels[1:]:
                if len(owners) < STREAMS // LiteStream.SIDE_BY_SIDE:
                    owners.add(owner)
                    return channel
            plain = self._target.removeprefix("http://")
            channel = open_channel(plain) if plain != self._target else _authorized(self._target, self._subject)
            self._channels.append((channel, {owner}))
            return channel


class Lite(LogBroker):
    """The broker of kind `pubsublite`."""

    def __init__(self) -> None:
        super().__init__(client_of)


def client_of(source: LiteSource) -> LiteClient:
    """This process's. SourceError when there are no credentials."""
    target = source.endpoint or f"{source.region}-pubsublite.googleapis.com"
    if not target.rpartition(":")[2].isdecimal():
        target += ":443"
    return _client(os.getpid(), target, source.subscription.split("/")[1])


@lru_cache(maxsize=64)
def _client(process: int, target: str, project: str) -> LiteClient:
    return LiteClient(target, f"projects/{project}")


def _authorized(target: str, subject: str) -> grpc.Channel:
    return authorized_channel(
        target,
        subject,
        scope=_PLACE,
        otherwise="an `endpoint` with http:// in the topic's `source`",
        next_step="Run `gcloud auth application-default login`.",
    )


def _topic_of(source: LiteSource, answer: Any) -> str:
    """RpcError, and SourceError for a subscription that is not for readers."""
    if isinstance(answer, grpc.RpcError):
        raise answer
    if answer.HasField("export_config"):
        raise SourceError(
            source.address,
            found="an export subscription, which the service reads by itself",
            expected="a subscription of its own for ingest",
            next_step="Create one: gcloud pubsub lite-subscriptions create.",
        )
    return str(answer.topic)


def _offset_in(answer: Any) -> int | Exception:
    if isinstance(answer, Exception):
        return answer
    return int(answer.cursor.offset) if answer.HasField("cursor") else NO_MESSAGE


def _fatal(error: Any) -> tuple[str | None, str]:
    """(what was found, what to do); None for what may pass."""
    code = error.code() if isinstance(error, grpc.RpcError) else None
    if code is None or is_passing(error):
        is_quota = code == grpc.StatusCode.RESOURCE_EXHAUSTED
        more = "Raise the region's quota of this request, or `ingest.trigger`." if is_quota else ""
        return None, more or "Check that the service can be reached from here."
    return {
        grpc.StatusCode.NOT_FOUND: ("no such subscription or topic", "Create it, or fix `source.subscription`."),
        grpc.StatusCode.PERMISSION_DENIED: (
            "no permission",
            "Grant this account roles/pubsublite.subscriber and roles/pubsublite.viewer.",
        ),
        grpc.StatusCode.UNAUTHENTICATED: ("no valid credentials", "Run `gcloud auth application-default login`."),
    }.get(code, ("a refused request", "Fix `source` in the topic's file."))
