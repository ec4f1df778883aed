"""What a target of mirroring has to do, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from pyspark.sql import SparkSession

from lakehouse.errors import MirrorError
from lakehouse.hours import Hour
from lakehouse.store.delta import DataFile
from lakehouse.topics import Topic


@dataclass(frozen=True)
class SealedHour:
    """One sealed hour as its manifest says: the exact files of one silver version, their paths relative to silver."""

    topic: Topic
    hour: Hour
    revision: int
    silver_uri: str
    silver_version: int
    files: tuple[DataFile, ...]
    rows: int
    id_checksum: int
    release: str
    storage_options: Mapping[str, str]


@dataclass(frozen=True)
class Count:
    rows: int
    id_checksum: int

    def __str__(self) -> str:
        return f"{self.rows} rows with id checksum {self.id_checksum}"


def manifest_of(hour: SealedHour) -> dict[str, Any]:
    """What a target keeps beside an hour: the same for the same sealed hour, whoever writes it."""
    return {
        "topic": hour.topic.name,
        "hour": hour.hour,
        "revision": hour.revision,
        "silver_version": hour.silver_version,
        "release": hour.release,
        "rows": hour.rows,
        "id_checksum": str(hour.id_checksum),
    }


class Mirror(Protocol):
    """A target. Whatever it refuses is a MirrorError; tests/test_mirrors.py holds every target to this."""

    name: str
    """As the configuration calls it."""

    hours_at_once: int = 1
    """Hours of one topic that it takes side by side."""

    @classmethod
    def opened(cls, name: str, options: Any, spark: SparkSession | None) -> Mirror:
        """The mirror that the configuration describes, its keys read as the class's `Options`."""
        return cls(name, options)  # type: ignore[call-arg]  # a class that needs more has its own way

    def where(self, topic: Topic, hour: Hour) -> str:
        """The address at which a reader of the target finds the hour."""

    def hours(self, topic: Topic) -> set[Hour]:
        """Every hour that a reader may find there, whoever wrote it; `read_back` tells what there is of it."""

    def publish(self, hour: SealedHour, *, anew: bool = False) -> None:
        """Make the hour readable, whole or not at all; a new revision replaces the whole hour.

        Idempotent: an hour that is there already in this revision is left as it is, as far as can be told without
        reading it; `anew` writes it all the same. An older revision than the one that is there is refused.
        """

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        """What a reader of the target now sees of the hour, counted by the target; None when it is not there."""


def refuse_older(mirror: Mirror, hour: SealedHour, there: int) -> None:
    """MirrorError when a newer revision is there: a run that slept meanwhile must not bring the old one back."""
    if there > hour.revision:
        raise MirrorError(
            f"mirror {mirror.name}: {hour.topic.name} {hour.hour}",
            found=f"revision {there} in {mirror.where(hour.topic, hour.hour)}",
            expected=f"none newer than {hour.revision}, which was to be published",
            next_step="Nothing to do if another run is mirroring; else see `lakehouse explain` for the hour.",
        )


def is_wanted(mirror: Mirror, hour: SealedHour, there: Mapping[str, Any] | None, anew: bool) -> bool:
    """Whether to write the hour to a target that has it with the manifest `there`; MirrorError as `refuse_older`."""
    refuse_older(mirror, hour, int(there["revision"]) if there else 0)
    return anew or there != manifest_of(hour)


@contextmanager
def told_of(mirror: Mirror, topic: Topic, hour: Hour, *kinds: type[Exception]) -> Iterator[None]:
    """A target's own errors of these kinds, and OSErrors, told as a MirrorError that says which hour and where."""
    told: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except told as refused:
        raise MirrorError(
            f"mirror {mirror.name}: {topic.name} {hour}",
            found=str(refused).strip()[:1000] or type(refused).__name__,
            expected=f"{mirror.where(topic, hour)} within reach",
            next_step="Check the target and what it says; the hour stays due.",
        ) from refused
