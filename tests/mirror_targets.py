"""Sealed hours to mirror, and every target as a test sees it: the mirror, and what is done to it behind its back.

A new target joins `TARGETS` with a way to open it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_bigquery import FakeBigQuery, serving
from google.api_core.exceptions import NotFound
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from lakehouse.checksum import checksum_of
from lakehouse.config import Config
from lakehouse.hours import Hour
from lakehouse.mirrors import hive as hive_module
from lakehouse.mirrors.bigquery.dataset import BigQueryOptions, client_of
from lakehouse.mirrors.bigquery.loads import load_config
from lakehouse.mirrors.bigquery.mirror import BigQueryMirror
from lakehouse.mirrors.bigquery.schema import schema_of
from lakehouse.mirrors.contract import Mirror, SealedHour
from lakehouse.mirrors.duckdb import DuckDBMirror
from lakehouse.mirrors.files import Copy, Files, LocalFiles
from lakehouse.mirrors.folder import FolderMirror
from lakehouse.mirrors.google import GoogleFiles
from lakehouse.mirrors.hadoop import HadoopFiles
from lakehouse.mirrors.hive import HiveMirror, HiveOptions
from lakehouse.mirrors.sealed import sealed_hour
from lakehouse.schemas import sealed_schema
from lakehouse.store.contents import DigestingSink
from lakehouse.store.files import google_client
from lakehouse.store.history import History
from lakehouse.store.ledger import Ledger
from lakehouse.store.place import Place
from lakehouse.store.records import Closed, FileDigest, Sealed, Valid
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from tests.lake import Lake as OneTopicLake
from tests.servers.together import Servers
from tests.servers.warehouse import PROJECT

HOUR = "2026-11-23T05"
NEXT = "2026-11-23T06"


class Crash(BaseException):
    """Nothing may catch it, as nothing catches a power cut."""


# ---- an hour to mirror


def plays(ids: Sequence[str], topic: Topic, **columns: Sequence[Any]) -> pa.Table:
    schema = sealed_schema(topic)
    at = datetime(2026, 11, 23, 5, 30, tzinfo=UTC)
    values: dict[str, Sequence[Any]] = {
        "event_id": ids,
        "event_time": [at] * len(ids),
        "event_hour": [HOUR] * len(ids),
        "publish_time": [at] * len(ids),
        "message_id": [f"m-{each}" for each in ids],
        **columns,
    }
    return pa.table([pa.array(values.get(f.name, [None] * len(ids)), f.type) for f in schema], schema=schema)


def digest_of(file: Path) -> FileDigest:
    sink = DigestingSink(io.BytesIO())
    sink.write(file.read_bytes())
    return FileDigest(name=file.name, sha256=sink.sha256, crc32c=sink.crc32c)


class Lake:
    """Silver and ledger of several topics, as the seal leaves them."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def sealed(self, topic: Topic, hour: Hour, rows: pa.Table, files: int = 2) -> SealedHour:
        """Seal once more, in so many files; the ledger says it too."""
        tables, ledger = self.tables(topic), self.ledger(topic)
        revision = ledger.history().revision(hour) + 1
        version = OneTopicLake(topic, self.config).write_silver(hour, rows, revision=revision, files=files)
        ids = rows["event_id"].to_pylist()
        folder = Path(tables.sealed.uri.removeprefix("file://"), "silver", f"hour={hour}")
        digests = [str(digest_of(folder / f"{number}-r{revision}.parquet")) for number in range(files)]
        ledger.record(Closed(bronze_version=1), hour)
        seal = Sealed(
            silver_version=version,
            revision=revision,
            rows=len(rows),
            files=files,
            digests=tuple(digests),
            id_checksum=checksum_of(ids),
            bronze_version=1,
            release="test",
        )
        ledger.record(seal, hour)
        return sealed_hour(tables, ledger.history(), hour)

    def cleared(self, topic: Topic, hour: Hour, rows: pa.Table) -> SealedHour:
        hour_sealed = self.sealed(topic, hour, rows)
        self.ledger(topic).record(Valid(), hour)
        return hour_sealed

    def sealed_now(self, topic: Topic, hour: Hour) -> SealedHour:
        return sealed_hour(self.tables(topic), self.history(topic), hour)

    def tables(self, topic: Topic) -> TopicTables:
        return TopicTables(topic, self.config.settings)

    def ledger(self, topic: Topic) -> Ledger:
        return self.tables(topic).ledger("test/test/test")

    def history(self, topic: Topic) -> History:
        return self.ledger(topic).history()


# ---- targets


class Target(Protocol):
    """A mirror, and what a test does to it from outside."""

    mirror: Mirror
    replaces_at_once: bool
    """Whether a new revision takes the old one's place in one step, so that not even a crash leaves neither."""
    is_quick: bool
    """Whether a publish takes milliseconds, so that a test may make many."""
    cannot: frozenset[str]
    """Kinds of fields that the server at hand has no way to take, though the real one has."""

    def rows(self, topic: Topic, hour: Hour) -> pa.Table | None:
        """What a reader sees now, by other code than the mirror's; None when it is not there."""

    def identity(self, topic: Topic, hour: Hour) -> object:
        """Something that changes whenever the hour is written again."""

    def overwrite(self, topic: Topic, hour: Hour, rows: pa.Table) -> None:
        """Other rows, behind the mirror's back."""

    def drop(self, topic: Topic, hour: Hour) -> None:
        """The hour is gone, behind the mirror's back."""

    def lose(self, topic: Topic, hour: Hour) -> None:
        """A part of the hour is gone, behind the mirror's back: a file where there are files, else rows."""

    def storable(self, rows: pa.Table) -> pa.Table:
        """The rows as far as the target has values for them."""

    def crashing_at(self, step: int) -> Mirror:
        """The mirror of a process that dies right before it changes the target for the step-th time, from 0."""

    def refusing(self) -> Mirror:
        """The mirror when the target takes nothing."""


@dataclass
class Fate:
    """So many changes of the target are left to a process; questions are free, as they leave nothing behind."""

    left: int
    end: BaseException = field(default_factory=Crash)

    def change(self) -> None:
        if self.left <= 0:
            raise self.end
        self.left -= 1


class DyingFiles:
    """A file system as a process sees it that dies; what is done file by file dies half-way, too."""

    _CHANGES = ("write", "make_folder", "settle", "remove")

    def __init__(self, files: Files, fate: Fate) -> None:
        self._files, self._fate = files, fate

    def copy(self, copies: Sequence[Copy]) -> None:
        self._fate.change()
        self._files.copy(copies[:1])
        self._fate.change()
        self._files.copy(copies[1:])

    def rename(self, folder: str, to: str) -> None:
        self._fate.change()
        if not self._files.renames_are_atomic:  # a store without folders copies their files, then removes them
            names = sorted(self._files.listing(folder) or {})
            self._dying_after(lambda: self._copy_of(folder, to, names[:1]))
            self._dying_after(lambda: self._torn(folder, to, names))
        self._files.rename(folder, to)

    def _torn(self, folder: str, to: str, names: Sequence[str]) -> None:
        self._copy_of(folder, to, names)
        self._files.remove(f"{folder}/{names[0]}")

    def _copy_of(self, folder: str, to: str, names: Sequence[str]) -> None:
        self._files.copy([Copy(Place(folder), name, f"{to}/{name}", 0) for name in names])

    def _dying_after(self, half: Callable[[], None]) -> None:
        """Where the process dies here, its half is done; where it lives, the file system does the whole."""
        if self._fate.left <= 0:
            half()
        self._fate.change()

    def __getattr__(self, name: str) -> Any:
        if name in self._CHANGES:
            self._fate.change()
        return getattr(self._files, name)


class FullFiles(DyingFiles):
    def __init__(self, files: Files) -> None:
        super().__init__(files, Fate(sys.maxsize))

    def copy(self, copies: Sequence[Copy]) -> None:
        self._files.copy(copies[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Store(Protocol):
    """A folder tree as any reader of it sees it."""

    def listing(self, folder: str) -> dict[str, object]:
        """Names, and something that changes when the file does; FileNotFoundError when there is no such folder."""

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, data: bytes) -> None: ...

    def remove(self, path: str) -> None: ...


@dataclass
class LocalStore:
    root: Path

    def listing(self, folder: str) -> dict[str, object]:
        with os.scandir(self.root / folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if not entry.name.startswith(".")]
        return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.with_name(f".{target.name}.crc").unlink(missing_ok=True)
        target.write_bytes(data)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()


class HdfsStore:
    """HDFS by a client of its own."""

    def __init__(self, spark: SparkSession, address: str, root: str) -> None:
        self._jvm: Any = spark.sparkContext._jvm
        conf = spark.sparkContext._jsc.hadoopConfiguration()  # type: ignore[union-attr]
        self._system = self._jvm.org.apache.hadoop.fs.FileSystem.newInstance(self._jvm.java.net.URI(address), conf)
        self._root = root

    def listing(self, folder: str) -> dict[str, object]:
        with missing_files():
            found = self._system.listStatus(self._path(folder))
        return {each.getPath().getName(): (each.getFileId(), each.getModificationTime()) for each in found}

    def read(self, path: str) -> bytes:
        with missing_files():
            stream = self._system.open(self._path(path))
            try:
                return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(stream))
            finally:
                stream.close()

    def write(self, path: str, data: bytes) -> None:
        stream = self._system.create(self._path(path), True)
        stream.write(bytearray(data))
        stream.close()

    def remove(self, path: str) -> None:
        self._system.delete(self._path(path), True)

    def _path(self, path: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(f"{self._root}/{path}")


@contextmanager
def missing_files() -> Iterator[None]:
    try:
        yield
    except Py4JJavaError as thrown:
        raise FileNotFoundError(str(thrown.java_exception)) from thrown


@dataclass
class Bucket:
    client: Any
    bucket: str
    root: str

    def listing(self, folder: str) -> dict[str, object]:
        prefix = f"{self.root}/{folder}/"
        blobs = list(self.client.list_blobs(self.bucket, prefix=prefix))
        found = {blob.name.removeprefix(prefix): blob.generation for blob in blobs}
        if not found:
            raise FileNotFoundError(folder)
        return {name: generation for name, generation in found.items() if name}

    def read(self, path: str) -> bytes:
        try:
            data: bytes = self._blob(path).download_as_bytes()
        except NotFound as missing:
            raise FileNotFoundError(path) from missing
        return data

    def write(self, path: str, data: bytes) -> None:
        self._blob(path).upload_from_string(data)

    def remove(self, path: str) -> None:
        self._blob(path).delete()

    def _blob(self, path: str) -> Any:
        return self.client.bucket(self.bucket).blob(f"{self.root}/{path}")


@dataclass
class FolderTarget:
    store: Store
    files: Files
    address: str
    is_quick: bool = True
    cannot: frozenset[str] = frozenset()
    replaces_at_once: bool = False

    def __post_init__(self) -> None:
        self.mirror: Mirror = FolderMirror("folder", self.address, self.files)

    def folder(self, topic: Topic, hour: Hour) -> str:
        return f"{topic.name}/{hour}"

    def rows(self, topic: Topic, hour: Hour) -> pa.Table | None:
        folder = self.folder(topic, hour)
        try:
            names = self.store.listing(folder)
        except FileNotFoundError:
            return None
        if "_SUCCESS" not in names:
            return None
        parts = [self.store.read(f"{folder}/{name}") for name in sorted(names) if name.startswith("part-")]
        tables = [pq.ParquetFile(io.BytesIO(data)).read() for data in parts]
        return pa.concat_tables(tables) if tables else sealed_schema(topic).empty_table()

    def identity(self, topic: Topic, hour: Hour) -> object:
        return self.store.listing(self.folder(topic, hour))

    def overwrite(self, topic: Topic, hour: Hour, rows: pa.Table) -> None:
        folder = self.folder(topic, hour)
        parts = [name for name in sorted(self.store.listing(folder)) if name.startswith("part-")]
        for number, name in enumerate(parts):
            self.store.write(f"{folder}/{name}", parquet(rows if number == 0 else rows.slice(0, 0)))

    def drop(self, topic: Topic, hour: Hour) -> None:
        self.store.remove(f"{self.folder(topic, hour)}/_SUCCESS")

    def lose(self, topic: Topic, hour: Hour) -> None:
        folder = self.folder(topic, hour)
        self.store.remove(f"{folder}/{min(name for name in self.store.listing(folder) if name.startswith('part-'))}")

    def storable(self, rows: pa.Table) -> pa.Table:
        return rows

    def crashing_at(self, step: int) -> Mirror:
        return FolderMirror("folder", self.address, DyingFiles(self.files, Fate(step)))

    def refusing(self) -> Mirror:
        return FolderMirror("folder", self.address, FullFiles(self.files))


def parquet(rows: pa.Table) -> bytes:
    target = io.BytesIO()
    pq.write_table(rows, target)
    return target.getvalue()


@dataclass
class DuckDBTarget:
    """Read by a connection for each look: who stays connected holds up the end of an erasure."""

    path: str
    replaces_at_once = True
    is_quick = True
    cannot: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.options = DuckDBMirror.Options(kind="duckdb", path=self.path)
        self.mirror: Mirror = DuckDBMirror("duckdb", self.options)

    def rows(self, topic: Topic, hour: Hour) -> pa.Table | None:
        with duckdb.connect(self.path) as base:
            base.execute("set timezone = 'UTC'")
            try:
                found = base.execute("from _hours where topic = ? and hour = ?", [topic.name, hour]).fetchall()
                query = f"select * exclude (hour) from {topic.name} where hour = '{hour}' order by rowid"
                rows = base.sql(query).to_arrow_table() if found else None
            except duckdb.CatalogException:
                return None
        return None if rows is None else rows.select(sealed_schema(topic).names).cast(sealed_schema(topic))

    def identity(self, topic: Topic, hour: Hour) -> object:
        with duckdb.connect(self.path) as base:
            return base.execute(f"select rowid from {topic.name} where hour = ?", [hour]).fetchall()

    def overwrite(self, topic: Topic, hour: Hour, rows: pa.Table) -> None:
        with duckdb.connect(self.path) as base:
            base.execute(f"delete from {topic.name} where hour = ?", [hour])
            base.execute(f"insert into {topic.name} by name select *, ? as hour from rows", [hour])

    def drop(self, topic: Topic, hour: Hour) -> None:
        with duckdb.connect(self.path) as base:
            base.execute("delete from _hours where topic = ? and hour = ?", [topic.name, hour])
            base.execute(f"delete from {topic.name} where hour = ?", [hour])

    def lose(self, topic: Topic, hour: Hour) -> None:
        with duckdb.connect(self.path) as base:
            base.execute(f"delete from {topic.name} where hour = ? and event_id = 'a'", [hour])

    def storable(self, rows: pa.Table) -> pa.Table:
        return rows

    def crashing_at(self, step: int) -> Mirror:
        return DyingDuckDB(self.options, Fate(step))

    def refusing(self) -> Mirror:
        return DyingDuckDB(self.options, Fate(6, duckdb.IOException("No space left on device")))


class DyingDuckDB(DuckDBMirror):
    """Statements are the changes, each by itself, as only the last of them counts."""

    def __init__(self, options: DuckDBMirror.Options, fate: Fate) -> None:
        super().__init__("duckdb", options)
        self._fate = fate

    @contextmanager
    def _table(self, topic: Topic, hour: Hour) -> Iterator[Any]:
        with super()._table(topic, hour) as db:
            yield Dying(db, self._fate, ("begin", "execute", "commit"))


class Dying:
    """Whatever it stands for, whose named methods are changes."""

    def __init__(self, real: Any, fate: Fate, changes: Sequence[str]) -> None:
        self._real, self._fate, self._changes = real, fate, changes

    def __getattr__(self, name: str) -> Any:
        if name in self._changes:
            self._fate.change()
        return getattr(self._real, name)


@dataclass
class BigQueryTarget:
    _LOADS = ("load_table_from_uri", "load_table_from_file")
    _CHANGES = ("create_dataset", "create_table", "update_table", *_LOADS)

    options: BigQueryOptions
    gcs: Path
    is_quick: bool = True
    cannot: frozenset[str] = frozenset()
    pause: timedelta = timedelta(0)
    replaces_at_once = True

    def __post_init__(self) -> None:
        self.client = client_of(self.options)
        self.mirror: Mirror = self._mirror(self.client)

    def _mirror(self, client: Any) -> BigQueryMirror:
        return BigQueryMirror("bigquery", self.options, client, self.staged, self.pause)

    @contextmanager
    def staged(self, hour: SealedHour) -> Iterator[list[str]]:
        """The server's `gs://` is a folder."""
        folder = f"lake/{hour.topic.name}/{hour.hour}-r{hour.revision}-{hour.silver_version}"
        (self.gcs / folder).mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(hour.files):
            data = (Path(hour.silver.uri) / file.path).read_bytes()
            (self.gcs / folder / f"{number}.parquet").write_bytes(data)
        yield [f"gs://{folder}/{number}.parquet" for number in range(len(hour.files))]

    def table(self, topic: Topic, hour: Hour) -> str:
        stamp = hour.replace("-", "").replace("T", "")
        dataset = f"{self.options.project}.{self.options.dataset}"
        return f"{dataset}.{topic.name}{'$' if self.options.layout == 'partition' else '_'}{stamp}"

    def rows(self, topic: Topic, hour: Hour) -> pa.Table | None:
        table, _, partition = self.table(topic, hour).partition("$")
        where = f" where _PARTITIONTIME = timestamp('{hour[:10]} {hour[11:]}:00:00+00:00')" if partition else ""
        manifests = f"select manifest from `{table}_manifests`{where}"
        names = ", ".join(f"`{name}`" for name in sealed_schema(topic).names)
        try:
            found = list(self.client.query_and_wait(f"select {names} from `{table}`{where}"))
            if partition and not found and not list(self.client.query_and_wait(manifests)):
                return None
        except NotFound:
            return None
        schema = sealed_schema(topic)
        lacks = "new members" in self.cannot
        return pa.Table.from_pylist([as_arrow(dict(row.items()), schema, lacks) for row in found], schema)

    def identity(self, topic: Topic, hour: Hour) -> object:
        jobs = [job.job_id for job in self.client.list_jobs() if job.job_type == "load"]
        return sorted(jobs)

    def overwrite(self, topic: Topic, hour: Hour, rows: pa.Table) -> None:
        config = load_config(schema_of(sealed_schema(topic)), {})
        data = io.BytesIO(parquet(rows))
        self.client.load_table_from_file(data, self.table(topic, hour), job_config=config).result()

    def drop(self, topic: Topic, hour: Hour) -> None:
        self.client.delete_table(self.table(topic, hour))
        if self.options.layout == "partition":
            name, _, partition = self.table(topic, hour).partition("$")
            self.client.delete_table(f"{name}_manifests${partition}")

    def lose(self, topic: Topic, hour: Hour) -> None:
        seen = self.rows(topic, hour)
        assert seen is not None
        self.overwrite(topic, hour, seen.slice(1))

    def storable(self, rows: pa.Table) -> pa.Table:
        """Arrays hold no nulls, and a null array is an empty one."""
        return pa.Table.from_pylist([without_nulls(row, rows.schema) for row in rows.to_pylist()], rows.schema)

    def crashing_at(self, step: int) -> Mirror:
        return self._mirror(Dying(self.client, Fate(step), self._CHANGES))

    def refusing(self) -> Mirror:
        full = Fate(0, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return self._mirror(Dying(self.client, full, self._LOADS))


def as_arrow(row: dict[str, Any], schema: pa.Schema, lacks_members: bool = False) -> dict[str, Any]:
    return {field.name: _as_arrow(row[field.name], field.type, lacks_members) for field in schema}


def _as_arrow(value: Any, kind: pa.DataType, lacks_members: bool) -> Any:
    if value is None:
        return None
    if pa.types.is_map(kind):
        return [(pair["key"], _as_arrow(pair["value"], kind.item_type, lacks_members)) for pair in value]
    if pa.types.is_list(kind):
        return [_as_arrow(each, kind.value_type, lacks_members) for each in value]
    if pa.types.is_struct(kind):
        values = defaultdict(lambda: None, value) if lacks_members else value
        return {member.name: _as_arrow(values[member.name], member.type, lacks_members) for member in kind}
    return value


def without_nulls(row: dict[str, Any], schema: Any) -> dict[str, Any]:
    return {field.name: _without_nulls(row[field.name], field.type) for field in schema}


def _without_nulls(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_map(kind):
        return value or []
    if pa.types.is_list(kind):
        return [each for each in value or [] if each is not None]
    if pa.types.is_struct(kind) and value is not None:
        return without_nulls(value, kind)
    return value


@dataclass
class HiveTarget(FolderTarget):
    """Read in HiveQL; what is done behind its back is done to the files of the partition."""

    options: HiveOptions | None = None
    replaces_at_once: bool = True

    def __post_init__(self) -> None:
        assert self.options is not None
        self.mirror: Mirror = HiveMirror("hive", self.options, self.files)

    def folder(self, topic: Topic, hour: Hour) -> str:
        location = self._location(topic, hour)
        if location is None:
            raise FileNotFoundError(hour)
        return "/".join(location.split("/")[-2:])

    def rows(self, topic: Topic, hour: Hour) -> pa.Table | None:
        assert self.options is not None
        if self._location(topic, hour) is None:
            return None
        schema = sealed_schema(topic)
        columns = ", ".join(_hive_text(field) for field in schema)
        with hive_module.session(self.options) as hive, folders_that_went_away():
            found = hive.rows(f"select {columns} from {self.options.database}.{topic.name} where hour = '{hour}'")
        rows = [{f.name: _from_hive(value, f.type) for f, value in zip(schema, row, strict=True)} for row in found]
        return pa.Table.from_pylist(rows, schema)

    def identity(self, topic: Topic, hour: Hour) -> object:
        return self._location(topic, hour), self.store.listing(self.folder(topic, hour))

    def drop(self, topic: Topic, hour: Hour) -> None:
        assert self.options is not None
        with hive_module.session(self.options) as hive:
            hive.run(f"alter table {self.options.database}.{topic.name} drop partition (hour = '{hour}')")

    def crashing_at(self, step: int) -> Mirror:
        assert self.options is not None
        return DyingHive(self.options, self.files, Fate(step))

    def refusing(self) -> Mirror:
        assert self.options is not None
        return HiveMirror("hive", self.options, FullFiles(self.files))

    def _location(self, topic: Topic, hour: Hour) -> str | None:
        assert self.options is not None
        with hive_module.session(self.options) as hive:
            return hive.location(f"{self.options.database}.{topic.name}", hour)


@contextmanager
def folders_that_went_away() -> Iterator[None]:
    """A query that began on a partition's older folder ends with an error, not with a part of the rows."""
    from pyhive.exc import OperationalError

    try:
        yield
    except OperationalError as refused:
        if not re.search("FileNotFoundException|does not exist", str(refused)):
            raise
        raise FileNotFoundError(str(refused)) from refused


class DyingHive(HiveMirror):
    """Files and statements are changes alike."""

    def __init__(self, options: HiveOptions, files: Files, fate: Fate) -> None:
        super().__init__("hive", options, DyingFiles(files, fate))
        self._fate = fate

    def _ask(self, work: Callable[[Any], Any]) -> Any:
        return super()._ask(lambda hive: work(Dying(hive, self._fate, ["run"])))


def _hive_text(field: pa.Field) -> str:
    name = f"`{field.name}`"
    if pa.types.is_string(field.type) or pa.types.is_binary(field.type):
        return f"hex({name})"
    return name if pa.types.is_nested(field.type) or pa.types.is_floating(field.type) else f"cast({name} as string)"


def _from_hive(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_binary(kind):
        return bytes.fromhex(value)
    if pa.types.is_string(kind):
        return bytes.fromhex(value).decode()
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    if pa.types.is_date(kind):
        return date.fromisoformat(value)
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if pa.types.is_boolean(kind):
        return value == "TRUE"
    if pa.types.is_map(kind):
        return list(json.loads(value).items())
    if pa.types.is_nested(kind):
        return json.loads(value)
    return int(value) if pa.types.is_integer(kind) else value


# ---- opening them


def local_folder(path: Path, request: pytest.FixtureRequest) -> Target:
    return FolderTarget(LocalStore(path), LocalFiles(), str(path))


def hadoop_folder(path: Path, request: pytest.FixtureRequest) -> Target:
    """Hadoop's own file system for `file:`, which is as far as one gets without a server."""
    spark = request.getfixturevalue("spark")
    files = HadoopFiles(lambda: spark, f"file://{path}")
    return FolderTarget(LocalStore(path), files, f"file://{path}")


def hdfs_folder(path: Path, request: pytest.FixtureRequest) -> Target:
    hdfs = request.getfixturevalue("servers").hdfs()
    spark = request.getfixturevalue("spark")
    store = HdfsStore(spark, hdfs.address, str(path))
    return FolderTarget(store, HadoopFiles(lambda: spark, hdfs.address), f"{hdfs.address}{path}", is_quick=False)


def gcs_folder(path: Path, request: pytest.FixtureRequest) -> Target:
    """Its renames are not one step."""
    address = request.getfixturevalue("servers").gcs().address
    client = google_client(emulator_options(address))
    if not client.bucket("mirror").exists():
        client.create_bucket("mirror")
    return _bucket_folder(path, address)


def objects_folder(path: Path, request: pytest.FixtureRequest) -> Target:
    """The same on a server of this repository, which needs no download."""
    return _bucket_folder(path, request.getfixturevalue("object_store").address)


def _bucket_folder(path: Path, address: str) -> Target:
    options, bucket, root = emulator_options(address), "mirror", str(path).strip("/")
    client, files = google_client(options), GoogleFiles(f"gs://{bucket}", options)
    return FolderTarget(Bucket(client, bucket, root), files, f"gs://{bucket}/{root}", is_quick=False)


def emulator_options(address: str) -> dict[str, str]:
    return {"google_base_url": address, "google_skip_signature": "true"}


def duckdb_file(path: Path, request: pytest.FixtureRequest) -> Target:
    path.mkdir()
    return DuckDBTarget(str(path / "mirror.duckdb"))


def bigquery_tables(path: Path, request: pytest.FixtureRequest) -> Target:
    server = request.getfixturevalue("servers").bigquery()
    dataset = f"{path.parent.name}_{next(_numbers)}".replace("-", "_")
    options = bigquery_options(server.address, dataset)
    # It takes bytes in Parquet files for base64, knows no way from a map to pairs, and adds no member to a struct.
    cannot = frozenset({"binary", "map", "new members"})
    return BigQueryTarget(options, server.folder / "gcs", is_quick=False, cannot=cannot)


def bigquery_partitions(path: Path, request: pytest.FixtureRequest) -> Target:
    """Against a fake: the server would take the decorator for a part of the table's name."""
    path.mkdir()
    address = serving(FakeBigQuery(path))
    options = bigquery_options(address.__enter__(), "lake", layout="partition")
    request.addfinalizer(lambda: address.__exit__(None, None, None))
    return BigQueryTarget(options, path)


def bigquery_options(address: str, dataset: str, **changes: Any) -> BigQueryOptions:
    given = {"kind": "bigquery", "project": PROJECT, "dataset": dataset, "endpoint": address, "patience": "5 seconds"}
    return BigQueryOptions.model_validate({**given, **changes})


def hive_table(path: Path, request: pytest.FixtureRequest) -> Target:
    servers: Servers = request.getfixturevalue("servers")
    at, hdfs = urlsplit(f"//{servers.hive().address}"), servers.hdfs()
    spark = request.getfixturevalue("spark")
    store, files = HdfsStore(spark, hdfs.address, str(path)), HadoopFiles(lambda: spark, hdfs.address)
    options = HiveOptions.model_validate(
        {
            "kind": "hive", "host": at.hostname, "port": at.port, "database": f"tests_{next(_numbers)}",
            "path": f"{hdfs.address}{path}",
        }
    )  # fmt: skip
    return HiveTarget(store, files, options.path, is_quick=False, options=options)


_numbers = count()

Opened = Callable[[Path, pytest.FixtureRequest], Target]

TARGETS: dict[str, Opened] = {
    "folder": local_folder,
    "hadoop": hadoop_folder,
    "hdfs": hdfs_folder,
    "gcs": gcs_folder,
    "objects": objects_folder,
    "duckdb": duckdb_file,
    "bigquery": bigquery_tables,
    "bigquery-partitions": bigquery_partitions,
    "hive": hive_table,
}

SERVED = ("hdfs", "gcs", "bigquery", "hive")
"""By servers that the tests start; the first use may fetch them."""

BY_SPARK = ("hadoop",)
"""By Hadoop's classes in Spark's JVM, with no server."""


def _marks(name: str) -> list[pytest.MarkDecorator]:
    if name in SERVED:
        return [pytest.mark.stores, pytest.mark.timeout(600)]
    return [pytest.mark.slow] if name in BY_SPARK else []


PARAMS = [pytest.param(name, marks=_marks(name)) for name in TARGETS]
