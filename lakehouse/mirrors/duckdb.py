"""Sealed hours in one DuckDB file: SQL on a laptop. A table per topic; one process at a time may have it open."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal

import duckdb
import pyarrow.parquet as pq

from lakehouse.checksum import sql_for
from lakehouse.config import Root
from lakehouse.events import silver_schema
from lakehouse.hours import Hour
from lakehouse.mirrors.contract import Count, SealedHour, manifest_of, refusal, told_of
from lakehouse.mirrors.filesystems import open_file
from lakehouse.mirrors.retries import retried
from lakehouse.topics import Frozen, Topic

_HOURS = "create table if not exists _hours (topic text, hour text, manifest text, primary key (topic, hour))"
_TURN = Lock()


class DuckDBMirror:
    class Options(Frozen):
        kind: Literal["duckdb"]
        path: Root

    def __init__(self, name: str, path: str) -> None:
        self.name, self._path = name, path

    @classmethod
    def opened(cls, name: str, options: Any, spark: object) -> "DuckDBMirror":
        return cls(name, options.path)

    def where(self, topic: Topic, hour: Hour) -> str:
        return f"{self._path}: {topic.name} where hour = '{hour}'"

    def publish(self, hour: SealedHour, *, anew: bool = False) -> None:
        with self._opened(hour.topic, hour.hour) as (base, there):
            if there and there["revision"] > hour.revision:
                raise refusal(self.name, hour, there["revision"], self._path)
            if anew or there != manifest_of(hour):
                _replace(base, hour)

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        query = f'select count(*), {sql_for("duckdb")} from "{topic.name}" where hour = ?'
        with self._opened(topic, hour) as (base, there):
            return Count(*map(int, base.execute(query, [hour]).fetchall()[0])) if there else None

    @contextmanager
    def _opened(self, topic: Topic, hour: Hour) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, Any] | None]]:
        expected = f"{self._path} to be a DuckDB file that no other process has open"
        with (
            _TURN,
            told_of(self.name, topic, hour, duckdb.Error, OSError, expected=expected),
            retried(lambda: duckdb.connect(self._path), duckdb.IOException) as base,
        ):
            base.execute(f"set timezone = 'UTC'; {_HOURS}")
            query = "select manifest from _hours where topic = ? and hour = ?"
            found = base.execute(query, [topic.name, hour]).fetchall()
            yield base, json.loads(found[0][0]) if found else None


def _replace(base: duckdb.DuckDBPyConnection, hour: SealedHour) -> None:
    topic = hour.topic.name
    base.register("declared", silver_schema(hour.topic).empty_table())
    base.begin()
    base.execute(f'create table if not exists "{topic}" as from declared')
    present = dict(row[:2] for row in base.execute(f'describe "{topic}"').fetchall())
    for column, kind, *_ in base.execute("describe declared").fetchall():
        change = f'alter column "{column}" type' if column in present else f'add column "{column}"'
        if present.get(column) != kind:
            base.execute(f'alter table "{topic}" {change} {kind}')
    base.execute(f'delete from "{topic}" where hour = ?', [hour.hour])
    for file in hour.files:
        with open_file(hour.silver_uri, file.path, hour.storage_options) as source:
            base.register("part", pq.ParquetFile(source).read())
            base.execute(f'insert into "{topic}" by name select *, ? as hour from part', [hour.hour])
    base.execute("insert or replace into _hours values (?, ?, ?)", [topic, hour.hour, json.dumps(manifest_of(hour))])
    base.commit()
