"""What a target of mirroring has to do, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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


class Mirror(Protocol):
    """A target. Whatever it refuses is a MirrorError; tests/test_mirrors.py holds every target to this."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    def where(self, topic: Topic, hour: Hour) -> str:
        """The address at which a reader of the target finds the hour."""

    def publish(self, hour: SealedHour) -> None:
        """Make the hour readable, whole or not at all; a new revision replaces the whole hour.

        Idempotent: an hour that is there already in this revision is left as it is. An older revision than the one
        that is there is refused.
        """

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        """What a reader of the target now sees of the hour, counted by the target; None when it is not there."""
