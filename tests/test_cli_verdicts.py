"""`lakehouse failing` and `lakehouse report` on a lake that has valid and invalid hours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.operations.snapshot import read_topic
from tests.flights_lake import DIRTY, FlightsLake, shared_lake

pytestmark = pytest.mark.xdist_group("flights")

LATE = "expect_column_values_to_be_between.arrival_delay_minutes"


@pytest.fixture(scope="module")
def lake() -> FlightsLake:
    return shared_lake()


@pytest.fixture(scope="module")
def judged(lake: FlightsLake) -> str:
    """The first hour that somebody's delay holds back, or held back until it was released."""
    snapshot = read_topic(lake.config.topic(DIRTY), lake.config)
    return next(row.hour for row in snapshot.history.entries if row.state == "invalid" and row.hour)


def said(lake: FlightsLake, *arguments: str) -> str:
    result = CliRunner().invoke(app.app, ["--conf", str(lake.conf), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(lake: FlightsLake, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app.main(["--conf", str(lake.conf), *arguments])
    assert ended.value.code not in (0, None)
    return capsys.readouterr().err


@pytest.mark.slow
def test_failing_lists_the_rows_of_silver_that_break_an_expectation(lake: FlightsLake, judged: str) -> None:
    document: dict[str, Any] = json.loads(said(lake, "failing", DIRTY, judged, LATE, "--json"))
    assert (document["topic"], document["hour"], document["success"]) == (DIRTY, judged, False)
    assert document["unexpected"] == len(document["examples"]) > 0
    assert all(row["arrival_delay_minutes"] > 120 for row in document["examples"])
    lines = said(lake, "failing", DIRTY, judged, LATE, "--limit", "1").splitlines()
    assert LATE.partition(".")[0] in lines[0]
    assert lines[1].startswith(f"it does not hold; {document['unexpected']} rows against it")
    assert len(lines) == 4, "a head and one row"


def test_failing_says_what_the_hour_was_judged_by(
    lake: FlightsLake, judged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(lake, capsys, "failing", DIRTY, judged, "expect_nothing")
    assert "0 expectations of that name" in message
    assert f"one of {LATE}" in message
    assert "found no such hour" in refused(lake, capsys, "failing", DIRTY, "2012-01-01T00", LATE)


def test_report_writes_the_pages_and_says_where(lake: FlightsLake, judged: str, tmp_path: Path) -> None:
    document = json.loads(said(lake, "report", "--out", str(tmp_path), "--last", "100000", "--json"))
    assert document["index"] == f"{tmp_path}/index.html"
    assert document["drawn"] == document["pages"] > 0
    assert (tmp_path / DIRTY / f"{judged}.html").is_file()
    again = said(lake, "report", "--out", str(tmp_path), "--last", "100000")
    assert again.strip().endswith("0 drawn again.")


def test_a_bucket_cannot_be_served_to_this_machine(lake: FlightsLake, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(lake, capsys, "report", "--serve", "--out", "gs://bucket/report")
    assert "gs://bucket/report" in message
    assert "--out" in message
