"""What a lineage server is told, and that nothing waits for it."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from lake import FIVE, Delivery, Lake, write_suite

from lakehouse import errors, hours
from lakehouse.application import Application
from lakehouse.config import Config
from lakehouse.config import Lineage as LineageKeys
from lakehouse.errors import MirrorError, MissingExtraError, SealError
from lakehouse.lineage import emitting, openlineage
from lakehouse.lineage.datasets import DatasetName, dataset_at
from lakehouse.lineage.emitting import Emitter
from lakehouse.lineage.events import Part, RunEvent
from lakehouse.mirrors.bigquery.mirror import BigQueryMirror
from lakehouse.mirrors.hive import HiveMirror
from lakehouse.mirrors.stage import mirror_due
from lakehouse.seal.stage import seal_due
from lakehouse.topics import Topic
from lakehouse.validate.stage import validate_due

STATES = {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}
NAME = DatasetName("file", "/lake/plays/silver")
EVENT = RunEvent(
    state="START", at=datetime(2026, 11, 23, tzinfo=UTC), run=str(uuid.uuid4()), namespace="test", job="plays.seal",
    hour=FIVE, release="r1", reads=Part(NAME), writes=Part(NAME),
)  # fmt: skip


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the client has written into a file, by its own configuration, once all is sent."""
    file = tmp_path / "lineage.jsonl"
    for name, value in {"TYPE": "file", "LOG_FILE_PATH": str(file), "APPEND": "true"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    emitter = Emitter()
    monkeypatch.setattr(emitting, "emit", emitter.emit)
    openlineage._client.cache_clear()

    def read() -> list[dict[str, Any]]:
        assert emitter.finish(timedelta(seconds=30))
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    yield read
    openlineage._client.cache_clear()


@pytest.fixture
def lake(topic: Topic, config: Config) -> Lake:
    made = Lake(topic, config).with_settings(lineage=LineageKeys(events="openlineage", namespace="test"))
    write_suite(config.expectations, "_every_topic", [])
    write_suite(config.expectations, "plays", [EXPECTED])
    return made


EXPECTED = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "user"}, "severity": "critical"}


def close(lake: Lake) -> None:
    """An hour with a duplicate."""
    lake.deliver(Delivery("a", 1), Delivery("b", 2, message_id="n"), Delivery("b", 2, message_id="o"))
    lake.close(FIVE)


def check_shape(event: dict[str, Any]) -> None:
    """What https://openlineage.io/spec/2-0-2/OpenLineage.json requires of a RunEvent, and of every facet."""
    assert event["eventType"] in STATES
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert {urlsplit(event["producer"]).scheme, urlsplit(event["schemaURL"]).scheme} == {"urn", "https"}
    assert uuid.UUID(event["run"]["runId"])
    parts = [event["job"], *event["inputs"], *event["outputs"]]
    assert all(part["namespace"] and part["name"] for part in parts)
    facets = [event["run"].get("facets"), *(part.get("facets") for part in parts)]
    facets += [part.get("inputFacets") for part in event["inputs"]] + [
        part.get("outputFacets") for part in event["outputs"]
    ]
    for facet in (facet for each in facets for facet in (each or {}).values()):
        assert urlsplit(facet["_producer"]).scheme
        assert urlsplit(facet["_schemaURL"]).scheme == "https"


def test_each_stage_is_a_run_from_what_it_read_to_what_it_wrote(
    lake: Lake, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    close(lake)
    seal_due(lake.topic, lake.config, run="r")
    validate_due(lake.topic, lake.config, run="r", log_runs=lambda tables: None)
    mirror_due(lake.topic, lake.config, None, run="r")
    events = sent()
    for event in events:
        check_shape(event)
    jobs = ["plays.seal", "plays.validate", "plays.mirror.folder"]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        (job, state) for job in jobs for state in ("START", "COMPLETE")
    ]
    assert len({event["run"]["runId"] for event in events}) == 3
    sealed, judged, mirrored = events[1::2]
    silver = f"{lake.settings.sealed_root}/plays/silver"
    assert [event["job"]["namespace"] for event in events] == ["test"] * 6
    assert sealed["inputs"][0]["name"] == f"{lake.settings.raw_root}/plays/bronze"
    assert sealed["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == 3
    assert sealed["outputs"][0]["name"] == judged["inputs"][0]["name"] == mirrored["inputs"][0]["name"] == silver
    assert sealed["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 2
    version = sealed["outputs"][0]["facets"]["version"]["datasetVersion"]
    assert judged["inputs"][0]["facets"]["version"]["datasetVersion"] == version
    assert sealed["run"]["facets"]["lakehouse_hour"]["duplicates"] == 1
    assert sealed["run"]["facets"]["nominalTime"]["nominalStartTime"] == hours.start_of(FIVE).isoformat()
    assert mirrored["outputs"][0]["name"] == f"{lake.settings.mirrors['folder']['path']}/plays"
    assert mirrored["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 2


def test_a_verdict_is_told_with_each_expectation(lake: Lake, sent: Callable[[], list[dict[str, Any]]]) -> None:
    close(lake)
    tested = EXPECTED | {"type": "expect_column_values_to_be_between", "kwargs": {"column": "n", "max_value": -1}}
    write_suite(lake.config.expectations, "plays", [EXPECTED, tested])
    seal_due(lake.topic, lake.config, run="r")
    validate_due(lake.topic, lake.config, run="r", log_runs=lambda tables: None)
    judged = sent()[-1]
    assert (judged["eventType"], judged["run"]["facets"]["lakehouse_hour"]["state"]) == ("COMPLETE", "invalid")
    told = judged["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [(each["column"], each["success"], each["severity"]) for each in told if "column" in each] == [
        ("user", True, "error"), ("n", False, "error"),
    ]  # fmt: skip


def test_a_run_that_fails_is_told_with_its_error(
    lake: Lake, sent: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    close(lake)
    seal_due(lake.topic, lake.config, run="r")
    validate_due(lake.topic, lake.config, run="r", log_runs=lambda tables: None)
    Path(lake.settings.mirrors["folder"]["path"]).write_text("no folder")
    with pytest.raises(MirrorError) as refused:
        mirror_due(lake.topic, lake.config, None, run="r")
    failed = sent()[-1]
    assert (failed["eventType"], failed["job"]["name"]) == ("FAIL", "plays.mirror.folder")
    assert failed["run"]["facets"]["errorMessage"]["message"] == str(refused.value)
    check_shape(failed)


def test_nothing_is_told_unless_the_configuration_says_so(lake: Lake, sent: Callable[[], list[dict[str, Any]]]) -> None:
    close(lake)
    silent = lake.with_settings(lineage=LineageKeys())
    assert seal_due(silent.topic, silent.config, run="r")
    assert sent() == []


def test_a_server_that_hangs_delays_no_seal(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """It takes the connection and never answers; the client's own patience is five seconds, and it tries again."""
    listening = socket.create_server(("127.0.0.1", 0))
    request.addfinalizer(listening.close)
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
    openlineage._client.cache_clear()
    emitter = Emitter()
    monkeypatch.setattr(emitting, "emit", emitter.emit)
    close(lake)
    assert seal_due(lake.topic, lake.config, run="r")
    began = time.monotonic()
    assert not emitter.finish(timedelta(milliseconds=10)), "the server has answered"
    assert time.monotonic() - began < 5
    openlineage._client.cache_clear()


def test_a_server_that_is_gone_costs_events_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A week of it must not fill the log."""

    def refuse(event: RunEvent) -> None:
        raise ConnectionError("no route to host")

    emitter = Emitter(refuse)
    for _ in range(3):
        emitter.emit(EVENT)
    assert emitter.finish()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("lakehouse")]
    assert said == ["lineage: events=1 next=left out error=no route to host"]


def test_what_no_server_takes_is_left_out_and_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    hangs, taken = threading.Event(), threading.Event()

    def send(event: RunEvent) -> None:
        taken.set()
        hangs.wait(30)

    emitter = Emitter(send, most_waiting=1)
    emitter.emit(EVENT)
    assert taken.wait(30)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            emitter.emit(EVENT)
    hangs.set()
    assert emitter.finish(timedelta(seconds=30))
    assert "its server is too slow" in caplog.text


def test_a_seal_that_is_refused_is_refused_all_the_same(lake: Lake, sent: Callable[[], list[dict[str, Any]]]) -> None:
    """What is told changes nothing of what an operator sees."""
    with pytest.raises(SealError, match="has not closed"):
        lake.sealer().seal(FIVE)
    assert [event["eventType"] for event in sent()] == ["START", "FAIL"]


@pytest.mark.parametrize(
    ("address", "namespace", "name"),
    [
        ("/data/lake/plays/silver", "file", "/data/lake/plays/silver"),
        ("file:///data/lake/plays", "file", "/data/lake/plays"),
        ("gs://lake/raw/plays/bronze", "gs://lake", "raw/plays/bronze"),
        ("hdfs://namenode:8020/lake/plays", "hdfs://namenode:8020", "/lake/plays"),
    ],
)
def test_a_folder_is_named_as_the_specification_says(address: str, namespace: str, name: str) -> None:
    assert dataset_at(address) == (namespace, name)


def test_a_table_at_a_target_is_named_as_the_specification_says(topic: Topic) -> None:
    hive = SimpleNamespace(options=SimpleNamespace(host="hive", port=10000, database="lake"))
    assert HiveMirror.dataset(hive, topic) == ("hive://hive:10000", "lake.plays")  # type: ignore[arg-type]
    there = SimpleNamespace(_dataset=SimpleNamespace(address=lambda table: f"project.lake.{table}"))
    assert BigQueryMirror.dataset(there, topic) == ("bigquery", "project.lake.plays")  # type: ignore[arg-type]


def test_an_application_without_the_client_says_what_to_install(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its start, not in an hour's log."""
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="extra `lineage`"):
        Application(lake.config, (lake.topic,))


def test_the_client_is_imported_by_who_sends_alone() -> None:
    """It takes half a second, which every command would pay."""
    code = "import sys, lakehouse.application; sys.exit('openlineage.client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
