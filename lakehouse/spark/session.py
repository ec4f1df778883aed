"""The Spark session of a job: Delta on, UTC, and what the environment's configuration adds."""

from __future__ import annotations

import os
import sys

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from lakehouse.config import Settings
from lakehouse.errors import NoJavaError

DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
}


def spark_session(settings: Settings, name: str) -> SparkSession:
    """The running session, or a new one; what spark-submit or the cluster sets precedes the configuration."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    given = _given_to_spark_submit()
    builder = SparkSession.builder.appName(name)
    for key, value in {**DELTA, **settings.spark}.items():
        if key not in given:
            builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
        raise NoJavaError(
            "Spark",
            found="no Java that runs it" + (f" at {home}" if (home := os.environ.get("JAVA_HOME")) else ""),
            expected="Java 17 or 21",
            next_step="Run `make set-up`, or install openjdk-17-jre-headless and set JAVA_HOME to it.",
        ) from error


def _given_to_spark_submit() -> set[str]:
    """Keys that are set already, where spark-submit started this process; else none, and no JVM is started to ask."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return set()
    SparkContext._ensure_initialized()
    return {key for key, _ in SparkConf().getAll()}
