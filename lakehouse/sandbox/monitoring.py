"""What Cloud Monitoring says of the broker: the age of each subscription's oldest unacknowledged message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.cloud.monitoring_v3 import types
from google.protobuf.timestamp_pb2 import Timestamp

from lakehouse.sandbox.subscriptions import Refusal, Subscription

OLDEST_UNACKED_MESSAGE_AGE = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
RESOURCE_TYPE = "pubsub_subscription"
_TERM = re.compile(r'\s*([\w.]+)\s*=\s*(?:"([^"]*)"|one_of\(([^)]*)\))\s*')
_LABELS = ("project_id", "subscription_id")
_KNOWN_TERMS = {"metric.type", "resource.type", *(f"resource.labels.{label}" for label in _LABELS)}


@dataclass(frozen=True)
class Sampling:
    """How the metric reaches its readers: the age of the newest sample, or why there is none."""

    age: timedelta = timedelta(0)
    missing: bool = False
    denied: bool = False


FRESH = Sampling()
MISSING = Sampling(missing=True)
DENIED = Sampling(denied=True)


def time_series(request: Any, subscriptions: Iterable[Subscription], sampling: Sampling, now: float) -> Any:
    """The answer to ListTimeSeries: at most one point per subscription, the newest sample in the interval.

    A sample is computed when asked for, from what is unacknowledged *now*: whole seconds, rounded down, and 0 when
    nothing was waiting then. So a message acknowledged since the sample's time is not in it.
    """
    if sampling.denied:
        raise Refusal(
            grpc.StatusCode.PERMISSION_DENIED, "Permission monitoring.timeSeries.list denied (or it may not exist)."
        )
    wanted = _wanted(request.filter)
    sampled_at = min(now - sampling.age.total_seconds(), _seconds(request.interval.end_time))
    reply = types.ListTimeSeriesResponse.pb()()
    if not sampling.missing and _holds(request.interval, sampled_at):
        for subscription in subscriptions:
            if request.name == f"projects/{_labels(subscription)['project_id']}" and _matches(subscription, wanted):
                reply.time_series.append(_series(subscription, sampled_at))
    return reply


def _wanted(text: str) -> dict[str, set[str]]:
    """The values that the filter allows for each of its terms, which are joined by AND."""
    wanted = {}
    for term in re.split(r"\bAND\b", text):
        match = _TERM.fullmatch(term)
        name = match[1].replace("resource.label.", "resource.labels.") if match else ""
        if match is None or name not in _KNOWN_TERMS:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT, f"The sandbox cannot read this part of the filter: {term.strip()}"
            )
        wanted[name] = {match[2]} if match[2] is not None else set(re.findall(r'"([^"]*)"', match[3]))
    if wanted.get("metric.type") != {OLDEST_UNACKED_MESSAGE_AGE}:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"Cannot find metric that matches: {text}")
    return wanted


def _matches(subscription: Subscription, wanted: dict[str, set[str]]) -> bool:
    facts = {"resource.type": RESOURCE_TYPE}
    facts |= {f"resource.labels.{label}": value for label, value in _labels(subscription).items()}
    return all(value in wanted.get(name, {value}) for name, value in facts.items())


def _labels(subscription: Subscription) -> dict[str, str]:
    _, project, _, subscription_id = subscription.name.split("/")
    return dict(zip(_LABELS, (project, subscription_id), strict=True))


def _holds(interval: Any, sampled_at: float) -> bool:
    """Without a start the interval is the one instant of its end."""
    start = interval.start_time if interval.HasField("start_time") else interval.end_time
    return _seconds(start) <= sampled_at


def _series(subscription: Subscription, sampled_at: float) -> Any:
    oldest = subscription.oldest_publish_time()
    age = 0 if oldest is None else max(0, int(sampled_at - oldest))
    series = types.TimeSeries.pb()(
        metric={"type": OLDEST_UNACKED_MESSAGE_AGE},
        resource={"type": RESOURCE_TYPE, "labels": _labels(subscription)},
        metric_kind="GAUGE",
        value_type="INT64",
    )
    at = Timestamp()
    at.FromMicroseconds(round(sampled_at * 1e6))
    series.points.add(interval={"start_time": at, "end_time": at}, value={"int64_value": age})
    return series


def _seconds(time: Any) -> float:
    return float(time.seconds + time.nanos / 1e9)
