"""A secret that stands in the configuration is in nothing that is said or kept, whatever is wrong with its form."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from mirror_targets import HOUR, Lake, plays

from lakehouse import concealed
from lakehouse.cli import app
from lakehouse.concealed import HIDDEN, conceal_in_logs, learn, without_secrets
from lakehouse.config import Config, load
from lakehouse.errors import LakehouseError, MirrorError
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.stage import mirror_due
from lakehouse.operations import report
from lakehouse.operations.stage_failures import record_stage_failure
from lakehouse.store.history import Entry
from lakehouse.store.ledger import LedgerTable
from lakehouse.store.place import Place
from lakehouse.topics import Topic
from lakehouse.validate import mlflow_runs
from lakehouse.validate.scan import HourScan
from lakehouse.validate.stage import validate_due
from tests.clock import NOON
from tests.lake import FIVE, Delivery, begin_runs, write_suite
from tests.lake import Lake as SealedLake

SECRET = "MIIEvQIBADANBgkq7hkiG9w0BAQ"
KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
ACCOUNT = {"type": "service_account", "client_email": "a@b.c", "private_key_id": "f00", "private_key": KEY}
FORMS: dict[str, Any] = {
    "text": SECRET,
    "document": json.dumps(ACCOUNT),
    "mapping": ACCOUNT,
    "list": [SECRET],
    "list of mappings": [ACCOUNT],
    "set": {SECRET: None},
    "key": KEY,
}
PLACES = {
    "lake": lambda value: {"storage_options": {"google_service_account_key": value}},
    "lake, by path": lambda value: {"storage_options": {"google_service_account": value}},
    "lake, whole": lambda value: {"storage_options": value},
    "mirror": lambda value: {"mirrors": {"copy": {"kind": "folder", "path": "x", "storage_options": {"token": value}}}},
    "mirror, beside": lambda value: {"mirrors": {"copy": {"kind": "folder", "path": "x", "password": value}}},
    "unknown key": lambda value: {"service_account_key": value},
    "elsewhere": lambda value: {"mlflow": {"credentials": value}},
    "spark": lambda value: {"spark": {"spark.hadoop.fs.s3a.secret.key": value}},
}


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    before = concealed.know_only(())
    yield
    concealed.know_only(before)


def conf_with(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "topics").mkdir()
    conf = folder / "test.yaml"
    conf.write_text(yaml.safe_dump({"raw_root": str(folder / "lake"), **values}))
    return conf


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_no_command_shows_a_secret_in_whatever_form_and_place(
    place: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it can be used, nothing is wrong; where not, the error names the key."""
    conf = conf_with(tmp_path, PLACES[place](FORMS[form]))
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit):
            app.main(["--conf", str(conf), "topics", "check", *options])
        with pytest.raises(SystemExit):
            app.main(["--conf", str(conf), "status", *options])
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_what_others_say_of_a_secret_is_not_handed_on(place: str, form: str) -> None:
    """Delta, Hadoop and Google put what they were given into their errors, as text or in Python's notation."""
    learn(PLACES[place](FORMS[form]))
    value = FORMS[form]
    for text in (str(value), repr(value), json.dumps(value, default=str), KEY):
        error = LakehouseError(text, found=text, expected=text, next_step=text)
        assert form == "set" or SECRET in text
        if SECRET in str(value) or text is not KEY:
            assert SECRET not in str(error) + repr(error) + error.found


@pytest.mark.parametrize(
    "address", ["https://ann:s3cr3t%21pass@mlflow.example.com", "postgresql://ann:s3cr3t!pass@db/x"]
)
def test_the_password_of_an_address_is_a_secret(address: str) -> None:
    learn({"mlflow": {"tracking_uri": address}})
    said = without_secrets(f"no answer from {address}; s3cr3t!pass is refused")
    assert "s3cr3t" not in said
    assert "ann:" in said


@pytest.mark.parametrize(
    "settings",
    [
        {"raw_root": f"https://store/x?sig={SECRET}&v=1"},
        {"mlflow": {"tracking_uri": f"http://h/?access_token={SECRET}"}},
        {"spark": {"spark.driver.extraJavaOptions": f"-Da=1 -Djavax.net.ssl.keyStorePassword={SECRET}"}},
        {"spark": f"spark.hadoop.secret={SECRET}"},
        {"spark": {"spark.hadoop.fs.x.accessKey": SECRET}},
        {"mirrors": {"copy": {"dsn": f"Host=h;AccountKey={SECRET};Port=1"}}},
        {"storage_options": {"Zx9QwErTy12345Secret99": 1}},
    ],
)
def test_a_secret_within_a_text_is_known(settings: dict[str, Any]) -> None:
    """A signed address, an option of a program, a connection string."""
    learn(settings)
    found = without_secrets(json.dumps(settings))
    assert SECRET not in found
    assert "Zx9Qw" not in found
    assert HIDDEN in found


def test_a_value_that_yaml_cannot_read_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = conf_with(tmp_path, {})
    conf.write_text(f"raw_root: x\npassword: !!int {SECRET}\n")
    with pytest.raises(SystemExit) as ended:
        app.main(["--conf", str(conf), "status"])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert "not of the type that its tag names" in err
    assert SECRET not in err


def test_what_is_no_secret_is_shown() -> None:
    """Else errors would lose their words: switches, numbers, paths, kinds of mirrors with odd names."""
    options = {"google_service_account": "/etc/key.json", "aws_region": "eu-north-1", "token": "true"}
    mirrors = {"secret_store": {"kind": "folder", "path": "/mnt/copies"}, "b": {"password_env": "HIVE_PASSWORD"}}
    learn({"storage_options": options, "mirrors": mirrors})
    text = "folder /mnt/copies true /etc/key.json eu-north-1 HIVE_PASSWORD"
    assert without_secrets(text) == text


def test_logs_and_their_traces_show_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    learn({"storage_options": {"secret": SECRET}})
    handler = logging.StreamHandler(sys.stderr)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        conceal_in_logs()
        try:
            raise ValueError(f"a client was given {SECRET}")
        except ValueError as error:
            logging.getLogger("lakehouse").error("mirror: error=%s", error, exc_info=error)
    finally:
        root.removeHandler(handler)
    said = capsys.readouterr().err
    assert (SECRET in said, HIDDEN in said, "Traceback" in said) == (False, True, True)


def test_neither_ledger_nor_errors_keep_a_secret(lake: Lake, config: Config, topic: Topic) -> None:
    """What a target says goes into rows that are never changed."""

    class Telling:
        name, hours_at_once = "folder", 1

        def publish(self, *_: object, **__: object) -> None:
            raise RuntimeError(f"refused: {json.dumps(ACCOUNT)}")

        def hours(self, _: object) -> set[str]:
            return set()

    learn({"storage_options": {"google_service_account_key": json.dumps(ACCOUNT)}})
    lake.cleared(topic, HOUR, plays(["a"], topic))
    with pytest.raises(MirrorError) as raised:
        mirror_due(topic, config, None, run="r", mirrors={"folder": Telling()})  # type: ignore[dict-item]
    record_stage_failure(lake.tables(topic), "mirror", raised.value, "r")
    rows = [str(entry.details) for entry in lake.history(topic).entries]
    assert any(entry.state == "mirror_failed" for entry in lake.history(topic).entries)
    assert SECRET not in "".join(rows) + str(raised.value)


@pytest.fixture
def lake(config: Config) -> Lake:
    return Lake(config)


@pytest.mark.parametrize(
    "name", ["google_service_account_key", "google_service_account", "google_application_credentials"]
)
@pytest.mark.parametrize("form", ["text", "document", "key"])
def test_a_lake_that_is_reached_with_a_broken_key_does_not_show_it(name: str, form: str) -> None:
    """By the real client, which reads it first."""
    options = {f"google_{name}": FORMS[form], "google_base_url": "http://127.0.0.1:9", "max_retries": "0"}
    learn({"storage_options": options})
    with pytest.raises(LakehouseError) as raised:
        Place("gs://no-such-bucket-of-ours/plays/bronze", options).table()
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("wrong", [{"private_key": SECRET}, [SECRET], 5])
def test_an_error_of_a_mirror_s_options_shows_no_secret(wrong: Any, tmp_path: Path) -> None:
    values = {"kind": "folder", "path": "x", "storage_options": {"google_service_account_key": wrong}}
    settings = load(conf_with(tmp_path, {"mirrors": {"copy": values}})).settings
    with pytest.raises(LakehouseError, match=r"storage_options.google_service_account_key.*not shown") as raised:
        mirror_named("copy", settings, Path("conf/local.yaml"), None)
    assert SECRET not in str(raised.value)


# --- what is kept of a verdict: results, pages, MLflow ------------------------------------------------------------


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def judged(config: Config, topic: Topic, monkeypatch: pytest.MonkeyPatch) -> SealedLake:
    """A sealed hour whose one expectation has no answer, since the reader says what it was given, secret included."""
    learn({"storage_options": {"google_service_account_key": json.dumps(ACCOUNT)}})
    real = HourScan.metrics

    def telling(self: HourScan, measures: dict[Any, Any]) -> dict[Any, Any]:
        if all(isinstance(key, tuple) and key[0] == "also" for key in measures):
            return real(self, measures)
        raise duckdb.InvalidInputException(f"refused by {json.dumps(ACCOUNT)}")

    monkeypatch.setattr(HourScan, "metrics", telling)
    sealed = SealedLake(topic, config)
    begin_runs(config.settings)
    count = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}}
    write_suite(config.expectations, "_every_topic")
    write_suite(config.expectations, topic.name, [count])
    sealed.deliver(Delivery("a", 1))
    sealed.seal(FIVE)
    return sealed


def test_no_result_page_or_mlflow_run_keeps_a_secret(judged: SealedLake, config: Config, tmp_path: Path) -> None:
    """An error of a library can be what an expectation came to: it goes to all three."""
    validate_due(judged.topic, config, run="r", log_runs=lambda tables: None)
    assert mlflow_runs.log_due(judged.tables) == 1
    report.build(config, str(tmp_path / "site"), NOON)
    for page in (Path(judged.tables.reports.uri, FIVE, "r1.html"), tmp_path / "site" / "plays" / f"{FIVE}.html"):
        assert f"refused by {HIDDEN}" in page.read_text()
    artifacts = list(Path(config.settings.sealed_root, "mlflow").rglob("result.json"))
    assert [HIDDEN in path.read_text() for path in artifacts] == [True]
    assert SECRET.encode() not in bytes_of(tmp_path)


def test_what_an_older_release_kept_is_not_handed_on(judged: SealedLake, config: Config, tmp_path: Path) -> None:
    """Its results and rows may hold what was no secret to it: neither MLflow nor a page gets that."""
    validate_due(judged.topic, config, run="r", log_runs=lambda tables: None)
    reports = Path(judged.tables.reports.uri, FIVE)
    for kept in (reports / "r1.json", reports / "r1.html"):
        kept.write_text(kept.read_text().replace(HIDDEN, SECRET))
        assert SECRET in kept.read_text()
    table = LedgerTable(judged.tables.sealed.below("ledger").table())
    table.append(Entry(FIVE, "released", datetime.now(UTC), "x", {"by": "ann", "reason": f"seen {SECRET}"}))
    mlflow_runs.log_due(judged.tables)
    report.build(config, str(tmp_path / "site"), NOON)
    assert "seen (not shown)" in (tmp_path / "site" / "plays" / f"{FIVE}.html").read_text()
    for folder in (tmp_path / "site", Path(config.settings.sealed_root, "mlflow")):
        assert SECRET.encode() not in bytes_of(folder)


def test_what_breaks_a_page_is_said_without_secrets(
    judged: SealedLake, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def telling(*_: object, **more: object) -> Any:
        raise RuntimeError(f"a client was given {KEY}")

    monkeypatch.setattr(report, "read_topic", telling)
    report.build(config, str(tmp_path / "site"), NOON)
    page = (tmp_path / "site" / "index.html").read_text()
    assert (SECRET in page, "a client was given" in page) == (False, True)


def test_a_secret_of_digits_breaks_no_number(lake: Lake, topic: Topic, config: Config) -> None:
    """Only texts are searched: a count that looks like a password stays a count."""
    learn({"mirrors": {"copy": {"password": 123456}}})
    ledger = lake.tables(topic).ledger("test")
    ledger.record("held", None, {"rows": 123456, "problem": "123456 is refused"})
    (entry,) = [entry for entry in lake.history(topic).entries if entry.state == "held"]
    assert entry.details == {"rows": 123456, "problem": f"{HIDDEN} is refused"}
