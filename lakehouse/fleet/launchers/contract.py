"""What every launcher can do, and what a caller may count on."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from lakehouse.fleet.releases import NOTHING_BROUGHT, Brought, Parts
from lakehouse.fleet.versions import ArtifactKind, Job, Launch


class Launcher(Protocol):
    """Starts, finds, stops and tells of applications. LakehouseError when it cannot say or do what is asked.

    What it starts outlives the process that asked for it, and is started again when it dies.
    """

    kind: str

    def keep(self, kind: ArtifactKind, name: str, parts: Parts) -> None:
        """Have a release or a snapshot there for all jobs that name it, unless it is."""

    def check(self, launch: Launch, brought: Brought = NOTHING_BROUGHT) -> None:
        """LakehouseError where it could not be started: its release or snapshot is neither there nor brought.

        Changes nothing, and asks nothing of the launch's id.
        """

    def start(self, launch: Launch) -> None:
        """Start a job; nothing where there is one of that id already, as after an answer that was lost."""

    def retire(self, job: str, *, is_retired: bool = True) -> None:
        """From now on a job that ends is not started again, as its successor has its topics; or it is, once more."""

    def end(self, job: str) -> None:
        """Ask a job to end in order; it is not waited for. Nothing for one that has ended.

        One that does not, although it was asked, is killed: by the launcher itself, or when it is asked to once more.
        """

    def jobs(self, patience: timedelta | None = None) -> list[Job]:
        """All jobs that are known of, the oldest first. `patience`: after so long without an answer it is an error."""

    def log_tail(self, job: str, lines: int) -> list[str]:
        """The last lines of what the job printed; none where it printed nothing."""
