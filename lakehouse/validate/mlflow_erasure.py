"""Artifacts of MLflow's runs on revisions that an erasure replaced: results and pages, whose examples are rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lakehouse.hours import Hour

VERDICT = "lakehouse.verdict"
"""The tag of a verdict's run: `<topic>/<hour>/r<revision>`."""

_RUNS_AT_ONCE = 1000


def older_artifacts(client: Any, topic: str, newest: Mapping[Hour, int]) -> Iterator[tuple[Any, str]]:
    """(repository, path) of each artifact on a revision before the newest one of its hour, of removed runs, too."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for run in _runs(client, topic):
        _, hour, revision = run.data.tags[VERDICT].rsplit("/", 2)
        if int(revision.removeprefix("r")) < newest.get(hour, 0):
            repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri)
            yield from ((repository, found.path) for found in repository.list_artifacts())


def _runs(client: Any, topic: str) -> Iterator[Any]:
    from mlflow.entities import ViewType

    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
    token = None
    while experiments:
        found = client.search_runs(
            experiments, f"tags.`{VERDICT}` LIKE '{topic}/%'", ViewType.ALL, _RUNS_AT_ONCE, page_token=token
        )
        yield from found
        token = found.token
        if not token:
            return
