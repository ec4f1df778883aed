"""The crash kit on a real Kafka broker: whatever is interrupted, lost or repeated, each event is delivered once.

More than of a queue: each offset is in bronze once, not only each event in silver.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("confluent_kafka")

from kafka_world import KafkaWorld
from log_world import STEPS, Worlds

from lakehouse.crash.schedules import (
    SEVERAL,
    dying_at,
    of_several,
    random_schedule,
    restarting,
    tear,
    with_restarts,
)
from tests.servers.together import Servers

pytestmark = [pytest.mark.stores, pytest.mark.timeout(300)]

SCHEDULES, RESTARTED = 6, 3
"""Random ones, and random ones in which the broker restarts."""


@pytest.fixture
def worlds(servers: Servers, tmp_path: Path) -> Worlds:
    return Worlds(partial(KafkaWorld, server=servers.kafka()), tmp_path)


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_loses_and_doubles_nothing(worlds: Worlds, step: str) -> None:
    outcome = worlds.sound_outcome(dying_at(step))
    assert outcome.has_died or step == "pull.half_acknowledged"  # a log has nothing to acknowledge


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_whatever_happens_in_whatever_order_each_offset_is_in_bronze_once(worlds: Worlds, seed: int) -> None:
    worlds.sound_outcome(random_schedule(seed))


@pytest.mark.parametrize("name", SEVERAL)
def test_several_topics_disturb_each_other_no_more_than_subscriptions_do(worlds: Worlds, name: str) -> None:
    worlds.sound_outcome(of_several(name))


@pytest.mark.parametrize("part", ["offsets", "commits"])
def test_a_torn_checkpoint_costs_nothing(worlds: Worlds, part: str) -> None:
    worlds.sound_outcome(tear(part, "ingest.offsets_logged"))


@pytest.mark.parametrize("steps", [STEPS[:6], STEPS[6:]], ids=["the first steps", "the last steps"])
def test_a_broker_that_restarts_at_any_step_costs_time_and_no_message(worlds: Worlds, steps: list[str]) -> None:
    """Killed, as if its machine had failed: between batches, at each step, and while a range is read."""
    worlds.sound_outcome(restarting(steps))
    assert sum(world.restarts for world in worlds.made if isinstance(world, KafkaWorld)) >= 3


@pytest.mark.parametrize("seed", range(20, 20 + RESTARTED))
def test_restarts_among_whatever_else_happens_repeat_no_offset(worlds: Worlds, seed: int) -> None:
    worlds.sound_outcome(with_restarts(random_schedule(seed), 3))
