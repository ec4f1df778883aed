"""The time that a lake goes by: the machine's, or in a lake of the sandbox that of the day which is replayed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

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
        machine_time, (_, settings) = now(), self._read()
        return machine_time + (settings[-1].ahead if settings else timedelta(0))

    def seconds(self) -> float:
        """Seconds since 1970, as brokers count."""
        return self().timestamp()

    def machine_time(self, moment: datetime) -> datetime:
        """What the machine's clock said at a moment of the day: Delta dates its versions by that."""
        _, settings = self._read()
        past = [each for each in settings if each.replayed <= moment] or settings[:1]
        if not past:
            return moment
        following = settings[len(past)].machine if len(past) < len(settings) else None
        at = moment - past[-1].ahead
        return at if following is None else min(at, following)

    def broker(self) -> str | None:
        """The address of the broker that replays, or did."""
        return self._read()[0]

    def set(self, moment: datetime, broker: str) -> None:
        """It is `moment` now, for whom `broker` serves. The day only goes forward."""
        _, settings = self._read()
        settings = [*settings, _Setting(now(), moment)]
        values = {"broker": broker, "set": [[each.machine.isoformat(), each.replayed.isoformat()] for each in settings]}
        aside = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        aside.replace(self.file)

    def end(self) -> None:
        """From here on the lake goes by the machine's clock."""
        self.file.unlink(missing_ok=True)

    def _read(self) -> tuple[str | None, list[_Setting]]:
        try:
            values = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None, []
        return values["broker"], [_Setting(*map(datetime.fromisoformat, each)) for each in values["set"]]


class _Setting(NamedTuple):
    """What the machine's clock said when the day's was set, and to what."""

    machine: datetime
    replayed: datetime

    @property
    def ahead(self) -> timedelta:
        return self.replayed - self.machine


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
