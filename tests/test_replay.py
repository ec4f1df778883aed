"""Rejected deliveries are decoded again, and go into an open hour exactly once, whenever that is interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as given_with
from hypothesis import strategies as st
from typer.testing import CliRunner

from lakehouse.cli.app import app
from lakehouse.clock import Clock
from lakehouse.config import Config, Settings
from lakehouse.errors import LakeError
from lakehouse.landing.segments import SegmentWriter
from lakehouse.operations import replay
from lakehouse.operations.replay import Choice, Replay, replay_rejected
from lakehouse.schemas import DELIVERED
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.delta import DataFile, files, metadata_of_commits
from lakehouse.topics import topic_from
from tests.examples import examples
from tests.lake import Lake

OPEN = "2026-11-23T05"
AT = datetime(2026, 11, 23, 5, 30, tzinfo=UTC)
BEFORE = {
    "subscription": "projects/p/subscriptions/plays",
    "event_id": "payload.id",
    "event_time": "payload.at",
    "fields": {"id": "string", "uuid": "string", "at": "timestamp"},
}
ALL = Choice()
AFTER = {**BEFORE, "event_id": "payload.uuid"}


def config_in(folder: Path, values: dict[str, Any]) -> Config:
    topic = topic_from("plays", values)
    settings = Settings(raw_root=str(folder), sealed_root=str(folder), release="test")
    return Config(folder / "local.yaml", settings, {"plays": topic}, folder)


def lake_in(folder: Path) -> Lake:
    config = config_in(folder, BEFORE)
    return Lake(config.topic("plays"), config)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_in(tmp_path)


def deliver(lake: Lake, *payloads: bytes) -> None:
    """One epoch, decoded by what the topic declared then: events into their hours or the open one, others rejected."""
    writer = SegmentWriter(lake.topic, lake.tables.raw.files(), lake.epoch + 1, 0, OPEN)
    rows = [
        {"message_id": f"{lake.epoch + 1}-{n}", "publish_time": AT, "attributes": [], "payload": payload}
        for n, payload in enumerate(payloads)
    ]
    writer.add(pa.RecordBatch.from_pylist(rows, schema=DELIVERED))
    added = [
        DataFile(file.path, file.event_hour and max(file.event_hour, OPEN), file.rows, file.size_bytes, AT)
        for file in writer.close()
    ]
    lake.commit(added, open_hour=OPEN)


def run(lake: Lake, choice: Choice = ALL, *, clock: Clock = lambda: AT, **answer: Any) -> Replay:
    """A replay by what the topic declares now."""
    config = config_in(lake.config.expectations, AFTER)
    return replay_rejected(config.topic("plays"), config, choice, by="ann", clock=clock, **answer)


def play(uuid: str | None = None, id: str | None = None, at: datetime = AT) -> bytes:
    answer = {"id": id, "uuid": uuid, "at": at.isoformat()}
    return json.dumps({key: value for key, value in answer.items() if value is not None}).encode()


def test_what_is_an_event_by_now_goes_into_its_hour_and_the_rest_stays(lake: Lake) -> None:
    deliver(lake, play(uuid="a"), b"not json", play(uuid="late", at=AT - timedelta(hours=3)), play(id="good", uuid="b"))
    done = run(lake)
    assert (done.replayed, done.still_rejected) == ({"no event id": 2}, {"not JSON": 1})
    assert {row["message_id"]: (row["hour"], row["event_id"], row["reject_reason"]) for row in lake.bronze_rows()} == {
        "1-0": (OPEN, "a", None),
        "1-1": (None, None, "not JSON"),
        "1-2": (OPEN, "late", None),
        "1-3": (OPEN, "good", None),
    }
    assert all((row["epoch"], row["slot"]) == (1, 0) for row in lake.bronze_rows())


def test_skewed_rows_have_a_file_apart(lake: Lake) -> None:
    """As of ingest's own: the seal looks for late duplicates only in files that hold skewed rows."""
    deliver(lake, play(uuid="own"), play(uuid="late", at=AT - timedelta(hours=3)), play(uuid="next"))
    run(lake)
    table = lake.tables.bronze()
    held = []
    for file in files(table):
        with lake.tables.raw.open(f"bronze/{file.path}") as source:
            held.append((file.hour, pa.parquet.read_table(source).column("event_id").to_pylist()))
    assert sorted(held) == [(OPEN, ["late"]), (OPEN, ["own", "next"])]


def test_a_second_replay_finds_nothing(lake: Lake) -> None:
    deliver(lake, play(uuid="a"))
    assert run(lake).replayed.total() == 1
    version = lake.tables.bronze().version()
    again = run(lake)
    assert (again.examined.total(), again.bronze_version, lake.tables.bronze().version()) == (0, None, version)


def test_a_dry_run_says_the_same_and_changes_nothing(lake: Lake) -> None:
    deliver(lake, play(uuid="a"), b"{")
    before = lake.bronze_rows()
    assert run(lake, dry_run=True).replayed == {"no event id": 1}
    assert lake.bronze_rows() == before


def test_only_what_was_asked_for_is_decoded_again(lake: Lake) -> None:
    deliver(lake, play(uuid="a"))
    assert run(lake, Choice(reason="wrong type")).examined.total() == 0
    assert run(lake, Choice(since=AT + timedelta(seconds=1))).examined.total() == 0
    assert run(lake, Choice(reason="no event id", since=AT)).replayed.total() == 1


def test_the_state_of_ingest_goes_on_and_counts_what_came(lake: Lake) -> None:
    """Else the hour could close, or be skipped as empty, before its new files are seen."""
    deliver(lake, play(uuid="a"))
    run(lake)
    state = newest_state(lake.tables.bronze())
    assert (state.epoch, state.open_hour, state.hours[OPEN].rows) == (1, OPEN, 1)


def test_the_ledger_and_the_commit_say_who_did_it(lake: Lake) -> None:
    deliver(lake, play(uuid="a"))
    done = run(lake)
    (entry,) = [entry for entry in lake.tables.history().entries if entry.state == "replayed"]
    assert entry.by == "replay/test/ann"
    _, metadata = next(metadata_of_commits(lake.tables.bronze()))
    assert (metadata["kind"], metadata["deliveries"], metadata["by"]) == ("replay", 1, "ann")
    assert done.bronze_version == lake.tables.bronze().version()


def test_a_topic_without_an_open_hour_is_an_error(lake: Lake) -> None:
    lake.tables.ensure_bronze()
    with pytest.raises(LakeError, match="found no open hour"):
        run(lake)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_replay_that_is_cut_off_and_run_again_moves_each_delivery_once(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    deliver(lake, play(uuid="a"), play(uuid="b"), b"[")
    commit = replay.bronze_log.commit_change

    def dies(*answer: Any, **named: Any) -> int:
        if after:
            commit(*answer, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(replay.bronze_log, "commit_change", dies)
        with pytest.raises(Killed):
            run(lake)
    run(lake)
    assert [(row["message_id"], row["event_id"]) for row in lake.bronze_rows()] == [
        ("1-0", "a"),
        ("1-1", "b"),
        ("1-2", None),
    ]


def test_a_batch_that_commits_meanwhile_loses_nothing(lake: Lake) -> None:
    """Both change the open hour: one of them must decide again."""
    deliver(lake, play(uuid="a"))
    others: Iterator[list[bytes]] = iter([[play(uuid="b"), play(id="c", uuid="c")]])

    def beaten() -> datetime:
        """Asked for once the replay has read the table."""
        for other in others:
            deliver(lake, *other)
            break
        return AT

    run(lake, clock=beaten)
    assert sorted(row["event_id"] for row in lake.bronze_rows()) == ["a", "b", "c"]
    assert all(row["hour"] == OPEN for row in lake.bronze_rows())


PAYLOADS = st.one_of(
    st.binary(max_size=12),
    st.builds(
        play,
        uuid=st.none() | st.text(max_size=3),
        id=st.none() | st.text(max_size=3),
        at=st.datetimes(datetime(2026, 11, 20), datetime(2026, 11, 23, 6), timezones=st.just(UTC)),
    ),
)


@given_with(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(PAYLOADS, min_size=1, max_size=6), min_size=1, max_size=3))
def test_every_delivery_stays_once_and_what_is_replayed_is_as_if_it_came_today(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]]
) -> None:
    lake = lake_in(tmp_path_factory.mktemp("lake"))
    for payloads in batches:
        deliver(lake, *payloads)
    before = {row["message_id"]: row for row in lake.bronze_rows()}
    run(lake)
    after = {row["message_id"]: row for row in lake.bronze_rows()}
    assert after.keys() == before.keys()
    assert len(lake.bronze_rows()) == len(before)
    for name, row in after.items():
        if before[name]["reject_reason"] is None or row["reject_reason"] is not None:
            assert row == before[name]
        else:
            assert row["hour"] is not None
            assert row["hour"] >= OPEN


def test_the_command_lists_reasons_and_hours(lake: Lake, tmp_path: Path) -> None:
    deliver(lake, play(uuid="a"), b"[")
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "plays.yaml").write_text(json.dumps(AFTER))
    (tmp_path / "local.yaml").write_text(json.dumps({"raw_root": str(tmp_path), "release": "test"}))
    base = ["--conf", str(tmp_path / "local.yaml"), "replay-rejected", "plays", "--by", "ann"]
    tried = CliRunner().invoke(app, [*base, "--dry-run", "--json"])
    assert json.loads(tried.stdout)["replayed"] == {"no event id": 1}
    done = CliRunner().invoke(app, base)
    assert "1 of 2 rejected deliveries replayed" in done.stdout
    assert f"1 into {OPEN}" in done.stdout
