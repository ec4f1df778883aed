"""The README's table of figures, made anew from `bench/results/`.

python -m bench.table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.report import RESULTS, Figure

README = Path(__file__).parent.parent / "README.md"
STARTS, ENDS = "<!-- figures: `make bench-table` -->", "<!-- end of figures -->"
ORDER = ("ingest", "seal", "validate", "mirror")


def main() -> int:
    README.write_text(with_table(README.read_text(encoding="utf-8"), table(RESULTS)), encoding="utf-8")
    return 0


def with_table(readme: str, lines: str) -> str:
    before, _, rest = readme.partition(STARTS)
    _, _, after = rest.partition(ENDS)
    return f"{before}{STARTS}\n\n{lines}\n{ENDS}{after}"


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


if __name__ == "__main__":
    sys.exit(main())
