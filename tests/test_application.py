"""The doors in jobs/, as processes: what an operator meets when something is wrong, and how a run ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PLAYS, SPARK_SETTINGS
from google.cloud import pubsub_v1
from subscribing import TOPIC, create_subscription, create_topic, delete_subscription

from lakehouse import application
from lakehouse.config import load
from lakehouse.errors import LAKE, MISUSE, SOURCE, UNFORESEEN
from lakehouse.operations import status
from lakehouse.sandbox.broker import Broker
from lakehouse.store.retired_jobs import RetiredJobs
from lakehouse.store.tables import TopicTables
from tests.jobs import ROOT, run_job
from tests.lake import FIVE, Lake, begin_runs, write_conf, write_suite
from tests.lake import plays as small_plays

pytestmark = pytest.mark.xdist_group("processes")

HAS_USER = {"type": "expect_column_to_exist", "kwargs": {"column": "user"}}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """An environment with one topic, `plays`; nothing of it is made yet."""
    lake = tmp_path / "lake"
    settings = {
        "raw_root": str(lake),
        "frontier": {"source": "drained"},
        "ingest": {"trigger": "1 second", "empty_after": "0.2 seconds"},
        "mirrors": {"folder": {"kind": "folder", "path": str(tmp_path / "mirror")}},
        "spark": SPARK_SETTINGS,
    }
    write_suite(tmp_path / "expectations", "plays", [HAS_USER])
    shutil.copy(ROOT / "expectations" / "_every_topic.json", tmp_path / "expectations")
    return write_conf(tmp_path, settings, {"plays": PLAYS})


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture
def subscription(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], None]:
    """The topic's subscription; called, it publishes payloads."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
    create_topic()
    create_subscription(ack_deadline_seconds=10)
    publisher = pubsub_v1.PublisherClient()

    def publish(payloads: list[dict[str, Any]]) -> None:
        for future in [publisher.publish(TOPIC, json.dumps(payload).encode()) for payload in payloads]:
            future.result(timeout=10)

    return publish


def started(job: str, conf: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--conf", str(conf), *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def refused(conf: Path, tmp_path: Path) -> Callable[..., str]:
    """The one message of a job that must fail."""

    def message(job: str, *arguments: str, conf: Path = conf, **environment: str) -> str:
        answer = ["--conf", str(conf), *arguments]
        ended = run_job(job, answer, {**os.environ, **environment}, tmp_path / "said")
        assert ended.returncode in (MISUSE, LAKE, SOURCE), ended.stderr
        assert "Traceback" not in ended.stderr
        (line,) = [line for line in ended.stderr.splitlines() if " ERROR " in line]
        return line

    return message


def test_an_unreachable_broker_is_named_before_anything_is_made(conf: Path, refused: Callable[..., str]) -> None:
    """Half a lake without a source would look like a topic that has no events."""
    message = refused("ingest", PUBSUB_EMULATOR_HOST="127.0.0.1:1")
    assert "127.0.0.1:1" in message
    assert "lakehouse sandbox" in message
    assert not (conf.parent.parent / "lake").exists()


@pytest.mark.slow
def test_a_job_leaves_a_topic_out_whose_file_is_wrong_and_serves_the_others(conf: Path, tmp_path: Path) -> None:
    """And ends as one that could not do all; a run over hundreds of topics must not wait for one file."""
    (conf.parent / "topics" / "skips.yaml").write_text("x: 1")
    ended = run_job("maintain", ["--conf", str(conf), "--dry-run"], dict(os.environ), tmp_path / "said")
    assert ended.returncode == MISUSE
    left_out, last = (line for line in ended.stderr.splitlines() if " ERROR " in line)
    assert "topic=skips state=left out error=" in left_out
    assert "skips.yaml: subscription: found nothing" in left_out
    assert last.partition("error=")[2] == left_out.partition("error=")[2]
    only = run_job("maintain", ["plays", "--conf", str(conf), "--dry-run"], dict(os.environ), tmp_path / "said")
    assert (only.returncode, "skips" in only.stderr) == (0, False)


def test_an_error_that_nobody_foresaw_has_its_code_and_its_trace_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Exit code 1 would say that a check has found something."""
    monkeypatch.setattr("sys.argv", ["seal"])
    monkeypatch.setattr(application, "load_usable", lambda path: {}["plays"])
    with pytest.raises(SystemExit) as ended:
        application.run_job(application.seal)
    assert ended.value.code == UNFORESEEN
    (record,) = caplog.records
    assert record.getMessage().startswith("application: error=application: found KeyError: 'plays'")
    assert record.exc_info is not None


def test_a_subscription_that_does_not_exist_is_named(conf: Path, broker: Broker, refused: Callable[..., str]) -> None:
    """The commonest slip of a new topic."""
    message = refused("ingest", PUBSUB_EMULATOR_HOST=broker.address)
    assert PLAYS["subscription"] in message
    assert "no such subscription" in message
    assert not (conf.parent.parent / "lake").exists()


@pytest.mark.usefixtures("subscription")
def test_a_lake_that_cannot_be_written_is_named(conf: Path, refused: Callable[..., str]) -> None:
    """A wrong raw_root must not end in a stack trace of a storage library."""
    file = conf.parent.parent / "file"
    file.write_text("")
    settings = yaml.safe_load(conf.read_text()) | {"raw_root": str(file / "lake")}
    conf.write_text(yaml.safe_dump(settings))
    message = refused("ingest")
    assert str(file / "lake") in message
    assert "raw_root" in message


@pytest.mark.usefixtures("subscription")
def test_a_topic_without_expectations_is_refused_before_it_is_read(conf: Path, refused: Callable[..., str]) -> None:
    """Its hours could never be mirrored; better said now than after the first hour."""
    (conf.parent.parent / "expectations" / "plays.json").unlink()
    message = refused("run")
    assert "plays.json" in message
    assert not (conf.parent.parent / "lake").exists()


@pytest.mark.usefixtures("subscription")
def test_a_malformed_suite_is_refused_before_the_topic_is_read(conf: Path, refused: Callable[..., str]) -> None:
    """As above, for a file that is there and no JSON."""
    (conf.parent.parent / "expectations" / "plays.json").write_text("{")
    assert "plays.json" in refused("run")
    assert not (conf.parent.parent / "lake").exists()


def test_an_unknown_topic_is_named_with_those_that_there_are(conf: Path, refused: Callable[..., str]) -> None:
    """A mistyped topic on a cluster's command line."""
    message = refused("seal", "palys")
    assert "palys" in message
    assert "plays" in message.replace("palys", "")


@pytest.mark.parametrize("job", ["run", "seal"])
def test_an_application_without_topics_is_refused(conf: Path, refused: Callable[..., str], job: str) -> None:
    """Exit code 0 said that all is well, and nothing ran."""
    (conf.parent / "topics" / "plays.yaml").unlink()
    message = refused(job)
    assert str(conf.parent / "topics") in message
    assert "found no topic" in message


def test_a_missing_configuration_is_named(conf: Path, refused: Callable[..., str]) -> None:
    """On Dataproc the files travel in an archive; a wrong name must be reported, not guessed."""
    message = refused("seal", conf=conf.with_name("other.yaml"))
    assert "other.yaml" in message


@pytest.mark.usefixtures("subscription")
def test_no_java_is_reported_in_one_sentence(conf: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """Spark's own words are a page of bash and Py4J."""
    message = refused("ingest", JAVA_HOME=str(tmp_path / "nowhere"))
    assert "Java 17" in message
    assert "make set-up" in message


@pytest.mark.slow
def test_stages_that_need_no_spark_start_no_jvm(conf: Path, tmp_path: Path) -> None:
    """It takes longer than what they do, and a gigabyte."""
    config = load(conf)
    lake = Lake(config.topic("plays"), config)
    begin_runs(config.settings)
    lake.deliver(*small_plays("a", "b", "a"))
    lake.close(FIVE)
    for job in ("seal", "validate", "mirror", "maintain", "audit"):
        environment = {**os.environ, "JAVA_HOME": str(tmp_path / "nowhere")}
        ended = run_job(job, ["--conf", str(conf)], environment, tmp_path / "said")
        assert ended.returncode == 0, (job, ended.stderr)
    assert (tmp_path / "mirror" / "plays" / FIVE / "_SUCCESS").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "settings", "found"),
    [
        ({"JAVA_HOME": "/nowhere"}, {}, "no Java that runs it at /nowhere"),
        ({"SPARK_HOME": "/nowhere"}, {}, "No such file or directory: '/nowhere/./bin/spark-submit'"),
        ({}, {"spark.master": "local[x]"}, "Could not parse Master URL: 'local[x]'"),
    ],
)
def test_a_large_hour_for_which_spark_does_not_start_says_so(
    conf: Path, tmp_path: Path, environment: dict[str, str], settings: dict[str, str], found: str
) -> None:
    """And not that the lake has no room, which a seal says of what a store refuses."""
    values = yaml.safe_load(conf.read_text())
    conf.write_text(yaml.safe_dump({**values, "seal": {"small_rows": 0}, "spark": {**SPARK_SETTINGS, **settings}}))
    config = load(conf)
    lake = Lake(config.topic("plays"), config)
    lake.deliver(*small_plays("a", "b", "a"))
    lake.close(FIVE)
    ended = run_job("seal", ["--conf", str(conf)], {**os.environ, **environment}, tmp_path / "said")
    assert ended.returncode == MISUSE, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Spark: found" in ended.stderr
    assert found in ended.stderr


@pytest.mark.parametrize("is_submitted", [True, False])
@pytest.mark.parametrize("job", ["seal", "validate", "mirror", "maintain", "audit", "run", "ingest"])
def test_a_driver_of_spark_submit_has_a_session_whatever_it_does(
    conf: Path, monkeypatch: pytest.MonkeyPatch, job: str, is_submitted: bool
) -> None:
    """YARN takes one without for failed, and Dataproc starts it again; `run` and `ingest` have a successor here."""
    started: list[str] = []
    monkeypatch.setattr(application.Application, "spark", property(lambda self: started.append(job)))
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    if is_submitted:
        monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    monkeypatch.setenv("LAKEHOUSE_JOB", "music-1")
    config = load(conf)
    made = application.Application(config, (config.topic("plays"),))
    RetiredJobs(made.config.settings).add("music-1")
    getattr(application, job)(made)
    assert started == ([job] if is_submitted else [])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_ends_with_its_subscription_and_another_takes_all_events_to_a_mirror(
    conf: Path, broker: Broker, subscription: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Both with all their stages, their threads and the JVM; and nothing that the first acknowledged is lost.

    A SIGTERM ends the lives of test_crash.
    """
    subscription(plays("before", 12))
    process = started("run", conf)
    _wait(process, lambda: not broker.unacked(PLAYS["subscription"]))
    delete_subscription()
    _, said = process.communicate(timeout=60)
    assert process.returncode == SOURCE, said
    (message,) = {
        line.partition(" ERROR ")[2].partition("error=")[2]
        for line in said.splitlines()
        if " ERROR " in line and f"error={PLAYS['subscription']}" in line
    }
    assert message == (
        f"{PLAYS['subscription']}: found no such subscription (Subscription does not exist); "
        f"expected a subscription that can be pulled from the emulator at {broker.address}. "
        "Create it, or fix `subscription` in the topic's file."
    )
    (row,) = status.statuses(load(conf), ["plays"], datetime.now(UTC))
    assert row.state == "failing"
    assert row.failure is not None
    assert row.failure.error == message
    create_subscription(ack_deadline_seconds=10)
    subscription(plays("after", 24) + plays("after", 3))
    process = started("run", conf, "--until-drained")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    tables = TopicTables(load(conf).topic("plays"), load(conf).settings)
    seal = tables.history().last("sealed", "2026-01-01T00")
    assert seal is not None
    assert (seal.details["rows"], seal.details["duplicates"]) == (12, 3)
    assert (conf.parent.parent / "mirror" / "plays" / "2026-01-01T01" / "_SUCCESS").exists()
    delivered = tables.bronze().to_pyarrow_table(columns=["event_id"])["event_id"].to_pylist()
    assert set(delivered) == {f"before-{n}" for n in range(12)} | {f"after-{n}" for n in range(24)}
    assert len(delivered) == 12 + 24 + 3
    (row,) = status.statuses(load(conf), ["plays"], datetime.now(UTC))
    assert row.life is not None
    assert (row.state, row.life.application, row.life.why_ended) == ("not running", "test", "drained")
    assert row.life.last_trigger is not None


def plays(when: str, count: int) -> list[dict[str, Any]]:
    """An event every ten minutes, long ago."""
    track = {"id": "t", "ms": 1}
    times = [f"2026-01-01T0{n // 6}:{n % 6}0:00Z" for n in range(count)]
    return [
        {"event_id": f"{when}-{n}", "played_at": at, "user": "u", "track": track, "n": n} for n, at in enumerate(times)
    ]


def _wait(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not is_so():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the application did not get there: {process.communicate()[1]}")
        time.sleep(0.2)
