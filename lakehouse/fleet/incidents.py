"""Topics with a common cause are one incident: of which people are notified once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lakehouse.fleet.causes import CAUSES, Cause
from lakehouse.fleet.freshness import Overdue

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class TopicHealth:
    """A topic of the fleet: which application should have it, what is wrong, and what is late."""

    topic: str
    application: str
    cause: Cause
    overdue: Overdue | None
    release: str | None
    behind_seconds: float | None


@dataclass(frozen=True)
class Incident:
    """Topics with a common cause. `key` stays the same while the cause does, whichever topics come and go.

    `since` is when it began for the first of the topics, as far as that is known.
    """

    key: str
    cause: str
    subject: str
    words: str
    severity: Severity
    topics: tuple[str, ...]
    applications: tuple[str, ...]
    since: datetime | None
    overdue_topics: int
    next_step: str


def incidents(topics: Iterable[TopicHealth], applications: Iterable[str]) -> list[Incident]:
    """What is wrong with the fleet, the worst first. `applications` are the names of all that are wanted.

    What does not run is one incident for each application, and one for all when none runs at all.
    """
    ill = [each for each in topics if each.cause.name != "ok"]
    gone = {each.application for each in ill if each.cause.name == "not running"}
    is_all_gone = len(gone) > 1 and gone == set(applications)
    groups: dict[tuple[str, str, str], list[TopicHealth]] = {}
    for each in ill:
        groups.setdefault(_group(each, is_all_gone=is_all_gone), []).append(each)
    made = [_incident(*group, found) for group, found in groups.items()]
    order = list(CAUSES)
    return sorted(made, key=lambda each: (order.index(each.cause), -len(each.topics), each.key))


def _group(health: TopicHealth, *, is_all_gone: bool) -> tuple[str, str, str]:
    """(cause, what makes it one with others, whom it is said of)."""
    name, words = health.cause.name, health.cause.words
    if name != "not running":
        return name, words, ""
    return (name, "", "the fleet") if is_all_gone else (name, "", f"application {health.application}")


def _incident(name: str, words: str, subject: str, found: Sequence[TopicHealth]) -> Incident:
    topics = tuple(sorted(each.topic for each in found))
    applications = tuple(sorted({each.application for each in found}))
    begun = [each.cause.since for each in found if each.cause.since is not None]
    worded = list(dict.fromkeys(each.cause.words for each in found))
    key = hashlib.sha256(f"{name}\0{words}\0{subject}".encode()).hexdigest()[:16]
    return Incident(
        key,
        name,
        subject or (f"topic {topics[0]}" if len(topics) == 1 else f"{len(topics):,} topics"),
        "; ".join(worded[:3]) + (f"; and {len(worded) - 3} more" if len(worded) > 3 else ""),
        "critical" if found[0].cause.is_critical else "warning",
        topics,
        applications,
        min(begun, default=None),
        sum(each.overdue is not None for each in found),
        CAUSES[name][1],
    )


def counts(topics: Iterable[TopicHealth]) -> dict[str, int]:
    """How many topics have each cause, in the order of `CAUSES`; those of none are left out."""
    found: dict[str, int] = dict.fromkeys(CAUSES, 0)
    for each in topics:
        found[each.cause.name] += 1
    return {name: count for name, count in found.items() if count}


def by_application(topics: Iterable[TopicHealth]) -> Mapping[str, list[TopicHealth]]:
    found: dict[str, list[TopicHealth]] = {}
    for each in topics:
        found.setdefault(each.application, []).append(each)
    return found
