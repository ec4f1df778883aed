"""How far long work has come."""

from __future__ import annotations

import pyarrow as pa

from lakehouse.underway import Work


def test_work_that_has_not_begun_says_nothing() -> None:
    """A line must not say that none of nothing is done."""
    assert Work().text() == ""


def test_a_step_counts_from_nothing_and_never_beyond_all() -> None:
    """A task that is tried twice counts its rows twice."""
    work = Work()
    work.begin("scan", 10, "rows")
    work.add(4)
    assert work.text() == "scan: 4 of 10 rows"
    work.begin("copy", 1_000, "rows", counted=lambda: 2_000)
    assert work.text() == "copy: 1,000 of 1,000 rows"


def test_rows_are_counted_once_they_are_used() -> None:
    """What is read ahead is not done yet."""
    work = Work()
    batch = pa.RecordBatch.from_pydict({"event_id": ["a", "b"]})
    counts = [work.text() for _ in work.rows("scan", 4, iter([batch, batch]))]
    assert [*counts, work.text()] == [f"scan: {done} of 4 rows" for done in (0, 2, 4)]
