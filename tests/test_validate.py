"""Sealed hours are judged as their suites say, and only what is judged goes on."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse import failpoints, hours
from lakehouse.config import Config
from lakehouse.errors import LakeError, SuiteError
from lakehouse.schemas import sealed_schema
from lakehouse.store.history import Entry
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import hour_rows, mlflow_runs
from lakehouse.validate.failing import failing
from lakehouse.validate.mlflow_background import BackgroundLog
from lakehouse.validate.release import ReleaseError, release
from lakehouse.validate.results import Verdict
from lakehouse.validate.stage import validate_due, validate_hour
from lakehouse.validate.suite_files import check_suites, suite_of
from tests.lake import Lake, begin_runs, write_suite

HOUR = "2026-11-23T05"
PLAYS_TOPIC = {
    "subscription": "projects/test/subscriptions/x", "event_id": "payload.id", "event_time": "publish_time",
    "fields": {"user": "string"},
}  # fmt: skip
Rows = list[dict[str, Any]]


def expectation(kind: str, severity: str | None = None, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"severity": severity} if severity else {}}


EVERY = [
    expectation("expect_column_values_to_not_be_null", column="event_id"),
    expectation("expect_column_values_to_be_unique", column="event_id"),
    expectation(
        "expect_column_pair_values_a_to_be_greater_than_b", column_A="hour", column_B="event_hour", or_equal=True
    ),
]
PLAYS = [
    expectation("expect_column_values_to_be_between", column="n", min_value=0, max_value=1000),
    expectation("expect_column_values_to_match_regex", column="user", regex="^u[0-9]+$"),
    expectation("expect_column_values_to_not_be_null", column="track.id"),
    expectation("expect_column_values_to_not_be_null", "warning", column="n", mostly=0.9),
]


def plays(count: int, **changed: Mapping[int, Any]) -> Rows:
    """Clean rows of one hour, in which `changed` gives other values to some rows of a column."""
    start = hours.start_of(HOUR)
    rows = [
        {
            "user": f"u{number}",
            "track": {"id": f"t{number}", "ms": number},
            "n": number % 1000,
            "event_id": f"e{number}",
            "event_time": start + timedelta(milliseconds=number),
            "event_hour": HOUR,
            "publish_time": start + timedelta(milliseconds=number + 1),
            "message_id": str(number),
        }
        for number in range(count)
    ]
    for column, values in changed.items():
        for number, value in values.items():
            rows[number][column] = value
    return rows


@dataclass
class SealedLake(Lake):
    """A topic's sealed hours, as the seal would leave them."""

    by: str = "seal/test/run"

    def suite(self, expectations: list[dict[str, Any]], name: str | None = None) -> None:
        write_suite(self.config.expectations, name or self.topic.name, expectations)

    def put(self, events: Rows, hour: str = HOUR, *, revision: int = 1, **manifest: Any) -> None:
        """The hour's revision with these rows; `manifest` is what the seal says other than usual."""
        rows = pa.Table.from_pylist(events, schema=sealed_schema(self.topic))
        version = self.write_silver(hour, rows, revision=revision, files=1 if events else 0)
        if revision == 1:
            condition = {"condition": "time", "required": "06:00", "measured": "06:10", "text": "the watermark passed"}
            closed = {"bronze_version": 7, "why": "watermark", "rows": len(events), "rejected": 4}
            self.ledger.record("closed", hour, {**closed, "conditions": [condition]})
        details = {
            "silver_version": version, "revision": revision, "rows": len(events), "deliveries": len(events) + 3,
            "duplicates": 3, "late_duplicates": 1, "skewed": 2, "release": "0.9", "bronze_version": 7,
            "id_checksum": "12",
        }  # fmt: skip
        self.ledger.record("sealed", hour, details | manifest)

    def validate(self) -> list[Verdict]:
        return validate_due(self.topic, self.config, run="run", log_runs=lambda tables: None)

    def last(self, state: str, hour: str = HOUR) -> Entry:
        entry = self.ledger.history().last(state, hour)
        assert entry is not None
        return entry

    def states(self, hour: str = HOUR) -> list[str]:
        return [entry.state for entry in self.ledger.history().of_hour(hour)]

    def report(self, suffix: str, revision: int = 1) -> Path:
        return Path(self.tables.reports.uri, HOUR, f"r{revision}.{suffix}")


@pytest.fixture
def lake(topic: Topic, config: Config) -> SealedLake:
    """A lake whose verdicts are noted for MLflow, and logged only by the tests that are about it."""
    lake = SealedLake(topic, config)
    lake.suite(EVERY, "_every_topic")
    lake.suite(PLAYS)
    return lake


@pytest.fixture
def dies_at() -> Iterator[Callable[[str], None]]:
    def arm(name: str) -> None:
        def watcher(step: str) -> None:
            if step == name:
                raise KeyboardInterrupt(step)

        failpoints.watch(watcher)

    yield arm
    failpoints.watch(None)


def test_a_clean_hour_is_valid(lake: SealedLake) -> None:
    """The gate opens by itself, so that nobody has to look at hours that are as they should be."""
    lake.put(plays(50))
    (verdict,) = lake.validate()
    assert (verdict.state, verdict.failed, verdict.warnings) == ("valid", [], [])
    entry = lake.last("valid")
    assert entry.by == "validate/test/run"
    assert {key: entry.details[key] for key in ("failed", "warnings", "rows", "evaluated", "revision")} == {
        "failed": [],
        "warnings": [],
        "rows": 50,
        "evaluated": 8,
        "revision": 1,
    }
    assert lake.ledger.history().due_to_mirror("folder") == [HOUR]
    assert lake.validate() == []


def test_a_dirty_hour_is_invalid_and_names_what_failed_by_event_id(lake: SealedLake) -> None:
    """An operator must find the very events, not only learn that there are some."""
    lake.put(plays(50, n={7: -1}, user={3: "x", 4: "<script>alert(1)</script>"}, track={9: None}))
    (verdict,) = lake.validate()
    assert verdict.state == "invalid"
    failed = {row["column"]: row for row in lake.last("invalid").details["failed"]}
    assert {column: row["unexpected"] for column, row in failed.items()} == {"n": 1, "user": 2, "track.id": 1}
    examples = {finding.expectation.subject: finding.examples for finding in verdict.failed}
    assert examples["n"] == ({"event_id": "e7", "n": -1},)
    assert [example["event_id"] for example in examples["user"]] == ["e3", "e4"]
    assert examples["track.id"] == ({"event_id": "e9", "track.id": None},)
    assert lake.ledger.history().due_to_mirror("folder") == []


def test_what_breaks_an_expectation_is_listed_from_silver(lake: SealedLake) -> None:
    """A result keeps a hundred examples; who fixes the source wants all of them, and may ask days later."""
    lake.put(plays(300, user={number: "x" for number in range(150)}, n={7: -1}))
    lake.validate()
    found = failing(lake.topic, lake.config, HOUR, "column_values_to_match_regex", limit=1000)
    assert (found.unexpected, len(found.examples), found.examples[149]) == (150, 150, {"event_id": "e99", "user": "x"})
    kept = json.loads(lake.report("json").read_text())["expectations"]
    assert [len(row["examples"]) for row in kept if row["column"] == "user"] == [100]
    other = failing(lake.topic, lake.config, HOUR, "expect_column_values_to_be_between.n")
    assert other.examples == ({"event_id": "e7", "n": -1},)
    with pytest.raises(LakeError, match=r"2 expectations|one of expect_column_values_to_be_between\.n, "):
        failing(lake.topic, lake.config, HOUR, "expect_column_values_to_be_nice")


@pytest.mark.parametrize("content", [b"", b'{"expectations": [', b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, None])
def test_what_breaks_an_expectation_is_not_listed_by_a_damaged_result(lake: SealedLake, content: bytes | None) -> None:
    """A folder in its place, too: the file is named, and what to do."""
    lake.put(plays(2))
    lake.validate()
    lake.report("json").unlink()
    if content is None:
        lake.report("json").mkdir()
    else:
        lake.report("json").write_bytes(content)
    with pytest.raises(LakeError, match=r"r1\.json: found a result that cannot be read"):
        failing(lake.topic, lake.config, HOUR, "expect_column_values_to_be_unique.event_id")


def test_an_event_after_the_end_of_its_hour_breaks_what_every_topic_expects(lake: SealedLake) -> None:
    """The end of the hour is another one each hour: the suite leaves it open in Great Expectations' own way."""
    lake.suite(
        [
            expectation(
                "expect_column_values_to_be_between",
                column="event_time",
                max_value={"$PARAMETER": "hour_end"},
                strict_max=True,
            )
        ],
        "_every_topic",
    )
    check_suites(lake.topic, lake.config)
    late = hours.end_of(HOUR)
    lake.put(plays(5, event_time={2: late, 3: late - timedelta(microseconds=1)}))
    (verdict,) = lake.validate()
    assert [example["event_id"] for finding in verdict.failed for example in finding.examples] == ["e2"]
    lake.suite([expectation("expect_table_row_count_to_equal", value={"$PARAMETER": "rows"})])
    with pytest.raises(SuiteError, match="the parameter 'rows'; expected one of hour,"):
        check_suites(lake.topic, lake.config)


def test_a_result_says_how_late_the_events_were(lake: SealedLake) -> None:
    """Lateness is what a topic's configuration is about: who sets it needs figures, not a guess."""
    start = hours.start_of(HOUR)
    lake.put(plays(10, publish_time={number: start + timedelta(minutes=5) for number in range(4)}))
    lake.validate()
    lateness = json.loads(lake.report("json").read_text())["lateness"]
    assert (lateness["rows"][0], lateness["rows"][3], sum(lateness["rows"])) == (6, 4, 10)
    assert lateness["largest_seconds"] == 300


def test_a_warning_does_not_hold_the_hour_back(lake: SealedLake) -> None:
    """What is only worth knowing must not stop a delivery at night."""
    lake.put(plays(10, n={1: None, 2: None}))
    (verdict,) = lake.validate()
    assert verdict.state == "valid"
    assert [row["column"] for row in lake.last("valid").details["warnings"]] == ["n"]


def test_an_hour_with_other_rows_than_were_sealed_is_invalid(lake: SealedLake) -> None:
    """Between seal and mirror a file can be lost: the manifest says how many rows there must be."""
    lake.put(plays(10), rows=11)
    (verdict,) = lake.validate()
    assert [finding.expectation.type for finding in verdict.failed] == ["expect_table_row_count_to_equal"]
    assert lake.last("invalid").details["failed"][0]["observed"] == 10


def test_an_hour_without_rows_is_valid(lake: SealedLake) -> None:
    """Nothing that is said of rows is broken by there being none; a mean of none must not hold a quiet hour back."""
    lake.suite([*PLAYS, expectation("expect_column_mean_to_be_between", column="n", min_value=1)])
    lake.put([])
    (verdict,) = lake.validate()
    assert (verdict.state, verdict.rows) == ("valid", 0)


def test_an_hour_without_rows_still_breaks_what_is_said_of_the_number_of_rows(lake: SealedLake) -> None:
    """A topic that must not be silent can say so."""
    lake.suite([expectation("expect_table_row_count_to_be_between", min_value=1)])
    lake.put([])
    (verdict,) = lake.validate()
    assert [finding.observed for finding in verdict.failed] == [0]


def test_large_numbers_beside_nulls_stay_different(lake: SealedLake) -> None:
    """As floats the two would be the same number, and a clean hour would be held back."""
    lake.suite([expectation("expect_column_values_to_be_unique", column="n")])
    lake.put(plays(3, n={0: 2**53, 1: 2**53 + 1, 2: None}))
    assert [verdict.state for verdict in lake.validate()] == ["valid"]


def test_hours_are_judged_oldest_first(lake: SealedLake) -> None:
    """They are mirrored in that order, too."""
    for hour in ("2026-11-23T06", HOUR):
        lake.put(plays(2), hour)
    assert [verdict.hour for verdict in lake.validate()] == [HOUR, "2026-11-23T06"]


def test_every_revision_has_its_own_verdict(lake: SealedLake) -> None:
    """What was said of rows that were sealed again says nothing of the new ones; the old page stays."""
    lake.put(plays(5, n={1: -1}))
    lake.validate()
    lake.suite(PLAYS[1:])
    lake.put(plays(9), revision=2)
    (verdict,) = lake.validate()
    assert (verdict.revision, verdict.state, verdict.rows) == (2, "valid", 9)
    assert lake.states() == ["closed", "sealed", "invalid", "sealed", "valid"]
    assert lake.report("html", 1).exists()
    assert lake.report("html", 2).exists()


def test_a_run_that_dies_after_the_report_is_done_again(lake: SealedLake, dies_at: Callable[[str], None]) -> None:
    """The ledger's row is last: what is recorded has a page, and what has only a page is still due."""
    lake.put(plays(5))
    dies_at("validate.report_durable")
    with pytest.raises(KeyboardInterrupt):
        lake.validate()
    failpoints.watch(None)
    assert lake.report("html").exists()
    assert lake.states() == ["closed", "sealed"]
    assert [verdict.state for verdict in lake.validate()] == ["valid"]
    assert lake.states() == ["closed", "sealed", "valid"]


def test_two_runs_leave_one_verdict(lake: SealedLake) -> None:
    """A second run that judged the same hour in the meantime finds the first one's row."""
    lake.put(plays(5))
    judged: list[Verdict] = []

    def meanwhile(step: str) -> None:
        if step == "validate.report_durable":
            failpoints.watch(None)
            judged.append(validate_hour(lake.topic, lake.config, HOUR, run="other"))

    failpoints.watch(meanwhile)
    (verdict,) = lake.validate()
    assert (judged[0].is_recorded, verdict.is_recorded) == (True, False)
    assert lake.states() == ["closed", "sealed", "valid"]


def test_a_verdict_and_its_page_stay_as_they_were(lake: SealedLake) -> None:
    """Under newer expectations the hour may look otherwise; the page must show why it went on then."""
    lake.put(plays(5))
    lake.validate()
    before = lake.report("json").read_bytes()
    lake.suite([expectation("expect_column_values_to_be_null", column="n")])
    verdict = validate_hour(lake.topic, lake.config, HOUR, run="again")
    assert (verdict.state, verdict.is_recorded) == ("invalid", False)
    assert lake.report("json").read_bytes() == before
    assert lake.states() == ["closed", "sealed", "valid"]


def test_the_page_and_its_numbers_are_where_the_ledger_says(lake: SealedLake) -> None:
    """From the ledger's row one click leads to the events that broke an expectation."""
    lake.put(plays(5, user={3: "<script>x</script>"}))
    lake.validate()
    html = Path(lake.last("invalid").details["report"]).read_text()
    assert "&lt;script&gt;x&lt;/script&gt;" in html
    assert "e3" in html
    assert "<script" not in html
    result = json.loads(lake.report("json").read_text())
    assert (result["state"], result["seal"]["duplicates"], result["closed"]["why"]) == ("invalid", 3, "watermark")


def test_an_hour_that_is_not_sealed_cannot_be_judged(lake: SealedLake) -> None:
    """The files of an open hour are not there yet."""
    with pytest.raises(LakeError, match=r"2026-11-23T05: found the hour open; expected a sealed hour"):
        validate_hour(lake.topic, lake.config, HOUR, run="run")


def test_a_file_that_is_gone_is_no_verdict(lake: SealedLake) -> None:
    """It says nothing of the events, and the hour stays due."""
    lake.put(plays(5))
    Path(lake.tables.sealed.uri, "silver", f"hour={HOUR}", "0-r1.parquet").unlink()
    with pytest.raises(LakeError, match="lakehouse verify"):
        lake.validate()
    assert lake.ledger.history().due_to_validate() == [HOUR]


def test_a_field_declared_after_the_seal_is_missing_in_it(lake: SealedLake, topic_with: Callable[..., Topic]) -> None:
    """A release that declares more must still be able to judge what was sealed before it."""
    lake.put(plays(5))
    fields = {**lake.topic.fields, "track": "struct<id: string, ms: int, album: string>", "device": "string"}
    newer = SealedLake(topic_with(fields=fields), lake.config)
    newer.put(plays(5), "2026-11-23T06")
    lake.suite([expectation("expect_column_values_to_be_null", column=name) for name in ("device", "track.album")])
    assert [verdict.state for verdict in newer.validate()] == ["valid", "valid"]


# --- release -------------------------------------------------------------------------------------------------------


def test_a_released_hour_goes_on(lake: SealedLake) -> None:
    """A person's word, with a reason that stays in the ledger, stands above the verdict."""
    lake.put(plays(5, n={1: -1}))
    lake.validate()
    release(lake.topic, lake.config, HOUR, "known bug of player 4.2", "ann")
    entry = lake.last("released")
    assert (entry.by, entry.details["reason"], entry.details["by"]) == (
        "release/test/ann",
        "known bug of player 4.2",
        "ann",
    )
    assert lake.ledger.history().due_to_mirror("folder") == [HOUR]


def test_only_an_invalid_hour_can_be_released_and_only_once(lake: SealedLake) -> None:
    """A release that changes nothing would hide a mistyped hour."""
    lake.put(plays(5, n={1: -1}))
    with pytest.raises(ReleaseError, match="found the hour sealed; expected an invalid hour"):
        release(lake.topic, lake.config, HOUR, "because", "ann")
    lake.validate()
    with pytest.raises(ReleaseError, match="no reason"):
        release(lake.topic, lake.config, HOUR, "  ", "ann")
    release(lake.topic, lake.config, HOUR, "because", "ann")
    with pytest.raises(ReleaseError, match="found the hour released"):
        release(lake.topic, lake.config, HOUR, "because", "ann")


# --- suites --------------------------------------------------------------------------------------------------------


def test_a_topic_without_a_suite_must_write_one(lake: SealedLake) -> None:
    """No suite must not mean no check."""
    (lake.config.expectations / "plays.json").unlink()
    with pytest.raises(SuiteError, match=r"plays\.json: found no such file; expected the expectations .* Create it"):
        check_suites(lake.topic, lake.config)
    lake.put(plays(2))
    with pytest.raises(SuiteError):
        lake.validate()
    assert lake.ledger.history().due_to_validate() == [HOUR]


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (
            expectation("expect_column_values_to_be_nice", column="n"),
            "the expectation 'expect_column_values_to_be_nice'",
        ),
        (expectation("expect_column_values_to_not_be_null", column="nope"), "the column 'nope'; expected one of user,"),
        (expectation("expect_column_values_to_not_be_null", column="track.nope"), "the column 'track.nope'"),
        (expectation("expect_column_values_to_be_between", column="n", min_valu=1), "min_valu"),
        (expectation("expect_column_values_to_be_between", column="n", mostly=2), "mostly"),
        (expectation("expect_column_values_to_not_be_null"), "column"),
        (expectation("expect_column_values_to_not_be_null", "fatal", column="n"), "the severity 'fatal'"),
        (expectation("expect_column_values_to_match_regex", column="user", regex="["), "missing ]: ["),
        (expectation("expect_column_values_to_be_of_type", column="n", type_="int64"), "types are declared"),
        (expectation("unexpected_rows_expectation", unexpected_rows_query="SELECT 1"), "SQL"),
        (
            expectation(
                "expect_column_pair_values_to_be_equal",
                column_A="user",
                column_B="event_id",
                ignore_row_if="both_values_are_missing",
            ),
            "Great Expectations' engines differ",
        ),
        (
            expectation("expect_column_values_to_be_between", column="event_time", min_value="yesterday"),
            "min_value",
        ),
        ({"kwargs": {}}, "an object with a `type`"),
    ],
)
def test_a_suite_that_cannot_be_used_is_found_before_any_hour(
    lake: SealedLake, broken: dict[str, Any], complaint: str
) -> None:
    """`lakehouse topics check` says where and what, before the first hour of a new topic stops at it."""
    lake.suite([*PLAYS, broken])
    with pytest.raises(SuiteError) as caught:
        check_suites(lake.topic, lake.config)
    assert "plays.json, expectation 5" in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "plays"}'])
def test_a_malformed_suite_is_named(lake: SealedLake, text: str) -> None:
    """A suite that was cut off must not pass as one that expects nothing."""
    (lake.config.expectations / "plays.json").write_text(text)
    with pytest.raises(SuiteError, match=r"plays\.json"):
        check_suites(lake.topic, lake.config)


def test_a_sound_suite_passes_its_check(lake: SealedLake) -> None:
    """Whoever runs the check and sees nothing can rely on it."""
    check_suites(lake.topic, lake.config)


def test_the_suites_hash_changes_with_what_they_demand_only(lake: SealedLake) -> None:
    """It says under which rules an hour was judged; a better note is no other rule."""
    before = suite_of(lake.topic, lake.config).hash
    lake.suite([{**item, "notes": "why"} for item in PLAYS])
    assert suite_of(lake.topic, lake.config).hash == before
    lake.suite(PLAYS[1:])
    assert suite_of(lake.topic, lake.config).hash != before


# --- the scan ------------------------------------------------------------------------------------------------------


def test_files_read_by_path_and_as_batches_are_the_same_rows(lake: SealedLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lake is a bucket DuckDB is handed batches: what it finds must not depend on it."""
    lake.put(plays(30, n={7: -1, 8: None}, user={3: "x", 4: None}, track={9: None}))
    (by_path,) = lake.validate()
    monkeypatch.setattr(hour_rows.SealedHour, "scan", hour_rows.SealedHour.batches)
    by_batches = validate_hour(lake.topic, lake.config, HOUR, run="run")
    assert by_path.findings == by_batches.findings
    assert [finding.unexpected for finding in by_path.failed] == [1, 1, 1]


# --- MLflow --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_verdict_has_one_run_in_mlflow(lake: SealedLake) -> None:
    """Also when a run died between MLflow and the note, or when nothing could be logged at first."""
    from mlflow.tracking import MlflowClient

    settings = lake.config.settings
    lake.put(plays(20, n={7: -1}))
    lake.validate()
    note = Path(lake.tables.reports.uri, "_unlogged", f"{HOUR}.r1")
    written = note.read_bytes()
    assert mlflow_runs.log_due(lake.tables) == 1
    assert mlflow_runs.log_due(lake.tables) == 0
    note.write_bytes(written)
    mlflow_runs.log_due(lake.tables)
    uri = mlflow_runs.tracking_uri(settings)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("lakehouse")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["hour"] == HOUR
    assert {name: run.data.metrics[name] for name in ("rows", "duplicates", "skewed", "rejected")} == {
        "rows": 20, "duplicates": 3, "skewed": 2, "rejected": 4,
    }  # fmt: skip
    assert run.data.metrics["expect_column_values_to_be_between.n"] == 0
    assert run.data.metrics["expect_column_values_to_be_between.n.unexpected_percent"] == 5
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"result.json", "report.html"}
    assert Path(settings.sealed_root, "mlflow").is_dir()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_copied_lake_writes_nothing_into_the_original(lake: SealedLake, tmp_path: Path) -> None:
    """Its database names the folder that it was made in."""
    begin_runs(lake.config.settings)
    lake.put(plays(20, n={7: -1}))
    lake.validate()
    note = Path(lake.tables.reports.uri, "_unlogged", f"{HOUR}.r1").read_bytes()
    mlflow_runs.log_due(lake.tables)
    original, copy = Path(lake.config.settings.sealed_root), tmp_path / "copy"
    shutil.copytree(original, copy)
    before = {file: file.stat().st_mtime_ns for file in original.rglob("*")}
    settings = lake.config.settings.model_copy(update={"raw_root": str(copy), "sealed_root": str(copy)})
    tables = TopicTables(lake.tables.topic, settings)
    tables.reports.files().write(f"_unlogged/{HOUR}.r1", note)
    assert mlflow_runs.log_due(tables) == 1
    assert {file: file.stat().st_mtime_ns for file in original.rglob("*")} == before
    assert len(list((copy / "mlflow").rglob("report.html"))) == 2, "the copied one, and its own"
    assert len(mlflow_runs.runs(settings)) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_refused_verdict_leaves_no_run_and_holds_no_other(lake: SealedLake, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    begin_runs(lake.config.settings)
    lake.put(plays(2))
    lake.validate()
    with monkeypatch.context() as patched:
        patched.setattr(mlflow_runs, "metric_name", lambda name: f"{name}#")
        with pytest.raises(MlflowException):
            mlflow_runs.log_due(lake.tables)
    client = MlflowClient(tracking_uri=mlflow_runs.tracking_uri(lake.config.settings))
    (experiment,) = (each for each in client.search_experiments() if each.name == "lakehouse")
    assert client.search_runs([experiment.experiment_id]) == []
    assert mlflow_runs.log_due(lake.tables) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"topic": "plays"}', b"\xff"])
def test_a_damaged_result_keeps_no_other_verdict_out_of_mlflow(lake: SealedLake, damage: bytes) -> None:
    """Nobody can make it again, so nobody tries again either."""
    later = hours.after(HOUR)
    begin_runs(lake.config.settings)
    lake.put(plays(2))
    lake.put(plays(2), later)
    lake.validate()
    lake.report("json").write_bytes(damage)
    assert mlflow_runs.log_due(lake.tables) == 1
    assert [run["hour"] for run in mlflow_runs.runs(lake.config.settings)] == [later]
    assert not list(Path(lake.tables.reports.uri, "_unlogged").iterdir())


@pytest.mark.parametrize(
    ("code", "is_a_refusal"),
    [(400, True), (413, True), (422, True), (401, False), (403, False), (404, False), (429, False), (503, False)],
)
def test_what_a_server_refuses_of_one_verdict_holds_no_other(code: int, is_a_refusal: bool) -> None:
    """Too large is about the verdict; who asks, and how often, is about all of them. Whichever library says it."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, Response

    response = Response()
    response.status_code = code
    assert mlflow_runs.is_a_refusal(HTTPError(response=response)) is is_a_refusal
    names = {400: "INVALID_PARAMETER_VALUE", 403: "PERMISSION_DENIED", 503: "TEMPORARILY_UNAVAILABLE"}
    if code in names:
        assert mlflow_runs.is_a_refusal(RestException({"error_code": names[code]})) is is_a_refusal
    assert not mlflow_runs.is_a_refusal(MlflowException("API request failed: no route to host"))
    assert not mlflow_runs.is_a_refusal(ConnectionError("no route to host"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@settings(deadline=None)  # MLflow is imported in the first example
@given(names=st.lists(st.text(max_size=300) | st.sampled_from(["a/../b", "..", "/a", "a//b", "a" * 251]), unique=True))
def test_mlflow_takes_every_name_and_no_two_meet(names: list[str]) -> None:
    """A column may be called anything; a metric may not."""
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

    taken = [mlflow_runs.metric_name(name) for name in names]
    for name in taken:
        _validate_metric_name(name)
        assert len(name) <= MAX_ENTITY_KEY_LENGTH
    assert len(set(taken)) == len(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_server_that_never_answers_is_given_up_soon(lake: SealedLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all topics: each would otherwise wait for its own deadline while the process ends."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lake.put(plays(2))
    lake.validate()
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        mlflow = lake.config.settings.mlflow.model_copy(update={"tracking_uri": uri})
        settings = lake.config.settings.model_copy(update={"mlflow": mlflow})
        tables = TopicTables(lake.tables.topic, settings)
        mlflow_runs.client_of(uri)  # what it imports takes seconds
        background = BackgroundLog()
        began = time.monotonic()
        assert background.log_or_warn(tables) == 0
        first = time.monotonic()
        assert background.log_or_warn(tables) == 0
    assert first - began < 20
    assert time.monotonic() - first < 0.5
    assert Path(lake.tables.reports.uri, "_unlogged", f"{HOUR}.r1").exists()


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What a server does not let come to an end, until the test has."""
    released = threading.Event()
    yield released
    released.set()


def test_a_server_that_lets_nothing_end_holds_no_process(lake: SealedLake, stuck: threading.Event) -> None:
    """One that answers a byte at a time meets no deadline of a client: what is noted is for the next run."""
    background = BackgroundLog(lambda tables: int(stuck.wait(60)))
    first = background.log_soon(lake.tables)
    other = lake.with_settings(sealed_root=f"{lake.config.settings.sealed_root}-2")
    waiting = [background.log_soon(other.tables) for _ in range(3)]
    assert first is not None
    assert len({id(each) for each in waiting}) == 1, "a topic that waits already does not wait twice"
    assert not background.finish(timedelta(seconds=0.1))
    stuck.set()
    assert background.finish(timedelta(seconds=30))
    assert [each.result() for each in (first, waiting[0]) if each is not None] == [1, 1]


def test_the_end_of_a_process_waits_for_what_is_logged(tmp_path: Path) -> None:
    """And for no longer than it takes."""
    program = f"""
import time
from pathlib import Path
from lakehouse.config import Settings
from lakehouse.store.tables import TopicTables
from lakehouse.topics import topic_from
from lakehouse.validate.mlflow_background import BackgroundLog

def slow(tables):
    time.sleep(0.3)
    Path({str(tmp_path)!r}, tables.topic.name).write_text("logged")
    return 1

log = BackgroundLog(slow)
for name in ("a", "b", "c"):
    topic = topic_from(name, {PLAYS_TOPIC!r})
    log.log_soon(TopicTables(topic, Settings(raw_root={str(tmp_path)!r})))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_server_that_is_away_unjudges_nothing(lake: SealedLake) -> None:
    """The verdict is in the ledger by then; its note stays for the next run."""

    def refuse(tables: TopicTables) -> int:
        raise ConnectionError("no route to host")

    lake.put(plays(2))
    lake.validate()
    assert BackgroundLog(refuse).log_or_warn(lake.tables) == 0
    assert lake.states() == ["closed", "sealed", "valid"]
    assert Path(lake.tables.reports.uri, "_unlogged", f"{HOUR}.r1").exists()


def test_without_a_place_for_runs_none_are_noted(lake: SealedLake) -> None:
    """A lake in a bucket has no SQLite: without a server there is nothing to catch up with."""
    settings = lake.config.settings
    off = settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update={"tracking_uri": "none"})})
    assert mlflow_runs.tracking_uri(settings.model_copy(update={"sealed_root": "gs://lake"})) is None
    assert mlflow_runs.tracking_uri(off) is None
    assert mlflow_runs.runs(off) == []
