"""Google's services: credentials, subscriptions and Cloud Monitoring, each by the call that needs the right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import grpc

from lakehouse.config import Config
from lakehouse.crews import Crew
from lakehouse.doctor.findings import LOGIN, Check, Failed, NotTried
from lakehouse.durations import brief
from lakehouse.errors import in_one_line
from lakehouse.ingest.frontier import EMULATOR, ProjectSamples, monitoring_client
from lakehouse.landing.brokers.catalogue import broker_of
from lakehouse.landing.brokers.channel import shared_channel, status_text
from lakehouse.topics import Topic

T = TypeVar("T")

_SIDE_BY_SIDE = 16
_PATIENCE = timedelta(seconds=10)
_MANY = 3
"""Failing topics that are named."""
_NO_ACK_ID = "lakehouse-doctor"
"""Of no message: whoever may acknowledge is told so, or nothing; nothing is leased or given back."""


def checks(config: Config, topics: Sequence[Topic]) -> Iterator[Check]:
    subscribed = [topic for topic in topics if topic.reads.kind == "pubsub"]
    others = [topic for topic in topics if topic.reads.kind != "pubsub"]
    yield Check("Google credentials", partial(_credentials, config, subscribed), LOGIN)
    if subscribed:
        yield Check("subscriptions: viewer", partial(_viewer, config, subscribed),
                    "Grant roles/pubsub.viewer on them, or correct `subscription` in the topic's file.",
                    _for(subscribed))  # fmt: skip
        yield Check("subscriptions: subscriber", partial(_subscriber, subscribed),
                    "Grant roles/pubsub.subscriber on them to the account of the application.",
                    _for(subscribed))  # fmt: skip
        yield Check("Cloud Monitoring", partial(_samples, config, subscribed),
                    "Grant roles/monitoring.viewer on the project. A subscription has its first sample a few minutes "
                    "after it was made.")  # fmt: skip
    if others:
        yield Check("other brokers", partial(_readable, config, others),
                    "Check the address in the topic's file, and that the network lets this machine reach it.",
                    _for(others))  # fmt: skip


def _for(topics: Sequence[Topic]) -> timedelta:
    """A limit for calls about so many topics, 16 side by side, each of which may be tried again for a while."""
    return 2 * _PATIENCE + timedelta(seconds=5 + len(topics) / 4)


def _credentials(config: Config, subscribed: Sequence[Topic]) -> str:
    settings = config.settings
    needs_store = (
        any(root.startswith("gs://") for root in (settings.raw_root, settings.sealed_root))
        and settings.storage_options.get("google_skip_signature") != "true"
    )
    needs_pubsub = bool(subscribed) and not os.environ.get("PUBSUB_EMULATOR_HOST")
    if not needs_store and not needs_pubsub:
        raise NotTried("nothing here asks Google itself")
    import google.auth
    from google.auth.transport.requests import Request

    credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(Request())  # type: ignore[no-untyped-call]
    account = getattr(credentials, "service_account_email", None) or "a person's account"
    return f"{account}, project {project or 'unknown'}"


def _viewer(config: Config, topics: Sequence[Topic]) -> str:
    """GetSubscription, which the subscriber's role does not allow."""

    def ask(topic: Topic) -> timedelta:
        return broker_of("pubsub").lease(topic, config.settings.ingest, _PATIENCE)

    leases = _of_each(topics, ask)
    return f"{len(leases):,} of {len(topics):,}, ack deadlines {brief(min(leases).total_seconds())} or longer"


def _subscriber(topics: Sequence[Topic]) -> str:
    """ModifyAckDeadline for a message that there is not: no message is leased, and the right is needed all the same."""

    def ask(topic: Topic) -> None:
        from google.pubsub_v1.types import ModifyAckDeadlineRequest

        request = ModifyAckDeadlineRequest.pb()(
            subscription=topic.subscription, ack_ids=[_NO_ACK_ID], ack_deadline_seconds=0
        )
        call = shared_channel(topic.subscription).unary_unary(
            "/google.pubsub.v1.Subscriber/ModifyAckDeadline", request_serializer=type(request).SerializeToString
        )
        try:
            call(request, timeout=_PATIENCE.total_seconds())
        except grpc.RpcError as refused:
            if refused.code() != grpc.StatusCode.INVALID_ARGUMENT:
                raise Failed(status_text(refused)) from refused

    _of_each(topics, ask)
    return f"{len(topics):,} of {len(topics):,}"


def _readable(config: Config, topics: Sequence[Topic]) -> str:
    def ask(topic: Topic) -> object:
        return broker_of(topic.reads.kind).start(topic, config.settings.ingest)

    _of_each(topics, ask)
    return f"{len(topics):,} of {len(topics):,} can be read"


def _of_each(topics: Sequence[Topic], ask: Callable[[Topic], T]) -> list[T]:
    """What each gives; Failed with the topics of which it failed or did not come, and what to do for the first."""
    failing: dict[str, BaseException] = {topic.name: TimeoutError("no answer") for topic in topics}
    found: list[T] = []

    def asked(topic: Topic) -> None:
        try:
            found.append(ask(topic))
            del failing[topic.name]
        except Exception as error:
            failing[topic.name] = error

    asking: Crew[str, None] = Crew(_SIDE_BY_SIDE, "doctor")
    for topic in topics:
        asking.begin(topic.name, partial(asked, topic))
    for _ in asking.results(2 * _PATIENCE.total_seconds()):
        continue
    if failing:
        first = sorted(failing)[:_MANY]
        named = "; ".join(f"{name}: {getattr(failing[name], 'found', in_one_line(failing[name]))}" for name in first)
        more = f"; and {len(failing) - _MANY} more" if len(failing) > _MANY else ""
        what_to_do = str(getattr(failing[first[0]], "next_step", ""))
        raise Failed(f"{len(failing):,} of {len(topics):,} fail: {named}{more}", what_to_do) from failing[first[0]]
    return found


def _samples(config: Config, topics: Sequence[Topic]) -> str:
    """monitoring.timeSeries.list: how old the newest sample is of each subscription."""
    if config.settings.frontier.source != "monitoring":
        raise NotTried(f"frontier.source is {config.settings.frontier.source}")
    if os.environ.get("PUBSUB_EMULATOR_HOST") and not os.environ.get(EMULATOR):
        raise NotTried(f"an emulator without Monitoring; the sandbox has one, at {EMULATOR}")
    max_age, now = config.settings.frontier.max_age, datetime.now(UTC)
    client, ages, silent = monitoring_client(), [], []
    for project in {topic.subscription.split("/")[1] for topic in topics}:
        samples = ProjectSamples(project, client, max_age, ask_every=timedelta(hours=1))
        for topic in (each for each in topics if each.subscription.split("/")[1] == project):
            sample = samples.newest(topic.subscription.split("/")[3], now)
            if sample.sampled_at is None and "answered" in sample.text:
                raise Failed(sample.text)
            if sample.sampled_at is None or now - sample.sampled_at > max_age:
                silent.append(topic.name)
            else:
                ages.append((now - sample.sampled_at).total_seconds())
    if silent:
        named = ", ".join(sorted(silent)[:_MANY])
        raise Failed(f"no sample within {brief(max_age.total_seconds())} of {len(silent):,} subscriptions: {named}")
    return f"samples of {len(ages):,} of {len(topics):,}, the oldest {brief(max(max(ages), 0))} ago"
