"""A DuckDB file without what was deleted from it: DuckDB keeps it in pages that are free until they are used again."""

import os
from contextlib import suppress

import duckdb

from lakehouse.store.files import sync

_MARK = "_deleted"
"""A table that is there from a deletion that must be final until the file is written again."""


def mark(db: duckdb.DuckDBPyConnection) -> None:
    """With the deletion, in its transaction."""
    db.execute(f"create table if not exists {_MARK} (since timestamptz default now())")


def is_marked(db: duckdb.DuckDBPyConnection) -> bool:
    found: tuple[bool] = db.execute(
        "select count(*) > 0 from duckdb_tables() where table_name = ?", [_MARK]
    ).fetchall()[0]
    return found[0]


def write_again(path: str) -> None:
    """The file with all that it has, and nothing else: beside it first, then in its place in one step.

    Nobody else may have it open, in this process either. It takes the room of the file once more, and the time to
    copy it.
    """
    aside = f"{path}.new"
    for left in (aside, f"{aside}.wal"):
        with suppress(FileNotFoundError):
            os.remove(left)
    with duckdb.connect() as db:
        db.execute(f"attach {_literal(path)} as present; attach {_literal(aside)} as fresh")
        db.execute(f"copy from database present to fresh; drop table fresh.{_MARK}; checkpoint fresh; detach fresh")
        sync(aside)
        os.replace(aside, path)  # while we hold the old one: a writer that waits for it would write to what is gone
        sync(os.path.dirname(path) or ".")


def _literal(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"
