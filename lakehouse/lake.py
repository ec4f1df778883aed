"""A lake opened for reading: its topics and hours as tables, for notebooks and for whoever asks in Python.

    lake = open_lake()
    lake.topic("flight_landed").silver("2013-01-02T14").arrow()

Nothing here writes, and nothing starts a JVM but `.spark()`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from lakehouse.config import Config, load
from lakehouse.errors import LakeError, extras_named
from lakehouse.hours import Hour, parse_hour
from lakehouse.operations.explain import Explanation, explain_hour
from lakehouse.operations.hour_status import hour_statuses
from lakehouse.operations.snapshot import TopicSnapshot, read_topic
from lakehouse.schemas import bronze_schema, silver_schema
from lakehouse.store.delta import as_it_was, files
from lakehouse.store.history import History
from lakehouse.store.place import Place
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import mlflow_runs, volume_models
from lakehouse.validate.volume import Model

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation
    from pandas import DataFrame as PandasFrame
    from pyspark.sql import DataFrame, SparkSession

    from lakehouse.operations.audit import Audit
    from lakehouse.operations.trace import Trace
    from lakehouse.operations.verify import Verification

_SHOWN_HOURS = 72


def open_lake(conf: str | Path | None = None) -> Lake:
    """The lake of a configuration: `conf`, else $LAKEHOUSE_CONF, else `conf/local.yaml` here or in a folder above."""
    if conf or os.environ.get("LAKEHOUSE_CONF"):
        return Lake(load(conf))
    found = _conf_above()
    return Lake(load(found, folder=found.parent.parent) if found else load())


def _conf_above() -> Path | None:
    """A notebook runs in a folder of its own: relative roots count from the one that holds `conf/`."""
    places = (folder / "conf" / "local.yaml" for folder in (Path.cwd(), *Path.cwd().parents))
    return next((place for place in places if place.exists()), None)


@dataclass(frozen=True)
class Rows:
    """Some rows of a table, read when they are asked for; a struct is a struct, and times are UTC.

    Exactly the files that the table's version names are read, not what a folder happens to hold.
    """

    name: str
    uri: str
    version: int
    _open: Callable[[], DeltaTable] = field(repr=False)
    _schema: pa.Schema = field(repr=False)
    _hours: tuple[Hour, ...] | None
    _session: Callable[[], SparkSession] = field(repr=False)

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """As Arrow, all in memory; only `columns` when some are given."""
        dataset = self._open().to_pyarrow_dataset()
        present = [name for name in self._schema.names if name in dataset.schema.names]
        kept = pc.field("hour").isin(list(self._hours)) if self._hours is not None else None
        wanted = [name for name in present if columns is None or name in columns]
        return dataset.to_table(columns=wanted, filter=kept)

    def pandas(self, columns: Sequence[str] | None = None) -> PandasFrame:
        """As a pandas DataFrame, all in memory; times are in UTC."""
        frame: PandasFrame = self.arrow(columns).to_pandas()
        return frame

    def duckdb(self, query: str | None = None) -> DuckDBPyRelation:
        """A DuckDB relation, or what `query` says of it, in which it is called `rows`."""
        import duckdb

        connection = duckdb.connect()
        connection.execute("set timezone = 'UTC'").fetchall()
        relation: DuckDBPyRelation = connection.from_arrow(self.arrow())
        return relation.query("rows", query) or relation if query else relation

    def spark(self) -> DataFrame:
        """A Spark DataFrame of the same version; starts the session of the configuration if there is none."""
        session = self._session()
        rows = session.read.format("delta").option("versionAsOf", self.version).load(self.uri)
        if self._hours is None:
            return rows
        from pyspark.sql import functions as F

        return rows.where(F.col("hour").isin(list(self._hours)))

    def __len__(self) -> int:
        """Rows by the table's log; no file is read."""
        kept = [file for file in files(self._open()) if self._hours is None or file.hour in self._hours]
        return sum(file.rows for file in kept)


@dataclass(frozen=True)
class Lake:
    """All topics of a configuration."""

    config: Config

    def topics(self) -> list[str]:
        """Names of the topics that are configured, also of those that never started."""
        return sorted(self.config.topics)

    def topic(self, name: str) -> TopicLake:
        """One topic; ConfigError when there is none of that name."""
        return TopicLake(self.config.topic(name), self.config, self.spark)

    def spark(self) -> SparkSession:
        """The session of the configuration, started if there is none; MissingExtraError without Spark."""
        with extras_named():
            from lakehouse.spark.session import spark_session

        return spark_session(self.config.settings, "lakehouse notebook")

    def grid(self, last: int = _SHOWN_HOURS) -> PandasFrame:
        """What each hour (rows) of each topic (columns) is."""
        import pandas as pd

        states = {name: {row["hour"]: row["state"] for row in self.topic(name).hours(last)} for name in self.topics()}
        return pd.DataFrame(states).sort_index()

    def findings(self) -> PandasFrame:
        """Every expectation of every verdict: topic, hour, revision, expectation, column, severity, success, …"""
        import pandas as pd

        return pd.DataFrame([row for name in self.topics() for row in self.topic(name).findings()])

    def runs(self) -> PandasFrame:
        """The verdicts' MLflow runs, newest first; none when no server is configured or it has none yet."""
        import pandas as pd

        return pd.DataFrame(mlflow_runs.runs(self.config.settings))


@dataclass(frozen=True)
class TopicLake:
    """One topic's tables, ledger and results."""

    topic: Topic
    _config: Config = field(repr=False)
    _session: Callable[[], SparkSession] = field(repr=False)

    @property
    def name(self) -> str:
        return self.topic.name

    def bronze(self, hour: Hour | None = None, *, as_of: datetime | str | int | None = None) -> Rows:
        """Every delivery, of one bucket or of all and rejects, now or `as_of` a time or version."""
        return self._rows("bronze", self._tables.raw.below("bronze"), bronze_schema(self.topic), hour, as_of)

    def silver(self, hour: Hour | None = None, *, as_of: datetime | str | int | None = None) -> Rows:
        """One row per event, of one sealed hour or of all, now or `as_of` a time or version."""
        return self._rows("silver", self._tables.sealed.below("silver"), silver_schema(self.topic), hour, as_of)

    def ledger(self) -> PandasFrame:
        """What happened to the topic's hours, in that order; `details` is a dictionary."""
        import pandas as pd

        return pd.DataFrame([vars(entry) for entry in self.history.entries])

    @cached_property
    def history(self) -> History:
        return self._snapshot().history

    def hours(self, last: int = _SHOWN_HOURS) -> list[dict[str, Any]]:
        """The newest hours, oldest first, as `lakehouse hours` shows them."""
        return [vars(row) for row in hour_statuses(self._snapshot(), last, self._config.now())]

    def explain(self, hour: Hour) -> Explanation:
        """Why the hour is in its state, as `lakehouse explain` shows it."""
        return explain_hour(self._snapshot(), parse_hour(hour), self._config.now())

    def result(self, hour: Hour) -> Mapping[str, Any] | None:
        """The newest revision's result of validation; None before it is judged, LakeError when it cannot be read."""
        reports, path = self._tables.reports, f"{hour}/r{self.history.revision(hour)}.json"
        text = reports.files().read(path)
        try:
            result: Mapping[str, Any] | None = json.loads(text) if text is not None else None
        except ValueError as torn:
            raise LakeError(
                f"{reports.uri}/{path}",
                found=str(torn),
                expected="the result of a validation as JSON",
                next_step="The verdict is in the ledger; restore the file from a copy if its rows are needed.",
            ) from torn
        return result

    def findings(self) -> list[dict[str, Any]]:
        """A row for each expectation of each verdict on the hours as they are sealed now."""
        results = [(hour, result) for hour in self.history.hours() if (result := self.result(hour))]
        kept = ("expectation", "column", "severity", "success", "unexpected", "observed")
        return [
            {"topic": self.name, "hour": hour, "rows": result["rows"], **{key: finding[key] for key in kept}}
            for hour, result in results
            for finding in result["expectations"]
        ]

    def trace(self, event_id: str, as_of: datetime | None = None) -> Trace:
        """Every delivery of an event, and the sealed hours that hold it, as `lakehouse trace` shows it."""
        from lakehouse.operations.trace import trace_event

        return trace_event(self.topic, self._config, event_id, as_of)

    def audit(self, hour: Hour, as_of: datetime | None = None) -> Audit:
        """The hour computed again from bronze and held to silver, as `lakehouse audit` shows it."""
        from lakehouse.operations.audit import audit_hour

        return audit_hour(self.topic, self._config, parse_hour(hour), as_of)

    def verify(self, *hours: Hour, is_quick: bool = False) -> Verification:
        """Whether any sealed hour ever changed, as `lakehouse verify` shows it; all hours when none is given.

        With `is_quick` no file is opened: only sizes are compared, and checksums where the store keeps some.
        """
        from lakehouse.operations.verify import verify_hours

        return verify_hours(self.topic, self._config, hours, self._config.now(), is_quick=is_quick)

    def usual(self) -> Model | None:
        """The model of what an hour usually holds; None before there is one."""
        return volume_models.current(TopicTables(self.topic, self._config.settings))

    @property
    def _tables(self) -> TopicTables:
        return TopicTables(self.topic, self._config.settings)

    def _snapshot(self) -> TopicSnapshot:
        return read_topic(self.topic, self._config)

    def _rows(
        self, name: str, place: Place, schema: pa.Schema, hour: Hour | None, as_of: datetime | str | int | None
    ) -> Rows:
        version = int(as_it_was(place.table(), as_of, self._config.settings.machine_time).version())
        kept = (parse_hour(hour),) if hour is not None else None

        def table_of_version() -> DeltaTable:
            return place.table(version)

        return Rows(f"{self.name} {name}", place.uri, version, table_of_version, schema, kept, self._session)
