"""What a benchmark prints and leaves behind: a line per figure, `bench/results/<name>.json`, and an exit code."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured value. `bound` is None for what is only shown; `wants` is `at most` or `at least`."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    wants: str = "at least"

    @property
    def is_short(self) -> bool:
        if self.bound is None:
            return False
        return self.value < self.bound if self.wants == "at least" else self.value > self.bound

    @property
    def spoken(self) -> str:
        return f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.4g}"

    @property
    def spoken_bound(self) -> str:
        return "" if self.bound is None else f"{self.wants} {self.bound:,.6g}"

    @property
    def verdict(self) -> str:
        return "" if self.bound is None else "short" if self.is_short else "ok"

    def line(self) -> str:
        bound = self.spoken_bound or "shown"
        return f"{self.name:<84} {self.spoken:>12} {self.unit:<14} {bound:<16} {self.verdict}".rstrip()


class Report:
    """Collects figures, printing each as it comes; `is_part` keeps what an earlier run left of the others.

    `load` of a figure is how many threads ran or waited to run in the minute before it, ours and others'.
    """

    def __init__(self, name: str, *, is_part: bool = False) -> None:
        self._name, self._is_part = name, is_part
        self._figures: list[Figure] = []
        self._loads: list[float] = []
        self._refused: list[str] = []

    def shown(self, name: str, value: float, unit: str) -> None:
        self._add(Figure(name, value, unit))

    def at_least(self, name: str, value: float, bound: float, unit: str = "times") -> None:
        self._add(Figure(name, value, unit, bound, "at least"))

    def at_most(self, name: str, value: float, bound: float, unit: str = "times") -> None:
        self._add(Figure(name, value, unit, bound, "at most"))

    def refuse(self, name: str, why: str) -> None:
        """A figure that this run cannot give: nothing is written for it, and the run fails."""
        self._refused.append(name)
        print(f"{name:<84} {'refused':>12}: {why}", flush=True)

    def finish(self) -> int:
        """Write the results; 1 when a bound is missed or a figure was refused, else 0."""
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"{self._name}.json"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        figures = [
            {**asdict(figure), "ok": not figure.is_short, "at": now, "load": load}
            for figure, load in zip(self._figures, self._loads, strict=True)
        ]
        if self._is_part and file.is_file():
            measured = {figure.name for figure in self._figures}
            before = json.loads(file.read_text(encoding="utf-8"))["figures"]
            figures = [row for row in before if row["name"] not in measured] + figures
        machine = {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
        result = {
            "benchmark": self._name,
            "at": now,
            "machine": machine,
            "figures": figures,
        }
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return int(bool(self._refused) or any(figure.is_short for figure in self._figures))

    def _add(self, figure: Figure) -> None:
        self._figures.append(figure)
        self._loads.append(round(os.getloadavg()[0], 1))
        print(figure.line(), flush=True)
