"""How our Parquet files are encoded, and reading them row group by row group from wherever they are."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.errors import LakeError, LakehouseError, in_one_line
from lakehouse.store.files import Readable

FILE, ROW = "file", "row"
"""Address of a row: the file's place in a list of files, and the row's place in the file."""

Opener = Callable[[], pq.ParquetFile]
"""Gives a Parquet file, open; it is closed with its stream."""

Addresses = np.ndarray[tuple[int], np.dtype[np.int64]]
"""Both in one number, which sorts as they do: see `address_of`."""

Scan = Callable[[list[str]], Iterable[pa.RecordBatch]]
"""Rows: for some of their columns, batches of these (of bronze's rows with `FILE` and `ROW` after them)."""

Visit = Callable[[Addresses, pa.RecordBatch], None]
"""Takes rows with their addresses; is called from several threads at once."""

_UNIQUE = {"message_id", "event_id", "publish_time", "event_time", "payload", "position"}
_BATCH_ROWS = 131_072
_AHEAD = 32
"""Files opened at the same time: a store takes its time for each. A small one is then in memory, see `Storage.open`."""


def options(schema: pa.Schema, unrepeated: Set[str] = frozenset()) -> dict[str, Any]:
    """zstd at its fastest; dictionaries only where values repeat: not for ids, times, payloads and `unrepeated`."""
    leaves = [path for column in schema if column.name not in _UNIQUE for path in _leaves(column)]
    repeated = [path for path in leaves if path not in unrepeated]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": repeated or False,
        "write_statistics": True,
    }


def unrepeated(footers: Iterable[pq.FileMetaData], column: str) -> frozenset[str]:
    """Names, without the column's own, of its leaves whose dictionaries take most of their room in these files.

    Such a dictionary saves nothing and costs twice what writing the values as they are does.
    """
    dictionary_bytes, all_bytes = Counter[str](), Counter[str]()
    for footer in footers:
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                name, _, leaf = chunk.path_in_schema.partition(".")
                if name == column and chunk.has_dictionary_page:
                    dictionary_bytes[leaf] += chunk.data_page_offset - chunk.dictionary_page_offset
                    all_bytes[leaf] += chunk.total_compressed_size
    return frozenset(leaf for leaf, size in all_bytes.items() if dictionary_bytes[leaf] * 2 > size)


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


def rows_with_addresses(sources: Iterable[Opener], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The columns of all files, with `file` and `row`, in the files' order."""
    for index, file in enumerate(open_ahead(sources)):
        first = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            rows = pa.array(np.arange(first, first + len(batch), dtype=np.int64))
            file_of_row = pa.array(np.full(len(batch), index, np.int32))
            yield pa.RecordBatch.from_arrays([*batch.columns, file_of_row, rows], names=[*columns, FILE, ROW])
            first += len(batch)


ROW_BITS = 40


def address_of(file: int, row: Any) -> Any:
    """One number (or an array of them) that sorts as (file, row)."""
    return (file << ROW_BITS) + row


def file_and_row(address: int) -> tuple[int, int]:
    return address >> ROW_BITS, address & ((1 << ROW_BITS) - 1)


def files_and_rows(addresses: Addresses) -> tuple[pa.Array, pa.Array]:
    """Columns `FILE` (int32) and `ROW` (int64)."""
    files, rows = addresses >> ROW_BITS, addresses & ((1 << ROW_BITS) - 1)
    return pa.array(files.astype(np.int32)), pa.array(rows)


def visit_rows(
    sources: Iterable[Opener], columns: list[str], visit: Visit, *, only: Addresses | None = None, first: int = 0
) -> None:
    """Give the columns of all rows to `visit`, several files at a time; their numbers count from `first`.

    Of `only` these rows (sorted), for which no other row group is read.
    """
    room, failed = threading.BoundedSemaphore(_AHEAD), threading.Event()

    def visit_file(number: int, opening: Future[pq.ParquetFile]) -> None:
        try:
            with opening.result() as file:
                for addresses, batch in addressed(file, number, columns, only):
                    if failed.is_set():
                        return
                    visit(addresses, batch)
        except BaseException:
            failed.set()
            raise
        finally:
            room.release()

    with ThreadPoolExecutor(_AHEAD) as openers, ThreadPoolExecutor(pa.cpu_count()) as visitors:
        visits = []
        for number, source in enumerate(sources, first):
            room.acquire()
            visits.append(visitors.submit(visit_file, number, openers.submit(source)))
        for each in visits:
            each.result()


def addressed(
    file: pq.ParquetFile, number: int, columns: list[str], only: Addresses | None = None
) -> Iterator[tuple[Addresses, pa.RecordBatch]]:
    """The columns of a file's rows, or of those at the (sorted) addresses `only`, with their addresses."""
    start = address_of(number, 0)
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        if only is None or np.searchsorted(only, start) < np.searchsorted(only, end):
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
                addresses = np.arange(start, start + len(batch))
                start += len(batch)
                yield (addresses, batch) if only is None else among(only, addresses, batch)
        start = end


def among(only: Addresses, addresses: Addresses, batch: pa.RecordBatch) -> tuple[Addresses, pa.RecordBatch]:
    """Those of the rows, which follow one another, that are at one of the (sorted) addresses `only`."""
    wanted = only[slice(*np.searchsorted(only, [addresses[0], addresses[-1] + 1]))]
    return wanted, batch.take(pa.array(wanted - addresses[0]))


class LakeFile(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file of the lake. LakeError that names it when it is not there or cannot be read."""

    def __init__(self, storage: Readable, path: str) -> None:
        self._name = storage.address(path)
        with _named(self._name):
            stream = storage.open(path)
            try:
                super().__init__(stream)
            except BaseException:
                stream.close()
                raise
            self._stream = stream

    def iter_batches(self, *args: Any, **more: Any) -> Iterator[pa.RecordBatch]:
        with _named(self._name):
            yield from super().iter_batches(*args, **more)

    def read(self, *args: Any, **more: Any) -> pa.Table:
        with _named(self._name):
            return super().read(*args, **more)

    def read_row_group(self, *args: Any, **more: Any) -> pa.Table:
        with _named(self._name):
            return super().read_row_group(*args, **more)

    def close(self, force: bool = False) -> None:
        super().close(force=True)
        self._stream.close()


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as unreadable:
        is_gone = isinstance(unreadable, FileNotFoundError)
        raise LakeError(
            name,
            found="no such file" if is_gone else f"a file that cannot be read: {in_one_line(unreadable)}",
            expected="the Parquet file that the log names, as it was written",
            next_step="Restore it from a copy; `lakehouse verify` says whether sealed files are damaged, too.",
        ) from unreadable


ReaderOf = Callable[[pa.Schema, Iterable[pa.RecordBatch]], pa.RecordBatchReader]


@contextmanager
def readers() -> Iterator[ReaderOf]:
    """Makes readers for another library, which says of an error of ours only its text: here it is that error again."""
    raised: list[LakehouseError] = []

    def noting(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except LakehouseError as error:
            raised.append(error)
            raise

    try:
        yield lambda schema, batches: pa.RecordBatchReader.from_batches(schema, noting(batches))
    except Exception:
        if raised:
            raise raised[0] from None
        raise


def open_ahead(sources: Iterable[Opener]) -> Iterator[pq.ParquetFile]:
    """Each file in order, open until the next is asked for; footers are read ahead, as a store takes its time."""
    waiting: deque[Future[pq.ParquetFile]] = deque()
    with ThreadPoolExecutor(_AHEAD) as readers:
        for source in sources:
            waiting.append(readers.submit(source))
            if len(waiting) == _AHEAD:
                yield from _in_turn(waiting.popleft())
        while waiting:
            yield from _in_turn(waiting.popleft())


def _in_turn(opening: Future[pq.ParquetFile]) -> Iterator[pq.ParquetFile]:
    with opening.result() as file:
        yield file
