"""Work on Arrow batches in Spark's tasks, whose errors are ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from lakehouse.errors import from_trace, noting_errors
from lakehouse.spark.workers import spare_next_task

Task = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def mapped(rows: DataFrame, task: Task, ddl: str, subject: str) -> DataFrame:
    """What `task` makes of each partition: columns of `ddl`. `subject` is that of an error that nobody foresaw."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with noting_errors(subject):
            yield from task(batches)
        spare_next_task()

    return rows.mapInArrow(run, ddl)


@contextmanager
def errors_of_tasks() -> Iterator[None]:
    """The error that a task of `mapped` raised is raised here, in the place of Spark's about it."""
    try:
        yield
    except PySparkException as failure:
        if error := from_trace(str(failure)):
            raise error from failure
        raise
