"""The frontier: the publish time before which everything published has been consumed, as far as anybody knows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from lakehouse.durations import written
from lakehouse.progress import Frontier

EMULATOR = "MONITORING_EMULATOR_HOST"
"""`host:port` of a server that stands in for Cloud Monitoring, such as the sandbox's broker."""
_ROUNDED_DOWN = timedelta(seconds=1)
"""Ages are whole seconds: the oldest message may be almost one older."""
UNACKED_AGE = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"


class FrontierSource(Protocol):
    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        """The frontier after an epoch with these facts (columns `FACTS`)."""


class DryFrontier:
    """Where there is no Cloud Monitoring: a slot that asked and got nothing shows that nothing waits.

    Messages that a dead attempt had leased do not wait, they come back when their lease ends. So a dry slot counts only
    when for one ack deadline before it no attempt can have died, neither an earlier run's nor a retried task's, and
    every pull was answered: what a lost answer brought is leased, too.
    """

    def __init__(self, ack_deadline: timedelta, max_age: timedelta, trusted_from: datetime) -> None:
        self._ack_deadline, self._max_age = ack_deadline, max_age
        self._trusted_from = trusted_from
        self._frontier: datetime | None = None

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        slots = list(facts)
        if any(slot["attempt"] for slot in slots):
            self._trusted_from = now + self._ack_deadline
        unanswered = [slot["unanswered_at"] for slot in slots if slot.get("unanswered_at")]
        if unanswered:
            self._trusted_from = max(self._trusted_from, max(unanswered) + self._ack_deadline)
        dry = [slot["dry_at"] for slot in slots]
        if dry and None not in dry and min(dry) >= self._trusted_from:
            self._frontier = max(self._frontier or min(dry), min(dry))
        return self._told(now)

    def _told(self, now: datetime) -> Frontier:
        if self._frontier is not None:
            return fresh(Frontier(self._frontier, self._frontier, "the subscription ran dry"), now, self._max_age)
        if now < self._trusted_from:
            text = f"until {self._trusted_from:%H:%M:%S} messages leased by an attempt that died may come back"
            return Frontier(None, None, text, "leases")
        return Frontier(None, None, "the subscription has not run dry yet", "not dry")


class MonitoringFrontier:
    """From Cloud Monitoring: a sample of age a taken at s says that everything published before s - a is consumed."""

    def __init__(self, subscription: str, client: Any, max_age: timedelta, *, ask_every: timedelta) -> None:
        _, self._project, _, self._subscription = subscription.split("/")
        self._client, self._max_age, self._ask_every = client, max_age, ask_every
        self._asked_at: datetime | None = None
        self._newest = Frontier(None, None, "Cloud Monitoring was not asked yet", "not asked")

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        if self._asked_at is None or now - self._asked_at >= self._ask_every:
            self._asked_at = now
            self._newest = self._sampled(now)
        return fresh(self._newest, now, self._max_age)

    def _sampled(self, now: datetime) -> Frontier:
        from google.api_core.exceptions import GoogleAPICallError, RetryError

        try:
            points = [point for series in self._series(now) for point in series.points]
        except (GoogleAPICallError, RetryError) as refused:
            name = type(refused).__name__
            return Frontier(None, None, f"Cloud Monitoring answered {name}: {refused}", name)
        if not points:
            text = "Cloud Monitoring has no sample of the subscription's oldest message"
            return Frontier(None, None, text, "no sample")
        newest = max(points, key=lambda point: _instant(point.interval.end_time))
        sampled_at = _instant(newest.interval.end_time)
        age = timedelta(seconds=newest.value.int64_value)
        return Frontier(sampled_at - age - _ROUNDED_DOWN, sampled_at, f"the oldest message was {written(age)} old")

    def _series(self, now: datetime) -> Iterable[Any]:
        request = {
            "name": f"projects/{self._project}",
            "filter": f'metric.type = "{UNACKED_AGE}" AND resource.labels.subscription_id = "{self._subscription}"',
            "interval": {"start_time": now - 2 * self._max_age, "end_time": now},
            "view": "FULL",
        }
        answer: Iterable[Any] = self._client.list_time_series(request=request, timeout=10.0)
        return answer


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
    age = written(timedelta(seconds=int((now - frontier.sampled_at).total_seconds())))
    text = f"the newest sample is {age} old, older than {written(max_age)}"
    return Frontier(None, frontier.sampled_at, text, "old sample")


def _instant(timestamp: Any) -> datetime:
    instant: datetime = timestamp if isinstance(timestamp, datetime) else timestamp.ToDatetime(tzinfo=UTC)
    return instant
