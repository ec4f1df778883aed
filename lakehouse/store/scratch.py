"""A database for one question: in bounded memory, and beyond it in a folder of this machine that goes with it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from lakehouse.errors import LakeError, in_one_line

MEMORY_LIMIT = "1GB"
"""Of a database; beyond it, it spills to disk."""

_PREFIX = "lakehouse-scratch-"
_WITHOUT_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL = "max_temp_directory_size"
"""DuckDB's default for it is the room that the disk has."""


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for what memory does not hold. LakeError where there is no room for it, or in it."""
    try:
        spill = tempfile.TemporaryDirectory(prefix=_PREFIX)
    except OSError as refused:
        raise _no_room("TMPDIR", refused) from refused
    with spill as folder:
        try:
            yield folder
        except OSError as refused:
            if refused.errno in _WITHOUT_ROOM:
                raise _no_room(os.path.dirname(folder), refused) from refused
            raise


@contextmanager
def scratch_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory whose times are UTC. LakeError where it can neither stay in memory nor spill to disk."""
    with scratch_folder() as folder, duckdb.connect() as database:
        database.execute(f"set memory_limit = '{MEMORY_LIMIT}'; set temp_directory = '{folder}'; set timezone = 'UTC'")
        try:
            yield database
        except duckdb.Error as refused:
            if isinstance(refused, duckdb.OutOfMemoryException) or is_without_room(refused):
                raise _no_room(os.path.dirname(folder), refused) from refused
            raise


def is_without_room(error: duckdb.Error) -> bool:
    """Whether a scratch database could not spill: no fault of what it was asked, and other when there is room again."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return _FULL in str(error)
    return isinstance(error, duckdb.IOException) and _PREFIX in str(error)


def _no_room(place: str, refused: Exception) -> LakeError:
    return LakeError(
        f"scratch space in {place}",
        found=in_one_line(refused),
        expected=f"room there for what exceeds {MEMORY_LIMIT} of memory",
        next_step="Make room, or set TMPDIR to a folder that has more; it is tried again by itself.",
    )
