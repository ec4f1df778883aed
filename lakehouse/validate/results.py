"""The verdict on an hour and what is kept of it: a JSON result, a page, the details of the ledger's row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakehouse.concealed import without_secrets_in
from lakehouse.config import Settings
from lakehouse.hours import Hour
from lakehouse.pages.hour import page
from lakehouse.store.history import Entry, History
from lakehouse.store.place import Place
from lakehouse.store.records import Closed, FailedExpectation, Invalid, Judged, State, Valid
from lakehouse.validate import mlflow_runs
from lakehouse.validate.findings import Finding


@dataclass(frozen=True)
class Verdict:
    """What was found in one revision of an hour. `state` is `valid` or `invalid`; `report` is its page's address.

    `seconds` is how long judging took. `is_recorded` is False when the ledger had a verdict on this revision already.
    """

    topic: str
    hour: Hour
    revision: int
    state: str
    findings: tuple[Finding, ...]
    rows: int
    seconds: float
    report: str
    is_recorded: bool = False

    @property
    def failed(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.gates]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.warns]


def result_name(hour: Hour, revision: int) -> str:
    """Below a topic's reports; `.json` and `.html` follow it."""
    return f"{hour}/r{revision}"


def write_result(reports: Place, settings: Settings, result: Mapping[str, Any]) -> None:
    """The result as JSON and as a page; before both, the note that MLflow lacks it."""
    storage = reports.files()
    name = result_name(result["hour"], result["revision"])
    mlflow_runs.note(storage, settings, name)
    text = json.dumps(without_secrets_in(json.loads(json.dumps(result, default=str))), indent=1)
    storage.write(f"{name}.json", text.encode())
    storage.write(f"{name}.html", page(json.loads(text)).encode())


def record_of(verdict: Verdict, result: Mapping[str, Any]) -> Judged:
    """The ledger's row."""
    kind = Invalid if verdict.state == State.INVALID else Valid
    return kind(
        failed=tuple(map(_brief, verdict.failed)),
        warnings=tuple(map(_brief, verdict.warnings)),
        silver_version=result["silver_version"],
        revision=verdict.revision,
        rows=verdict.rows,
        evaluated=len(verdict.findings),
        seconds=result["seconds"],
        suite_hash=result["suite_hash"],
        report=verdict.report,
    )


def _brief(finding: Finding) -> FailedExpectation:
    """Without what was observed of a column: it can be a row's value, and the ledger outlives every erasure."""
    return FailedExpectation(
        expectation=finding.expectation.type,
        column=finding.column,
        severity=finding.expectation.severity,
        unexpected=finding.unexpected,
        observed=finding.observed if finding.expectation.is_about_the_hour else None,
    )


def close_of(entry: Entry | None) -> dict[str, Any]:
    """What a result keeps of the close."""
    if entry is None:
        return {}
    return {
        **entry.details,
        "because": entry.of(Closed).because,
        "at": entry.at.isoformat(),
        "by": entry.by,
    }


def has_verdict(history: History, hour: Hour) -> bool:
    """Whether the hour's newest seal is judged."""
    return any(entry.state in (State.VALID, State.INVALID) for entry in history.current(hour))
