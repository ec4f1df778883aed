"""What the manual shows of `bench/results/`: the table of all figures, and what a lake costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.bill import GIGABYTE_MONTH
from bench.report import Figure

TOPICS, TRIGGER_SECONDS = (10, 300, 1_800), 10
ORDER = ("ingest", "fleet", "seal", "validate", "mirror", "path", "store")


def table(results: Path) -> str:
    """A table of Markdown: a line per figure, the benchmarks in their order."""
    lines = ["| figure | value | bound | |", "|---|---|---|---|"]
    for name in ORDER:
        file = results / f"{name}.json"
        if file.is_file():
            lines += _lines(json.loads(file.read_text(encoding="utf-8")))
    return "\n".join(lines) + "\n"


def costs(results: Path) -> dict[str, str]:
    """What the page of costs shows of the benchmarks of the store and of an application of many topics."""
    found = _figures(results, "store")
    asked = [figure for figure in found.values() if figure.unit == "requests" and not figure.name.startswith("class")]
    classes = [figure for figure in found.values() if figure.name.startswith("class")]
    kept = [figure for figure in found.values() if figure.name.startswith("kept of") and figure.unit == "GB"]
    return {
        "cost_requests": "\n".join(f"| {figure.name} | {figure.spoken} |" for figure in [*asked, *classes]),
        "cost_kept": "\n".join(f"| {figure.name} | {figure.spoken} |" for figure in kept),
        "cost_topics": "\n".join(_of_topics(topics, found, _figures(results, "fleet")) for topics in TOPICS),
        "cost_memory": _only(found, "memory of the topic's tables in the driver, at 400").spoken,
        "cost_first_hours": _only(found, "core-seconds of an hour of a small topic", "the first 200").spoken,
        "cost_later_hours": _only(found, "core-seconds of an hour of a small topic", "hours 8,560 to 8,760").spoken,
        "cost_commit": _only(found, "core-seconds of a commit of 4 files, at 400").spoken,
    }


def _of_topics(topics: int, store: Mapping[str, Figure], fleet: Mapping[str, Figure]) -> str:
    """A line of the table: requests, what is kept, cores; half of the topics are idle."""
    dollars = _only(store, f"requests billed for {topics:,} topics").value
    kept = topics / 2 * _only(store, "kept of a busy topic at 400 days beside").value
    trigger, hour = _only(store, "core-seconds of a trigger with rows"), _only(store, "an hour of 360", "core-seconds")
    idle = _only(fleet, "300 idle topics at 10 s: cores").value / 300
    cores = topics / 2 * (trigger.value / TRIGGER_SECONDS + hour.value / 3600 + idle)
    return f"| {topics:,} | {dollars:,.0f} | {kept:,.0f} | {kept * GIGABYTE_MONTH:,.1f} | {cores:,.2g} |"


def _figures(results: Path, name: str) -> dict[str, Figure]:
    rows = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["figures"]
    return {row["name"]: _figure(row) for row in rows}


def _figure(row: Mapping[str, Any]) -> Figure:
    return Figure(**{key: value for key, value in row.items() if key not in ("ok", "at", "load")})


def _only(found: Mapping[str, Figure], beginning: str, end: str = "") -> Figure:
    return next(figure for name, figure in found.items() if name.startswith(beginning) and name.endswith(end))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    yield f"| **`make bench-{result['benchmark']}`**, {result['at'][:10]}, {machine['cores']} cores | | | |"
    for row in result["figures"]:
        figure, load = _figure(row), row.get("load", 0.0)
        beside = f" (load {load:.0f})" if figure.is_short and load > 2 * machine["cores"] else ""
        yield f"| {figure.name} | {figure.spoken} {figure.unit} | {figure.spoken_bound} | {figure.verdict}{beside} |"
