"""What the doctor finds: each failure is put into a server that speaks the real protocol, and must be named."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import yaml
from fake_bigquery import FakeBigQuery
from fake_bigquery import Refused as RefusedByBigQuery
from fake_bigquery import serving as serving_bigquery
from fake_dataproc import FakeDataproc, Process
from fake_dataproc import serving as serving_dataproc
from fake_gcs import FakeGoogleStorage
from fake_gcs import serving as serving_store
from fleets import topic_values
from google.cloud.pubsub_v1 import PublisherClient
from lake import write_conf
from pyspark.sql import SparkSession
from rich.cells import cell_len
from served import served

from lakehouse.cli import app
from lakehouse.cli import dataproc as dataproc_commands
from lakehouse.cli.doctor import _COLUMNS
from lakehouse.cli.output import table
from lakehouse.config import Config, load
from lakehouse.doctor import findings as findings_module
from lakehouse.doctor import google, machine, stores
from lakehouse.doctor.examination import as_document, checks_of, examined, from_document
from lakehouse.doctor.findings import Check, Failed, Finding, NotTried, findings
from lakehouse.errors import ConfigError
from lakehouse.fleet.dataproc import one_job
from lakehouse.fleet.dataproc.client import EMULATOR
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.faults import Faults
from lakehouse.sandbox.monitoring import DENIED, MISSING, Sampling
from lakehouse.store.files import GoogleStorage, storage_for
from tests.servers import object_store

HOUSE = Path(__file__).parent.parent
NAMES = ("plays", "skips")


class Site:
    """An environment with a broker of its own; `settings` and topics are the test's."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder, self.broker = folder, broker
        self.settings: dict[str, Any] = {"raw_root": str(folder / "lake")}
        self.topics: dict[str, dict[str, Any]] = {name: topic_values(name) for name in NAMES}
        for name in NAMES:
            broker.create(f"projects/test/subscriptions/{name}")

    @property
    def conf(self) -> Path:
        return write_conf(self.folder, self.settings, self.topics)

    @property
    def config(self) -> Config:
        return load(self.conf)

    def found(self, only: str = "") -> dict[str, Finding]:
        """By their checks, of those whose names begin so."""
        checks = [each for each in checks_of(self.config, [*self.config.topics.values()]) if each.name.startswith(only)]
        return {each.check: each for each in findings(checks)}

    def one(self, check: str) -> Finding:
        (found,) = self.found(check).values()
        return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with Broker() as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        monkeypatch.setenv("MONITORING_EMULATOR_HOST", broker.address)
        yield Site(tmp_path, broker)


# --- checks, whatever they ask -------------------------------------------------------------------------------------


def test_a_check_that_hangs_or_kills_its_thread_stops_no_other() -> None:
    hanging = threading.Event()

    def hangs() -> str:
        hanging.wait(30)
        return "late"

    def dies() -> str:
        raise SystemExit

    def none() -> str:
        raise NotTried("nothing to ask")

    short = timedelta(seconds=0.2)
    checks = [Check(f"hangs {number}", hangs, "wait", short) for number in range(20)]
    checks += [Check("dies", dies, "see"), Check("none", none, ""), Check("well", lambda: "fine", "")]
    began = time.monotonic()
    found = findings(checks)
    assert time.monotonic() - began < 5
    assert [each.outcome for each in found] == ["fails"] * 21 + ["not tried", "ok"]
    assert (found[0].found, found[0].what_to_do) == ("no answer within 0.2 s", "wait")
    assert found[-1] == Finding("well", "ok", "fine", seconds=found[-1].seconds)
    hanging.set()


def test_what_a_check_says_goes_before_what_is_said_of_all_its_failures() -> None:
    def fails() -> str:
        raise Failed("a", "do b")

    def ours() -> str:
        raise ConfigError("subject", found="this", expected="that", next_step="Do it.")

    found = findings([Check("x", fails, "do c"), Check("y", ours, "do d")])
    assert [(each.found, each.what_to_do) for each in found] == [("a", "do b"), ("subject: this", "Do it.")]


def test_findings_travel_from_a_job_as_they_are() -> None:
    made = [Finding("a", "ok", "b", "", 0.25), Finding("c", "fails", "d", "e", 1.0)]
    assert from_document(json.dumps(as_document(made)).encode()) == made


# --- all is well ---------------------------------------------------------------------------------------------------


def test_where_all_is_there_nothing_fails_and_nothing_is_left(site: Site) -> None:
    site.settings["mirrors"] = {"copy": {"kind": "folder", "path": str(site.folder / "copy")},
                                "duck": {"kind": "duckdb", "path": str(site.folder / "duck.db")}}  # fmt: skip
    site.topics["plays"]["mirrors"] = ["copy", "duck"]
    found = site.found()
    assert {name: each.found for name, each in found.items() if each.outcome == "fails"} == {}
    assert {name for name, each in found.items() if each.outcome == "not tried"} == {
        "packages of executors", "clock", "Google credentials"}  # fmt: skip
    assert found["subscriptions: viewer"].found == "2 of 2, ack deadlines 10 s or longer"
    left = [path for path in site.folder.rglob("*") if path.is_file() and "conf" not in path.parts]
    assert left == []


def test_no_message_is_taken_from_anybody(site: Site) -> None:
    with PublisherClient() as publisher:
        publisher.publish("projects/test/topics/plays", b"{}").result()
    site.found("subscriptions")
    request = b"".join([b"\n", bytes([len("projects/test/subscriptions/plays")]), b"projects/test/subscriptions/plays",
                        b"\x18\x01"])  # fmt: skip
    with grpc.insecure_channel(site.broker.address) as channel:
        answer = channel.unary_unary("/google.pubsub.v1.Subscriber/Pull")(request, timeout=10)
    assert b"{}" in answer, "it waits, and is not leased"


# --- packages ------------------------------------------------------------------------------------------------------


def test_a_package_that_is_missing_is_named_with_its_extra(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.NEEDED, "no_such_module", "no-such-package")
    monkeypatch.setitem(machine.EXTRAS, "quality", ("x", ("no_such_extra_module",)))
    failed = site.one("packages of the driver")
    assert failed.outcome == "fails"
    assert "no_such_module" in failed.found
    assert "no_such_extra_module of extra quality" in failed.found
    assert "lakehouse dataproc package" in failed.what_to_do


def test_another_spark_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SPARK", "9.9")
    assert site.one("Python and Spark").outcome == "fails"


def test_what_topics_need_of_extras_follows_from_their_configuration(site: Site) -> None:
    site.settings["mirrors"] = {"bq": {"kind": "bigquery", "project": "p-12345", "dataset": "d"}}
    site.topics["plays"]["mirrors"] = ["bq"]
    assert machine.extras_of(site.config, site.config.topics.values()) == ["bigquery", "quality"]


@pytest.mark.slow
def test_executors_have_the_same_packages_or_it_is_said(
    site: Site, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose probe runs in Spark's own workers, as on a cluster."""
    checks = [each for each in checks_of(site.config, [], lambda: spark) if each.name == "packages of executors"]
    (well,) = findings(checks)
    assert (well.outcome, "the same in" in well.found) == ("ok", True)
    host, ours = machine.probe()
    here = os.getpid()

    real = machine.probe

    def probe(_: Any = None) -> tuple[str, Mapping[str, str]]:
        return (host, {**ours, "pyarrow": "1.0"}) if os.getpid() == here else real()

    monkeypatch.setattr(machine, "probe", probe)
    (failed,) = findings(checks)
    assert failed.outcome == "fails"
    assert f"pyarrow {ours['pyarrow']} on" in failed.found


# --- stores --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store() -> Iterator[object_store.ObjectStoreServer]:
    with object_store.serving() as server:
        yield server


def on_store(site: Site, address: str, root: str) -> None:
    site.settings |= {
        "raw_root": root, "storage_options": {"google_base_url": address, "google_skip_signature": "true"},
    }  # fmt: skip


def test_a_lake_on_a_store_is_asked_for_all_that_tables_need(site: Site, store: object_store.ObjectStoreServer) -> None:
    on_store(site, store.address, "gs://lake/raw")
    store.requests()
    assert [each.outcome for each in site.found("raw_root").values()] == ["ok", "ok"]
    kinds = {each.kind for each in store.requests()}
    assert {"insert", "get", "list", "delete"} <= kinds
    assert storage_for("gs://lake/raw", site.config.settings.storage_options).listing("_doctor") == []


def test_a_store_that_refuses_is_said_with_what_it_refused(site: Site, store: object_store.ObjectStoreServer) -> None:
    on_store(site, store.address, "gs://lake/refused")
    store.make_read_only("refused/_doctor")
    for found in site.found("raw_root").values():
        assert found.outcome == "fails"
        assert found.found.startswith("cannot create: 403")
        assert "roles/storage.objectAdmin" in found.what_to_do


def test_a_bucket_that_is_not_there_is_said(site: Site) -> None:
    with serving_store(FakeGoogleStorage(site.folder / "bucket", bucket="another")) as address:
        on_store(site, address, "gs://lake/raw")
        assert "bucket does not exist" in site.one("raw_root: objects").found


@contextmanager
def serving_objects(store: object_store.ObjectStore) -> Iterator[str]:
    """In this process, so that a test can change what it does."""
    with served(type("Connection", (object_store._Connection,), {"store": store})) as address:
        yield address


class Partly(object_store.ObjectStore):
    """Refuses one kind of request, as roles such as objectCreator and objectViewer have it."""

    refused = ""

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> object_store.Answer:
        is_listing = method == "GET" and urlsplit(url).path.endswith("/o")
        if (self.refused == "delete" and method == "DELETE") or (self.refused == "list" and is_listing):
            return object_store._refused(403, "forbidden", f"does not have storage.objects.{self.refused} access")
        return super().answer(method, url, headers, body)


@pytest.mark.parametrize("what", ["delete", "list"])
def test_a_right_that_is_missing_is_named(site: Site, what: str) -> None:
    store = Partly()
    store.refused = what
    with serving_objects(store) as address:
        on_store(site, address, "gs://lake/raw")
        assert site.one("raw_root: objects").found.startswith(f"cannot {what}: 403")


class Unconditional(object_store.ObjectStore):
    """Takes every write, whatever its condition, as some emulators do."""

    def put(self, name: str, content: bytes, generation: str | None = None) -> Any:
        return super().put(name, content)


def test_a_store_that_ignores_conditions_is_no_place_for_a_lake(site: Site) -> None:
    """It loses commits without a word."""
    with serving_objects(Unconditional()) as address:
        on_store(site, address, "gs://lake/raw")
        found = site.found("raw_root")
    assert found["raw_root: objects"].outcome == "ok"
    assert found["raw_root: put-if-absent"].found == "a second conditional write replaced the first"
    assert "write one commit" in found["raw_root: put-if-absent"].what_to_do


def test_a_store_that_hangs_is_given_up_and_the_rest_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, store: object_store.ObjectStoreServer
) -> None:
    on_store(site, store.address, "gs://lake/slow")
    store.delay(20, "slow/_doctor")
    checks = checks_of(site.config, [*site.config.topics.values()])
    hurried = [Check(each.name, each.ask, each.what_to_do, timedelta(seconds=3)) for each in checks[3:]]
    found = {each.check: each for each in findings(hurried)}
    assert found["raw_root: objects"].found == "no answer within 3 s"
    assert found["subscriptions: viewer"].outcome == "ok"


@pytest.mark.parametrize(("shift", "outcome"), [(0, "ok"), (30, "ok"), (-300, "fails"), (300, "fails")])
def test_a_clock_that_is_wrong_is_said_with_by_how_much(shift: int, outcome: str) -> None:
    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() + shift)

        def log_message(self, format: str, *values: object) -> None:
            """Nothing."""

    with served(Store) as address:
        (found,) = findings([Check("clock", lambda: stores._clock("gs://b", {"google_base_url": address}), "NTP")])
    assert found.outcome == outcome
    if outcome == "fails":
        assert found.found.endswith("behind the store's" if shift > 0 else "ahead of the store's")


def test_a_store_out_of_reach_is_no_question_of_the_clock() -> None:
    (found,) = findings(
        [Check("clock", lambda: stores._clock("gs://b", {"google_base_url": "http://127.0.0.1:9"}), "NTP")]
    )
    assert "Private Google Access" in found.what_to_do


# --- Google --------------------------------------------------------------------------------------------------------


class Denies(Faults):
    def __init__(self, method: str) -> None:
        self._method = method

    def refused(self, method: str) -> grpc.StatusCode | None:
        return grpc.StatusCode.PERMISSION_DENIED if method == self._method else None


@pytest.mark.parametrize(
    ("method", "fails", "role"),
    [
        ("GetSubscription", "subscriptions: viewer", "roles/pubsub.viewer"),
        ("ModifyAckDeadline", "subscriptions: subscriber", "roles/pubsub.subscriber"),
    ],
)
def test_each_role_is_found_by_the_call_that_needs_it(site: Site, method: str, fails: str, role: str) -> None:
    site.broker.faults = Denies(method)
    found = site.found("subscriptions")
    assert {name for name, each in found.items() if each.outcome == "fails"} == {fails}
    assert role in found[fails].what_to_do
    assert found[fails].found.startswith("2 of 2 fail: plays: ")


def test_a_subscription_that_is_not_there_is_named(site: Site) -> None:
    site.topics["likes"] = topic_values("likes")
    for found in site.found("subscriptions").values():
        assert found.outcome == "fails"
        assert found.found.startswith("1 of 3 fail: likes: ")


class Holds(Faults):
    """Answers of one subscription come when nobody waits any more."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self._held = 0

    def refused(self, method: str) -> grpc.StatusCode | None:
        if method == "GetSubscription" and not self._held:
            self._held += 1
            self.is_over.wait(60)
        return None


def test_a_subscription_that_does_not_answer_is_not_counted_as_well(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "_PATIENCE", timedelta(seconds=0.5))
    site.broker.faults = holds = Holds()
    failed = site.one("subscriptions: viewer")
    holds.is_over.set()
    assert (failed.outcome, "1 of 2 fail" in failed.found) == ("fails", True)


def test_nobody_who_is_not_logged_in_is_told_to_grant_roles(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PUBSUB_EMULATOR_HOST", "MONITORING_EMULATOR_HOST"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in ("Google credentials", "subscriptions: viewer", "subscriptions: subscriber", "Cloud Monitoring"):
        found = site.one(name)
        assert (found.outcome, found.what_to_do) == ("fails", findings_module.LOGIN), name


@pytest.mark.parametrize(
    ("sampling", "found"),
    [
        (DENIED, "Cloud Monitoring answered PermissionDenied"),
        (MISSING, "no sample within 5 min of 2 subscriptions: plays, skips"),
        (Sampling(age=timedelta(minutes=9)), "no sample within 5 min"),
    ],
)
def test_monitoring_without_samples_is_said(site: Site, sampling: Sampling, found: str) -> None:
    """Without them no hour closes."""
    site.broker.sampling = sampling
    failed = site.one("Cloud Monitoring")
    assert failed.outcome == "fails"
    assert failed.found.startswith(found)
    assert "roles/monitoring.viewer" in failed.what_to_do


def test_monitoring_is_not_asked_where_the_frontier_does_not_come_from_it(site: Site) -> None:
    site.settings["frontier"] = {"source": "drained"}
    assert site.one("Cloud Monitoring").outcome == "not tried"


# --- mirrors -------------------------------------------------------------------------------------------------------


DATASET = {"datasetReference": {"projectId": "p", "datasetId": "d"}}


def with_bigquery(site: Site, address: str) -> None:
    site.settings["mirrors"] = {
        "bq": {"kind": "bigquery", "project": "p", "dataset": "d", "endpoint": address, "patience": "2 seconds",
               "staging": "gs://lake/staging"},
    }  # fmt: skip
    site.topics["plays"]["mirrors"] = ["bq"]


def test_bigquery_is_asked_for_jobs_and_tables_and_left_as_it_was(site: Site) -> None:
    fake = FakeBigQuery(site.folder / "gcs")
    with serving_bigquery(fake) as address:
        with_bigquery(site, address)
        before = site.found("mirror bq")
        fake._datasets["d"] = DATASET
        after = site.found("mirror bq")
    assert before["mirror bq: tables"].outcome == "not tried"
    assert [each.outcome for each in after.values()] == ["ok", "ok", "ok"], after
    assert fake.tables == {}


@pytest.mark.parametrize(
    ("path", "fails", "role"),
    [("queries", "jobs", "roles/bigquery.jobUser"), ("tables", "tables", "roles/bigquery.dataEditor")],
)
def test_bigquerys_roles_are_told_apart(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: str, fails: str, role: str
) -> None:
    fake = FakeBigQuery(site.folder / "gcs")
    fake._datasets["d"] = DATASET
    route = fake._route

    def refuses(method: str, parts: list[str], query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        if method == "POST" and parts[-1] in (path, "jobs" if path == "queries" else path):
            raise RefusedByBigQuery(403, "accessDenied", f"Access Denied: Project p: no permission for {path}")
        return route(method, parts, query, body)

    monkeypatch.setattr(fake, "_route", refuses)
    with serving_bigquery(fake) as address:
        with_bigquery(site, address)
        found = site.found("mirror bq")
    assert {name for name, each in found.items() if each.outcome == "fails"} == {f"mirror bq: {fails}"}
    assert role in found[f"mirror bq: {fails}"].what_to_do


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_hive_server_that_nobody_reaches_is_said(site: Site) -> None:
    site.settings["mirrors"] = {
        "hive": {"kind": "hive", "host": "127.0.0.1", "port": closed_port(), "database": "lake",
                 "path": str(site.folder / "hive")},
    }  # fmt: skip
    site.topics["plays"]["mirrors"] = ["hive"]
    failed = site.one("mirror hive: server")
    assert (failed.outcome, "HiveServer2" in failed.what_to_do) == ("fails", True)


def test_a_folder_that_cannot_be_written_is_said(site: Site) -> None:
    (site.folder / "file").write_text("")
    site.settings["mirrors"] = {"copy": {"kind": "folder", "path": str(site.folder / "file" / "below")}}
    site.topics["plays"]["mirrors"] = ["copy"]
    assert site.one("mirror copy: folder").found.startswith("cannot create: ")


def test_hdfs_is_asked_only_where_spark_runs(site: Site) -> None:
    site.settings["mirrors"] = {"far": {"kind": "folder", "path": "hdfs://127.0.0.1:9/mirror"}}
    site.topics["plays"]["mirrors"] = ["far"]
    assert site.one("mirror far: folder").outcome == "not tried"


# --- the command ---------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        app.main(list(arguments))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_the_command_has_a_line_for_each_check_and_fails_with_one_of_them(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, "doctor", "--conf", str(site.conf))
    assert code == 0
    assert len(out.splitlines()) == 1 + len(site.found())
    site.broker.faults = Denies("GetSubscription")
    code, out, _ = run(capsys, "doctor", "--conf", str(site.conf), "--json")
    assert code == 1
    assert json.loads(out)["failing"] == 1
    code, out, _ = run(capsys, "doctor", "skips", "--conf", str(site.conf))
    assert (code, "1 of 1 fail: skips" in out) == (1, True)
    assert "what to do         Grant roles/pubsub" in out
    code, _, err = run(capsys, "doctor", "nobody", "--conf", str(site.conf))
    assert (code, "topic 'nobody'" in err) == (2, True)


def test_on_a_terminal_a_check_is_one_line() -> None:
    """Which fits 80 columns; what failed is below, whole."""
    long = [
        Finding(f"mirror of a long name {number}: configuration", "fails", "word " * 60, "x") for number in range(3)
    ]
    lines, left_out = table(_COLUMNS, [*long, Finding("clock", "not tried", "a folder has none")], 80)
    assert max(cell_len(line.plain) for line in lines) <= 80
    assert left_out == []
    assert "not tried" in lines[-1].plain


@pytest.mark.long
@pytest.mark.timeout(400)
def test_on_a_cluster_it_runs_as_a_job_with_what_was_packed(
    site: Site,
    store: object_store.ObjectStoreServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job's own files, from the store, by a real Spark; only the cluster is a stand-in."""
    monkeypatch.setattr(one_job, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(dataproc_commands, "build", lambda recipe: b"packages")
    on_store(site, store.address, "gs://lake/raw")
    site.settings["spark"] = {"spark.master": "local[1]", "spark.ui.enabled": "false"}
    conf = site.conf
    section = {"project": "example-project", "region": "europe-north1", "cluster": "lake", "folder": "gs://lake/doctor"}
    (conf.parent / "fleet.yaml").write_text(
        yaml.safe_dump({"applications": {"a": {"topics": ["*"]}}, "dataproc": section})
    )
    storage = storage_for("gs://lake", site.config.settings.storage_options)
    assert isinstance(storage, GoogleStorage)

    def process(job: Any) -> Process:
        node = site.folder / job.reference.job_id
        node.mkdir(exist_ok=True)

        def fetched(address: str) -> bytes:
            content = storage.read(address.partition("#")[0].removeprefix("gs://lake/"))
            if content is None:
                raise FileNotFoundError(address)
            return content

        (node / "main.py").write_bytes(fetched(job.pyspark_job.main_python_file_uri))
        (node / "code.zip").write_bytes(fetched(job.pyspark_job.python_file_uris[0]))
        with zipfile.ZipFile(io.BytesIO(fetched(job.pyspark_job.archive_uris[1]))) as snapshot:
            snapshot.extractall(node / "snapshot")
        prefix = "spark.yarn.appMasterEnv."
        own = {
            name.removeprefix(prefix): value
            for name, value in job.pyspark_job.properties.items()
            if name.startswith(prefix)
        }
        known = {**os.environ, **own, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
        return Process(
            [sys.executable, "main.py", *job.pyspark_job.args], str(node), {**known, "PYTHONPATH": "code.zip"}
        )

    fake = FakeDataproc(site.folder / "cluster", process)
    with serving_dataproc(fake) as address:
        monkeypatch.setenv(EMULATOR, address)
        run(capsys, "dataproc", "package", "--conf", str(conf))
        code, out, err = run(capsys, "doctor", "--on", "dataproc", "--conf", str(conf), "--json")
        logs = "".join(each.read_text() for each in (site.folder / "cluster").glob("*/driveroutput*"))
        found = {each["check"]: each for each in json.loads(out or "{}").get("checks", [])}
        assert (code, err) == (0, ""), logs[-3000:]
        assert found["packages of executors"]["outcome"] == "ok", found
        assert found["raw_root: put-if-absent"]["outcome"] == "ok"
        assert storage.listing("doctor/doctor") == [], "what the job left is taken away"


def test_what_a_job_found_is_shown_also_where_it_failed(
    site: Site, store: object_store.ObjectStoreServer, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Which it does when a check fails; what it left is taken away."""
    monkeypatch.setattr(one_job, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dataproc_commands, "build", lambda recipe: b"packages")
    on_store(site, store.address, "gs://lake/raw")
    storage = storage_for("gs://lake", site.config.settings.storage_options)
    left = [Finding("clock", "ok", "fine"), Finding("subscriptions: viewer", "fails", "2 of 2 fail", "Grant it.")]

    def process(job: Any) -> Process:
        to = job.pyspark_job.properties["spark.yarn.appMasterEnv.LAKEHOUSE_DOCTOR_TO"]
        storage.write(to.removeprefix("gs://lake/"), json.dumps(as_document(left)).encode())
        return Process([sys.executable, "-c", "import sys; sys.exit(1)"], str(site.folder), {})

    names = ["--project", "example-project", "--region", "europe-north1", "--cluster", "lake"]
    names += ["--folder", "gs://lake/found"]
    with serving_dataproc(FakeDataproc(site.folder / "cluster", process)) as address:
        monkeypatch.setenv(EMULATOR, address)
        run(capsys, "dataproc", "package", "--conf", str(site.conf), "--folder", "gs://lake/found")
        code, out, _ = run(capsys, "doctor", "--on", "dataproc", "--conf", str(site.conf), *names)
    assert (code, "what to do         Grant it." in out) == (1, True)
    assert storage.listing("found/doctor") == []


def test_a_job_that_dies_before_it_finds_anything_is_an_error(
    site: Site,
    store: object_store.ObjectStoreServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(one_job, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dataproc_commands, "build", lambda recipe: b"packages")
    on_store(site, store.address, "gs://lake/raw")
    names = [
        "--project",
        "example-project",
        "--region",
        "europe-north1",
        "--cluster",
        "lake",
        "--folder",
        "gs://lake/dies",
    ]
    fake = FakeDataproc(
        site.folder / "cluster", lambda job: Process([sys.executable, "-c", "1/0"], str(site.folder), {})
    )
    with serving_dataproc(fake) as address:
        monkeypatch.setenv(EMULATOR, address)
        run(capsys, "dataproc", "package", "--conf", str(site.conf), "--folder", "gs://lake/dies")
        code, out, err = run(capsys, "doctor", "--on", "dataproc", "--conf", str(site.conf), *names)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "found error: Google Cloud Dataproc Agent reports job failure." in err


@pytest.mark.parametrize("option", ["--project", "--region", "--cluster", "--folder", "--fleet"])
def test_what_says_where_a_job_runs_is_refused_for_checks_on_this_machine(
    site: Site, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing here would have been checked of it."""
    code, out, err = run(capsys, "doctor", "--conf", str(site.conf), option, "fleet.yaml")
    assert (code, out) == (2, "")
    assert f"Add --on dataproc, or leave {option} out." in err


def test_everything_is_asked_in_one_go(site: Site) -> None:
    """Beside one another: 300 topics must not take 300 calls' time."""
    began = datetime.now(UTC)
    examined(site.config, [*site.config.topics.values()])
    assert datetime.now(UTC) - began < timedelta(seconds=20)
