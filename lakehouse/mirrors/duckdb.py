"""Sealed hours in one DuckDB file: SQL on a laptop. A table per topic; one process at a time may have it open."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from threading import Lock
from typing import Any, Literal

import duckdb
import pyarrow as pa

from lakehouse.checksum import sql_for
from lakehouse.config import Root
from lakehouse.hours import Hour
from lakehouse.keys import Frozen, key
from lakehouse.lineage.datasets import DatasetName
from lakehouse.mirrors import duckdb_pages
from lakehouse.mirrors.contract import Count, Mirror, SealedHour, as_mirror_errors, is_wanted, manifest_of
from lakehouse.mirrors.files import rows_of
from lakehouse.mirrors.limits import Neighbour
from lakehouse.mirrors.places import scheme_objections
from lakehouse.mirrors.retries import with_retries
from lakehouse.topics import Topic
from lakehouse.value_checksum import ROWS, Leaf, value_sql

_TURN = Lock()


class DuckDBMirror(Mirror):
    """Hours as tables in one DuckDB file on this machine: a table for each topic with the column `hour`.

    `_hours` lists what is there, empty hours too. Each hour is published in one transaction. After an erasure the file
    is written again, as what was deleted would stay in its free pages.
    """

    keeps_rows = True

    class Options(Frozen):
        kind: Literal["duckdb"]
        path: Root = key(
            min_length=1,
            unit="file",
            doc="The database, made when it is missing: on a disk of this machine that has room for all hours.",
        )

    def __init__(self, name: str, options: Options) -> None:
        self.name, self._path = name, options.path

    @classmethod
    def objections(cls, topic: Topic, options: Any, neighbours: Sequence[Neighbour]) -> list[str]:
        return scheme_objections(options.path, ()) + [
            f"the same file {options.path} in the mirror {each.mirror}"
            for each in neighbours
            if each.topic.name == topic.name and each.options.path == options.path
        ]

    @classmethod
    def type_name(cls, kind: pa.DataType) -> str:
        with duckdb.connect() as db:
            db.register("asked", pa.schema([("x", kind)]).empty_table())
            return str(db.execute("select column_type from (describe asked)").fetchall()[0][0])

    def where(self, topic: Topic, hour: Hour) -> str:
        return f"{self._path}: {topic.name} where hour = '{hour}'"

    def dataset(self, topic: Topic) -> DatasetName:
        """The specification has none for DuckDB; dbt's integration names its tables so."""
        return DatasetName(f"duckdb://{self._path}", f"{PurePath(self._path).stem}.main.{topic.name}")

    def hours(self, topic: Topic) -> set[Hour]:
        query = f'select hour from "{topic.name}" union select hour from _hours where topic = ?'
        with self._to_read(topic, "*") as db:
            return {hour for (hour,) in db.execute(query, [topic.name]).fetchall()} if db else set()

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        topic = hour.topic.name
        with self._table(hour.topic, hour.hour) as db:
            db.execute("create table if not exists _hours (topic text, hour text, manifest text, unique (topic, hour))")
            columns = hour.columns.append(pa.field("hour", pa.string()))
            db.register("declared", columns.empty_table())
            db.execute(f'create table if not exists "{topic}" as from declared')
            present = _manifest(db, hour)
            if is_wanted(self, hour, present, force):
                _replace(db, hour, topic, is_final=bool(present and present["revision"] < hour.revision))
        self._finish(hour)

    def withdraw(self, hour: SealedHour) -> None:
        with self._to_read(hour.topic, hour.hour) as db:
            if db is None:
                return
        with self._table(hour.topic, hour.hour) as db:
            db.begin()
            db.execute(f'delete from "{hour.topic.name}" where hour = ?', [hour.hour])
            db.execute("delete from _hours where topic = ? and hour = ?", [hour.topic.name, hour.hour])
            duckdb_pages.mark(db)
            db.commit()
        self._finish(hour)

    def remains(self, hour: SealedHour) -> list[str]:
        with self._to_read(hour.topic, hour.hour) as db:
            present = _manifest(db, hour) if db else None
            is_older = present is not None and present["revision"] < hour.revision
            pages = [f"{self._path}: free pages"] if db and duckdb_pages.is_marked(db) else []
            return [self.where(hour.topic, hour.hour)] * is_older + pages

    def _finish(self, hour: SealedHour) -> None:
        """What was deleted for good, now or by a process that died since, goes out of the file."""
        with _TURN, as_mirror_errors(self, hour.topic, hour.hour, duckdb.Error):
            with self._connection(read_only=True) as db:
                is_marked = duckdb_pages.is_marked(db)
            if is_marked:
                with_retries(lambda: duckdb_pages.write_again(self._path), (duckdb.IOException,))

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        query = f'''select count(*), {sql_for("duckdb")},
            (select count(*) from _hours where topic = ? and hour = ?) from "{topic.name}" where hour = ?'''
        with self._to_read(topic, hour) as db:
            if db is None:
                return None
            rows, checksum, manifests = map(int, db.execute(query, [topic.name, hour, hour]).fetchall()[0])
            return Count(rows, checksum) if manifests or rows else None

    def value_checksum(self, topic: Topic, hour: Hour, leaves: Sequence[Leaf]) -> int | None:
        query = f'select {value_sql("duckdb", leaves)} from "{topic.name}" as {ROWS} where hour = ?'
        with self._to_read(topic, hour) as db:
            return int(db.execute(query, [hour]).fetchall()[0][0]) if db else None

    @contextmanager
    def _table(self, topic: Topic, hour: Hour) -> Iterator[Any]:
        with _TURN, as_mirror_errors(self, topic, hour, duckdb.Error), self._connection() as db:
            yield db

    @contextmanager
    def _to_read(self, topic: Topic, hour: Hour) -> Iterator[Any]:
        """Without a writer's lock, so that readers elsewhere do not matter; None where the topic has no table yet."""
        with _TURN, as_mirror_errors(self, topic, hour, duckdb.Error):
            if not os.path.exists(self._path):
                yield None
                return
            with self._connection(read_only=True) as db:
                names = "select count(*) from duckdb_tables() where table_name in (?, '_hours')"
                yield db if db.execute(names, [topic.name]).fetchall()[0][0] == 2 else None

    def _connection(self, read_only: bool = False) -> duckdb.DuckDBPyConnection:
        try:
            return with_retries(lambda: duckdb.connect(self._path, read_only), (duckdb.IOException,))
        except duckdb.ConnectionException:  # this process has the file open for writing
            return duckdb.connect(self._path)


def _manifest(db: duckdb.DuckDBPyConnection, hour: SealedHour) -> Any:
    query = "select manifest from _hours where topic = ? and hour = ?"
    row = db.execute(query, [hour.topic.name, hour.hour]).fetchone()
    return json.loads(row[0]) if row else None


def _replace(db: duckdb.DuckDBPyConnection, hour: SealedHour, topic: str, *, is_final: bool) -> None:
    new = f'(describe declared) anti join (describe "{topic}") using (column_name, column_type)'
    db.begin()
    for column, kind in db.execute(f"select column_name, column_type from {new}").fetchall():
        add = f'alter table "{topic}" add column if not exists "{column}" {kind}'
        db.execute(f'{add}; alter table "{topic}" alter column "{column}" type {kind}')
    db.execute(f'delete from "{topic}" where hour = ?', [hour.hour])
    for rows in rows_of(hour):
        db.register("part", rows)
        db.execute(f'insert into "{topic}" by name select *, ? as hour from part', [hour.hour])
    if is_final:
        duckdb_pages.mark(db)
    db.execute("insert or replace into _hours values (?, ?, ?)", [topic, hour.hour, json.dumps(manifest_of(hour))])
    db.commit()
