"""What one damaged file may touch: its topic, which says so; its neighbour in the same application goes on."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from two_topics import ADOPTED, DAMAGED, NEIGHBOUR, READ, TwoTopics

from lakehouse import application as doors
from lakehouse.errors import LAKE, LakeError, LakehouseError, UnexpectedError
from lakehouse.landing.manifests import manifest_path, read_manifest
from lakehouse.schemas import LEDGER
from lakehouse.store.delta import files, open_table
from lakehouse.store.files import storage_for
from tests.lake import FIVE, SEVEN, SIX

JOBS = (doors.seal, doors.validate, doors.mirror, doors.audit)
COMMANDS = (
    ("maintain", DAMAGED),
    ("report",),
    ("hours", DAMAGED),
    ("explain", DAMAGED, SIX),
    ("verify", DAMAGED),
    ("audit", DAMAGED, SIX),
    ("reconcile", DAMAGED),
    ("trace", DAMAGED, "c"),
    ("lateness", DAMAGED),
    ("status", DAMAGED),
    ("erase", DAMAGED, "--where", "n = 7", "--reason", "asked", "--by", "ann"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TwoTopics:
    return TwoTopics.made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def lake(made: TwoTopics, tmp_path: Path, spark: SparkSession) -> TwoTopics:
    # pytest uses a folder's name again, and MLflow keeps a connection to each database that it has met by name.
    return made.copied(tmp_path / uuid.uuid4().hex, spark)


def halved(file: Path) -> Path:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


def emptied(file: Path) -> Path:
    file.write_bytes(b"")
    return file


def gone(file: Path) -> Path:
    file.unlink()
    return file


def garbled(file: Path) -> Path:
    file.write_bytes(b"\xff garbage")
    return file


def newest(lake: TwoTopics, folder: str, pattern: str) -> Path:
    return sorted(lake.at(folder).rglob(pattern))[-1]


def ledger_file(lake: TwoTopics) -> Path:
    """One that the table has: others have become part of larger ones."""
    return lake.at("ledger") / files(open_table(str(lake.at("ledger")), {}))[0].path


def in_log(table: str, pattern: str, harm: Callable[[Path], Path]) -> Callable[[TwoTopics], Path]:
    return lambda lake: harm(newest(lake, f"{table}/_delta_log", pattern))


def of_six(lake: TwoTopics) -> Path:
    return next(lake.at("bronze").glob(f"{SIX}/*.parquet"))


def manifest(epoch: int, content: bytes) -> Callable[[TwoTopics], Path]:
    def write(lake: TwoTopics) -> Path:
        lake.at(manifest_path(epoch, 0)).write_bytes(content)
        return lake.at(manifest_path(epoch, 0))

    return write


def edited(epoch: int, key: str, value: object) -> Callable[[TwoTopics], Path]:
    return lambda lake: change(lake.at(manifest_path(epoch, 0)), key, value)


def change(file: Path, key: str, value: object) -> Path:
    values = json.loads(file.read_text())
    (values["files"][0] if key in values["files"][0] else values)[key] = value
    file.write_text(json.dumps(values))
    return file


def row(state: str | None, hour: str | None, details: Any) -> Callable[[TwoTopics], Path]:
    text = details if details is None or isinstance(details, str) else json.dumps(details)

    def write(lake: TwoTopics) -> Path:
        forged = {"hour": hour, "state": state, "at": datetime.now(UTC), "by": "mallory", "details": text}
        write_deltalake(str(lake.at("ledger")), pa.Table.from_pylist([forged], schema=LEDGER), mode="append")
        return lake.at("ledger")

    return write


TABLES = ("bronze", "silver", "ledger")
SEAL = {"silver_version": 99, "bronze_version": 99, "rows": 1, "id_checksum": "1", "files": 1}

NAMED: dict[str, Callable[[TwoTopics], Path]] = {
    "bronze file halved": lambda lake: halved(of_six(lake)),
    "bronze file gone": lambda lake: gone(of_six(lake)),
    "segment halved": lambda lake: halved(newest(lake, "bronze", f"{READ:012d}-*.parquet")),
    "manifest garbage": manifest(ADOPTED, b"\xff garbage"),
    "manifest empty": manifest(READ, b""),
    "manifest of another epoch": edited(READ, "epoch", 5),
    "close without keys": row("closed", SEVEN, {}),
    "seal of other types": row("sealed", SIX, {**SEAL, "revision": "x"}),
    "request of other types": row("close_requested", SEVEN, {"by": 5}),
    "ledger file halved": lambda lake: halved(ledger_file(lake)),
    "ledger file gone": lambda lake: gone(ledger_file(lake)),
    **{f"{table} log halved": in_log(table, "*.json", halved) for table in TABLES},
    "bronze log empty": in_log("bronze", "*.json", emptied),
}
"""Damages that a stage meets: it ends with an error of ours that names the file, and so does `status`."""

ODD_ROWS = (
    (None, SIX, {}),
    ("eaten", SIX, {}),
    ("closed", "noon", {"bronze_version": 3}),
    ("closed", SEVEN, None),
    ("closed", SEVEN, "{"),
    ("closed", SEVEN, {"bronze_version": 3, "through": "never"}),
    ("closed", SEVEN, {"bronze_version": -5}),
    ("started", None, {"run": 5}),
    ("held", SIX, {"reasons": 5}),
)

NOT_MET: dict[str, Callable[[TwoTopics], object]] = {
    "odd rows": lambda lake: [row(*each)(lake) for each in ODD_ROWS],
    "versions that are not there": lambda lake: [
        row("closed", SEVEN, {"bronze_version": 99_999})(lake),
        row("sealed", SIX, SEAL)(lake),
    ],
    "silver file halved": lambda lake: halved(newest(lake, "silver", f"hour={FIVE}/*.parquet")),
    "silver file gone": lambda lake: gone(newest(lake, "silver", f"hour={FIVE}/*.parquet")),
    "a manifest's neighbour": lambda lake: garbled(lake.at("segments/notes.json")),
    "checkpoints halved": lambda lake: [in_log(table, "*.checkpoint.parquet", halved)(lake) for table in TABLES],
    "checkpoints' pointers": lambda lake: [in_log(table, "_last_checkpoint", garbled)(lake) for table in TABLES],
}
"""Damages that ingest and the stages need not meet: all goes on, or ends with an error of ours."""

AT_ONCE = ("bronze file halved", "manifest garbage", "close without keys", "bronze log halved", "odd rows")
"""In `make test`; the others in `make test-all`."""
CASES = [
    pytest.param(each, marks=[] if each in AT_ONCE else [pytest.mark.long], id=each) for each in (*NAMED, *NOT_MET)
]


@pytest.mark.parametrize("damage", CASES)
def test_a_damaged_file_parks_its_topic_alone_and_is_named(
    lake: TwoTopics, damage: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = NAMED[damage](lake) if damage in NAMED else NOT_MET[damage](lake)
    met = [*lake.ingest().items(), *((DAMAGED, lake.stage(job)) for job in JOBS)]
    errors = [error for name, error in met if error is not None]
    assert {name for name, error in met if error is not None} <= {DAMAGED}
    assert [error for error in errors if not is_ours(error)] == []
    neighbour = lake.history(NEIGHBOUR)
    assert [neighbour.state_of(hour) for hour in (FIVE, SIX, SEVEN)] == ["mirrored"] * 3
    capsys.readouterr()
    for command in COMMANDS:
        code = lake.command(*command)
        text = capsys.readouterr()
        assert code in (0, 1, LAKE), command
        assert "Traceback" not in text.err
        if command[0] == "status" and damage in NAMED:
            assert isinstance(damaged, Path)
            assert damaged.name in "".join(text.out.split()), "status names it"
    assert [record for record in caplog.records if record.exc_info and not is_ours(record.exc_info[1])] == []
    if isinstance(damaged, Path) and damage in NAMED:
        assert any(damaged.name in str(error) for error in errors), [str(error) for error in errors]


def is_ours(error: BaseException | None) -> bool:
    return isinstance(error, LakehouseError) and not isinstance(error, UnexpectedError)


SAID = {
    **dict.fromkeys(NAMED, "damaged"),
    **dict.fromkeys(("close without keys", "seal of other types", "bronze log halved", "bronze log empty"), "error"),
    **{name: "error" for name in NAMED if name.startswith("ledger")},
    "request of other types": "ok",  # ingest meets it at its next trigger, and `verify` finds it
    **dict.fromkeys(NOT_MET, "ok"),
    "odd rows": "error",
    "silver file halved": "damaged",
    "silver file gone": "damaged",
    "ledger file halved": "damaged or error",  # as what is remembered of the table still holds or does not
    "ledger file gone": "damaged or error",
    "checkpoints halved": "damaged",
}
"""What `status TOPIC` calls a topic as soon as it is damaged, before any stage or `verify` has met it."""

HARMLESS: dict[str, Callable[[TwoTopics], object]] = {
    "nothing": lambda lake: None,
    "Spark's checkpoint": lambda lake: garbled(lake.made_file("checkpoint/offsets/0")),
    "a report": lambda lake: [gone(each) for each in lake.at("reports").rglob("*.html")],
}
"""What may be lost: a run starts without it, or nobody needs it."""


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*NAMED, *NOT_MET, *HARMLESS])
def test_status_of_a_topic_names_what_is_damaged(
    made: TwoTopics, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No stage and no `verify` has met it yet."""
    lake = made.copied(tmp_path)
    damaged = (NAMED | NOT_MET | HARMLESS)[damage](lake)
    (row,) = lake.statuses(DAMAGED, looks_at_files=True)
    assert row.state in SAID.get(damage, "ok").split(" or "), row.error
    capsys.readouterr()
    code = lake.command("status", DAMAGED)
    page = "".join(capsys.readouterr().out.split())
    assert code == (row.state != "ok")
    tables = [f"lake/plays/{table}" for table in TABLES]
    if row.state == "damaged":
        names = [str(damaged).replace(" ", "")] if isinstance(damaged, Path) else tables
        assert any(name in page for name in names)
        assert f"`lakehouseverify{DAMAGED}`" in page
    elif row.state == "error":
        assert any(name in page for name in ([damaged.name] if isinstance(damaged, Path) else tables))


def test_status_of_all_topics_says_what_the_last_look_found(
    made: TwoTopics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run looks at its start and every few hours, `maintain` each time; `status` of 300 topics lists no folder."""
    lake = made.copied(tmp_path)
    file = newest(lake, "silver", f"hour={FIVE}/*.parquet")
    kept = file.read_bytes()
    halved(file)
    application = doors.Application(lake.config, (lake.config.topic(DAMAGED),), run="one")
    for _ in range(2):
        doors.look(application.topics[0], application, lambda: False)
    assert [(row.state, row.error) for row in lake.statuses(DAMAGED, NEIGHBOUR)] == [("damaged", None), ("ok", None)]
    assert lake.command("status", "--wide") == 1
    page = "".join(capsys.readouterr().out.split())
    assert f"1filemissingordamaged,see`lakehousestatus{DAMAGED}`" in page
    file.write_bytes(kept)
    assert lake.statuses(DAMAGED, looks_at_files=True)[0].state == "ok"
    doors.look(application.topics[0], application, lambda: False)
    assert lake.statuses(DAMAGED)[0].state == "damaged", "not so often"
    assert lake.command("maintain", "--dry-run") == 0
    assert lake.statuses(DAMAGED)[0].state == "damaged", "nothing is written"
    for _ in range(2):
        assert lake.command("maintain") == 0
    assert lake.statuses(DAMAGED)[0].state == "ok"
    assert [entry.by for entry in lake.history(DAMAGED).entries if entry.state == "damaged"] == [
        "look/test/one",
        "maintain/test",
    ]


def test_maintain_of_all_topics_goes_on_where_one_fails(
    made: TwoTopics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended there: no topic after it was maintained, and nobody heard what had been removed."""
    lake = made.copied(tmp_path)
    old = {name: Path(lake.tables(name).reports.uri, "old.html") for name in (DAMAGED, NEIGHBOUR)}
    for report in old.values():
        report.touch()
        os.utime(report, (0, 0))
    in_log("bronze", "*.json", garbled)(lake)
    capsys.readouterr()
    code, said = lake.command("maintain"), capsys.readouterr()
    assert code == LAKE
    assert f"lake/{DAMAGED}/bronze" in said.err
    assert not old[NEIGHBOUR].exists()
    assert "reports/old.html" in said.out


NO_MANIFESTS: tuple[bytes | tuple[str, object], ...] = (
    b"", b"\xff", b"{}", b"[]", b"null", b'{"files": 1}', b'{"files": [1]}',
    ("rows", "many"), ("event_hour", "noon"), ("epoch", None), ("slot", 7), ("written_at", "never"),
)  # fmt: skip


@pytest.mark.parametrize("content", NO_MANIFESTS, ids=str)
def test_what_is_no_manifest_is_one_error_that_names_it(made: TwoTopics, tmp_path: Path, content: Any) -> None:
    path = manifest_path(READ, 0)
    file = tmp_path / path
    file.parent.mkdir()
    shutil.copy(made.at(path), file)
    storage = storage_for(str(tmp_path))
    assert read_manifest(storage, READ, 0) is not None
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        change(file, *content)
    with pytest.raises(LakeError, match=f"{file}: found a file that is no manifest"):
        read_manifest(storage, READ, 0)
