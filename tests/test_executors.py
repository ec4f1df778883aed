"""Real executors: one dies in the middle of a batch, two pull for one slot, and each event is delivered once.

One life of the application on a master and two workers, as in Spark's own event log; `make crash` lets executors die
at all of their steps.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lakehouse.crash.cluster import RACE_LOST, executors_killed_at
from lakehouse.crash.lives import END, Result
from lakehouse.crash.processes import UnavailableError

DIES_AT = "pull.files_durable"

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Life:
    results: dict[str, Result]
    events: list[dict[str, Any]]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["Event"].endswith(kind)]

    def attempts(self) -> dict[tuple[int, int], list[dict[str, Any]]]:
        """The ends of all attempts at a task, by (stage, number of the task)."""
        found: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for event in self.of_kind("ListenerTaskEnd"):
            found[event["Stage ID"], event["Task Info"]["Index"]].append(event)
        return found


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("executors")
    try:
        results = {result.name: result for result in executors_killed_at([DIES_AT], folder)}
    except UnavailableError as missing:
        pytest.skip(str(missing))
    (log,) = Path(folder, "lake", "events").iterdir()
    return Life(results, [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()])


def reasons(attempts: list[dict[str, Any]]) -> set[str]:
    return {attempt["Task End Reason"]["Reason"] for attempt in attempts}


def test_everything_is_delivered_once_whatever_executors_do(life: Life) -> None:
    """By the tables alone: nothing lost, nothing doubled, hours unchanged, mirrors equal, states in order."""
    assert {name: result.violations for name, result in life.results.items()} == {RACE_LOST: (), DIES_AT: (), END: ()}


def test_the_slots_of_an_epoch_are_pulled_by_more_than_one_executor(life: Life) -> None:
    hosts: dict[str | None, set[str]] = defaultdict(set)
    batches = {
        stage: job["Properties"].get("streaming.sql.batchId")
        for job in life.of_kind("ListenerJobStart")
        for stage in job["Stage IDs"]
    }
    for (stage, _), attempts in life.attempts().items():
        hosts[batches[stage]] |= {info["Host"] for each in attempts if not (info := each["Task Info"])["Speculative"]}
    assert any(batch is not None and len(of_batch) > 1 for batch, of_batch in hosts.items())


def test_what_a_killed_executor_had_begun_another_one_does(life: Life) -> None:
    """Spark says that it was lost, and the same task succeeded in another try."""
    lost = [attempts for attempts in life.attempts().values() if "ExecutorLostFailure" in reasons(attempts)]
    assert lost
    assert all("Success" in reasons(attempts) for attempts in lost)
    assert [event["Removed Reason"] for event in life.of_kind("ExecutorRemoved")][:1] == [
        "Command exited with code 137"
    ]


def test_two_attempts_at_one_slot_run_at_the_same_time_and_one_wins(life: Life) -> None:
    """Of the race Spark knows the winner; that the loser gave its messages back is what ended it."""
    first = [[attempt["Task Info"] for attempt in life.attempts()[stage, 0]] for stage in (0, 1)]
    ((original, speculative),) = [sorted(infos, key=lambda info: info["Speculative"]) for infos in first if infos[1:]]
    assert (original["Speculative"], speculative["Speculative"]) == (False, True)
    assert original["Launch Time"] < speculative["Launch Time"] < original["Finish Time"]
    assert original["Host"] != speculative["Host"]


def test_hours_are_sealed_by_executors(life: Life) -> None:
    """`seal.small_rows` is 0 there: no hour is small enough for the driver."""
    plans = [event["physicalPlanDescription"] for event in life.of_kind("SQLExecutionStart")]
    assert any("MapInArrow" in plan for plan in plans)
