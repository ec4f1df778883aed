"""Who deployed what when, and how it went: a file for each deployment, which is the lock against a second one, too."""

from __future__ import annotations

import getpass
import re
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Literal

from pydantic import TypeAdapter, ValidationError

from lakehouse.config import Settings
from lakehouse.durations import brief
from lakehouse.errors import LakeError, UnknownOutcomeError
from lakehouse.fleet.versions import Version
from lakehouse.hours import instant_text
from lakehouse.store.files import Stored
from lakehouse.store.place import Place

Kind = Literal["deploy", "rollback", "restart", "stop"]
StepState = Literal["planned", "started", "well", "failed", "restored", "stopped"]
Outcome = Literal["done", "rolled back", "failed", "interrupted"]

STALE_AFTER = timedelta(seconds=90)
"""A deployment whose file is older than that, and which has not ended, has nobody any more."""
RENEW_EVERY = timedelta(seconds=20)
_FOLDER = "deployments"
_FILE = re.compile(rf"{_FOLDER}/[0-9]{{6,}}\.json")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is done to one application."""

    application: str
    action: Annotated[Literal["start", "replace", "stop"], "what is done"]
    version: Annotated[Version | None, "what it is to run; none where it is stopped"] = None
    before: Annotated[Version | None, "what it goes back to; none where nothing ran"] = None
    job: Annotated[str | None, "the new job"] = None
    former_job: Annotated[str | None, "the job that it replaces"] = None
    former_run: Annotated[str | None, "the run that it replaces"] = None
    back_job: Annotated[str | None, "the job with which `before` was brought back"] = None
    back_from_run: Annotated[str | None, "the run that this job replaces"] = None
    state: StepState = "planned"
    why: Annotated[str | None, "why it failed"] = None


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One deployment, as far as it has come. Times are by the clock of the machine that deploys."""

    number: int
    kind: Kind
    by: str
    reason: str
    host: str
    token: str
    began_at: datetime
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    why: str | None = None
    resumes: Annotated[int | None, "the deployment that died, which this one goes on with"] = None
    is_rolling_back: bool = False
    waves: tuple[tuple[str, ...], ...] = ()
    has_canary: Annotated[bool, "whether the rest waits for the first wave to prove itself"] = False
    steps: tuple[Step, ...] = ()

    def with_step(self, application: str, **changes: object) -> Deployment:
        """The same with changes to what is done to one application."""
        steps = tuple(
            replace(step, **changes) if step.application == application else step  # type: ignore[arg-type]
            for step in self.steps
        )
        return replace(self, steps=steps)

    def step(self, application: str) -> Step:
        return next(step for step in self.steps if step.application == application)

    def job_for(self, application: str) -> str:
        """The id of the application's new job.

        With a part of the token: numbers start again with a lake that is made again, and a launcher takes an old job of
        the same id for the new one.
        """
        return f"{application}-{self.number}-{self.token[:8]}"

    @property
    def releases(self) -> list[str]:
        return sorted({step.version.release for step in self.steps if step.version})


class Deployments:
    """The deployments of a lake's fleet, numbered from 1. The newest is whose turn it is."""

    def __init__(self, settings: Settings) -> None:
        place = Place(f"{settings.raw_root}/_fleet", settings.storage_options)
        self._storage = place.files()
        self._written_at: datetime | None = None

    def all(self) -> list[Deployment]:
        """The oldest first; those that cannot be read, such as a later release's, are left out."""
        read = [_deployment_in(self._storage.read(each.path)) for each in self._files()]
        return [each for each in read if each is not None]

    def newest(self) -> Deployment | None:
        """None before the first one, and where it cannot be read."""
        return self._newest_of(self._files())

    def died(self) -> Deployment | None:
        """The newest, where it died on its way; LakeError while it is under way: only one begins at a time."""
        return self._died(self._files())

    def begin(self, kind: Kind, reason: str, by: str | None = None) -> tuple[Deployment, Deployment | None]:
        """A new deployment, and the one before it as `died` gives it."""
        listed = self._files()
        number = int(listed[-1].path.rpartition("/")[2].removesuffix(".json")) + 1 if listed else 1
        died = self._died(listed)
        ours = Deployment(
            number=number,
            kind=kind,
            by=by or getpass.getuser(),
            reason=reason,
            host=socket.gethostname(),
            token=uuid.uuid4().hex[:12],
            began_at=datetime.now(UTC),
            resumes=died.number if died else None,
        )
        if not self._claim(ours):
            taken = _deployment_in(self._storage.read(_path(number)))
            raise _under_way(taken or ours, timedelta(0))
        self._written_at = datetime.now(UTC)
        return ours, died

    def write(self, deployment: Deployment) -> None:
        """Keep how far it has come; LakeError when another one has begun since, which must be left alone."""
        self.check(deployment)
        self._storage.write(_path(deployment.number), _adapter().dump_json(deployment, exclude_none=True))
        self._written_at = datetime.now(UTC)

    def renew(self, deployment: Deployment) -> None:
        """Say that somebody still deploys, now and then."""
        if self._written_at is None or datetime.now(UTC) - self._written_at >= RENEW_EVERY:
            self.write(deployment)

    def check(self, deployment: Deployment) -> None:
        """LakeError when a newer deployment has begun: this one was taken for dead."""
        newer = self._storage.read(_path(deployment.number + 1))
        if newer is not None:
            raise _under_way(_deployment_in(newer) or deployment, timedelta(0))

    def _newest_of(self, listed: Sequence[Stored]) -> Deployment | None:
        return _deployment_in(self._storage.read(listed[-1].path)) if listed else None

    def _died(self, listed: Sequence[Stored]) -> Deployment | None:
        newest = self._newest_of(listed)
        if newest is not None and newest.ended_at is None:
            age = datetime.now(UTC) - listed[-1].modified_at
            if abs(age) < STALE_AFTER:  # the clock may have been set back
                raise _under_way(newest, age)
        return newest if newest is not None and newest.outcome in (None, "interrupted") else None

    def _files(self) -> list[Stored]:
        """In their order; what else lies there, such as an editor's copy, is none of them."""
        return [each for each in self._storage.listing(_FOLDER) if _FILE.fullmatch(each.path)]

    def _claim(self, ours: Deployment) -> bool:
        content = _adapter().dump_json(ours, exclude_none=True)
        try:
            return self._storage.put_if_absent(_path(ours.number), content)
        except UnknownOutcomeError:
            found = _deployment_in(self._storage.read(_path(ours.number)))
            return found is not None and found.token == ours.token


class Journal:
    """One deployment as it goes on: each change is kept before what follows from it is done."""

    def __init__(self, deployments: Deployments, current: Deployment) -> None:
        self._deployments, self.current = deployments, current

    def keep(self, **changes: object) -> None:
        """LakeError when another deployment has begun since: this one was taken for dead, and must do nothing more."""
        self.current = replace(self.current, **changes)  # type: ignore[arg-type]
        self._deployments.write(self.current)

    def keep_step(self, application: str, **changes: object) -> None:
        self.current = self.current.with_step(application, **changes)
        self._deployments.write(self.current)

    def renew(self) -> None:
        self._deployments.renew(self.current)

    def end(self, outcome: Outcome, why: str | None = None) -> Deployment:
        self.keep(outcome=outcome, why=why, ended_at=datetime.now(UTC))
        return self.current


def last_well(deployments: Sequence[Deployment], application: str) -> list[Version]:
    """The versions of the application that were well, the newest first, each once."""
    steps = [step for each in reversed(deployments) for step in each.steps if step.application == application]
    versions = [
        step.version if step.state == "well" else step.before for step in steps if step.state in ("well", "restored")
    ]
    found: list[Version] = []
    for version in versions:
        if version is not None and version not in found:
            found.append(version)
    return found


def state_after(deployments: Sequence[Deployment], number: int) -> dict[str, Version]:
    """What each application ran when that deployment had ended."""
    found: dict[str, Version] = {}
    for step in (step for each in deployments if each.number <= number for step in each.steps):
        if step.state == "well" and step.version is not None:
            found[step.application] = step.version
        elif step.state == "restored" and step.before is not None:
            found[step.application] = step.before
        elif step.state == "stopped" or (step.state == "restored" and step.before is None):
            found.pop(step.application, None)
    return found


def _under_way(other: Deployment, age: timedelta) -> LakeError:
    return LakeError(
        f"deployment {other.number}",
        found=f"{other.kind} by {other.by} on {other.host} since {instant_text(other.began_at)}, last heard of "
        f"{brief(age.total_seconds())} ago",
        expected="one deployment at a time",
        next_step="Wait for its end. One that was not heard of for "
        f"{brief(STALE_AFTER.seconds)} counts as dead, and the next one goes on with it.",
    )


def _path(number: int) -> str:
    return f"{_FOLDER}/{number:06d}.json"


def _deployment_in(content: bytes | None) -> Deployment | None:
    try:
        return _adapter().validate_json(content) if content else None
    except ValidationError:
        return None


@cache
def _adapter() -> TypeAdapter[Deployment]:
    return TypeAdapter(Deployment)
