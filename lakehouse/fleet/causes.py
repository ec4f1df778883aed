"""What is wrong with a topic: the first cause that holds, in one order for all, in words that others can share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse.fleet.freshness import Overdue
from lakehouse.fleet.versions import Job, Running
from lakehouse.operations.status import BEHIND_AFTER, TopicStatus
from lakehouse.operations.topic_life import TopicLife
from lakehouse.topics import Topic

STARVED_AFTER = timedelta(minutes=15)
"""So far behind may the frontier be: samples of a backlog lag by a minute or two."""

CAUSES: Mapping[str, tuple[str, str]] = {
    "not running": (
        "no application has it, or it gives no sign of life",
        "See the job's log; `lakehouse fleet deploy` starts what does not run.",
    ),
    "cannot read": (
        "ingest cannot go on: its subscription or its lake refuses",
        "Do what `lakehouse status TOPIC` says; it is tried again by itself.",
    ),
    "damaged": (
        "a file is missing, or is not as it was written",
        "`lakehouse status TOPIC` names the files; restore them.",
    ),
    "starved": (
        "it is read, but more slowly than messages come",
        "Raise `slots.max`, or give the application more cores or fewer topics.",
    ),
    "behind": (
        "a closed hour waits for its seal or its verdict",
        "See the application's log for that stage, and raise `stages.workers` where hours wait for one another.",
    ),
    "held": (
        "an hour stays open though its time has come",
        "`lakehouse explain TOPIC HOUR` says what it waits for.",
    ),
    "rejecting": (
        "more messages are rejected than `max_rejected_share` allows",
        "`lakehouse explain TOPIC HOUR` says why; tell the publisher.",
    ),
    "invalid": (
        "an hour waits until a person releases it",
        "Look at its report; then `lakehouse release TOPIC HOUR`, or have the events fixed.",
    ),
    "mirror": (
        "a target does not take an hour",
        "Do what `lakehouse status TOPIC` says; it is tried again by itself.",
    ),
    "maintain": (
        "what nobody needs any more is not removed",
        "Do what `lakehouse status TOPIC` says; it is tried again by itself.",
    ),
    "ok": ("none of these", ""),
}
"""Each cause, the first to hold is the one that counts: (what it means, what to do)."""

CRITICAL = ("not running", "cannot read", "damaged")
"""Of these, hours will be missing until somebody does something."""


@dataclass(frozen=True)
class Cause:
    """`words` say what was found, without the topic's name, hours and ages: who has the same trouble shares them."""

    name: str
    words: str
    since: datetime | None = None

    @property
    def is_critical(self) -> bool:
        return self.name in CRITICAL


def cause(status: TopicStatus, topic: Topic, running: Running | None, late: Overdue | None, now: datetime) -> Cause:
    """The first that holds in the order of `CAUSES`. `running` is the application that should have the topic."""
    for name, found in (
        ("not running", _not_running(status, running)),
        ("cannot read", _cannot_read(status)),
        ("damaged", _damaged(status)),
        ("starved", _starved(status, now)),
        ("behind", _behind(status, late, now)),
        ("held", _held(status, late)),
        ("rejecting", _rejecting(status, topic)),
        ("invalid", _invalid(status)),
        ("mirror", _mirror(status, late, now)),
        ("maintain", _maintain(status)),
    ):
        if found is not None:
            words, since = found
            return Cause(name, shared_words(words, topic), since)
    return Cause("ok", "")


Found = tuple[str, datetime | None]


def _not_running(status: TopicStatus, running: Running | None) -> Found | None:
    life, job = status.life, running.job if running else None
    if life is None and status.state == "error":  # who runs it could not be read either
        return None
    if job is not None and job.state == "waiting":  # its heartbeat may be fresh for two minutes yet
        return f"its job has died: {job.why}", job.started_at
    if life is not None and job is not None and _is_starting_again(job, life):
        return f"its job has died: {job.why}; it starts again", job.started_at
    if life is not None and life.is_alive and life.not_running_since is None:
        if life.hangs_for_seconds is None:
            return None
        return "its application is alive and brings no batch", life.last_trigger or life.since
    if job is not None and not job.is_active:
        words = f"its job is {job.state}" + (f": {job.why}" if job.why else "")
    elif life is None:
        words = "no application has ever had it"
    elif life.state == "taken over" and life.is_alive:
        words = "another application has taken it over"
    elif life.why_ended:
        words = f"its application ended: {life.why_ended}"
    elif life.state == "ended":
        words = "its application was asked to leave it"
    else:
        words = "its application gives no sign of life"
    return words, status.not_running_since or (life.written_at if life else None)


def _is_starting_again(job: Job, life: TopicLife) -> bool:
    """After a death, until the new run has written: what its heartbeat says is of the one that died."""
    return bool(job.failures) and job.started_at is not None and job.started_at > life.written_at


def _cannot_read(status: TopicStatus) -> Found | None:
    if status.state == "error":
        return status.error or "its lake cannot be read", None
    if status.life is not None and status.life.is_failing:
        return status.life.error or "ingest fails", status.failure.since if status.failure else status.life.since
    if status.failure is not None:
        return status.failure.error, status.failure.since
    return None


def _damaged(status: TopicStatus) -> Found | None:
    return ("files are missing or damaged", None) if status.damage.count else None


def _starved(status: TopicStatus, now: datetime) -> Found | None:
    frontier = status.life.frontier if status.life else None
    if frontier is None or now - frontier <= STARVED_AFTER:
        return None
    is_at_bound = status.slots is not None and status.slots_max is not None and status.slots >= status.slots_max
    bound = "its slots are at their maximum" if is_at_bound else "its slots are below their maximum"
    return f"messages wait for longer than 15 minutes; {bound}", frontier


def _behind(status: TopicStatus, late: Overdue | None, now: datetime) -> Found | None:
    failed = next((each for each in status.stage_failures if each.stage != "mirror"), None)
    if failed is not None:
        return f"{failed.stage} fails: {_found_in(failed.error)}", failed.since
    if status.waits_for in ("seal", "validate") and _waits_long(status, late, now):
        return f"an hour waits for {status.waits_for}", status.waits_since
    return None


def _held(status: TopicStatus, late: Overdue | None) -> Found | None:
    if status.stuck is not None:
        return status.stuck.reason, status.stuck.since
    if late is not None and late.hour == status.open_hour:
        reason = next((each.reasons[0] for each in status.held if each.hour == late.hour and each.reasons), None)
        return reason or "an hour is open past its time", late.since
    return None


def _rejecting(status: TopicStatus, topic: Topic) -> Found | None:
    is_much = status.rejected_share is not None and status.rejected_share > topic.max_rejected_share
    return ("many messages are rejected", None) if is_much else None


def _invalid(status: TopicStatus) -> Found | None:
    return ("an hour is invalid", status.waits_since) if status.invalid_hours else None


def _mirror(status: TopicStatus, late: Overdue | None, now: datetime) -> Found | None:
    failed = next((each for each in status.stage_failures if each.stage == "mirror"), None)
    if failed is not None:
        return _found_in(failed.error), failed.since
    if status.waits_for is not None and status.waits_for.startswith("mirror ") and _waits_long(status, late, now):
        return f"an hour waits for {status.waits_for}", status.waits_since
    return None


def _maintain(status: TopicStatus) -> Found | None:
    error = status.life.maintain_error if status.life else None
    return (error, None) if error else None


def _waits_long(status: TopicStatus, late: Overdue | None, now: datetime) -> bool:
    is_long = status.waits_since is not None and now - status.waits_since > BEHIND_AFTER
    return is_long or (late is not None and late.hour == status.waiting_hour)


# --- words ---------------------------------------------------------------------------------------------------------

_HOUR = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?(Z|[+-]\d{2}:\d{2})?")
_AGE = re.compile(r"\b\d+(\.\d+)? (s|min|h|d|seconds?|minutes?|hours?|days?)\b( \d+ (s|min|h))?")
_NUMBER = re.compile(r"\b[0-9a-f]{8,}\b|\b(?<!code )(?![45]\d\d\b)\d[\d,._]*\b")
"""But not the codes that processes end and servers answer with."""


def shared_words(text: str, topic: Topic) -> str:
    """What was found, the same for all topics that it was found of."""
    words = _found_in(text).replace(topic.reads.address, "its source")
    words = re.sub(rf"\b{re.escape(topic.name)}\b", "TOPIC", words)
    for pattern, sign in ((_HOUR, "TIME"), (_AGE, "a while"), (_NUMBER, "N")):
        words = pattern.sub(sign, words)
    return " ".join(words.split())[:200]


def _found_in(error: str) -> str:
    """Of one of our errors, without its subject, which names the topic, and without what to do."""
    return error.rpartition(": found ")[2].partition("; expected ")[0]
