"""An application's ingest as a test runs it, with Spark."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyspark.sql import SparkSession

from lakehouse.config import Config
from lakehouse.ingest.parking import USUAL, Pace
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.supervisor import Supervisor
from lakehouse.ingest.topic import TopicIngest

APPLICATION = "test"


def ingest_of(
    config: Config, spark: SparkSession, run: str = "one", *, pace: Pace = USUAL, **more: Any
) -> tuple[Supervisor, IngestQuery]:
    """Of all topics of the configuration; those that can be are claimed already."""
    settings = config.settings.model_copy(update={"application": APPLICATION})
    config = replace(config, settings=settings)
    ingests = [TopicIngest(topic, config, run=run, **more) for topic in config.topics.values()]
    query = IngestQuery(ingests, settings, pace=pace)
    supervisor = Supervisor(query, ingests, lambda: query.start(spark), pace=pace)
    supervisor.open()
    return supervisor, query
