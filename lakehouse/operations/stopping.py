"""Asking an application, or one topic of it, to stop: through the store, so that it works wherever it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from lakehouse.config import Settings
from lakehouse.errors import LakeError, UsageError
from lakehouse.store.heartbeats import Heartbeat, Sign
from lakehouse.store.notes import Notes, StopRequest

_GONE = ("ended", "taken over")
_MANY = 10
"""Names that an error lists."""


@dataclass(frozen=True)
class ToStop:
    """What is to stop: a run of an application or, with a `topic`, that topic of it."""

    application: str
    run: str
    host: str
    topic: str | None = None

    @property
    def words(self) -> str:
        application = f"application {self.application}"
        return f"topic {self.topic} of {application}" if self.topic else application


def what_to_stop(name: str, signs: Iterable[Sign], now: datetime) -> ToStop:
    """The application of that name that is alive, else the one that has the topic of that name.

    LakeError when there is neither; UsageError when the name is both, of an application that has other topics, too.
    """
    alive = [sign.heartbeat for sign in signs if sign.is_alive(now)]
    named = next((each for each in alive if each.application == name), None)
    owner = next((each for each in alive if name in _topics(each)), None)
    if named is not None and owner is not None and (named is not owner or len(_topics(owner)) > 1):
        raise UsageError(
            name,
            found=f"an application, and a topic of application {owner.application}",
            expected="the name of one of them",
            next_step=f"Say --topic for the topic; to stop all of {name}, stop its topics one by one.",
        )
    if named is not None:
        return ToStop(named.application, named.run, named.host)
    if owner is not None:
        return ToStop(owner.application, owner.run, owner.host, name)
    raise LakeError(
        name,
        found="no application and no topic of that name that runs",
        expected="one of the applications that are alive: "
        + (", ".join(sorted(each.application for each in alive)[:_MANY]) or "(there are none)"),
        next_step="Check the name; `lakehouse status` shows what runs.",
    )


def topic_to_stop(name: str, signs: Iterable[Sign], now: datetime) -> ToStop:
    """The topic of that name; LakeError when no application that is alive has it."""
    for each in (sign.heartbeat for sign in signs if sign.is_alive(now)):
        if name in _topics(each):
            return ToStop(each.application, each.run, each.host, name)
    raise LakeError(
        f"topic {name}",
        found="no application that is alive and has it",
        expected="a topic that runs",
        next_step="Check the name; `lakehouse status` shows what runs.",
    )


def ask_to_stop(settings: Settings, what: ToStop, by: str, reason: str) -> None:
    """Leave the request; the run sees it with its next trigger. OSError or Google's own errors when it cannot be."""
    notes = Notes(settings.model_copy(update={"application": what.application}))
    notes.ask_to_stop(what.run, StopRequest(what.topic, by, reason))


def has_stopped(what: ToStop, heartbeat: Heartbeat | None) -> bool:
    """By the newest heartbeat of the application's name: it has ended, left the topic, or another run has the name."""
    if heartbeat is None or heartbeat.run != what.run or heartbeat.ended_at is not None:
        return True
    return what.topic is not None and what.topic not in _topics(heartbeat)


def _topics(heartbeat: Heartbeat) -> set[str]:
    return {name for name, pulse in heartbeat.topics.items() if pulse.state not in _GONE}
