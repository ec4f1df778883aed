"""BigQuery's documented REST protocol as far as mirrors speak it, with partitions by hour of ingestion.

Datasets, tables, load jobs from `gs://` and by multipart or resumable upload, query jobs, partition decorators, labels,
quotas and errors, over DuckDB. The emulator that is started as a server takes `table$2026112305` for a name without a
word; this one knows what a decorator is. Every request is kept in `requests`.
"""

from __future__ import annotations

import base64
import email
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from served import served
from sqlglot import exp

PARTITION = "_PARTITIONTIME"
_TABLE = re.compile(r"(?P<table>[^$]+)(\$(?P<partition>.*))?")


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def document(self) -> dict[str, Any]:
        errors = [{"reason": self.reason, "message": self.message, "domain": "global"}]
        return {"error": {"code": self.status, "message": self.message, "errors": errors}}


def not_found(kind: str, name: str) -> Refused:
    return Refused(404, "notFound", f"Not found: {kind} {name}")


class FakeBigQuery:
    """`failures` are given out first: a load job that meets one ends with that reason and message.

    One class for the whole protocol: each call reads or changes the same tables, jobs and results, under one lock.
    """

    def __init__(self, gcs: Path, loads_per_table: int = 1500) -> None:
        self.gcs, self.loads_per_table = gcs, loads_per_table
        self.requests: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self.refusals: list[Refused] = []
        self.hanging = threading.Event()
        self._base = duckdb.connect(":memory:")
        self._base.execute("set timezone = 'UTC'")
        self._datasets: dict[str, dict[str, Any]] = {}
        self.tables: dict[tuple[str, str], dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._uploads: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()

    # --- the protocol

    def answer(self, method: str, url: str, body: bytes, headers: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        address = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        with self._lock:
            self.requests.append(f"{method} {address.path}")
            if self.refusals:
                raise self.refusals.pop(0)
            if address.path.startswith("/upload/"):
                return self._upload(method, query, body, headers)
            parts = address.path.removeprefix("/bigquery/v2/projects/").split("/")
            document = json.loads(body) if body else {}
            return 200, self._route(method, parts[1:], query, document), {}

    def _route(self, method: str, parts: list[str], query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        match method, parts:
            case "POST", ["datasets"]:
                return self._insert(self._datasets, body["datasetReference"]["datasetId"], body, "Dataset")
            case "GET", ["datasets", dataset]:
                return self._dataset(dataset)
            case "GET", ["datasets", dataset, "tables"]:
                return self._listed(dataset)
            case "POST", ["datasets", dataset, "tables"]:
                return self._create_table(dataset, body)
            case "GET", ["datasets", dataset, "tables", table]:
                return self._described(dataset, table)
            case "PATCH", ["datasets", dataset, "tables", table]:
                return self._patch(dataset, table, body)
            case "DELETE", ["datasets", dataset, "tables", table]:
                self._drop(dataset, table)
                return {}
            case "POST", ["jobs"]:
                return self._submit(body, None)
            case "GET", ["jobs"]:
                return {"jobs": list(self.jobs.values())}
            case "GET", ["jobs", job]:
                return self._job(job)
            case "POST", ["queries"]:
                return self._query(body)
            case "GET", ["queries", job]:
                return self._results[job]
        raise not_found("URL", "/".join(parts))

    def _upload(
        self, method: str, query: dict[str, str], body: bytes, headers: Any
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        if query["uploadType"] == "multipart":
            message = email.message_from_bytes(
                b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
            )
            metadata, media = (part.get_payload(decode=True) for part in message.get_payload())  # type: ignore[union-attr]
            return 200, self._submit(json.loads(metadata), media), {}  # type: ignore[arg-type]
        if method == "POST":
            upload_id = f"upload-{len(self._uploads)}"
            self._uploads[upload_id] = {"job": json.loads(body), "data": b""}
            where = f"/upload/bigquery/v2/projects/p/jobs?uploadType=resumable&upload_id={upload_id}"
            return 200, {}, {"location": f"http://{headers['host']}{where}"}
        upload = self._uploads[query["upload_id"]]
        upload["data"] += body
        _, _, total = headers["content-range"].partition("/")
        if total == "*" or len(upload["data"]) < int(total):
            return 308, {}, {"range": f"bytes=0-{len(upload['data']) - 1}"}
        return 200, self._submit(upload["job"], upload["data"]), {}

    # --- datasets and tables

    def _dataset(self, name: str) -> dict[str, Any]:
        if name not in self._datasets:
            raise not_found("Dataset", f"p:{name}")
        return self._datasets[name]

    def _insert(self, where: dict[Any, Any], key: Any, value: dict[str, Any], kind: str) -> dict[str, Any]:
        if key in where:
            raise Refused(409, "duplicate", f"Already Exists: {kind} {key}")
        where[key] = value
        return value

    def _create_table(self, dataset: str, body: dict[str, Any]) -> dict[str, Any]:
        self._dataset(dataset)
        name = body["tableReference"]["tableId"]
        if "$" in name:
            raise Refused(400, "invalid", f"Invalid table ID {name!r}: a decorator names no table")
        self._insert(self.tables, (dataset, name), body, "Table")
        if "view" not in body:
            fields = body.get("schema", {}).get("fields", [])
            columns = [f"{_quoted(each['name'])} {_duckdb_type(each)}" for each in fields]
            hidden = f"{_quoted(PARTITION)} timestamptz"
            self._base.execute(f"create schema if not exists {_quoted(dataset)}")
            self._base.execute(f"create table {_at(dataset, name)} ({', '.join([*columns, hidden])})")
        return body

    def _listed(self, dataset: str) -> dict[str, Any]:
        self._dataset(dataset)
        names = [name for home, name in self.tables if home == dataset]
        found = [{"tableReference": self.tables[dataset, name]["tableReference"]} for name in names]
        return {"kind": "bigquery#tableList", "tables": found, "totalItems": len(found)}

    def _table(self, dataset: str, name: str) -> dict[str, Any]:
        self._dataset(dataset)
        if (dataset, name) not in self.tables:
            raise not_found("Table", f"p:{dataset}.{name}")
        return self.tables[dataset, name]

    def _described(self, dataset: str, name: str) -> dict[str, Any]:
        table = self._table(dataset, name)
        if "view" in table:
            return {**table, "type": "VIEW"}
        rows = self._base.execute(f"select count(*) from {_at(dataset, name)}").fetchall()[0][0]
        return {**table, "numRows": str(rows), "type": "TABLE"}

    def _patch(self, dataset: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        table = self._table(dataset, name)
        if "schema" in body:
            self._take_schema(dataset, name, body["schema"]["fields"])
        table.update({key: value for key, value in body.items() if key != "schema"})
        return table

    def _take_schema(self, dataset: str, name: str, wanted: list[dict[str, Any]]) -> None:
        """As BigQuery: fields may be added and nothing else."""
        table = self._table(dataset, name)
        present = table.get("schema", {}).get("fields", [])
        label = f"p:{dataset}.{name}"
        _check_gains(present, wanted, f"Provided Schema does not match Table {label}. ")
        known = {each["name"]: each for each in present}
        for each in wanted:
            column, kind = _quoted(each["name"]), _duckdb_type(each)
            if each["name"] not in known:
                self._base.execute(f"alter table {_at(dataset, name)} add column {column} {kind}")
            elif known[each["name"]] != each:
                self._base.execute(f"alter table {_at(dataset, name)} alter column {column} type {kind}")
        table["schema"] = {"fields": wanted}

    def _drop(self, dataset: str, name: str) -> None:
        found = _TABLE.fullmatch(name)
        assert found is not None
        self._table(dataset, found["table"])
        if found["partition"]:
            instant = _partition_time(found["partition"])
            at = _at(dataset, found["table"])
            self._base.execute(f"delete from {at} where {_quoted(PARTITION)} = ?", [instant])
            return
        del self.tables[dataset, name]
        self._base.execute(f"drop table {_at(dataset, name)}")

    # --- jobs

    def _job(self, job_id: str) -> dict[str, Any]:
        if job_id not in self.jobs:
            raise not_found("Job", f"p:{job_id}")
        return self.jobs[job_id]

    def _submit(self, job: dict[str, Any], data: bytes | None) -> dict[str, Any]:
        """The job's id is taken even when the job fails, and counts for the table's day."""
        job_id = job["jobReference"]["jobId"]
        now = str(int(time.time() * 1000))
        job = {**job, "id": f"p:US.{job_id}", "statistics": {"creationTime": now, "startTime": now, "endTime": now}}
        job["jobReference"] = {"projectId": "p", "location": "US", **job["jobReference"]}
        job["configuration"]["jobType"] = "LOAD"
        self._insert(self.jobs, job_id, job, f"Job p:{job_id}"[4:])
        job["status"] = {"state": "DONE"}
        try:
            self._load(job["configuration"]["load"], data)
        except Refused as refused:
            error = {"reason": refused.reason, "message": refused.message}
            job["status"] |= {"errorResult": error, "errors": [error]}
        return job

    def _load(self, load: dict[str, Any], data: bytes | None) -> None:
        reference = load["destinationTable"]
        dataset, found = reference["datasetId"], _TABLE.fullmatch(reference["tableId"])
        assert found is not None
        if self.failures:
            raise Refused(0, *self.failures.pop(0))
        self._within_quota(dataset, found["table"])
        self._dataset(dataset)
        wanted = load["schema"]["fields"]
        is_new = (dataset, found["table"]) not in self.tables
        if is_new:
            name = {"projectId": "p", "datasetId": dataset, "tableId": found["table"]}
            how = {"timePartitioning": {"type": "DAY"}} if found["partition"] else {}
            self._create_table(dataset, {"tableReference": name, "schema": {"fields": wanted}, **how})
        table = self._table(dataset, found["table"])
        instant = self._instant(table, found["partition"])
        rows = self._read(load, data, wanted)
        _check_gains(table["schema"]["fields"], wanted, "Provided Schema does not match Table. ")
        at = _at(dataset, found["table"])
        self._base.begin()
        try:
            where = f"where {_quoted(PARTITION)} = '{instant.isoformat()}'" if instant else ""
            self._base.execute(f"delete from {at} {where}")
            self._base.register("loaded", rows)
            columns = ", ".join(_projection(each, rows.column_names) for each in wanted)
            stamp = f"'{instant.isoformat()}'::timestamptz" if instant else "null::timestamptz"
            self._base.execute(
                f"insert into {at} by name select {columns}, {stamp} as {_quoted(PARTITION)} from loaded"
            )
            self._base.commit()
        except duckdb.Error as error:
            self._base.rollback()
            raise Refused(400, "invalid", f"Error while reading data, error message: {error}") from None

    def _instant(self, table: dict[str, Any], partition: str | None) -> datetime | None:
        kind = table.get("timePartitioning", {}).get("type")
        if not partition:
            return None
        if kind is None:
            raise Refused(400, "invalid", f"Cannot write to partition ${partition} of a table that has none")
        if kind != "HOUR" or not re.fullmatch(r"\d{10}", partition):
            raise Refused(400, "invalid", f"Invalid time partitioning decorator ${partition} for partitions by {kind}")
        return _partition_time(partition)

    def _within_quota(self, dataset: str, name: str) -> None:
        def into(job: dict[str, Any]) -> str:
            table = job["configuration"].get("load", {}).get("destinationTable", {})
            return f"{table.get('datasetId')}.{table.get('tableId')}".partition("$")[0]

        if sum(into(job) == f"{dataset}.{name}" for job in self.jobs.values()) > self.loads_per_table:
            raise Refused(
                403, "quotaExceeded", "Quota exceeded: Your table exceeded quota for imports or query appends"
            )

    def _read(self, load: dict[str, Any], data: bytes | None, wanted: list[dict[str, Any]]) -> pa.Table:
        if load["sourceFormat"] == "NEWLINE_DELIMITED_JSON":
            return pa.Table.from_pylist([json.loads(line) for line in (data or b"").splitlines()])
        uris = load.get("sourceUris", [])
        named = [(source, uri) for uri in uris for source in self.objects(uri)]
        tables = []
        for source, uri in named if data is None else [(io.BytesIO(data), "upload")]:
            if isinstance(source, Path) and not source.exists():
                raise not_found("URI", uri)
            try:
                tables.append(pq.ParquetFile(source).read())
            except (pa.ArrowException, OSError) as error:
                raise Refused(400, "invalid", f"Error while reading data, error message: {error} File: {uri}") from None
            for name in tables[-1].column_names:
                if _has_null_elements(tables[-1][name].combine_chunks()):
                    text = f"Array specified for repeated field: {name} has null elements"
                    raise Refused(400, "invalid", f"Error while reading data, error message: {text}. File: {uri}")
        return pa.concat_tables(tables)

    def objects(self, uri: str) -> list[Path]:
        """A star in the name of an object, though not in the bucket's, is a pattern: it finds what is alike."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        before, star, behind = name.partition("*")
        if not star:
            return [self.gcs / bucket / name]
        found = sorted(path for path in (self.gcs / bucket).rglob("*") if path.is_file())
        names = [(str(path.relative_to(self.gcs / bucket)), path) for path in found]
        return [path for each, path in names if each.startswith(before) and each.endswith(behind)]

    # --- queries

    def _query(self, body: dict[str, Any]) -> dict[str, Any]:
        text = body["query"].replace("as numeric)", "as numeric(29, 0))")  # DuckDB's own default has fewer digits
        tree = sqlglot.parse_one(text, read="bigquery")
        for table in list(tree.find_all(exp.Table)):
            _, dataset, name = [part.name for part in table.parts]
            if name == "INFORMATION_SCHEMA.PARTITIONS":
                table.replace(exp.Subquery(this=self._partitions(dataset), alias=exp.TableAlias(this="p")))
                continue
            known = self._table(dataset, name)
            if "view" in known:
                inner = sqlglot.parse_one(known["view"]["query"], read="bigquery")
                for each in inner.find_all(exp.Table):
                    each.set("catalog", None)
                table.replace(exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier("v"))))
            else:
                table.set("catalog", None)
        for star in list(tree.find_all(exp.Star)):
            if isinstance(star.parent, exp.Select) and tree.sql().find(PARTITION) >= 0:
                star.set("except_", [exp.column(PARTITION, quoted=True)])
        try:
            found = self._base.sql(tree.sql("duckdb")).to_arrow_table()
        except duckdb.Error as error:
            raise Refused(400, "invalidQuery", str(error)) from None
        job_id = body.get("requestId", f"query-{len(self._results)}")
        rows = [{"f": [{"v": _encoded(value)} for value in row.values()]} for row in found.to_pylist()]
        schema = {"fields": [_field_of(each.name, each.type) for each in found.schema]}
        answer = {
            "jobComplete": True, "jobReference": {"projectId": "p", "jobId": job_id, "location": "US"},
            "schema": schema, "rows": rows, "totalRows": str(len(rows)), "statementType": "SELECT",
        }  # fmt: skip
        self._results[job_id] = answer
        return answer

    def _partitions(self, dataset: str) -> exp.Expression:
        """As much of the view as names them: rows without a partition stand under `__NULL__`."""
        self._dataset(dataset)
        stamp = f"coalesce(strftime({_quoted(PARTITION)}, '%Y%m%d%H'), '__NULL__')"
        parts = [
            f"select '{name}' as table_name, {stamp} as partition_id, count(*) as total_rows"
            f" from {_at(dataset, name)} group by all"
            for home, name in self.tables if home == dataset and "view" not in self.tables[home, name]
        ] or ["select null as table_name, null as partition_id, 0 as total_rows where false"]  # fmt: skip
        return sqlglot.parse_one(" union all ".join(parts), read="duckdb")


@contextmanager
def serving(fake: FakeBigQuery) -> Iterator[str]:
    """The fake at an address of its own."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if fake.hanging.is_set():
                time.sleep(1.5)
                return
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            try:
                status, document, headers = fake.answer(self.command, self.path, body, self.headers)
            except Refused as refused:
                status, document, headers = refused.status, refused.document(), {}
            except Exception as broken:  # the fake's own fault, which must not look like a server that is away
                reported = Refused(400, "invalid", f"{type(broken).__name__}: {broken}")
                status, document, headers = 400, reported.document(), {}
            data = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {
                **headers,
                "content-type": "application/json",
                "content-length": str(len(data)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _handle

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: `requests` has it."""

    with served(Handler) as address:
        yield address


# --- types

_DUCKDB = {
    "STRING": "varchar", "BYTES": "blob", "INTEGER": "bigint", "FLOAT": "double", "BOOLEAN": "boolean", "DATE": "date",
    "TIMESTAMP": "timestamptz",
}  # fmt: skip


def _duckdb_type(field: dict[str, Any]) -> str:
    kind = field["type"]
    if kind == "RECORD":
        members = ", ".join(f"{_quoted(each['name'])} {_duckdb_type(each)}" for each in field["fields"])
        name = f"struct({members})"
    elif kind in ("NUMERIC", "BIGNUMERIC"):
        name = f"decimal({field.get('precision', 38)}, {field.get('scale', 9)})"
    else:
        name = _DUCKDB[kind]
    return f"{name}[]" if field.get("mode") == "REPEATED" else name


def _projection(field: dict[str, Any], present: list[str]) -> str:
    """Null arrays are empty ones, maps are pairs, and what the file lacks is null."""
    column = _quoted(field["name"]) if field["name"] in present else "null"
    is_pairs = field["type"] == "RECORD" and [each["name"] for each in field["fields"]] == ["key", "value"]
    repeated = field.get("mode") == "REPEATED"
    source = f"map_entries({column})" if repeated and is_pairs else column
    cast = f"cast({source} as {_duckdb_type(field)})"
    return f"{f'coalesce({cast}, [])' if repeated else cast} as {_quoted(field['name'])}"


def _check_gains(present: list[dict[str, Any]], wanted: list[dict[str, Any]], prefix: str) -> None:
    there = {each["name"].lower(): each for each in wanted}
    for field in present:
        new = there.get(field["name"].lower())
        if new is None:
            raise Refused(400, "invalid", f"{prefix}Field {field['name']} is missing in new schema")
        if (new["type"], new.get("mode")) != (field["type"], field.get("mode")):
            text = f"Field {field['name']} has changed type from {field['type']} to {new['type']}"
            raise Refused(400, "invalid", prefix + text)
        _check_gains(field.get("fields", []), new.get("fields", []), prefix)


def _has_null_elements(column: pa.Array) -> bool:
    kind = column.type
    if pa.types.is_struct(kind):
        return any(_has_null_elements(column.field(index)) for index in range(kind.num_fields))
    if pa.types.is_list(kind):
        values = column.flatten()
        return values.null_count > 0 or _has_null_elements(values)
    return False


def _field_of(name: str, kind: pa.DataType, mode: str = "NULLABLE") -> dict[str, Any]:
    if pa.types.is_list(kind):
        return _field_of(name, kind.value_type, "REPEATED")
    if pa.types.is_struct(kind):
        fields = [_field_of(each.name, each.type) for each in kind]
        return {"name": name, "type": "RECORD", "mode": mode, "fields": fields}
    tests = {
        "TIMESTAMP": pa.types.is_timestamp, "DATE": pa.types.is_date, "BYTES": pa.types.is_binary,
        "INTEGER": pa.types.is_integer, "FLOAT": pa.types.is_floating, "BOOLEAN": pa.types.is_boolean,
        "BIGNUMERIC": pa.types.is_decimal,
    }  # fmt: skip
    return {"name": name, "type": next((each for each, test in tests.items() if test(kind)), "STRING"), "mode": mode}


def _encoded(value: Any) -> Any:
    """A value as the API writes it: text, or nested `f` and `v`."""
    if isinstance(value, list):
        return [{"v": _encoded(each)} for each in value]
    if isinstance(value, dict):
        return {"f": [{"v": _encoded(each)} for each in value.values()]}
    if isinstance(value, datetime):
        return str((value - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution))
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, repr(value))
    return None if value is None else value.isoformat() if isinstance(value, date) else str(value)


def _partition_time(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y%m%d%H").replace(tzinfo=UTC)
    except ValueError:
        raise Refused(400, "invalid", f"Invalid partition decorator ${text}") from None


def _at(dataset: str, table: str) -> str:
    return f"{_quoted(dataset)}.{_quoted(table)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
