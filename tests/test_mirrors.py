"""The contract of mirrors, held against every target, and what is the folder's, the catalogue's and the stage's own.

A new target joins `TARGETS` with a way to open it and the few things below that a test must do behind its back.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clock import Clock
from google.api_core.exceptions import PreconditionFailed
from google.cloud.storage.exceptions import InvalidResponse
from mirror_targets import (
    HOUR,
    NEXT,
    PARAMS,
    TARGETS,
    Bucket,
    Crash,
    DuckDBTarget,
    FolderTarget,
    HiveTarget,
    Lake,
    LocalStore,
    Target,
    emulator_options,
    plays,
)

from lakehouse.checksum import checksum_of
from lakehouse.config import Config, Settings
from lakehouse.errors import ConfigError, MirrorError, NoSparkError, TargetLimitError
from lakehouse.hours import Hour, after
from lakehouse.keys import Frozen
from lakehouse.lineage.datasets import DatasetName
from lakehouse.mirrors import catalogue, google
from lakehouse.mirrors.catalogue import KINDS, mirror_named
from lakehouse.mirrors.contract import Count, Mirror, SealedHour
from lakehouse.mirrors.duckdb import DuckDBMirror
from lakehouse.mirrors.files import LocalFiles
from lakehouse.mirrors.folder import ABANDONED_AFTER, STAGING, FolderMirror
from lakehouse.mirrors.hadoop import HadoopFiles
from lakehouse.mirrors.retries import with_retries
from lakehouse.mirrors.stage import mirror_due
from lakehouse.mirrors.target import MOST_FAILURES_IN_A_ROW
from lakehouse.mirrors.values import differing_values
from lakehouse.operations import report
from lakehouse.operations.stage_failures import record_stage_failure, stage_failures
from lakehouse.store.contents import Contents
from lakehouse.store.files import google_client
from lakehouse.store.place import Place
from lakehouse.store.records import Invalid, Mirrored, Released, Valid, Withdrawn
from lakehouse.topics import Topic, topic_from
from tests.servers.together import Servers


@pytest.fixture
def lake(config: Config) -> Lake:
    return Lake(config)


@pytest.fixture(params=PARAMS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return TARGETS[request.param](tmp_path / "mirror", request)


# ---- the contract


def ids_of(rows: pa.Table | None) -> list[str] | None:
    return None if rows is None else sorted(rows["event_id"].to_pylist())


def test_what_was_published_is_counted_as_it_was_sealed(target: Target, lake: Lake, topic: Topic) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a", "b", "c"], topic))
    assert target.mirror.read_back(topic, HOUR) is None
    target.mirror.publish(hour)
    assert target.mirror.read_back(topic, HOUR) == Count(3, checksum_of(["a", "b", "c"]))
    assert target.mirror.read_back(topic, NEXT) is None


def test_publishing_again_changes_nothing(target: Target, lake: Lake, topic: Topic) -> None:
    """The process may die between publishing and recording: the next one publishes the same once more."""
    hour = lake.sealed(topic, HOUR, plays(["a", "b", "c"], topic))
    target.mirror.publish(hour)
    before = target.identity(topic, HOUR)
    target.mirror.publish(hour)
    assert target.identity(topic, HOUR) == before


def test_a_new_revision_replaces_the_whole_hour(target: Target, lake: Lake, topic: Topic) -> None:
    first = lake.sealed(topic, HOUR, plays(["a", "b", "c"], topic), files=3)
    target.mirror.publish(first)
    second = lake.sealed(topic, HOUR, plays(["b", "d"], topic), files=1)
    target.mirror.publish(second)
    assert ids_of(target.rows(topic, HOUR)) == ["b", "d"]
    assert target.mirror.read_back(topic, HOUR) == Count(2, checksum_of(["b", "d"]))


def test_an_older_revision_is_refused(target: Target, lake: Lake, topic: Topic) -> None:
    """A run that was asleep since before the hour was sealed again must not bring the old one back."""
    first = lake.sealed(topic, HOUR, plays(["a"], topic))
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["b"], topic)))
    with pytest.raises(MirrorError, match="found revision 2"):
        target.mirror.publish(first)
    assert ids_of(target.rows(topic, HOUR)) == ["b"]


PERSON = "person-8f1c2be09a7d43b6"


def holds_person(folder: Path) -> bool:
    """Whether any file there has the name in its bytes, or in a Parquet file's values."""
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes()
        is_in_values = data[:4] == b"PAR1" and PERSON in str(pq.ParquetFile(path).read().to_pydict())
        if PERSON.encode() in data or is_in_values:
            return True
    return False


def test_nothing_of_an_older_revision_remains(
    target: Target, lake: Lake, topic: Topic, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Not in a folder beside, not in free pages: a new revision is what an erasure left."""
    is_here = request.node.callspec.id in ("folder", "hadoop", "duckdb")
    target.mirror.publish(lake.sealed(topic, NEXT, plays(["x"], topic)))
    target.mirror.publish(lake.sealed(topic, HOUR, plays([f"{PERSON}-{n}" for n in range(500)] + ["a"], topic)))
    assert not is_here or holds_person(tmp_path / "mirror")
    second = lake.sealed(topic, HOUR, plays(["a"], topic))
    assert target.mirror.remains(second) != []
    target.mirror.publish(second)
    assert target.mirror.remains(second) == []
    assert not is_here or not holds_person(tmp_path / "mirror")
    assert (ids_of(target.rows(topic, HOUR)), ids_of(target.rows(topic, NEXT))) == (["a"], ["x"])


def test_an_hour_is_withdrawn_with_all_that_is_of_it(
    target: Target, lake: Lake, topic: Topic, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One whose new revision is invalid: the old one must go, and the new one must not come."""
    target.mirror.publish(lake.sealed(topic, NEXT, plays(["x"], topic)))
    target.mirror.publish(lake.sealed(topic, HOUR, plays([f"{PERSON}-{n}" for n in range(500)], topic)))
    second = lake.sealed(topic, HOUR, plays(["a"], topic))
    target.mirror.withdraw(second)
    target.mirror.withdraw(second)
    assert (target.mirror.read_back(topic, HOUR), target.mirror.hours(topic)) == (None, {NEXT})
    assert (target.rows(topic, HOUR), target.mirror.remains(second)) == (None, [])
    assert request.node.callspec.id not in ("folder", "hadoop", "duckdb") or not holds_person(tmp_path / "mirror")
    target.mirror.publish(second)
    assert target.mirror.read_back(topic, HOUR) == Count(1, checksum_of(["a"]))


def test_what_was_never_there_is_withdrawn(target: Target, lake: Lake, topic: Topic) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a"], topic))
    assert target.mirror.remains(hour) == []
    target.mirror.withdraw(hour)
    assert target.mirror.read_back(topic, HOUR) is None


def test_hours_and_topics_do_not_touch_each_other(
    target: Target, lake: Lake, topic: Topic, topic_with: Callable[..., Topic]
) -> None:
    other = topic_with(name="skips", subscription="projects/test/subscriptions/skips")
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    target.mirror.publish(lake.sealed(topic, NEXT, plays(["b"], topic)))
    target.mirror.publish(lake.sealed(other, HOUR, plays(["c"], other)))
    seen = [ids_of(target.rows(each, hour)) for each, hour in ((topic, HOUR), (topic, NEXT), (other, HOUR))]
    assert seen == [["a"], ["b"], ["c"]]


def test_an_empty_hour_is_there_and_empty(target: Target, lake: Lake, topic: Topic) -> None:
    """Nothing happened and nothing is known are two answers."""
    target.mirror.publish(lake.sealed(topic, HOUR, plays([], topic), files=0))
    assert target.mirror.read_back(topic, HOUR) == Count(0, 0)
    assert ids_of(target.rows(topic, HOUR)) == []


def by_message(rows: pa.Table) -> list[dict[str, Any]]:
    return sorted(rows.to_pylist(), key=lambda row: str(row["message_id"]))


def test_odd_values_arrive_unchanged(target: Target, lake: Lake, topic_with: Callable[..., Topic]) -> None:
    fields = {
        "text": "string",
        "amount": "decimal(38,18)",
        "at": "timestamp",
        "day": "date",
        "raw": "binary",
        "ratio": "double",
        "tags": "array<string>",
        "sizes": "map<string,bigint>",
        "deep": "struct<a: struct<b: array<int>>>",
        "select": "string",
        "größe": "int",
        "share": "float",
        "is_new": "boolean",
        "price": "decimal(5,2)",
        "track": "struct<id: string, of: struct<ms: bigint>>",
    }
    fields = {name: kind for name, kind in fields.items() if kind.partition("<")[0] not in target.cannot}
    odd = topic_with(name="odd", subscription="projects/test/subscriptions/odd", fields=fields)
    rows = plays(
        ["", "é", "e\u0301", "😀\n\0"],
        odd,
        text=["", None, "line\nbreak\t\0", "日本語 \u202e"],
        amount=[Decimal("99999999999999999999.999999999999999999"), Decimal("-0.000000000000000001"), None, Decimal(0)],
        at=[datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), datetime(1, 1, 1, tzinfo=UTC), None, datetime.now(UTC)],
        day=[date(1582, 10, 4), date(1969, 12, 31), None, date(9999, 12, 31)],
        raw=[b"", b"\0\xff", None, b"x" * 100_000],
        ratio=[float("inf"), -0.0, None, 5e-324],
        tags=[[], [None, ""], None, ["a", "b"]],
        sizes=[[], [("k", None)], None, [("a", 2**63 - 1)]],
        deep=[{"a": {"b": [1, None]}}, {"a": None}, None, {"a": {"b": []}}],
        select=["from", None, "`", "'"],
        größe=[None, 1, 2, -(2**31)],
        share=[0.5, -1.25, None, 2.0**70],
        is_new=[True, False, None, True],
        price=[Decimal("0.50"), Decimal("-999.99"), None, Decimal("0.00")],
        track=[{"id": "t", "of": {"ms": -1}}, {"id": None, "of": {"ms": None}}, None, {"id": "", "of": None}],
    )  # fmt: skip
    rows = target.storable(rows)
    hour = lake.sealed(odd, HOUR, rows)
    target.mirror.publish(hour)
    seen = target.rows(odd, HOUR)
    assert seen is not None
    assert by_message(seen.cast(rows.schema)) == by_message(rows)  # BigQuery has no order
    assert target.mirror.read_back(odd, HOUR) == Count(4, checksum_of(rows["event_id"].to_pylist()))
    assert differing_values(target.mirror, hour) == []


def test_fields_that_come_later_leave_earlier_hours_as_they_were(
    target: Target, lake: Lake, topic: Topic, topic_with: Callable[..., Topic]
) -> None:
    """An hour from before may come after one from since, from files that lack the new fields."""
    first = lake.sealed(topic, HOUR, plays(["a"], topic, track=[{"id": "t", "ms": 1}]), files=1)
    target.mirror.publish(first)
    fields = {"user": "string", "track": "struct<id: string, ms: int, bpm: int>", "n": "bigint", "speed": "double"}
    grown = topic_with(fields=fields)
    rows = plays(["b"], grown, track=[{"id": "t", "ms": 2, "bpm": 120}], speed=[1.5])
    target.mirror.publish(lake.sealed(grown, NEXT, rows, files=1))
    columns = lake.sealed_now(grown, NEXT).columns
    target.mirror.publish(replace(first, topic=grown, columns=columns), force=True)
    assert ids_of(target.rows(topic, HOUR)) == ["a"]
    seen = target.rows(grown, NEXT)
    assert seen is not None
    assert seen.cast(rows.schema).to_pylist() == rows.to_pylist()
    assert [target.mirror.read_back(grown, hour) for hour in (HOUR, NEXT)] == [
        Count(1, checksum_of(["a"])),
        Count(1, checksum_of(["b"])),
    ]
    assert [differing_values(target.mirror, lake.sealed_now(grown, hour)) for hour in (HOUR, NEXT)] == [[], []]


def test_the_hours_that_are_there_are_named(
    target: Target, lake: Lake, topic: Topic, topic_with: Callable[..., Topic]
) -> None:
    """An empty one is there, too; what another topic has whose name begins alike is not this one's."""
    alike = topic_with(name="plays_2026", subscription="projects/test/subscriptions/plays_2026")
    assert target.mirror.hours(topic) == set()
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    target.mirror.publish(lake.sealed(topic, NEXT, plays([], topic), files=0))
    target.mirror.publish(lake.sealed(alike, after(NEXT), plays(["b"], alike)))
    assert target.mirror.hours(topic) == {HOUR, NEXT}
    assert target.mirror.hours(alike) == {after(NEXT)}


def after_each_crash(
    target: Target, hour: SealedHour, whole: list[str], before: SealedHour | None = None
) -> list[list[str] | None]:
    """The ids that a reader sees after processes that died before each change that a publish makes, the last one, too.

    Each crash has a topic of its own, where `before` was published; the next publish must always bring the `whole`.
    """
    seen: list[list[str] | None] = []

    def dies_at(step: int) -> bool:
        topic = hour.topic.model_copy(update={"name": f"{hour.topic.name}_{step}"})
        if before:
            target.mirror.publish(replace(before, topic=topic))
        try:
            target.crashing_at(step).publish(replace(hour, topic=topic))
        except Crash:
            seen.append(ids_of(target.rows(topic, HOUR)))
            target.mirror.publish(replace(hour, topic=topic))
            assert ids_of(target.rows(topic, HOUR)) == whole
            return True
        return False

    next(step for step in range(1000) if not dies_at(step))
    return seen


@pytest.mark.slow
def test_a_crash_at_any_step_of_the_first_publish_shows_nothing_or_all(
    target: Target, lake: Lake, topic: Topic
) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a", "b", "c"], topic))
    seen = after_each_crash(target, hour, ["a", "b", "c"])
    assert len(seen) >= 2
    assert seen[0] is None
    assert all(ids in (None, ["a", "b", "c"]) for ids in seen)


@pytest.mark.slow
def test_a_crash_at_any_step_of_a_replacement_shows_the_old_hour_or_the_new_but_no_mix(
    target: Target, lake: Lake, topic: Topic
) -> None:
    """A folder has a moment without either, which `replaces_at_once` says no; the next publish brings it."""
    old = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    new = lake.sealed(topic, HOUR, plays(["b", "c"], topic))
    seen = after_each_crash(target, new, ["b", "c"], before=old)
    assert len(seen) >= 2
    assert seen[0] == ["a", "b"]
    allowed = [["a", "b"], ["b", "c"], *([] if target.replaces_at_once else [None])]
    assert all(ids in allowed for ids in seen)


@contextmanager
def held_up_by_readers() -> Iterator[None]:
    """What an erasure still has to do where a reader has DuckDB's file open; nothing else may fail."""
    try:
        yield
    except MirrorError as held_up:
        if "is already attached" not in str(held_up):
            raise


@pytest.mark.slow
def test_a_reader_who_never_rests_sees_whole_hours_only(target: Target, lake: Lake, topic: Topic) -> None:
    versions = {"a": plays([f"a{n}" for n in range(50)], topic), "b": plays([f"b{n}" for n in range(70)], topic)}
    hours = [lake.sealed(topic, HOUR, rows, files=4) for rows in versions.values()]
    whole = [sorted(rows["event_id"].to_pylist()) for rows in versions.values()]
    done, seen = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                ids = ids_of(target.rows(topic, HOUR))
            except OSError:  # the folder went away under the reader, who sees that it did
                continue
            if ids is not None and ids not in seen:
                seen.append(ids)

    reader = threading.Thread(target=read)
    with duckdb.connect(target.path) if isinstance(target, DuckDBTarget) else nullcontext():
        reader.start()
        try:
            for revision in range(1, 13 if target.is_quick else 5):
                with held_up_by_readers():
                    target.mirror.publish(replace(hours[revision % 2], revision=revision))
        finally:
            done.set()
            reader.join()
    assert seen
    assert all(ids in whole for ids in seen)


def test_a_target_that_takes_nothing_says_so_and_keeps_what_it_has(target: Target, lake: Lake, topic: Topic) -> None:
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a", "b"], topic)))
    new = lake.sealed(topic, HOUR, plays(["c", "d"], topic))
    with pytest.raises(MirrorError, match=rf"plays {HOUR}: found .*No space left on device"):
        target.refusing().publish(new)
    assert ids_of(target.rows(topic, HOUR)) == ["a", "b"]
    target.mirror.publish(new)
    assert ids_of(target.rows(topic, HOUR)) == ["c", "d"]


def test_what_the_target_lost_shows_in_its_count(target: Target, lake: Lake, topic: Topic) -> None:
    """The count is of what a reader sees, not of what the mirror remembers to have written."""
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a", "b", "c", "d"], topic)))
    target.overwrite(topic, HOUR, plays(["b", "c", "d"], topic))
    assert target.mirror.read_back(topic, HOUR) == Count(3, checksum_of(["b", "c", "d"]))


# ---- the folder's own


@pytest.fixture
def folder(tmp_path: Path) -> FolderTarget:
    return FolderTarget(LocalStore(tmp_path / "mirror"), LocalFiles(), str(tmp_path / "mirror"))


def root_of(target: FolderTarget) -> Path:
    return Path(target.address)


def folder_of(target: FolderTarget, topic: Topic) -> Path:
    return root_of(target) / target.folder(topic, HOUR)


def staging(target: FolderTarget, topic: Topic) -> list[str]:
    return sorted(path.name for path in (root_of(target) / topic.name / STAGING).iterdir())


def test_a_folder_holds_the_exact_files_of_the_sealed_version(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    """A listing of silver would also give what failed writes and older revisions left there."""
    hour = lake.sealed(topic, HOUR, plays(["a", "b", "c"], topic))
    stray = Path(hour.silver.uri) / f"hour={HOUR}" / "stray.parquet"
    pq.write_table(plays(["stray"], topic), stray)
    folder.mirror.publish(hour)
    names = sorted(path.name for path in folder_of(folder, topic).iterdir())
    assert names == ["_SUCCESS", "_manifest.json", "part-00000-r1.parquet", "part-00001-r1.parquet"]
    for name, file in zip(names[2:], hour.files, strict=True):
        copied = (folder_of(folder, topic) / name).read_bytes()
        assert copied == (Path(hour.silver.uri) / file.path).read_bytes()


def test_the_manifest_says_what_is_there_and_where_it_came_from(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic), files=1)
    folder.mirror.publish(hour)
    manifest = json.loads((folder_of(folder, topic) / "_manifest.json").read_text())
    file = {"name": "part-00000-r1.parquet", "rows": 2, "size_bytes": hour.files[0].size_bytes}
    assert manifest == {
        "topic": "plays",
        "hour": HOUR,
        "revision": 1,
        "silver_version": hour.silver_version,
        "release": "test",
        "rows": 2,
        "id_checksum": str(checksum_of(["a", "b"])),
        "files": [{**file, "silver_path": hour.files[0].path}],
    }


def test_nothing_is_left_in_staging(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    folder.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    folder.mirror.publish(lake.sealed(topic, HOUR, plays(["b"], topic)))
    with pytest.raises(MirrorError):
        folder.refusing().publish(lake.sealed(topic, HOUR, plays(["c"], topic)))
    assert staging(folder, topic) == []


def test_a_lost_file_is_brought_again(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    folder.mirror.publish(hour)
    (folder_of(folder, topic) / "part-00000-r1.parquet").unlink()
    folder.mirror.publish(hour)
    assert ids_of(folder.rows(topic, HOUR)) == ["a", "b"]


def test_a_truncated_source_is_never_shown(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    os.truncate(Path(hour.silver.uri) / hour.files[0].path, 10)
    with pytest.raises(MirrorError, match="where silver's log says"):
        folder.mirror.publish(hour)
    assert folder.rows(topic, HOUR) is None


def test_a_path_that_is_no_folder_is_reported_clearly(tmp_path: Path, lake: Lake, topic: Topic) -> None:
    (tmp_path / "file").touch()
    mirror = FolderMirror("folder", str(tmp_path / "file"), LocalFiles())
    with pytest.raises(MirrorError, match=rf"mirror folder: plays {HOUR}: found .*Not a directory"):
        mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))


DIES_COPYING = """
import os, pickle, sys
from lakehouse.mirrors import files
mirror, hour = pickle.load(open(sys.argv[1], "rb"))
files.LocalFiles.settle = lambda self, folder: os.kill(os.getpid(), 9)
mirror.publish(hour)
"""


def test_what_a_dead_process_left_is_removed_at_once(
    folder: FolderTarget, lake: Lake, topic: Topic, tmp_path: Path
) -> None:
    """A driver that dies again and again must not fill the disk with its attempts."""
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    mirror = FolderMirror("folder", folder.address, LocalFiles())
    (tmp_path / "work").write_bytes(pickle.dumps((mirror, hour)))
    died = subprocess.run([sys.executable, "-c", DIES_COPYING, str(tmp_path / "work")], check=False)
    assert died.returncode == -9
    assert len(staging(folder, topic)) == 1
    folder.mirror.publish(hour)
    assert staging(folder, topic) == []


@pytest.mark.parametrize(("idle", "stays"), [(ABANDONED_AFTER / 2, True), (ABANDONED_AFTER * 2, False)])
def test_an_attempt_elsewhere_is_removed_only_when_it_makes_no_headway(
    folder: FolderTarget, lake: Lake, topic: Topic, idle: timedelta, stays: bool
) -> None:
    """Nobody can ask another machine's process; a live one finishes a file every few seconds."""
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    for each in (HOUR, NEXT):
        attempt = root_of(folder) / topic.name / STAGING / f"{each}-r1-elsewhere.example.1.00ff"
        attempt.mkdir(parents=True)
        (attempt / "part-00000-r1.parquet").write_bytes(b"half")
    later = FolderMirror("folder", folder.address, LocalFiles(), lambda: datetime.now(UTC) + idle)
    later.publish(hour)
    others = [name[: len(HOUR)] for name in staging(folder, topic)]
    assert others == ([HOUR, NEXT] if stays else [NEXT])


def test_of_two_runs_at_once_one_publishes_and_both_are_content(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    """The other run's rename comes right before ours."""
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))

    class Overtaken(LocalFiles):
        def rename(self, folder_: str, to: str) -> None:
            if to.endswith(HOUR) and not os.path.exists(to):
                folder.mirror.publish(hour)
            super().rename(folder_, to)

    FolderMirror("folder", folder.address, Overtaken()).publish(hour)
    assert ids_of(folder.rows(topic, HOUR)) == ["a", "b"]
    assert staging(folder, topic) == []


def test_a_failed_replacement_puts_the_old_hour_back(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    folder.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))

    class Stubborn(LocalFiles):
        def rename(self, folder_: str, to: str) -> None:
            if to.endswith(HOUR) and "-aside" not in folder_:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            super().rename(folder_, to)

    with pytest.raises(MirrorError, match="Permission denied"):
        FolderMirror("folder", folder.address, Stubborn()).publish(lake.sealed(topic, HOUR, plays(["b"], topic)))
    assert ids_of(folder.rows(topic, HOUR)) == ["a"]


def test_large_hours_are_copied_by_spark_tasks(spark: Any, tmp_path: Path, lake: Lake, topic: Topic) -> None:
    files = HadoopFiles(lambda: spark, f"file://{tmp_path}/mirror", spread_from_bytes=0)
    target = FolderTarget(LocalStore(tmp_path / "mirror"), files, f"file://{tmp_path}/mirror")
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a", "b", "c", "d"], topic), files=3))
    assert ids_of(target.rows(topic, HOUR)) == ["a", "b", "c", "d"]


def test_what_a_mirror_asks_of_spark_is_in_the_topic_s_pool(
    spark: Any, tmp_path: Path, lake: Lake, config: Config, topic: Topic
) -> None:
    """Hours are published in threads of their own, none of which is the one that opened the mirror."""

    def spark_for_topic() -> Any:
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", topic.name)
        return spark

    root = f"file://{tmp_path}/mirror"
    with ThreadPoolExecutor(1) as opener:
        files = opener.submit(HadoopFiles, spark_for_topic, root, spread_from_bytes=0).result()
    lake.cleared(topic, HOUR, plays(["a", "b"], topic))
    before = stages_of(spark)
    mirror_due(topic, config, None, run="1", mirrors={"folder": FolderMirror("folder", root, files)})
    assert pools_of(spark, stages_of(spark) - before) == {topic.name}


def stages_of(spark: Any) -> set[int]:
    context = spark.sparkContext._jsc.sc()
    context.listenerBus().waitUntilEmpty()
    jobs = context.statusStore().jobsList(None)
    ids = [jobs.apply(job).stageIds() for job in range(jobs.length())]
    return {each.apply(number) for each in ids for number in range(each.length())}


def pools_of(spark: Any, stages: set[int]) -> set[str]:
    """Of those that ran."""
    store = spark.sparkContext._jsc.sc().statusStore()
    attempts = [store.lastStageAttempt(stage) for stage in stages]
    return {str(each.schedulingPool()) for each in attempts if str(each.status()) != "SKIPPED"}


# ---- stores with servers


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_gcs_copies_what_is_there_already_by_itself(
    request: pytest.FixtureRequest, tmp_path: Path, lake: Lake, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lake on GCS is mirrored without a byte of it passing through here."""
    target = TARGETS["gcs"](tmp_path / "mirror", request)
    assert isinstance(target, FolderTarget)
    assert isinstance(target.store, Bucket)
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    bucket = target.store.client.bucket(target.store.bucket)
    for file in hour.files:
        bucket.blob(f"silver/{file.path}").upload_from_filename(f"{hour.silver.uri}/{file.path}")
    on_gcs = replace(hour, silver=Place(f"gs://{target.store.bucket}/silver"))

    monkeypatch.setattr(Place, "open", lambda self, path: pytest.fail("read by this machine"))
    FolderMirror("folder", target.address, target.files).publish(on_gcs)
    assert ids_of(target.rows(topic, HOUR)) == ["a", "b"]


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_the_gcs_at_hand_keeps_preconditions(servers: Servers) -> None:
    """One that does not would lose commits without a word, and what passes here would say nothing."""
    client = google_client(emulator_options(servers.gcs().address))
    blob = client.create_bucket("preconditions").blob("taken")
    blob.upload_from_string("first")
    with (
        pytest.raises((PreconditionFailed, InvalidResponse), match="412"),
        blob.open("wb", if_generation_match=0, chunk_size=256 * 1024) as resumable,
    ):
        resumable.write(b"second")
    assert blob.download_as_bytes() == b"first"


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_hdfs_that_loses_its_datanode_is_reported_and_takes_the_hour_later(
    request: pytest.FixtureRequest, tmp_path: Path, lake: Lake, topic: Topic
) -> None:
    target = TARGETS["hdfs"](tmp_path / "mirror", request)
    hdfs = request.getfixturevalue("servers").hdfs()
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    hdfs.datanode.end()
    try:
        with pytest.raises(MirrorError, match=rf"mirror folder: plays {HOUR}: found"):
            target.mirror.publish(hour)
    finally:
        hdfs.start_datanode()
    with_retries(
        lambda: target.mirror.publish(hour), (MirrorError,), timedelta(seconds=20)
    )  # until it has registered again
    assert ids_of(target.rows(topic, HOUR)) == ["a", "b"]


# ---- the catalogue


@pytest.mark.parametrize("kind", ["bigquery", "hive", "folder"])
def test_conf_shows_every_key_of_every_kind(kind: str) -> None:
    """A key that only the code knows is one that no operator will ever set."""
    module, _, name = KINDS[kind].partition(":")
    text = (Path(__file__).parent.parent / "conf" / "dataproc.yaml").read_text(encoding="utf-8")
    block = text.partition(f"kind: {kind}\n")[2].partition("kind: ")[0].partition("\nspark:")[0]
    for key in getattr(import_module(module), name).Options.model_fields:
        assert key == "kind" or re.search(rf"^[ #]+{key}: .+ # .+ · .+ · ", block, re.MULTILINE), key


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_target_that_answers_sql_says_so(kind: str) -> None:
    """Of another one reconcile would read silver's files for nothing, or compare nothing but ids."""
    module, _, name = KINDS[kind].partition(":")
    target = getattr(import_module(module), name)
    assert target.keeps_rows == (target.value_checksum is not Mirror.value_checksum)


def test_a_target_takes_few_lines() -> None:
    """CONTRIBUTING shows the shortest one and says so; imports and docstring count, blank lines do not."""
    module = KINDS["duckdb"].partition(":")[0].replace(".", "/")
    text = (Path(__file__).parent.parent / f"{module}.py").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in text.splitlines()) < 150


def settings_with(**values: Any) -> Settings:
    return Settings(raw_root="lake", mirrors={"copy": values})


def test_a_mirror_is_opened_by_its_kind(tmp_path: Path, topic: Topic) -> None:
    mirror = mirror_named("copy", settings_with(kind="folder", path="some/where"), tmp_path / "local.yaml", None)
    assert mirror.name == "copy"
    assert mirror.where(topic, HOUR) == str(Path("some/where").absolute() / "plays" / HOUR)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "foldr", "path": "x"}, r"conf/local.yaml: mirrors.copy.kind: found 'foldr'; expected one of b"),
        ({"path": "x"}, r"conf/local.yaml: mirrors.copy.kind: found nothing"),
        ({"kind": "folder", "pth": "x", "path": "x"}, r"conf/local.yaml: mirrors.copy.pth: found the unknown key"),
        ({"kind": "folder"}, r"conf/local.yaml: mirrors.copy.path: found nothing"),
        ({"kind": "folder", "path": ""}, r"conf/local.yaml: mirrors.copy.path: found ''"),
        ({"kind": "folder", "path": "file:/x"}, r"mirrors.copy.path: found 'file:/x'; expected an address such as"),
        ({"kind": "duckdb", "path": ":memory:"}, r"mirrors.copy.path: found ':memory:'; expected an address such as"),
        ({"kind": "folder", "path": 7}, r"conf/local.yaml: mirrors.copy.path: found 7"),
    ],
)
def test_what_cannot_be_a_mirror_names_file_and_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mirror_named("copy", settings_with(**values), Path("conf/local.yaml"), None)


def test_a_run_reads_a_mirror_s_options_once_for_all_topics(config: Config, topic: Topic) -> None:
    """300 topics each compared with all others: options read again for each pair took minutes."""
    topics = {f"t{n}": topic.model_copy(update={"name": f"t{n}", "mirrors": ["copy", "other"]}) for n in range(300)}
    mirrors = {name: {"kind": "folder", "path": f"/tmp/{name}"} for name in ("copy", "other")}
    many = replace(config, topics=topics, settings=config.settings.model_copy(update={"mirrors": mirrors}))
    read: list[str] = []

    def recorded(kind: catalogue.MirrorKind, name: str, *rest: Any) -> Frozen:
        read.append(name)
        return catalogue.read_options(kind, name, *rest)

    checks = catalogue.Checks(many, recorded)
    assert [checks.check(name, each) for each in topics.values() for name in mirrors] == [[]] * 600
    assert sorted(read) == ["copy", "other"]


def test_an_undefined_mirror_names_those_that_are(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"mirrors.elsewhere: found no such mirror; expected one of folder"):
        mirror_named("elsewhere", settings, Path("conf/local.yaml"), None)


def test_an_address_without_spark_is_reported_so() -> None:
    with pytest.raises(MirrorError, match="found no Spark session for hdfs://nowhere/x"):
        mirror_named("copy", settings_with(kind="folder", path="hdfs://nowhere/x"), Path("conf/local.yaml"), None)


# ---- the stage


class RecordingMirror:
    """A target in memory, which counts as it is asked to."""

    hours_at_once = 1

    def __init__(self, name: str, count: Count | None = None, error: Exception | None = None) -> None:
        self.name, self._count, self._error = name, count, error
        self.published: list[tuple[Hour, int]] = []
        self._seen: dict[Hour, Count] = {}

    def where(self, topic: Topic, hour: Hour) -> str:
        return f"memory/{hour}"

    def dataset(self, topic: Topic) -> DatasetName:
        return DatasetName("memory", topic.name)

    def hours(self, topic: Topic) -> set[Hour]:
        if self._error:
            raise self._error
        return set(self._seen)

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        if self._error:
            raise self._error
        self.published.append((hour.hour, hour.revision))
        self._seen[hour.hour] = self._count or Count(hour.rows, hour.id_checksum)

    def read_back(self, topic: Topic, hour: Hour) -> Count | None:
        return self._seen.get(hour)

    def differing(self, topic: Topic, hour: Hour, digests: Mapping[str, Contents]) -> list[str]:
        return []

    def withdraw(self, hour: SealedHour) -> None:
        if self._error:
            raise self._error
        self._seen.pop(hour.hour, None)

    def remains(self, hour: SealedHour) -> list[str]:
        return []


def mirrored(lake: Lake, topic: Topic) -> list[tuple[Hour | None, str]]:
    return [(row.hour, row.of(Mirrored).target) for row in lake.history(topic).entries if row.state == "mirrored"]


def test_due_hours_go_oldest_first_and_are_recorded_with_what_was_counted(
    lake: Lake, config: Config, topic: Topic
) -> None:
    second = lake.cleared(topic, NEXT, plays(["c"], topic))
    first = lake.cleared(topic, HOUR, plays(["a", "b"], topic))
    mirror = RecordingMirror("folder")
    done = mirror_due(topic, config, None, run="run-7", mirrors={"folder": mirror})
    assert mirror.published == [(HOUR, 1), (NEXT, 1)]
    assert [(each.hour, each.count.rows) for each in done] == [(HOUR, 2), (NEXT, 1)]
    row = lake.history(topic).last("mirrored", HOUR)
    assert row is not None
    assert row.by == "mirror/test/run-7"
    assert row.details == {
        "target": "folder",
        "rows": 2,
        "id_checksum": str(first.id_checksum),
        "silver_version": first.silver_version,
        "revision": 1,
        "seconds": done[0].seconds,
        "where": f"memory/{HOUR}",
    }
    assert first.silver_version == second.silver_version + 1
    assert mirror_due(topic, config, None, run="run-8", mirrors={"folder": mirror}) == []


def test_that_spark_cannot_start_is_no_failure_of_the_target(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    lake: Lake,
    config: Config,
    topic: Topic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large hour waited for up to 6 hours after Java was there."""
    target = TARGETS["objects"](tmp_path / "mirror", request)
    assert isinstance(target, FolderTarget)

    def no_spark() -> Any:
        raise NoSparkError("Spark", found="no Java", expected="Java", next_step="Install it.")

    files = google.GoogleFiles(
        target.address, emulator_options(request.getfixturevalue("object_store").address), no_spark
    )
    mirrors: dict[str, Mirror] = {"folder": FolderMirror("folder", target.address, files)}
    lake.cleared(topic, HOUR, plays(["a"], topic))
    mirror_due(topic, config, None, run="1", mirrors=mirrors)
    monkeypatch.setattr(google, "SPREAD_FROM_BYTES", 0)
    lake.cleared(topic, NEXT, plays(["b"], topic))
    with pytest.raises(NoSparkError):
        mirror_due(topic, config, None, run="2", mirrors=mirrors)
    assert lake.history(topic).mirror_failures(NEXT, "folder") == []


def test_an_invalid_hour_is_not_mirrored_until_a_person_releases_it(lake: Lake, config: Config, topic: Topic) -> None:
    lake.sealed(topic, HOUR, plays(["a"], topic))
    mirror = RecordingMirror("folder")
    mirror_due(topic, config, None, run="1", mirrors={"folder": mirror})
    lake.ledger(topic).record(Invalid(), HOUR)
    mirror_due(topic, config, None, run="2", mirrors={"folder": mirror})
    assert mirror.published == []
    lake.ledger(topic).record(Released(), HOUR)
    mirror_due(topic, config, None, run="3", mirrors={"folder": mirror})
    assert mirror.published == [(HOUR, 1)]


def test_an_hour_sealed_again_is_mirrored_again(lake: Lake, config: Config, topic: Topic) -> None:
    mirror = RecordingMirror("folder")
    for ids in (["a"], ["a", "b"]):
        lake.cleared(topic, HOUR, plays(ids, topic))
        mirror_due(topic, config, None, run="1", mirrors={"folder": mirror})
    assert mirror.published == [(HOUR, 1), (HOUR, 2)]


@pytest.mark.parametrize("wrong", [Count(2, 17), Count(1, checksum_of(["a", "b"]))])
def test_a_disagreement_names_both_counts_and_records_nothing(
    lake: Lake, config: Config, topic: Topic, wrong: Count
) -> None:
    hour = lake.cleared(topic, HOUR, plays(["a", "b"], topic))
    with pytest.raises(MirrorError) as raised:
        mirror_due(topic, config, None, run="1", mirrors={"folder": RecordingMirror("folder", wrong)})
    assert f"found {wrong.rows} rows with id checksum {wrong.id_checksum}" in str(raised.value)
    assert f"expected 2 rows with id checksum {hour.id_checksum}" in str(raised.value)
    assert lake.history(topic).due_to_mirror("folder") == [HOUR]


def test_a_row_lost_between_publish_and_count_is_found(lake: Lake, config: Config, topic: Topic) -> None:
    """With the real folder: what matters is what a reader finds there."""
    lake.cleared(topic, HOUR, plays(["a", "b", "c", "d"], topic))
    path = Path(config.settings.mirrors["folder"]["path"])
    target = FolderTarget(LocalStore(path), LocalFiles(), str(path))

    class Tampered(FolderMirror):
        def publish(self, hour: SealedHour, *, force: bool = False) -> None:
            super().publish(hour, force=force)
            target.overwrite(topic, HOUR, plays(["b", "c", "d"], topic))

    with pytest.raises(MirrorError, match="found 3 rows"):
        mirror_due(topic, config, None, run="1", mirrors={"folder": Tampered("folder", str(path), LocalFiles())})
    assert mirrored(lake, topic) == []
    mirror_due(topic, config, None, run="2")
    assert mirrored(lake, topic) == [(HOUR, "folder")]


def test_a_broken_target_holds_up_no_other(lake: Lake, config: Config, topic_with: Callable[..., Topic]) -> None:
    topic = topic_with(mirrors=["broken", "misspelt", "folder", "full"])
    targets: dict[str, Mirror] = {
        "broken": RecordingMirror("broken", error=ValueError("no such dataset")),
        "folder": RecordingMirror("folder"),
        "full": FolderMirror("full", "/proc/nowhere", LocalFiles()),
    }
    for hour in (HOUR, NEXT):
        lake.cleared(topic, hour, plays(["a"], topic))
    with pytest.raises(MirrorError) as raised:
        mirror_due(topic, config, None, run="1", mirrors=targets)
    for part in ("5 failures", "ValueError: no such dataset", "mirrors.misspelt", "mirror full: plays"):
        assert part in str(raised.value)
    assert mirrored(lake, topic) == [(HOUR, "folder"), (NEXT, "folder")]
    assert lake.history(topic).due_to_mirror("full") == [HOUR, NEXT]


def test_one_bad_hour_does_not_hold_up_the_next(lake: Lake, config: Config, topic: Topic) -> None:
    bad = lake.cleared(topic, HOUR, plays(["a"], topic))
    lake.cleared(topic, NEXT, plays(["b"], topic))
    os.remove(Path(bad.silver.uri) / bad.files[0].path)
    with pytest.raises(MirrorError, match=f"mirror folder: plays {HOUR}"):
        mirror_due(topic, config, None, run="1")
    assert mirrored(lake, topic) == [(NEXT, "folder")]


def test_a_target_that_is_away_is_not_asked_for_every_hour(lake: Lake, config: Config, topic: Topic) -> None:
    """Each question may cost a time-out; the next run asks again, from the oldest hour on."""
    for number in range(6):
        lake.cleared(topic, f"2026-11-23T0{number}", plays(["a"], topic))
    with pytest.raises(MirrorError, match="3 failures"):
        mirror_due(topic, config, None, run="1", mirrors={"folder": RecordingMirror("folder", error=OSError("away"))})


class Busy(RecordingMirror):
    """Takes three hours at once, and none before it has three."""

    hours_at_once = 3

    def __init__(self) -> None:
        super().__init__("folder")
        self._three, self.most, self._now = threading.Barrier(3), 0, 0

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        if hour.hour < after(HOUR, 3):
            self._three.wait(10)
        super().publish(hour, force=force)
        self._now -= 1


def test_hours_go_side_by_side_as_many_as_the_target_takes_and_are_recorded_in_order(
    lake: Lake, config: Config, topic: Topic
) -> None:
    """After an outage of a day a load job's half minute would otherwise be waited for 24 times over."""
    for number in range(5):
        lake.cleared(topic, after(HOUR, number), plays([str(number)], topic))
    busy = Busy()
    mirror_due(topic, config, None, run="1", mirrors={"folder": busy})
    assert busy.most == 3
    assert [hour for hour, _ in mirrored(lake, topic)] == [after(HOUR, number) for number in range(5)]


def test_a_target_that_is_away_is_left_soon_also_where_it_takes_many(lake: Lake, config: Config, topic: Topic) -> None:
    class Away(RecordingMirror):
        hours_at_once = 2
        asked = 0

        def hours(self, topic: Topic) -> set[Hour]:
            raise OSError("away")

        def publish(self, hour: SealedHour, *, force: bool = False) -> None:
            Away.asked += 1
            raise OSError("away")

    for number in range(9):
        lake.cleared(topic, after(HOUR, number), plays(["a"], topic))
    with pytest.raises(MirrorError, match="3 failures"):
        mirror_due(topic, config, None, run="1", mirrors={"folder": Away("folder")})
    assert Away.asked <= 5


def test_of_two_runs_only_one_records(lake: Lake, config: Config, topic: Topic) -> None:
    lake.cleared(topic, HOUR, plays(["a"], topic))

    class Overtaken(RecordingMirror):
        def publish(self, hour: SealedHour, *, force: bool = False) -> None:
            super().publish(hour, force=force)
            mirror_due(topic, config, None, run="other", mirrors={"folder": RecordingMirror("folder")})

    assert mirror_due(topic, config, None, run="1", mirrors={"folder": Overtaken("folder")}) == []
    assert mirrored(lake, topic) == [(HOUR, "folder")]


def test_an_hour_sealed_again_meanwhile_stays_due(lake: Lake, config: Config, topic: Topic) -> None:
    """What was counted is not what is now sealed."""
    lake.cleared(topic, HOUR, plays(["a"], topic))

    class Overtaken(RecordingMirror):
        def publish(self, hour: SealedHour, *, force: bool = False) -> None:
            super().publish(hour, force=force)
            lake.cleared(topic, HOUR, plays(["a", "b"], topic))

    assert mirror_due(topic, config, None, run="1", mirrors={"folder": Overtaken("folder")}) == []
    assert lake.history(topic).due_to_mirror("folder") == [HOUR]


def test_files_that_are_not_the_seals_are_not_mirrored(lake: Lake, config: Config, topic: Topic) -> None:
    lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    seal = lake.history(topic).seal_of(HOUR)
    assert seal is not None
    lake.ledger(topic).record(replace(seal, rows=3, revision=2), HOUR)
    lake.ledger(topic).record(Valid(), HOUR)
    with pytest.raises(Exception, match="found 2 files with 2 rows; expected 2 files with 3 rows"):
        mirror_due(topic, config, None, run="1")


def test_a_topic_without_mirrors_has_nothing_to_do(config: Config) -> None:
    values = {"subscription": "projects/test/subscriptions/x", "event_id": "payload.id", "event_time": "payload.at"}
    assert mirror_due(topic_from("x", {**values, "fields": {"n": "int"}}), config, None, run="1") == []


def test_hours_that_cannot_be_taken_hold_up_no_other(lake: Lake, config: Config, topic: Topic) -> None:
    """A file is where each of the first four folders should be; the target itself is well."""
    hours = [after(HOUR, number) for number in range(6)]
    root = Path(config.settings.mirrors["folder"]["path"]) / topic.name
    root.mkdir(parents=True)
    for hour in hours:
        lake.cleared(topic, hour, plays(["a"], topic))
    for hour in hours[:4]:
        (root / hour).write_text("in the way")
    with pytest.raises(MirrorError, match="4 failures"):
        mirror_due(topic, config, None, run="1")
    assert mirrored(lake, topic) == [(hour, "folder") for hour in hours[4:]]


def test_what_a_slow_run_publishes_after_a_withdrawal_is_withdrawn(lake: Lake, config: Config, topic: Topic) -> None:
    """It began before the erasure, and ends when another run has withdrawn the hour: the person would be back."""

    class Slow(RecordingMirror):
        def publish(self, hour: SealedHour, *, force: bool = False) -> None:
            if hour.revision == 1:
                lake.sealed(topic, HOUR, plays(["b"], topic))
                lake.ledger(topic).record(Invalid(), HOUR)
                lake.ledger(topic).record(Withdrawn(target="folder", revision=2), HOUR)
            super().publish(hour)

    lake.cleared(topic, HOUR, plays(["a", "b"], topic))
    mirror = Slow("folder")
    assert mirror_due(topic, config, None, run="r", mirrors={"folder": mirror}) == []
    assert mirror.published == [(HOUR, 1)]
    assert mirror.hours(topic) == set()


class Choosy(RecordingMirror):
    """Answers, and takes no hour of those that are blocked."""

    def __init__(self, blocked: set[Hour]) -> None:
        super().__init__("folder")
        self.blocked = blocked
        self.tried: list[Hour] = []

    def publish(self, hour: SealedHour, *, force: bool = False) -> None:
        self.tried.append(hour.hour)
        if hour.hour in self.blocked:
            raise MirrorError("mirror folder", found="a file", expected="a folder", next_step="Remove it.")
        super().publish(hour)


def run_at(clock: Clock, mirror: Choosy, lake: Lake, config: Config, topic: Topic) -> list[Hour]:
    """The hours that a run tries at that time."""
    mirror.tried = []
    with suppress(MirrorError):
        mirror_due(topic, config, None, run="r", mirrors={"folder": mirror}, clock=clock)
    return mirror.tried


def test_an_hour_that_is_refused_is_tried_again_after_growing_pauses(
    lake: Lake, config: Config, topic: Topic, clock: Clock
) -> None:
    """By the ledger alone: each run is a process of its own. Other hours go at once, and a success resets."""
    for hour in (HOUR, NEXT):
        lake.cleared(topic, hour, plays([hour], topic))
    clock.now = datetime.now(UTC)  # as the rows so far have it
    mirror = Choosy({HOUR})
    assert run_at(clock, mirror, lake, config, topic) == [HOUR, NEXT]
    for minutes in (1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360):
        clock.advance(60 * minutes - 5)
        assert run_at(clock, mirror, lake, config, topic) == [], minutes
        clock.advance(10)
        assert run_at(clock, mirror, lake, config, topic) == [HOUR], minutes
    mirror.blocked = set()
    assert run_at(clock, mirror, lake, config, topic) == []
    mirror_due(topic, config, None, run="person", mirrors={"folder": mirror})
    assert lake.history(topic).targets_done(HOUR) == {"folder"}
    mirror.blocked = {HOUR}
    lake.cleared(topic, HOUR, plays(["other"], topic))
    assert run_at(clock, mirror, lake, config, topic) == [HOUR]


def test_no_hour_waits_because_its_target_was_away(lake: Lake, config: Config, topic: Topic, clock: Clock) -> None:
    """It is not the hour that is refused, and all go as soon as the target answers."""
    lake.cleared(topic, HOUR, plays(["a"], topic))
    away = RecordingMirror("folder", error=MirrorError("folder", found="no", expected="yes", next_step="wait"))
    for _ in range(5):
        with pytest.raises(MirrorError):
            mirror_due(topic, config, None, run="r", mirrors={"folder": away}, clock=clock)
    assert run_at(clock, Choosy(set()), lake, config, topic) == [HOUR]


def test_what_a_target_takes_no_more_of_is_no_hour_s_fault(lake: Lake, config: Config, topic: Topic) -> None:
    """One try, and no row: a day's quota would else leave a row for each hour that waits for the next day."""
    for place in range(3):
        lake.cleared(topic, after(HOUR, place), plays([str(place)], topic))
    full = RecordingMirror("folder", error=TargetLimitError("folder", found="1500", expected="less", next_step="wait"))
    with pytest.raises(TargetLimitError):
        mirror_due(topic, config, None, run="r", mirrors={"folder": full})
    assert not lake.history(topic).mirror_failures(HOUR, "folder")


@pytest.mark.slow
def test_a_target_that_refuses_all_is_left_after_some_and_the_next_run_goes_on(
    lake: Lake, config: Config, topic: Topic, clock: Clock
) -> None:
    hours = [after(HOUR, place) for place in range(MOST_FAILURES_IN_A_ROW + 2)]
    for hour in hours:
        lake.cleared(topic, hour, plays([hour], topic))
    clock.now = datetime.now(UTC)
    mirror = Choosy(set(hours))
    assert run_at(clock, mirror, lake, config, topic) == hours[:MOST_FAILURES_IN_A_ROW]
    assert run_at(clock, mirror, lake, config, topic) == hours[MOST_FAILURES_IN_A_ROW:]


def test_status_names_every_hour_that_is_refused_until_it_is_there(lake: Lake, config: Config, topic: Topic) -> None:
    for hour in (HOUR, NEXT):
        lake.cleared(topic, hour, plays([hour], topic))
    mirror = Choosy({HOUR, NEXT})
    with pytest.raises(MirrorError) as raised:
        mirror_due(topic, config, None, run="r", mirrors={"folder": mirror})
    record_stage_failure(lake.tables(topic), "mirror", raised.value, "r")
    failures = list(stage_failures(lake.history(topic), topic))
    assert [(each.stage, each.hour) for each in failures] == [("mirror folder", HOUR), ("mirror folder", NEXT)]
    assert all("found a file" in each.error for each in failures)
    mirror.blocked = set()
    mirror_due(topic, config, None, run="r", mirrors={"folder": mirror})
    assert list(stage_failures(lake.history(topic), topic)) == []


def test_an_invalid_hour_that_an_erasure_left_is_withdrawn(lake: Lake, config: Config, topic: Topic) -> None:
    """The revision before still has the person, and the new one must not come; once released, it comes."""
    mirror = Choosy(set())

    def run() -> list[str]:
        mirror_due(topic, config, None, run="r", mirrors={"folder": mirror})
        return [entry.state for entry in lake.history(topic).current(HOUR)]

    lake.cleared(topic, HOUR, plays(["a", "b"], topic))
    assert run() == ["sealed", "valid", "mirrored"]
    lake.sealed(topic, HOUR, plays(["b"], topic))
    lake.ledger(topic).record(Invalid(), HOUR)
    assert run() == run() == ["sealed", "invalid", "withdrawn"]
    assert (mirror.hours(topic), lake.history(topic).state_of(HOUR)) == (set(), "invalid")
    lake.ledger(topic).record(Released(by="ann", reason="counted"), HOUR)
    assert run() == ["sealed", "invalid", "withdrawn", "released", "mirrored"]


TAGS = "array<struct<id: string, ms: int>>"
DECLARED = (
    {"user": "string", "track": "struct<id: string, ms: int>", "tags": TAGS, "n": "int"},
    {"track": "struct<id: string>", "tags": "array<struct<id: string>>"},
    {"track": "struct<bpm: int, ms: int, id: string>", "n": "int", "user": "string"},
)
"""What a topic declares one after the other: fields and members go, come, and are in other orders."""
EVER = {"user": "string", "track": "struct<id: string, ms: int, bpm: int>", "tags": TAGS, "n": "int"}
SHOWN = [
    {"user": "u", "track": {"id": "t", "ms": 1, "bpm": None}, "tags": [{"id": "x", "ms": 2}], "n": 7},
    {"user": None, "track": {"id": "t", "ms": None, "bpm": None}, "tags": [{"id": "x", "ms": None}], "n": None},
    {"user": "u", "track": {"id": "t", "ms": 1, "bpm": 90}, "tags": None, "n": 7},
]
"""What silver shows of an hour of each, by all fields that there ever were."""


def hours_declared_otherwise(lake: Lake, topic_with: Callable[..., Topic]) -> list[tuple[Topic, Hour]]:
    return [(topic_with(fields=fields), after(HOUR, place)) for place, fields in enumerate(DECLARED)]


def seal_as_declared(lake: Lake, topic: Topic, hour: Hour, shown: dict[str, Any]) -> None:
    values = {name: [shown[name]] for name in topic.fields}
    lake.sealed(topic, hour, plays([hour], topic, **values), files=1)


def shows_what_silver_shows(target: Target, topic: Topic, hour: Hour, shown: dict[str, Any]) -> bool:
    """A folder holds silver's own files, which have the fields of their time."""
    if isinstance(target, FolderTarget) and not isinstance(target, HiveTarget):
        return ids_of(target.rows(topic, hour)) == [hour]
    seen = target.rows(topic, hour)
    assert seen is not None
    (row,) = seen.select(list(EVER)).to_pylist()
    (stored,) = target.storable(plays([hour], topic, **{name: [value] for name, value in shown.items()})).to_pylist()
    return row == {name: stored[name] for name in EVER}


@pytest.mark.parametrize("is_added_later", [False, True])
def test_a_mirror_shows_what_silver_shows_whatever_the_topic_declares_now(
    target: Target, lake: Lake, topic_with: Callable[..., Topic], is_added_later: bool
) -> None:
    """Of hours from before and since, in a mirror that was there all the time, and in one that is added at the end."""
    declared = hours_declared_otherwise(lake, topic_with)
    for (topic, hour), shown in zip(declared, SHOWN, strict=True):
        seal_as_declared(lake, topic, hour, shown)
        if not is_added_later:
            target.mirror.publish(lake.sealed_now(topic, hour))
    newest, ever = declared[-1][0], topic_with(fields=EVER)
    for _, hour in reversed(declared) if is_added_later else []:
        target.mirror.publish(lake.sealed_now(newest, hour))
    for (_, hour), shown in zip(declared, SHOWN, strict=True):
        assert shows_what_silver_shows(target, ever, hour, shown), hour
    target.mirror.publish(lake.sealed_now(newest, HOUR), force=True)
    assert shows_what_silver_shows(target, ever, HOUR, SHOWN[0])
    assert [target.mirror.read_back(newest, hour) for _, hour in declared] == [
        Count(1, checksum_of([hour])) for _, hour in declared
    ]


def test_another_file_in_an_hours_folder_is_counted(folder: FolderTarget, lake: Lake, topic: Topic) -> None:
    """Readers of a folder take every file in it, whatever its name."""
    hour = lake.sealed(topic, HOUR, plays(["a"], topic), files=1)
    folder.mirror.publish(hour)
    pq.write_table(plays(["x"], topic), folder_of(folder, topic) / "extra.parquet")
    assert folder.mirror.read_back(topic, HOUR) == Count(2, checksum_of(["a", "x"]))
    folder.mirror.publish(hour)
    assert ids_of(folder.rows(topic, HOUR)) == ["a"]
    assert folder.mirror.read_back(topic, HOUR) == Count(1, checksum_of(["a"]))


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?b", "{a,b}", "50%25", "a b"])
def test_a_path_is_no_pattern(spark: Any, tmp_path: Path, lake: Lake, topic: Topic, name: str) -> None:
    root = tmp_path / name
    target = FolderTarget(LocalStore(root), HadoopFiles(lambda: spark, f"file://{tmp_path}"), f"file://{root}")
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a", "b"], topic)))
    assert target.mirror.read_back(topic, HOUR) == Count(2, checksum_of(["a", "b"]))


READS = """
import duckdb, sys
db = duckdb.connect(sys.argv[1], read_only=True)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_duckdb_file_is_counted_while_others_read_it(tmp_path: Path, lake: Lake, topic: Topic) -> None:
    path = tmp_path / "m.duckdb"
    mirror = mirror_named("copy", settings_with(kind="duckdb", path=str(path)), tmp_path, None)
    mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    command = [sys.executable, "-c", READS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        assert mirror.read_back(topic, HOUR) == Count(1, checksum_of(["a"]))
        assert mirror.hours(topic) == {HOUR}
        reader.communicate()


def test_a_reader_of_a_duckdb_file_holds_up_an_erasure_s_end_alone(tmp_path: Path, lake: Lake, topic: Topic) -> None:
    """The hour is replaced; the file is written again by the first try after the reader has gone."""
    path = tmp_path / "mirror" / "mirror.duckdb"
    path.parent.mkdir()
    mirror = duckdb_mirror(path)
    with duckdb.connect(path):
        mirror.publish(lake.sealed(topic, HOUR, plays([PERSON], topic)))
        second = lake.sealed(topic, HOUR, plays(["a"], topic))
        with pytest.raises(MirrorError, match="already attached"):
            mirror.publish(second)
        assert mirror.read_back(topic, HOUR) == Count(1, checksum_of(["a"]))
        assert mirror.remains(second) == [f"{path}: free pages"]
    mirror.publish(second)
    assert (mirror.remains(second), holds_person(path.parent)) == ([], False)


def duckdb_mirror(path: Path) -> DuckDBMirror:
    return DuckDBMirror("duckdb", DuckDBMirror.Options(kind="duckdb", path=str(path)))


ODD_NAMES = ["a b 50% größe+b;c $HOME&b=c", 'it\'s "b"', "-x:y"]
REFUSED_NAMES = ["a[", "50%20", "a*", "{a,b}", "a?b", "a#b"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("kind", ["folder", "duckdb"])
def test_a_path_of_a_mirror_is_data(tmp_path: Path, lake: Lake, topic: Topic, kind: str, name: str) -> None:
    """Never a pattern, an option or a query, also where a file is written again after an erasure."""
    place, beside = tmp_path / name / "here", tmp_path / "x" / "here"
    beside.mkdir(parents=True)
    place.parent.mkdir(exist_ok=True)
    mirror = mirror_named("copy", settings_with(kind=kind, path=str(place)), tmp_path, None)
    mirror.publish(lake.sealed(topic, HOUR, plays([PERSON], topic)))
    second = lake.sealed(topic, HOUR, plays(["a"], topic))
    mirror.publish(second)
    assert mirror.read_back(topic, HOUR) == Count(1, checksum_of(["a"]))
    assert (mirror.hours(topic), mirror.remains(second)) == ({HOUR}, [])
    assert not holds_person(tmp_path / name)
    assert {path.name for path in place.parent.iterdir()} == {"here"}
    assert list(beside.iterdir()) == []


@pytest.mark.parametrize("name", REFUSED_NAMES)
@pytest.mark.parametrize("kind", ["folder", "duckdb"])
def test_a_path_that_a_library_reads_otherwise_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="not every library reads alike"):
        mirror_named("copy", settings_with(kind=kind, path=str(tmp_path / name)), tmp_path, None)


@pytest.mark.parametrize("name", ODD_NAMES + REFUSED_NAMES)
def test_a_path_of_pages_is_data(tmp_path: Path, config: Config, name: str) -> None:
    report.build(config, str(tmp_path / name), datetime.now(UTC))
    assert {path.name for path in (tmp_path / name).iterdir()} >= {"index.html", "built.json"}
    assert [path.name for path in tmp_path.iterdir() if (path / "index.html").exists()] == [name]


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, topic: Topic) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mirror = mirror_named("copy", settings_with(kind="folder", path="~/mirror"), tmp_path, None)
    assert mirror.where(topic, HOUR) == f"{tmp_path}/mirror/plays/{HOUR}"


@pytest.mark.parametrize("wrong", [{"private_key": "s3cret"}, ["s3cret"], 5])
def test_an_error_shows_no_secret(wrong: Any) -> None:
    values = {"kind": "folder", "path": "x", "storage_options": {"google_service_account_key": wrong}}
    with pytest.raises(ConfigError, match=r"storage_options.google_service_account_key.*not shown") as raised:
        mirror_named("copy", settings_with(**values), Path("conf/local.yaml"), None)
    assert "s3cret" not in str(raised.value)
