"""Where a topic's model of usual hours is: in the lake, for every hour to be judged by, and in MLflow's registry.

The lake's copy says which version of the registry it is. Hours are judged by that copy: they wait for no server.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lakehouse import hours
from lakehouse.config import Settings
from lakehouse.store.files import storage_for
from lakehouse.store.ledger import History
from lakehouse.store.tables import folders_of
from lakehouse.validate import mlflow_runs
from lakehouse.validate.volume import DAYS, ROWS, Model, Observed, learnt

log = logging.getLogger(__name__)

_FILE = "_volume.json"
_REGISTRY = "models:/"
_STALE_HOURS = 24
EXPECTATION = "expect_volume_as_usual"


def address_of(topic_name: str, settings: Settings) -> str:
    return f"{folders_of(settings, topic_name).reports}/{_FILE}"


def registered_name(topic_name: str) -> str:
    return f"lakehouse.{topic_name}.volume"


def current(topic_name: str, settings: Settings) -> Model | None:
    """The model that the topic's hours are judged by; None before the first is learnt."""
    text = storage_for(folders_of(settings, topic_name).reports, settings.storage_options).read(_FILE)
    return Model.from_json(text) if text else None


def loaded(address: str) -> Model | None:
    """The model at the address of a file, or at `models:/<name>@<alias>` or `/<version>`; None when there is none."""
    if address.startswith(_REGISTRY):
        from mlflow.artifacts import download_artifacts

        return Model.from_json(Path(download_artifacts(address), "model.json").read_bytes())
    folder, _, name = address.rpartition("/")
    text = storage_for(folder).read(name) if folder else None
    return Model.from_json(text) if text else None


def learn(topic_name: str, settings: Settings, history: History) -> Model:
    """Learn the topic's model anew from its sealed hours, keep it in the lake and register it; gives it.

    Hours that were held back teach nothing. Without MLflow, or when it is away, the model is without a version.
    """
    model = learnt(topic_name, _observed(topic_name, settings, history))
    model = _registered(model, settings)
    storage = storage_for(folders_of(settings, topic_name).reports, settings.storage_options)
    storage.write(_FILE, model.as_json().encode())
    log.info("%s: usual hours learnt from %d hours, version %s", topic_name, model.hours, model.version)
    return model


def is_stale(topic_name: str, settings: Settings, history: History) -> bool:
    """Whether a day of hours was sealed since the model was learnt: then it is time to learn again."""
    model = current(topic_name, settings)
    sealed = [hour for hour in history.hours() if history.revision(hour)]
    last = model.last if model else ""
    return sum(hour > last for hour in sealed) >= _STALE_HOURS


def _observed(topic_name: str, settings: Settings, history: History) -> Iterator[Observed]:
    """Rows as the seals counted them, and what the expectation saw of other measures."""
    storage = storage_for(folders_of(settings, topic_name).reports, settings.storage_options)
    known = [hour for hour in history.hours() if history.is_cleared(hour)]
    first = hours.after(known[-1], -24 * DAYS) if known else ""
    for hour in (hour for hour in known if hour > first):
        seal = history.last("sealed", hour)
        if seal is not None:
            text = storage.read(f"{hour}/r{history.revision(hour)}.json")
            yield Observed(hour, {**_measures(json.loads(text) if text else {}), ROWS: int(seal.details["rows"])})


def _measures(result: dict[str, Any]) -> dict[str, float]:
    seen = [row["observed"] for row in result.get("expectations", ()) if row["expectation"] == EXPECTATION]
    return {
        name: value for observed in seen for name, value in (observed or {}).items() if isinstance(value, int | float)
    }


def _registered(model: Model, settings: Settings) -> Model:
    try:
        version = mlflow_runs.register(
            registered_name(model.topic),
            {"model.json": model.as_json()},
            {"hours": str(model.hours), "first": model.first, "last": model.last},
            settings,
        )
    except Exception as error:  # whatever a server can answer: hours are judged without it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("%s: model not registered, the next is: %s", model.topic, reason)
        return model
    return replace(model, version=version)
