"""What a store on the network is asked for: a trigger's requests do not grow with the age of its topic."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from google.api_core.exceptions import Forbidden

from bench.played import BETWEEN, PlayedTopics, chain
from lakehouse.errors import LakehouseError
from lakehouse.operations.audit import audit_hour
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.snapshot import read_topic
from lakehouse.seal.stage import seal_due
from lakehouse.store import tables
from lakehouse.store.bronze_log import ingest_commits, newest_state
from lakehouse.store.delta import await_checkpoints, files
from lakehouse.store.files import storage_for
from lakehouse.store.table_log import CHECKPOINT_EVERY, checkpoint_path, entry_path
from tests.servers.object_store import PAGE, Faults, ObjectStoreServer, serving
from tests.servers.warehouse import lake_options

MOST_WITH_ROWS, MOST_IDLE = 7, 3
"""Requests of a trigger, with the look at what others committed, every 30 s."""
LAG_SECONDS = 1.5
MOST_IN_A_CHAIN = 24
"""Of a batch that looks into 20 manifests, as far into the log, and into the ledger, one after the other."""


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStoreServer]:
    with serving() as started:
        yield started


@pytest.fixture(autouse=True)
def _well(store: ObjectStoreServer) -> None:
    store.misbehave(Faults())


def test_a_trigger_asks_for_the_same_however_long_the_log_is(store: ObjectStoreServer, tmp_path: Path) -> None:
    """Each commit used to be read again by the planner, the driver and whoever looked for the newest state."""
    topic = PlayedTopics(store, tmp_path)
    asked = [topic.trigger(events=2)[0] for _ in range(19)]
    assert sorted(asked[4:10]) == sorted(asked[13:19])
    assert max(asked[4:19]) <= MOST_WITH_ROWS
    topic.trigger()
    assert topic.trigger()[0] <= MOST_IDLE
    state = newest_state(topic.world.tables.bronze())
    assert sum(held.rows for held in state.hours.values()) == 38


def test_what_a_batch_looks_through_or_clears_takes_no_requests_one_after_the_other(
    store: ObjectStoreServer, tmp_path: Path
) -> None:
    """20 manifests were read one by one after a restart, and cleared one by one: 20 times a slow store's answer."""
    topic = PlayedTopics(store, tmp_path)
    for _ in range(19):
        topic.trigger(events=2)
    store.delay(0.04)
    cleared, _ = topic.asked(events=2)
    store.delay(0)
    for _ in range(19):
        topic.trigger(events=2)
    topic.start_again()
    store.delay(0.04)
    looked_through, _ = topic.asked(events=2)
    store.delay(0)
    for requests in (cleared, looked_through):
        manifests = [asked for asked in requests if "/segments/" in asked.name]
        assert len(manifests) >= 18
        assert chain(requests) <= MOST_IN_A_CHAIN


def test_no_batch_waits_for_a_checkpoint(store: ObjectStoreServer, tmp_path: Path) -> None:
    """It takes a hundred requests: of a slow store, longer than a topic may hold up its neighbours."""
    topic = PlayedTopics(store, tmp_path)
    while (version := topic.world.tables.bronze().version()) % CHECKPOINT_EVERY != CHECKPOINT_EVERY - 2:
        topic.trigger(events=2)
    store.delay(0.5, ".checkpoint.parquet")
    _, seconds = topic.trigger(events=2)
    assert seconds < 0.5
    store.delay(0, ".checkpoint.parquet")
    await_checkpoints()
    log = topic.world.tables.raw.below("bronze").files().listing("_delta_log")
    assert checkpoint_path(version + 1) in [stored.path for stored in log]


_COMMIT = """
import json, sys
from lakehouse.store import delta
from lakehouse.store.table_log import newest_log
delta.RECENT_CHECKPOINTS = -1  # so that an older one would go, too
log = newest_log(sys.argv[1], json.loads(sys.argv[2]))
delta.commit_to_log(log, delta.change_of((), (), {}), lambda version: None)
"""


def test_a_command_ends_when_the_checkpoint_of_its_commit_is_written(store: ObjectStoreServer, tmp_path: Path) -> None:
    """At the end of a process no pool of threads begins anything."""
    topic = PlayedTopics(store, tmp_path)
    bronze = topic.world.tables.raw.below("bronze")
    while (version := bronze.table().version()) % CHECKPOINT_EVERY != CHECKPOINT_EVERY - 2:
        topic.trigger(events=2)
    store.delay(0.02)
    command = [sys.executable, "-c", _COMMIT, bronze.uri, json.dumps(dict(bronze.options))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    store.delay(0)
    assert "Error" not in ended.stderr, ended.stderr
    assert ended.returncode == 0
    assert bronze.files().read(checkpoint_path(version + 1))


def test_a_stage_with_nothing_due_reads_no_ledger_again(store: ObjectStoreServer, tmp_path: Path) -> None:
    topic = PlayedTopics(store, tmp_path)
    topic.trigger(events=2)
    for _ in range(30):
        topic.world.ledger().record("held", topic.world.now.strftime("%Y-%m-%dT%H"), {})
    seal_due(topic.topic, topic.config, run="r")
    assert topic.counted(lambda: seal_due(topic.topic, topic.config, run="r"))[0] <= 5


def test_a_restart_opens_no_table_and_reads_no_ledger(store: ObjectStoreServer, tmp_path: Path) -> None:
    """A topic of years has many files and rows: its process needs what they come to."""
    topic = PlayedTopics(store, tmp_path)
    for _ in range(36):
        topic.trigger(events=2)
    tables._ledgers.clear()  # as another process
    requests, _ = topic.requests_of(topic.start_again)
    since_checkpoint = [asked for asked in requests if "/bronze/_delta_log/" in asked.name]
    assert len(requests) - len(since_checkpoint) <= 12
    assert len(since_checkpoint) <= 6
    assert {asked.client for asked in requests} == {"google"}
    assert not [asked for asked in requests if asked.kind == "list" and "/ledger/" in asked.name]
    topic.trigger(events=2)
    assert topic.trigger(events=2)[0] <= MOST_WITH_ROWS


@pytest.mark.parametrize("last_checkpoint", [None, b"", b'{"version":7000,"size":1}'])
def test_hours_are_looked_at_without_a_table_that_is_opened(
    store: ObjectStoreServer, tmp_path: Path, last_checkpoint: bytes | None
) -> None:
    """Of bronze the newest commits say all; that was 75 requests, and an error where an older entry is damaged."""
    topic = PlayedTopics(store, tmp_path)
    topic.close_hour(CHECKPOINT_EVERY)
    topic.deliver()
    await_checkpoints()
    expected = read_topic(topic.topic, topic.config)
    bronze = topic.world.tables.raw.below("bronze").files()
    if last_checkpoint is not None:
        bronze.write("_delta_log/_last_checkpoint", last_checkpoint)
    bronze.write(entry_path(3), b"no entry")
    store.requests()
    found = read_topic(topic.topic, topic.config, newest_hours=24)
    assert len(store.requests()) <= 9 + (last_checkpoint is not None)
    assert (found.batch, found.history.hours()) == (expected.batch, expected.history.hours())


def test_an_hour_is_delivered_without_a_look_at_silvers_files(store: ObjectStoreServer, tmp_path: Path) -> None:
    """Which has one and more for each hour that there ever was."""
    topic = PlayedTopics(store, tmp_path)
    topic.close_hour(2)
    topic.deliver()
    topic.close_hour(2)
    requests, _ = topic.requests_of(topic.deliver)
    log = [asked for asked in requests if "/silver/_delta_log/" in asked.name]
    assert log
    assert {asked.client for asked in log} == {"google"}
    assert {asked.kind for asked in log} == {"get", "insert"}
    assert topic.world.tables.history().due_to_mirror("folder") == []


def test_maintain_opens_each_table_once_and_reads_no_ledger_where_nothing_is_due(
    store: ObjectStoreServer, tmp_path: Path
) -> None:
    """It read all rows of the ledger, and each table again and again with up to 49 entries behind its checkpoint."""
    topic = PlayedTopics(store, tmp_path)
    for _ in range(3):
        topic.close_hour(4)
        topic.deliver()
    for _ in range(2):  # what is compacted is removed by the next one
        maintain_topic(topic.topic, topic.config, topic.world.now)
    await_checkpoints()
    store.requests()
    assert maintain_topic(topic.topic, topic.config, topic.world.now) == []
    read = Counter(asked.name for asked in store.requests() if asked.kind == "get")
    assert [name for name in read if "/bronze/_delta_log/" in name]
    again = {name: count for name, count in read.items() if name.endswith(".json") and count > 4}
    assert again == {}  # delta-rs itself reads each twice to open a table, and again to look for what is replaced
    assert [name for name in read if "/ledger/" in name and "_d" not in name.rpartition("/ledger/")[2]] == []


def test_maintain_knows_its_own_commits_where_lists_are_behind(store: ObjectStoreServer, tmp_path: Path) -> None:
    """It went on to read the files that it had just removed, and took them for damaged."""
    topic = PlayedTopics(store, tmp_path)
    topic.close_hour(4)
    topic.deliver()
    await_checkpoints()
    time.sleep(LAG_SECONDS)
    store.misbehave(Faults(lag_seconds=LAG_SECONDS))
    removals = maintain_topic(topic.topic, topic.config, topic.world.now + timedelta(days=40))
    assert "bronze file" in {removal.kind for removal in removals}


def test_a_small_file_of_an_hour_is_asked_for_once(store: ObjectStoreServer, tmp_path: Path) -> None:
    """Its footer, its ids and its rows were three requests, the last of them one file after the other."""
    topic = PlayedTopics(store, tmp_path)
    for _ in range(6):
        topic.trigger(events=2)
    topic.world.now += timedelta(hours=2)
    for _ in range(2):
        topic.trigger(events=2)
    store.requests()
    (sealed,) = seal_due(topic.topic, topic.config, run="r")
    read = Counter(asked.name for asked in store.requests() if "/bronze/20" in asked.name)
    assert sealed.details["deliveries"] == 12
    assert sorted(read.values()) == [1] * 6


@pytest.mark.parametrize("size", [0, 1, 4 * 1024 * 1024 - 1, 4 * 1024 * 1024, 9_000_001])
def test_files_of_any_size_are_written_and_read_as_they_are(store: ObjectStoreServer, size: int) -> None:
    """Small ones go in one request each way; what is larger is streamed."""
    files = storage_for("gs://files/below/here", lake_options(store.address))
    content = bytes(range(251)) * (size // 251 + 1)
    store.requests()
    with files.create(f"{size}.bin") as sink:
        for start in range(0, size, 1_000_003):
            sink.write(content[start : min(start + 1_000_003, size)])
        assert sink.tell() == size
    with files.open(f"{size}.bin") as source:
        assert source.read() == content[:size]
        source.seek(max(0, size - 8))
        assert source.read() == content[max(0, size - 8) : size]
    if size < 4 * 1024 * 1024:
        assert [request.kind for request in store.requests()] == ["insert", "get"]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.long)])
def test_a_store_in_a_bad_hour_loses_and_doubles_nothing(
    store: ObjectStoreServer, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused requests of every kind, answers that got lost, lists that lag; a run that gives up is started again."""
    monkeypatch.setattr("google.api_core.retry.retry_unary.time.sleep", lambda seconds: None)
    topic = PlayedTopics(store, tmp_path)
    store.requests()
    store.misbehave(Faults(share=0.15, seed=seed, lag_seconds=(0.1, 4.0)[seed % 2]))
    for number in range(28):
        topic.publish(2)
        try:
            topic.driver.batch()
        except LakehouseError:
            topic.start_again()
        topic.world.now += BETWEEN if number != 24 else timedelta(hours=2)
    store.misbehave(Faults())
    assert [request.kind for request in store.requests()].count("refused") > 0
    topic.trigger()
    seal_due(topic.topic, topic.config, run="r")
    segments = [each for _, metadata in ingest_commits(topic.world.tables.bronze()) for each in metadata["segments"]]
    assert len(segments) == len(set(segments))
    paths = [file.path for file in files(topic.world.tables.bronze())]
    assert len(paths) == len(set(paths))
    silver = topic.world.tables.silver()
    sealed = silver.to_pyarrow_table()["event_id"].to_pylist() if silver else []
    waiting = sum(held.rows for held in newest_state(topic.world.tables.bronze()).hours.values())
    assert len(sealed) == len(set(sealed))
    assert {f"e{number}" for number in range(1, 51)} <= set(sealed)
    assert waiting >= 2
    audited = audit_hour(topic.topic, topic.config, topic.world.tables.history().sealed_hours()[0])
    assert audited.is_right


def test_a_missing_file_is_a_file_that_is_not_found(store: ObjectStoreServer) -> None:
    files = storage_for("gs://files", lake_options(store.address))
    with pytest.raises(FileNotFoundError, match="gs://files/none"):
        files.open("none")


def test_a_listing_of_more_than_a_page_is_whole(store: ObjectStoreServer) -> None:
    files = storage_for("gs://paged", lake_options(store.address))
    for number in range(PAGE + 5):
        assert files.put_if_absent(f"a/{number:05d}", b"")
    assert not files.put_if_absent("a/00000", b"again")
    assert len(files.listing("a")) == PAGE + 5
    assert [stored.path for stored in files.walk("a", "00003", "00005")] == ["a/00003", "a/00004"]


def test_a_part_of_a_store_can_be_read_only_or_slow(store: ObjectStoreServer) -> None:
    """So that one topic of a benchmark has a store that no other has."""
    options = lake_options(store.address)
    refused, slow, other = (storage_for(f"gs://parts/raw/{name}", options) for name in ("refused", "slow", "other"))
    refused.write("a", b"x")
    store.make_read_only("/refused/")
    store.delay(0.5, "/slow/")
    with pytest.raises(Forbidden, match=r"storage\.objects\.create"):
        refused.write("b", b"x")
    with pytest.raises(Forbidden):
        refused.delete(["a"])
    assert refused.read("a") == b"x"
    other.write("a", b"x")
    began = time.monotonic()
    slow.write("a", b"x")
    assert time.monotonic() - began >= 0.5
    store.requests()
    other.read("a")
    (asked,) = store.requests()
    assert asked.seconds < 0.5
