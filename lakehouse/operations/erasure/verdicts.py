"""Verdicts in the ledger without the values that release 0.1 wrote into them: of columns, they are rows' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lakehouse.hours import Hour
from lakehouse.store.history import Entry
from lakehouse.store.records import State

JUDGED = (State.VALID, State.INVALID)
_FINDINGS = ("failed", "warnings")


def without_observed_values(newest: Mapping[Hour, int]) -> Callable[[Entry], Entry]:
    """Of a row, what may stay of it: a verdict on a revision before the `newest` of its hour loses what it observed.

    Rows of other states than `JUDGED` stay what they are; so does what was observed of the hour as a whole (without a
    column).
    """

    def changed(entry: Entry) -> Entry:
        is_older = entry.hour is not None and _revision(entry) < newest.get(entry.hour, 0)
        if entry.state not in JUDGED or not is_older:
            return entry
        kept = {name: _without_values(entry.details[name]) for name in _FINDINGS if name in entry.details}
        return replace(entry, details={**entry.details, **kept})

    return changed


def _revision(entry: Entry) -> int:
    """That was judged; the first one where that is not said, or not as a number."""
    found = entry.details.get("revision", 1)
    return found if isinstance(found, int) else 1


def _without_values(findings: Any) -> Any:
    """Whatever else is there: a row that is broken is to hold nobody either."""
    if not isinstance(findings, list):
        return findings
    return [_without_value(each) if isinstance(each, Mapping) else each for each in findings]


def _without_value(finding: Mapping[str, Any]) -> dict[str, Any]:
    is_of_columns = finding.get("column") is not None and finding.get("observed") is not None
    return {name: value for name, value in finding.items() if name != "observed" or not is_of_columns}
