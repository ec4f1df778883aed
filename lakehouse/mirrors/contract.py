"""What a target of mirroring does, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from lakehouse.errors import MirrorError
from lakehouse.hours import Hour
from lakehouse.lineage.datasets import DatasetName, dataset_at
from lakehouse.mirrors.limits import Neighbour
from lakehouse.store.contents import Contents
from lakehouse.store.delta import DataFile
from lakehouse.store.place import Place
from lakehouse.store.records import Sealed
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone
    from lakehouse.value_checksum import Leaf


@dataclass(frozen=True)
class SealedHour:
    """One sealed hour as its manifest says: the exact files of one silver version, their paths relative to silver."""

    topic: Topic
    hour: Hour
    revision: int
    silver: Place
    silver_version: int
    files: tuple[DataFile, ...]
    rows: int
    id_checksum: int
    release: str
    columns: pa.Schema
    """Of silver as it is now, without `hour`: with fields that the topic no longer declares, which files may lack."""
    digests: Mapping[str, Contents] | None = None
    """Of each file by its path in silver; None where an older release sealed the hour, and not all are known."""


@dataclass(frozen=True)
class Count:
    """Rows, and the order-independent checksum of their event ids (`lakehouse.checksum`)."""

    rows: int
    id_checksum: int

    def __str__(self) -> str:
        return f"{self.rows} rows with id checksum {self.id_checksum}"


def digests_of(sealed: Sealed, hour: Hour) -> dict[str, Contents] | None:
    """The digest of each file by its path in silver, as the seal says; None where it does not say all."""
    if not sealed.has_all_digests:
        return None
    return {f"hour={hour}/{each.name}": Contents(each.sha256, each.crc32c) for each in sealed.digest_by_name.values()}


def manifest_of(hour: SealedHour) -> dict[str, Any]:
    """What a target keeps beside an hour: the same for the same sealed hour, whoever writes it.

    Keys: topic, hour, revision, silver_version, release, rows, id_checksum (as text).
    """
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
    """Hours of one topic that it takes at the same time."""

    keeps_rows: bool = False
    """Whether it answers SQL about them: `value_checksum`. What keeps files alone is compared by these."""

    @classmethod
    def from_config(cls, name: str, options: Any, spark: SparkOrNone) -> Mirror:
        """The mirror that the configuration describes, its keys read as the class's `Options`."""
        return cls(name, options)  # type: ignore[call-arg]  # a class that needs more has its own way

    @classmethod
    def objections(cls, topic: Topic, options: Any, neighbours: Sequence[Neighbour]) -> list[str]:
        """What keeps a mirror with these options from ever taking the topic, each with its name; no target is asked."""
        return []

    @classmethod
    def objections_to_lake(cls, options: Any, sealed_root: str) -> list[str]:
        """What keeps a mirror with these options from ever taking an hour of a lake there."""
        return []

    @classmethod
    def warnings(cls, topic: Topic, options: Any) -> list[str]:
        """What may keep single hours of the topic out of such a mirror."""
        return []

    @classmethod
    def type_name(cls, kind: pa.DataType) -> str:
        """The target's type of a column of that type, for the manual."""
        return "as it is"

    def where(self, topic: Topic, hour: Hour) -> str:
        """The address at which a reader of the target finds the hour."""

    def dataset(self, topic: Topic) -> DatasetName:
        """What the topic is there for a lineage server; by default the folder of its hours."""
        return dataset_at(self.where(topic, "").rstrip("/"))

    def hours(self, topic: Topic) -> set[Hour]:
        """Every hour that a reader may find there, whoever wrote it; `read_back` says how much of it is there."""

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        """Make the hour readable, whole or not at all; a new revision replaces the whole hour.

        Idempotent: an hour that is there already in this revision is left as it is, as far as this can be seen without
        reading it; with `force` it is written again. An older revision than the one that is there is refused.
        """

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        """What a reader of the target now sees of the hour, counted by the target; None when it is not there."""

    def differing(self, topic: Topic, hour: Hour, digests: Mapping[str, Contents]) -> list[str]:
        """What is not, byte by byte, as sealed: each file that a reader finds, with what was found and expected.

        Of an hour that `read_back` has found. `digests` are of the seal's files by their paths in silver. A target that
        keeps rows and not our files has none to compare.
        """
        return []

    def value_checksum(self, topic: Topic, hour: Hour, leaves: Sequence[Leaf]) -> int | None:
        """As `lakehouse.value_checksum` defines it, of these columns of the hour, by the target's own SQL.

        Of an hour that `read_back` has found, in a target that `keeps_rows`; None where it is gone by now.
        """
        return None

    def withdraw(self, hour: SealedHour) -> None:
        """Remove the hour and all that the target keeps of any revision of it; nothing there is fine."""

    def remains(self, hour: SealedHour) -> list[str]:
        """Where the target still keeps anything of a revision before this one: an erasure is to end with none.

        Also what no reader finds: copies in staging, pages of a file that are free.
        """


def refuse_older(mirror: Mirror, hour: SealedHour, present: int) -> None:
    """MirrorError when the revision `present` is a newer one: a run that slept must not bring the old one back."""
    if present > hour.revision:
        raise MirrorError(
            f"mirror {mirror.name}: {hour.topic.name} {hour.hour}",
            found=f"revision {present} in {mirror.where(hour.topic, hour.hour)}",
            expected=f"none newer than {hour.revision}, which was to be published",
            next_step="Nothing to do if another run is mirroring; else see `lakehouse explain` for the hour.",
        )


def is_wanted(mirror: Mirror, hour: SealedHour, present: Mapping[str, Any] | None, force: bool) -> bool:
    """Whether to write the hour to a target that has it with the manifest `present`; MirrorError as `refuse_older`."""
    refuse_older(mirror, hour, int(present["revision"]) if present else 0)
    return force or present != manifest_of(hour)


@contextmanager
def as_mirror_errors(mirror: Mirror, topic: Topic, hour: Hour, *kinds: type[Exception]) -> Iterator[None]:
    """Raises a target's own errors of these kinds, and OSErrors, as a MirrorError that says which hour and where."""
    caught: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except caught as refused:
        raise MirrorError(
            f"mirror {mirror.name}: {topic.name} {hour}",
            found=str(refused).strip()[:1000] or type(refused).__name__,
            expected=f"{mirror.where(topic, hour)} to answer",
            next_step="Check the target; the hour stays due.",
        ) from refused
