"""A database for one question: in bounded memory, and beyond it in a folder of this machine that goes with it."""

from __future__ import annotations

import atexit
import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb

from lakehouse.errors import LakeError, in_one_line

MEMORY_LIMIT = "1GB"
"""Of a database that is given no other; beyond it, it spills to disk."""

_PREFIX = "lakehouse-scratch-"
_WITHOUT_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL = "max_temp_directory_size"
"""DuckDB's default for it is the room that the disk has."""

_LEFT = "select 1 from duckdb_tables() union all select 1 from duckdb_views() where not internal"
"""What is not temporary would be another question's."""
_MOST_IDLE, _MOST_IDLE_BYTES = 2, 32 * 1024**2
"""Databases that are kept, and what each of them may have held: it gives none of that back before it is closed."""
_HELD = "select coalesce(sum(memory_usage_bytes), 0) from duckdb_memory()"
_idle: list[tuple[int, duckdb.DuckDBPyConnection]] = []
"""Databases, with the process that made them, that have nothing: to make one takes longer than most questions."""
atexit.register(_idle.clear)


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
def scratch_database(memory_limit: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory whose times are UTC; what is in it goes with it, temporary tables at the least cost.

    Its memory is `MEMORY_LIMIT` or the given one, in DuckDB's notation. LakeError where it can neither stay in memory
    nor spill to disk.
    """
    with scratch_folder() as folder:
        database = _empty_database(folder, memory_limit or MEMORY_LIMIT)
        try:
            with database.cursor() as session:
                session.execute("set timezone = 'UTC'")
                yield session
                [(held_bytes,)] = session.execute(_HELD).fetchall()
        except BaseException as failed:
            database.close()
            if isinstance(failed, duckdb.Error) and _is_for_want_of_room(failed):
                raise _no_room(os.path.dirname(folder), failed) from failed
            raise
        _give_back(database, folder, held_bytes)


def _empty_database(folder: str, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """With DuckDB's defaults but for its memory, and where it spills to."""
    settings = f"set memory_limit = '{memory_limit}'; set temp_directory = '{folder}'"
    while _idle:
        process, database = _idle.pop()
        if process == os.getpid():  # the threads of a forked one are gone
            with suppress(duckdb.Error):
                database.execute(f"reset threads; reset preserve_insertion_order; {settings}")
                return database
    database = duckdb.connect()
    database.execute(settings)
    return database


def _give_back(database: duckdb.DuckDBPyConnection, folder: str, held_bytes: int) -> None:
    is_small = held_bytes <= _MOST_IDLE_BYTES
    if is_small and len(_idle) < _MOST_IDLE and not os.listdir(folder) and not database.execute(_LEFT).fetchall():
        _idle.append((os.getpid(), database))
    else:
        database.close()


def _is_for_want_of_room(failed: duckdb.Error) -> bool:
    return isinstance(failed, duckdb.OutOfMemoryException) or is_without_room(failed)


def is_without_room(error: duckdb.Error) -> bool:
    """Whether a scratch database could not spill: no fault of what it was asked, and other when there is room again."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return _FULL in str(error)
    return isinstance(error, duckdb.IOException) and _PREFIX in str(error)


def _no_room(place: str, refused: Exception) -> LakeError:
    return LakeError(
        f"scratch space in {place}",
        found=in_one_line(refused),
        expected="room there for what memory does not hold",
        next_step="Make room, or set TMPDIR to a folder that has more; `run` tries it again by itself.",
    )
