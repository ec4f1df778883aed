"""How far long work has come: who does it counts, and who waits for it reads that from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa


class Work:
    """One step after another, each of a known size in a unit such as rows; nothing before the first begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step, self._unit, self._total = "", "", 0
        self._done = 0
        self._counted: Callable[[], int] | None = None

    def begin(self, step: str, total: int, unit: str, counted: Callable[[], int] | None = None) -> None:
        """A step of `total`; `counted` gives how much is done where others do it, else `add` says so."""
        with self._lock:
            self._step, self._unit, self._total = step, unit, total
            self._done, self._counted = 0, counted

    def add(self, count: int = 1) -> None:
        with self._lock:
            self._done += count

    def rows(self, step: str, total: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches, counted by their rows as a step of their own."""
        self.begin(step, total, "rows")
        for batch in batches:
            yield batch
            self.add(len(batch))

    def text(self) -> str:
        """`scan: 5 of 7 rows`; empty before the first step."""
        step, unit, total, done = self._now()
        return f"{step}: {done:,} of {total:,} {unit}" if step else ""

    def _now(self) -> tuple[str, str, int, int]:
        """What is done twice, by attempts of one task, is no more than all."""
        with self._lock:
            done = self._counted() if self._counted else self._done
            return self._step, self._unit, self._total, min(done, self._total)
