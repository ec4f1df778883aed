"""How our Parquet files are encoded, and reading them row group by row group from wherever they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILE, ROW = "file", "row"
"""Address of a row: the file's place in a list of files, and the row's place in the file."""

Opener = Callable[[], Any]
"""Gives a binary file to read from, open."""

Scan = Callable[[list[str]], Iterable[pa.RecordBatch]]
"""Rows: for some of their columns, batches of these (of bronze's rows with `FILE` and `ROW` after them)."""

_UNIQUE = {"message_id", "event_id", "publish_time", "event_time", "payload", "position"}
_BATCH_ROWS = 131_072
_AHEAD = 8


def options(schema: pa.Schema) -> dict[str, Any]:
    """zstd at its fastest; dictionaries only where values repeat: not for ids, times and payloads."""
    leaves = [path for column in schema if column.name not in _UNIQUE for path in _leaves(column)]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": leaves or False, "write_statistics": True}


def _leaves(column: pa.Field, prefix: str = "") -> Iterator[str]:
    """Parquet's dotted names of the leaf columns."""
    name = prefix + column.name
    kind = column.type
    if pa.types.is_struct(kind):
        for member in kind:
            yield from _leaves(member, f"{name}.")
    elif pa.types.is_list(kind):
        yield from _leaves(pa.field("element", kind.value_type), f"{name}.list.")
    elif pa.types.is_map(kind):
        yield f"{name}.key_value.key"
        yield from _leaves(pa.field("value", kind.item_type), f"{name}.key_value.")
    else:
        yield name


def addressed(sources: Iterable[Opener], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The columns of all files, with `file` and `row`, in the files' order."""
    for index, file in enumerate(opened_ahead(sources)):
        first = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            rows = pa.array(np.arange(first, first + len(batch), dtype=np.int64))
            file_of_row = pa.array(np.full(len(batch), index, np.int32))
            yield pa.RecordBatch.from_arrays([*batch.columns, file_of_row, rows], names=[*columns, FILE, ROW])
            first += len(batch)


def opened_ahead(sources: Iterable[Opener]) -> Iterator[pq.ParquetFile]:
    """Each file in order, open until the next is asked for; footers are read ahead, as a store takes its time."""
    waiting: deque[Future[tuple[Any, pq.ParquetFile]]] = deque()
    with ThreadPoolExecutor(_AHEAD) as readers:
        for source in sources:
            waiting.append(readers.submit(_opened, source))
            if len(waiting) == _AHEAD:
                yield from _in_turn(waiting.popleft())
        while waiting:
            yield from _in_turn(waiting.popleft())


def _opened(source: Opener) -> tuple[Any, pq.ParquetFile]:
    stream = source()
    return stream, pq.ParquetFile(stream)


def _in_turn(opening: Future[tuple[Any, pq.ParquetFile]]) -> Iterator[pq.ParquetFile]:
    stream, file = opening.result()
    with stream, file:
        yield file
