"""A frame partition by partition: Spark itself hands out what a job collects when the last of its tasks has ended."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, cast

import pyarrow as pa
from pyspark import InheritableThread, SparkContext
from pyspark.sql import DataFrame

Ended = tuple[int, pa.Table | BaseException]
"""A partition's number, and its rows or what it failed of."""


def partitions_as_they_end(frame: DataFrame, schema: pa.Schema) -> Iterator[Ended]:
    """Every partition of the frame, once, as soon as its task has ended; `schema` is the frame's, in Arrow.

    Each is a Spark job with the local properties of this thread, so that they belong to the same query and pool. They
    begin about in the order of their numbers: where there are more than free cores, the first have them first.
    """
    partitions = _Partitions(frame, schema)
    if partitions.count == 1:
        yield 0, partitions.outcome(0)
        return
    ended: SimpleQueue[Ended] = SimpleQueue()
    for number in range(partitions.count):

        def collect(number: int = number) -> None:
            ended.put((number, partitions.outcome(number)))

        InheritableThread(target=collect, name=f"partition {number}", daemon=True).start()
    for _ in range(partitions.count):
        yield ended.get()


class _Partitions:
    """What PySpark has of it in Scala only: `toArrow` is a job over all of these partitions."""

    def __init__(self, frame: DataFrame, schema: pa.Schema) -> None:
        self._frame: Any = frame._jdf
        self._schema = schema
        self._gateway = cast(Any, SparkContext._gateway)
        self.count: int = self._new_rdd().getNumPartitions()

    def outcome(self, number: int) -> pa.Table | BaseException:
        try:
            return self._collected(number)
        except BaseException as failure:
            return failure

    def _collected(self, number: int) -> pa.Table:
        numbers = self._gateway.new_array(self._gateway.jvm.int, 1)
        numbers[0] = number
        (messages,) = self._new_rdd().collectPartitions(numbers)
        batches = [pa.ipc.read_record_batch(pa.py_buffer(message), self._schema) for message in messages]
        return pa.Table.from_batches(batches, self._schema)

    def _new_rdd(self) -> Any:
        """One for each job: a job that fails takes along all that have its RDD (`DAGScheduler.stageDependsOn`)."""
        return self._frame.toArrowBatchRdd().toJavaRDD()
