"""The load decides how many slots pull an epoch, and on a cluster how many executors there are for them.

One life of the application on a master and two workers with dynamic allocation, as Spark's own event log tells it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from folders import folders_of

from lakehouse.crash.cluster import Clock, ClusterLake, cluster
from lakehouse.crash.lives import BY_PYTHON
from lakehouse.crash.processes import UnavailableError
from lakehouse.operations import status as fleet
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.faults import Faults
from lakehouse.store.bronze_log import ingest_commits
from lakehouse.store.delta import open_table

SHARE = 40
"""Messages of a slot."""
DYNAMIC = {
    "spark.dynamicAllocation.enabled": "true",
    "spark.dynamicAllocation.shuffleTracking.enabled": "true",
    "spark.dynamicAllocation.minExecutors": "1",
    "spark.dynamicAllocation.schedulerBacklogTimeout": "1s",
    # Two triggers: of several idle executors Spark takes any for the next one, so that longer ones rarely run out.
    "spark.dynamicAllocation.executorIdleTimeout": "4s",
}

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


class Slow(Faults):
    """A slot takes longer than Spark lets a task wait before it asks for an executor."""

    def refused(self, method: str) -> grpc.StatusCode | None:
        if method == "Acknowledge":
            time.sleep(1.5)
        return None


@dataclass(frozen=True)
class Life:
    """What was wrong with it in the end, the slots of its commits, and how many executors there were in turn."""

    wrong: list[str]
    slots: list[int]
    executors: list[int]
    status: fleet.TopicStatus


def executors_in(folder: Path) -> Iterator[int]:
    count = 0
    for log in folder.iterdir():
        for line in log.read_text(encoding="utf-8").splitlines():
            kind = _event(line).get("Event")
            if kind in ("SparkListenerExecutorAdded", "SparkListenerExecutorRemoved"):
                count += 1 if kind.endswith("Added") else -1
                yield count


def _event(line: str) -> dict[str, Any]:
    """The last line of a log that is being written may be half a line."""
    try:
        return dict(json.loads(line))
    except json.JSONDecodeError:
        return {}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """A backlog of six slots, and then nothing."""
    folder, clock = tmp_path_factory.mktemp("elastic"), Clock()
    try:
        with cluster(folder / "cluster") as master, Broker(clock=clock) as broker:
            broker.faults = Slow()
            chance = random.Random(0)
            lake = ClusterLake(folder / "lake", broker, clock, master, SHARE, chance, slots=(1, 2), spark=DYNAMIC)
            lake.new_hour(6 * SHARE)
            with lake.application_process(BY_PYTHON, {}) as process:
                lake.watch(process, lambda: list(executors_in(lake.events))[-2:] == [2, 1])
                wrong = lake.bring_to_an_end(process)
    except UnavailableError as missing:
        pytest.skip(str(missing))
    bronze = open_table(folders_of(lake.config.settings, "plays").bronze, {})
    commits = [metadata for _, metadata in ingest_commits(bronze) if metadata["epochs"]]
    slots = [commit["state"]["slots"] for commit in reversed(commits)]
    status = fleet.statuses(lake.config, ["plays"], datetime.now(UTC))[0]
    return Life(wrong, slots, list(executors_in(lake.events)), status)


def test_nothing_is_lost_while_slots_and_executors_come_and_go(life: Life) -> None:
    assert life.wrong == []


def test_slots_grow_while_they_are_full_and_the_status_says_how_many_there_were(life: Life) -> None:
    assert life.slots[0] == 1
    assert max(life.slots) == 2
    assert (life.status.slots_min, life.status.slots_max) == (1, 2)


def test_executors_follow_the_slots_up_and_down(life: Life) -> None:
    assert life.executors[:2] == [1, 2]
    assert 1 in life.executors[2:]
