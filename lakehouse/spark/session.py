"""The Spark session of a job: Delta on, UTC, and what the environment's configuration adds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from lakehouse.config import Settings
from lakehouse.errors import NoSparkError, in_one_line

SparkOrNone = Callable[[], SparkSession] | None
"""Asked for a session only by what needs one; None where everything is to run in this process."""
DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
}


def spark_session(settings: Settings, name: str) -> SparkSession:
    """The running session, or a new one; what spark-submit or the cluster sets precedes the configuration.

    NoSparkError when none can be started: no store and no target is to blame for what waits for it.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    given = _submitted()
    builder = SparkSession.builder.appName(name)
    for key, value in {**DELTA, **settings.spark}.items():
        if key not in given:
            builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except (PySparkException, Py4JJavaError, OSError) as error:
        raise _not_started(error) from error


def is_submitted() -> bool:
    """Whether spark-submit started this process: its JVM is there, and expects a session, needed or not.

    The JVM gets the signals, and hands them on only through a session's hook (`end_in_order`). In cluster mode YARN
    ends a driver that has no session after 100 seconds (`spark.yarn.am.waitTime`), and takes one that never had any for
    failed, whatever its exit code.
    """
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _not_started(error: Exception) -> NoSparkError:
    if isinstance(error, PySparkException) and error.getCondition() == "JAVA_GATEWAY_EXITED":
        return NoSparkError(
            "Spark",
            found="no Java that runs it" + (f" at {home}" if (home := os.environ.get("JAVA_HOME")) else ""),
            expected="Java 17 or 21",
            next_step="Run `make set-up`, or install openjdk-17-jre-headless and set JAVA_HOME to it.",
        )
    return NoSparkError(
        "Spark",
        found=str(error.java_exception) if isinstance(error, Py4JJavaError) else in_one_line(error),
        expected="a session that starts",
        next_step="Check the section `spark` of the configuration, SPARK_HOME and JAVA_HOME.",
    )


def _submitted() -> dict[str, str]:
    """What is set already, where spark-submit started this process; else nothing, and no JVM is started to ask."""
    if not is_submitted():
        return {}
    SparkContext._ensure_initialized()
    return dict(SparkConf().getAll())
