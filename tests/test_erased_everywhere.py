"""No byte that the product has written holds the erased, and until then it says which store does."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse import failpoints
from lakehouse.cli import app
from lakehouse.config import Config, Settings
from lakehouse.crash.driver import Death
from lakehouse.crash.processes import free_ports
from lakehouse.errors import MirrorError
from lakehouse.mirrors.folder import FolderMirror
from lakehouse.mirrors.stage import mirror_due
from lakehouse.operations import compaction, report
from lakehouse.operations.compaction import compact_hour
from lakehouse.operations.erase import erase
from lakehouse.operations.erasure.bronze import BronzeErasure
from lakehouse.operations.erasure.outstanding import OpenItem, outstanding
from lakehouse.operations.erasure.rows import Event, Match
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.reconcile import mirrors_of
from lakehouse.store.bronze_log import Compactions
from lakehouse.store.delta import files_of_hour
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.store.records import Valid
from lakehouse.store.table_log import log_of
from lakehouse.topics import Topic
from lakehouse.validate.mlflow_background import BackgroundLog
from lakehouse.validate.stage import validate_due
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake, begin_runs, conf_of, write_suite

PERSON = 1777040123
WHERE = f"n = {PERSON}"
NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)


def expectation(kind: str, severity: str, **values: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": values, "meta": {"severity": severity}}


SUITE = [
    expectation("expect_column_values_to_be_in_set", "warning", column="user", value_set=["nobody"]),
    expectation("expect_column_max_to_be_between", "warning", column="user", min_value="a", max_value="b"),
    expectation("expect_column_most_common_value_to_be_in_set", "warning", column="user", value_set=["nobody"]),
    expectation("expect_column_max_to_be_between", "warning", column="n", min_value=0, max_value=1),
]
"""Their examples and observed values are the person's."""
AT_LEAST_THREE = expectation("expect_table_row_count_to_be_between", "critical", min_value=3)


@dataclass
class World:
    """A lake with all that follows it: mirrors, pages in two places, MLflow."""

    lake: Lake
    root: Path

    def without_mlflow(self) -> World:
        """The same, where nobody answers at the tracking server's address."""
        (port,) = free_ports(1)
        mlflow = self.lake.settings.mlflow.model_copy(update={"tracking_uri": f"http://127.0.0.1:{port}"})
        return replace(self, lake=self.lake.with_settings(mlflow=mlflow))

    def suite(self, *more: dict[str, Any]) -> None:
        write_suite(self.lake.config.expectations, "plays", [*SUITE, *more])
        write_suite(self.lake.config.expectations, "_every_topic")

    def follow(self) -> None:
        """All stages that come after the seal, and the pages."""
        validate_due(self.lake.topic, self.lake.config, run="r", log_runs=BackgroundLog().log_or_warn)
        mirror_due(self.lake.topic, self.lake.config, None, run="r")

    def draw(self, site: str = "site", last: int = 1) -> None:
        report.build(self.lake.config, str(self.root / site), NOW, last=last)

    def erase(self) -> None:
        erase(self.lake.topic, self.lake.config, WHERE, reason="asked by letter", by="ann")

    def outstanding(self) -> list[OpenItem]:
        return outstanding(self.lake.topic, self.lake.config, mirrors_of(self.lake.config, None))

    def open_stores(self) -> set[str]:
        return {item.store for item in self.outstanding()}

    def holders(self) -> set[str]:
        """The files of the whole world that hold the person, by the first two parts of their paths."""
        found = {path for path in self.root.rglob("*") if path.is_file() and holds(path)}
        return {"/".join(path.relative_to(self.root).parts[:3]) for path in found}


def holds(path: Path) -> bool:
    """In its bytes, or in what a reader makes of them."""
    data = path.read_bytes()
    if str(PERSON).encode() in data:
        return True
    if data[:4] == b"PAR1":
        return str(PERSON) in str(pq.ParquetFile(path).read().to_pydict())
    if data.startswith(b"SQLite"):
        with sqlite3.connect(path) as base:
            return any(str(PERSON) in line for line in base.iterdump())
    return False


@pytest.fixture
def world(topic: Topic, settings: Settings, config: Config, tmp_path: Path) -> World:
    """User PERSON has events in two sealed hours and in the open one; everything has followed."""
    mirrors = {
        "folder": {"kind": "folder", "path": str(tmp_path / "mirror")},
        "base": {"kind": "duckdb", "path": str(tmp_path / "mirror.duckdb")},
    }
    topic = topic.model_copy(update={"mirrors": ("folder", "base")})
    settings = settings.model_copy(update={"mirrors": mirrors})
    lake = Lake(topic, replace(config, settings=settings, topics={topic.name: topic}))
    begin_runs(settings)
    world = World(lake, tmp_path)
    world.suite()
    for hour, minute in ((FIVE, 1), (SIX, 61), (SEVEN, 121)):
        person = [Delivery(f"p{PERSON}-{n}", minute, 0, f"p{hour}{n}", PERSON) for n in range(3)]
        others = [Delivery(name, minute, 0, f"{name}{hour}", number) for number, name in enumerate("bc")]
        lake.deliver(*person, *others, hour=hour)
        if hour != SEVEN:
            lake.seal(hour)
    world.follow()
    world.draw("site", last=2)
    world.draw("other", last=2)
    return world


def test_the_erased_is_in_no_byte_once_all_stages_have_followed(world: World) -> None:
    held = world.holders()
    for store in ("lake/plays/bronze", "lake/plays/silver", "lake/plays/reports", "mirror/plays/", "mirror.duckdb",
                  "lake/mlflow/", "site/plays/", "other/plays/"):  # fmt: skip
        assert any(path.startswith(store) for path in held), (store, held)
    assert world.outstanding() == []
    world.erase()
    assert world.open_stores() == {"mirror folder", "mirror base", "report pages"}
    assert {path.split("/")[0] for path in world.holders()} == {"mirror", "mirror.duckdb", "site", "other"}
    world.follow()
    assert world.open_stores() == {"report pages"}
    world.draw("site")  # its page of the older hour, too
    world.draw("other")
    assert (world.outstanding(), world.holders()) == ([], set())


def test_files_that_were_compacted_before_hold_nobody(world: World) -> None:
    """They stay for a day, for who reads them; those that are compacted after an erasure are nobody's."""
    lake = world.lake
    lake.deliver(Delivery(f"p{PERSON}", 122, 0, "again", PERSON), hour=SEVEN)
    before = {file.path for file in files_of_hour(lake.bronze, SEVEN)}
    assert compact_hour(lake.tables, Compactions(log_of(lake.bronze)), SEVEN, files_of_hour(lake.bronze, SEVEN))
    world.erase()
    assert not any(path.startswith("lake/plays/bronze") for path in world.holders())
    assert not any(Path(lake.folders.bronze, path).exists() for path in before)
    for name in "yz":
        lake.deliver(Delivery(name, 123, 0, name, 5), hour=SEVEN)
    kept = {file.path for file in files_of_hour(lake.bronze, SEVEN)}
    assert compact_hour(lake.tables, Compactions(log_of(lake.bronze)), SEVEN, files_of_hour(lake.bronze, SEVEN))
    assert all(Path(lake.folders.bronze, path).exists() for path in kept)
    assert "bronze" not in world.open_stores()


def test_what_attempts_left_that_died_holds_nobody_in_silence(world: World) -> None:
    """A seal's files cannot be committed any more; a slot's may still get a manifest, so they are said to be open."""
    silver, bronze = Path(world.lake.folders.silver), Path(world.lake.folders.bronze)
    dead_seal = silver / f"hour={FIVE}" / "part-00000-dead.parquet"
    shutil.copy(next(dead_seal.parent.glob("*.parquet")), dead_seal)
    dead_slot = bronze / FIVE / "000000000001-0007-dead.parquet"
    shutil.copy(next(dead_slot.parent.glob("*.parquet")), dead_slot)
    world.erase()
    world.follow()
    world.draw("site")
    world.draw("other")
    assert not dead_seal.exists()
    assert [(item.store, item.found) for item in world.outstanding()] == [("bronze", str(dead_slot))]
    assert dead_slot.exists()
    dead_slot.unlink()
    assert (world.outstanding(), world.holders()) == ([], set())


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "cut"])
def test_what_a_compaction_left_that_died_beside_an_erasure_is_open(
    world: World, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read its files before the erasure, wrote their rows after it, and nothing names what it wrote."""
    lake = world.lake
    lake.deliver(Delivery(f"p{PERSON}", 122, 0, "again", PERSON), hour=SEVEN)
    row_groups = compaction._row_groups

    def erased_meanwhile(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        read = list(parts)
        world.erase()
        return row_groups(read)

    def die(step: str) -> None:
        raise Death(step)

    monkeypatch.setattr(compaction, "_row_groups", erased_meanwhile)
    monkeypatch.setattr(failpoints, "_watcher", die)
    with pytest.raises(Death, match=r"compact\.file_durable"):
        compact_hour(lake.tables, Compactions(log_of(lake.bronze)), SEVEN, files_of_hour(lake.bronze, SEVEN))
    (left,) = Path(lake.folders.bronze).rglob("compacted-*.parquet")
    assert holds(left)
    if not is_whole:  # a death before the file was whole
        os.truncate(left, left.stat().st_size // 2)
    assert ("bronze", str(left)) in [(item.store, item.found) for item in world.outstanding()]
    maintain_topic(lake.topic, lake.config, datetime.now(UTC) + timedelta(days=1, hours=1))
    assert not left.exists()
    assert "bronze" not in world.open_stores()


@pytest.mark.parametrize("files", ["those that hold the person", "all"])
def test_what_is_compacted_while_an_erasure_looks_for_the_person_is_looked_at_again(
    world: World, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took files out that the table had no longer: the person stayed, and all others' rows were there twice."""
    lake = world.lake
    lake.deliver(Delivery(f"p{PERSON}", 122, 0, "again", PERSON), hour=SEVEN)
    if files == "all":
        lake.deliver(Delivery("z", 123, 0, "z", 5), hour=SEVEN)
    before = Counter(row["message_id"] for row in lake.bronze_rows())
    matches, compacted = BronzeErasure.matches, []

    def compacted_meanwhile(self: BronzeErasure, events: set[Event]) -> list[Match]:
        found = matches(self, events)
        if events and not compacted:
            commits = Compactions(log_of(lake.bronze))
            compacted.append(compact_hour(lake.tables, commits, SEVEN, files_of_hour(lake.bronze, SEVEN)))
        return found

    monkeypatch.setattr(BronzeErasure, "matches", compacted_meanwhile)
    world.erase()
    assert all(compacted)
    after = Counter(row["message_id"] for row in lake.bronze_rows())
    assert after < before
    assert not any(path.startswith("lake/plays/bronze") for path in world.holders())
    assert "bronze" not in world.open_stores()


def test_a_new_revision_that_is_invalid_takes_the_old_one_from_the_mirrors(world: World) -> None:
    """Nothing is due there, and the person must not stay."""
    world.suite(AT_LEAST_THREE)
    world.erase()
    world.follow()
    assert world.lake.ledger.history().state_of(FIVE) == "invalid"
    assert not {path for path in world.holders() if path.startswith("mirror")}
    assert world.open_stores() == {"report pages"}


def test_what_cannot_be_asked_is_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not knowing is no success: a mirror, and MLflow."""

    def away(*_: object) -> Any:
        raise MirrorError("mirror folder", found="no route", expected="an answer", next_step="Wait.")

    world.erase()
    world.follow()
    for site in ("site", "other"):
        world.draw(site)
    with monkeypatch.context() as patched:
        patched.setattr(FolderMirror, "remains", away)
        elsewhere = world.without_mlflow()
        assert elsewhere.open_stores() == {"mirror folder", "MLflow"}
        assert all("no answer" in item.found for item in elsewhere.outstanding())
    assert world.outstanding() == []


def test_mlflow_that_was_away_is_cleared_by_the_next_verdict(world: World) -> None:
    world.without_mlflow().erase()
    assert "MLflow" in world.open_stores()
    world.follow()
    assert not {path for path in world.holders() if "mlflow" in path}
    assert "MLflow" not in world.open_stores()


def test_a_mirror_that_the_topic_no_longer_has_is_open(world: World) -> None:
    """It still holds the hours; what is no longer configured cannot be asked at all."""
    world.erase()
    topic = world.lake.topic.model_copy(update={"mirrors": ("base",)})
    mirror_due(topic, world.lake.config, None, run="r")
    found = {item.store for item in outstanding(topic, world.lake.config, mirrors_of(world.lake.config, None))}
    assert "mirror folder" in found
    settings = world.lake.settings.model_copy(update={"mirrors": {"base": world.lake.settings.mirrors["base"]}})
    config = replace(world.lake.config, settings=settings)
    items = outstanding(topic, config, mirrors_of(config, None))
    assert [item.found for item in items if item.store == "mirror folder"] == ["a mirror that is no longer configured"]


def test_pages_that_were_removed_hold_nobody(world: World) -> None:
    world.erase()
    world.follow()
    shutil.rmtree(world.root / "site")
    assert [item.found.split(" on ")[0] for item in world.outstanding()] == [str(world.root / "other")]


def as_release_0_1(world: World) -> None:
    """The verdicts of a lake that 0.1 made: in them what was observed of columns, also in files of older versions."""
    finding = {
        "expectation": "expect_column_max_to_be_between",
        "column": "n",
        "severity": "warning",
        "unexpected": None,
    }
    of_hour = {**finding, "expectation": "expect_table_row_count_to_be_between", "column": None, "observed": 5}
    verdict = {
        "failed": [], "warnings": [{**finding, "observed": PERSON}, of_hour], "silver_version": 1, "revision": 1,
        "rows": 5, "evaluated": 2, "seconds": 0.1, "suite_hash": "abc", "report": "r1.html",
    }  # fmt: skip
    ledger = world.lake.tables.ledger("validate/0.1.0/run")
    for hour in (FIVE, SIX):
        ledger.record("valid", hour, verdict)
    table = world.lake.tables.sealed.below("ledger").table()
    table.optimize.compact()
    world.lake.tables.ledger("other/0.1.0/run").record("started")  # a file that holds nobody


def ledger_rows(world: World) -> list[tuple[Any, ...]]:
    rows = world.lake.history().entries
    return [(row.hour, row.state, row.at, row.by) for row in rows]


@pytest.mark.parametrize("ends", ["erase", "maintain"])
def test_what_release_0_1_observed_goes_out_of_the_ledger(world: World, ends: str) -> None:
    """By the erasure, or by maintain where that was made by 0.1; what was observed of the hour as a whole stays."""
    as_release_0_1(world)
    before, rows = world.lake.history().entries, ledger_rows(world)
    with pytest.MonkeyPatch.context() as patched:
        if ends == "maintain":
            patched.setattr(Ledger, "erase", lambda self, changed, states: [])
        world.erase()
    if ends == "maintain":
        assert "ledger" in world.open_stores()
        dry = maintain_topic(world.lake.topic, world.lake.config, NOW, dry_run=True)
        assert "ledger" in {removal.kind for removal in dry}
        assert "ledger" in world.open_stores()
        maintain_topic(world.lake.topic, world.lake.config, NOW)
    assert "ledger" not in world.open_stores()
    assert not {path for path in world.holders() if path.startswith("lake/plays/ledger")}
    after = world.lake.history().entries
    assert ledger_rows(world)[: len(rows)] == rows
    changed = [row for row in after[: len(rows)] if row not in before]
    assert [(row.hour, row.state, row.by) for row in changed] == [
        (hour, "valid", "validate/0.1.0/run") for hour in (FIVE, SIX)
    ]
    for row in changed:
        judged = row.of(Valid)
        assert [each.observed for each in judged.warnings] == [None, 5]
        assert (judged.rows, judged.suite_hash, judged.warnings[0].column) == (5, "abc", "n")


def test_a_running_process_follows_the_ledger_that_was_written_again(world: World) -> None:
    """Its handle has files that are gone: it reads the ledger again, and its next row follows."""
    as_release_0_1(world)
    running = Ledger(LedgerTable(world.lake.tables.sealed.below("ledger").table()), "seal/other/run")
    assert len(running.history().entries) == len(world.lake.history().entries)
    world.erase()
    assert running.history() == world.lake.history()
    assert running.record("started") is not None
    assert world.lake.history().entries[-1].by == "seal/other/run"


def commands(world: World, capsys: pytest.CaptureFixture[str], *arguments: str) -> Iterator[Any]:
    with pytest.raises(SystemExit) as ended:
        app.main(["--conf", str(world.root / "conf" / "test.yaml"), "erase", "plays", *arguments])
    captured = capsys.readouterr()
    yield ended.value.code
    yield captured.out + captured.err


def test_the_command_says_what_is_outstanding_until_nothing_is(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    conf_of(world.lake, world.root)
    world.erase()
    code, text = commands(world, capsys, "--status")
    assert (code, "mirror folder" in text, "report pages" in text) == (1, True, True)
    world.follow()
    world.draw("site")
    world.draw("other")
    code, text = commands(world, capsys, "--status", "--json")
    assert (code, json.loads(text)) == (0, {"topic": "plays", "is_finished": True, "outstanding": []})
    code, text = commands(world, capsys, "--where", "n = 1")
    assert (code, "--status" in text) == (2, True)
