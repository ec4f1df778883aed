"""Digests of files: made while a file is written, or from the bytes of one that is there."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import google_crc32c

from lakehouse.store.files import Readable
from lakehouse.store.google_reads import crc32c_text

_CHUNK_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Contents:
    """What a file's bytes come to; None where nobody has computed it.

    `sha256` is in hexadecimal digits, `crc32c` in base64 as Cloud Storage keeps it of each object.
    """

    sha256: str | None = None
    crc32c: str | None = None

    def differs_from(self, other: Contents) -> bool:
        """Whether one of the digests that both have is another one."""
        pairs = ((self.sha256, other.sha256), (self.crc32c, other.crc32c))
        return any(mine != theirs for mine, theirs in pairs if mine and theirs)

    def __str__(self) -> str:
        return f"sha256 {self.sha256}" if self.sha256 else f"crc32c {self.crc32c}"


class DigestingSink:
    """A file for writing before another: it knows the digests and the size of what went through it.

    Whoever opened the other one closes it.
    """

    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink, self._size_bytes = sink, 0
        self._sha256, self._crc32c = hashlib.sha256(), 0

    def write(self, content: Any) -> int:
        content = content if isinstance(content, bytes) else bytes(memoryview(content))
        self._sink.write(content)
        self._sha256.update(content)
        self._crc32c = google_crc32c.extend(self._crc32c, content)
        self._size_bytes += len(content)
        return len(content)

    def tell(self) -> int:
        return self._size_bytes

    def flush(self) -> None:
        """Nothing: the file below is flushed by whoever closes it."""

    def close(self) -> None:
        """Nothing: see the class."""

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def crc32c(self) -> str:
        return crc32c_text(self._crc32c)


def sha256_of(storage: Readable, path: str) -> Contents:
    """From the bytes of the file, which is read whole; OSError when it is not there or cannot be read."""
    with closing(storage.open(path)) as source:
        return sha256_of_stream(source)


def sha256_of_stream(source: Any) -> Contents:
    """From where the binary file is to its end."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
    return Contents(digest.hexdigest())
