"""What an application runs, or is to run; and one start of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from lakehouse.fleet.wanted import Size

ArtifactKind = Literal["releases", "snapshots"]
Artifact = tuple[ArtifactKind, str]
"""With its name, which says what is in it: none ever changes."""


@dataclass(frozen=True)
class Version:
    """What is started for an application. `configuration` is the hash that its heartbeat has, `suites` one of the
    suites of its topics; `snapshot` names the copy of `conf/` and `expectations/` that it reads, `conf` the
    environment's file in that."""

    release: str
    configuration: str
    suites: str
    snapshot: str
    conf: str
    topics: tuple[str, ...]
    size: Size = field(default_factory=Size)

    @property
    def artifacts(self) -> tuple[Artifact, Artifact]:
        """What has to be there before it can be started."""
        return ("releases", self.release), ("snapshots", self.snapshot)


@dataclass(frozen=True)
class Launch:
    """One start of an application. `id` is its job's: a second start with it is no other job."""

    id: str
    application: str
    version: Version


JobState = Literal["pending", "running", "waiting", "ended", "failed", "lost"]
"""`pending`: not started yet; `waiting`: it died, and is started again after a pause; `ended`: in order; `failed`: it
died and is not started again; `lost`: nobody knows how it ended, as after a restart of the machine."""


@dataclass(frozen=True)
class Job:
    """A start as its launcher tells of it. Times are the launcher's.

    `failures` counts how often it died in a row; `why` is what is known of the last time. A job that is `retired` has
    a successor: when it ends, it is not started again.
    """

    launch: Launch
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    failures: int = 0
    next_start_at: datetime | None = None
    why: str | None = None
    is_retired: bool = False
    log: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it runs, or will without anybody's doing."""
        return self.state in ("pending", "running", "waiting")


@dataclass(frozen=True)
class Running:
    """An application as its heartbeat and its launcher tell of it; what neither knows is None or empty.

    `is_alive`: by its heartbeat. `topics` are those that it has: neither ended nor taken over.
    """

    application: str
    is_alive: bool
    run: str | None = None
    host: str | None = None
    release: str | None = None
    configuration: str | None = None
    topics: tuple[str, ...] = ()
    job: Job | None = None

    @property
    def is_running(self) -> bool:
        return self.is_alive or (self.job is not None and self.job.is_active)
