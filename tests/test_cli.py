"""The commands on real tables: ledgers and bronze commits written as the stages do, read as an operator does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.pubsub_v1 import PublisherClient
from typer.testing import CliRunner

from lakehouse import __version__
from lakehouse.cli import app
from lakehouse.config import Config, load
from lakehouse.errors import ACCEPT_LOSS, FOUND_WRONG, LAKE, MISUSE, UNFORESEEN, ConfigError, LakeError
from lakehouse.operations import status as fleet
from lakehouse.operations.held import STUCK_AFTER, held_hours, stuck
from lakehouse.operations.signs import failure
from lakehouse.operations.stage_failures import record_stage_failure
from lakehouse.progress import OpenHour
from lakehouse.running.replayed import settle_clock
from lakehouse.sandbox import broker as broker_module
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.replay import new_clock
from lakehouse.store.delta import commit
from lakehouse.topics import Topic
from lakehouse.validate import suite_files
from tests.lake import conf_of, lake_in, plays
from tests.status_lake import BACKLOG, CLOSED, FIVE, INVALID, MIRRORED, NOON, SEALED, SEVEN, SIX, Lake
from tests.status_lake import lake as lake

HOUSE = Path(__file__).parent.parent
HEAVY = {"pyspark", "pandas", "great_expectations", "mlflow", "duckdb", "google.cloud", "matplotlib"}


@pytest.fixture
def run(lake: Lake) -> Callable[..., tuple[int, str]]:
    """Runs one command on the lake; gives its exit code and what it printed."""

    def invoked(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app.app, ["--conf", str(lake.conf), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout

    return invoked


@pytest.fixture
def refused(lake: Lake, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """Runs one command that must fail; gives its exit code and its message."""

    def ended(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as exit_:
            app.main(["--conf", str(lake.conf), *arguments])
        out, err = capsys.readouterr()
        assert out == ""
        return exit_.value.code, err

    return ended


def process(lake: Lake, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "LAKEHOUSE_CONF": str(lake.conf)}
    return subprocess.run(
        command, cwd=HOUSE, env=environment, capture_output=True, text=True, timeout=60, check=False, **options
    )


# --- status --------------------------------------------------------------------------------------------------------


def test_a_topic_without_a_lake_is_not_started(run: Callable[..., tuple[int, str]]) -> None:
    code, out = run("status")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["·", "plays"], ["·", "skips"]]
    assert out.splitlines()[-1] == "2 topics: 2 not started"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("status", "--json"), ("hours", "plays")])
def test_a_full_disk_behind_a_redirect_is_one_sentence(lake: Lake, arguments: tuple[str, ...]) -> None:
    lake.start()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lakehouse.cli", *arguments],
            cwd=HOUSE, env={**os.environ, "LAKEHOUSE_CONF": str(lake.conf)}, stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == MISUSE
    assert "the output: found [Errno 28] No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("table", ["ledger", "bronze", "silver"])
def test_a_table_that_is_gone_is_named(lake: Lake, run: Callable[..., tuple[int, str]], table: str) -> None:
    """Without its ledger a topic looked as if nothing had ever happened to it, and all was well."""
    lake.start(open_hour=SIX)
    lake.sealed(FIVE)
    tables = lake.tables()
    root = tables.raw if table == "bronze" else tables.sealed
    shutil.rmtree(Path(root.uri, table))
    status = lake.status()
    assert (status.state, f"{table}: found no Delta table" in str(status.error)) == ("error", True)
    assert run("status")[0] == 1


def test_one_topic_s_wrong_file_is_a_line_and_hides_no_other(
    lake: Lake, run: Callable[..., tuple[int, str]], refused: Callable[..., tuple[object, str]]
) -> None:
    lake.start()
    lake.sealed(FIVE)
    (lake.conf.parent / "topics" / "skips.yaml").write_text("fields: {a: string", encoding="utf-8")
    code, out = run("status", "--wide")
    assert code == 1
    wrong, sound = out.splitlines()[1:3]
    assert (wrong.split()[:2], sound.split()[1], "error" in sound) == (["✕", "skips"], "plays", False)
    assert "error: found expected ',' or '}'" in wrong
    assert out.splitlines()[-1].startswith("2 topics: 1 error, 1 ")
    assert run("hours", "plays")[0] == run("explain", "plays", FIVE)[0] == 0
    code, err = refused("hours", "skips")
    assert (code, err.count("\n"), "skips.yaml" in err) == (MISUSE, 1, True)
    code, err = refused("reconcile")
    assert (code, "skips.yaml" in err) == (MISUSE, True), "which must speak of all topics"


def test_looking_creates_nothing(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """An empty table made by a glance would be taken for a topic that started."""
    run("status")
    assert not Path(lake.config.settings.raw_root).exists()


def test_status_says_how_a_topic_is(lake: Lake) -> None:
    frontier = NOON - timedelta(minutes=2)
    lake.start(open_hour=SEVEN, frontier=frontier.isoformat())
    lake.sealed(FIVE)
    lake.closed(SIX)
    status = lake.status()
    assert (status.state, status.open_hour, status.newest_sealed_hour) == ("ok", SEVEN, FIVE)
    assert (status.waiting_hour, status.waits_for) == (FIVE, "validate")
    assert (status.watermark, status.frontier) == (NOON.replace(hour=6, minute=30), frontier)
    assert status.frontier_age_seconds == 120
    assert (status.last_batch_rows, status.slots, status.release) == (1000, 2, "r1")
    assert (status.due.seal, status.due.validate, status.due.mirrors) == (1, 1, {"folder": 0})
    assert status.last_commit is not None


def test_status_counts_what_could_not_be_acknowledged(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    lake.start()
    for count in (2, 0, 1000):
        lake.batch(unacknowledged=count)
    assert lake.status().unacknowledged == 1002
    assert "1,002 messages in the newest 20 commits: refused by Pub/Sub for good" in " ".join(
        run("status", "plays")[1].split()
    )


def test_a_stage_that_fails_is_said_until_its_hour_is_done(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """Once for each hour and cause, however often it is tried."""
    lake.start(open_hour=SIX)
    lake.closed(FIVE)
    damaged = LakeError("part-0.parquet", found="half a file", expected="all of it", next_step="Restore it.")
    for _ in range(3):
        record_stage_failure(lake.tables(), "seal", damaged, "run", lambda: lake.now)
    assert lake.ledger().count(("stage_failed", FIVE)) == 1
    (failure,) = lake.status().stage_failures
    assert (failure.stage, failure.hour, failure.error) == ("seal", FIVE, str(damaged))
    assert timedelta(0) <= failure.since - NOON < timedelta(seconds=1)
    code, text = run("status", "plays")
    assert (code, "part-0.parquet" in text) == (1, True)
    record_stage_failure(lake.tables(), "mirror", damaged, "run", lambda: lake.now)
    assert len(lake.status().stage_failures) == 1, "nothing is due there"
    lake.record("sealed", FIVE, SEALED)
    assert lake.status().stage_failures == ()
    assert lake.status().state != "failing"


def test_what_an_hour_waits_for_follows_its_states(lake: Lake) -> None:
    lake.start(open_hour=SIX)
    seen = []
    for state, details in [
        ("closed", CLOSED),
        ("sealed", SEALED),
        ("invalid", INVALID),
        ("released", {"reason": "known", "by": "ada"}),
        ("mirrored", MIRRORED),
    ]:
        lake.record(state, FIVE, details)
        seen.append((lake.status().waits_for, lake.status().invalid_hours))
    assert seen == [("seal", ()), ("validate", ()), ("release", (FIVE,)), ("mirror folder", ()), (None, ())]


def test_an_hour_that_is_sealed_again_waits_again(lake: Lake) -> None:
    """What was said of the older revision no longer counts."""
    lake.start(open_hour=SIX)
    lake.sealed(FIVE)
    lake.record("valid", FIVE, {"rows": 990})
    lake.record("mirrored", FIVE, MIRRORED)
    lake.record("sealed", FIVE, SEALED | {"revision": 2})
    assert lake.status().waits_for == "validate"


def test_an_hour_is_held_when_the_clock_says_that_it_should_have_closed(lake: Lake) -> None:
    lake.start()
    lake.record("held", FIVE, {"reasons": [BACKLOG | {"text": "the backlog is unknown: no sample"}]})
    (held,) = lake.status().held
    assert (held.hour, held.since, held.reasons) == (FIVE, NOON, ("the backlog is unknown: no sample",))
    before_its_time = datetime(2025, 6, 1, 6, 59, 59, tzinfo=UTC)
    assert held_hours(lake.snapshot(), before_its_time) == []


def test_an_hour_is_held_no_more_once_it_closed_or_was_skipped(lake: Lake) -> None:
    lake.start()
    for hour in (FIVE, SIX):
        lake.record("held", hour, {"reasons": [BACKLOG | {"text": "messages wait"}]})
    lake.closed(FIVE)
    assert [held.hour for held in lake.status().held] == [SIX]
    lake.batch(open_hour=SEVEN)
    assert lake.status().held == ()


MISSING = {"text": "the backlog is unknown: Cloud Monitoring has no sample"}
BEHIND = {"text": "messages published before the hour's end and lateness may still wait: 0:35:00 to go"}
TIME = {"condition": "time", "is_met": False, "required": "", "measured": None, "text": "the watermark trails"}


def test_a_stuck_frontier_is_seen_with_its_reason_and_since_when(
    lake: Lake, run: Callable[..., tuple[int, str]]
) -> None:
    """It blocks this hour and all later ones, and nothing else would tell: a batch without rows commits nothing."""
    lake.start()
    lake.now = NOON - timedelta(hours=2)
    lake.record("held", FIVE, {"reasons": [BACKLOG | MISSING], "problem": "no sample"})
    stuck = lake.status().stuck
    assert stuck is not None
    assert (stuck.hour, stuck.since, stuck.seconds) == (FIVE, lake.now, 7200)
    _, out = run("status", "plays")
    assert f"stuck at {FIVE} for " in out
    assert ": the backlog is unknown: Cloud Monitoring has no sample" in out
    code, out = run("status", "plays", "--json")
    (row,) = json.loads(out)["topics"]
    assert code == 0
    assert (row["state"], row["stuck"]["hour"]) == ("stuck", FIVE)
    assert row["stuck"]["since"] == row["stuck"]["reported_at"] == lake.now.isoformat()
    assert row["stuck"]["reason"] == MISSING["text"]


def test_a_frontier_is_stuck_since_its_problem_began_or_the_hour_was_due(lake: Lake) -> None:
    """Not since the hour was first held by it, nor since somebody last said so."""
    lake.start()
    due = NOON.replace(hour=7)
    for hour, minute, reasons, problem in [
        (5, 10, [TIME, BACKLOG | BEHIND], None),
        (5, 40, [TIME, BACKLOG | MISSING], "no sample"),
        (7, 30, [TIME, BACKLOG | MISSING], "old sample"),
        (8, 30, [BACKLOG | MISSING], "old sample"),
    ]:
        lake.now = NOON.replace(hour=hour, minute=minute)
        lake.record("held", FIVE, {"reasons": reasons, "problem": problem})
        stuck = lake.status().stuck
        assert stuck is not None
        assert (stuck.since, stuck.reported_at) == (max(due, NOON.replace(hour=min(hour, 7), minute=minute)), lake.now)


@pytest.mark.parametrize("details", [{"reasons": [TIME]}, {"reasons": [TIME | {"condition": "quiet"}]}])
def test_an_hour_that_waits_for_something_else_is_not_stuck(lake: Lake, details: dict[str, Any]) -> None:
    """A replay of old events waits for newer ones, for years by the clock."""
    lake.start()
    lake.record("held", FIVE, {"reasons": [BACKLOG | MISSING], "problem": "no sample"})
    lake.record("held", FIVE, details)
    later = NOON + timedelta(days=9)
    assert stuck(lake.snapshot(), later) is None
    assert fleet.statuses(lake.config, ["plays"], later)[0].state != "stuck"


def test_a_frontier_that_lags_as_usual_is_not_stuck(lake: Lake) -> None:
    lake.start()
    lake.now = NOON.replace(hour=7)
    lake.record("held", FIVE, {"reasons": [BACKLOG | BEHIND]})
    snapshot = lake.snapshot()
    assert stuck(snapshot, lake.now + timedelta(minutes=14)) is None
    assert stuck(snapshot, lake.now + timedelta(minutes=15)) is not None
    lake.closed(FIVE)
    assert stuck(lake.snapshot(), NOON) is None


def test_a_topic_whose_ingest_cannot_go_on_is_failing(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """With other topics in one application its process lives on: only the ledger tells."""
    lake.start()
    lake.start("skips")
    gone = "projects/test/subscriptions/plays: found no such subscription"
    details = {"error": gone, "run": "run", "host": "here"}
    since = lake.now = datetime.now(UTC)  # commits carry the time of their making
    lake.record("failed", details=details)
    lake.now += timedelta(minutes=1)
    lake.record("failed", details=details)
    (answer,) = fleet.statuses(lake.config, ["plays"], since + timedelta(minutes=5))
    assert answer.failure is not None
    assert (answer.state, answer.failure.since, answer.failure.seconds) == ("failing", since, 300)
    (answer,) = fleet.statuses(lake.config, ["skips"], NOON)
    assert answer.state == "ok"
    code, out = run("status")
    assert code == 1
    assert f": {gone}" in out
    code, out = run("status", "plays", "--json")
    assert code == 1
    assert json.loads(out)["topics"][0]["failure"]["error"] == gone


@pytest.mark.parametrize("state", ["started", "recovered"])
def test_a_topic_that_runs_again_fails_no_more(lake: Lake, state: str) -> None:
    lake.start()
    lake.now = datetime.now(UTC)
    lake.record("failed", details={"error": "no permission", "run": "run", "host": "here"})
    assert failure(lake.snapshot(), NOON) is not None
    lake.record(state, details={"run": "run", "host": "here"})
    assert failure(lake.snapshot(), NOON) is None


def test_a_topic_that_commits_after_a_failure_fails_no_more(lake: Lake) -> None:
    """Somebody without permission tried to run it; whoever has it goes on."""
    lake.start()
    lake.record("failed", details={"error": "no permission", "run": "other", "host": "laptop"})
    assert failure(lake.snapshot(), NOON) is None


def test_slots_are_shown_with_their_bounds(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """At the upper one the frontier falls behind: it can be raised."""
    file = lake.conf.parent / "topics" / "plays.yaml"
    file.write_text(file.read_text() + "slots: {min: 2, max: 8}\n", encoding="utf-8")
    lake.start(slots=8)
    _, out = run("status", "plays")
    assert "8 of 2 to 8" in out
    _, out = run("status", "--json")
    plays, skips = json.loads(out)["topics"]
    assert [plays[key] for key in ("slots", "slots_min", "slots_max")] == [8, 2, 8]
    assert skips["slots"] is None


def test_the_heartbeat_is_ingests_last_commit_not_another_ones(lake: Lake) -> None:
    lake.start(slots=9)
    bronze = lake.tables().ensure_bronze()
    for number in range(25):
        commit(bronze, [], metadata={"kind": "retention"}, transactions={"retention": number + 1})
    status = lake.status()
    assert (status.slots, status.last_batch_rows) == (9, 1000)


def test_a_line_of_a_broken_file_begins_with_what_is_wrong_in_it(
    lake: Lake, run: Callable[..., tuple[int, str]]
) -> None:
    """In 80 columns there was room for the file's path alone, which the topic's name gives; its own page has it."""
    file = lake.conf.parent / "topics" / "broken.yaml"
    file.write_text("subscription: projects/p/subscriptions/broken\nevent_id: payload.i\n", encoding="utf-8")
    code, lines = run("status")
    assert (code, "error: event_time: found nothing" in lines) == (FOUND_WRONG, True)
    assert f"{file}: event_time: found nothing" in " ".join(run("status", "broken")[1].split())


def test_a_broken_table_is_an_error_of_its_topic_alone(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    lake.start()
    lake.start("skips")
    lake.break_bronze("plays")
    code, out = run("status")
    _, plays, skips, totals = out.splitlines()
    assert code == 1
    assert totals == "2 topics: 1 error, 1 ok"
    assert "error: " in plays
    assert "expected a commit of the table" in plays
    assert "ok" in skips
    assert FIVE in skips


def test_status_of_some_topics_leaves_out_the_others(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    code, out = run("status", "skips", "--json")
    assert code == 0
    assert [row["topic"] for row in json.loads(out)["topics"]] == ["skips"]


def test_piped_rows_are_never_cut(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """`lakehouse status | grep …` must find what is there."""
    lake.start()
    reason = "the backlog is unknown: " + "very " * 100 + "long [ago]"
    lake.record("held", FIVE, {"reasons": [BACKLOG | {"text": reason}]})
    _, out = run("status", "plays")
    assert f"{FIVE}: {reason}" in out
    _, out = run("status", "plays", "skips")
    assert f"{FIVE}: {reason}" in out.splitlines()[1]


def test_what_is_wrong_comes_first(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """Of hundreds of topics one reads the first lines."""
    lake.start()
    lake.start("skips")
    lake.record("failed", details={"error": "no permission", "run": "run", "host": "here"}, topic="skips")
    lake.now = datetime.now(UTC)
    lake.record("failed", details={"error": "no such subscription", "run": "run", "host": "here"}, topic="skips")
    _, out = run("status")
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["✕", "skips"], ["✓", "plays"]]


def test_a_topic_that_was_stopped_is_not_running(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """An hour after its application ended it was still `ok`."""
    lake.start()
    lake.now = datetime.now(UTC) + timedelta(seconds=1)
    lake.record("stopped", details={"run": "run", "host": "here"})
    status = lake.status()
    assert (status.state, status.not_running_since) == ("not running", lake.now)
    _, out = run("status")
    assert f"not running since {lake.now:%-d %b %H:%M}" in out
    lake.now += timedelta(minutes=1)
    lake.record("started", details={"release": "r1", "run": "next", "host": "here"})
    assert lake.status().state == "ok"


def test_a_topic_that_leaves_no_sign_is_not_ok(lake: Lake) -> None:
    """Its application may have been killed; nobody can tell from an idle one, so it says that."""
    lake.start()
    committed = datetime.now(UTC)
    longest = timedelta(hours=2) + STUCK_AFTER  # an hour and its lateness
    (before,) = fleet.statuses(lake.config, ["plays"], committed + longest - timedelta(minutes=1))
    (after,) = fleet.statuses(lake.config, ["plays"], committed + longest + timedelta(minutes=1))
    assert (before.state, after.state) == ("ok", "silent")
    assert after.last_sign is not None


def test_a_closed_hour_that_waits_for_long_is_behind(lake: Lake) -> None:
    """A mirror that refuses one hour leaves it due for ever, with nothing but the log to tell."""
    lake.start(open_hour=SIX)
    lake.sealed(FIVE)
    lake.record("valid", FIVE, {"rows": 990})
    later = NOON + timedelta(minutes=61)
    assert lake.status().state == "ok"
    (status,) = fleet.statuses(lake.config, ["plays"], later)
    assert (status.state, status.waiting_hour, status.waits_for) == ("behind", FIVE, "mirror folder")
    lake.now = later
    lake.record("mirrored", FIVE, MIRRORED)
    (status,) = fleet.statuses(lake.config, ["plays"], later)
    assert (status.state, status.delivered_hour) == ("ok", FIVE)
    assert status.behind_seconds == (later - NOON.replace(hour=6)).total_seconds()


def test_an_hour_that_waits_for_a_person_is_said(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    lake.start(open_hour=SIX)
    lake.sealed(FIVE)
    lake.record("invalid", FIVE, INVALID)
    assert lake.status().state == "invalid"
    _, out = run("status")
    assert f"{FIVE} is invalid" in out


@pytest.mark.parametrize(("rejected", "state"), [(9, "ok"), (100, "ok"), (112, "rejecting")])
def test_a_topic_whose_messages_are_rejected_is_unwell(lake: Lake, rejected: int, state: str) -> None:
    """Its hours close and seal, empty, and nothing else would say so. The level is `max_rejected_share`."""
    lake.start(rejected=rejected, hours={FIVE: OpenHour(1000, NOON)})
    status = lake.status()
    assert (status.rejected, status.state) == (rejected, state)
    assert status.rejected_share == rejected / (1000 + rejected)


def test_all_messages_of_a_topic_rejected_is_a_share_of_one(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """Since the close before last: right after a close there would be nothing to count."""
    lake.start(open_hour=SIX)
    lake.record("closed", FIVE, CLOSED | {"rows": 0, "rejected": 2500})
    assert (lake.status().rejected, lake.status().rejected_share) == (2500, 1)
    _, out = run("status")
    assert "100% of messages rejected" in out
    _, out = run("hours", "plays")
    assert "2,500 (100%)" in out


# --- hours ---------------------------------------------------------------------------------------------------------


def test_an_hours_row_has_its_counts_and_delays(lake: Lake) -> None:
    lake.start(open_hour=SIX)
    lake.now = NOON.replace(hour=7)
    lake.closed(FIVE)
    lake.now = NOON.replace(hour=7, minute=1)
    lake.record("sealed", FIVE, SEALED)
    lake.record("valid", FIVE, {"rows": 990})
    lake.now = NOON.replace(hour=7, minute=2)
    lake.record("mirrored", FIVE, MIRRORED)
    (row,) = lake.hours()
    assert (row.hour, row.state, row.waits_for, row.revision, row.verdict) == (FIVE, "mirrored", None, 1, "valid")
    assert (row.rows, row.deliveries, row.duplicates, row.late_duplicates, row.skewed) == (990, 1000, 8, 2, 5)
    assert row.mirrored == ("folder",)
    assert row.closed_at == NOON.replace(hour=7)
    assert (row.closed_after_seconds, row.sealed_after_seconds, row.mirrored_after_seconds) == (3600, 3660, 3720)


def test_open_hours_show_what_they_hold(lake: Lake) -> None:
    lake.start(hours={FIVE: OpenHour(40, NOON), SIX: OpenHour(2, NOON)})
    lake.record("held", FIVE, {"reasons": [BACKLOG | {"text": "messages wait"}]})
    rows = [(row.hour, row.state, row.waits_for, row.deliveries, row.rows) for row in lake.hours()]
    assert rows == [(FIVE, "held", "close", 40, None), (SIX, "open", "close", 2, None)]


def test_last_counts_from_the_newest_hour(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    lake.start(open_hour="2025-06-01T08")
    for hour in (FIVE, SIX, SEVEN):
        lake.closed(hour)
    _, out = run("hours", "plays", "--last", "2", "--json")
    assert [row["hour"] for row in json.loads(out)["hours"]] == [SIX, SEVEN]
    _, out = run("hours", "plays", "--last", "1")
    assert [line.split()[0] for line in out.splitlines()] == ["hour", SEVEN]


def test_a_topic_that_never_started_has_no_hours(refused: Callable[..., tuple[object, str]]) -> None:
    code, err = refused("hours", "plays")
    assert code == LAKE
    assert "topic 'plays': found no lake at" in err


# --- explain -------------------------------------------------------------------------------------------------------


def test_a_held_hour_is_explained_by_all_three_conditions(lake: Lake) -> None:
    lake.start(hours={FIVE: OpenHour(40, NOON - timedelta(seconds=30))})
    text = "the backlog is unknown: the sample is 9 minutes old"
    held = {"reasons": [BACKLOG | {"text": text}], "frontier_text": "the sample is 9 minutes old"}
    lake.record("held", FIVE, held)
    answer = lake.explained(FIVE)
    assert answer.state == "held"
    assert answer.why.startswith(
        "Held since 2025-06-01T12:00:00Z: the backlog is unknown: the sample is 9 minutes old; "
    )
    measured = [(row.condition, row.is_met, row.required, row.measured) for row in answer.conditions]
    assert measured == [
        ("time", True, "2025-06-01T06:00:00+00:00", "2025-06-01T06:30:00+00:00"),
        ("backlog", False, "2025-06-01T07:00:00+00:00", None),
        ("quiet", False, "no write for 1 minute", "2025-06-01T11:59:30+00:00"),
    ]
    assert (answer.numbers["rows"], answer.numbers["epoch"], answer.waits_for) == (40, 1, "close")


def test_the_ledgers_word_counts_where_it_is_newer_than_the_log(lake: Lake) -> None:
    """An idle topic commits nothing while its reasons change."""
    lake.start()
    lake.now = datetime.now(UTC) + timedelta(minutes=1)
    text = "the backlog is unknown: the sample is 9 minutes old"
    reasons = [BACKLOG | {"text": text}]
    lake.record("held", FIVE, {"reasons": reasons, "frontier": None, "frontier_text": "the sample is 9 minutes old"})
    answer = lake.explained(FIVE)
    assert answer.conditions[1].text == text
    assert answer.measured_at == lake.now


def test_an_hour_after_the_open_one_waits_for_it(lake: Lake) -> None:
    lake.start()
    answer = lake.explained(SEVEN)
    assert (answer.state, answer.why) == ("open", f"Hours close oldest first, and {FIVE} is still open.")


def test_an_hour_whose_conditions_are_all_met_closes_next(lake: Lake) -> None:
    lake.start(frontier=NOON.isoformat())
    assert lake.explained(FIVE).why == "Open. By now every condition is met: it closes with the next batch."


def test_a_topic_without_events_has_no_first_hour_to_explain(lake: Lake) -> None:
    lake.start(open_hour=None)
    assert lake.explained(FIVE).why == "No event has set the topic's first hour yet."


def test_a_closed_hour_is_explained_by_what_was_measured_then(lake: Lake) -> None:
    lake.start(open_hour=SIX)
    lake.closed(FIVE)
    answer = lake.explained(FIVE)
    assert (answer.state, answer.waits_for, answer.measured_at) == ("closed", "seal", NOON)
    assert answer.why.startswith("Closed at 2025-06-01T12:00:00Z because time met, backlog met and quiet met.")
    assert [(row.condition, row.is_met) for row in answer.conditions] == [
        ("time", True),
        ("backlog", True),
        ("quiet", True),
    ]
    assert (answer.numbers["bronze_version"], answer.numbers["epoch"], answer.numbers["release"]) == (3, 7, "r1")


def test_a_range_of_empty_hours_is_one_row_and_waits_for_nothing(
    lake: Lake, run: Callable[..., tuple[int, str]]
) -> None:
    lake.start(open_hour=SIX)
    lake.record("closed", "2013-01-01T00", CLOSED | {"through": "2025-06-01T03", "rows": 0})
    lake.closed(FIVE)
    assert [(row.hour, row.through, row.state, row.waits_for) for row in lake.hours()] == [
        ("2013-01-01T00", "2025-06-01T03", "closed", None),
        (FIVE, None, "closed", "seal"),
    ]
    assert "2013-01-01T00 to 2025-06-01T03" in run("hours", "plays")[1]
    within = lake.explained("2020-02-29T12")
    assert (within.state, within.waits_for) == ("closed", None)


def test_a_close_on_request_names_who_asked_and_why(lake: Lake) -> None:
    lake.start(open_hour=SIX)
    lake.record("close_requested", SIX, {"reason": "publisher is gone", "by": "ada"})
    asked = {"why": "request", "requested_by": "ada", "request_reason": "publisher is gone"}
    lake.record("closed", FIVE, CLOSED | asked)
    answer = lake.explained(FIVE)
    assert answer.why.endswith("because ada asked for it: publisher is gone.")
    assert [(request.through, request.by, request.reason) for request in answer.requests] == [
        (SIX, "ada", "publisher is gone")
    ]


def test_a_loss_is_accepted_where_ingest_stands_still_for_one_and_once(
    lake: Lake, run: Callable[..., tuple[int, str]]
) -> None:
    lake.start()
    accept = ("accept-loss", "plays", "--reason", "seen", "--by", "ada")
    with pytest.raises(LakeError, match="found no loss that it stands still for"):
        run(*accept)
    lake.record("failed", None, {"error": f"kafka://h:1/t: found up to 3 messages gone; {ACCEPT_LOSS} goes on."})
    code, text = run(*accept)
    assert (code, "goes on without what is gone" in text) == (0, True)
    newest = lake.of("plays").ledger.history().last("loss_accepted")
    assert newest is not None
    assert newest.details == {"by": "ada", "reason": "seen"}
    with pytest.raises(LakeError):
        run(*accept)


def test_a_request_that_is_not_carried_out_yet_is_reported(lake: Lake) -> None:
    lake.start()
    lake.record("close_requested", FIVE, {"reason": "publisher is gone", "by": "ada"})
    assert "ada asked for its close (publisher is gone)" in lake.explained(FIVE).why


def test_a_close_that_only_the_log_knows_is_explained(lake: Lake) -> None:
    """A crash can come between bronze's commit and the ledger's row."""
    lake.start(open_hour=SIX, closed=({"hour": FIVE, **CLOSED},))
    answer = lake.explained(FIVE)
    assert (answer.state, answer.waits_for) == ("closed", "seal")
    assert answer.why.endswith("Ingest writes it to the ledger when it starts next.")


def test_an_hour_that_was_skipped_is_explained(lake: Lake) -> None:
    lake.start(open_hour=SEVEN)
    answer = lake.explained(FIVE)
    assert (answer.state, answer.waits_for, answer.conditions) == ("skipped", None, ())
    assert f"first open hour is {SEVEN}" in answer.why


def test_the_ledgers_story_is_reported_in_order(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    lake.start(open_hour=SIX)
    lake.record("held", FIVE, {"reasons": [BACKLOG | {"text": "messages wait"}]})
    lake.sealed(FIVE)
    lake.record("invalid", FIVE, INVALID)
    lake.record("released", FIVE, {"reason": "known gap", "by": "ada"})
    lake.record("mirrored", FIVE, MIRRORED)
    story = [(event.state, event.text) for event in lake.explained(FIVE).story]
    assert story == [
        ("held", "messages wait"),
        ("closed", "by watermark: 1,000 rows, bronze version 3, epoch 7, release r1"),
        (
            "sealed",
            "revision 1: 990 rows of 1,000 deliveries (8 duplicates, 2 late duplicates, 5 skewed), 1 file, "
            "silver version 2, bronze version 3, id checksum 12345, release r1, 1.5 s",
        ),
        ("invalid", "failed expect_column_values_to_not_be_null on user, 1,234 unexpected; report r.html"),
        ("released", "by ada: known gap"),
        ("mirrored", "folder: 990 rows counted at /mirror/plays, id checksum 12345, 0.2 s"),
    ]
    _, out = run("explain", "plays", FIVE)
    assert out.startswith(f"plays {FIVE}: mirrored\nClosed at ")
    assert all(text in out for _, text in story)
    _, out = run("explain", "plays", FIVE, "--json")
    assert [event["state"] for event in json.loads(out)["story"]] == [state for state, _ in story]


# --- close and release ---------------------------------------------------------------------------------------------


def test_close_asks_ingest_through_the_ledger(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    lake.start()
    code, out = run("close", "plays", SIX, "--reason", "publisher is gone", "--by", "ada")
    assert (code, out) == (0, f"plays: all hours through {SIX} close with the next batch of ingest.\n")
    request = lake.snapshot().history.requested_close()
    assert request is not None
    assert (request.hour, request.by) == (SIX, "close/r1/ada")
    assert request.details == {"reason": "publisher is gone", "by": "ada"}


@pytest.mark.parametrize(
    ("hour", "options", "complaint"),
    [
        (SIX, ("--reason", " "), "--reason: found no text"),
        (SIX, ("--reason", "x", "--by", ""), "--by: found no name"),
        ("2025-06-01T6", ("--reason", "x"), "HOUR: found '2025-06-01T6'; expected a UTC hour"),
        (FIVE, ("--reason", "x"), f"plays {FIVE}: found an hour that is no longer open"),
        (
            "2025-06-01T04",
            ("--reason", "x"),
            "plays 2025-06-01T04: found no such hour; expected an hour from 2025-06-01T05 on",
        ),
        (
            "2999-01-01T00",
            ("--reason", "x"),
            "found an hour that ends at 2999-01-01T01:00:00Z; expected an hour that is",
        ),
    ],
)
def test_close_refuses_what_cannot_be_meant(
    lake: Lake, refused: Callable[..., tuple[object, str]], hour: str, options: tuple[str, ...], complaint: str
) -> None:
    """A slip of the hand would skew every later event of those hours."""
    lake.start(open_hour=SIX)
    lake.closed(FIVE)
    before = lake.ledger()
    code, err = refused("close", "plays", hour, *options)
    assert code in (MISUSE, LAKE)
    assert complaint in err
    assert lake.ledger() == before


def test_close_and_release_need_a_reason(run: Callable[..., tuple[int, str]]) -> None:
    assert run("close", "plays", SIX)[0] == 2
    assert run("release", "plays", SIX)[0] == 2


def test_release_lets_an_invalid_hour_go_on(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    lake.start(open_hour=SIX)
    lake.sealed(FIVE)
    lake.record("invalid", FIVE, INVALID)
    code, out = run("release", "plays", FIVE, "--reason", "known gap", "--by", "ada", "--json")
    assert code == 0
    assert json.loads(out)["state"] == "released"
    entry = lake.snapshot().history.last("released", FIVE)
    assert entry is not None
    assert (entry.details["reason"], entry.details["by"]) == ("known gap", "ada")
    assert lake.status().waits_for == "mirror folder"


def test_release_refuses_an_hour_that_is_not_invalid(lake: Lake, refused: Callable[..., tuple[object, str]]) -> None:
    lake.start(open_hour=SIX)
    lake.sealed(FIVE)
    code, err = refused("release", "plays", FIVE, "--reason", "known gap", "--by", "ada")
    assert code == LAKE
    assert f"plays {FIVE}" in err


# --- topics check --------------------------------------------------------------------------------------------------


def complaints(run: Callable[..., tuple[int, str]]) -> tuple[int, dict[str, str | None]]:
    code, out = run("topics", "check", "--json")
    return code, {row["topic"]: row["complaint"] for row in json.loads(out)["topics"]}


def test_sound_topics_pass_the_check(run: Callable[..., tuple[int, str]]) -> None:
    assert complaints(run) == (0, {"plays": None, "skips": None})


def test_the_check_goes_on_after_a_topic_that_fails(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    with (lake.conf.parent / "topics" / "plays.yaml").open("a", encoding="utf-8") as file:
        file.write("latenes: 1 hour\n")
    code, found = complaints(run)
    assert code == 1
    assert "plays.yaml: latenes: found the unknown key" in str(found["plays"])
    assert found["skips"] is None


def test_the_check_finds_what_is_wrong_between_topics(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    topics = lake.conf.parent / "topics"
    (topics / "skips.yaml").write_text((topics / "plays.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    code, found = complaints(run)
    assert code == 1
    assert all("a subscription of its own" in str(found[name]) for name in ("plays", "skips"))


def test_the_check_reads_suites_and_mirrors(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    (lake.conf.parent.parent / "expectations" / "plays.json").unlink()
    settings = yaml.safe_load(lake.conf.read_text(encoding="utf-8"))
    settings["mirrors"]["folder"]["pth"] = "x"
    lake.conf.write_text(yaml.safe_dump(settings), encoding="utf-8")
    code, found = complaints(run)
    assert code == 1
    assert "plays.json: found no such file" in str(found["plays"])
    assert "mirrors.folder.pth: found the unknown key" in str(found["skips"])


def test_the_check_names_every_expectation_that_has_no_answer(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """One line each, whatever it raises; and no topic keeps another from being checked."""
    asked = [
        {"type": "expect_column_max_to_be_between", "kwargs": {"column": "event_time", "max_value": 10**400}},
        {"type": "expect_column_to_exist", "kwargs": {"column": "user"}},
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "user", "value_set": {"a": 1}}},
    ]
    suite = lake.conf.parent.parent / "expectations" / "plays.json"
    suite.write_text(json.dumps({"name": "plays", "expectations": asked}), encoding="utf-8")
    code, found = complaints(run)
    assert (code, found["skips"]) == (1, None)
    assert [line.partition(", expectation ")[2][:1] for line in str(found["plays"]).splitlines()] == ["1", "3"]


def test_an_error_that_nobody_foresaw_is_of_one_topic_alone(
    lake: Lake, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = suite_files.suite_complaints

    def broken(topic: Topic, config: Config) -> list[str]:
        if topic.name == "plays":
            raise ZeroDivisionError("at a place")
        return real(topic, config)

    monkeypatch.setattr(suite_files, "suite_complaints", broken)
    code, found = complaints(run)
    assert (code, found["skips"]) == (1, None)
    assert "ZeroDivisionError: at a place" in str(found["plays"])


def test_the_check_asks_the_mirrors(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """All of what they object to; what may only keep single hours out is a warning, and no complaint."""
    settings = yaml.safe_load(lake.conf.read_text(encoding="utf-8"))
    settings["mirrors"] = {
        "bigquery": {"kind": "bigquery", "project": "p", "dataset": "d", "staging": "gs://b/staging"},
        "folder": {"kind": "folder", "path": "/mirror"},
    }
    lake.conf.write_text(yaml.safe_dump(settings), encoding="utf-8")
    for name, fields in (("plays", {"a b": "array<array<int>>"}), ("skips", {"tags": "array<string>"})):
        file = lake.conf.parent / "topics" / f"{name}.yaml"
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        file.write_text(yaml.safe_dump({**values, "fields": fields, "mirrors": ["bigquery", "folder"]}), "utf-8")
    code, out = run("topics", "check", "--json")
    found = {row["topic"]: row for row in json.loads(out)["topics"]}
    assert code == 1
    assert "a b: an array of arrays; a b: a name that is not of letters" in found["plays"]["complaint"]
    assert (found["skips"]["ok"], "a null within tags" in found["skips"]["warnings"][0]) == (True, True)
    assert "skips: warning: bigquery: an hour with a null within tags" in " ".join(run("topics", "check")[1].split())


def test_settings_that_do_not_load_are_no_topics_complaint(
    lake: Lake, refused: Callable[..., tuple[object, str]]
) -> None:
    lake.conf.write_text("raw_rot: x\n", encoding="utf-8")
    code, err = refused("topics", "check")
    assert code == MISUSE
    assert "test.yaml: raw_root: found nothing" in err


# --- the door itself -----------------------------------------------------------------------------------------------


def test_an_error_is_one_line_without_a_trace(refused: Callable[..., tuple[object, str]]) -> None:
    code, err = refused("status", "plaice")
    assert code == MISUSE
    assert err.startswith("topic 'plaice': found no such file")
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_an_error_is_an_object_for_those_who_asked_for_json(refused: Callable[..., tuple[object, str]]) -> None:
    _, err = refused("hours", "plaice", "--json")
    error = json.loads(err)["error"]
    assert (error["kind"], error["subject"]) == ("ConfigError", "topic 'plaice'")
    assert set(error) == {"kind", "subject", "found", "expected", "next_step", "message"}


MISTAKES = {
    "no such command 'bogus'": ("bogus",),
    "missing argument 'TOPIC'": ("hours",),
    "missing option '--reason'": ("close", "plays", FIVE),
    "no such option: --bogus": ("status", "--bogus"),
    "invalid value for '--last'": ("hours", "plays", "--last", "x"),
    "invalid value for '--port'": ("sandbox", "--port", "70000"),
    "unexpected extra argument": ("topics", "check", "plays"),
}


@pytest.mark.parametrize(("found", "arguments"), MISTAKES.items())
def test_a_mistake_of_the_command_line_is_an_object_for_those_who_asked_for_json(
    refused: Callable[..., tuple[object, str]], found: str, arguments: tuple[str, ...]
) -> None:
    code, err = refused(*arguments, "--json")
    error = json.loads(err)["error"]
    assert (code, error["kind"]) == (MISUSE, "UsageError")
    assert error["found"].startswith(found)
    assert error["subject"].startswith("lakehouse")


@pytest.mark.parametrize("arguments", MISTAKES.values())
def test_a_mistake_of_the_command_line_is_shown_with_the_usage(
    refused: Callable[..., tuple[object, str]], arguments: tuple[str, ...]
) -> None:
    code, err = refused(*arguments)
    assert (code, "Usage: lakehouse" in err) == (MISUSE, True)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_check_that_finds_something_ends_with_its_own_code(
    lake: Lake, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    (lake.conf.parent / "topics" / "plays.yaml").write_text("x: 1", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        app.main(["topics", "check", "--conf", str(lake.conf), *options])
    assert (ended.value.code, capsys.readouterr().err) == (FOUND_WRONG, "")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_error_that_nobody_foresaw_is_one_line_that_says_where(
    refused: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Exit code 1 would say that a check has found something."""
    monkeypatch.setattr("lakehouse.cli.look.statuses", lambda *_, **__: {}["plays"])
    code, err = refused("status", *options)
    assert code == UNFORESEEN
    assert err.count("\n") == 1
    assert "lakehouse: found KeyError: 'plays'; expected an error that this release handles" in err
    assert "It was raised at lakehouse/cli/look.py, line " in err


def test_the_configuration_is_taken_before_and_after_the_command(
    lake: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one after it takes precedence, and both over the environment."""
    monkeypatch.setenv("LAKEHOUSE_CONF", "nowhere.yaml")
    conf = str(lake.conf)
    for arguments in (
        ("--conf", conf, "topics", "check"),
        ("topics", "check", "--conf", conf),
        ("--conf", "no.yaml", "topics", "check", f"--conf={conf}"),
    ):
        with pytest.raises(SystemExit) as ended:
            app.main(arguments)
        assert ended.value.code == 0, capsys.readouterr().err
    monkeypatch.setenv("LAKEHOUSE_CONF", conf)
    with pytest.raises(SystemExit) as ended:
        app.main(["topics", "check", "--json"])
    assert (ended.value.code, "plays" in capsys.readouterr().out) == (0, True)


def test_the_check_finds_the_configuration_of_the_environment(
    lake: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (lake.conf.parent / "topics" / "plays.yaml").open("a", encoding="utf-8") as file:
        file.write("latenes: 1 hour\n")
    monkeypatch.setenv("LAKEHOUSE_CONF", str(lake.conf))
    with pytest.raises(SystemExit) as ended:
        app.main(["topics", "check"])
    assert (ended.value.code, "latenes" in capsys.readouterr().out) == (FOUND_WRONG, True)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"lakehouse {__version__}\n")


def test_messages_name_folders_without_detours(lake: Lake, run: Callable[..., tuple[int, str]]) -> None:
    """`conf/../expectations/plays.json` is no name that a person looks for."""
    (lake.conf.parent.parent / "expectations" / "plays.json").unlink()
    settings = yaml.safe_load(lake.conf.read_text(encoding="utf-8"))
    lake.conf.write_text(yaml.safe_dump({**settings, "topics": "../conf/topics"}), encoding="utf-8")
    _, out = run("topics", "check")
    assert f"{lake.conf.parent.parent}/expectations/plays.json: found no such file" in out
    (lake.conf.parent / "topics" / "skips.yaml").write_text("x: 1", encoding="utf-8")
    with pytest.raises(ConfigError) as wrong:
        load(lake.conf)
    assert ".." not in str(wrong.value)


COMMANDS: list[tuple[list[str], set[str]]] = [
    (["status"], set()),
    (["hours", "plays"], set()),
    (["explain", "plays", FIVE], set()),
    (["report"], set()),
    (["lateness", "plays"], {"duckdb"}),
    (["reconcile", "plays"], {"duckdb"}),
    (["maintain", "--dry-run"], {"duckdb", "pandas"}),
    (["verify", "plays"], {"duckdb", "pandas"}),
    (["audit", "plays", FIVE], {"duckdb", "pandas"}),
    (["trace", "plays", "a"], {"duckdb", "pandas"}),
    (["replay-rejected", "plays", "--dry-run"], {"duckdb", "pandas"}),
]
"""Commands that judge no hour, and what one after the other may have imported: DuckDB where it answers, pandas where
PyArrow reaches for it."""


def test_the_door_opens_without_spark(tmp_path: Path) -> None:
    """Their imports take longer than every answer; Great Expectations' takes three core-seconds."""
    made = lake_in(tmp_path)
    made.deliver(*plays("a", "b", "a"))
    made.seal()
    made.clear(FIVE, "folder")
    made.deliver(*plays("c"), hour=SIX)
    conf = conf_of(made, tmp_path)
    code = (
        "import json, sys; from lakehouse.cli import app\n"
        f"loaded = [sorted({HEAVY} & set(sys.modules))]\n"
        f"for command in {[[*command, '--conf', str(conf)] for command, _ in COMMANDS]}:\n"
        "    try: app.main(command)\n"
        "    except SystemExit as ended: assert ended.code in (None, 0, 1), command\n"
        f"    loaded.append(sorted({HEAVY} & set(sys.modules)))\n"
        "print(json.dumps(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    early, *loaded = json.loads(done.stdout.splitlines()[-1])
    assert early == []
    for (command, allowed), found in zip(COMMANDS, loaded, strict=True):
        assert set(found) <= allowed, command


def test_status_answers_a_shell(lake: Lake) -> None:
    lake.start()
    done = process(lake, "-m", "lakehouse.cli", "status")
    assert done.returncode == 0, done.stderr
    assert FIVE in done.stdout


@pytest.mark.slow
def test_the_sandbox_says_how_to_reach_it_and_what_it_has_and_stops_when_asked(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic of the configuration can be published to at once."""
    subscriptions = {topic.subscription for topic in lake.config.topics.values()}
    command = [sys.executable, "-m", "lakehouse.cli", "sandbox", "--port", "0", "--conf", str(lake.conf)]
    with subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        line, *created = [broker.stdout.readline() for _ in range(1 + len(subscriptions))]
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", line.strip().partition("=")[2])
        with PublisherClient() as publisher:
            published = [publisher.publish(each.split()[1].rstrip(","), b"{}").result(30) for each in created]
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(30) == 0
    assert line.startswith("export PUBSUB_EMULATOR_HOST=127.0.0.1:")
    assert len(published) == 2
    assert {each.split()[-1] for each in created} == subscriptions


def test_the_sandbox_does_without_topics(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def printed(document: Any) -> None:
        said.append(document)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(app, "print_json", printed)
    for file in (lake.conf.parent / "topics").iterdir():
        file.unlink()
    with pytest.raises(SystemExit) as ended:
        app.main(["sandbox", "--port", "0", "--json", "--conf", str(lake.conf)])
    assert ended.value.code == 0
    ((address, replayed, created),) = [tuple(document.values()) for document in said]
    assert (address.partition(":")[0], replayed, created) == ("127.0.0.1", None, [])


@pytest.mark.parametrize("is_ended", [False, True])
def test_in_a_lake_that_replays_a_day_the_sandbox_goes_on_with_it_or_ends_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_ended: bool
) -> None:
    """By today's clock its topics are 13 years behind; an application then takes the day's time from this broker."""
    day = new_clock(lake.config)
    day.set(datetime(2013, 1, 2, 22, tzinfo=UTC), "127.0.0.1:1")
    brokers: list[Broker] = []

    def stop(host: str, port: int, ready: Callable[[Broker], None], publish_clock: Any) -> None:
        with Broker(port, host=host, publish_clock=publish_clock) as broker:
            brokers.append(broker)
            ready(broker)
            monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
            settle_clock(lake.config.settings)

    monkeypatch.setattr(broker_module, "serve", stop)
    with pytest.raises(SystemExit) as ended:
        app.main(["sandbox", "--port", "0", *(["--today"] if is_ended else []), "--conf", str(lake.conf)])
    assert ended.value.code == 0
    assert ("it is 2013-01-02T22:0" in capsys.readouterr().out) is not is_ended
    assert (lake.config.now().year == 2013) is not is_ended
    if not is_ended:
        assert day.broker() == brokers[0].address
        with pytest.raises(SystemExit):
            app.main(["status", "--conf", str(lake.conf)])
        assert "by this lake's clock, which replays a day: it is 2013-01-02T22:0" in capsys.readouterr().out


def test_a_sandbox_on_a_busy_port_is_refused(refused: Callable[..., tuple[object, str]]) -> None:
    with Broker() as busy:
        code, err = refused("sandbox", "--port", busy.address.rpartition(":")[2])
    assert code == MISUSE
    assert err.startswith(f"sandbox broker on {busy.address}: found an address that cannot be bound")


def test_code_that_is_packed_for_clusters_has_no_sandbox(
    refused: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lakehouse.sandbox", None)
    code, err = refused("sandbox", "--port", "0")
    assert (code, err.count("\n")) == (MISUSE, 1)
    assert "lakehouse sandbox: found code without the package lakehouse.sandbox" in err
