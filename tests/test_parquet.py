"""How files are encoded, and addresses that count rows as the files hold them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.schemas import segment_schema
from lakehouse.seal.copying import pieces_of, rows_per_file
from lakehouse.store import parquet
from lakehouse.store.files import storage_for
from lakehouse.store.parquet import FILE, ROW
from lakehouse.topics import Topic

SCHEMA = pa.schema([("event_id", pa.string()), ("payload", pa.binary())])


def written(folder: Path, *sizes: int, row_group_size: int = 3) -> list[Path]:
    paths = []
    for number, rows in enumerate(sizes):
        paths.append(folder / f"{number}.parquet")
        table = pa.table([[f"{number}-{row}" for row in range(rows)], [b""] * rows], schema=SCHEMA)
        pq.write_table(table, paths[-1], row_group_size=row_group_size)
    return paths


def openers(paths: list[Path]) -> list[parquet.Opener]:
    return [partial(parquet.LakeFile, storage_for(str(path.parent)), path.name) for path in paths]


def test_every_row_has_its_file_and_its_place(tmp_path: Path) -> None:
    """Across row groups, empty files and more files than are opened ahead."""
    sizes = [7, 0, 1, *range(2, 12)]
    batches = parquet.rows_with_addresses(openers(written(tmp_path, *sizes)), ["event_id"])
    table = pa.Table.from_batches(batches)
    assert table.column_names == ["event_id", FILE, ROW]
    expected = [(f"{file}-{row}", file, row) for file, rows in enumerate(sizes) for row in range(rows)]
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == expected


def test_files_are_open_only_around_their_turn(tmp_path: Path) -> None:
    """An hour has more files than a process may have open."""
    opened: list[parquet.LakeFile] = []

    def opener(path: Path) -> parquet.LakeFile:
        opened.append(parquet.LakeFile(storage_for(str(tmp_path)), path.name))
        return opened[-1]

    sources = [partial(opener, path) for path in written(tmp_path, *[1] * 100)]
    for _ in parquet.open_ahead(sources):
        assert sum(not file.closed for file in opened) <= 33
    assert all(file.closed for file in opened)


def test_dictionaries_are_only_for_what_repeats(topic: Topic) -> None:
    """Ids and times are all different: a dictionary of them costs time and room."""
    options = parquet.options(segment_schema(topic))
    assert {"event.user", "event.track.id", "reject_reason"} <= set(options["use_dictionary"])
    assert not {"event_id", "message_id", "event_time", "publish_time", "payload"} & set(options["use_dictionary"])


def test_the_named_columns_are_those_of_the_file(topic: Topic, tmp_path: Path) -> None:
    """A name that no column has would be taken without a word."""
    schema = segment_schema(topic)
    pq.write_table(schema.empty_table(), tmp_path / "file.parquet", **parquet.options(schema))
    leaves = {column.path for column in pq.ParquetFile(tmp_path / "file.parquet").schema}
    assert set(parquet.options(schema)["use_dictionary"]) <= leaves


@pytest.mark.parametrize(
    ("sizes", "target", "expected"),
    [([3, 3, 3], 6, [1, 2]), ([9, 1], 6, [1, 1]), ([1, 1, 1], 100, [3]), ([], 6, []), ([6, 6], 6, [1, 1])],
)
def test_pieces_fill_files_of_the_target_size(sizes: list[int], target: int, expected: list[int]) -> None:
    """In their order; a row group larger than the target is a file of its own."""
    from lakehouse.seal.copying import Piece

    pieces = [Piece("file", number, 1, size) for number, size in enumerate(sizes)]
    groups = list(rows_per_file(pieces, target))
    assert [len(group) for group in groups] == expected
    assert [piece for group in groups for piece in group] == pieces


def test_a_piece_carries_its_own_losers_only(tmp_path: Path) -> None:
    """One bit for each of its rows, and nothing when all are kept: a task gets no more than it needs."""
    import numpy as np

    (path,) = written(tmp_path, 10, row_group_size=4)
    with pq.ParquetFile(path) as file:
        pieces = pieces_of("file", file.metadata, np.array([0, 3, 9]))
    assert [piece.rows for piece in pieces] == [4, 4, 2]
    assert [piece.kept for piece in pieces] == [bytes([0b01100000]), None, bytes([0b10000000])]
