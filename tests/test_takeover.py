"""A lake that release 0.1 wrote, with a query and a checkpoint for each topic, goes on in one query of both topics."""

from __future__ import annotations

import json
import os
import random
import tarfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse.config import Config
from lakehouse.crash.driver import Driver
from lakehouse.crash.invariants import Expected, violations
from lakehouse.crash.small_lake import small_config
from lakehouse.crash.world import World
from lakehouse.mirrors.stage import mirror_due
from lakehouse.operations.maintain import maintain_topic
from lakehouse.seal.stage import seal_due
from lakehouse.store.records import State
from lakehouse.validate.stage import validate_due

LAKE = Path(__file__).with_name("lake_of_0_1.tar.xz")
"""Written by release 0.1.0 with Spark: two topics, of which an hour each was delivered. Then the application was killed
when the manifests of an epoch of each were durable and its messages acknowledged, and no commit had them."""
NAMES = ("plays", "skips")

pytestmark = pytest.mark.slow


class Former:
    """The lake, unpacked, and what was published for it."""

    def __init__(self, folder: Path) -> None:
        with tarfile.open(LAKE) as packed:
            packed.extractall(folder, filter="data")
        self.folder = folder
        self.config: Config = small_config(folder, names=NAMES)
        self.world = World(self.config)
        self.known: dict[str, Any] = json.loads((folder / "known.json").read_text())

    def taken_over(self) -> Driver:
        topics = [self.config.topic(name) for name in NAMES]
        driver = Driver(self.world, topics, self.folder / "application", "new", random.Random(1))
        driver.open()
        return driver

    def expected(self, name: str) -> Expected:
        events = {(event_id, datetime.fromisoformat(at)) for event_id, at in self.known["events"][name]}
        return Expected(events, self.known["bad"][name], self.known["acknowledged"][name])

    def checkpoint(self, name: str) -> Path:
        return self.folder / "raw" / name / "checkpoint"

    def maintained(self, name: str, now: datetime) -> set[str]:
        """What kinds of things were removed."""
        return {removal.kind for removal in maintain_topic(self.config.topic(name), self.config, now)}


@pytest.fixture
def former(tmp_path: Path) -> Former:
    return Former(tmp_path)


def deliver(config: Config) -> None:
    for topic in config.topics.values():
        seal_due(topic, config, run="new")
        validate_due(topic, config, run="new")
        mirror_due(topic, config, None, run="new")


def test_all_that_release_0_1_acknowledged_is_delivered_once(former: Former) -> None:
    """What it had pulled and not committed is adopted, also of an epoch that no query plans again."""
    before = {name: former.world.tables_of(name).history().hours() for name in NAMES}
    for name in NAMES:
        missing = violations(former.config.topic(name), former.config, former.expected(name))
        assert any("was acknowledged and is not in bronze" in each for each in missing)
    driver = former.taken_over()
    for _ in range(6):
        driver.batch()
        former.world.now += timedelta(minutes=1)
    deliver(former.config)
    for name in NAMES:
        assert violations(former.config.topic(name), former.config, former.expected(name)) == []
        history = former.world.tables_of(name).history()
        assert set(history.hours()) > set(before[name]), "the hour that it left open"


def test_a_former_checkpoint_goes_a_day_after_the_take_over(former: Former) -> None:
    assert "checkpoint" not in former.maintained("plays", former.world.now), "release 0.1 has the topic"
    former.taken_over().batch()
    assert "checkpoint" not in former.maintained("plays", former.world.now + timedelta(hours=23))
    later = former.world.now + timedelta(hours=25)
    assert "checkpoint" in former.maintained("plays", later)
    assert [path for path in former.checkpoint("plays").rglob("*") if path.is_file()] == []
    assert former.world.tables_of("plays").history().last(State.STARTED) is not None


def test_a_checkpoint_that_somebody_writes_to_or_that_is_of_a_query_of_theirs_stays(former: Former) -> None:
    """A person's query with `read=messages` may have its checkpoint there, and it is all that such a query has."""
    former.taken_over().batch()
    later = former.world.now + timedelta(hours=25)
    newest = max(former.checkpoint("plays").glob("offsets/[0-9]*"), key=lambda path: int(path.name))
    offset = '{"epoch": 15, "slots": 1, "open_hour": null}'
    newest.write_text("\n".join([*newest.read_text().splitlines()[:-1], offset]))
    assert "checkpoint" not in former.maintained("plays", later)
    written = former.checkpoint("skips") / "commits" / "99"
    written.write_text("v1\n{}")
    os.utime(written, (later.timestamp(), later.timestamp()))
    assert "checkpoint" not in former.maintained("skips", later)
