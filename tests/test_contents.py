"""What a file's bytes come to, whoever computes it."""

from __future__ import annotations

import base64
import io
from hashlib import sha256
from pathlib import Path

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.store.contents import Contents, DigestingSink, sha256_of
from lakehouse.store.files import LocalStorage


@pytest.mark.parametrize("rows", [0, 1, 200_000])
def test_digests_made_while_writing_are_those_of_the_file(tmp_path: Path, rows: int) -> None:
    """In whatever pieces Parquet writes it, and through the stream that the store gives."""
    storage, numbers = LocalStorage(str(tmp_path)), pa.table({"n": pa.array(range(rows), pa.int64())})
    with storage.create("a.parquet") as stream:
        sink = DigestingSink(stream)
        with pq.ParquetWriter(sink, numbers.schema) as writer:
            writer.write_table(numbers, row_group_size=50_000)
    written = (tmp_path / "a.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a.parquet") == numbers
    assert sink.tell() == len(written)
    assert sink.sha256 == sha256(written).hexdigest() == sha256_of(storage, "a.parquet").sha256
    assert sink.crc32c == base64.b64encode(google_crc32c.Checksum(written).digest()).decode()


def test_the_checksum_is_written_as_cloud_storage_writes_it() -> None:
    """The check value of CRC32C, 0xE3069283, in base64 with the highest byte first."""
    sink = DigestingSink(io.BytesIO())
    sink.write(b"12345")
    sink.write(memoryview(b"6789"))
    assert sink.crc32c == base64.b64encode(bytes.fromhex("e3069283")).decode()


def test_contents_differ_where_a_digest_that_both_have_is_another() -> None:
    """A store gives one of them, reading the other."""
    sealed = Contents("a", "b")
    assert not any(sealed.differs_from(Contents(*known)) for known in [("a", None), (None, "b"), (None, None)])
    assert all(sealed.differs_from(Contents(*known)) for known in [("x", None), (None, "x"), ("a", "x"), ("x", "b")])
