"""Which topics share an application: a proposal from what they measured."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from fleets import fleet_at, write_fleet
from lake import FIVE, SIX, Delivery, Lake
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.fleet.measured import loads
from lakehouse.fleet.packing import Load, packed


def zipf(count: int, total: float) -> list[Load]:
    weights = [1 / rank for rank in range(1, count + 1)]
    return [Load(f"topic_{rank:03d}", total * weight / sum(weights)) for rank, weight in enumerate(weights)]


def test_every_topic_is_in_one_group_and_no_group_has_more_than_it_takes() -> None:
    given = zipf(300, 100_000)
    groups = packed(given, {}, rows_per_second=20_000, most_topics=100)
    assert sorted(topic for group in groups for topic in group.topics) == [load.topic for load in given]
    assert all(group.rows_per_second <= 20_000 and len(group.topics) <= 100 for group in groups)
    assert len(groups) <= 7, "five would be full to the brim"
    assert ("topic_000",) in [group.topics for group in groups], "the largest would be waited for"


def test_a_topic_that_is_larger_than_an_application_has_one_of_its_own() -> None:
    groups = packed([Load("big", 90_000), Load("a", 1), Load("b", 1)], {}, rows_per_second=20_000, most_topics=10)
    assert [group.topics for group in groups] == [("big",), ("a", "b")]


def test_classes_never_share_an_application() -> None:
    groups = packed([Load("a", 1), Load("b", 1), Load("c", 1)], {"b": "critical"}, rows_per_second=100, most_topics=10)
    assert sorted(group.topics for group in groups) == [("a", "c"), ("b",)]


def test_the_same_loads_give_the_same_groups_in_whatever_order() -> None:
    """A proposal that changes by itself would move topics for nothing."""
    given = zipf(50, 30_000)
    shuffled = random.Random(1).sample(given, len(given))
    assert packed(given, {}, rows_per_second=9_000, most_topics=20) == packed(
        shuffled, {}, rows_per_second=9_000, most_topics=20
    )


def test_idle_topics_are_bounded_by_their_number() -> None:
    groups = packed([Load(f"t{n}", 0) for n in range(10)], {}, rows_per_second=1, most_topics=4)
    assert sorted(len(group.topics) for group in groups) == [2, 4, 4]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    made = write_fleet(tmp_path, {"all": {"topics": ["*"]}}, ["plays", "skips"], classes={"c": {"topics": ["skips"]}})
    config = fleet_at(made).config
    lake = Lake(config.topics["plays"].model_copy(update={"fields": {"user": "string"}}), config)
    for hour, count in ((FIVE, 1), (SIX, 3)):
        lake.deliver(*[Delivery(f"{hour}-{n}", message_id=f"{hour}-{n}") for n in range(count)], hour=hour)
        lake.close(hour)
    return made


def test_what_a_topic_brings_is_its_largest_hour(conf: Path) -> None:
    found = loads(fleet_at(conf).config, 24)
    assert [(load.topic, load.rows_per_second * 3600) for load in found] == [("plays", 3), ("skips", 0)]
    assert loads(fleet_at(conf).config, 1)[0].rows_per_second * 3600 == 3


def test_pack_prints_what_a_fleets_file_takes(conf: Path) -> None:
    done = CliRunner().invoke(app.app, ["fleet", "pack", "--conf", str(conf)], catch_exceptions=False)
    printed = yaml.safe_load(done.stdout)
    assert [each["topics"] for each in printed["applications"].values()] == [["plays"], ["skips"]]
    file = conf.parent / "fleet.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **printed}))
    assert fleet_at(conf).names == ["application-1", "application-2"]
    file.unlink()
    done = CliRunner().invoke(app.app, ["fleet", "pack", "--conf", str(conf)], catch_exceptions=False)
    assert yaml.safe_load(done.stdout)["applications"]["application-1"]["topics"] == ["plays", "skips"]
