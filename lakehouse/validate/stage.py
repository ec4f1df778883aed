"""The stage that judges sealed hours: what their suites expect, put to exactly the files that were sealed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse import failpoints
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError, SuiteError
from lakehouse.hours import Hour
from lakehouse.pages.hour import page
from lakehouse.schemas import sealed_schema, silver_schema
from lakehouse.store.delta import DataFile, files_of_hour, open_table
from lakehouse.store.files import storage_for
from lakehouse.store.ledger import Entry, History, Ledger
from lakehouse.store.tables import Folders, folders_of, ledger_table
from lakehouse.topics import Topic
from lakehouse.validate import gx, latency, mlflow_runs, volume_models
from lakehouse.validate.gx import Finding
from lakehouse.validate.metrics import of_files
from lakehouse.validate.suites import EVERY_TOPIC, Expectation, Suite, is_there, parameters_of, suite_from

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

    Spark = SparkSession | Callable[[], SparkSession] | None

log = logging.getLogger(__name__)


class ReleaseError(LakehouseError):
    """An hour that is not held back by a verdict cannot be released, nor one without a reason."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one revision of an hour. `state` is `valid` or `invalid`; `report` is where its page is.

    `is_recorded` is False when the ledger had a verdict on this revision already.
    """

    topic: str
    hour: Hour
    revision: int
    state: str
    findings: tuple[Finding, ...]
    rows: int
    seconds: float
    report: str
    is_recorded: bool

    @property
    def failed(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.gates]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.warns]


def validate_due(topic: Topic, config: Config, spark: Spark, *, run: str) -> list[Verdict]:
    """A verdict on every sealed hour that has none, oldest first; then what is usual is learnt anew once a day.

    `spark`, or what gives one, is asked for only when an hour has more than `validation.small_rows` rows. Runs for
    MLflow are logged after all hours are judged and beside the caller: see `experiments`.
    """
    ledger = _ledger(topic, config, f"validate/{config.settings.release}/{run}")
    due = ledger.history().due_to_validate()
    if not due:
        return []
    suite = suite_of(topic, config)
    try:
        verdicts = [validate_hour(topic, config, spark, hour, run=run, ledger=ledger, suite=suite) for hour in due]
        if any(each.type == volume_models.EXPECTATION for each in suite.expectations):
            history = ledger.history()
            if volume_models.is_stale(topic.name, config.settings, history):
                volume_models.learn(topic.name, config.settings, history)
        return verdicts
    finally:
        mlflow_runs.log_soon(topic.name, config.settings)


def validate_hour(
    topic: Topic,
    config: Config,
    spark: Spark,
    hour: Hour,
    *,
    run: str,
    ledger: Ledger | None = None,
    suite: Suite | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Verdict:
    """The verdict on the hour's newest seal: result and page are written first, the ledger's row last.

    So a run that dies in between is simply done again. A revision that has a verdict keeps it, and its page: then this
    only looks. LakeError when the hour is not sealed or its files cannot be read, SuiteError when an expectation gives
    no answer: then nothing is recorded.
    """
    started = time.monotonic()
    ledger = ledger or _ledger(topic, config, f"validate/{config.settings.release}/{run}")
    suite = suite or suite_of(topic, config)
    history = ledger.history()
    seal = history.last("sealed", hour)
    if seal is None:
        raise LakeError(
            f"{topic.name} {hour}",
            found=f"the hour {history.state_of(hour)}",
            expected="a sealed one",
            next_step="Run seal first.",
        )
    judged = _judged(topic, config, spark, hour, seal.details, suite)
    findings, rows = judged.findings, judged.rows
    state = "invalid" if any(finding.gates for finding in findings) else "valid"
    revision = history.revision(hour)
    folders = folders_of(config.settings, topic.name)
    verdict = Verdict(
        topic.name,
        hour,
        revision,
        state,
        tuple(findings),
        rows,
        time.monotonic() - started,
        f"{folders.reports}/{_name(hour, revision)}.html",
        is_recorded=False,
    )
    if _has_verdict(history, hour):
        return verdict
    result = {
        "topic": topic.name,
        "hour": hour,
        "state": state,
        "at": clock().isoformat(),
        "release": config.settings.release,
        "run": run,
        "engine": judged.engine,
        "seconds": round(verdict.seconds, 3),
        "suite_hash": suite.hash,
        "silver_version": seal.details.get("silver_version"),
        "revision": revision,
        "rows": rows,
        "lateness": judged.lateness,
        "seal": dict(seal.details),
        "closed": _closed(history.last("closed", hour)),
        "expectations": [finding.as_json() for finding in findings],
    }
    _write(folders, config, result)
    failpoints.reached("hour judged, no verdict recorded")
    entry = ledger.record(
        state,
        hour,
        _details(result, verdict),
        unless=lambda newest: newest.revision(hour) != revision or _has_verdict(newest, hour),
    )
    failpoints.reached("verdict recorded")
    log.info(
        "%s %s %s: %d rows, %d of %d expectations failed, %d warnings, %s, %.2f s",
        topic.name, hour, state, rows, len(verdict.failed), len(findings), len(verdict.warnings), judged.engine,
        time.monotonic() - started,
    )  # fmt: skip
    return replace(verdict, is_recorded=entry is not None)


def check_suites(topic: Topic, config: Config) -> None:
    """SuiteError for what would stop the stage at the topic's first hour: before there is one."""
    gx.check(suite_of(topic, config), silver_schema(topic))


def suite_of(topic: Topic, config: Config) -> Suite:
    """`_every_topic.json` and the topic's own; SuiteError when one is missing or cannot be used."""
    files = [config.expectations / f"{name}.json" for name in (EVERY_TOPIC, topic.name)]
    texts = {}
    for file in files:
        try:
            texts[str(file)] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError(
                str(file),
                found="no such file" if isinstance(error, FileNotFoundError) else str(error),
                expected=f"the expectations for the hours of {topic.name}",
                next_step='Create it; {"name": "' + file.stem + '", "expectations": []} expects nothing more.',
            ) from error
    return suite_from(topic, texts)


def failing(topic: Topic, config: Config, hour: Hour, wanted: str, limit: int = gx.EXAMPLES) -> Finding:
    """What breaks one of the hour's expectations, looked up in silver again: the count, and up to `limit` rows.

    `wanted` is its type, with or without `expect_`, and `<type>.<column>` where a type comes more than once. The
    expectation is the one that the hour was judged by. LakeError when there is none, or only Spark could tell.
    """
    seal, result = _last_result(topic, config, hour)
    expectation = _named(wanted, result, f"{topic.name} {hour}")
    sealed = _sealed(topic, config, hour, seal, None)
    columns = sorted({"event_id", *expectation.columns})
    if isinstance(expectation.kwargs.get("row_condition"), Mapping) or expectation.is_about_the_hour:
        columns = list(silver_schema(topic).names)
    try:
        (finding,), _ = gx.findings_in_scan(
            [expectation],
            sealed.schema(columns),
            sealed.scan,
            lambda rest: sealed.by_gx(rest, columns),
            examples=limit,
        )
    except (duckdb.Error, ValueError) as unreadable:
        raise _unreadable(topic, hour, unreadable) from unreadable
    return finding


def _last_result(topic: Topic, config: Config, hour: Hour) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """(manifest of the newest seal, result of its validation); LakeError when the hour has no verdict."""
    history = _ledger(topic, config, "").history()
    seal, revision = history.last("sealed", hour), history.revision(hour)
    folders = folders_of(config.settings, topic.name)
    text = storage_for(folders.reports, config.settings.storage_options).read(f"{_name(hour, revision)}.json")
    if seal is None or text is None:
        raise LakeError(
            f"{topic.name} {hour}",
            found=f"the hour {history.state_of(hour)}, without a verdict",
            expected="a validated hour",
            next_step="Run validate first.",
        )
    return seal.details, json.loads(text)


def _named(wanted: str, result: Mapping[str, Any], subject: str) -> Expectation:
    """The expectation of a result that `wanted` names; of several alike the one that failed."""
    names: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["expectations"]:
        for name in (row["expectation"], f"{row['expectation']}.{row['column']}"):
            names.setdefault(name, []).append(row)
    found = names.get(wanted) or names.get(f"expect_{wanted}") or []
    failed = [row for row in found if not row["success"]]
    if len(found) > 1 and len(failed) == 1:
        found = failed
    if len(found) != 1:
        alike = {f"{row['expectation']}.{row['column']}" if row["column"] else row["expectation"]: row["success"]
                 for row in found or result["expectations"]}  # fmt: skip
        raise LakeError(
            f"{subject}: {wanted!r}",
            found=f"{len(found)} expectations of that name",
            expected="one of " + ", ".join(sorted(alike, key=lambda name: (alike[name], name))),
            next_step="Give one of these; what failed stands first.",
        )
    (row,) = found
    return Expectation(row["expectation"], row["kwargs"], row["severity"], row["notes"], subject)


def release(topic: Topic, config: Config, hour: Hour, reason: str, by: str) -> Entry:
    """Let an invalid hour go on as it is, on a person's word; ReleaseError when it is not invalid."""
    if not reason.strip():
        raise ReleaseError(
            f"{topic.name} {hour}", found="no reason", expected="one, for who reads the ledger later",
            next_step="Give it with --reason.",
        )  # fmt: skip
    ledger = _ledger(topic, config, f"release/{config.settings.release}/{by}")
    entry = ledger.record(
        "released",
        hour,
        {"reason": reason.strip(), "by": by, "revision": ledger.history().revision(hour)},
        unless=lambda history: not _is_invalid(history, hour),
    )
    if entry is None:
        raise ReleaseError(
            f"{topic.name} {hour}",
            found=f"the hour {ledger.history().state_of(hour)}",
            expected="an invalid one",
            next_step="See `lakehouse explain` for where it stands.",
        )
    return entry


# --- the hour's rows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """What was found of an hour: `engine` names what looked at it, `rows` are those that are there."""

    engine: str
    findings: list[Finding]
    rows: int
    lateness: Mapping[str, Any] | None


def _judged(topic: Topic, config: Config, spark: Spark, hour: Hour, seal: Mapping[str, Any], suite: Suite) -> _Judged:
    """The files of the sealed version, put to the suite. Of an hour without rows all that is said of rows holds."""
    expectations = suite.of_hour(_parameters(topic, config, hour, seal))
    sealed = _sealed(topic, config, hour, seal, spark)
    asked = expectations if sealed.rows else [each for each in expectations if each.is_about_the_hour]
    columns = suite.columns_read(silver_schema(topic))
    try:
        findings, also = gx.findings_in_scan(
            asked, sealed.schema(columns), sealed.scan, lambda rest: sealed.by_gx(rest, columns), latency.MEASURES
        )
    except duckdb.Error as unreadable:
        raise _unreadable(topic, hour, unreadable) from unreadable
    answered = iter(findings)
    all_findings = [
        next(answered) if sealed.rows or each.is_about_the_hour else Finding(each, True, 0) for each in expectations
    ]
    return _Judged(" + ".join(sealed.engines), all_findings, also["rows"], latency.summary(also))


@dataclass
class _Sealed:
    """A sealed hour's files at the version that its seal made."""

    topic: Topic
    hour: Hour
    uri: str
    silver: DeltaTable
    files: Sequence[DataFile]
    rows: int
    small_rows: int
    spark: Spark
    engines: list[str] = field(default_factory=lambda: ["duckdb"])

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Of a scan: `route.origin` is a column of that name."""
        return gx.with_members(silver_schema(self.topic).empty_table(), columns).schema

    def scan(self, columns: Sequence[str]) -> pa.RecordBatchReader | str:
        present = pa.schema(self.silver.schema().to_arrow())
        is_readable_by_path = "://" not in self.uri and bool(self.files)
        if is_readable_by_path and all(is_there(name, present) for name in columns):
            return of_files([f"{self.uri}/{file.path}" for file in self.files], columns, {"hour": self.hour})
        return self.batches(columns)

    def batches(self, columns: Sequence[str]) -> pa.RecordBatchReader:
        """Of the columns that the table's version did not have yet, every value is missing."""
        schema = self.schema(columns)
        present = pa.schema(self.silver.schema().to_arrow())
        known = {name: pc.field(*name.split(".")) for name in columns if is_there(name, present)}
        if not self.files:
            return pa.RecordBatchReader.from_batches(schema, [])
        dataset = self.silver.to_pyarrow_dataset(file_pruning_predicate=f"hour = '{self.hour}'")
        reader = dataset.scanner(columns=known, filter=pc.field("hour") == self.hour).to_reader()
        return pa.RecordBatchReader.from_batches(schema, (_as_declared(batch, schema) for batch in reader))

    def by_gx(self, expectations: Sequence[Expectation], columns: Sequence[str]) -> list[Finding]:
        """By Great Expectations' own engines: pandas for small hours, Spark for the others."""
        if self.rows <= self.small_rows or not self.files:
            self.engines.append("pandas")
            return gx.findings_in_arrow(expectations, self.batches(columns).read_all())
        session = _session(self.spark, self.topic, self.hour, self.rows)
        self.engines.append("spark")
        rows = _spark_rows(session, self.uri, self.files, self.topic, self.hour, columns)
        return gx.findings_in_spark(expectations, rows)


def _sealed(topic: Topic, config: Config, hour: Hour, seal: Mapping[str, Any], spark: Spark) -> _Sealed:
    settings = config.settings
    uri = folders_of(settings, topic.name).silver
    silver = open_table(uri, settings.storage_options, seal.get("silver_version"))
    files = files_of_hour(silver, hour)
    rows = sum(file.rows for file in files)
    return _Sealed(topic, hour, uri, silver, files, rows, settings.validation.small_rows, spark)


def _parameters(topic: Topic, config: Config, hour: Hour, seal: Mapping[str, Any]) -> dict[str, Any]:
    return parameters_of(hour, int(seal["rows"]), volume_models.address_of(topic.name, config.settings))


def _as_declared(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    names = batch.schema.names
    columns = [
        batch.column(column.name).cast(column.type) if column.name in names else pa.nulls(len(batch), column.type)
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _spark_rows(
    spark: SparkSession, uri: str, files: Sequence[DataFile], topic: Topic, hour: Hour, columns: Sequence[str]
) -> DataFrame:
    """The sealed files themselves, not the folder: it can hold what a failed write left."""
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    tops = list(dict.fromkeys(column.split(".")[0] for column in columns))
    schema = from_arrow_schema(sealed_schema(topic))
    paths = [f"{uri}/{file.path}" for file in files]
    rows = spark.read.schema(schema).option("recursiveFileLookup", "true").parquet(*paths)
    return rows.withColumn("hour", F.lit(hour)).select(*tops)


def _session(spark: Spark, topic: Topic, hour: Hour, rows: int) -> SparkSession:
    if spark is None:
        raise ValueError(f"{topic.name} {hour} has {rows} rows: too many to judge without a Spark session")
    return spark() if callable(spark) else spark


def _unreadable(topic: Topic, hour: Hour, error: Exception) -> LakeError:
    return LakeError(
        f"{topic.name} {hour}: silver",
        found=" ".join(str(error).split())[:300],
        expected="the files that the seal's version names",
        next_step="Run `lakehouse verify` to see if a sealed hour was changed.",
    )


# --- what is kept --------------------------------------------------------------------------------------------------


def _name(hour: Hour, revision: int) -> str:
    return f"{hour}/r{revision}"


def _write(folders: Folders, config: Config, result: Mapping[str, Any]) -> None:
    """The result as JSON and as a page; before both, the note that MLflow lacks it."""
    storage = storage_for(folders.reports, config.settings.storage_options)
    name = _name(result["hour"], result["revision"])
    mlflow_runs.note(storage, config.settings, name)
    text = json.dumps(result, indent=1, default=str)
    storage.write(f"{name}.json", text.encode())
    storage.write(f"{name}.html", page(json.loads(text)).encode())


def _details(result: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    return {
        "failed": [_brief(finding) for finding in verdict.failed],
        "warnings": [_brief(finding) for finding in verdict.warnings],
        "silver_version": result["silver_version"],
        "revision": verdict.revision,
        "rows": verdict.rows,
        "evaluated": len(verdict.findings),
        "seconds": result["seconds"],
        "suite_hash": result["suite_hash"],
        "report": verdict.report,
    }


def _brief(finding: Finding) -> dict[str, Any]:
    kept = ("expectation", "column", "severity", "unexpected", "observed")
    return {key: value for key, value in finding.as_json().items() if key in kept}


def _closed(entry: Entry | None) -> dict[str, Any]:
    return {**entry.details, "at": entry.at.isoformat(), "by": entry.by} if entry else {}


def _ledger(topic: Topic, config: Config, by: str) -> Ledger:
    folders = folders_of(config.settings, topic.name)
    return Ledger(ledger_table(folders, topic, config.settings.storage_options), by)


def _has_verdict(history: History, hour: Hour) -> bool:
    return any(entry.state in ("valid", "invalid") for entry in history.current(hour))


def _is_invalid(history: History, hour: Hour) -> bool:
    verdicts = [entry.state for entry in history.current(hour) if entry.state in ("valid", "invalid", "released")]
    return bool(verdicts) and verdicts[-1] == "invalid"
