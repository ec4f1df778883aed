"""Spark's checkpoints, which may be lost, restored from an old copy or logged to by two drivers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARED = "shared"
"""The checkpoint that drivers have in common."""


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
        for offsets in self._folder.glob("*/offsets"):
            (offsets / "1").write_text((offsets / "0").read_text())


@dataclass
class Log:
    """One of a checkpoint's logs: numbered entries, each put once."""

    folder: Path
    _mine: dict[int, Any] = field(default_factory=dict)

    def put(self, number: int, entry: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with (self.folder / str(number)).open("x") as file:
                json.dump(entry, file)
        except FileExistsError as taken:
            raise CheckpointInUseError(f"{self.folder.name}/{number} is there already") from taken

    def read(self, number: int) -> dict[str, Any] | None:
        path = self.folder / str(number)
        return dict(json.loads(path.read_text())) if path.exists() else None

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        numbers = [int(path.name) for path in self.folder.glob("*")] if self.folder.exists() else []
        if not numbers:
            return None
        return max(numbers), self.read(max(numbers)) or {}
