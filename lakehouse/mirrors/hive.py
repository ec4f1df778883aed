"""Hive: an external table per topic over mirrored folders, each hour a partition that is added when it is whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from lakehouse.checksum import sql_for
from lakehouse.concealed import hide
from lakehouse.config import Root
from lakehouse.durations import Wait
from lakehouse.errors import MirrorError
from lakehouse.hours import Hour, hours_among, start_of
from lakehouse.keys import Frozen, key
from lakehouse.lineage.datasets import DatasetName
from lakehouse.mirrors.addresses import StorageOptions, files_at
from lakehouse.mirrors.contract import Count, Mirror, SealedHour, refuse_older
from lakehouse.mirrors.files import Files
from lakehouse.mirrors.folder import FolderMirror, folder_objections
from lakehouse.mirrors.limits import Neighbour, Part, parts_of, too_long
from lakehouse.mirrors.retries import PATIENCE, with_retries
from lakehouse.store.contents import Contents
from lakehouse.store.delta import first_line
from lakehouse.topics import Topic
from lakehouse.value_checksum import ROWS, Leaf, value_sql

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone

_SESSION = {
    "hive.compute.query.using.stats": "false",  # a count is of the files, not of what the metastore remembers
    "hive.fetch.task.aggr": "true",
    "hive.parquet.date.proleptic.gregorian.default": "true",  # readers of dates before 1582-10-15 need it, too
    "hive.stats.autogather": "false",  # else adding a partition may start a job that counts it
}

_CONNECTED_WITHIN = timedelta(seconds=30)

_NO_TABLE, _NO_DATABASE, _NO_PARTITION = 10001, 10072, 10006
"""HiveServer2's error codes."""

_IS_SHIFTED = "case when replace(substr(cast(event_time as string), 1, 13), ' ', 'T') <> event_hour then 1 else 0 end"
"""Whether a row's instant is as Hive reads it in another hour than the row says in a text."""

Result = TypeVar("Result")

_TABLE_NAME_BYTES, _COLUMN_NAME_BYTES = 128, 767
"""What the metastore's own tables have room for (`TBL_NAME`, `COLUMN_NAME`), as far back as Hive 2."""
_ODD_IN_COLUMNS = re.compile(r"[ .,:;`{}()=\x00-\x1f\x7f]")
"""Hive refuses `.` and `:` in columns since 1.2; Parquet's reader there takes the others for parts of its schema."""
_ODD_IN_MEMBERS = re.compile(r"\W")
"""Hive reads the type of a struct from its text, where a name is letters, digits and _."""
_ODD_IN_LOCATIONS = re.compile(r'[\s"<>%\\^`{|}]')
"""Hive reads a location as a URI, and quotes nothing for itself."""
_VIRTUAL = {"INPUT__FILE__NAME", "BLOCK__OFFSET__INSIDE__FILE", "ROW__OFFSET__INSIDE__BLOCK", "RAW__DATA__SIZE",
            "GROUPING__ID", "ROW__ID", "ROW__IS__DELETED", "PARTITION__SPEC__ID", "PARTITION__HASH", "FILE__PATH",
            "ROW__POSITION", "SNAPSHOT__ID"}  # fmt: skip

_REVISION = re.compile(r"-r(\d+)$")

_LEAVES = {
    pa.string(): "string", pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint",
    pa.float32(): "float", pa.float64(): "double", pa.bool_(): "boolean", pa.date32(): "date", pa.binary(): "binary",
    pa.timestamp("us", "UTC"): "timestamp",
}  # fmt: skip


class HiveOptions(Frozen):
    """The keys of a mirror of kind `hive`."""

    kind: Literal["hive"]
    host: str = key(
        min_length=1,
        unit="host name",
        doc="HiveServer2's; on Dataproc the cluster's first master.",
    )
    port: int = key(
        10000,
        ge=1,
        le=65535,
        unit="port",
        doc="That of HiveServer2's binary transport.",
    )
    database: str = key(
        pattern=r"^[a-z][a-z0-9_]{0,127}$",
        unit="name, at most 128 characters",
        doc="Made when it is missing; a table for each topic, a partition for each hour.",
    )
    path: Root = key(
        min_length=1,
        unit="folder, hdfs:// or gs:// address",
        doc="The folders of the partitions, as both Spark and Hive reach them.",
    )
    auth: Literal["NONE", "LDAP", "KERBEROS"] = key(
        "NONE",
        unit="NONE, LDAP, KERBEROS",
        doc="As the server's `hive.server2.authentication` says.",
    )
    username: str = key(
        "lakehouse",
        unit="text",
        doc="Who creates and writes the tables.",
    )
    password_env: str = key(
        "",
        unit="name of an environment variable",
        doc="For LDAP: the variable that holds the password. The password itself is in no file.",
    )
    kerberos_service: str = key(
        "hive",
        unit="text",
        doc="The first part of the server's principal.",
    )
    timeout: Wait = key(
        timedelta(minutes=10),
        unit="duration",
        doc="Longest wait for one answer; longer where counting an hour takes longer.",
    )
    storage_options: StorageOptions = None
    hours_at_once: int = key(
        4,
        ge=1,
        unit="hours of a topic",
        doc="Each takes a session of HiveServer2. More, after an outage, where store and server have room for it.",
    )


class HiveMirror(Mirror):
    """An hour's folder is complete before its partition points there.

    Each revision has a folder of its own, `<path>/<topic>/<hour>-r<revision>`, and the partition moves from one to the
    next in a single step of the metastore. The folders of other revisions are then removed: a new revision is what an
    erasure left. A query that began on the one before fails, and finds the new one when it is run again.

    Hive 4.0.1 fails to read a member alone that a struct gained later (`track.bpm`) from hours before it; it reads the
    whole struct, with a null there.
    """

    Options = HiveOptions
    keeps_rows = True

    def __init__(self, name: str, options: HiveOptions, files: Files, patience: timedelta = PATIENCE) -> None:
        """`patience` is how long a server that is away is called again."""
        self._patience = patience
        self.name, self.hours_at_once = name, options.hours_at_once
        self.options, self._files = options, files
        self._folders = FolderMirror(name, options.path, files)
        self._defining = Lock()

    @classmethod
    def from_config(cls, name: str, options: HiveOptions, spark: SparkOrNone) -> HiveMirror:
        return cls(name, options, files_at(options.path, name, spark, options.storage_options))

    @classmethod
    def objections(cls, topic: Topic, options: HiveOptions, neighbours: Sequence[Neighbour]) -> list[str]:
        found = too_long("the topic's name", topic.name, _TABLE_NAME_BYTES)
        found += folder_objections(topic, options.path, neighbours)
        odd = _ODD_IN_LOCATIONS.search(options.path)
        if odd:
            found.append(f"the path {options.path}: {odd[0]!r}, with which Hive takes no location")
        for part in parts_of(topic):
            found += _objections_to(part)
        found += [
            f"the same table {options.database}.{topic.name} in the mirror {each.mirror}"
            for each in neighbours
            if each.topic.name == topic.name
            and (each.options.host.lower(), each.options.port, each.options.database)
            == (options.host.lower(), options.port, options.database)
        ]
        return found

    @classmethod
    def type_name(cls, kind: pa.DataType) -> str:
        return hive_type(kind)

    def where(self, topic: Topic, hour: Hour) -> str:
        return f"hive://{self.options.host}:{self.options.port}/{self._table(topic)}/hour={hour}"

    def dataset(self, topic: Topic) -> DatasetName:
        return DatasetName(f"hive://{self.options.host}:{self.options.port}", f"{self.options.database}.{topic.name}")

    def hours(self, topic: Topic) -> set[Hour]:
        with self._refusals(topic, "*"):
            return self._ask(lambda hive: hive.partitions(self._table(topic)))

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        topic, folder = hour.topic, self._folder(hour.topic, hour.hour, hour.revision)
        with self._refusals(topic, hour.hour):
            self._ask(lambda hive: self.refuse_zone(hive, hour))
            location = self._ask(lambda hive: hive.location(self._table(topic), hour.hour))
        refuse_older(self, hour, _revision_in(location))
        self._folders.publish_at(folder, hour, force=force)
        with self._refusals(topic, hour.hour):
            self._ask(lambda hive: self._point(hive, hour, location, folder))
            for older in range(1, hour.revision):
                self._files.remove(self._folder(topic, hour.hour, older))

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        def counted(hive: _Hive) -> Count | None:
            if hive.location(self._table(topic), hour) is None:
                return None
            where = f"from {self._table(topic)} where hour = '{hour}'"
            counts = f"count(*), {sql_for('hive')}, sum({_IS_SHIFTED})"
            ((rows, checksum, shifted),) = hive.rows(f"select {counts} {where}")
            if shifted:
                raise self._in_another_zone(topic, hour, f"{shifted} of {rows} rows at another instant than their own")
            return Count(int(rows), int(checksum))

        with self._refusals(topic, hour):
            return self._ask(counted)

    def differing(self, topic: Topic, hour: Hour, digests: Mapping[str, Contents]) -> list[str]:
        """In the folder that the partition points to."""
        with self._refusals(topic, hour):
            location = self._ask(lambda hive: hive.location(self._table(topic), hour))
        folder = self._folder(topic, hour, _revision_in(location))
        if location is not None and not _is_same(location, folder):
            return [f"the partition points to {location}, expected {folder}"]
        return self._folders.differing_in(folder, topic, hour, digests)

    def value_checksum(self, topic: Topic, hour: Hour, leaves: Sequence[Leaf]) -> int | None:
        """Beside the files' bytes, which `differing` compares: whether Hive reads them as they were written."""
        query = f"select {value_sql('hive', leaves)} from {self._table(topic)} as {ROWS} where hour = '{hour}'"
        with self._refusals(topic, hour):
            return int(self._ask(lambda hive: hive.rows(query))[0][0])

    def withdraw(self, hour: SealedHour) -> None:
        partition = f"partition (hour = '{hour.hour}')"

        def drop(hive: _Hive) -> None:
            if hive.location(self._table(hour.topic), hour.hour) is not None:
                hive.run(f"alter table {self._table(hour.topic)} drop if exists {partition}")

        with self._refusals(hour.topic, hour.hour):
            self._ask(drop)
            self._folders.withdraw_from(self._folders_of(hour.topic, hour.hour), hour)

    def remains(self, hour: SealedHour) -> list[str]:
        with self._refusals(hour.topic, hour.hour):
            location = self._ask(lambda hive: hive.location(self._table(hour.topic), hour.hour))
            folders = self._folders_of(hour.topic, hour.hour)
            staged = self._folders.remains_in_staging(hour)
        kept = {location, *folders} if location else set(folders)
        return [*sorted(each for each in kept if _revision_in(each) < hour.revision), *staged]

    def refuse_zone(self, hive: _Hive, hour: SealedHour) -> None:
        """MirrorError before anything is there, when the server is in another zone than UTC at that time.

        Workers may be in another one than the server: `read_back` compares instants as they read them.
        """
        start = start_of(hour.hour)
        ((shown,),) = hive.rows(f"select from_unixtime({int(start.timestamp())})")
        if shown != f"{start:%Y-%m-%d %H:%M:%S}":
            raise self._in_another_zone(hour.topic, hour.hour, f"a server that shows {start:%H:%M} UTC as {shown}")

    def _in_another_zone(self, topic: Topic, hour: Hour, found: str) -> MirrorError:
        return MirrorError(
            f"mirror {self.name}: {topic.name} {hour}",
            found=found,
            expected="Hive in UTC: its timestamp has no zone, and is shifted by the one of the JVM that reads it",
            next_step="Run HiveServer2 and its workers with -Duser.timezone=UTC; the hour stays due.",
        )

    def _point(self, hive: _Hive, hour: SealedHour, location: str | None, folder: str) -> None:
        table = self._table(hour.topic)
        with self._defining:  # of two hours at once only one may add a column
            self._define(hive, table, hour)
        partition = f"partition (hour = '{hour.hour}')"
        if location is None:
            hive.run(f"alter table {table} add if not exists {partition} location {literal(folder)}")
        elif not _is_same(location, folder):
            hive.run(f"alter table {table} {partition} set location {literal(folder)}")

    def _define(self, hive: _Hive, table: str, hour: SealedHour) -> None:
        """The table with silver's columns of today."""
        hive.run(f"create database if not exists `{self.options.database}`")
        columns = {column.name: hive_type(column.type) for column in hour.columns}
        declared = ", ".join(f"{_identifier(name)} {kind}" for name, kind in columns.items())
        hive.run(
            f"create external table if not exists {table} ({declared}) partitioned by (hour string)"
            f" stored as parquet location {literal(f'{self.options.path}/{hour.topic.name}')}"
        )
        _follow(hive, table, columns)

    def _folders_of(self, topic: Topic, hour: Hour) -> list[str]:
        """Of all revisions that are there."""
        above = f"{self.options.path}/{topic.name}"
        form = re.compile(rf"{hour}-r\d+")
        return [f"{above}/{name}" for name in sorted(self._files.listing(above) or {}) if form.fullmatch(name)]

    def _table(self, topic: Topic) -> str:
        return f"`{self.options.database}`.`{topic.name}`"

    def _folder(self, topic: Topic, hour: Hour, revision: int) -> str:
        return f"{self._folders.where(topic, hour)}-r{revision}"

    def _ask(self, work: Callable[[_Hive], Result]) -> Result:
        """What `work` returns for a connection of its own: one that broke cannot be used again."""
        from thrift.transport.TTransport import TTransportException

        def once() -> Result:
            with session(self.options) as hive:
                return work(hive)

        return with_retries(once, (TTransportException, OSError), self._patience)

    @contextmanager
    def _refusals(self, topic: Topic, hour: Hour) -> Iterator[None]:
        from pyhive.exc import Error
        from thrift.Thrift import TException

        try:
            yield
        except (Error, TException, OSError) as refused:
            raise MirrorError(
                f"mirror {self.name}: {topic.name} {hour}",
                found=_message(refused),
                expected=f"HiveServer2 at {self.options.host}:{self.options.port} to answer",
                next_step="Check the server and the rights there; the hour stays due.",
            ) from refused


class _Hive:
    """A connection: statements are run, queries give rows."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def partitions(self, table: str) -> set[Hour]:
        return hours_among(str(row[0]).removeprefix("hour=") for row in self._rows_if_there(f"show partitions {table}"))

    def location(self, table: str, hour: Hour) -> str | None:
        """Where the partition's files are; None when there is no such partition, table or database."""
        rows = self._rows_if_there(f"describe formatted {table} partition (hour = '{hour}')")
        return next((str(row[1]).strip() for row in rows if str(row[0]).strip() == "Location:"), None)

    def _rows_if_there(self, question: str) -> list[tuple[Any, ...]]:
        """No rows where the table, database or partition is missing."""
        from pyhive.exc import OperationalError

        try:
            return self.rows(question)
        except OperationalError as error:
            if _code(error) in (_NO_TABLE, _NO_DATABASE, _NO_PARTITION):
                return []
            raise


def _objections_to(part: Part) -> list[str]:
    if part.name is None:
        return []
    if part.depth == 0 and part.name.upper() in _VIRTUAL:
        return [f"{part.path}: the name of a column that Hive has in every table"]
    odd = (_ODD_IN_COLUMNS if part.depth == 0 else _ODD_IN_MEMBERS).search(part.name)
    if odd:
        return [f"{part.path}: {odd[0]!r} in a name, which Hive does not read"]
    return too_long(f"{part.path}: a name", part.name, _COLUMN_NAME_BYTES)


def hive_type(kind: pa.DataType) -> str:
    """The Hive type of a declared field."""
    if pa.types.is_struct(kind):
        return "struct<" + ", ".join(f"{_identifier(member.name)}: {hive_type(member.type)}" for member in kind) + ">"
    if pa.types.is_list(kind):
        return f"array<{hive_type(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{hive_type(kind.key_type)}, {hive_type(kind.item_type)}>"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    return _LEAVES[kind]


def _follow(hive: _Hive, table: str, columns: dict[str, str]) -> None:
    """Add the columns and members that the topic has gained, for the partitions that are there, too."""
    present: dict[str, str] = {}
    for name, kind, *_ in hive.rows(f"describe {table}"):
        if not name:  # what follows are the partition's columns
            break
        present[name] = kind
    for name, kind in columns.items():
        found = present.get(name.lower())
        if found is None:
            hive.run(f"alter table {table} add columns ({_identifier(name)} {kind}) cascade")
        elif _plain(found) != _plain(kind):
            hive.run(f"alter table {table} change column {_identifier(name)} {_identifier(name)} {kind} cascade")


@contextmanager
def session(options: HiveOptions) -> Iterator[_Hive]:
    """A session of its own; PyHive's would wait for ever where the server hangs."""
    from pyhive import hive
    from thrift.transport.TSocket import TSocket
    from thrift_sasl import TSaslClientTransport

    socket = TSocket(options.host, options.port)
    socket.setTimeout(min(_CONNECTED_WITHIN, options.timeout) / timedelta(milliseconds=1))
    mechanism = "GSSAPI" if options.auth == "KERBEROS" else "PLAIN"
    password = os.environ.get(options.password_env, "") or "x"  # PLAIN has no empty passwords
    hide(password)

    def client() -> Any:
        service = options.kerberos_service if mechanism == "GSSAPI" else None
        return hive.get_installed_sasl(options.host, mechanism, service, options.username, password)

    transport = TSaslClientTransport(client, mechanism, socket)
    try:
        connection = hive.Connection(thrift_transport=transport, username=options.username, configuration=_SESSION)
        socket.setTimeout(options.timeout / timedelta(milliseconds=1))
        try:
            yield _Hive(connection)
        finally:
            with suppress(Exception):
                connection.close()
    finally:
        socket.close()


def _revision_in(location: str | None) -> int:
    found = _REVISION.search(location or "")
    return int(found[1]) if found else 0


def _is_same(location: str, folder: str) -> bool:
    """Hive adds its default file system to an address."""
    return urlsplit(location).path == urlsplit(folder).path


def _plain(kind: str) -> str:
    return re.sub(r"[\s`]", "", kind).lower()


def _identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """The text in HiveQL, which knows no doubled quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _code(error: Exception) -> int | None:
    response = error.args[0] if error.args else None
    return getattr(getattr(response, "status", None), "errorCode", None)


def _message(error: BaseException) -> str:
    """The server's own words; PyHive gives the whole response in Python's notation."""
    status = getattr(error.args[0] if error.args else None, "status", None)
    return str(getattr(status, "errorMessage", None) or first_line(error)).strip()[:500]
