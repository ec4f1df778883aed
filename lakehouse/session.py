"""The Spark session of a job: Delta on, UTC, and what the environment's configuration adds."""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession

from lakehouse.config import Settings

DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
}


def spark_session(settings: Settings, name: str) -> SparkSession:
    """The running session, or a new one; what spark-submit or the cluster set already stands above the configuration."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(name)
    for key, value in {**DELTA, **settings.spark}.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()
