"""Each store is damaged behind the mirror's back, seen to be wrong, and put right."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PLAYS
from mirror_targets import HOUR, PARAMS, TARGETS, FolderTarget, Lake, Target, parquet, plays
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.config import Config
from lakehouse.errors import MISUSE, MirrorError
from lakehouse.hours import Hour, after
from lakehouse.mirrors.contract import Count, Mirror
from lakehouse.mirrors.stage import mirror_due
from lakehouse.operations.reconcile import Cell, mirrors_of, reconcile
from lakehouse.store.delta import DataFile, commit
from lakehouse.store.records import Invalid
from lakehouse.topics import Topic
from tests.lake import write_conf

IDS = ["a", "b", "c", "d"]
KEEPS_FILES = ("folder", "hadoop", "hdfs", "gcs", "hive")
KEEPS_ROWS = ("duckdb", "bigquery", "bigquery-partitions")


@pytest.fixture
def lake(config: Config) -> Lake:
    return Lake(config)


@pytest.fixture(params=PARAMS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return TARGETS[request.param](tmp_path / "mirror", request)


def doubled(topic: Topic) -> pa.Table:
    return pa.concat_tables([plays(IDS, topic)] * 2)


DAMAGES: dict[str, tuple[Callable[[Target, Topic, Hour], None], str]] = {
    "dropped": (lambda target, topic, hour: target.drop(topic, hour), "missing"),
    "edited": (lambda target, topic, hour: target.overwrite(topic, hour, plays([*"abcx"], topic)), "different"),
    "doubled": (lambda target, topic, hour: target.overwrite(topic, hour, doubled(topic)), "different"),
    "lost": (lambda target, topic, hour: target.lose(topic, hour), "different"),
}  # fmt: skip


def verdicts(cells: list[Cell], store: str) -> list[str]:
    return [cell.verdict for cell in cells if cell.store == store]


def test_every_damage_to_a_mirror_is_named_and_repaired(
    target: Target, lake: Lake, config: Config, topic_with: Callable[..., Topic]
) -> None:
    """A hand in the store is no crash: only counting what is there finds it, and a row count alone would not."""
    name = target.mirror.name
    topic = topic_with(mirrors=[name])
    hours = [after(HOUR, number) for number in range(len(DAMAGES) + 1)]
    for hour in hours:
        lake.cleared(topic, hour, plays(IDS, topic))
    open_mirror = mirrors_of(config, None, {name: target.mirror})
    mirror_due(topic, config, None, run="1", mirrors={name: target.mirror})
    for hour, (damage, _) in zip(hours, DAMAGES.values(), strict=False):
        damage(target, topic, hour)

    found = reconcile(config, [topic], open_mirror, repair=True)
    assert verdicts(list(found.cells), name) == [*(verdict for _, verdict in DAMAGES.values()), "same"]
    assert verdicts(list(found.cells), "silver") == ["same"] * len(hours)
    assert [cell.repaired for cell in found.cells if cell.store == name] == [True] * len(DAMAGES) + [False]
    assert found.wrong == []
    seen = [target.rows(topic, hour) for hour in hours]
    assert [rows is not None and sorted(rows["event_id"].to_pylist()) for rows in seen] == [IDS] * len(hours)


@pytest.fixture(params=[param for param in PARAMS if param.values[0] in KEEPS_FILES])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> FolderTarget:
    """In a folder that no other test had: names of temporary folders come again, and the stores stay."""
    target = TARGETS[request.param](tmp_path / f"mirror-{uuid4().hex[:12]}", request)
    assert isinstance(target, FolderTarget)
    return target


def parts(folder: FolderTarget, topic: Topic) -> dict[str, bytes]:
    """The hour's files there, by name."""
    at = folder.folder(topic, HOUR)
    names = [name for name in sorted(folder.store.listing(at)) if name.startswith("part-")]
    return {name: folder.store.read(f"{at}/{name}") for name in names}


def with_value(content: bytes) -> bytes:
    """The file with another value in its first row: ids, count and size are the same."""
    rows = pq.ParquetFile(io.BytesIO(content)).read()
    first, *others = rows["message_id"].to_pylist()
    place = rows.column_names.index("message_id")
    edited = parquet(rows.set_column(place, "message_id", pa.array([first.replace("m", "n"), *others])))
    assert (len(edited), edited != content) == (len(content), True)
    return edited


Parts = dict[str, bytes]

TAMPERINGS: dict[str, Callable[[Parts, Parts], Parts]] = {
    "a value": lambda now, before: {min(now): with_value(now[min(now)])},
    "swapped": lambda now, before: dict(zip(now, reversed(now.values()), strict=True)),
    "older revision": lambda now, before: {min(now): before[min(before)]},
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_files_with_the_hour_s_ids_and_other_bytes_are_named_and_repaired(
    folder: FolderTarget, lake: Lake, config: Config, topic_with: Callable[..., Topic], tampering: str
) -> None:
    name = folder.mirror.name
    topic = topic_with(mirrors=[name])
    open_mirror, mirrors = mirrors_of(config, None, {name: folder.mirror}), {name: folder.mirror}
    lake.cleared(topic, HOUR, plays(IDS, topic, message_id=[f"o-{each}" for each in IDS]))
    mirror_due(topic, config, None, run="1", mirrors=mirrors)
    before = parts(folder, topic)
    hour = lake.cleared(topic, HOUR, plays(IDS, topic))
    mirror_due(topic, config, None, run="2", mirrors=mirrors)
    assert reconcile(config, [topic], open_mirror).wrong == []
    now = parts(folder, topic)
    tampered = TAMPERINGS[tampering](now, before)
    for part, content in tampered.items():
        folder.store.write(f"{folder.folder(topic, HOUR)}/{part}", content)

    assert folder.mirror.read_back(topic, HOUR) == Count(len(IDS), hour.id_checksum)
    (wrong,) = reconcile(config, [topic], open_mirror).wrong
    assert (wrong.store, wrong.verdict, wrong.rows) == (name, "different", len(IDS))
    assert [each.partition(":")[0] for each in wrong.differing] == sorted(tampered)
    assert all(part in str(wrong.error) for part in tampered)
    assert reconcile(config, [topic], open_mirror, repair=True).wrong == []
    assert parts(folder, topic) == now


def test_an_hour_that_is_there_with_other_bytes_is_published_again(
    folder: FolderTarget, lake: Lake, config: Config, topic_with: Callable[..., Topic]
) -> None:
    """A run that died after its publish left it; what the next one finds there is not what was published."""
    name = folder.mirror.name
    topic = topic_with(mirrors=[name])
    folder.mirror.publish(lake.cleared(topic, HOUR, plays(IDS, topic)))
    published = parts(folder, topic)
    folder.store.write(f"{folder.folder(topic, HOUR)}/{min(published)}", with_value(published[min(published)]))
    mirror_due(topic, config, None, run="1", mirrors={name: folder.mirror})
    assert parts(folder, topic) == published


@pytest.fixture(params=[param for param in PARAMS if param.values[0] in KEEPS_ROWS])
def rows_kept(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return TARGETS[request.param](tmp_path / "mirror", request)


def test_rows_with_the_hour_s_ids_and_another_value_are_named_and_repaired(
    rows_kept: Target, lake: Lake, config: Config, topic_with: Callable[..., Topic]
) -> None:
    name = rows_kept.mirror.name
    topic = topic_with(mirrors=[name])
    users, tracks = ["u", "v", None, ""], [{"id": "t", "ms": number} for number in range(len(IDS))]
    hour = lake.cleared(topic, HOUR, plays(IDS, topic, user=users, track=tracks))
    mirror_due(topic, config, None, run="1", mirrors={name: rows_kept.mirror})
    open_mirror = mirrors_of(config, None, {name: rows_kept.mirror})
    assert reconcile(config, [topic], open_mirror).wrong == []

    for edited, differing in (
        (plays(IDS, topic, user=["v", "u", None, ""], track=tracks), "other values of user"),
        (plays(IDS, topic, user=["u", "v", "", ""], track=list(reversed(tracks))), "other values of user, track.ms"),
    ):
        rows_kept.overwrite(topic, HOUR, edited)
        assert rows_kept.mirror.read_back(topic, HOUR) == Count(len(IDS), hour.id_checksum)
        (wrong,) = reconcile(config, [topic], open_mirror).wrong
        assert (wrong.hour, wrong.store, wrong.verdict, wrong.error) == (HOUR, name, "different", differing)
        assert reconcile(config, [topic], open_mirror, repair=True).wrong == []
        assert reconcile(config, [topic], open_mirror).wrong == []


def test_an_hour_without_digests_is_compared_by_its_ids(mirrored: Lake, config: Config, topic: Topic) -> None:
    """As an older release sealed it."""
    seal = mirrored.history(topic).seal_of(HOUR)
    assert seal is not None
    mirrored.ledger(topic).record(replace(seal, revision=2, digests=None), HOUR)
    silver = Path(mirrored.tables(topic).sealed.uri, "silver", f"hour={HOUR}")
    file = min(silver.glob("*.parquet"))
    file.write_bytes(with_value(file.read_bytes()))
    assert verdicts(list(reconcile(config, [topic], mirrors_of(config, None)).cells), "silver") == ["same"]


@pytest.fixture
def mirrored(lake: Lake, config: Config, topic: Topic) -> Lake:
    lake.cleared(topic, HOUR, plays(IDS, topic))
    mirror_due(topic, config, None, run="1")
    return lake


def test_without_repair_nothing_is_touched(mirrored: Lake, config: Config, topic: Topic) -> None:
    folder = Path(config.settings.mirrors["folder"]["path"]) / topic.name / HOUR
    (folder / "_SUCCESS").unlink()
    for _ in range(2):
        (wrong,) = reconcile(config, [topic], mirrors_of(config, None)).wrong
        assert (wrong.store, wrong.hour, wrong.verdict, wrong.rows) == ("folder", HOUR, "missing", None)


def test_a_revision_that_an_erasure_replaced_by_an_invalid_one_is_wrong(
    mirrored: Lake, config: Config, topic: Topic
) -> None:
    """Nothing is due to be published there, and what is there holds the erased; once it is withdrawn all is right."""
    mirrored.sealed(topic, HOUR, plays(IDS[:1], topic))
    mirrored.ledger(topic).record(Invalid(), HOUR)
    (wrong,) = reconcile(config, [topic], mirrors_of(config, None), repair=True).wrong
    assert (wrong.store, wrong.verdict, wrong.rows) == ("folder", "extra", len(IDS))
    assert "erasure" in str(wrong.next_step)
    mirror_due(topic, config, None, run="2")
    assert reconcile(config, [topic], mirrors_of(config, None)).wrong == []


def test_silver_is_counted_from_its_files(mirrored: Lake, config: Config, topic: Topic) -> None:
    """It is the measure of all others; what is wrong there is for `verify` and a person, and repairs nothing."""
    hour = mirrored.sealed_now(topic, HOUR)
    os.remove(Path(hour.silver.uri) / hour.files[0].path)
    (wrong,) = reconcile(config, [topic], mirrors_of(config, None), repair=True).wrong
    assert (wrong.store, wrong.verdict) == ("silver", "missing")
    assert f"{hour.files[0].path}: found no such file" in str(wrong.error)


def test_a_changed_value_in_silver_is_wrong_by_its_file(mirrored: Lake, config: Config, topic: Topic) -> None:
    """The mirror has the hour as it was sealed."""
    hour = mirrored.sealed_now(topic, HOUR)
    file = Path(hour.silver.uri) / hour.files[1].path
    file.write_bytes(with_value(file.read_bytes()))
    (wrong,) = reconcile(config, [topic], mirrors_of(config, None)).wrong
    assert (wrong.store, wrong.verdict, wrong.rows) == ("silver", "different", len(IDS))
    assert [each.partition(":")[0] for each in wrong.differing] == [hour.files[1].path]


def test_what_the_ledger_says_nothing_of_is_extra_and_stays(
    target: Target, lake: Lake, config: Config, topic_with: Callable[..., Topic]
) -> None:
    """Somebody put it there, and the ledger cannot say what it should be: a repair must not remove it unasked."""
    name, stranger = target.mirror.name, after(HOUR, 5)
    topic = topic_with(mirrors=[name])
    hour = lake.cleared(topic, HOUR, plays(IDS, topic))
    mirror_due(topic, config, None, run="1", mirrors={name: target.mirror})
    target.mirror.publish(replace(hour, hour=stranger))

    open_mirror = mirrors_of(config, None, {name: target.mirror})
    (extra,) = reconcile(config, [topic], open_mirror, repair=True).wrong
    assert (extra.store, extra.hour, extra.verdict, extra.rows) == (name, stranger, "extra", len(IDS))
    assert "remove it there by hand if nobody needs it" in str(extra.next_step)
    assert target.mirror.read_back(topic, stranger) == Count(len(IDS), hour.id_checksum)
    assert reconcile(config, [topic], open_mirror, first=HOUR, last=after(HOUR, 4)).wrong == []


def test_an_hour_in_silver_that_never_closed_is_extra(mirrored: Lake, config: Config, topic: Topic) -> None:
    tables = mirrored.tables(topic)
    table = tables.silver()
    (Path(tables.sealed.uri) / "silver" / "by-hand.parquet").write_bytes(parquet(plays(["x"], topic)))
    commit(table, [DataFile("by-hand.parquet", after(HOUR, 3), 1, 1, datetime.now(UTC))], metadata={}, transactions={})
    (wrong,) = reconcile(config, [topic], mirrors_of(config, None), repair=True).wrong
    assert (wrong.store, wrong.hour, wrong.verdict, wrong.rows) == ("silver", after(HOUR, 3), "extra", 1)


def test_an_hour_that_is_due_is_not_wrong(lake: Lake, config: Config, topic: Topic) -> None:
    lake.cleared(topic, HOUR, plays(IDS, topic))
    found = reconcile(config, [topic], mirrors_of(config, None))
    assert [(cell.store, cell.verdict) for cell in found.cells] == [("silver", "same"), ("folder", "due")]
    assert found.wrong == []


class Away:
    name = "folder"
    hours_at_once = 1

    def hours(self, topic: Topic) -> set[Hour]:
        return set()

    def where(self, topic: Topic, hour: Hour) -> str:
        return "away"

    def publish(self, hour: Any, *, force: bool = False) -> None:
        raise AssertionError

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        raise MirrorError("mirror folder", found="nobody", expected="a server", next_step="Wait.")


def test_a_store_that_does_not_answer_is_an_error_and_no_verdict(mirrored: Lake, config: Config, topic: Topic) -> None:
    away: Mirror = Away()
    (wrong,) = reconcile(config, [topic], mirrors_of(config, None, {"folder": away})).wrong
    assert wrong.verdict == "error"
    assert "found nobody" in str(wrong.error)


def test_the_command_says_it_in_a_table_and_as_json(lake: Lake, config: Config, topic: Topic, tmp_path: Path) -> None:
    """Of all topics only what is wrong: 300 of them have thousands of cells."""
    lake.cleared(topic, HOUR, plays(IDS, topic))
    mirror_due(topic, config, None, run="1")
    settings = {"raw_root": config.settings.raw_root, "mirrors": config.settings.mirrors}
    conf = write_conf(tmp_path, settings, {"plays": PLAYS})
    (Path(config.settings.mirrors["folder"]["path"]) / "plays" / HOUR / "_SUCCESS").unlink()

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app.app, ["--conf", str(conf), "reconcile", *arguments])

    table = run("plays", "--hours", f"{HOUR}..{HOUR}")
    assert (table.exit_code, "missing" in table.stdout, "2 cells, 1 wrong" in table.stdout) == (1, True, True)
    assert "--repair publishes it again" in table.stdout
    repaired = run("--repair", "--json")
    assert repaired.exit_code == 0
    cells = {cell["store"]: cell for cell in json.loads(repaired.stdout)["cells"]}
    assert (cells["folder"]["verdict"], cells["folder"]["repaired"]) == ("missing", True)
    everything = run()
    assert (everything.exit_code, everything.stdout.splitlines()) == (
        0, ["2 cells, 0 wrong; rows and ids are compared, files by their digests, and rows by their values"],
    )  # fmt: skip
    assert len(run("--wide").stdout.splitlines()) == len(run("plays").stdout.splitlines()) == 4
    folder = Path(config.settings.mirrors["folder"]["path"]) / "plays"
    shutil.copytree(folder / HOUR, folder / after(HOUR, 5))
    extra = run("--repair")
    assert (extra.exit_code, "remove it there by hand if nobody needs it" in extra.stdout) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["reconcile", "plays"], ["erase", "plays", "--status"]])
def test_without_java_a_mirror_that_needs_spark_is_refused_in_one_sentence(
    lake: Lake, config: Config, topic: Topic, tmp_path: Path, command: list[str]
) -> None:
    """And not once for each hour, as if the target did not answer."""
    lake.cleared(topic, HOUR, plays(IDS, topic))
    settings = {"raw_root": config.settings.raw_root, "mirrors": {"folder": {"kind": "folder", "path": "hdfs://h/x"}}}
    conf = write_conf(tmp_path, settings, {"plays": PLAYS})
    ended = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli", "--conf", str(conf), *command],
        env={**os.environ, "JAVA_HOME": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (MISUSE, "")
    assert ended.stderr.endswith("set JAVA_HOME to it.\n")
    assert "Spark: found no Java that runs it at /nowhere" in ended.stderr
