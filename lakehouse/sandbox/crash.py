"""The crash kit: the application dies at each of its steps, goes on, and its tables must then tell the whole truth.

    python -m lakehouse.sandbox.crash                        # everything: in process, by random schedules, by SIGKILL
    python -m lakehouse.sandbox.crash --only 'seed 17'       # one case again, with what happened in it

Most deaths are played in this process (`schedules`), where a case takes a second or two. The same steps are then taken
by the real application with Spark: it is killed at one after the other, each life going on in the lake that the last
one left. Exit code 1 when anything is lost, doubled, changed or out of order, or when a death did not come.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml
from google.pubsub_v1 import types
from rich.console import Console
from rich.table import Table

from lakehouse import hours, steps
from lakehouse.config import Config, load
from lakehouse.ledger import Ledger
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.sandbox.invariants import Expected, violations, violations_so_far
from lakehouse.sandbox.schedules import Outcome, Schedule, dying_at, played, random_schedule, shrunk, write_suites
from lakehouse.tables import folders_of, ledger_table

HOUSE = Path(__file__).parents[2]
BUILD = Path("build/crash")
BY_PYTHON = (sys.executable, str(HOUSE / "jobs/run.py"))
BY_SPARK_SUBMIT = (str(HOUSE / "spark-submit.sh"), "run")
NOT_BY_SIGKILL = {"race lost, nothing given back": "needs two attempts at one slot at the same moment"}
_PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.1
_MANY = 2_600
"""More messages than one request acknowledges."""
_TOPIC, _SUBSCRIPTION = "projects/sandbox/topics/plays", "projects/sandbox/subscriptions/plays"

console = Console(width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True)
class Result:
    """One case. `kind` is how it died: played in process, by a random schedule, or killed."""

    kind: str
    name: str
    violations: tuple[str, ...]
    seconds: float

    @property
    def is_right(self) -> bool:
        return not self.violations


def main() -> int:
    arguments = _arguments()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    started = time.monotonic()
    results: list[Result] = []
    for result in _results(arguments):
        results.append(result)
        if not result.is_right:
            console.print(f"[red]{result.kind}: {result.name}: {'; '.join(result.violations[:3])}[/red]")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return _told(results, time.monotonic() - started)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crash", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--schedules", type=int, default=200, metavar="N", help="random schedules (default: 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first schedule's seed (default: 0)")
    parser.add_argument("--no-spark", action="store_true", help="leave out the deaths by SIGKILL, which take minutes")
    parser.add_argument("--only", metavar="NAME", help="only the cases with this name, told step by step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there, too")
    return parser.parse_args()


def _results(arguments: argparse.Namespace) -> Iterator[Result]:
    cases = [dying_at(step, seed) for step in steps.STEPS for seed in (arguments.seed, arguments.seed + 1)]
    cases += [random_schedule(seed) for seed in range(arguments.seed, arguments.seed + arguments.schedules)]
    if arguments.only:
        wanted = [case for case in cases if case.name == arguments.only]
        if arguments.only.startswith("seed ") and not wanted:
            wanted = [random_schedule(int(arguments.only.removeprefix("seed ")))]
        yield from (_explained(case) for case in wanted)
        return
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from _counted("in one process", _played_all(pool, cases), len(cases))
    if not arguments.no_spark:
        chosen = [step for step in steps.STEPS if step not in NOT_BY_SIGKILL]
        yield from _counted("by SIGKILL", killed_at(chosen, BUILD / "lake"), len(chosen) + 1)


def _played_all(pool: Executor, cases: Sequence[Schedule]) -> Iterator[Result]:
    yield from pool.map(result_of, cases)


def _counted(what: str, results: Iterator[Result], total: int) -> Iterator[Result]:
    with console.status(f"{what}: 0 of {total}") as status:
        for number, result in enumerate(results, 1):
            status.update(f"{what}: {number} of {total}")
            yield result


# --- in one process ------------------------------------------------------------------------------------------------


def result_of(schedule: Schedule) -> Result:
    started = time.monotonic()
    outcome = _played_apart(schedule)
    return _as_result(outcome, time.monotonic() - started)


def _played_apart(schedule: Schedule) -> Outcome:
    """In memory where there is a file system for that: what is played here, no power cut can reach."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        return played(schedule, Path(folder))


def _as_result(outcome: Outcome, seconds: float) -> Result:
    wrong = list(outcome.violations)
    if outcome.schedule.dies_once_at and not outcome.has_died:
        wrong.append("it did not die")
    kind = "played" if outcome.schedule.dies_once_at else "random"
    return Result(kind, outcome.schedule.name, tuple(wrong), round(seconds, 1))


def _explained(schedule: Schedule) -> Result:
    """The case again, in words; a failing one as short as it can be made."""
    started = time.monotonic()
    outcome = _played_apart(schedule)
    if outcome.violations:
        console.print(f"{len(schedule.acts)} acts fail; looking for fewer …")
        shorter = shrunk(schedule, lambda fewer: bool(_played_apart(fewer).violations))
        outcome = _played_apart(shorter)
        console.print(repr(shorter))
    console.print("\n".join(outcome.trace), markup=False)
    return _as_result(outcome, time.monotonic() - started)


# --- by SIGKILL ----------------------------------------------------------------------------------------------------


def killed_at(chosen: Sequence[str], folder: Path, *, seed: int = 0) -> Iterator[Result]:
    """The real application in one lake: a life for each step, ended there by SIGKILL, and one that goes to the end."""
    with Broker() as broker:
        lake = KilledLake(folder, broker, random.Random(seed))
        for step in chosen:
            started = time.monotonic()
            wrong = lake.life_until(step)
            yield Result("killed", step, tuple(wrong), round(time.monotonic() - started, 1))
        started = time.monotonic()
        wrong = lake.last_life()
        yield Result("killed", "the last life, to the end", tuple(wrong), round(time.monotonic() - started, 1))


class KilledLake:
    """A small topic, its broker, and the application as a process of its own. Each life has a new hour to deliver."""

    def __init__(self, folder: Path, broker: Broker, chance: random.Random) -> None:
        self._broker, self._chance = broker, chance
        self._folder = folder.absolute()
        self.config = _written_config(self._folder)
        self._topic = self.config.topic("plays")
        self._hour = hours.after(hours.hour_of(datetime.now(UTC)), -100)
        self._ids: list[str] = []
        self._lives = 0
        self._call("CreateTopic", types.Topic, name=_TOPIC)
        self._call("CreateSubscription", types.Subscription, name=_SUBSCRIPTION, topic=_TOPIC, ack_deadline_seconds=10)

    def life_until(self, step: str) -> list[str]:
        """Publish, ask for the hour's close, run until death; what is wrong then."""
        if step == "old mirror folder aside, new one not in place":
            left_over = Path(str(self.config.settings.mirrors["folder"]["path"]), "plays", self._hour)
            left_over.mkdir(parents=True)
        self.new_hour(_MANY if step == "half of the acks sent" else 40)
        code, log = self._run({steps.VARIABLE: step}, [])
        if code != -signal.SIGKILL:
            return [f"it ended with {code} instead of dying; see {log}"]
        return violations_so_far(self._topic, self.config)

    def last_life(self) -> list[str]:
        self.new_hour(40)
        code, log = self._run({}, ["--until-dry"])
        if code != 0:
            return [f"it ended with {code}; see {log}"]
        acknowledged = set(self._broker.published(_TOPIC)) - set(self._broker.unacked(_SUBSCRIPTION))
        wrong = violations(self._topic, self.config, Expected(set(self._ids), self._lives, acknowledged))
        return [*wrong, *(f"{left} is left over" for left in self._staged())]

    def new_hour(self, count: int) -> None:
        self._lives += 1
        start = hours.start_of(self._hour)
        payloads = [b"not json"]
        for _ in range(count):
            late = timedelta(hours=self._chance.choice([0, 0, 0, 2, 30]))
            event_id = f"e{len(self._ids)}"
            played_at = start + timedelta(seconds=self._chance.uniform(0, 3599)) - late
            self._ids.append(event_id)
            payloads.append(json.dumps({"event_id": event_id, "played_at": played_at.isoformat(), "n": 1}).encode())
            if self._chance.random() < 0.1:
                payloads.append(payloads[-1])
        messages = [types.PubsubMessage.pb()(data=payload) for payload in payloads]
        for first in range(0, len(messages), 1000):
            self._call("Publish", types.PublishRequest, topic=_TOPIC, messages=messages[first : first + 1000])

    def _request_close(self) -> None:
        """No later event will come, so a person has to say that the hour is over."""
        folders = folders_of(self.config.settings, "plays")
        ledger = Ledger(ledger_table(folders, self._topic, {}), "crash")
        ledger.record("close_requested", self._hour, {"by": "crash", "reason": "the hour is over"})

    def _run(self, environment: dict[str, str], arguments: list[str]) -> tuple[int | None, Path]:
        with self.started([*BY_PYTHON, *arguments], environment) as process:
            return self._watched(process), self.log

    @property
    def log(self) -> Path:
        """What the present life says."""
        return self._folder / f"life-{self._lives:02d}.log"

    @contextmanager
    def started(self, command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        """The application as an operator starts it; nothing of it is left afterwards."""
        known = {**os.environ, "PUBSUB_EMULATOR_HOST": self._broker.address, "PYSPARK_PYTHON": sys.executable}
        environment = {**known, "LAKEHOUSE_CONF": str(self.config.path), **environment}
        with self.log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env=environment, cwd=HOUSE, start_new_session=True
            )
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _watched(self, process: subprocess.Popen[bytes]) -> int | None:
        """How it ended; the hour's close is asked for once everything is read, and not before: it would be empty."""
        has_asked = False
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if not has_asked and not self._broker.unacked(_SUBSCRIPTION):
                self._request_close()
                has_asked = True
            time.sleep(_POLL_SECONDS)
        if has_asked:
            self._hour = hours.after(self._hour)
        return process.returncode

    def _staged(self) -> list[str]:
        staging = Path(str(self.config.settings.mirrors["folder"]["path"]), "plays", "_staging")
        return [str(left) for left in staging.glob("*")]

    def _call(self, method: str, kind: Any, **values: Any) -> None:
        DirectChannel(self._broker).unary_unary(f"/x/{method}")(kind.pb()(**values))


def _written_config(folder: Path) -> Config:
    """`conf/` and `expectations/` as an operator would write them."""
    for name in ("conf/topics", "expectations"):
        (folder / name).mkdir(parents=True)
    write_suites(folder / "expectations")
    settings = {
        "raw_root": str(folder / "raw"),
        "sealed_root": str(folder / "sealed"),
        "release": "crash",
        "ingest": {"trigger": "0.2 seconds", "dry_after": "0.2 seconds"},
        "frontier": {"source": "dry"},
        "mirrors": {"folder": {"kind": "folder", "path": str(folder / "mirror")}},
        "spark": {
            "spark.master": "local[2]",
            "spark.scheduler.mode": "FAIR",
            "spark.sql.shuffle.partitions": "2",
            "spark.databricks.delta.snapshotPartitions": "2",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.memory": "1g",
        },
    }
    topic = {
        "subscription": _SUBSCRIPTION,
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": {"n": "bigint"},
        "lateness": "1 hour",
        "quiet_period": "0 seconds",
        "dedup_horizon": "10 days",
        "first_hour": "earliest",
        "empty_hours": "skip",
        "slots": {"min": 1, "max": 2},
        "mirrors": ["folder"],
    }
    (folder / "conf/crash.yaml").write_text(yaml.safe_dump(settings))
    (folder / "conf/topics/plays.yaml").write_text(yaml.safe_dump(topic))
    return load(folder / "conf/crash.yaml")


# --- the end -------------------------------------------------------------------------------------------------------


def _told(results: Sequence[Result], seconds: float) -> int:
    table = Table("step", "played in one process", "killed, with Spark", title="Died there, went on, and what came out")
    for step in [*steps.STEPS, "the last life, to the end"]:
        here = [each for each in results if each.kind == "played" and repr(step) in each.name]
        killed = [each for each in results if each.kind == "killed" and each.name == step]
        if here or killed:
            table.add_row(step, _cell(here), _cell(killed) or f"[dim]{NOT_BY_SIGKILL.get(step, '')}[/dim]")
    console.print(table)
    scheduled = [each for each in results if each.kind == "random"]
    if scheduled:
        console.print(f"{len(scheduled)} random schedules: {_cell(scheduled)}")
    wrong = [each for each in results if not each.is_right]
    colour = "red" if wrong else "green"
    console.print(f"[bold {colour}]{len(results) - len(wrong)} right, {len(wrong)} wrong[/] in {seconds:.0f} s")
    for each in wrong:
        console.print(f"[red]{each.kind}: {each.name}[/red]")
        for violation in each.violations[:10]:
            console.print(f"  {violation}", markup=False)
    return 1 if wrong or not results else 0


def _cell(results: Sequence[Result]) -> str:
    if not results:
        return ""
    wrong = sum(not each.is_right for each in results)
    seconds = sum(each.seconds for each in results)
    return f"[red]{wrong} wrong[/red]" if wrong else f"[green]right[/green] ({len(results)} in {seconds:.0f} s)"


if __name__ == "__main__":
    sys.exit(main())
