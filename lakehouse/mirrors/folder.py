"""Sealed hours as plain folders of Parquet files: `<path>/<topic>/<hour>/`, complete when `_SUCCESS` is there."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from lakehouse import failpoints
from lakehouse.clock import Clock, now
from lakehouse.config import Root
from lakehouse.errors import MirrorError
from lakehouse.hours import Hour, hours_among
from lakehouse.keys import Frozen, key
from lakehouse.mirrors.addresses import StorageOptions, files_at
from lakehouse.mirrors.contract import Count, Mirror, SealedHour, as_mirror_errors, manifest_of, refuse_older
from lakehouse.mirrors.files import Copy, Files, Found
from lakehouse.mirrors.limits import Neighbour, too_long
from lakehouse.mirrors.places import scheme_objections
from lakehouse.store.contents import Contents
from lakehouse.store.delta import DataFile, first_line
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone

SUCCESS = "_SUCCESS"
MANIFEST = "_manifest.json"
STAGING = "_staging"

ABANDONED_AFTER = timedelta(minutes=15)
"""Without any file finished for so long an attempt on another machine counts as dead; files take seconds."""

_ASIDE = "-aside"

_PART = re.compile(r"part-(\d+)-r\d+\.parquet")

_COMPONENT_BYTES = 255
"""Of one folder's name: NAME_MAX on Linux, and HDFS' `dfs.namenode.fs-limits.max-component-length`."""
_GCS_NAME_BYTES = 1024
"""Of an object's whole name, by the documentation of Cloud Storage."""
_BELOW_TOPIC_BYTES = 160
"""The longest that comes below a topic's folder: `_staging`, an attempt with its host, and a file."""


class FolderOptions(Frozen):
    """The keys of a mirror of kind `folder`."""

    kind: Literal["folder"]
    path: Root = key(
        min_length=1,
        unit="folder, hdfs:// or gs:// address",
        doc="Where hours appear, as `<path>/<topic>/<hour>/`.",
    )
    storage_options: StorageOptions = None
    hours_at_once: int = key(
        4,
        ge=1,
        unit="hours of a topic",
        doc="More, after an outage, where store and network have room; large hours are copied by Spark's executors.",
    )


class FolderMirror(Mirror):
    """Copies an hour into a staging folder, then makes it visible by one rename of that folder.

    A new revision takes two renames: the old folder into staging, the new one out of it. A reader finds the old hour,
    or for that moment none, or the new hour, and never a mix: the files of each revision have names of their own, so
    that even a reader that listed the old folder fails. A crash between the two leaves no hour, and the next publish
    writes it. A failure there puts the old one back.

    An object store renames a folder file by file. There `_SUCCESS` goes before the old folder moves and comes after the
    new one is whole.
    """

    Options = FolderOptions

    def __init__(self, name: str, path: str, files: Files, clock: Clock = now) -> None:
        self.name = name
        self._path, self._files = path, files
        self._clock = clock

    @classmethod
    def from_config(cls, name: str, options: FolderOptions, spark: SparkOrNone) -> FolderMirror:
        mirror = cls(name, options.path, files_at(options.path, name, spark, options.storage_options))
        mirror.hours_at_once = options.hours_at_once
        return mirror

    @classmethod
    def objections(cls, topic: Topic, options: FolderOptions, neighbours: Sequence[Neighbour]) -> list[str]:
        return folder_objections(topic, options.path, neighbours)

    def where(self, topic: Topic, hour: Hour) -> str:
        return f"{self._path}/{topic.name}/{hour}"

    def hours(self, topic: Topic) -> set[Hour]:
        with as_mirror_errors(self, topic, "*"):
            return hours_among(self._files.listing(f"{self._path}/{topic.name}") or {})

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        self.publish_at(self.where(hour.topic, hour.hour), hour, force=force)

    def publish_at(self, folder: str, hour: SealedHour, *, force: bool = False) -> None:
        """As `publish`, in a folder of the caller's choice beside `_staging`."""
        manifest = _manifest(hour)
        try:
            self._sweep(hour)
            if force or not self._is_published(folder, manifest):
                self._publish(hour, folder, manifest)
                failpoints.reach("mirror.in_place")
            self._sweep(hour)
        except OSError as refused:
            raise MirrorError(
                f"mirror {self.name}: {hour.topic.name} {hour.hour}",
                found=first_line(refused),
                expected=f"{folder} to take {sum(file.size_bytes for file in hour.files)} bytes",
                next_step="Check the space, the permissions and the server there; the hour stays due.",
            ) from refused

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        folder = self.where(topic, hour)
        try:
            listing = self._files.listing(folder)
            if listing is None or SUCCESS not in listing:
                return None
            return self._files.count([f"{folder}/{name}" for name in sorted(listing) if _is_read(name)])
        except OSError as refused:
            raise MirrorError(
                f"mirror {self.name}: {topic.name} {hour}",
                found=first_line(refused),
                expected=f"readable Parquet files in {folder}",
                next_step="Remove that folder if it is broken; the hour stays due and will be published again.",
            ) from refused

    def differing(self, topic: Topic, hour: Hour, digests: Mapping[str, Contents]) -> list[str]:
        return self.differing_in(self.where(topic, hour), topic, hour, digests)

    def differing_in(self, folder: str, topic: Topic, hour: Hour, digests: Mapping[str, Contents]) -> list[str]:
        """As `differing`, of an hour in this folder."""
        with as_mirror_errors(self, topic, hour):
            names = sorted(name for name in self._files.listing(folder) or {} if _is_read(name))
            found = dict(zip(names, self._files.contents([f"{folder}/{name}" for name in names]), strict=True))
        return list(_differences(found, dict(enumerate(digests[path] for path in sorted(digests)))))

    def withdraw(self, hour: SealedHour) -> None:
        self.withdraw_from([self.where(hour.topic, hour.hour)], hour)

    def withdraw_from(self, folders: Sequence[str], hour: SealedHour) -> None:
        """As `withdraw`, of an hour that is in these folders: each goes in one step as a reader sees it."""
        with as_mirror_errors(self, hour.topic, hour.hour):
            for folder in folders:
                self._files.remove(f"{folder}/{SUCCESS}")
                if self._files.listing(folder) is not None:
                    self._files.make_folder(self._staging(hour.topic))
                    aside = f"{self._staging(hour.topic)}/{hour.hour}-r{hour.revision}-{_attempt()}{_ASIDE}"
                    self._files.rename(folder, aside)
            self._sweep(hour)

    def remains(self, hour: SealedHour) -> list[str]:
        with as_mirror_errors(self, hour.topic, hour.hour):
            folder = self.where(hour.topic, hour.hour)
            is_older = self._files.listing(folder) is not None and _revision_at(self._files, folder) < hour.revision
            return [folder] * is_older + self.remains_in_staging(hour)

    def remains_in_staging(self, hour: SealedHour) -> list[str]:
        """Of attempts at revisions before this one, and what was moved aside for it."""
        staging, form = self._staging(hour.topic), re.compile(rf"{hour.hour}-r(\d+)-")
        found = {name: form.match(name) for name in sorted(self._files.listing(staging) or {})}
        return [
            f"{staging}/{name}"
            for name, revision in found.items()
            if revision and (int(revision[1]) < hour.revision or name.endswith(_ASIDE))
        ]

    def _is_published(self, folder: str, manifest: str) -> bool:
        listing = self._files.listing(folder)
        if listing is None or SUCCESS not in listing:
            return False
        return self._files.text(f"{folder}/{MANIFEST}") == manifest and _sizes(listing) == _sizes_in(manifest)

    def _publish(self, hour: SealedHour, folder: str, manifest: str) -> None:
        refuse_older(self, hour, _revision_at(self._files, folder))
        staged = f"{self._staging(hour.topic)}/{hour.hour}-r{hour.revision}-{_attempt()}"
        try:
            self._stage(hour, staged, manifest)
            refuse_older(self, hour, _revision_at(self._files, folder))
            self._swap(staged, folder)
        except Exception:
            with suppress(OSError):
                self._files.remove(staged)
            if not self._is_published(folder, manifest):  # else another run has won with the very same hour
                raise

    def _stage(self, hour: SealedHour, staged: str, manifest: str) -> None:
        """The whole hour in its own folder, durable; the last thing written says that it is whole."""
        self._files.make_folder(staged)
        copies = [
            Copy(hour.silver, file.path, f"{staged}/{name}", file.size_bytes) for name, file in _parts(hour).items()
        ]
        self._files.copy(copies)
        self._files.write(f"{staged}/{MANIFEST}", manifest)
        failpoints.reach("mirror.copied")
        written, expected = _sizes(self._files.listing(staged) or {}), _sizes_in(manifest)
        if written != expected:
            raise OSError(f"copies of {written} bytes where silver's log says {expected}")
        if self._files.renames_are_atomic:
            self._files.write(f"{staged}/{SUCCESS}", "")
        self._files.settle(staged)
        failpoints.reach("mirror.whole")

    def _swap(self, staged: str, folder: str) -> None:
        old = self._files.listing(folder)
        if old is None:
            self._reveal(staged, folder)
            return
        aside = staged + _ASIDE
        if not self._files.renames_are_atomic:
            self._files.remove(f"{folder}/{SUCCESS}")
        self._files.rename(folder, aside)
        failpoints.reach("mirror.old_aside")
        try:
            self._reveal(staged, folder)
        except Exception:
            if SUCCESS in old:
                with suppress(OSError):
                    self._reveal(aside, folder)
            raise

    def _reveal(self, whole: str, folder: str) -> None:
        self._files.rename(whole, folder)
        if not self._files.renames_are_atomic:
            failpoints.reach("mirror.copied")
            self._files.write(f"{folder}/{SUCCESS}", "")
        self._files.settle(folder.rpartition("/")[0])

    def _staging(self, topic: Topic) -> str:
        return f"{self._path}/{topic.name}/{STAGING}"

    def _sweep(self, hour: SealedHour) -> None:
        """Remove what dead attempts at this hour left, and the revisions that were moved aside.

        A dead attempt's folder is moved first: should it live after all, it then fails instead of showing half of it.
        """
        staging = self._staging(hour.topic)
        for name, found in sorted((self._files.listing(staging) or {}).items()):
            if not name.startswith(f"{hour.hour}-r"):
                continue
            with suppress(OSError):
                if not name.endswith(_ASIDE):
                    if not self._is_dead(f"{staging}/{name}", found):
                        continue
                    self._files.rename(f"{staging}/{name}", f"{staging}/{name}{_ASIDE}")
                    name += _ASIDE
                self._files.remove(f"{staging}/{name}")

    def _is_dead(self, staged: str, found: Found) -> bool:
        node, process = _attempter(staged)
        if node == platform.node() and not _is_running(process):
            return True
        within = self._files.listing(staged) or {}
        newest = max([found.changed_at, *(file.changed_at for file in within.values())])
        return self._clock() - newest > ABANDONED_AFTER


def _revision_at(files: Files, folder: str) -> int:
    """0 where no hour is."""
    text = files.text(f"{folder}/{MANIFEST}")
    return _revision_in(text) if text else 0


def folder_objections(topic: Topic, path: str, neighbours: Sequence[Neighbour]) -> list[str]:
    """Against the topic's folders below `path`. Files are silver's own, so that fields may have any name and type."""
    found = too_long("the topic's name", topic.name, _COMPONENT_BYTES) + scheme_objections(path)
    if path.startswith("gs://"):
        _, _, prefix = path.removeprefix("gs://").partition("/")
        found += too_long("addresses of files", f"{prefix}/{topic.name}/{'x' * _BELOW_TOPIC_BYTES}", _GCS_NAME_BYTES)
    found += [
        f"the same path {path} in the mirror {each.mirror}"
        for each in neighbours
        if each.topic.name == topic.name and each.options.path == path
    ]
    return found


def _parts(hour: SealedHour) -> dict[str, DataFile]:
    """The files by the names that they get, which no other revision's have."""
    return {f"part-{number:05d}-r{hour.revision}.parquet": file for number, file in enumerate(hour.files)}


def _differences(found: Mapping[str, Contents], sealed: dict[int, Contents]) -> Iterator[str]:
    """Of files by their names, against those of the seal by the number that a name has."""
    for name, contents in found.items():
        form = _PART.fullmatch(name)
        expected = sealed.pop(int(form[1]), None) if form else None
        if expected is None:
            yield f"{name}: no file of the hour's seal"
        elif contents.differs_from(expected):
            wanted = expected if contents.sha256 else Contents(crc32c=expected.crc32c)
            yield f"{name}: {contents}, expected {wanted}, as sealed"
    for number in sealed:
        yield f"part-{number:05d}: no such file"


def _is_read(name: str) -> bool:
    """Whether Spark, Hive and others read a file of that name, whoever put it into the folder."""
    return not name.startswith(("_", "."))


def _manifest(hour: SealedHour) -> str:
    manifest = {
        **manifest_of(hour),
        "files": [
            {"name": name, "rows": file.rows, "size_bytes": file.size_bytes, "silver_path": file.path}
            for name, file in _parts(hour).items()
        ],
    }
    return json.dumps(manifest, indent=2) + "\n"


def _revision_in(manifest: str) -> int:
    try:
        return int(json.loads(manifest)["revision"])
    except (ValueError, KeyError, TypeError):
        return 0  # not ours or broken: to be replaced


def _sizes_in(manifest: str) -> dict[str, int]:
    return {file["name"]: file["size_bytes"] for file in json.loads(manifest)["files"]}


def _sizes(listing: Mapping[str, Found]) -> dict[str, int]:
    return {name: found.size_bytes for name, found in listing.items() if _is_read(name)}


def _attempt() -> str:
    return f"{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}"


def _attempter(staged: str) -> tuple[str, int]:
    """Node and process of an attempt; process 0, which always runs, when the name is not one of ours."""
    hour_and_revision, _, attempt = staged.rpartition("/")[2].partition("-r")
    node, *numbers = attempt.partition("-")[2].rsplit(".", 2)
    return (node, int(numbers[0])) if hour_and_revision and len(numbers) == 2 and numbers[0].isdigit() else ("", 0)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
