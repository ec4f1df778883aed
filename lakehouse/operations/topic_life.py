"""Whether anybody runs a topic: what its application last said of it in a heartbeat, and how long ago.

All ages are in seconds and count to `now`; none is negative, whatever the clocks of reader and writer say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse.config import Settings
from lakehouse.errors import in_one_line
from lakehouse.store.heartbeats import Heartbeats, Pulse, Sign

log = logging.getLogger(__name__)

HUNG_AFTER = timedelta(minutes=10)
"""How long a batch, or a start, of a topic may take while its application is alive."""


@dataclass(frozen=True)
class TopicLife:
    """A topic as its application last said. `is_alive`: the application has neither ended nor fallen silent.

    `state` is the topic's, of those that a heartbeat has. `hangs_for_seconds` is how long an application that is alive
    has brought no batch of a topic that it runs, where that is too long.
    """

    application: str
    run: str
    host: str
    release: str
    configuration: str
    is_alive: bool
    written_at: datetime
    written_age_seconds: float
    state: str
    since: datetime
    last_trigger: datetime | None
    last_trigger_age_seconds: float | None
    epoch: int | None
    frontier: datetime | None
    error: str | None
    failures: int
    next_try_in_seconds: float | None
    maintained_at: datetime | None
    maintain_error: str | None
    hangs_for_seconds: float | None
    ended_at: datetime | None
    why_ended: str | None
    other_run: str | None

    @property
    def is_failing(self) -> bool:
        return self.is_alive and self.failures > 0 and self.state != "taken over"

    @property
    def not_running_since(self) -> datetime | None:
        """When its application ended in order, or left the topic; None while it has it."""
        if self.ended_at is not None:
            return self.ended_at
        return self.since if self.state in ("ended", "taken over") else None


def signs_of(settings: Settings) -> list[Sign]:
    """The heartbeats of a lake; none where they cannot be read: what is wrong there, each topic says itself."""
    try:
        return Heartbeats(settings).all()
    except Exception as unreadable:
        log.warning("heartbeat: error=%s", in_one_line(unreadable))
        return []


def topic_life(topic: str, signs: Iterable[Sign], now: datetime) -> TopicLife | None:
    """What the application that has the topic says of it, else the one that had it last; None where none names it."""
    named = [sign for sign in signs if topic in sign.heartbeat.topics]

    def rank(sign: Sign) -> tuple[bool, datetime]:
        has_it = sign.is_alive(now) and sign.heartbeat.topics[topic].state not in ("ended", "taken over")
        return has_it, sign.heartbeat.started_at

    return _life(topic, max(named, key=rank), now) if named else None


def known_commit(topic: str, signs: Iterable[Sign]) -> int | None:
    """The newest version of the topic's bronze that an application has named; None where none has."""
    pulses = [sign.heartbeat.topics[topic] for sign in signs if topic in sign.heartbeat.topics]
    return max((pulse.commit for pulse in pulses if pulse.commit is not None), default=None)


def _life(topic: str, sign: Sign, now: datetime) -> TopicLife:
    heartbeat, pulse = sign.heartbeat, sign.heartbeat.topics[topic]
    is_alive = sign.is_alive(now)
    trigger = pulse.last_trigger
    return TopicLife(
        heartbeat.application,
        heartbeat.run,
        heartbeat.host,
        heartbeat.release,
        heartbeat.configuration,
        is_alive,
        sign.written_at,
        _seconds(sign.age(now)),
        pulse.state,
        pulse.since,
        trigger,
        _seconds(sign.age_of(trigger, now)) if trigger else None,
        pulse.epoch,
        pulse.frontier,
        pulse.error,
        pulse.failures,
        _next_try(sign, pulse, now) if is_alive else None,
        pulse.maintained_at,
        pulse.maintain_error if is_alive else None,
        _hangs_for(sign, pulse, now) if is_alive else None,
        heartbeat.ended_at,
        heartbeat.why_ended,
        heartbeat.other_run,
    )


def _next_try(sign: Sign, pulse: Pulse, now: datetime) -> float | None:
    if pulse.next_try_at is None:
        return None
    return _seconds(max(pulse.next_try_at - sign.heartbeat.written_at - sign.age(now), timedelta(0)))


def _hangs_for(sign: Sign, pulse: Pulse, now: datetime) -> float | None:
    """From the last batch, or from the start where none came since."""
    moved = max(instant for instant in (pulse.since, pulse.last_trigger) if instant is not None)
    age = sign.age_of(moved, now)
    return _seconds(age) if pulse.state in ("starting", "running") and age > HUNG_AFTER else None


def _seconds(duration: timedelta) -> float:
    return round(duration / timedelta(seconds=1), 3)
