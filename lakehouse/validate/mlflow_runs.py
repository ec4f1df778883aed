"""One MLflow run per verdict, logged after it: MLflow can be slow or away without an hour waiting for it.

A note lies beside the reports from before the verdict until its run is logged, so what a crash or an unreachable
server left out is logged by the next run. MLflow itself says whether a verdict has its run.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

from lakehouse.config import Settings
from lakehouse.store.files import Storage
from lakehouse.store.tables import TopicTables
from lakehouse.validate.extra import needs_quality

log = logging.getLogger(__name__)

_NOTES = "_unlogged"
_VERDICT = "lakehouse.verdict"
_COUNTS = ("deliveries", "duplicates", "late_duplicates", "skewed")


def tracking_uri(settings: Settings) -> str | None:
    """The server, or the SQLite file in a local `sealed_root`; None when there is neither, and nothing is logged."""
    if settings.mlflow.tracking_uri:
        return settings.mlflow.tracking_uri
    return None if _is_remote(settings) else f"sqlite:///{settings.sealed_root}/mlflow.db"


def note(storage: Storage, settings: Settings, name: str) -> None:
    """Remember that the result `<hour>/r<revision>` has no run yet."""
    if tracking_uri(settings):
        storage.write(f"{_NOTES}/{name.replace('/', '.')}", name.encode())


def log_soon(tables: TopicTables) -> Future[int] | None:
    """`log_due` in a thread of its own, so that no hour waits for it; the process ends when it is done."""
    return _background().submit(_log_or_warn, tables) if tracking_uri(tables.settings) else None


def log_due(tables: TopicTables) -> int:
    """Log every verdict that is noted as unlogged; how many were."""
    uri = tracking_uri(tables.settings)
    storage = tables.reports.files()
    notes = storage.listed(_NOTES)
    if not uri or not notes:
        return 0
    client = _client(uri)
    experiment = _experiment(client, tables.settings)
    logged = 0
    for stored in notes:
        name = (storage.read(stored.path) or b"").decode()
        result, html = storage.read(f"{name}.json"), storage.read(f"{name}.html")
        if result is None or html is None:
            continue
        _log(client, experiment, json.loads(result), html.decode())
        storage.delete([stored.path])
        logged += 1
    return logged


def runs(settings: Settings, limit: int = 1000) -> list[dict[str, Any]]:
    """The verdicts' runs, newest first: `run`, `state`, and each parameter and metric by its name."""
    uri = tracking_uri(settings)
    if not uri:
        return []
    client = _client(uri)
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

    client = _client(uri)
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


def _log_or_warn(tables: TopicTables) -> int:
    try:
        return log_due(tables)
    except Exception as error:  # whatever a server can answer: the verdicts are in the ledger
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("validate: topic=%s not logged to MLflow, the next run tries again: %s", tables.topic.name, reason)
        return 0


@lru_cache(maxsize=1)
def _background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="mlflow")


def _is_remote(settings: Settings) -> bool:
    return bool(urlsplit(settings.sealed_root).scheme)


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # in every notebook, and of no use there
        with needs_quality("MLflow"):
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


def _log(client: Any, experiment: str, result: Mapping[str, Any], html: str) -> None:
    """The verdict's run, unless it has one; one that was begun and not finished goes."""
    verdict = f"{result['topic']}/{result['hour']}/r{result['revision']}"
    for run in client.search_runs([experiment], f"tags.`{_VERDICT}` = '{verdict}'"):
        if run.info.status == "FINISHED":
            return
        client.delete_run(run.info.run_id)
    at = int(datetime.fromisoformat(result["at"]).timestamp() * 1000)
    begun = client.create_run(
        experiment,
        start_time=at,
        run_name=f"{result['topic']} {result['hour']}",
        tags={_VERDICT: verdict, "state": result["state"]},
    )
    run_id = begun.info.run_id
    _log_values(client, run_id, result, at)
    client.log_text(run_id, json.dumps(result, indent=1), "result.json")
    client.log_text(run_id, html, "report.html")
    client.set_terminated(run_id, "FINISHED", end_time=at + int(1000 * result["seconds"]))


def _log_values(client: Any, run_id: str, result: Mapping[str, Any], at: int) -> None:
    from mlflow.entities import Metric, Param

    parameters = ("topic", "hour", "release", "suite_hash", "silver_version", "revision", "engine")
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
    client.log_batch(
        run_id,
        metrics=[Metric(name, float(value), at, 0) for name, value in metrics.items()],
        params=[Param(name, str(result[name])) for name in parameters],
    )
