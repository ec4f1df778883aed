"""The stage that judges sealed hours: what their suites expect, checked on exactly the files that were sealed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

from lakehouse import failpoints
from lakehouse.clock import Clock
from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.lineage.datasets import dataset_at
from lakehouse.lineage.events import Check
from lakehouse.lineage.runs import lineage_run
from lakehouse.schemas import silver_schema
from lakehouse.store.history import History
from lakehouse.store.ledger import Ledger
from lakehouse.store.records import Sealed, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import gx, latency, mlflow_background, volume_models
from lakehouse.validate.findings import Finding
from lakehouse.validate.hour_rows import as_lake_errors, sealed_hour
from lakehouse.validate.results import Verdict, close_of, has_verdict, record_of, result_name, write_result
from lakehouse.validate.suite_files import suite_of
from lakehouse.validate.suites import Suite, parameters_of

ENGINE = "duckdb"

log = logging.getLogger(__name__)


def validate_due(
    topic: Topic,
    config: Config,
    *,
    run: str,
    is_stopping: Callable[[], bool] = lambda: False,
    log_runs: Callable[[TopicTables], object] = mlflow_background.log_soon,
) -> list[Verdict]:
    """A verdict on every sealed hour that has none, oldest first; once a day the volume model is fitted again.

    No hour is begun once `is_stopping`.

    An hour that cannot be judged does not stop the others: its error is raised after them. MLflow's runs are logged
    by `log_runs` after all hours are judged, in a thread of their own.
    """
    stage = Validation(topic, config, run)
    due = stage.ledger.digest().due_to_validate()
    if not due:
        return []
    try:
        verdicts, errors = stage.validate_each(takewhile(lambda _: not is_stopping(), due))
        has_model = any(each.type == volume_models.EXPECTATION for each in stage.suite.expectations)
        if has_model and volume_models.is_stale(stage.tables, stage.ledger.digest()):
            volume_models.learn(stage.tables, stage.ledger.history())
        if errors:
            raise errors[0]
        return verdicts
    finally:
        log_runs(stage.tables)


def validate_hour(topic: Topic, config: Config, hour: Hour, *, run: str) -> Verdict:
    """The verdict on the hour's newest seal: see `Validation.validate`."""
    return Validation(topic, config, run).validate(hour)


@dataclass(frozen=True)
class _Judgement:
    """What was found in an hour; `rows` are those that are there."""

    findings: tuple[Finding, ...]
    rows: int
    lateness: Mapping[str, Any] | None


@dataclass(frozen=True)
class Validation:
    """Judges the sealed hours of one topic by one reading of its suites."""

    topic: Topic
    config: Config
    run: str
    clock: Clock | None = None

    @cached_property
    def tables(self) -> TopicTables:
        return TopicTables(self.topic, self.config.settings)

    @cached_property
    def ledger(self) -> Ledger:
        return self.tables.ledger(f"validate/{self.config.settings.release}/{self.run}", self.clock)

    @cached_property
    def suite(self) -> Suite:
        return suite_of(self.topic, self.config)

    def validate_each(self, due: Iterable[Hour]) -> tuple[list[Verdict], list[LakeError]]:
        """(verdicts, what was raised for the other hours)"""
        verdicts, errors = [], []
        for hour in due:
            try:
                verdicts.append(self.validate(hour))
            except LakeError as error:
                log.warning("validate: topic=%s hour=%s error=%s", self.topic.name, hour, error)
                errors.append(error)
        return verdicts, errors

    def validate(self, hour: Hour) -> Verdict:
        """The verdict on the hour's newest seal: result and page are written first, the ledger's row last.

        So a run that dies in between is simply repeated. A revision that has a verdict keeps it, and its page: then
        nothing is written. LakeError when the hour is not sealed or its files cannot be read: then nothing is recorded.
        """
        silver, reports = dataset_at(self.tables.sealed.below("silver").uri), dataset_at(self.tables.reports.uri)
        with lineage_run(self.config.settings, f"{self.topic.name}.validate", hour, silver, reports) as run:
            verdict, result = self._validate(hour)
            run.found(
                reads={"version": result["silver_version"], "rows": verdict.rows, "checks": _checks(verdict)},
                writes={},
                revision=verdict.revision,
                state=verdict.state,
            )
        return verdict

    def _validate(self, hour: Hour) -> tuple[Verdict, dict[str, Any]]:
        history = self.ledger.history_with(hour)
        verdict, result = self.judge(hour, history)
        if has_verdict(history, hour):
            return verdict, result
        write_result(self.tables.reports, self.config.settings, result)
        failpoints.reach("validate.report_durable")
        return self._record(verdict, result), result

    def judge(self, hour: Hour, history: History) -> tuple[Verdict, dict[str, Any]]:
        """(verdict, what is kept of it as JSON); writes nothing."""
        started = time.monotonic()
        entry, seal = history.last(State.SEALED, hour), history.seal_of(hour)
        if entry is None or seal is None:
            raise LakeError(
                f"{self.topic.name} {hour}",
                found=f"the hour {history.state_of(hour)}",
                expected="a sealed hour",
                next_step="Run seal first.",
            )
        judgement = self._judgement(hour, seal)
        verdict = Verdict(
            self.topic.name,
            hour,
            seal.revision,
            State.INVALID if any(finding.gates for finding in judgement.findings) else State.VALID,
            judgement.findings,
            judgement.rows,
            time.monotonic() - started,
            f"{self.tables.reports.uri}/{result_name(hour, seal.revision)}.html",
        )
        return verdict, {
            "topic": self.topic.name,
            "hour": hour,
            "state": verdict.state,
            "at": (self.clock or self.config.settings.clock)().isoformat(),
            "release": self.config.settings.release,
            "run": self.run,
            "engine": ENGINE,
            "seconds": round(verdict.seconds, 3),
            "suite_hash": self.suite.hash,
            "silver_version": seal.silver_version,
            "revision": verdict.revision,
            "rows": verdict.rows,
            "lateness": judgement.lateness,
            "seal": dict(entry.details),
            "closed": close_of(history.last(State.CLOSED, hour)),
            "expectations": [finding.as_json() for finding in verdict.findings],
        }

    def _judgement(self, hour: Hour, seal: Sealed) -> _Judgement:
        """The sealed version, judged by the suite. In an hour without rows all that is about rows holds."""
        expectations = self.suite.of_hour(parameters_of(hour, seal.rows, volume_models.address_of(self.tables)))
        sealed = sealed_hour(self.topic, self.config, hour, seal)
        asked = {place: each for place, each in enumerate(expectations) if sealed.rows or each.is_about_the_hour}
        columns = self.suite.columns_read(silver_schema(self.topic))
        with as_lake_errors(self.topic, hour):
            findings, also = gx.findings_in_scan(
                list(asked.values()),
                sealed.schema(columns),
                sealed.scan,
                latency.MEASURES,
                table_columns=silver_schema(self.topic).names,
            )
        answered = dict(zip(asked, findings, strict=True))
        complete = tuple(answered.get(place) or Finding(each, True, 0) for place, each in enumerate(expectations))
        return _Judgement(complete, also["rows"], latency.summary(also))

    def _record(self, verdict: Verdict, result: Mapping[str, Any]) -> Verdict:
        hour, revision = verdict.hour, verdict.revision
        entry = self.ledger.record(
            record_of(verdict, result),
            hour,
            unless=lambda newest: newest.revision(hour) != revision or has_verdict(newest, hour),
        )
        failpoints.reach("validate.recorded")
        log.info(
            "validate: topic=%s hour=%s state=%s rows=%d failed=%d warnings=%d expectations=%d seconds=%.2f",
            self.topic.name, hour, verdict.state, verdict.rows, len(verdict.failed), len(verdict.warnings),
            len(verdict.findings), verdict.seconds,
        )  # fmt: skip
        return replace(verdict, is_recorded=entry is not None)


def _checks(verdict: Verdict) -> tuple[Check, ...]:
    return tuple(
        Check(each.expectation.type, each.success, each.column, each.expectation.severity) for each in verdict.findings
    )
