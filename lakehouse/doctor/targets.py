"""Mirrors: each target is asked for what publishing needs, and left as it was."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.config import Config
from lakehouse.doctor.findings import Check, NotTried
from lakehouse.doctor.stores import objects
from lakehouse.mirrors.catalogue import Checks
from lakehouse.store.files import storage_for
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_HIVE = "Check host, port and auth of the mirror, and that the network lets this machine reach HiveServer2."
_FOLDER = "Give access to the folder, or correct the mirror's path."
_SLOW = timedelta(minutes=2)


def checks(config: Config, topics: Sequence[Topic], session: Callable[[], SparkSession] | None) -> Iterator[Check]:
    """One or two of each mirror that these topics have."""
    known = Checks(config)
    for name in sorted({mirror for topic in topics for mirror in topic.mirrors}):
        topic = next(each for each in topics if name in each.mirrors)
        kind = str(config.settings.mirrors.get(name, {}).get("kind"))
        yield Check(f"mirror {name}: configuration", partial(_configuration, known, name, topic),
                    "Correct it as docs/targets.md says.")  # fmt: skip
        options = partial(_options, config, name)
        if kind == "bigquery":
            yield Check(f"mirror {name}: jobs", lambda options=options: _jobs(options()),  # type: ignore[misc]
                        "Grant roles/bigquery.jobUser on the project.", _SLOW)  # fmt: skip
            yield Check(f"mirror {name}: tables", lambda options=options: _tables(options()),  # type: ignore[misc]
                        "Grant roles/bigquery.dataEditor on the dataset.")  # fmt: skip
        if kind == "hive":
            yield Check(f"mirror {name}: server", lambda options=options: _server(options()), _HIVE, _SLOW)  # type: ignore[misc]
        if kind in ("folder", "hive", "duckdb"):
            yield Check(f"mirror {name}: folder", lambda options=options: _folder(options(), config, session),  # type: ignore[misc]
                        _FOLDER, _SLOW)  # fmt: skip


def _configuration(known: Checks, name: str, topic: Topic) -> str:
    return "; ".join(known.check(name, topic)) or "takes the topics that have it"


def _options(config: Config, name: str) -> Any:
    from lakehouse.mirrors.catalogue import class_of, read_options

    values = config.settings.mirrors[name]
    return read_options(class_of(str(values["kind"])), name, values, config.path)


def _jobs(options: Any) -> str:
    """bigquery.jobs.create, by a query that costs nothing."""
    from lakehouse.mirrors.bigquery.dataset import Dataset, client_of

    rows = Dataset("doctor", options, client_of(options)).query("select 1 as one")
    return f"a query ran in {options.project}, {options.location}" if rows == [(1,)] else f"a query gave {rows}"


def _tables(options: Any) -> str:
    """bigquery.tables.create and .delete, by a table that is deleted at once, and expires where that fails."""
    from google.api_core.exceptions import NotFound
    from google.cloud import bigquery

    from lakehouse.mirrors.bigquery.dataset import Dataset, client_of

    client = client_of(options)
    dataset = Dataset("doctor", options, client)
    try:
        client.get_dataset(f"{options.project}.{options.dataset}", timeout=20)
    except NotFound:
        raise NotTried(f"no dataset {options.dataset} yet: it is made with the first hour") from None
    name = f"_lakehouse_doctor_{uuid.uuid4().hex[:8]}"
    table = bigquery.Table(dataset.address(name), schema=[bigquery.SchemaField("one", "INTEGER")])
    table.expires = datetime.now(UTC) + timedelta(hours=1)
    client.create_table(table, timeout=20)
    dataset.delete(name)
    return f"created and deleted one in {options.dataset}"


def _server(options: Any) -> str:
    from lakehouse.mirrors.hive import session

    with session(options) as hive:
        found = [row[0] for row in hive.rows("show databases")]
    made = "" if options.database in found else f"; {options.database} is made with the first hour"
    return f"{options.host}:{options.port} has {len(found)} databases{made}"


def _folder(options: Any, config: Config, session: Callable[[], SparkSession] | None) -> str:
    path, given = str(options.path), getattr(options, "storage_options", None)
    if path.startswith("hdfs://"):
        return _by_spark(path, session)
    if not path.startswith("gs://"):
        path = path.removeprefix("file://")
        folder = Path(path).parent if options.kind == "duckdb" else Path(path)
        return objects(storage_for(str(folder), {}))
    return objects(storage_for(path, given or config.settings.storage_options))


def _by_spark(path: str, session: Callable[[], SparkSession] | None) -> str:
    if session is None:
        raise NotTried("Spark reaches it: --spark, or --on dataproc")
    from lakehouse.mirrors.addresses import files_at

    names = files_at(path, "doctor", session, None).listing(path)
    return f"{path} is there" if names is not None else f"{path} is made with the first hour"
