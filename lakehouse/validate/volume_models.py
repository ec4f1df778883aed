"""Where a topic's model of usual hours is: in the lake, for every hour to be judged by, and in MLflow's registry.

The lake's copy says which version of the registry it is. Hours are judged by that copy: they wait for no server.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lakehouse import hours
from lakehouse.config import Settings
from lakehouse.errors import extras_named
from lakehouse.store.files import storage_for
from lakehouse.store.history import History
from lakehouse.store.tables import TopicTables
from lakehouse.validate import mlflow_runs
from lakehouse.validate.volume import DAYS, ROWS, Model, Observed, fit

log = logging.getLogger(__name__)

_FILE = "_volume.json"
_REGISTRY = "models:/"
_STALE_HOURS = 24
EXPECTATION = "expect_volume_as_usual"


def address_of(tables: TopicTables) -> str:
    """Where the topic's current model is kept, beside its reports."""
    return f"{tables.reports.uri}/{_FILE}"


def registered_name(topic_name: str) -> str:
    """The model's name in MLflow's registry."""
    return f"lakehouse.{topic_name}.volume"


def current(tables: TopicTables) -> Model | None:
    """The model that the topic's hours are judged by; None before the first is fitted."""
    text = tables.reports.files().read(_FILE)
    return Model.from_json(text) if text else None


def model_at(address: str) -> Model | None:
    """The model at the address of a file, or at `models:/<name>@<alias>` or `/<version>`; None when there is no file.

    MlflowException when the registry has no such model or does not answer.
    """
    if address.startswith(_REGISTRY):
        with extras_named():
            from mlflow.artifacts import download_artifacts

        return Model.from_json(Path(download_artifacts(address), "model.json").read_bytes())
    folder, _, name = address.rpartition("/")
    text = storage_for(folder).read(name) if folder else None
    return Model.from_json(text) if text else None


Register = Callable[[str, Mapping[str, str], Mapping[str, str], Settings], str | None]


def learn(tables: TopicTables, history: History, register: Register = mlflow_runs.register) -> Model:
    """Fit the topic's model to its sealed hours, keep it in the lake and `register` it; gives it.

    Hours that were held back do not count. Without MLflow, or when it is away, the model is without a version.
    """
    model = _registered(fit(tables.topic.name, _observed(tables, history)), tables, register)
    tables.reports.files().write(_FILE, model.as_json().encode())
    log.info("validate: topic=%s model=volume hours=%d version=%s", model.topic, model.hours, model.version)
    return model


def is_stale(tables: TopicTables, history: History) -> bool:
    """Whether a day of hours was sealed since the model was fitted."""
    model = current(tables)
    sealed = [hour for hour in history.hours() if history.revision(hour)]
    last = model.last if model else ""
    return sum(hour > last for hour in sealed) >= _STALE_HOURS


def _observed(tables: TopicTables, history: History) -> Iterator[Observed]:
    """Rows as the seals counted them, and the other measures as the expectation observed them."""
    storage = tables.reports.files()
    known = [hour for hour in history.hours() if history.is_cleared(hour)]
    first = hours.after(known[-1], -24 * DAYS) if known else ""
    for hour in (hour for hour in known if hour > first):
        seal = history.seal_of(hour)
        if seal is not None:
            text = storage.read(f"{hour}/r{seal.revision}.json")
            yield Observed(hour, {**_measures(json.loads(text) if text else {}), ROWS: seal.rows})


def _measures(result: dict[str, Any]) -> dict[str, float]:
    seen = [row["observed"] for row in result.get("expectations", ()) if row["expectation"] == EXPECTATION]
    return {
        name: value for observed in seen for name, value in (observed or {}).items() if isinstance(value, int | float)
    }


def _registered(model: Model, tables: TopicTables, register: Register) -> Model:
    try:
        version = register(
            registered_name(model.topic),
            {"model.json": model.as_json()},
            {"hours": str(model.hours), "first": model.first, "last": model.last},
            tables.settings,
        )
    except Exception as error:  # whatever a server can answer: hours are judged without it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("validate: topic=%s model=volume next=register the next model error=%s", model.topic, reason)
        return model
    return replace(model, version=version)
