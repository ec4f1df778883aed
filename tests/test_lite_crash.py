"""The crash kit on Pub/Sub Lite: whatever is interrupted, lost or repeated, each offset is in bronze once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.pubsublite_v1")

from fake_lite import FakeLite
from lite_world import LiteWorld
from log_world import STEPS, Worlds

from lakehouse.crash.schedules import SEVERAL, dying_at, of_several, random_schedule, tear

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCHEDULES = 6


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    with FakeLite() as fake:
        yield Worlds(partial(LiteWorld, fake=fake), tmp_path)
        assert fake.violations == []


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_loses_and_doubles_nothing(worlds: Worlds, step: str) -> None:
    outcome = worlds.sound_outcome(dying_at(step))
    assert outcome.has_died or step == "pull.half_acknowledged"  # a log has nothing to acknowledge


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_whatever_happens_in_whatever_order_each_offset_is_in_bronze_once(worlds: Worlds, seed: int) -> None:
    worlds.sound_outcome(random_schedule(seed))


@pytest.mark.long
@pytest.mark.parametrize("name", SEVERAL)
def test_several_topics_disturb_each_other_no_more_than_subscriptions_do(worlds: Worlds, name: str) -> None:
    worlds.sound_outcome(of_several(name))


@pytest.mark.parametrize("part", ["offsets", "commits"])
def test_a_torn_checkpoint_costs_nothing(worlds: Worlds, part: str) -> None:
    worlds.sound_outcome(tear(part, "ingest.offsets_logged"))
