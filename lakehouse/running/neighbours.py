"""The other applications of a lake, by their heartbeats: none may read a subscription that another one reads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from lakehouse.errors import ConfigError
from lakehouse.store.heartbeats import Heartbeat, Sign
from lakehouse.topics import Topic


def check_subscription(topic: Topic, ours: Heartbeat, signs: Iterable[Sign], now: datetime) -> None:
    """ConfigError when an application that lives, and started before ours, reads the topic's for another topic."""
    for other in [sign.heartbeat for sign in signs if sign.is_alive(now)]:
        is_before = (other.started_at, other.run) < (ours.started_at, ours.run)
        for name, pulse in other.topics.items() if is_before else ():
            is_read = pulse.state not in ("ended", "taken over") and pulse.subscription == topic.reads.address
            if is_read and name != topic.name:
                raise ConfigError(
                    f"topic {topic.name}: subscription",
                    found=f"{topic.reads.address}, which topic {name} of application {other.application} "
                    f"(run {other.run} on {other.host}) reads",
                    expected="a subscription of its own: two readers would each get half of the events",
                    next_step="Create a second subscription to the Pub/Sub topic, or stop that application.",
                )
