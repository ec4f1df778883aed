"""One MLflow run per verdict, logged after it: MLflow can be slow or away without an hour waiting for it.

A note lies beside the reports from before the verdict until its run is logged, so what a crash or an unreachable
server left out is logged by the next run. MLflow itself says whether a verdict has its run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from lakehouse.concealed import without_secrets, without_secrets_in
from lakehouse.config import Settings
from lakehouse.errors import extras_named, in_one_line
from lakehouse.store.files import Storage
from lakehouse.store.tables import TopicTables
from lakehouse.validate.mlflow_erasure import VERDICT, older_artifacts

log = logging.getLogger(__name__)

_NOTES = "_unlogged"
_ERASED = "_erased"
_DEADLINES = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "30",
}
"""Seconds and tries of MLflow's client, whose own would hold the end of a process for minutes; what the environment
sets takes precedence."""
_NAME_LETTERS = 250
_ODD_IN_NAMES = re.compile(r"[^/\w.\- ]")
_METRICS_AT_ONCE = 1000
"""MLflow's own bounds, as its `mlflow.utils.validation` has them."""
_PARAMETERS = ("topic", "hour", "release", "suite_hash", "silver_version", "revision", "engine")
_COUNTS = ("deliveries", "duplicates", "late_duplicates", "skewed")


NONE = "none"
"""For an address: no runs."""


def tracking_uri(settings: Settings) -> str | None:
    """The server, or the SQLite file in a local `sealed_root`; None when there is neither, and nothing is logged."""
    if settings.mlflow.tracking_uri == NONE:
        return None
    if settings.mlflow.tracking_uri:
        return settings.mlflow.tracking_uri
    return None if _is_remote(settings) else f"sqlite:///{settings.sealed_root}/mlflow.db"


def note(storage: Storage, settings: Settings, name: str) -> None:
    """Remember that the result `<hour>/r<revision>` has no run yet."""
    if tracking_uri(settings):
        storage.write(f"{_NOTES}/{name.replace('/', '.')}", name.encode())


def log_due(tables: TopicTables) -> int:
    """Log every verdict that is noted as unlogged; how many were."""
    uri = tracking_uri(tables.settings)
    storage = tables.reports.files()
    notes = storage.listing(_NOTES)
    if not uri or not notes:
        return 0
    client = client_of(uri)
    experiment = _experiment(client, tables.settings)
    logged = 0
    refusals: list[Exception] = []
    for stored in notes:
        name = (storage.read(stored.path) or b"").decode(errors="replace")
        result, html = storage.read(f"{name}.json"), storage.read(f"{name}.html")
        if result is None or html is None:
            continue
        run = _run_or_warning(name, result, html)
        try:
            if run is not None:
                _log(client, experiment, run)
        except Exception as refused:
            if not is_a_refusal(refused):
                raise
            refusals.append(refused)  # of this verdict: the others are logged
            continue
        storage.delete([stored.path])
        logged += run is not None
    if refusals:
        raise refusals[0]
    return logged


def _run_or_warning(name: str, result: bytes, html: bytes) -> _Run | None:
    """The verdict's run, without secrets; None where the result is damaged, which nobody can make again."""
    try:
        return _run_of(without_secrets_in(json.loads(result)), without_secrets(html.decode()))
    except (ValueError, KeyError, TypeError, AttributeError) as damaged:
        log.warning("validate: result=%s.json next=leave it out of MLflow error=%s", name, in_one_line(damaged))
        return None


def note_erasure(tables: TopicTables) -> None:
    """Remember that runs on older revisions may have artifacts that must go; before a revision is replaced."""
    if _has_runs(tables.settings):
        tables.reports.files().write(_ERASED, b"")


def remove_erased(tables: TopicTables) -> None:
    """Remove artifacts on revisions that an erasure replaced, where one is noted. The runs keep their figures."""
    storage = tables.reports.files()
    if storage.read(_ERASED) is None or not _has_runs(tables.settings):
        return
    client = client_of(tracking_uri(tables.settings) or "")
    for repository, path in older_artifacts(client, tables.topic.name, tables.history().erased_hours()):
        repository.delete_artifacts(path)
    storage.delete([_ERASED])


def erased_artifacts(tables: TopicTables) -> list[str]:
    """Artifacts on revisions that an erasure replaced, which are still there: an erasure is to end with none."""
    newest = tables.history().erased_hours()
    if not newest or not _has_runs(tables.settings):
        return []
    client = client_of(tracking_uri(tables.settings) or "")
    found = older_artifacts(client, tables.topic.name, newest)
    return [without_secrets(f"{repository.artifact_uri}/{path}") for repository, path in found]


def _has_runs(settings: Settings) -> bool:
    """Whether there may be any: not where a local database was never made."""
    uri = tracking_uri(settings)
    return uri is not None and (bool(settings.mlflow.tracking_uri) or os.path.exists(uri.removeprefix("sqlite:///")))


def runs(settings: Settings, limit: int = 1000) -> list[dict[str, Any]]:
    """The verdicts' runs, newest first: `run`, `state`, and each parameter and metric by its name."""
    uri = tracking_uri(settings)
    if not uri:
        return []
    client = client_of(uri)
    found = client.get_experiment_by_name(settings.mlflow.experiment)
    if found is None:
        return []
    logged = client.search_runs([found.experiment_id], max_results=limit)
    return [
        {"run": run.info.run_id, "state": run.data.tags.get("state"), **run.data.params, **run.data.metrics}
        for run in logged
    ]


def register(name: str, files: Mapping[str, str], parameters: Mapping[str, str], settings: Settings) -> str | None:
    """Log the files as a run and register them as the newest version of `name`, alias `current`; gives the version.

    None when there is no place for runs.
    """
    uri = tracking_uri(settings)
    if not uri:
        return None
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    run = client.create_run(_experiment(client, settings), run_name=name, tags={"lakehouse.model": name})
    for file, text in files.items():
        client.log_text(run.info.run_id, text, f"model/{file}")
    client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in parameters.items()])
    client.set_terminated(run.info.run_id, "FINISHED")
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="What an hour of the topic usually holds.")
    version = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(name, "current", version.version)
    return str(version.version)


_OF_THE_ACCOUNT = (401, 403, 404, 407, 408, 429)
"""HTTP codes that say nothing of what was sent: of who sends it, where, and how often."""


def is_a_refusal(error: Exception) -> bool:
    """Whether the server answered, and refused what it was given: a value, or something too large."""
    of_mlflow = getattr(error, "get_http_status_code", None)
    response = getattr(error, "response", None)
    code = of_mlflow() if of_mlflow is not None else getattr(response, "status_code", 500)
    return 400 <= int(code or 500) < 500 and int(code) not in _OF_THE_ACCOUNT


def _is_remote(settings: Settings) -> bool:
    return bool(urlsplit(settings.sealed_root).scheme)


def client_of(uri: str) -> Any:
    """MLflow's client of a tracking server, with our bounds on its time; ExtrasError where MLflow is not installed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    for name, value in _DEADLINES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # in every notebook, and of no use there
        with extras_named():
            from mlflow.tracking import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, settings: Settings) -> str:
    """The experiment's id; beside the default database its files are in `sealed_root`, not where the job runs.

    The database of a lake that was copied or moved names the folder that it was made in. Files must not go there: its
    experiment gets another name, and a new one begins.
    """
    name = settings.mlflow.experiment
    files = None if settings.mlflow.tracking_uri else f"{settings.sealed_root}/mlflow"
    found = client.get_experiment_by_name(name)
    if found is not None and files is not None and (before := _local_path(found.artifact_location)) != files:
        client.rename_experiment(found.experiment_id, f"{name}, formerly in {before}")
        found = None
    return str(found.experiment_id if found is not None else client.create_experiment(name, artifact_location=files))


def _local_path(address: str) -> str:
    return unquote(urlsplit(address).path) if address.startswith("file:") else address


@dataclass(frozen=True)
class _Run:
    """What is logged of one verdict. `at` is in milliseconds."""

    verdict: str
    name: str
    state: str
    at: int
    seconds: float
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    files: Mapping[str, str]


def _run_of(result: Mapping[str, Any], html: str) -> _Run:
    """ValueError, KeyError, TypeError or AttributeError for a result that is damaged."""
    return _Run(
        verdict=f"{result['topic']}/{result['hour']}/r{result['revision']}",
        name=f"{result['topic']} {result['hour']}",
        state=str(result["state"]),
        at=int(datetime.fromisoformat(result["at"]).timestamp() * 1000),
        seconds=float(result["seconds"]),
        parameters={name: str(result[name]) for name in _PARAMETERS},
        metrics={metric_name(name): float(value) for name, value in _metrics(result).items()},
        files={"result.json": json.dumps(result, indent=1), "report.html": html},
    )


def _metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {"rows": result["rows"], "seconds": result["seconds"]}
    metrics |= {name: result["seal"][name] for name in _COUNTS if isinstance(result["seal"].get(name), int)}
    if isinstance(result["closed"].get("rejected"), int):
        metrics["rejected"] = result["closed"]["rejected"]
    lateness = result.get("lateness") or {}
    metrics |= {
        f"lateness.{name}": value
        for name, value in lateness.items()
        if name.endswith("_seconds") and name != "bounds_seconds"
    }
    for finding in result["expectations"]:
        column = f".{finding['column'].replace(', ', '.')}" if finding["column"] else ""
        name = f"{finding['expectation']}{column}"
        metrics[name] = min(metrics.get(name, 1), int(finding["success"]))
        if finding["unexpected"] is not None and result["rows"]:
            percent = f"{name}.unexpected_percent"
            metrics[percent] = max(metrics.get(percent, 0), 100 * finding["unexpected"] / result["rows"])
    return metrics


def _log(client: Any, experiment: str, run: _Run) -> None:
    """The verdict's run, unless it has one; one that was begun and not finished goes."""
    for known in client.search_runs([experiment], f"tags.`{VERDICT}` = '{run.verdict}'"):
        if known.info.status == "FINISHED":
            return
        client.delete_run(known.info.run_id)
    tags = {VERDICT: run.verdict, "state": run.state}
    begun = client.create_run(experiment, start_time=run.at, run_name=run.name, tags=tags)
    run_id = begun.info.run_id
    try:
        _log_values(client, run_id, run)
        for name, text in run.files.items():
            client.log_text(run_id, text, name)
    except Exception:
        with suppress(Exception):  # a server that is away now: the next try finds the run and removes it
            client.delete_run(run_id)
        raise
    client.set_terminated(run_id, "FINISHED", end_time=run.at + int(1000 * run.seconds))


def _log_values(client: Any, run_id: str, run: _Run) -> None:
    from mlflow.entities import Metric, Param

    client.log_batch(run_id, params=[Param(name, value) for name, value in run.parameters.items()])
    values = [Metric(name, value, run.at, 0) for name, value in run.metrics.items()]
    for first in range(0, len(values), _METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=values[first : first + _METRICS_AT_ONCE])


def metric_name(name: str) -> str:
    """The name as MLflow takes it; one that had to be changed ends with 8 digits of its MD5, so that no two meet."""
    taken = _ODD_IN_NAMES.sub("_", name)
    if posixpath.normpath(taken) != taken or taken.startswith(("/", ".")):
        taken = re.sub(r"^\.|/", "_", taken) or "_"
    if taken == name and len(taken) <= _NAME_LETTERS:
        return name
    digits = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{taken[: _NAME_LETTERS - 9]}-{digits}"
