"""Waiting until applications that were started are well, or are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from lakehouse.config import Config
from lakehouse.durations import brief
from lakehouse.errors import LakehouseError
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.roll_out import Before, Verdict, verdict
from lakehouse.fleet.versions import Version
from lakehouse.operations.snapshot import read_topic
from lakehouse.store.heartbeats import Heartbeats
from lakehouse.store.history import History
from lakehouse.store.records import State

LOOK_SECONDS = 2.0
"""Between two looks at heartbeats and jobs."""
REQUEST_SECONDS = 60.0
"""After so long a job is asked once more to end: a launcher may by then have stronger means."""
CANARY_LOOK_SECONDS = 5.0
"""The same at the ledgers of a canary, which cost more: some requests for each topic."""
_READERS = 16


@dataclass(frozen=True)
class Started:
    """What is waited for: an application's new job, and what must be so when it is well."""

    application: str
    version: Version
    job: str
    former_run: str | None
    earlier: Mapping[str, Before] = field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """Looks at what was started, again and again; each time `between` is called, which may raise."""

    fleet: Fleet
    launcher: Launcher
    report: Callable[[str], None]
    between: Callable[[], None]

    def until_well(self, started: Sequence[Started]) -> str | None:
        """None once each is well; else why one is not, or not within `roll_out.wave_within`."""
        patience = self.fleet.file.roll_out.wave_within
        ends, said = time.monotonic() + patience.total_seconds(), set[str]()
        while True:
            failed, waits = self._verdicts(started)
            if failed:
                return _reasons(failed)
            if not waits:
                return None
            if time.monotonic() > ends:
                return f"not well within {brief(patience.total_seconds())}: {_reasons(waits)}"
            if (words := _reasons(waits)) not in said:  # old and new run write one heartbeat in turns
                self.report(f"waits: {words}")
                said.add(words)
            self._pause()

    def as_canary(self, started: Sequence[Started], began_at: datetime) -> str | None:
        """None once a topic has sealed a valid hour since then, or `roll_out.canary_for` is over; else what failed."""
        hold, names = self.fleet.file.roll_out.canary_for, ", ".join(each.application for each in started)
        self.report(f"canary: {names}, until it has sealed a valid hour, at most {brief(hold.total_seconds())}")
        next_look = time.monotonic()
        ends = next_look + hold.total_seconds()
        while time.monotonic() < ends:
            if failed := self._verdicts(started)[0]:
                return _reasons(failed)
            if time.monotonic() >= next_look:
                if (sealed := self._valid_hour(started, began_at)) is not None:
                    self.report(f"canary: sealed {sealed}, which is valid")
                    return None
                next_look = time.monotonic() + CANARY_LOOK_SECONDS
            self._pause()
        return self.until_well(started)

    def until_ended(self, jobs: Sequence[str]) -> str | None:
        """None once none of these jobs is active any more; else which one is after `roll_out.wave_within`."""
        patience = self.fleet.file.roll_out.wave_within
        ends, next_request = time.monotonic() + patience.total_seconds(), time.monotonic() + REQUEST_SECONDS
        while active := sorted(
            job.launch.id for job in self.launcher.jobs() if job.is_active and job.launch.id in jobs
        ):
            if time.monotonic() > ends:
                return f"not ended within {brief(patience.total_seconds())}: {', '.join(active)}"
            if time.monotonic() > next_request:
                for job in active:
                    self.launcher.end(job)
                next_request = time.monotonic() + REQUEST_SECONDS
            self._pause()
        return None

    def _verdicts(self, started: Sequence[Started]) -> tuple[dict[str, Verdict], dict[str, Verdict]]:
        """(those that failed, those that are waited for), by application."""
        config = self.fleet.config
        signs = {sign.heartbeat.application: sign for sign in Heartbeats(config.settings).all()}
        jobs = {job.launch.id: job for job in self.launcher.jobs()}
        found = {
            each.application: verdict(
                each.version,
                signs.get(each.application),
                jobs.get(each.job),
                each.former_run,
                each.earlier,
                config.now(),
            )
            for each in started
        }
        failed = {name: each for name, each in found.items() if each.state == "failed"}
        return failed, {name: each for name, each in found.items() if each.state == "waits"}

    def _valid_hour(self, started: Sequence[Started], began_at: datetime) -> str | None:
        names = [name for each in started for name in each.version.topics]
        for name, history in histories(self.fleet.config, names).items():
            newest = history.newest(State.VALID)
            if newest is not None and newest.hour is not None and newest.at >= began_at:
                return f"{name} {newest.hour}"
        return None

    def _pause(self) -> None:
        time.sleep(LOOK_SECONDS)
        self.between()


def histories(config: Config, names: Sequence[str]) -> dict[str, History]:
    """Of each topic what its ledger says of its newest hour and its last start; none of one that cannot be read."""

    def history(name: str) -> History | None:
        try:
            return read_topic(config.topic(name), config, newest_hours=0).history
        except LakehouseError:  # what is wrong with it, its heartbeat says
            return None

    with ThreadPoolExecutor(_READERS) as readers:
        read = zip(names, readers.map(history, names), strict=True)
        return {name: found for name, found in read if found is not None}


def _reasons(found: Mapping[str, Verdict]) -> str:
    return "; ".join(f"{name}: {', '.join(each.reasons)}" for name, each in found.items())
