"""Spark's checkpoints, which may be lost, torn, restored from an old copy or logged to by two drivers."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakehouse.ingest.checkpoint import ASIDE, FOLDER

SHARED = "shared"
"""The checkpoint that drivers have in common."""
PARTS = ("offsets", "commits", "metadata")
"""Of a checkpoint: its two logs, and the file that names the query."""


class CheckpointInUseError(Exception):
    """Spark's own: another query has written the same entry of the offset log."""


class Checkpoints:
    """All checkpoints of a lake, and the copy of the shared one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._copy = folder / "checkpoints", folder / "copies"

    def folder(self, name: str) -> Path:
        return self._folder / name

    def lose(self) -> None:
        shutil.rmtree(self.folder(SHARED), ignore_errors=True)

    def save(self) -> None:
        shutil.rmtree(self._copy, ignore_errors=True)
        if self.folder(SHARED).exists():
            shutil.copytree(self.folder(SHARED), self._copy)

    def restore(self) -> None:
        """An old copy comes back, as from a backup."""
        if self._copy.exists():
            self.lose()
            shutil.copytree(self._copy, self.folder(SHARED))

    def log_twice(self) -> None:
        """A checkpoint that was lost under two living drivers: both have logged the same epoch, under two numbers."""
        for offsets in self._folder.glob(f"*/{FOLDER}/offsets"):
            (offsets / "1").write_text((offsets / "0").read_text())

    def tear(self, part: str, chance: random.Random) -> None:
        for folder in self._folder.glob(f"*/{FOLDER}"):
            tear(folder, part, chance)

    def set_aside(self) -> int:
        """How many damaged ones ingest has moved out of the way."""
        return len(list(self._folder.glob(f"*/{ASIDE}-*")))


def tear(folder: Path, part: str, chance: random.Random) -> bool:
    """Leave what a crash of the machine does of a part's newest file: nothing, half of it, or other bytes.

    False where the checkpoint has no such file.
    """
    newest = _newest(folder, part)
    if newest is None:
        return False
    content = newest.read_bytes()
    newest.write_bytes(chance.choice([b"", content[: len(content) // 2], bytes(len(content))]))
    return True


def _newest(folder: Path, part: str) -> Path | None:
    if part == "metadata":
        return folder / part if (folder / part).exists() else None
    entries = [path for path in (folder / part).glob("*") if path.name.isdigit()]
    return max(entries, key=lambda path: int(path.name), default=None)


@dataclass
class Log:
    """One of a checkpoint's logs: numbered entries in Spark's form, each put once."""

    folder: Path

    def put(self, number: int, entry: Mapping[str, Any] | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = ["v1", "{}"] if entry is None else ["v1", "{}", json.dumps(entry)]
        try:
            with (self.folder / str(number)).open("x") as file:
                file.write("\n".join(lines))
        except FileExistsError as taken:
            raise CheckpointInUseError(f"{self.folder.name}/{number} is there already") from taken

    def has(self, number: int) -> bool:
        """Whether there is such an entry. ValueError when it cannot be read, as Spark would not start with it."""
        return self._lines(number) is not None

    def read(self, number: int) -> dict[str, Any] | None:
        """What was put; None when there is no such entry. ValueError when it cannot be read."""
        lines = self._lines(number)
        return None if lines is None else dict(json.loads(lines[1]))

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        numbers = [int(path.name) for path in self.folder.glob("*")] if self.folder.exists() else []
        return (max(numbers), self.read(max(numbers)) or {}) if numbers else None

    def _lines(self, number: int) -> list[str] | None:
        path = self.folder / str(number)
        if not path.exists():
            return None
        version, *lines = path.read_text().splitlines() or [""]
        if version != "v1":
            raise ValueError(f"{path} begins with {version!r}")
        for line in lines:
            json.loads(line)
        return lines
