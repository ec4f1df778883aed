"""The difference between the fleet that is wanted and the one that runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lakehouse.fleet.versions import Running, Version

Action = Literal["start", "replace", "stop", "keep", "leave"]
"""`leave`: it runs, and neither `fleet.yaml` nor the launcher knows it: who started it is to end it."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it is wanted: `release`, `configuration`, `topics`, `suites`, `size` or `launcher`."""

    what: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Change:
    """What is to be done to an application, and why. `wanted` is None where it is not wanted at all."""

    application: str
    action: Action
    topics: int
    differences: tuple[Difference, ...] = ()
    wanted: Version | None = None
    running: Running | None = None

    @property
    def is_touched(self) -> bool:
        return self.action in ("start", "replace", "stop")


@dataclass(frozen=True)
class Plan:
    """Every application that is wanted or runs, by name."""

    changes: tuple[Change, ...]

    @property
    def touched(self) -> list[Change]:
        return [change for change in self.changes if change.is_touched]

    @property
    def releases(self) -> dict[str, int]:
        """How many applications that run have each release, the most frequent first."""
        return releases(change.running for change in self.changes if change.running and change.running.is_running)


def releases(running: Iterable[Running]) -> dict[str, int]:
    """How many of them have each release, the most frequent first."""
    counted = Counter(each.release or "unknown" for each in running)
    return dict(sorted(counted.items(), key=lambda each: (-each[1], each[0])))


def plan(wanted: Mapping[str, Version], running: Mapping[str, Running]) -> Plan:
    """What has to be done so that what runs is what is wanted; nothing for an application that does not differ."""
    names = sorted(wanted.keys() | running.keys())
    return Plan(tuple(_changes(names, wanted, running)))


def _changes(names: Sequence[str], wanted: Mapping[str, Version], running: Mapping[str, Running]) -> Iterator[Change]:
    for name in names:
        want, found = wanted.get(name), running.get(name)
        if want is None:
            if found is not None and found.is_running:
                is_ours = found.job is not None and found.job.is_active
                yield Change(name, "stop" if is_ours else "leave", len(found.topics), running=found)
        elif found is None or not found.is_running:
            yield Change(name, "start", len(want.topics), wanted=want, running=found)
        else:
            differences = tuple(_differences(want, found))
            action: Action = "replace" if differences else "keep"
            yield Change(name, action, len(want.topics), differences, want, found)


def _differences(wanted: Version, found: Running) -> Iterator[Difference]:
    """By the heartbeat, which is what runs; before the first one, by what was launched."""
    launched = found.job.launch.version if found.job else None
    by_job = None if found.is_alive else launched
    release = by_job.release if by_job else found.release or "unknown"
    configuration = by_job.configuration if by_job else found.configuration or "unknown"
    topics = by_job.topics if by_job else found.topics
    if release != wanted.release:
        yield Difference("release", release, wanted.release)
    if configuration != wanted.configuration:
        yield Difference("configuration", configuration, wanted.configuration)
    if set(topics) != set(wanted.topics):
        yield _topics(set(topics), set(wanted.topics))
    if launched is None:
        yield Difference("launcher", "started by a person", "a job of the launcher")
        return
    if launched.suites != wanted.suites:
        yield Difference("suites", launched.suites, wanted.suites)
    if launched.size != wanted.size:
        changed = [name for name in type(wanted.size).model_fields if _value(launched, name) != _value(wanted, name)]
        yield Difference(
            "size",
            ", ".join(f"{name} {_value(launched, name)}" for name in changed),
            ", ".join(f"{name} {_value(wanted, name)}" for name in changed),
        )


def _value(version: Version, name: str) -> object:
    return getattr(version.size, name) or "as by default"


def _topics(found: set[str], wanted: set[str]) -> Difference:
    """Only those that differ: an application may have hundreds."""
    return Difference("topics", _names(found - wanted), _names(wanted - found))


def _names(names: set[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return (", ".join(shown[:5]) + more) or "none of these"
