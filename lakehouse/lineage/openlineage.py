"""Our events as OpenLineage's, sent by its own client: where to, its own configuration says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    InputDatasetFacet,
    RunFacet,
    data_quality_assertions_dataset,
    dataset_version_dataset,
    error_message_run,
    input_statistics_input_dataset,
    nominal_time_run,
    output_statistics_output_dataset,
    processing_engine_run,
)

from lakehouse import __version__, hours
from lakehouse.lineage import events
from lakehouse.lineage.events import Part

PRODUCER = f"urn:lakehouse:{__version__}"
_SEVERITIES = {"critical": "error", "warning": "warn"}


def send(event: events.RunEvent) -> None:
    """Waits for the transport; whatever that raises."""
    _client().emit(event_of(event))


@cache
def _client() -> OpenLineageClient:
    """Configured by `openlineage.yml` or by `OPENLINEAGE_…`, which are read once."""
    return OpenLineageClient()


def event_of(event: events.RunEvent) -> RunEvent:
    """The same in OpenLineage's terms."""
    return RunEvent(
        eventType=RunState(event.state),
        eventTime=event.at.isoformat(),
        run=Run(event.run, dict(_run_facets(event))),
        job=Job(event.namespace, event.job),
        inputs=[_input(event.reads)],
        outputs=[_output(event.writes)],
        producer=PRODUCER,
    )


def _run_facets(event: events.RunEvent) -> Iterator[tuple[str, RunFacet]]:
    start = hours.start_of(event.hour)
    end = start + timedelta(hours=1)
    yield "nominalTime", nominal_time_run.NominalTimeRunFacet(start.isoformat(), end.isoformat(), producer=PRODUCER)
    yield (
        "processing_engine",
        processing_engine_run.ProcessingEngineRunFacet(event.release, "lakehouse", producer=PRODUCER),
    )
    if event.facts:
        own = RunFacet(producer=PRODUCER).with_additional_properties(hour=event.hour, **event.facts)
        yield "lakehouse_hour", own  # type: ignore[misc]
    if event.error is not None:
        yield "errorMessage", error_message_run.ErrorMessageRunFacet(event.error, "PYTHON", producer=PRODUCER)


def _input(part: Part) -> InputDataset:
    facets: dict[str, InputDatasetFacet] = {}
    if part.rows is not None:
        facets["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            part.rows, producer=PRODUCER
        )
    if part.checks:
        facets["dataQualityAssertions"] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
            [
                data_quality_assertions_dataset.Assertion(
                    each.name, each.is_met, each.column, _SEVERITIES.get(each.severity, each.severity)
                )
                for each in part.checks
            ],
            producer=PRODUCER,
        )
    return InputDataset(*part.dataset, facets=_version(part), inputFacets=facets)


def _output(part: Part) -> OutputDataset:
    facets: dict[str, Any] = {}
    if part.rows is not None:
        facets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            part.rows, fileCount=part.files, producer=PRODUCER
        )
    return OutputDataset(*part.dataset, facets=_version(part), outputFacets=facets)


def _version(part: Part) -> dict[str, Any]:
    if part.version is None:
        return {}
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(str(part.version), producer=PRODUCER)}
