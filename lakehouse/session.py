"""The Spark session of a job: Delta on, UTC, and what the environment's configuration adds."""

from __future__ import annotations

import os
import sys

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from lakehouse.config import Settings

DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
}


def spark_session(settings: Settings, name: str) -> SparkSession:
    """The running session, or a new one; what spark-submit or the cluster set stands above the configuration."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    given = _given_to_spark_submit()
    builder = SparkSession.builder.appName(name)
    for key, value in {**DELTA, **settings.spark}.items():
        if key not in given:
            builder = builder.config(key, value)
    return builder.getOrCreate()


def _given_to_spark_submit() -> set[str]:
    """Keys that are set already, where spark-submit started this process; else none, and no JVM is started to ask."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return set()
    SparkContext._ensure_initialized()  # type: ignore[attr-defined]
    return {key for key, _ in SparkConf().getAll()}
