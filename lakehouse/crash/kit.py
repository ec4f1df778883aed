"""The crash kit: the application dies at each of its steps, goes on, and its tables must then be complete and correct.

Most deaths are played in this process (`playing`), where a case takes a second or two. The same steps are then taken
by the real application with Spark, in two lakes side by side: it is killed at one step after the other, and at random
ones, each life going on in the lake that the last one left (`lives`). At last it runs on a cluster whose executors race
and die while it goes on (`cluster`). Everything is drawn by the seed.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lakehouse import failpoints
from lakehouse.crash.checkpoints import PARTS
from lakehouse.crash.cluster import OF_SLOTS, RACE_LOST, executors_killed_at
from lakehouse.crash.lives import END, KilledLake, Result
from lakehouse.crash.playing import Outcome, outcome_of
from lakehouse.crash.publisher import TRICKLES
from lakehouse.crash.schedules import (
    SEVERAL,
    Schedule,
    dying_at,
    of_several,
    random_schedule,
    shrunk,
    tear,
    trickling,
)
from lakehouse.sandbox.broker import Broker

BUILD = Path("build/crash")
NOT_BY_SIGKILL = {RACE_LOST: "needs two executors"}
LAKES = 2
"""Lakes whose lives go on side by side: a life uses little more than one core."""

_MOST_STEPS = 40
"""How far a life that dies at a random step may come: all that it has to deliver is delivered by then."""
_SEEDS = 2
_EXECUTORS = "executors"

console = Console(width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True)
class Choice:
    """What to play. Everything is drawn by `seed`; `only` is the name of one case."""

    schedules: int = 200
    kills: int = 6
    seed: int = 0
    has_spark: bool = True
    only: str | None = None


main = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@main.command()
def crash(
    schedules: Annotated[int, typer.Option(metavar="N", help="Random schedules.")] = Choice.schedules,
    kills: Annotated[int, typer.Option(metavar="N", help="Deaths at random steps, by SIGKILL.")] = Choice.kills,
    seed: Annotated[int, typer.Option(metavar="N", help="What everything is drawn by.")] = Choice.seed,
    no_spark: Annotated[
        bool, typer.Option("--no-spark", help="Leave out what needs Spark: it takes most of the time.")
    ] = False,
    only: Annotated[str | None, typer.Option(metavar="NAME", help="One case, printed step by step.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all results there, too.")
    ] = None,
) -> None:
    """Let the application die at each of its steps and go on; its tables must then be complete and correct.

    First by simulated deaths in this process, then by SIGKILL of the application with Spark, at last by those of
    executors of a cluster. The exit code is 1 when anything is lost, doubled, changed or out of order, or when a death
    did not come.

    Names for `--only`: `'seed 17'` is a random schedule, `ingest.close_recorded` or another step one death by SIGKILL
    and the life after it, `executors` all on a cluster.
    """
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    started = time.monotonic()
    results: list[Result] = []
    for result in _results(Choice(schedules, kills, seed, not no_spark, only)):
        results.append(result)
        if not result.is_right:
            console.print(
                f"{result.kind}: {result.name}: {'; '.join(result.violations[:3])}", style="red", markup=False
            )
    if only and not results:
        raise typer.BadParameter(f"no case is named {only!r}; --help lists some names", param_hint="--only")
    if json_file:
        json_file.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    raise typer.Exit(_print_report(results, time.monotonic() - started))


def _results(choice: Choice) -> Iterator[Result]:
    seed = choice.seed
    cases = [dying_at(step, seed + more) for step in failpoints.STEPS for more in range(_SEEDS)]
    cases += [tear(part, step, seed) for part in PARTS for step in ("pull.manifest_durable", "ingest.committed")]
    cases += [trickling(kind, seed) for kind in TRICKLES]
    cases += [of_several(name) for name in SEVERAL]
    cases += [random_schedule(number) for number in range(seed, seed + choice.schedules)]
    if choice.only:
        yield from _only(choice.only, cases, seed)
        return
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), initializer=_ending_at_once) as pool:
        yield from _with_count("in one process", _play_all(pool, cases), len(cases), is_shown=False)
    if choice.has_spark:
        deaths = deaths_of(seed, choice.kills)
        lakes = [kill_at(deaths[first::LAKES], BUILD / f"lake-{first + 1}", seed=seed) for first in range(LAKES)]
        yield from _with_count("by SIGKILL", _side_by_side(lakes), len(deaths) + LAKES)
        yield from _with_count(
            _EXECUTORS, executors_killed_at(OF_SLOTS, BUILD / "cluster", seed=seed), len(OF_SLOTS) + 1
        )


def _only(name: str, cases: Sequence[Schedule], seed: int) -> Iterator[Result]:
    wanted = [case for case in cases if case.name == name]
    if name.startswith("seed ") and not wanted:
        wanted = [random_schedule(int(name.removeprefix("seed ")))]
    yield from (_shortest_case(case) for case in wanted)
    if name.partition(":")[0] in (*failpoints.STEPS, failpoints.ANY) and name not in NOT_BY_SIGKILL:
        yield from _with_count("by SIGKILL", kill_at([name], BUILD / "lake", seed=seed), 2)
    if name == _EXECUTORS:
        yield from _with_count(name, executors_killed_at(OF_SLOTS, BUILD / "cluster", seed=seed), len(OF_SLOTS) + 1)


def _ending_at_once() -> None:
    """DuckDB's binding has much to say of what an interpreter leaves at its end, and nothing that matters here."""
    atexit.register(os._exit, 0)


def _play_all(pool: Executor, cases: Sequence[Schedule]) -> Iterator[Result]:
    yield from pool.map(result_of, cases)


def _with_count(what: str, results: Iterator[Result], total: int, *, is_shown: bool = True) -> Iterator[Result]:
    with console.status(f"{what}: 0 of {total}") as status:
        for number, result in enumerate(results, 1):
            status.update(f"{what}: {number} of {total}")
            if is_shown and result.is_right:
                console.print(
                    f"[dim]{result.kind} {number} of {total}: {result.name}: right, {result.seconds:.0f} s[/dim]"
                )
            yield result


def _side_by_side(lakes: Sequence[Iterator[Result]]) -> Iterator[Result]:
    """The results of all as they come, each lake in a thread of its own."""
    found: SimpleQueue[Result | BaseException | None] = SimpleQueue()

    def follow(results: Iterator[Result]) -> None:
        try:
            for result in results:
                found.put(result)
            found.put(None)
        except BaseException as failure:
            found.put(failure)

    for lake in lakes:
        Thread(target=follow, args=(lake,), daemon=True).start()
    running = len(lakes)
    while running:
        result = found.get()
        if isinstance(result, BaseException):
            raise result
        if result is None:
            running -= 1
        else:
            yield result


# --- in one process ------------------------------------------------------------------------------------------------


def result_of(schedule: Schedule) -> Result:
    started = time.monotonic()
    outcome = _play_apart(schedule)
    return _as_result(outcome, time.monotonic() - started)


def _play_apart(schedule: Schedule) -> Outcome:
    """In memory where there is a file system for that: what is played here, no power cut can reach."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        return outcome_of(schedule, Path(folder))


def _as_result(outcome: Outcome, seconds: float) -> Result:
    wrong = list(outcome.violations)
    if outcome.schedule.dies_once_at and not outcome.has_died:
        wrong.append("it did not die")
    kind = "played" if outcome.schedule.dies_once_at else "random"
    return Result(kind, outcome.schedule.name, tuple(wrong), round(seconds, 1))


def _shortest_case(schedule: Schedule) -> Result:
    """The case again, in words; a failing one as short as it can be made."""
    started = time.monotonic()
    outcome = _play_apart(schedule)
    if outcome.violations:
        console.print(f"{len(schedule.acts)} acts fail; looking for fewer …")
        shorter = shrunk(schedule, lambda fewer: bool(_play_apart(fewer).violations))
        outcome = _play_apart(shorter)
        console.print(repr(shorter))
    console.print("\n".join(outcome.trace), markup=False)
    return _as_result(outcome, time.monotonic() - started)


# --- by SIGKILL ----------------------------------------------------------------------------------------------------


def deaths_of(seed: int, at_random: int) -> list[str]:
    """Each step that one process can reach, and some that are only numbered, in an order of the seed's."""
    chance = random.Random(seed)
    deaths = [step for step in failpoints.STEPS if step not in NOT_BY_SIGKILL]
    deaths += [f"{failpoints.ANY}:{chance.randint(2, _MOST_STEPS)}" for _ in range(at_random)]
    chance.shuffle(deaths)
    return deaths


def kill_at(deaths: Sequence[str], folder: Path, *, seed: int = 0) -> Iterator[Result]:
    """The real application in one lake: a life for each death, and one that goes to the end.

    Every second life, so that the last after one death is one, finds its checkpoint torn.
    """
    with Broker() as broker:
        lake = KilledLake(folder, broker, random.Random(seed))
        is_torn = False
        for number, death in enumerate((*deaths, END)):
            started = time.monotonic()
            is_torn |= number % 2 == 1 and lake.tear_checkpoint()
            wrong = lake.last_life() if death == END else lake.life_until(death)
            if death == END and is_torn and not lake.has_set_aside():
                wrong.append("no torn checkpoint was set aside")
            yield Result("killed", death, tuple(wrong), round(time.monotonic() - started, 1))


# --- the end -------------------------------------------------------------------------------------------------------


def _print_report(results: Sequence[Result], seconds: float) -> int:
    table = Table("step", "played in one process", "killed, with Spark", "an executor killed")
    table.title = "Died there, went on, and what came out"
    by_number = sorted({each.name for each in results if each.name.startswith(f"{failpoints.ANY}:")}, key=_number)
    for step in [*failpoints.STEPS, *by_number, END]:
        here = [each for each in results if each.kind == "played" and repr(step) in each.name]
        killed, executors = (
            [r for r in results if r.kind == kind and r.name == step] for kind in ("killed", "executor")
        )
        if here or killed or executors:
            name = f"step {_number(step)} of a process, whichever it is" if step in by_number else step
            why_not = f"[dim]{NOT_BY_SIGKILL.get(step, '')}[/dim]"
            table.add_row(name, _cell(here), _cell(killed) or why_not, _cell(executors))
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


def _number(death: str) -> int:
    return int(death.partition(":")[2])


def _cell(results: Sequence[Result]) -> str:
    if not results:
        return ""
    wrong = sum(not each.is_right for each in results)
    seconds = sum(each.seconds for each in results)
    return f"[red]{wrong} wrong[/red]" if wrong else f"[green]right[/green] ({len(results)} in {seconds:.0f} s)"
