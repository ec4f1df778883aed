"""What a target of mirroring has to do, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from lakehouse.errors import MirrorError
from lakehouse.hours import Hour
from lakehouse.tables import DataFile
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


def refusal(mirror: str, hour: SealedHour, there: int, where: str) -> MirrorError:
    """A run that was asleep since before the hour was sealed anew must not bring the old one back."""
    return MirrorError(
        f"mirror {mirror}: {hour.topic.name} {hour.hour}",
        found=f"revision {there} in {where}",
        expected=f"none newer than {hour.revision}, which was to be published",
        next_step="Nothing to do if another run is mirroring; else see `lakehouse explain` for the hour.",
    )


@contextmanager
def told_of(mirror: str, topic: Topic, hour: Hour, *kinds: type[Exception], expected: str) -> Iterator[None]:
    """A target's own errors of these kinds, told as a MirrorError that names the hour and says what was expected."""
    try:
        yield
    except kinds as refused:
        raise MirrorError(
            f"mirror {mirror}: {topic.name} {hour}",
            found=str(refused).strip()[:1000] or type(refused).__name__,
            expected=expected,
            next_step="Check the target and what it says; the hour stays due.",
        ) from refused


class Mirror(Protocol):
    """A target. Whatever it refuses is a MirrorError; tests/test_mirrors.py holds every target to this."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    def where(self, topic: Topic, hour: Hour) -> str:
        """The address at which a reader of the target finds the hour."""

    def publish(self, hour: SealedHour, *, anew: bool = False) -> None:
        """Make the hour readable, whole or not at all; a new revision replaces the whole hour.

        Idempotent: an hour that is there already in this revision is left as it is, as far as can be told without
        reading it; `anew` writes it all the same. An older revision than the one that is there is refused.
        """

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        """What a reader of the target now sees of the hour, counted by the target; None when it is not there."""
