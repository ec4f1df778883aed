"""What the benchmarks leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report


def test_a_missed_bound_is_short_and_fails_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    passing = report.Report("seal")
    passing.at_most("against a copy", 0.9, 1.0)
    passing.shown("seconds", 12.345, "seconds")
    assert passing.finish() == 0
    passing.at_least("against dropDuplicates", 2.1, 2.2)
    assert passing.finish() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["ok", "shown", "short"]
    written = json.loads((tmp_path / "seal.json").read_text())
    assert [figure["ok"] for figure in written["figures"]] == [True, True, False]


def test_a_part_that_is_measured_again_leaves_the_rest_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    whole = report.Report("ingest")
    whole.shown("speed", 1.0, "events/s")
    whole.shown("idle", 2.0, "seconds")
    whole.finish()
    part = report.Report("ingest", is_part=True)
    part.shown("idle", 3.0, "seconds")
    part.finish()
    figures = json.loads((tmp_path / "ingest.json").read_text())["figures"]
    assert {figure["name"]: figure["value"] for figure in figures} == {"speed": 1.0, "idle": 3.0}
