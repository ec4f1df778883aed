"""The time that a lake goes by: the machine's, or in a lake of the sandbox that of the day which is replayed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

Clock = Callable[[], datetime]

FILE = "_replayed.json"
"""In `raw_root`, beside the topics: written by the sandbox alone, and looked for in folders of this machine alone."""


def now() -> datetime:
    """By the machine's clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Replayed:
    """The clock of a lake whose sandbox replays a day: it goes as fast as the machine's, from where it was set last.

    Every process of the lake reads it from the one file, so that all have the same time; without the file it is the
    machine's.
    """

    file: Path

    def __call__(self) -> datetime:
        machine_time = now()
        return machine_time + _offset(self._values())

    def seconds(self) -> float:
        """Seconds since 1970, as brokers count."""
        return self().timestamp()

    def broker(self) -> str | None:
        """The address of the broker that replays, or did."""
        return self._values().get("broker")

    def set(self, moment: datetime, broker: str) -> None:
        """It is `moment` now, for whom `broker` serves."""
        values = {"replayed": moment.isoformat(), "machine": now().isoformat(), "broker": broker}
        aside = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        aside.replace(self.file)

    def end(self) -> None:
        """From here on the lake goes by the machine's clock."""
        self.file.unlink(missing_ok=True)

    def _values(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found


def clock_of(raw_root: str) -> Clock:
    """The clock of the lake at `raw_root`: what to give to all that asks for the time there."""
    return replayed_clock(raw_root) or now


def replayed_clock(raw_root: str) -> Replayed | None:
    """The clock of a day that is replayed; None for every lake that goes by the machine's.

    There is neither a setting nor a variable for it, so that no real lake is given one by mistake.
    """
    if "://" in raw_root:
        return None
    file = Path(raw_root, FILE)
    return Replayed(file) if file.exists() else None


def _offset(values: dict[str, str]) -> timedelta:
    if not values:
        return timedelta(0)
    return datetime.fromisoformat(values["replayed"]) - datetime.fromisoformat(values["machine"])
