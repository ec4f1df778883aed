"""What is Hive's own: partitions that point at whole folders, types, columns that come later, a server that is away."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from mirror_targets import HOUR, NEXT, HiveTarget, Lake, hive_table, parquet, plays
from pyspark.sql import SparkSession

from lakehouse.checksum import checksum_of
from lakehouse.config import Config
from lakehouse.crash.processes import free_ports
from lakehouse.errors import MirrorError
from lakehouse.hours import after, start_of
from lakehouse.mirrors.contract import Count, SealedHour
from lakehouse.mirrors.files import LocalFiles
from lakehouse.mirrors.hive import HiveMirror, HiveOptions, hive_type, literal, session
from lakehouse.mirrors.stage import mirror_due
from lakehouse.mirrors.values import differing_values
from lakehouse.operations.reconcile import mirrors_of, reconcile
from lakehouse.store.records import Valid
from lakehouse.topics import Topic
from lakehouse.types import arrow_type
from tests.servers.together import Servers
from tests.test_value_checksum import ODD_NAMES, odd_columns


@pytest.fixture
def lake(config: Config) -> Lake:
    return Lake(config)


@pytest.mark.parametrize(
    "declared",
    ["string", "decimal(38, 18)", "array<bigint>", "map<string, array<date>>", "struct<a: struct<b: timestamp>>"],
)
def test_declared_types_are_hives_own(declared: str) -> None:
    assert hive_type(arrow_type(declared)).replace("`", "").replace(" ", "") == declared.replace(" ", "")


def test_a_struct_may_have_any_member_name() -> None:
    assert hive_type(pa.struct([("größe", pa.int32())])) == "struct<`größe`: int>"


IMPATIENT = timedelta(0)


def options_at(port: int, path: Path) -> HiveOptions:
    values = {"kind": "hive", "host": "127.0.0.1", "port": port, "database": "d", "path": str(path)}
    return HiveOptions.model_validate({**values, "timeout": "0.3 seconds"})


def test_a_server_that_is_away_holds_up_nobody_else(
    lake: Lake, config: Config, topic_with: Callable[..., Topic], tmp_path: Path
) -> None:
    topic = topic_with(mirrors=["hive", "folder"])
    lake.cleared(topic, HOUR, plays(["a"], topic))
    away = HiveMirror("hive", options_at(free_ports(1)[0], tmp_path / "hive"), LocalFiles(), IMPATIENT)
    with pytest.raises(MirrorError, match=r"mirror hive: plays 2026-11-23T05: found Could not connect to any of"):
        mirror_due(topic, config, None, run="1", mirrors={"hive": away})
    assert lake.history(topic).due_to_mirror("hive") == [HOUR]
    assert lake.history(topic).due_to_mirror("folder") == []


def test_a_server_that_never_answers_is_given_up(lake: Lake, topic: Topic, tmp_path: Path) -> None:
    """It accepts connections and says nothing, as one whose memory is full."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = HiveMirror("hive", options_at(silent.getsockname()[1], tmp_path / "hive"), LocalFiles(), IMPATIENT)
        with pytest.raises(MirrorError, match=r"time(d out|out)"):
            mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    assert not (tmp_path / "hive").exists()


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_fields_that_come_later_are_null_in_earlier_hours(
    request: pytest.FixtureRequest, tmp_path: Path, lake: Lake, topic: Topic, topic_with: Callable[..., Topic]
) -> None:
    """Also in partitions that were there before: their files lack the column, and the metastore must say that it is."""
    target = hive_table(tmp_path / "mirror", request)
    assert isinstance(target, HiveTarget)
    assert target.options is not None
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic, track=[{"id": "t", "ms": 1}])))
    fields = {"user": "string", "track": "struct<id: string, ms: int, bpm: int>", "n": "bigint", "speed": "double"}
    grown = topic_with(fields=fields)
    rows = plays(["b"], grown, track=[{"id": "t", "ms": 1, "bpm": 120}], speed=[1.5])
    target.mirror.publish(lake.sealed(grown, NEXT, rows))
    with session(target.options) as hive:
        seen = hive.rows(f"select event_id, track, speed from {target.options.database}.plays order by event_id")
    assert [(row[0], json.loads(row[1]), row[2]) for row in seen] == [
        ("a", {"id": "t", "ms": 1, "bpm": None}, None),
        ("b", {"id": "t", "ms": 1, "bpm": 120}, 1.5),
    ]


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_a_partition_never_points_at_a_folder_that_is_not_whole(
    request: pytest.FixtureRequest, tmp_path: Path, lake: Lake, topic: Topic, spark: SparkSession
) -> None:
    """Hive takes a folder that is not there for an empty one, without a word."""
    target = hive_table(tmp_path / "mirror", request)
    assert isinstance(target, HiveTarget)
    with pytest.raises(MirrorError, match="No space left"):
        target.refusing().publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    assert target.rows(topic, HOUR) is None
    for ids in (["b"], ["c"], ["d"]):
        target.mirror.publish(lake.sealed(topic, HOUR, plays(ids, topic)))
    assert sorted(target.store.listing("plays")) == ["2026-11-23T05-r4", "_staging"]


FOLDED = "2026-10-25T00"
"""At its 30th minute and an hour later Stockholm's clocks show 02:30."""


@pytest.fixture
def in_stockholm(servers: Servers, tmp_path: Path) -> HiveMirror:
    at = urlsplit(f"//{servers.hive_in('Europe/Stockholm').address}")
    values = {"kind": "hive", "host": at.hostname, "port": at.port, "database": "zones", "path": str(tmp_path / "hive")}
    return HiveMirror("hive", HiveOptions.model_validate(values), LocalFiles())


class _WhoseServerIsInUtc(HiveMirror):
    def refuse_zone(self, hive: object, hour: SealedHour) -> None:
        """Nothing to refuse."""


def at_half_past(lake: Lake, topic: Topic, *hours: str) -> SealedHour:
    """One event of each hour, all delivered in the first."""
    times = [start_of(hour) + timedelta(minutes=30) for hour in hours]
    rows = plays(list(hours), topic, event_time=times, event_hour=list(hours), publish_time=times)
    return lake.sealed(topic, hours[0], rows)


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_a_server_in_another_zone_is_refused_and_shows_nothing(
    in_stockholm: HiveMirror, lake: Lake, topic: Topic
) -> None:
    """Two instants would be one; and where only the workers are elsewhere, the count says so."""
    hour = at_half_past(lake, topic, FOLDED, after(FOLDED))
    with pytest.raises(MirrorError, match=r"that shows 00:00 UTC as 2026-10-25 02:00:00.*user\.timezone=UTC"):
        in_stockholm.publish(hour)
    assert in_stockholm.read_back(topic, FOLDED) is None
    _WhoseServerIsInUtc("hive", in_stockholm.options, LocalFiles()).publish(hour)
    with pytest.raises(MirrorError, match="2 of 2 rows at another instant than their own"):
        in_stockholm.read_back(topic, FOLDED)


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_in_utc_both_instants_are_their_own(
    request: pytest.FixtureRequest, tmp_path: Path, lake: Lake, topic: Topic
) -> None:
    target = hive_table(tmp_path / "mirror", request)
    target.mirror.publish(at_half_past(lake, topic, FOLDED, after(FOLDED)))
    assert target.mirror.read_back(topic, FOLDED) == Count(2, checksum_of([FOLDED, after(FOLDED)]))
    rows = target.rows(topic, FOLDED)
    assert rows is not None
    assert sorted(f"{time:%H:%M}" for time in rows["event_time"].to_pylist()) == ["00:30", "01:30"]


ODD_FOLDERS = ["größe+b;c$HOME&b=c", "it's", "-x,y"]


@pytest.mark.parametrize("name", ["a b", "50%", 'a"b'])
def test_a_path_that_hive_takes_no_location_in_is_refused(tmp_path: Path, topic: Topic, name: str) -> None:
    """By `topics check`: the server would only say that it has no connection to itself."""
    (objection,) = HiveMirror.objections(topic, options_at(10000, tmp_path / name), [])
    assert "with which Hive takes no location" in objection


def test_a_text_in_hiveql_ends_where_it_ends() -> None:
    assert literal('it\'s \\ a "b"') == "'it\\'s \\\\ a \"b\"'"


def in_folder(address: str, path: str, database: str) -> HiveMirror:
    at = urlsplit(f"//{address}")
    values = {"kind": "hive", "host": at.hostname, "port": at.port, "database": database, "path": path}
    return HiveMirror("hive", HiveOptions.model_validate(values), LocalFiles())


@pytest.mark.stores
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_a_path_of_this_machine_is_data_to_hive(
    servers: Servers, tmp_path: Path, lake: Lake, topic: Topic, name: str
) -> None:
    """Each revision is found where it was put, and the one before is gone; what lies beside is nobody's."""
    place, beside = tmp_path / name / "here", tmp_path / "x" / "here"
    beside.mkdir(parents=True)
    mirror = in_folder(servers.hive_in("UTC").address, str(place), f"odd_{ODD_FOLDERS.index(name)}")
    mirror.publish(lake.sealed(topic, HOUR, plays(["a", "b"], topic)))
    assert mirror.read_back(topic, HOUR) == Count(2, checksum_of(["a", "b"]))
    second = lake.sealed(topic, HOUR, plays(["c"], topic))
    mirror.publish(second)
    assert mirror.read_back(topic, HOUR) == Count(1, checksum_of(["c"]))
    assert mirror.differing(topic, HOUR, second.digests or {}) == []
    assert (mirror.hours(topic), mirror.remains(second)) == ({HOUR}, [])
    assert {path.name for path in (place / "plays").iterdir()} == {f"{HOUR}-r2", "_staging"}
    assert list(beside.iterdir()) == []
    mirror.withdraw(second)
    assert mirror.read_back(topic, HOUR) is None
    assert not list((place / "plays").rglob("*.parquet"))


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_an_address_on_hdfs_is_data_to_hive(
    request: pytest.FixtureRequest, tmp_path: Path, lake: Lake, topic: Topic
) -> None:
    """Addresses have no blanks; all else that HDFS takes may be in one."""
    target = hive_table(tmp_path / "größe+b;c$HOME&b=c,it's", request)
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a", "b"], topic)))
    second = lake.sealed(topic, HOUR, plays(["c"], topic))
    target.mirror.publish(second)
    assert target.mirror.read_back(topic, HOUR) == Count(1, checksum_of(["c"]))
    assert target.mirror.differing(topic, HOUR, second.digests or {}) == []
    assert (target.mirror.hours(topic), target.mirror.remains(second)) == ({HOUR}, [])
    assert sorted(target.store.listing("plays")) == [f"{HOUR}-r2", "_staging"]  # type: ignore[attr-defined]


USERS = ["u", "v", None, ""]


@pytest.fixture
def in_utc(servers: Servers, tmp_path: Path) -> HiveMirror:
    return in_folder(servers.hive_in("UTC").address, str(tmp_path / "hive"), f"values_{tmp_path.name}")


def with_other_users(folder: Path, hour: SealedHour) -> None:
    """The folder's files with the users the other way round: their ids and their count are the hour's."""
    names = sorted(file.name for file in folder.glob("part-*")) or ["part-0.parquet"]
    edited = plays([*"abcd"], hour.topic, user=list(reversed(USERS)))
    for name, rows in zip(names, [edited, edited[:0]], strict=False):
        (folder / name).write_bytes(parquet(rows))


def rewritten(mirror: HiveMirror, hour: SealedHour) -> str:
    with_other_users(Path(mirror.options.path, "plays", f"{HOUR}-r{hour.revision}"), hour)
    return "part-00000-r1.parquet: sha256"


def pointed_elsewhere(mirror: HiveMirror, hour: SealedHour) -> str:
    """The files that were published are there as they were, and no reader finds them."""
    elsewhere = Path(mirror.options.path).parent / "elsewhere" / f"{HOUR}-r{hour.revision}"
    elsewhere.mkdir(parents=True)
    with_other_users(elsewhere, hour)
    with session(mirror.options) as hive:
        table = f"{mirror.options.database}.plays partition (hour = '{HOUR}')"
        hive.run(f"alter table {table} set location {literal(f'file://{elsewhere}')}")
    return f"the partition points to file:{elsewhere}, expected "


@pytest.mark.stores
@pytest.mark.timeout(900)
@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("tampering", [rewritten, pointed_elsewhere])
def test_rows_with_the_hour_s_ids_and_other_values_are_named_and_repaired(
    in_utc: HiveMirror,
    lake: Lake,
    config: Config,
    topic_with: Callable[..., Topic],
    tampering: Callable[[HiveMirror, SealedHour], str],
    has_digests: bool,
) -> None:
    """Of an hour that an older release sealed nobody knows the files' bytes: only Hive's own SQL finds the values."""
    topic, mirrors = topic_with(mirrors=["hive"]), {"hive": in_utc}
    lake.cleared(topic, HOUR, plays([*"abcd"], topic, user=USERS))
    if not has_digests:
        seal = lake.history(topic).seal_of(HOUR)
        assert seal is not None
        lake.ledger(topic).record(replace(seal, revision=2, digests=None), HOUR)
        lake.ledger(topic).record(Valid(), HOUR)
    hour = lake.sealed_now(topic, HOUR)
    mirror_due(topic, config, None, run="1", mirrors=mirrors)
    open_mirror = mirrors_of(config, None, mirrors)
    assert reconcile(config, [topic], open_mirror).wrong == []

    found = tampering(in_utc, hour)
    assert in_utc.read_back(topic, HOUR) == Count(4, hour.id_checksum)
    (wrong,) = reconcile(config, [topic], open_mirror).wrong
    assert (wrong.store, wrong.verdict) == ("hive", "different")
    assert str(wrong.error).startswith(found if has_digests else "other values of user")
    assert reconcile(config, [topic], open_mirror, repair=True).wrong == []
    assert reconcile(config, [topic], open_mirror).wrong == []


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_odd_values_have_the_same_checksum_in_hive(
    in_utc: HiveMirror, lake: Lake, topic_with: Callable[..., Topic]
) -> None:
    columns = odd_columns()
    topic = topic_with(fields={**ODD_NAMES, "inner": "struct<a: string, b: struct<c: int, d: double>>"})
    inner = [None, {"a": None, "b": None}, {"a": "-", "b": {"c": None, "d": 0.5}}, {"a": "", "b": {"c": 1, "d": None}}]
    count = len(columns["odd_0"])
    columns["inner"] = [inner[number % len(inner)] for number in range(count)]
    hour = lake.sealed(topic, HOUR, plays([f"id-{number}" for number in range(count)], topic, **columns))
    in_utc.publish(hour)
    assert in_utc.read_back(topic, HOUR) == Count(hour.rows, hour.id_checksum)
    assert differing_values(in_utc, hour) == []
