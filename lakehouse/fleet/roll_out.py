"""In which order applications are replaced, and when what replaced one is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lakehouse.fleet.plan import Change
from lakehouse.fleet.versions import Job, Version
from lakehouse.fleet.wanted import RollOut
from lakehouse.store.heartbeats import Heartbeat, Pulse, Sign

DEATHS = 2
"""So often in a row, and a new application is not well."""
FAILURES = 3
"""The same of a topic that did not fail before: what passes by itself has passed by then."""
_MANY = 5
"""Reasons that are listed."""
_NOT_POLLED = "has not been polled yet"

State = Literal["waits", "well", "failed"]


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a new application, and why."""

    state: State
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Before:
    """A topic before its application was replaced."""

    frontier: datetime | None = None
    is_failing: bool = False


@dataclass(frozen=True)
class Waves:
    """Names of the applications that are started together. The rest waits for the `canary`, which may be empty."""

    canary: tuple[str, ...]
    rest: tuple[tuple[str, ...], ...]

    @property
    def all(self) -> tuple[tuple[str, ...], ...]:
        return (self.canary, *self.rest) if self.canary else self.rest


def waves(changes: Sequence[Change], roll_out: RollOut, *, has_canary: bool = True) -> Waves:
    """The applications that are started, wave by wave. There is no canary where nothing runs that it could protect.

    Between which a topic moves, those are of one wave, however many they are: one that has left the topic must not
    come back for it after the other has it.
    """
    groups = _groups([change for change in changes if change.action in ("start", "replace")])
    sizes = {change.application: change.topics for change in changes}

    def size(group: Sequence[str]) -> tuple[bool, int, Sequence[str]]:
        return roll_out.canary not in group, sum(sizes[name] for name in group), group

    groups.sort(key=size)
    is_to_protect = len(groups) > 1 and any(change.action == "replace" for change in changes)
    canary = groups.pop(0) if has_canary and is_to_protect else []
    rest: list[list[str]] = []
    for group in groups:
        if rest and len(rest[-1]) + len(group) <= roll_out.side_by_side:
            rest[-1] += group
        else:
            rest.append(group)
    return Waves(tuple(canary), tuple(map(tuple, rest)))


def _groups(changes: Sequence[Change]) -> list[list[str]]:
    """Names of applications, those together between which topics move."""
    had = {topic: each.application for each in changes if each.running for topic in each.running.topics}
    leader = {change.application: change.application for change in changes}

    def led_by(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for change in changes:
        for topic in change.wanted.topics if change.wanted else ():
            if had.get(topic, change.application) != change.application:
                leader[led_by(had[topic])] = led_by(change.application)
    groups: dict[str, list[str]] = {}
    for name in sorted(leader):
        groups.setdefault(led_by(name), []).append(name)
    return list(groups.values())


def before(sign: Sign | None) -> dict[str, Before]:
    """How the topics are that an application has, for a comparison later."""
    if sign is None:
        return {}
    return {name: Before(pulse.frontier, _fails(pulse)) for name, pulse in sign.heartbeat.topics.items()}


def verdict(
    version: Version,
    sign: Sign | None,
    job: Job | None,
    former_run: str | None,
    earlier: Mapping[str, Before],
    now: datetime,
) -> Verdict:
    """Whether a new application is well: it is alive with this version, each topic was polled since it began, none
    fails that did not fail before, and no frontier fell back.

    `former_run` is the run that it replaces, whose heartbeat has the same name. So has that of a later run of the same
    former job, where it died and was started again before it was replaced.
    """
    if (of_job := _of_job(job)) is not None:
        return of_job
    if sign is None or sign.heartbeat.run == former_run or _is_of_another(job, sign.heartbeat):
        return Verdict("waits", ("no heartbeat yet",))
    said = sign.heartbeat
    if (wrong := _wrong(version, said, is_alive=sign.is_alive(now))) is not None:
        return Verdict("failed", (wrong,))
    found = [_of_topic(name, said.topics.get(name), earlier.get(name, Before())) for name in version.topics]
    for state in ("failed", "waits"):
        reasons = _together([reason for each, reason in found if each == state])
        if reasons:
            more = [f"and {len(reasons) - _MANY} more topics"] if len(reasons) > _MANY else []
            return Verdict(state, (*reasons[:_MANY], *more))
    return Verdict("well")


def _is_of_another(job: Job | None, said: Heartbeat) -> bool:
    """Releases that say no job are told apart by their runs alone."""
    return job is not None and said.job is not None and said.job != job.launch.id


def _together(reasons: Sequence[str]) -> list[str]:
    """Topics that only wait for their first batch in one reason: an application has hundreds of them."""
    waiting = [reason for reason in reasons if reason.endswith(_NOT_POLLED)]
    if len(waiting) < 2:
        return list(reasons)
    others = [reason for reason in reasons if not reason.endswith(_NOT_POLLED)]
    return [*others, f"{len(waiting):,} topics have not been polled yet"]


def _of_job(job: Job | None) -> Verdict | None:
    if job is None:
        return Verdict("failed", ("the launcher does not know its job",))
    if not job.is_active:
        return Verdict("failed", (f"its job has {job.state}" + (f": {job.why}" if job.why else ""),))
    if job.failures >= DEATHS:
        return Verdict("failed", (f"it died {job.failures} times in a row: {job.why}",))
    if job.state == "pending" and job.why:
        return Verdict("waits", (f"its job is pending: {job.why}",))
    return Verdict("waits", (f"it died once: {job.why}",)) if job.state == "waiting" else None


def _wrong(version: Version, said: Heartbeat, *, is_alive: bool) -> str | None:
    if not is_alive:
        return f"it ended: {said.why_ended}" if said.ended_at else "its heartbeat has stopped"
    for what, found, wanted in (
        ("release", said.release, version.release),
        ("configuration", said.configuration, version.configuration),
    ):
        if found != wanted:
            return f"it runs {what} {found}, not {wanted}"
    return None


def _of_topic(name: str, pulse: Pulse | None, earlier: Before) -> tuple[State, str]:
    if pulse is None:
        return "waits", f"{name} is not in the heartbeat yet"
    if pulse.state in ("taken over", "ended"):
        return "failed", f"{name} is {pulse.state}" + (f": {pulse.error}" if pulse.error else "")
    if _fails(pulse):
        words = f"{name} fails: {pulse.error}"
        return ("well", "") if earlier.is_failing else ("failed" if pulse.failures >= FAILURES else "waits", words)
    if pulse.last_trigger is None:
        return "waits", f"{name} {_NOT_POLLED}"
    if earlier.frontier is not None and pulse.frontier is not None and pulse.frontier < earlier.frontier:
        return (
            "failed",
            f"the frontier of {name} fell back from {earlier.frontier:%H:%M:%S} to {pulse.frontier:%H:%M:%S}",
        )
    return "well", ""


def _fails(pulse: Pulse) -> bool:
    return pulse.failures > 0 or pulse.state in ("parked", "failed at start")
