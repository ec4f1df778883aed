"""The clock of a lake: the machine's, unless the sandbox replays a day there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lakehouse import clock as clocks
from lakehouse.clock import FILE, Replayed, clock_of, replayed_clock
from lakehouse.config import Settings
from lakehouse.errors import UsageError
from lakehouse.running.replayed import settle_clock
from lakehouse.store.heartbeats import Heartbeats
from lakehouse.store.records import Started
from lakehouse.store.tables import TopicTables
from lakehouse.topics import topic_from
from tests.clock import Clock
from tests.test_heartbeat import HEARTBEAT

MORNING = datetime(2013, 1, 2, 12, tzinfo=UTC)
BROKER = "127.0.0.1:8085"


@pytest.fixture
def machine(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(clocks, "now", clock)
    return clock


@pytest.fixture
def replayed(tmp_path: Path, machine: Clock) -> Replayed:
    replayed = Replayed(tmp_path / FILE)
    replayed.set(MORNING, BROKER)
    return replayed


def test_a_lake_goes_by_the_machines_clock(tmp_path: Path) -> None:
    assert clock_of(str(tmp_path)) is clocks.now


@pytest.mark.parametrize("root", ["gs://bucket/lake", "hdfs://host/lake", "file:///tmp/lake"])
def test_only_a_folder_of_this_machine_can_have_a_clock_of_its_own(root: str) -> None:
    """A real lake must not be given one by mistake: nothing is even looked for there."""
    assert replayed_clock(root) is None


def test_a_replayed_day_goes_on_as_fast_as_the_machine_from_where_it_was_set(
    replayed: Replayed, machine: Clock, tmp_path: Path
) -> None:
    """So durations that are measured within the day, as of a seal, are true, and a `status` hours later knows it."""
    machine.advance(90)
    assert replayed() == MORNING + timedelta(seconds=90)
    replayed.set(MORNING + timedelta(hours=1), BROKER)
    assert clock_of(str(tmp_path))() == MORNING + timedelta(hours=1)


def test_a_moment_of_the_day_is_known_by_the_machines_clock(replayed: Replayed, machine: Clock) -> None:
    """Delta dates versions by the machine: `--as-of` of a time of the day must find the version of then."""
    began = machine.now
    machine.advance(60)
    replayed.set(MORNING + timedelta(hours=1), BROKER)
    assert replayed.machine_time(MORNING + timedelta(seconds=30)) == began + timedelta(seconds=30)
    assert replayed.machine_time(MORNING + timedelta(minutes=30)) == machine.now  # what the day leapt over
    assert replayed.machine_time(MORNING + timedelta(hours=1, seconds=5)) == machine.now + timedelta(seconds=5)
    assert replayed.machine_time(MORNING - timedelta(hours=1)) == began - timedelta(hours=1)


def test_all_that_is_recorded_in_the_lake_goes_by_its_clock(replayed: Replayed, tmp_path: Path) -> None:
    """Whoever forgets to hand the clock on writes the lake's time all the same."""
    settings = Settings(raw_root=str(tmp_path), sealed_root=str(tmp_path))
    plays = topic_from("plays", {"subscription": "projects/p/subscriptions/s", "event_id": "attributes.id",
                                 "event_time": "attributes.at", "fields": {"id": "string"}})  # fmt: skip
    ledger = TopicTables(plays, settings).ledger("test")
    entry = ledger.record(Started(run="one", host="here"))
    assert entry is not None
    assert entry.at == MORNING
    Heartbeats(settings).write(HEARTBEAT)
    (sign,) = Heartbeats(settings).all()
    assert sign.written_at == HEARTBEAT.written_at  # not the file's, which is the machine's


def test_without_its_file_it_is_the_machines(replayed: Replayed, machine: Clock) -> None:
    """What holds the clock already goes on with everybody else's time once the replay is ended."""
    replayed.end()
    assert replayed() == machine.now
    replayed.end()


def test_an_application_of_the_broker_that_replays_goes_by_its_clock(
    replayed: Replayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", BROKER)
    settle_clock(Settings(raw_root=str(tmp_path), application="demo"))
    assert replayed() == MORNING
    assert "replays=2013-01-02 12:00:00" in caplog.text.replace("T", " ")


@pytest.mark.parametrize("broker", [None, "127.0.0.1:9999"])
def test_an_application_of_any_other_broker_is_refused(
    replayed: Replayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: str | None
) -> None:
    """Real Pub/Sub publishes now: by the clock of 2013 every event would be of the future, and rejected.

    Nor may it end the day by the way: the lake's topics would be 13 years behind.
    """
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    if broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker)
    with pytest.raises(UsageError, match=r"in which it is 2013-01-02T12.* (no|another) broker") as refused:
        settle_clock(Settings(raw_root=str(tmp_path), application="real"))
    assert "lakehouse sandbox --today" in refused.value.next_step
    assert replayed() == MORNING
