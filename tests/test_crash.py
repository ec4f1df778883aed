"""Whatever is interrupted, lost or repeated: each event is delivered once, and no sealed hour ever changes.

`make crash` runs these at more seeds, and takes the real application through every step.
"""

from __future__ import annotations

import ast
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from threading import Thread

import pytest
from google.pubsub_v1 import types
from typer.testing import CliRunner

from lakehouse import failpoints
from lakehouse.config import load
from lakehouse.crash import kit, lives
from lakehouse.crash.playing import Outcome, outcome_of
from lakehouse.crash.publisher import TRICKLES
from lakehouse.crash.schedules import (
    SEVERAL,
    Act,
    Schedule,
    dying_at,
    of_several,
    random_schedule,
    shrunk,
    tear,
    trickling,
)
from lakehouse.crash.small_lake import SUBSCRIPTION
from lakehouse.errors import MISUSE
from lakehouse.ingest import batch, closing
from lakehouse.ingest.adoption import Manifests
from lakehouse.ingest.facts import Fact
from lakehouse.operations import status
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.seal import dedup, deliveries
from lakehouse.store.delta import open_table
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.store.records import Closed, State

HOUSE = Path(__file__).parent.parent
SCHEDULES = 25
FAST = 4
"""Of these, what `make test-fast` plays."""
EVERY = 5
"""Of so many steps, `make test-fast` dies at one; and of so many things that happen to one topic of several."""
NOTHING: list[str] = []


# --- the catalogue -------------------------------------------------------------------------------------------------


def steps_in_code() -> Iterator[str]:
    """Every step's name as it stands in a call, or is handed to one."""
    for file in (HOUSE / "lakehouse").rglob("*.py"):
        if file.name not in ("failpoints.py", "schedules.py", "kit.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "reach":
                    yield from (str(each.value) for each in node.args if isinstance(each, ast.Constant))
                elif isinstance(node, ast.keyword) and node.arg == "halfway" and isinstance(node.value, ast.Constant):
                    yield str(node.value.value)


def test_the_catalogue_has_every_step_of_the_code_and_no_other() -> None:
    """A step that nobody can die at proves nothing, and one without a line says nothing."""
    assert set(steps_in_code()) == {*failpoints.STEPS, *failpoints.CARE_STEPS, *failpoints.LARGE_HOUR_STEPS}


def test_a_step_that_the_catalogue_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a misspelled death would never come, and its test would pass."""
    monkeypatch.setenv(failpoints.GROUP_VARIABLE, "")
    failpoints.reach("half way there")
    monkeypatch.setenv(failpoints.VARIABLE, "half way there")
    with pytest.raises(ValueError, match=r"no step 'half way there'; there are: ingest\.started, "):
        failpoints.reach("half way there")
    with pytest.raises(ValueError, match="no step 'half way there'"):
        failpoints.lead()


def test_a_process_can_die_at_its_nth_step_whichever_that_is() -> None:
    """Moments that nobody thought of."""
    code = (
        "from lakehouse import failpoints\n"
        "for n, step in enumerate(failpoints.STEPS): print(n, flush=True); failpoints.reach(step)"
    )
    environment = {**os.environ, failpoints.VARIABLE: "any:3", failpoints.GROUP_VARIABLE: ""}
    died = subprocess.run(
        [sys.executable, "-c", code], env=environment, start_new_session=True, capture_output=True, text=True
    )
    assert (died.returncode, died.stdout.split()) == (-signal.SIGKILL, ["0", "1", "2"])


# --- the kit's command line ----------------------------------------------------------------------------------------


def test_the_kit_plays_one_case_and_writes_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(kit.main, ["--only", "seed 3", "--json", "results.json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads((tmp_path / "results.json").read_text())
    assert (result["kind"], result["name"], result["violations"]) == ("random", "seed 3", [])


def test_a_case_that_the_kit_does_not_know_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without a line looked like a run in which nothing is wrong."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(kit.main, ["--only", "sed 3"])
    assert done.exit_code == MISUSE
    assert "no case is named 'sed 3'" in done.output


# --- deaths in one process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=[] if number % EVERY == 0 else pytest.mark.slow)
        for number, step in enumerate(failpoints.STEPS)
    ],
)
def test_a_death_at_any_step_loses_and_doubles_nothing(step: str, tmp_path: Path) -> None:
    outcome = outcome_of(dying_at(step), tmp_path)
    assert outcome.has_died
    assert outcome.violations == NOTHING


@pytest.mark.parametrize(
    "seed",
    [
        *range(FAST),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(FAST, SCHEDULES // 2)),
        *(pytest.param(seed, marks=pytest.mark.long) for seed in range(SCHEDULES // 2, SCHEDULES)),
    ],
)
def test_a_random_schedule_loses_and_doubles_nothing(seed: int, tmp_path: Path) -> None:
    """Faults of the broker, deaths, two drivers, lost and restored checkpoints, events late by days."""
    assert outcome_of(random_schedule(seed), tmp_path).violations == NOTHING


def test_a_schedule_is_its_seed(tmp_path: Path) -> None:
    """What is found at night must be there in the morning."""
    first, second = (outcome_of(random_schedule(7), tmp_path / name) for name in ("first", "second"))
    assert first.trace == second.trace


def left_out(*facts: object) -> list[Fact]:
    return []


@pytest.mark.slow
def test_the_schedules_find_what_is_not_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are hard enough: without adoption, manifests of dead drivers are lost, and a short schedule shows it."""
    monkeypatch.setattr(Manifests, "adoptable", left_out)
    number = iter(range(10**6))

    def outcome(schedule: Schedule) -> Outcome:
        return outcome_of(schedule, tmp_path / str(next(number)))

    dies_with_two_slots = Schedule(
        "not adopted",
        (
            Act("publish", 1, amount=12),
            Act("wait", amount=60),
            Act("start", 4),
            Act("batch", dies_at="ingest.decided"),
            Act("lose"),
        ),
    )
    found = outcome(dies_with_two_slots)
    assert any("in no commit" in wrong for wrong in found.violations)
    shorter = shrunk(dies_with_two_slots, lambda fewer: bool(outcome(fewer).violations))
    assert "wait" not in {act.kind for act in shorter.acts}
    assert len(shorter.acts) < len(dies_with_two_slots.acts)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if number % EVERY == 0 else pytest.mark.slow) for number, name in enumerate(SEVERAL)],
)
def test_what_happens_to_one_topic_of_an_application_loses_and_doubles_nothing_of_any(
    name: str, tmp_path: Path
) -> None:
    outcome = outcome_of(of_several(name), tmp_path)
    assert outcome.violations == NOTHING
    assert "not finished" not in " ".join(outcome.trace)


# --- what was found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["pull.manifest_durable", "ingest.batch_done"])
def test_a_topic_s_very_first_batch_can_be_planned_again(step: str, tmp_path: Path) -> None:
    """Its start is asked for again, when its epoch is known already: it looked like a batch of nothing, for ever."""
    first = Schedule(
        "the first batch again",
        (Act("publish", 1, amount=5), Act("start", 3), Act("batch", dies_at=step), Act("batch"), Act("batch")),
        first_hour="now",
    )
    assert outcome_of(first, tmp_path).violations == NOTHING


def test_a_close_of_a_driver_that_died_is_recorded_by_the_one_that_lives(tmp_path: Path) -> None:
    """It started before the other's last commit, so its start could not find it."""
    schedule = Schedule(
        "a close nobody recorded",
        (
            Act("publish", 1, amount=6),
            Act("batch"),
            Act("close"),
            Act(
                "batch",
                at="ingest.decided",
                meanwhile=(Act("start", 2, "b"),),
                dies_at="ingest.committed",
            ),
            Act("wait", amount=7200),
            Act("publish", 3, amount=5),
            Act("batch", driver="b"),
            Act("close"),
            Act("batch", driver="b"),
        ),
    )
    assert outcome_of(schedule, tmp_path).violations == NOTHING


def test_an_epoch_that_two_drivers_logged_under_two_numbers_is_gone_over(tmp_path: Path) -> None:
    """The second number is a batch of nothing, which was an error at every start from then on."""
    schedule = Schedule(
        "logged twice",
        (Act("publish", 1, amount=9), Act("batch"), Act("stop"), Act("log twice"), Act("batch"), Act("batch")),
    )
    assert outcome_of(schedule, tmp_path).violations == NOTHING


# --- what is torn, trickles, has one id or is empty for long --------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "step"),
    [("offsets", "ingest.offsets_logged"), ("commits", "ingest.committed"), ("metadata", "pull.manifest_durable")],
)
def test_a_torn_checkpoint_loses_and_doubles_nothing(part: str, step: str, tmp_path: Path) -> None:
    """A crash of the machine leaves a file empty, cut or full of zeros: Spark could not start with it, ever."""
    outcome = outcome_of(tear(part, step), tmp_path)
    assert outcome.violations == NOTHING
    assert outcome.set_aside == 2


@pytest.mark.parametrize(
    "kind", [kind if kind == "rejected" else pytest.param(kind, marks=pytest.mark.slow) for kind in TRICKLES]
)
def test_a_steady_trickle_holds_no_hour_for_longer_than_promised(kind: str, tmp_path: Path) -> None:
    assert outcome_of(trickling(kind), tmp_path).violations == NOTHING


@pytest.mark.slow
def test_the_schedules_find_an_hour_that_a_trickle_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are hard enough: without the bounds, late events keep their hour open, and the promise is seen broken."""
    monkeypatch.setattr(closing, "LONGEST_QUIET_WAIT", 10**6)
    monkeypatch.setattr(batch, "counts_for_quiet", lambda published, bucket, topic: True)
    found = outcome_of(trickling("late"), tmp_path).violations
    assert any("is still open at" in wrong for wrong in found)


BATCHES = [(Act("publish", seed, amount=14), Act("batch"), Act("wait", amount=1800)) for seed in range(3)]
ONE_ID_TWICE = Schedule(
    "ids of two events",
    (
        *chain.from_iterable(BATCHES),
        Act("wait", amount=7200),
        Act("batch"),
        Act("stages"),
        Act("publish", 9, amount=14),
    ),
)


@pytest.mark.slow
def test_events_of_one_id_are_all_delivered(tmp_path: Path) -> None:
    """In one hour, in two, late and delivered again."""
    assert outcome_of(ONE_ID_TWICE, tmp_path).violations == NOTHING


@pytest.mark.slow
def test_the_schedules_find_a_seal_by_the_id_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "duplicates", lambda scan, identity: dedup.duplicates(scan, ("event_id",)))
    assert any("is not in silver" in wrong for wrong in outcome_of(ONE_ID_TWICE, tmp_path).violations)


def test_many_empty_hours_close_as_one_range(tmp_path: Path) -> None:
    schedule = Schedule(
        "six weeks of nothing",
        (Act("publish", 1, amount=6), Act("batch"), Act("wait", amount=1100 * 3600), Act("publish", 2), Act("batch")),
        empty_hours="close",
        first_hour="now",
    )
    assert outcome_of(schedule, tmp_path).violations == NOTHING
    history = Ledger(LedgerTable(open_table(str(tmp_path / "sealed" / "plays" / "ledger"), {})), by="").history()
    closes = [entry.of(Closed) for entry in history.entries if entry.state == State.CLOSED]
    assert [close.rows for close in closes if close.through] == [0]


# --- two drivers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 6))])
def test_the_older_of_two_drivers_stops_and_harms_nothing(seed: int, tmp_path: Path) -> None:
    """On one checkpoint or on two, with numbers of slots by the seed, in the middle of the older one's batch."""
    schedule = Schedule(
        "two drivers",
        (
            Act("publish", seed, amount=10),
            Act("start", seed),
            Act("batch"),
            Act("publish", seed + 10, amount=10),
            Act(
                "batch",
                at=["ingest.offsets_logged", "pull.files_durable", "ingest.decided"][seed % 3],
                meanwhile=(Act("start", seed + 20, "b"), Act("batch", driver="b")),
            ),
            Act("publish", seed + 30, amount=10),
            Act("batch"),
            Act("batch", driver="b"),
        ),
    )
    outcome = outcome_of(schedule, tmp_path)
    assert outcome.violations == NOTHING
    stopped = [line for line in outcome.trace if "StaleDriverError" in line or "CheckpointInUseError" in line]
    assert stopped


# --- SIGKILL, with Spark -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param(["ingest.committed"], id="once"),
        pytest.param(["pull.manifest_durable", "seal.committed"], id="twice", marks=pytest.mark.long),
    ],
)
def test_the_application_goes_on_after_each_sigkill(deaths: list[str], tmp_path: Path) -> None:
    """The one after the first death finds a torn checkpoint; the last delivers everything and ends on SIGTERM.

    `make crash` dies at all steps.
    """
    results = list(kit.kill_at(deaths, tmp_path))
    assert [result.name for result in results] == [*deaths, lives.END]
    assert {result.name: result.violations for result in results if result.violations} == {}
    assert list((tmp_path / "raw").glob("_applications/crash/checkpoint-damaged-*"))
    (row,) = status.statuses(load(tmp_path / "conf" / "crash.yaml"), ["plays"], datetime.now(UTC))
    assert row.life is not None
    assert (row.state, row.life.why_ended) == ("not running", "asked to")


# --- SIGTERM -------------------------------------------------------------------------------------------------------

PATIENCE_SECONDS = 120


def pulled_at_once(broker: Broker) -> int:
    request = types.PullRequest.pb()(subscription=SUBSCRIPTION, max_messages=1000)
    pull = DirectChannel(broker).unary_unary("/x/Pull")
    return sum(len(page) for page in iter(lambda: pull(request).received_messages, []))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sigterm_ends_a_run_within_a_batch_and_leaves_nothing_leased(tmp_path: Path) -> None:
    """In the middle of a backlog: what was not read is there for another run at once. A bare job: test_application."""
    with Broker() as broker:
        lake = lives.KilledLake(tmp_path, broker, random.Random(0))
        lake.new_hour(10)
        with lake.application_process(lives.BY_SPARK_SUBMIT, {}) as process:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while broker.unacked(SUBSCRIPTION) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            lake.new_hour(20_000)
            asked_at = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE_SECONDS)
        assert time.monotonic() - asked_at < 60
        assert code == 128 + signal.SIGTERM
        left = len(broker.unacked(SUBSCRIPTION))
        assert pulled_at_once(broker) == left


def test_the_first_that_comes_to_a_hold_waits_until_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a race of two attempts can be had: the one that was slow finds that it has lost."""
    monkeypatch.setenv(failpoints.EXECUTORS_VARIABLE, str(tmp_path))
    hold, held = tmp_path / "pull.received.hold", tmp_path / "pull.received.held"
    hold.touch()
    first = Thread(target=failpoints.reach, args=("pull.received",))
    first.start()
    while not held.exists():
        assert first.is_alive()
    failpoints.reach("pull.received")
    assert first.is_alive()
    held.unlink()
    first.join(10)
    assert not first.is_alive()
