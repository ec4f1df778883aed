"""What the manual shows of `bench/results/`: the table of all figures, and what a lake costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.report import Figure

ORDER = ("ingest", "fleet", "seal", "validate", "mirror", "store")


def table(results: Path) -> str:
    """A table of Markdown: a line per figure, the benchmarks in their order."""
    lines = ["| figure | value | bound | |", "|---|---|---|---|"]
    for name in ORDER:
        file = results / f"{name}.json"
        if file.is_file():
            lines += _lines(json.loads(file.read_text(encoding="utf-8")))
    return "\n".join(lines) + "\n"


def costs(results: Path) -> dict[str, str]:
    """What the page of costs shows of the benchmark of the store."""
    rows = json.loads((results / "store.json").read_text(encoding="utf-8"))["figures"]
    found = {
        row["name"]: Figure(**{key: value for key, value in row.items() if key not in ("ok", "at", "load")})
        for row in rows
    }
    asked = [figure for figure in found.values() if figure.unit == "requests"]
    bills = [figure for figure in found.values() if figure.unit == "$ a month"]
    return {
        "cost_requests": "\n".join(f"| {figure.name} | {figure.spoken} |" for figure in asked),
        "cost_bills": "\n".join(f"| {_topics(figure.name)} | {figure.value:,.0f} |" for figure in bills),
        "cost_bronze_log": _only(found, "logs and checkpoints kept").spoken,
        "cost_commit": _only(found, "core-seconds of a commit of 4 files, bronze at 400").spoken,
    }


def _figure(row: Mapping[str, Any]) -> Figure:
    return Figure(**{key: value for key, value in row.items() if key not in ("ok", "at", "load")})


def _only(found: Mapping[str, Figure], beginning: str) -> Figure:
    return next(figure for name, figure in found.items() if name.startswith(beginning))


def _topics(name: str) -> str:
    return name.removeprefix("requests billed for ").partition(" ")[0]


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    yield f"| **`make bench-{result['benchmark']}`**, {result['at'][:10]}, {machine['cores']} cores | | | |"
    for row in result["figures"]:
        figure = _figure(row)
        yield f"| {figure.name} | {figure.spoken} {figure.unit} | {figure.spoken_bound} | {figure.verdict} |"
