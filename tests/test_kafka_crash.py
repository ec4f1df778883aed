"""The crash kit on a real Kafka broker: whatever is interrupted, lost or repeated, each event is delivered once.

More than of a queue: each offset is in bronze once, not only each event in silver.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("confluent_kafka")

from kafka_world import KafkaWorld

from lakehouse import failpoints
from lakehouse.crash.playing import Outcome, outcome_of
from lakehouse.crash.schedules import SEVERAL, Schedule, dying_at, of_several, random_schedule, tear
from tests.servers.together import Servers

pytestmark = [pytest.mark.stores, pytest.mark.timeout(300)]

SCHEDULES = 6
STEPS = [step for step in failpoints.STEPS if step.startswith(("ingest.", "pull."))]
"""Those after them have no part in what is read."""


class Worlds:
    """Of one test: plays a schedule in a world with the broker, and looks at bronze."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address, self._folder = address, folder
        self._made: list[KafkaWorld] = []

    def outcome(self, schedule: Schedule) -> Outcome:
        return outcome_of(schedule, self._folder, world=self._make)

    def repeated(self) -> list[str]:
        """Offsets that bronze has more than once."""
        found = []
        for world in self._made:
            for name in world.config.topics:
                ids = world.tables_of(name).bronze().to_pyarrow_table(columns=["message_id"]).column(0).to_pylist()
                found += [f"{name} {each}" for each, count in Counter(ids).items() if count > 1]
        return found

    def _make(self, config: object) -> KafkaWorld:
        self._made.append(partial(KafkaWorld, bootstrap=self._address)(config))  # type: ignore[arg-type]
        return self._made[-1]


@pytest.fixture
def worlds(servers: Servers, tmp_path: Path) -> Worlds:
    return Worlds(servers.kafka().address, tmp_path)


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_loses_and_doubles_nothing(worlds: Worlds, step: str) -> None:
    outcome = worlds.outcome(dying_at(step))
    assert (outcome.violations, worlds.repeated()) == ([], [])
    assert outcome.has_died or step == "pull.half_acknowledged"  # a log has nothing to acknowledge


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_whatever_happens_in_whatever_order_each_offset_is_in_bronze_once(worlds: Worlds, seed: int) -> None:
    outcome = worlds.outcome(random_schedule(seed))
    assert (outcome.violations, worlds.repeated()) == ([], []), "\n".join(outcome.trace)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_topics_disturb_each_other_no_more_than_subscriptions_do(worlds: Worlds, name: str) -> None:
    assert (worlds.outcome(of_several(name)).violations, worlds.repeated()) == ([], [])


@pytest.mark.parametrize("part", ["offsets", "commits"])
def test_a_torn_checkpoint_costs_nothing(worlds: Worlds, part: str) -> None:
    assert (worlds.outcome(tear(part, "ingest.offsets_logged")).violations, worlds.repeated()) == ([], [])
