"""The table of all figures in `bench/results/`, for the manual."""

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


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    yield f"| **`make bench-{result['benchmark']}`**, {result['at'][:10]}, {machine['cores']} cores | | | |"
    for row in result["figures"]:
        figure = Figure(**{key: value for key, value in row.items() if key not in ("ok", "at")})
        yield f"| {figure.name} | {figure.spoken} {figure.unit} | {figure.spoken_bound} | {figure.verdict} |"
