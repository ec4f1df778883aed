import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from lakehouse.spark.partitions import partitions_as_they_end

ROWS = pa.schema([("number", pa.int64())])
PATIENCE_SECONDS = 60
"""Only a failing test waits this long."""

Work = Callable[[int], None]


def ended(spark: SparkSession, work: Work) -> Iterator[tuple[int, object]]:
    """Of three tasks, each of which does the work of its number: their rows, or what they failed of."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            work(batch["id"][0].as_py())
            yield batch.rename_columns(ROWS.names)

    frame = spark.range(0, 3, 1, 3).mapInArrow(run, "number long")
    for number, result in partitions_as_they_end(frame, ROWS):
        yield number, result["number"].to_pylist() if isinstance(result, pa.Table) else result


def test_what_a_task_brought_is_there_while_another_one_runs(spark: SparkSession, tmp_path: Path) -> None:
    """The first task ends only when the results of the others are here."""
    others = tmp_path / "others"

    def work(number: int) -> None:
        waits_until = time.monotonic() + PATIENCE_SECONDS
        while number == 0 and not others.exists():
            assert time.monotonic() < waits_until, "nobody had the others' results"
            time.sleep(0.01)

    tasks = ended(spark, work)
    first = dict([next(tasks), next(tasks)])
    assert first == {1: [1], 2: [2]}
    others.touch()
    assert dict(tasks) == {0: [0]}


def test_a_task_that_fails_takes_no_other_along(spark: SparkSession, tmp_path: Path) -> None:
    """Spark ends all jobs that have the RDD of one that fails."""
    failed = tmp_path / "failed"

    def work(number: int) -> None:
        assert number != 1, "mine alone"
        waits_until = time.monotonic() + PATIENCE_SECONDS
        while number == 0 and not failed.exists():
            assert time.monotonic() < waits_until, "nobody was told of the failure"
            time.sleep(0.01)

    results = {}
    for number, result in ended(spark, work):
        results[number] = result
        if number == 1:
            failed.touch()
    assert "mine alone" in str(results.pop(1))
    assert results == {0: [0], 2: [2]}
