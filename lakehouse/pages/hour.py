"""The page of an hour: its result in, one HTML file out that needs nothing from anywhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lakehouse import hours
from lakehouse.pages.render import live, markup_of
from lakehouse.pages.words import counted

_SHOWN = 10
"""Examples that are always visible; the rest can be unfolded."""

Result = Mapping[str, Any]
"""What a validation writes as JSON: the hour, its numbers, and one object per expectation."""

_LATENESS = {
    "p50_seconds": "half within",
    "p90_seconds": "90% within",
    "p99_seconds": "99% within",
    "largest_seconds": "the latest",
}


@dataclass(frozen=True)
class HourContext:
    """What is known of an hour beyond its result: the ledger's words, charts, and ways to other pages.

    `links` are (text, address); `conditions`, `mirrors` and `story` are rows of their tables; `lateness`, `volume`
    and `events` are charts. The conditions are by what was `measured_at` then, and an open hour's `as_of` an instant.
    `complaint` says what could not be read. A live page shows what its server has newly built.
    """

    topic: str = ""
    hour: hours.Hour = ""
    state: str = ""
    why: str = ""
    waits_for: str | None = None
    released: str | None = None
    links: Sequence[tuple[str, str]] = ()
    conditions: Sequence[Sequence[Any]] = ()
    measured_at: datetime | None = None
    as_of: datetime | None = None
    mirrors: Sequence[Sequence[Any]] = ()
    story: Sequence[Sequence[Any]] = ()
    lateness: str = ""
    volume: str = ""
    volume_note: str = ""
    events: str = ""
    complaint: str = ""
    is_live: bool = False


def page(result: Result, context: HourContext | None = None) -> str:
    """The hour's page, verdict first: as it was judged and, with `context`, as it is now."""
    context = context or HourContext()
    failed = (*_failures(result, "critical"), *_failures(result, "warning"))
    broken = [_with_examples(each, number, result) for number, each in enumerate(failed, 1)]
    return markup_of(
        "hour_judged.html",
        live=live(context.is_live),
        topic=result["topic"],
        hour=_hour_names(result["hour"]),
        state=result["state"],
        is_valid=result["state"] == "valid",
        means=_meaning(result, context),
        rows=result["rows"],
        shown=_SHOWN,
        broken=broken,
        remarks=[each["remark"] for each in result["expectations"] if each.get("remark")],
        numbers=_numbers(result),
        lateness=[(name, result["lateness"][key]) for key, name in _LATENESS.items()] if result.get("lateness") else [],
        closed=_closing(result.get("closed") or {}),
        expectations=[(each, _anchor(each, failed)) for each in result["expectations"]],
        at=datetime.fromisoformat(result["at"]),
        origin=_origin(result),
        context=context,
    )


def page_without_verdict(context: HourContext) -> str:
    """The page of an hour that is not judged yet, or whose result cannot be read: what is known and why."""
    return markup_of(
        "hour_unjudged.html",
        live=live(context.is_live),
        topic=context.topic,
        hour=_hour_names(context.hour),
        state=context.state,
        lateness=[],
        context=context,
    )


def _hour_names(hour: hours.Hour) -> dict[str, Any]:
    start, end = hours.start_of(hour), hours.end_of(hour)
    return {"name": hour, "start": start, "words": f"{start:%A, %-d %B %Y, %H:%M}–{end:%H:%M} UTC"}


def _meaning(result: Result, context: HourContext) -> str:
    failed = f"{counted(len(_failures(result, 'critical')), 'critical expectation')} failed."
    warnings = len(_failures(result, "warning"))
    if context.released:
        return f"{failed} Released {context.released}"
    if result["state"] != "valid":
        return f"{failed} The hour stays here until it is released or sealed again."
    if warnings:
        return f"Every critical expectation holds; {counted(warnings, 'warning')}. The hour goes to its mirrors."
    return "Everything holds. The hour goes to its mirrors."


def _failures(result: Result, severity: str) -> list[Result]:
    return [each for each in result["expectations"] if not each["success"] and each["severity"] == severity]


def _with_examples(finding: Result, number: int, result: Result) -> dict[str, Any]:
    """The finding with its examples as a table, where it is on the page, and the command that lists all its rows."""
    name = f"{finding['expectation']}.{finding['column']}" if finding["column"] else finding["expectation"]
    command = f"lakehouse failing {result['topic']} {result['hour']} {shlex.quote(name)}"
    examples = finding["examples"]
    columns = list(dict.fromkeys(column for example in examples for column in example))
    place = {"anchor": f"finding-{number}", "command": command}
    return {
        **finding,
        **place,
        "columns": columns,
        "rows": [[example.get(name) for name in columns] for example in examples],
    }


def _anchor(finding: Result, failed: Sequence[Result]) -> str | None:
    return next((f"finding-{number}" for number, each in enumerate(failed, 1) if each is finding), None)


def _numbers(result: Result) -> list[tuple[str, str, str]]:
    seal, closed = result["seal"], result.get("closed") or {}
    tiles = [
        ("rows", result["rows"], "one per event"),
        ("deliveries", seal.get("deliveries"), "messages received"),
        ("duplicates", seal.get("duplicates"), "left out"),
        ("late duplicates", seal.get("late_duplicates"), "sealed in an earlier hour"),
        ("skewed", seal.get("skewed"), "of an earlier event hour"),
        ("rejected", closed.get("rejected"), "since the last close, of no hour"),
    ]
    return [(name, f"{value:,}", meaning) for name, value, meaning in tiles if isinstance(value, int)]


def _closing(closed: Mapping[str, Any]) -> dict[str, Any]:
    if not closed:
        return {}
    keys = ("condition", "required", "measured", "text")
    return {
        "at": datetime.fromisoformat(closed["at"]) if closed.get("at") else None,
        "why": closed.get("because") or closed.get("why"),
        "conditions": [[row.get(key) for key in keys] for row in closed.get("conditions") or ()],
    }


def _origin(result: Result) -> list[tuple[str, Any, bool]]:
    """Name, value, and whether it is to be read letter by letter."""
    seal = result["seal"]
    return [
        ("by release", result["release"], False),
        ("run", result["run"], False),
        ("engine", f"{result['engine']}, {result['seconds']:.2f} s", False),
        ("suite", result["suite_hash"], True),
        ("silver version", result["silver_version"], False),
        ("revision", result["revision"], False),
        ("sealed by release", seal.get("release"), False),
        ("bronze version", seal.get("bronze_version"), False),
        ("id checksum", seal.get("id_checksum"), True),
    ]
