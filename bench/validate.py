"""What judging an hour costs, beside sealing it and beside Great Expectations used the ordinary way.

    python -m bench.validate [--rows N]

Ten expectations on one sealed hour. The ordinary way is a Validator of Great Expectations' Spark engine on a DataFrame
of the same files, asked for what it gives when it is asked for nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from bench.closed_hours import HOUR, Lake, closed_hour, record_closes, settings_of
from bench.measuring import best, seconds_of
from bench.report import Report
from lakehouse.config import Config
from lakehouse.seal.stage import Sealer
from lakehouse.spark.session import spark_session
from lakehouse.store.delta import files_of_hour
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import mlflow_runs
from lakehouse.validate.results import write_result
from lakehouse.validate.stage import Validation
from lakehouse.validate.suite_files import suite_of
from lakehouse.validate.suites import parameters_of
from tests.gx_engines import findings_on_spark

BUILD = Path("build/bench/validate")
SMALL_ROWS = 1_000


def _expectation(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"severity": "critical"}}


EVERY_TOPIC = [
    _expectation("expect_table_row_count_to_equal", value={"$PARAMETER": "sealed_rows"}),
    _expectation("expect_column_values_to_not_be_null", column="event_id"),
    _expectation("expect_column_values_to_be_unique", column="event_id"),
    _expectation(
        "expect_column_values_to_be_between", column="event_time", max_value={"$PARAMETER": "hour_end"}, strict_max=True
    ),
    _expectation(
        "expect_column_pair_values_a_to_be_greater_than_b", column_A="hour", column_B="event_hour", or_equal=True
    ),
]
OF_TOPIC = [
    _expectation("expect_column_values_to_match_regex", column="user", regex="^u[0-9]+$"),
    _expectation("expect_column_values_to_be_in_set", column="country", value_set=["se", "de", "us", "br", "jp"]),
    _expectation("expect_column_values_to_be_between", column="score", min_value=0, max_value=1),
    _expectation("expect_column_values_to_not_be_null", column="track.id"),
    _expectation("expect_column_mean_to_be_between", column="position", min_value=1),
]


def main() -> int:
    arguments = argparse.ArgumentParser(
        prog="bench.validate", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    arguments.add_argument("--rows", type=int, default=4_000_000, help="rows of the large hour (%(default)s)")
    rows: int = arguments.parse_args().rows
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    mlflow_runs.note = lambda *_: None
    report = Report("validate")
    spark = spark_session(settings_of(BUILD, "none"), "bench validate")
    spark.sparkContext.setLogLevel("ERROR")
    try:
        with closed_hour(BUILD, "warm-up", 50_000) as lake:
            _validated(_sealed(lake, spark))
            _ordinary(_sealed(lake, spark), spark)
        with closed_hour(BUILD, "large", rows, duplicates=0.02) as lake:
            _large(report, lake, spark, rows)
        with closed_hour(BUILD, "small", SMALL_ROWS) as lake:
            config = _sealed(lake, spark)
            seconds = min(seconds_of(partial(_validated, config)) for _ in range(5))
            report.at_most(f"{SMALL_ROWS:,} rows: judged, with its page and result written", seconds, 0.3, "seconds")
    finally:
        spark.stop()
        shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


def _large(report: Report, lake: Lake, spark: SparkSession, rows: int) -> None:
    """Each twice, the better counts; the verdicts are unknown to the ledger, so that every run judges."""
    about = f"{rows:,} rows, 10 expectations: "
    seal = best(partial(lake.seal, spark))
    config = _sealed(lake, spark)
    judged = best(partial(_validated, config))
    ordinary = seconds_of(partial(_ordinary, config, spark))
    report.shown(f"{about}sealing the hour", seal, "seconds")
    report.shown(f"{about}judging it", judged, "seconds")
    report.shown(f"{about}Great Expectations on Spark, the ordinary way", ordinary, "seconds")
    report.at_most(f"{about}judging against sealing", judged / seal, 0.3)
    report.at_most(f"{about}judging against the ordinary way", judged / ordinary, 0.3)


def _sealed(lake: Lake, spark: SparkSession) -> Config:
    """The configuration of a lake in which the hour is sealed, and its suites."""
    root = lake.target("sealed")
    settings = lake.settings.model_copy(update={"sealed_root": str(root)})
    record_closes(lake.topic, settings, lake.closed)
    Sealer(lake.topic, settings, lambda: spark, run="bench").seal(HOUR)
    expectations = Path(root, "expectations")
    expectations.mkdir(parents=True)
    for name, expected in (("_every_topic", EVERY_TOPIC), (lake.topic.name, OF_TOPIC)):
        (expectations / f"{name}.json").write_text(json.dumps({"name": name, "expectations": expected}))
    return Config(Path("bench.yaml"), settings, {lake.topic.name: lake.topic}, expectations)


def _topic(config: Config) -> Topic:
    (topic,) = config.topics.values()
    return topic


def _validated(config: Config) -> None:
    """Judged, and its page and result written; the ledger keeps no verdict, so that every run judges."""
    validation = Validation(_topic(config), config, "bench")
    verdict, result = validation.judge(HOUR, validation.ledger.history())
    write_result(validation.tables.reports, config.settings, result)
    assert verdict.state == "valid", verdict.failed


def _ordinary(config: Config, spark: SparkSession) -> None:
    from pyspark.sql import functions as F

    topic = _topic(config)
    tables = TopicTables(topic, config.settings)
    uri = tables.sealed.below("silver").uri
    files = files_of_hour(tables.silver(), HOUR)
    rows = spark.read.parquet(*(f"{uri}/{file.path}" for file in files)).withColumn("hour", F.lit(HOUR))
    expected = suite_of(topic, config).of_hour(parameters_of(HOUR, sum(file.rows for file in files)))
    assert len(expected) == 10
    findings = findings_on_spark(expected, rows)
    assert all(finding.success for finding in findings)


if __name__ == "__main__":
    sys.exit(main())
