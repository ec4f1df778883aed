"""The frontier: the publish time before which everything published has been consumed, as far as anybody knows."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Protocol

from lakehouse import hours
from lakehouse.durations import brief, duration_text
from lakehouse.errors import in_one_line
from lakehouse.landing.brokers.contract import LONGEST_HOLD
from lakehouse.progress import Frontier, LogRead
from lakehouse.store.files import Storage

EMULATOR = "MONITORING_EMULATOR_HOST"
"""`host:port` of a server that stands in for Cloud Monitoring, such as the sandbox's broker."""
_ROUNDED_DOWN = timedelta(seconds=1)
"""Ages are whole seconds: the oldest message may be almost one older."""
LARGEST_STEP = timedelta(minutes=2)
"""By which two clocks may differ, or one may be set, without a word: NTP steps by less once a machine runs."""
_KEPT_SAMPLES = 1_000
"""Of heads: what is further behind has no frontier."""
UNACKED_AGE = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"


class FrontierSource(Protocol):
    """What knows up to which publish time a subscription is consumed: Cloud Monitoring, or that it was drained."""

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        """The frontier after an epoch with these facts (columns `FACTS`)."""


def seconds_since_boot() -> float:
    """Of a clock that nobody sets, and that goes on while the machine sleeps where the system has such a one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ClockCheck:
    """Whether the machine's clock can be believed: it must begin with the store's and go on as the steady clock does.

    Where it is not, it is believed when it is back, or when a message arrives that the broker published at such a time:
    then it was wrong before. `store_ahead` is by how much the store's clock is ahead of this machine's.

    `was_set`: when it was last asked, the clock had not gone on as the steady one. What was to happen at an instant of
    the clock before happens at another.
    """

    was_set = False

    def __init__(self, steady: Callable[[], float] = seconds_since_boot, store_ahead: timedelta = timedelta(0)) -> None:
        self._steady, self._store_ahead = steady, store_ahead
        self._believed: tuple[datetime, float] | None = None

    def problem(self, now: datetime, newest_publish_time: datetime | None) -> str | None:
        """What is wrong with `now`, in a sentence; None when it can be believed."""
        steady = self._steady()
        if self._believed is None:
            self._believed = hours.instant_after(now, self._store_ahead), steady
        since, then = self._believed
        expected = since + timedelta(seconds=steady - then)
        jump = now - expected
        self.was_set = abs(jump) > LARGEST_STEP
        is_confirmed = newest_publish_time is not None and abs(now - newest_publish_time) <= LARGEST_STEP
        if is_confirmed or not self.was_set:
            self._believed = now, steady
        if newest_publish_time is not None and newest_publish_time - now > LARGEST_STEP:
            return f"this machine's clock is {_whole(newest_publish_time - now)} behind the broker's"
        if is_confirmed or not self.was_set:
            return None
        is_ahead = jump > timedelta(0)
        if abs(self._store_ahead) > LARGEST_STEP:
            return f"this machine's clock is {_whole(abs(jump))} {'ahead of' if is_ahead else 'behind'} the store's"
        return f"this machine's clock jumped {'ahead' if is_ahead else 'back'} by {_whole(abs(jump))}"


def store_ahead(ledger: Storage, version: int, clock: Callable[[], datetime]) -> timedelta:
    """By how much the store's clock is ahead of `clock`, by the row that was just written; 0 on local disks.

    `version` is the ledger's since then: nothing older is listed.
    """
    since = f"{version:020d}"
    written = [stored.modified_at for stored in ledger.listing("_delta_log", since)] if ledger.has_clock else []
    return max(written) - clock() if written else timedelta(0)


class DrainedFrontier:
    """Where there is no Cloud Monitoring: a slot that asked and got nothing shows that nothing waits.

    Messages that a dead attempt had leased do not wait, they come back when their lease ends. So a drained slot counts
    only when for one ack deadline before it no attempt can have died, neither an earlier run's nor a retried task's,
    and every pull was answered: what a lost answer brought is leased, too.

    All of it is by the machines' clocks. While the driver's cannot be believed (`ClockCheck`) there is no frontier, and
    a slot whose clock is ahead of the driver's does not count. Once it is believed again, or was set, nobody knows when
    the leases of before end: none is longer than `LONGEST_HOLD` and an ack deadline.
    """

    def __init__(
        self, ack_deadline: timedelta, max_age: timedelta, trusted_from: datetime, clock_check: ClockCheck | None = None
    ) -> None:
        self._ack_deadline, self._max_age = ack_deadline, max_age
        self._trusted_from = trusted_from
        self._clock_check = clock_check or ClockCheck()
        self._frontier: datetime | None = None
        self._has_leases = self._was_set = False

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        slots = list(facts)
        published = [slot["max_publish_time"] for slot in slots if slot.get("max_publish_time")]
        unanswered = [slot["unanswered_at"] for slot in slots if slot.get("unanswered_at")]
        self._has_leases |= any(slot["attempt"] for slot in slots)
        problem = self._clock_check.problem(now, max(published, default=None))
        self._was_set |= problem is not None or self._clock_check.was_set
        if problem is not None:
            return Frontier(None, None, problem, "clock")
        if self._was_set:
            self._trusted_from = now + LONGEST_HOLD + self._ack_deadline
        elif self._has_leases:
            self._trusted_from = max(self._trusted_from, now + self._ack_deadline)
        self._has_leases = self._was_set = False
        if unanswered:
            held_until = min(max(unanswered), now + LONGEST_HOLD)  # by a slot's clock, which may be ahead
            self._trusted_from = max(self._trusted_from, held_until + self._ack_deadline)
        drained = [slot["dry_at"] for slot in slots]
        if drained and None not in drained and self._trusted_from <= min(drained) <= now + LARGEST_STEP:
            self._frontier = max(self._frontier or min(drained), min(drained))
        return self._present_frontier(now)

    def _present_frontier(self, now: datetime) -> Frontier:
        if self._frontier is not None:
            return fresh(Frontier(self._frontier, self._frontier, "the subscription was drained"), now, self._max_age)
        if now < self._trusted_from:
            text = f"until {self._trusted_from:%H:%M:%S} messages that an earlier attempt leased may come back"
            return Frontier(None, None, text, "leases")
        return Frontier(None, None, "the subscription was not drained yet", "not drained")


class PositionFrontier:
    """Of a log: where all positions are at or past the heads that were sampled at s, everything before s is consumed.

    `reached` gives the positions by partition, those of the batch that is under way included.
    """

    def __init__(
        self, reached: Callable[[], Mapping[int, int]], max_age: timedelta, clock_check: ClockCheck | None = None
    ) -> None:
        self._reached, self._max_age, self._clock_check = reached, max_age, clock_check or ClockCheck()
        self._samples: deque[tuple[datetime, Mapping[int, int]]] = deque(maxlen=_KEPT_SAMPLES)

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        rows = list(facts)
        self._sample([LogRead.from_text(row["read"]) for row in rows if row.get("read")])
        published = [row["max_publish_time"] for row in rows if row.get("max_publish_time")]
        problem = self._clock_check.problem(now, max(published, default=None))
        if problem is not None:
            return Frontier(None, None, problem, "clock")
        if not self._samples:
            return Frontier(None, None, "not all partitions were asked yet for their heads", "no sample")
        reached, newest = self._reached(), self._samples[-1][0]
        at = max((at for at, heads in self._samples if _has_reached(reached, heads) and at <= now + LARGEST_STEP),
                 default=None)  # fmt: skip
        if at is None:
            return Frontier(None, newest, "the topic was not read up to any head yet", "behind")
        return fresh(Frontier(at, newest, "all partitions were read up to their heads"), now, self._max_age)

    def _sample(self, reads: Sequence[LogRead]) -> None:
        """One of all partitions together, as old as its oldest part; one with the same heads as before replaces it."""
        heads = {each.partition: each.head for read in reads for each in read.ranges}
        partitions = max((read.partitions for read in reads), default=0)
        if not partitions or len(heads) < partitions or len({read.log for read in reads}) > 1:
            return
        if self._samples and self._samples[-1][1] == heads:
            self._samples.pop()
        self._samples.append((min(read.sampled_at for read in reads), heads))


def _has_reached(reached: Mapping[int, int], heads: Mapping[int, int]) -> bool:
    return all(reached.get(number, 0) >= head for number, head in heads.items())


class MonitoringFrontier:
    """From Cloud Monitoring: a sample of age a taken at s says that everything published before s - a is consumed."""

    def __init__(
        self,
        subscription: str,
        client: Any,
        max_age: timedelta,
        *,
        ask_every: timedelta,
        samples: ProjectSamples | None = None,
    ) -> None:
        """`samples` are those of the whole project, where several topics ask for theirs together."""
        _, project, _, self._subscription = subscription.split("/")
        self._max_age = max_age
        self._samples = samples or ProjectSamples(
            project, client, max_age, ask_every=ask_every, only=self._subscription
        )

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        return fresh(self._samples.newest(self._subscription, now), now, self._max_age)


class ProjectSamples:
    """The newest sample of each subscription of a project, asked for at most every `ask_every`, in one request for all.

    Of `only` one subscription where that is given. For several threads, none of which waits for another's request.
    """

    def __init__(
        self, project: str, client: Any, max_age: timedelta, *, ask_every: timedelta, only: str | None = None
    ) -> None:
        self._project, self._client, self._max_age, self._ask_every = project, client, max_age, ask_every
        self._only = only
        self._lock = threading.Lock()
        self._asked_at: datetime | None = None
        self._found: dict[str, Frontier] = {}
        self._other = Frontier(None, None, "Cloud Monitoring was not asked yet", "not asked")

    def newest(self, subscription: str, now: datetime) -> Frontier:
        """Of the last answer; of a new one, where it is time for that and nobody else is asking."""
        if self._lock.acquire(blocking=False):
            try:
                if self._asked_at is None or now - self._asked_at >= self._ask_every:
                    self._asked_at = now
                    self._ask(now)
            finally:
                self._lock.release()
        return self._found.get(subscription, self._other)

    def _ask(self, now: datetime) -> None:
        from google.api_core.exceptions import GoogleAPICallError, RetryError

        try:
            points: dict[str, list[Any]] = {}
            for series in self._series(now):
                points.setdefault(series.resource.labels["subscription_id"], []).extend(series.points)
            found = {name: _frontier_of(each) for name, each in points.items() if each}
            text = "Cloud Monitoring has no sample of the subscription's oldest message"
            self._found, self._other = found, Frontier(None, None, text, "no sample")
        except (GoogleAPICallError, RetryError) as refused:
            name = type(refused).__name__
            text = f"Cloud Monitoring answered {name}: {in_one_line(refused)}"
            self._found, self._other = {}, Frontier(None, None, text, name)

    def _series(self, now: datetime) -> Iterable[Any]:
        one = f' AND resource.labels.subscription_id = "{self._only}"' if self._only else ""
        request = {
            "name": f"projects/{self._project}",
            "filter": f'metric.type = "{UNACKED_AGE}"{one}',
            "interval": {"start_time": now - 2 * self._max_age, "end_time": now},
            "view": "FULL",
        }
        answer: Iterable[Any] = self._client.list_time_series(request=request, timeout=10.0)
        return answer


def _frontier_of(points: Iterable[Any]) -> Frontier:
    newest = max(points, key=lambda point: _instant(point.interval.end_time))
    sampled_at = _instant(newest.interval.end_time)
    age = timedelta(seconds=newest.value.int64_value)
    text = f"the oldest message was {duration_text(age)} old"
    return Frontier(sampled_at - age - _ROUNDED_DOWN, sampled_at, text)


def project_samples(subscription: str, max_age: timedelta, ask_every: timedelta) -> ProjectSamples:
    """This process's, for all topics whose subscriptions are in the project."""
    return _project_samples(subscription.split("/")[1], os.environ.get(EMULATOR), max_age, ask_every)


@lru_cache(maxsize=64)
def _project_samples(project: str, emulator: str | None, max_age: timedelta, ask_every: timedelta) -> ProjectSamples:
    return ProjectSamples(project, monitoring_client(), max_age, ask_every=ask_every)


def monitoring_client() -> Any:
    """Cloud Monitoring's client, or one for what `MONITORING_EMULATOR_HOST` names."""
    from google.cloud.monitoring_v3 import MetricServiceClient
    from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport

    emulator = os.environ.get(EMULATOR)
    if not emulator:
        return MetricServiceClient()
    import grpc

    return MetricServiceClient(transport=MetricServiceGrpcTransport(channel=grpc.insecure_channel(emulator)))


def fresh(frontier: Frontier, now: datetime, max_age: timedelta) -> Frontier:
    """The frontier, or none when its sample is older than `max_age`: what is old says nothing about now."""
    if frontier.sampled_at is None or now - frontier.sampled_at <= max_age:
        return frontier
    age = brief((now - frontier.sampled_at).total_seconds())
    text = f"the newest sample is {age} old, older than {duration_text(max_age)}"
    return Frontier(None, frontier.sampled_at, text, "old sample")


def _instant(timestamp: Any) -> datetime:
    instant: datetime = timestamp if isinstance(timestamp, datetime) else timestamp.ToDatetime(tzinfo=UTC)
    return instant


def _whole(duration: timedelta) -> str:
    return duration_text(timedelta(seconds=int(duration.total_seconds())))
