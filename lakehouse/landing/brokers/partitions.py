"""Kafka as landing reads it: each slot has some partitions of its topic, and reads a range of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, TopicPartition

from lakehouse import hours
from lakehouse.clock import Clock, now
from lakehouse.config import Ingest
from lakehouse.errors import ACCEPT_LOSS, LakehouseError, LostMessagesError, SourceError, UnansweredError
from lakehouse.landing.brokers.contract import Bounds, Ended, Idle, Key, Page, Reading, Refused, Wanted
from lakehouse.landing.brokers.kafka import (
    ANSWER_SECONDS,
    EARLIEST,
    LATEST,
    OUT_OF_RANGE,
    Cluster,
    TopicFacts,
    cluster_of,
)
from lakehouse.landing.brokers.kafka_messages import LogPage, page_of
from lakehouse.progress import LogRead, Positions, Range, ReadFrom
from lakehouse.topics import KafkaSource, Source, Topic

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
"""That a consumer waits for a page to be full."""
_SILENCE_SECONDS = 10.0
"""Without a message or the end of a partition: nobody answers any more."""


def _source(topic: Topic) -> KafkaSource:
    assert isinstance(topic.reads, KafkaSource)
    return topic.reads


class Kafka:
    """The broker of kind `kafka`."""

    is_log = True

    def lease(self, topic: Topic, ingest: Ingest, patience: timedelta | None = None) -> timedelta:
        """Zero: nobody else is kept from reading. Whether the topic can be read is asked all the same."""
        _facts_of(_source(topic), (patience or timedelta(seconds=ANSWER_SECONDS)).total_seconds())
        return timedelta(0)

    def start(self, topic: Topic, ingest: Ingest, known: Positions | None = None) -> Positions | None:
        source = _source(topic)
        facts = _facts_of(source, ANSWER_SECONDS)
        if known is None:
            spec = source.start if source.start in (EARLIEST, LATEST) else hours.start_of(source.start)
            return Positions(facts.log, _offsets_of(source, facts, spec))
        first, last = _offsets_of(source, facts, EARLIEST), _offsets_of(source, facts, LATEST)
        before = known.offsets if facts.log == known.log else {}
        offsets = {number: before.get(number, 0) for number in first}
        return Positions(
            facts.log,
            {number: at if first[number] <= at <= last[number] else first[number] for number, at in offsets.items()},
        )

    def readings(
        self, wanted: Mapping[Key, Wanted], ingest: Ingest, clock: Clock, page_messages: int
    ) -> Iterator[tuple[Key, Reading | Idle | SourceError]]:
        """Those whose partitions have something, as far as their heads say; one request for all slots of a cluster."""
        clusters: dict[Cluster, dict[Key, Wanted]] = {}
        for key, each in wanted.items():
            try:
                clusters.setdefault(cluster_of(_source(each.topic)), {})[key] = each
            except LakehouseError as wrong:
                yield key, SourceError(wrong.subject, found=wrong.found, expected=wrong.expected,
                                       next_step=wrong.next_step)  # fmt: skip
        with ThreadPoolExecutor(max(1, len(clusters))) as askers:  # one that is silent holds up no other
            asked = [askers.submit(_answers, cluster, slots, clock) for cluster, slots in clusters.items()]
            for done in as_completed(asked):
                yield from done.result().items()

    def reading(self, wanted: Wanted, ingest: Ingest, clock: Clock) -> Reading:
        return _Unasked(self, wanted, ingest, clock)

    def peek(self, source: Source, ingest: Ingest, most: int, seconds: float) -> pa.RecordBatch:
        """The first ones that are there."""
        assert isinstance(source, KafkaSource)
        facts = _facts_of(source, ANSWER_SECONDS)
        first, last = _offsets_of(source, facts, EARLIEST), _offsets_of(source, facts, LATEST)
        ranges = [Range(number, first[number], first[number], last[number]) for number in first]
        share = _Share(source, LogRead(facts.log, now(), facts.partitions, tuple(ranges)), {})
        reading = LogReading(cluster_of(source), share, now)
        ends = time.monotonic() + seconds
        pages = [page.messages for page in reading.pages(Bounds(most, most, lambda: 1, ends, seconds))]
        if not pages:
            raise SourceError(
                source.address,
                found=f"no message within {seconds:.0f} seconds",
                expected="messages that wait",
                next_step="Publish some.",
            )
        return pa.Table.from_batches(pages).combine_chunks().to_batches()[0]


@dataclass(frozen=True)
class _Share:
    """What a slot is to read: `read` with ranges whose ends are their starts yet, and `seek` where a start is known to
    be followed by nothing up to there."""

    source: KafkaSource
    read: LogRead
    seek: Mapping[int, int] = field(default_factory=dict)

    def position(self, each: Range) -> int:
        return max(each.start, self.seek.get(each.partition, 0))

    @property
    def is_drained(self) -> bool:
        return all(self.position(each) >= each.head for each in self.read.ranges)


class LogReading:
    """One slot's ranges: up to the heads that were sampled, or to a bound. Nothing is ever kept back for it."""

    def __init__(self, cluster: Cluster, share: _Share, clock: Clock) -> None:
        self._cluster, self._share, self._clock = cluster, share, clock
        self._heads = {each.partition: each.head for each in share.read.ranges}
        self._positions = {each.partition: share.position(each) for each in share.read.ranges}
        self._waiting = {number for number, at in self._positions.items() if at < self._heads[number]}
        self._is_full = False
        self._silent_at: datetime | None = None

    def pages(self, bounds: Bounds) -> Iterator[Page]:
        """Until each partition is at the head that it had, or at its end where what follows is not committed yet."""
        if not self._waiting:
            return
        left, heard = bounds.messages, time.monotonic()
        with self._cluster.consumer(self._share.source.group) as consumer:
            consumer.assign([self._place(number, self._positions[number]) for number in sorted(self._waiting)])
            while self._waiting:
                if left <= 0 or bounds.bytes_left() <= 0 or time.monotonic() >= bounds.ends:
                    self._is_full = True
                    return
                page, is_answered = self._next(consumer, min(bounds.page_messages, left))
                if is_answered:
                    heard = time.monotonic()
                elif time.monotonic() > heard + _SILENCE_SECONDS:
                    self._silence(is_empty=left == bounds.messages)
                    return
                if page is not None:
                    left -= len(page.messages)
                    yield page

    def ended(self) -> Ended:
        """Drained as of the sample, where all that there was then is read."""
        is_drained = all(at >= self._heads[number] for number, at in self._positions.items())
        sampled_at = self._share.read.sampled_at if is_drained else None
        return Ended(sampled_at, self._silent_at, self._is_full, read=self._share.read.up_to(self._positions))

    def forget(self) -> Refused:
        """The broker forgets by its own retention, whoever has read."""
        return Refused()

    def give_back(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _place(self, number: int, offset: int) -> TopicPartition:
        return TopicPartition(self._share.source.topic, number, offset)

    def _next(self, consumer: Consumer, messages: int) -> tuple[LogPage | None, bool]:
        """(a page, if messages came; whether anything did)."""
        got: list[Any] = consumer.consume(messages, _POLL_SECONDS)
        good = []
        for each in got:
            error = each.error()
            if error is None:
                good.append(each)
                self._positions[each.partition()] = each.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                number = int(each.partition())
                self._positions[number] = max(self._positions[number], each.offset())
                self._waiting.discard(number)
            else:
                self._fail(each, error)
        self._waiting = {number for number in self._waiting if self._positions[number] < self._heads[number]}
        return (page_of(good, self._clock()) if good else None), bool(got)

    def _fail(self, message: Any, error: KafkaError) -> None:
        """Raises what ends the reading; what librdkafka tries again by itself is waited for."""
        source = self._share.source
        if error.code() in OUT_OF_RANGE:
            number = message.partition()
            raise _gone(source, {number: (self._positions[number], None)}, None)
        known = self._cluster.error_of(source, error)
        if not isinstance(known, UnansweredError):
            raise known

    def _silence(self, *, is_empty: bool) -> None:
        self._silent_at = self._clock()
        if is_empty:
            raise self._cluster.error_of(self._share.source, TimeoutError(f"silent for {_SILENCE_SECONDS:.0f} seconds"))


class _Unasked:
    """A reading whose topic is asked when its first page is wanted."""

    def __init__(self, broker: Kafka, wanted: Wanted, ingest: Ingest, clock: Clock) -> None:
        self._broker, self._wanted, self._ingest, self._clock = broker, wanted, ingest, clock
        self._found: Reading | Idle | None = None

    def pages(self, bounds: Bounds) -> Iterator[Page]:
        key = self._wanted.topic.name, self._wanted.slot.slot
        ((_, found),) = self._broker.readings({key: self._wanted}, self._ingest, self._clock, bounds.page_messages)
        if isinstance(found, SourceError):
            raise found
        self._found = found
        if not isinstance(found, Idle):
            yield from found.pages(bounds)

    def ended(self) -> Ended:
        found = self._found
        assert found is not None
        if isinstance(found, Idle):
            return Ended(found.drained_at, found.unanswered_at, read=found.read)
        return found.ended()

    def forget(self) -> Refused:
        return Refused()

    def give_back(self) -> None:
        pass

    def close(self) -> None:
        pass


# --- what there is for each slot -----------------------------------------------------------------------------------


def _answers(cluster: Cluster, wanted: Mapping[Key, Wanted], clock: Clock) -> dict[Key, Reading | Idle | SourceError]:
    sampled_at = clock()
    sources = {key: _source(each.topic) for key, each in wanted.items()}
    try:
        topics = cluster.topics(sources.values())
        mine = {key: _partitions(topics, sources[key], each.slot) for key, each in wanted.items()}
        heads = cluster.offsets(_by_topic(sources, mine), LATEST)
    except Exception as error:
        return {key: cluster.error_of(source, error) for key, source in sources.items()}
    shares = {key: _share(cluster, wanted[key], topics, mine[key], heads, sampled_at) for key in wanted}
    busy = {
        key: [each.partition for each in share.read.ranges if share.position(each) < each.head]
        for key, share in shares.items()
        if isinstance(share, _Share)
    }
    cluster.store(_starts(shares.values()))
    first = cluster.offsets(_by_topic(sources, busy), EARLIEST) if any(busy.values()) else {}
    return {
        key: share if isinstance(share, SourceError) else _answer(cluster, wanted[key], share, first, clock)
        for key, share in shares.items()
    }


def _answer(
    cluster: Cluster, wanted: Wanted, share: _Share, first: Mapping[tuple[str, int], int | Exception], clock: Clock
) -> Reading | Idle | SourceError:
    source, since = share.source, wanted.slot.read_from.since if wanted.slot.read_from else None
    gone: dict[int, tuple[int, int | None]] = {}
    for each in share.read.ranges:
        begin, at = first.get((source.topic, each.partition)), share.position(each)
        if isinstance(begin, Exception):
            return cluster.error_of(source, begin)
        if at > each.head:
            gone[each.partition] = at, None
        elif begin is not None and at < begin:
            gone[each.partition] = at, begin
    if gone:
        return _gone(source, gone, since)
    if share.is_drained:
        return Idle(
            share.read.sampled_at,
            read=share.read.up_to({each.partition: share.position(each) for each in share.read.ranges}),
        )
    return LogReading(cluster, share, clock)


def _share(
    cluster: Cluster,
    wanted: Wanted,
    topics: Mapping[str, TopicFacts | SourceError],
    mine: Sequence[int],
    heads: Mapping[tuple[str, int], int | Exception],
    sampled_at: datetime,
) -> _Share | SourceError:
    source, facts, read_from = _source(wanted.topic), topics[_source(wanted.topic).topic], wanted.slot.read_from
    if isinstance(facts, SourceError):
        return facts
    if read_from is None:
        return UnansweredError(
            source.address, found="a slot that says nothing of where it begins", expected="a topic that was claimed",
            next_step="It is tried again by itself.",
        )  # fmt: skip
    if read_from.log != facts.log:
        return _another(source, read_from, facts)
    ranges, seek = [], {}
    for number in mine:
        head = heads[source.topic, number]
        if isinstance(head, Exception):
            return cluster.error_of(source, head)
        start, seek[number] = read_from.offsets.get(number, (0, 0))
        ranges.append(Range(number, start, start, head))
    return _Share(source, LogRead(facts.log, sampled_at, facts.partitions, tuple(ranges)), seek)


def _starts(shares: Iterable[_Share | SourceError]) -> dict[tuple[str, str], dict[int, int]]:
    """Where the slots begin, by group and topic: bronze has what is before."""
    found: dict[tuple[str, str], dict[int, int]] = {}
    for share in shares:
        if isinstance(share, _Share):
            starts = {each.partition: each.start for each in share.read.ranges}
            found.setdefault((share.source.group, share.source.topic), {}).update(starts)
    return found


def _partitions(topics: Mapping[str, TopicFacts | SourceError], source: KafkaSource, slot: Any) -> list[int]:
    """Those of the slot: every one is in exactly one of an epoch's slots, however many there are of either."""
    facts = topics[source.topic]
    if isinstance(facts, SourceError):
        return []
    return [number for number in range(facts.partitions) if number % slot.of == slot.slot]


def _by_topic(sources: Mapping[Key, KafkaSource], numbers: Mapping[Key, Sequence[int]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for key, each in numbers.items():
        found.setdefault(sources[key].topic, set()).update(each)
    return {name: each for name, each in found.items() if each}


def _facts_of(source: KafkaSource, seconds: float) -> TopicFacts:
    cluster = cluster_of(source)
    try:
        facts = cluster.topics([source], seconds)[source.topic]
    except Exception as error:
        raise cluster.error_of(source, error) from error
    if isinstance(facts, SourceError):
        raise facts
    return facts


def _offsets_of(source: KafkaSource, facts: TopicFacts, spec: str | datetime) -> dict[int, int]:
    cluster = cluster_of(source)
    found: dict[int, int] = {}
    places: dict[tuple[str, int], int | Exception] = cluster.offsets({source.topic: range(facts.partitions)}, spec)
    late = {number for (_, number), offset in places.items() if offset == -1}  # no message is as late as the instant
    if late:
        places |= cluster.offsets({source.topic: late}, LATEST)
    for (_, number), offset in places.items():
        if isinstance(offset, Exception):
            raise cluster.error_of(source, offset) from offset
        found[number] = offset
    return found


# --- losses --------------------------------------------------------------------------------------------------------


def _gone(source: KafkaSource, gone: Mapping[int, tuple[int, int | None]], since: datetime | None) -> LostMessagesError:
    """`gone` has for each partition where we are, and where its log begins now; None where it ends before us."""
    counts = [begin - at for at, begin in gone.values() if begin is not None]
    places = ", ".join(
        f"{number}: {at} to {begin - 1}" if begin is not None else f"{number}: from {at} on"
        for number, (at, begin) in sorted(gone.items())
    )
    many = f"up to {sum(counts):,} messages" if len(counts) == len(gone) else "an unknown number of messages"
    when = f", published after {hours.instant_text(since)}" if since else ""
    return LostMessagesError(
        source.address,
        found=f"{many} gone{when} (offsets of partition {places})",
        expected="messages to stay until they are read",
        next_step=f"Let the topic keep them for longer; {ACCEPT_LOSS} goes on with what is there.",
    )


def _another(source: KafkaSource, read_from: ReadFrom, facts: TopicFacts) -> LostMessagesError:
    when = f" after {hours.instant_text(read_from.since)}" if read_from.since else ""
    return LostMessagesError(
        source.address,
        found=f"another topic of that name: its id is {facts.log}; what the former one had{when} is gone",
        expected=f"the topic with the id {read_from.log}",
        next_step=f"If it was created again, {ACCEPT_LOSS} reads it from its begin.",
    )
