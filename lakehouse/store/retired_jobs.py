"""Which jobs of an application have a successor: started again, such a job ends at once and claims nothing."""

from __future__ import annotations

import os

from lakehouse.config import Settings
from lakehouse.store.applications import application_folder


def own_job() -> str:
    """The launcher's job that this process is a run of; empty where a person started it."""
    return os.environ.get("LAKEHOUSE_JOB", "")


class RetiredJobs:
    """Of the application that the settings are of. OSError or Google's own errors when the store refuses."""

    def __init__(self, settings: Settings) -> None:
        self._storage = application_folder(settings).below("retired").files()

    def add(self, job: str) -> None:
        self._storage.write(job, b"")

    def remove(self, job: str) -> None:
        self._storage.delete([job])

    def has(self, job: str) -> bool:
        return self._storage.read(job) is not None
