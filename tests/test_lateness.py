"""What a longer wait would bring, from the deliveries that came."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse.cli import app
from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.operations import lateness
from lakehouse.operations.lateness import Choice, Outlook, outlook
from lakehouse.topics import Topic
from tests.lake import SIX, Delivery, Lake, conf_of

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def lake(topic: Topic, config: Config) -> Lake:
    """Of 1,000 events nearly all are published at once; of those at 05:30 20 by 06:05, 5 by 06:40 and one by 10:00."""
    lake = Lake(topic, config)
    lake.deliver(*(Delivery(f"p{minute}", minute) for minute in range(31, 421)))
    delays = [0] * 584 + [35] * 20 + [70] * 5 + [270]
    lake.deliver(*(Delivery(f"e{number}", 30, delay, f"m{number}") for number, delay in enumerate(delays)))
    lake.deliver(*(Delivery(f"e{number}", 30, 10, "again") for number in range(6)))
    lake.deliver(*(Delivery(f"e{number}", 30, 150, "much later") for number in range(4)), hour=SIX)
    return lake


def choice(found: Outlook, lateness: timedelta) -> Choice:
    return next(each for each in found.choices if each.lateness == lateness)


def test_the_share_of_skewed_events_is_reported_for_each_lateness(lake: Lake) -> None:
    """An event is skewed when it is published after its hour's end and the lateness."""
    found = outlook(lake.topic, lake.config)
    shares = {lateness: choice(found, lateness * MINUTE).skewed for lateness in (0, 1, 5, 10, 30, 60, 180, 360)}
    assert shares == {0: 26, 1: 26, 5: 26, 10: 6, 30: 6, 60: 1, 180: 1, 360: 0}
    assert choice(found, timedelta(0)).skewed_share == 0.026
    assert (found.events, found.duplicates, found.sampled_share) == (1000, 10, 1.0)


def test_a_replay_is_judged_by_its_own_time(topic: Topic, config: Config) -> None:
    """All of it is published years late, and in order: no hour would close before its events are there."""
    lake, years = Lake(topic, config), 10 * 365 * 24 * 60
    lake.deliver(*(Delivery(f"e{minute}", minute, years) for minute in range(300)))
    lake.deliver(Delivery("late", 30, years + 250))
    found = outlook(lake.topic, lake.config)
    assert [choice(found, lateness * MINUTE).skewed for lateness in (0, 180, 360)] == [1, 1, 0]


def test_the_shortest_wait_that_is_long_enough_is_recommended(lake: Lake) -> None:
    found = outlook(lake.topic, lake.config)
    assert found.recommended_lateness == HOUR
    assert found.why.startswith("1 hour is the shortest lateness that skews at most 0.10% of the events (as it is now)")
    assert outlook(lake.topic, lake.config, tolerated=0.01).recommended_lateness == 10 * MINUTE
    assert outlook(lake.topic, lake.config, tolerated=0).recommended_lateness == 6 * HOUR


def test_duplicates_are_caught_within_the_horizon(lake: Lake) -> None:
    """Six came in the same hour; four at 08:00, when with no lateness the third hour after was open."""
    found = outlook(lake.topic, lake.config)
    caught = choice(found, timedelta(0)).caught
    assert {hours: caught[hours] for hours in (0, 1, 3, 6)} == {0: 0.6, 1: 0.6, 3: 1.0, 6: 1.0}
    assert choice(found, 2 * HOUR).caught[1] == 1.0
    assert found.recommended_horizon == 3 * HOUR


def test_a_longer_wait_delays_the_hours(lake: Lake) -> None:
    found = outlook(lake.topic.model_copy(update={"quiet_period": MINUTE}), lake.config)
    assert choice(found, 30 * MINUTE).delay == 31 * MINUTE


def test_the_topic_s_own_lateness_is_among_them(topic_with: Callable[..., Topic], config: Config) -> None:
    lake = Lake(topic_with(lateness="7 minutes"), config)
    lake.deliver(Delivery("a"))
    assert choice(outlook(lake.topic, lake.config), 7 * MINUTE).skewed == 0


def test_of_many_events_a_share_is_taken_with_all_their_deliveries(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken by id: a duplicate without its first delivery would look like an event."""
    monkeypatch.setattr(lateness, "SAMPLED_ROWS", 300)
    found = outlook(lake.topic, lake.config)
    assert found.sampled_share == 0.25
    assert 150 < found.events < 350


def test_a_topic_without_events_has_no_outlook(lake: Lake, topic_with: Callable[..., Topic]) -> None:
    empty = Lake(topic_with(name="empty"), lake.config)
    empty.deliver(Delivery(None, reject_reason="no time"), hour=None)
    with pytest.raises(LakeError, match="no events in bronze"):
        outlook(empty.topic, empty.config)


def test_the_command_shows_table_and_picture(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bars for the terminal, a PNG for the ticket, figures for programs."""
    conf, png = conf_of(lake, tmp_path), tmp_path / "lateness.png"

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            app.main(["--conf", str(conf), "lateness", "plays", *arguments])
        assert ended.value.code == 0
        return capsys.readouterr().out

    text = run("--png", str(png))
    assert "█" in text
    assert "1 hour is the shortest lateness" in text
    assert png.read_bytes().startswith(b"\x89PNG")
    document = json.loads(run("--json"))
    assert document["recommended_lateness"] == "1 hour"
    assert document["choices"][0]["skewed"] == 26
