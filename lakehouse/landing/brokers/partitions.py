"""A log as landing reads it: each slot has some partitions of its topic, and reads a range of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from lakehouse import hours
from lakehouse.clock import Clock, now
from lakehouse.config import Ingest
from lakehouse.errors import LakehouseError, SourceError, UnansweredError
from lakehouse.landing.brokers.contract import Bounds, Ended, Idle, Key, Page, Reading, Refused, Wanted
from lakehouse.landing.brokers.log_client import (
    ANSWER_SECONDS,
    EARLIEST,
    LATEST,
    NO_MESSAGE,
    LogClient,
    Offsets,
    ReadRequest,
    Stream,
    TopicFacts,
)
from lakehouse.landing.brokers.losses import another_log, lost_messages
from lakehouse.progress import LogRead, Positions, Range, ReadFrom, log_name, next_log
from lakehouse.sources import LogSource, Source
from lakehouse.topics import Topic

if TYPE_CHECKING:  # as in the contract
    from lakehouse.landing.slots import Slot

_SILENCE_SECONDS = 10.0
"""Without a message or the end of a partition: nobody answers any more."""


def _source(topic: Topic) -> LogSource:
    return cast(LogSource, topic.reads)


class LogBroker:
    """A broker that is a log. `client_of` gives this process's client of a source; ConfigError where it cannot."""

    is_log = True

    def __init__(self, client_of: Callable[[Any], LogClient]) -> None:
        self._client_of = client_of

    def lease(self, topic: Topic, ingest: Ingest, patience: timedelta | None = None) -> timedelta:
        """Zero: nobody else is kept from reading. Whether the topic can be read is asked all the same."""
        seconds = (patience or timedelta(seconds=ANSWER_SECONDS)).total_seconds()
        _facts_of(self._client_of(_source(topic)), _source(topic), seconds)
        return timedelta(0)

    def start(self, topic: Topic, ingest: Ingest, known: ReadFrom | None = None) -> Positions | None:
        source = _source(topic)
        client = self._client_of(source)
        facts = _facts_of(client, source, ANSWER_SECONDS)
        if known is None:
            spec = source.start if source.start in (EARLIEST, LATEST) else hours.start_of(source.start)
            return Positions(facts.log, _offsets_of(client, source, facts, spec), source.address)
        is_same = log_name(known.log) == facts.log and client.is_same(source, known)
        first = _offsets_of(client, source, facts, EARLIEST)
        last = _offsets_of(client, source, facts, LATEST)
        offsets = {number: known.offsets.get(number, (0, 0))[0] if is_same else 0 for number in first}
        return Positions(
            known.log if is_same else next_log(known.log, facts.log),
            {number: at if first[number] <= at <= last[number] else first[number] for number, at in offsets.items()},
            source.address,
        )

    def readings(
        self, wanted: Mapping[Key, Wanted], ingest: Ingest, clock: Clock, page_messages: int
    ) -> Iterator[tuple[Key, Reading | Idle | SourceError]]:
        """Those whose partitions have something, as far as their heads say; one request for all slots of a client."""
        clients: dict[LogClient, dict[Key, Wanted]] = {}
        for key, each in wanted.items():
            try:
                clients.setdefault(self._client_of(_source(each.topic)), {})[key] = each
            except LakehouseError as wrong:
                yield key, SourceError(wrong.subject, found=wrong.found, expected=wrong.expected,
                                       next_step=wrong.next_step)  # fmt: skip
        with ThreadPoolExecutor(max(1, len(clients))) as askers:  # one that is silent holds up no other
            asked = [askers.submit(_answers, client, slots, clock) for client, slots in clients.items()]
            for done in as_completed(asked):
                yield from done.result().items()

    def reading(self, wanted: Wanted, ingest: Ingest, clock: Clock) -> Reading:
        return _LazyReading(self, wanted, ingest, clock)

    def peek(self, source: Source, ingest: Ingest, most: int, seconds: float) -> pa.RecordBatch:
        """The oldest ones that are there; of a source that starts at the latest, the newest. No offset is stored."""
        source = cast(LogSource, source)
        client = self._client_of(source)
        facts = _facts_of(client, source, ANSWER_SECONDS)
        first = _offsets_of(client, source, facts, EARLIEST)
        last = _offsets_of(client, source, facts, LATEST)
        if source.start == LATEST:
            of_each = -(-most // max(len(first), 1))
            first = {number: max(offset, last[number] - of_each) for number, offset in first.items()}
        ranges = [Range(number, first[number], first[number], last[number]) for number in first]
        share = _Share(source, LogRead(facts.log, now(), facts.partitions, tuple(ranges)), {})
        reading = LogReading(client, share, now)
        ends = time.monotonic() + seconds
        pages = [page.messages for page in reading.pages(Bounds(most, most, lambda: 1, ends, seconds))]
        if not pages:
            raise SourceError(
                source.address,
                found="no message that can be read",
                expected="messages that are there",
                next_step="Publish some.",
            )
        return pa.Table.from_batches(pages).combine_chunks().to_batches()[0]


@dataclass(frozen=True)
class _Share:
    """What a slot is to read.

    `read` has ranges whose ends are their starts yet; `seek` is where a start is known to be followed by nothing up to
    there. What comes from `stops` on is another slot's; of the partitions in `behind`, so is what comes before.
    """

    source: LogSource
    read: LogRead
    seek: Mapping[int, int] = field(default_factory=dict)
    stops: Mapping[int, int] = field(default_factory=dict)
    behind: frozenset[int] = frozenset()
    since: datetime | None = None

    def position(self, each: Range) -> int:
        return max(each.start, self.seek.get(each.partition, 0))

    def until(self, each: Range) -> int:
        """Where nothing is left for this slot."""
        return min(each.head, self.stops.get(each.partition, each.head))

    def is_first(self, each: Range) -> bool:
        """Whether it begins at the partition's position, and not where another slot ends."""
        return each.partition not in self.behind

    @property
    def is_empty(self) -> bool:
        return all(self.position(each) >= self.until(each) for each in self.read.ranges)


class LogReading:
    """One slot's ranges: up to the heads that were sampled, or to a bound. Nothing is ever kept back for it."""

    def __init__(self, client: LogClient, share: _Share, clock: Clock) -> None:
        self._client, self._share, self._clock = client, share, clock
        self._until = {each.partition: share.until(each) for each in share.read.ranges}
        self._positions = {each.partition: share.position(each) for each in share.read.ranges}
        self._waiting = {number for number, at in self._positions.items() if at < self._until[number]}
        self._is_full = False
        self._silent_at: datetime | None = None

    def pages(self, bounds: Bounds) -> Iterator[Page]:
        """Until each partition is at the head that it had, or at its end where what follows is not committed yet."""
        if not self._waiting:
            return
        left, heard = bounds.messages, time.monotonic()
        with self._client.stream(self._request(), self._clock) as stream:
            while self._waiting:
                if left <= 0 or bounds.bytes_left() <= 0 or time.monotonic() >= bounds.ends:
                    self._is_full = True
                    return
                advance = stream.next(bounds, left)
                if advance is None:
                    if time.monotonic() > heard + _SILENCE_SECONDS:
                        self._silence(stream, is_empty=left == bounds.messages)
                        return
                    continue
                heard = time.monotonic()
                self._positions |= advance.positions or {}
                self._waiting -= set(advance.ended)
                self._waiting = {number for number in self._waiting if self._positions[number] < self._until[number]}
                if advance.page is not None:
                    left -= len(advance.page.messages)
                    yield advance.page

    def ended(self) -> Ended:
        """Drained as of the sample, where all that there was then is read; full where another slot goes on."""
        ranges = self._share.read.ranges
        is_drained = all(self._positions[each.partition] >= each.head for each in ranges)
        stops = [each for each in ranges if self._until[each.partition] < each.head]
        is_full = self._is_full or any(self._positions[each.partition] >= self._until[each.partition] for each in stops)
        sampled_at = self._share.read.sampled_at if is_drained else None
        return Ended(sampled_at, self._silent_at, is_full, read=self._share.read.up_to(self._positions))

    def forget(self) -> Refused:
        """The broker forgets by its own retention, whoever has read."""
        return Refused()

    def give_back(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _request(self) -> ReadRequest:
        share = self._share
        starts = {number: self._positions[number] for number in sorted(self._waiting)}
        heads = {number: self._until[number] for number in starts}
        return ReadRequest(share.source, share.read.log, starts, heads, share.stops, share.since)

    def _silence(self, stream: Stream, *, is_empty: bool) -> None:
        self._silent_at = self._clock()
        if is_empty:
            problem = stream.problem or TimeoutError(f"silent for {_SILENCE_SECONDS:.0f} seconds")
            raise self._client.error_of(self._share.source, problem)


class _LazyReading:
    """A reading whose topic is asked when its first page is wanted."""

    def __init__(self, broker: LogBroker, wanted: Wanted, ingest: Ingest, clock: Clock) -> None:
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


def _answers(client: LogClient, wanted: Mapping[Key, Wanted], clock: Clock) -> dict[Key, Reading | Idle | SourceError]:
    sampled_at = clock()
    sources = {key: _source(each.topic) for key, each in wanted.items()}
    try:
        topics = client.topics(sources.values())
        mine = {key: _parts(topics, sources[key], each.slot, client.splits) for key, each in wanted.items()}
        heads = client.offsets(_by_log(sources, mine), LATEST)
    except Exception as error:
        return {key: client.error_of(source, error) for key, source in sources.items()}
    shares = {key: _share(client, wanted[key], topics, mine[key], heads, sampled_at) for key in wanted}
    busy = {
        key: [each.partition for each in share.read.ranges if share.position(each) < each.head]
        for key, share in shares.items()
        if isinstance(share, _Share)
    }
    client.store(_starts(shares.values()))
    first = client.offsets(_by_log(sources, busy), EARLIEST) if any(busy.values()) else {}
    return {
        key: share if isinstance(share, SourceError) else _answer(client, share, first, clock)
        for key, share in shares.items()
    }


def _answer(client: LogClient, share: _Share, first: Offsets, clock: Clock) -> Reading | Idle | SourceError:
    source = share.source
    lost: dict[int, tuple[int, int | None]] = {}
    for each in share.read.ranges:
        begin, at = first.get((source.log_name, each.partition)), share.position(each)
        if isinstance(begin, Exception):
            return client.error_of(source, begin)
        if at > each.head and share.is_first(each):
            lost[each.partition] = at, None
        elif begin is not None and at < begin:
            lost[each.partition] = at, begin
    if lost:
        return lost_messages(source, lost, share.since)
    if share.is_empty:
        return Idle(
            share.read.sampled_at,
            read=share.read.up_to({each.partition: share.position(each) for each in share.read.ranges}),
        )
    return LogReading(client, share, clock)


def _share(
    client: LogClient,
    wanted: Wanted,
    topics: Mapping[str, TopicFacts | SourceError],
    mine: Mapping[int, tuple[int, bool]],
    heads: Offsets,
    sampled_at: datetime,
) -> _Share | SourceError:
    source, read_from = _source(wanted.topic), wanted.slot.read_from
    facts = topics[source.log_name]
    if isinstance(facts, SourceError):
        return facts
    if read_from is None:
        return UnansweredError(
            source.address, found="a slot that says nothing of where it begins", expected="a topic that was claimed",
            next_step="It is tried again by itself.",
        )  # fmt: skip
    if log_name(read_from.log) != facts.log:
        expected = f"the topic with the id {log_name(read_from.log)}"
        return another_log(source, f"its id is {facts.log}", expected, read_from.since)
    ranges, seek, stops, stride = [], {}, {}, read_from.stride or _WHOLE
    for number, (place, is_last) in mine.items():
        head = heads[source.log_name, number]
        if isinstance(head, Exception):
            return client.error_of(source, head)
        position, seek[number] = read_from.offsets.get(number, (0, 0))
        begin = max(position, seek[number])
        start = begin + place * stride if place else position
        if not is_last:
            stops[number] = begin + (place + 1) * stride
        ranges.append(Range(number, start, start, head))
    read = LogRead(read_from.log, sampled_at, facts.partitions, tuple(ranges))
    behind = frozenset(number for number, (place, _) in mine.items() if place)
    return _Share(source, read, seek, stops, behind, read_from.since)


def _starts(shares: Iterable[_Share | SourceError]) -> dict[tuple[str, str], dict[int, int]]:
    """Where the slots begin, by group and log: bronze has what is before."""
    found: dict[tuple[str, str], dict[int, int]] = {}
    for share in shares:
        if isinstance(share, _Share):
            starts = {each.partition: each.start for each in share.read.ranges if share.is_first(each)}
            found.setdefault((share.source.group, share.source.log_name), {}).update(starts)
    return found


_WHOLE = 2**62
"""As a stride: there is but one range."""


def _parts(
    topics: Mapping[str, TopicFacts | SourceError], source: LogSource, slot: Slot, splits: bool
) -> dict[int, tuple[int, bool]]:
    """The slot's partitions, of each which of its ranges, and whether that is the last.

    Every partition is in one of an epoch's slots at least. Where there are more slots, and the log can be read so, they
    read ranges of a partition that follow on each other; they need not agree on anything for that but where it begins.
    """
    facts, number = topics[source.log_name], slot.slot
    if isinstance(facts, SourceError):
        return {}
    count = facts.partitions
    is_split = splits and slot.of > count and slot.read_from is not None and slot.read_from.stride is not None
    if not is_split:
        return {each: (0, True) for each in range(count) if each % slot.of == number}
    return {number % count: (number // count, number + count >= slot.of)}


def _by_log(sources: Mapping[Key, LogSource], numbers: Mapping[Key, Collection[int]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for key, each in numbers.items():
        found.setdefault(sources[key].log_name, set()).update(each)
    return {name: each for name, each in found.items() if each}


def _facts_of(client: LogClient, source: LogSource, seconds: float) -> TopicFacts:
    try:
        facts = client.topics([source], seconds)[source.log_name]
    except Exception as error:
        raise client.error_of(source, error) from error
    if isinstance(facts, SourceError):
        raise facts
    return facts


def _offsets_of(client: LogClient, source: LogSource, facts: TopicFacts, spec: str | datetime) -> dict[int, int]:
    """At an instant: where no message is as late, after the last that there was before it was asked."""
    name, numbers = source.log_name, range(facts.partitions)
    last = client.offsets({name: numbers}, LATEST) if isinstance(spec, datetime) else {}
    found: dict[int, int] = {}
    for (_, number), offset in client.offsets({name: numbers}, spec).items():
        offset = last[name, number] if offset == NO_MESSAGE else offset
        if isinstance(offset, Exception):
            raise client.error_of(source, offset) from offset
        found[number] = offset
    return found
