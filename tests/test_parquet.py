"""How files are encoded, and addresses that count rows as the files hold them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.schemas import segment_schema
from lakehouse.seal.copying import pieces_of, rows_per_file
from lakehouse.store import parquet
from lakehouse.store.files import storage_for
from lakehouse.store.parquet import FILE, ROW, address_of
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


def visited(sources: list[parquet.Opener], only: list[int] | None = None) -> list[tuple[int, str]]:
    """(address, id), sorted."""
    found: list[tuple[int, str]] = []

    def visit(addresses: parquet.Addresses, rows: pa.RecordBatch) -> None:
        found.extend(zip(addresses.tolist(), rows.column(0).to_pylist(), strict=True))

    parquet.visit_rows(sources, ["event_id"], visit, only=None if only is None else np.array(only, np.int64))
    return sorted(found)


def test_every_row_is_visited_once_with_its_address(tmp_path: Path) -> None:
    """From several threads: more files than are opened ahead, some of them empty."""
    sizes = [7, 0, 1, *[2] * 40]
    expected = [(address_of(file, row), f"{file}-{row}") for file, rows in enumerate(sizes) for row in range(rows)]
    assert visited(openers(written(tmp_path, *sizes))) == expected
    chosen = [expected[0], expected[5], expected[7], expected[-1]]
    assert visited(openers(written(tmp_path, *sizes)), [address for address, _ in chosen]) == chosen


def test_row_groups_without_a_wanted_row_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few deliveries are suspects: what they are read for must not cost the whole hour."""
    read: list[int] = []
    iterated = parquet.LakeFile.iter_batches

    def noted(self: parquet.LakeFile, *args: Any, row_groups: list[int], **more: Any) -> Any:
        read.extend(row_groups)
        return iterated(self, *args, row_groups=row_groups, **more)

    monkeypatch.setattr(parquet.LakeFile, "iter_batches", noted)
    assert visited(openers(written(tmp_path, 12)), [4]) == [(4, "0-4")]
    assert read == [1]


def test_a_visit_that_fails_ends_all_of_them(tmp_path: Path) -> None:
    visits = []

    def visit(addresses: parquet.Addresses, rows: pa.RecordBatch) -> None:
        visits.append(len(rows))
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        parquet.visit_rows(openers(written(tmp_path, *[1] * 100)), ["event_id"], visit)
    assert len(visits) <= pa.cpu_count()


def test_leaves_whose_dictionaries_save_nothing_are_known(tmp_path: Path) -> None:
    """By the files' footers alone, at any depth; a dictionary of few values that many rows share is worth it."""
    rows = 5_000
    event = {
        "kind": pa.array([f"kind {row % 3}" for row in range(rows)]),
        "track": pa.StructArray.from_arrays(
            [pa.array([f"{row * 7919}" for row in range(rows)]), pa.array([row % 2 for row in range(rows)])],
            ["id", "side"],
        ),
    }
    table = pa.table({"event": pa.StructArray.from_arrays(list(event.values()), list(event))})
    pq.write_table(table, tmp_path / "file.parquet", compression="zstd")
    footer = pq.read_metadata(tmp_path / "file.parquet")
    assert parquet.unrepeated([footer], "event") == {"track.id"}
    options = parquet.options(pa.schema(list(table.schema.field("event").type)), {"track.id"})
    assert options["use_dictionary"] == ["kind", "track.side"]


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


def test_every_writer_has_a_file_unless_it_were_very_small() -> None:
    """At the same sizes of pieces: 64 MB are two files for two writers or more, where the target is 256."""
    from lakehouse.seal.copying import Piece

    pieces = [Piece("file", number, 1, 1_000_000) for number in range(64)]
    for writers, files in ((1, 1), (2, 2), (16, 2)):
        groups = rows_per_file(pieces, 256_000_000, writers)
        assert [len(group) for group in groups] == [64 // files] * files
    assert [len(group) for group in rows_per_file(pieces, 30_000_000, 4)] == [16] * 4


def test_a_piece_carries_its_own_losers_only(tmp_path: Path) -> None:
    """One bit for each of its rows, and nothing when all are kept: a task gets no more than it needs."""
    (path,) = written(tmp_path, 10, row_group_size=4)
    with pq.ParquetFile(path) as file:
        pieces = pieces_of("file", file.metadata, np.array([0, 3, 9]))
    assert [piece.rows for piece in pieces] == [4, 4, 2]
    assert [piece.kept for piece in pieces] == [bytes([0b01100000]), None, bytes([0b10000000])]
