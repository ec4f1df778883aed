"""The whole lake on `gs://`: Google's clients, delta-rs and Hadoop's connector, on one emulator."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from folders import bronze_table, folders_of, ledger_table
from google.api_core.exceptions import PreconditionFailed
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
from subscribing import SUBSCRIPTION, TOPIC, subscribed_broker

from lakehouse.config import Config
from lakehouse.crash.lives import KilledLake
from lakehouse.landing.manifests import read_manifest
from lakehouse.landing.slots import Slot
from lakehouse.operations.audit import audit_hour
from lakehouse.operations.verify import verify_hours
from lakehouse.progress import IngestState
from lakehouse.sandbox.broker import Broker
from lakehouse.store.applications import application_folder
from lakehouse.store.bronze_log import commit_batch, newest_state
from lakehouse.store.delta import open_table
from lakehouse.store.files import GoogleStorage, google_client, storage_for
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.store.table_log import ConflictError
from lakehouse.topics import Topic
from tests.pulls import facts_of, land_of
from tests.servers.downloads import CONNECTOR, jars
from tests.servers.together import Servers
from tests.servers.warehouse import connector_settings, lake_options

pytestmark = [pytest.mark.stores, pytest.mark.timeout(900)]

ATTEMPTS = 12
BUCKET = "lake"

Answer = TypeVar("Answer")


@pytest.fixture(scope="module")
def address(servers: Servers) -> str:
    at = servers.gateway().address
    google_client(lake_options(at)).create_bucket(BUCKET)
    return at


@pytest.fixture
def options(address: str) -> dict[str, str]:
    return lake_options(address)


@pytest.fixture
def root() -> str:
    """A folder that no other test had: names of temporary folders come again once a test has passed."""
    return f"gs://{BUCKET}/{uuid4().hex[:12]}"


@pytest.fixture
def google_config(config: Config, root: str, options: dict[str, str]) -> Config:
    roots = {"raw_root": f"{root}/raw", "sealed_root": f"{root}/sealed"}
    return replace(config, settings=config.settings.model_copy(update={**roots, "storage_options": options}))


def at_once(call: Callable[[int], Answer]) -> list[Answer]:
    """What `call` answers to each of some threads that start together."""
    barrier = threading.Barrier(ATTEMPTS)

    def started(number: int) -> Answer:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(ATTEMPTS) as pool:
        return list(pool.map(started, range(ATTEMPTS)))


# --- preconditions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 9 * 1024**2], ids=["in one request", "resumable"])
def test_the_emulator_refuses_an_object_that_is_there(root: str, options: dict[str, str], size: int) -> None:
    """Else nothing below would prove anything: an older one took every resumable upload, and lost Delta's commits."""
    blob = GoogleStorage(root, options).blob("a")
    blob.upload_from_string(b"x" * size, if_generation_match=0)
    with pytest.raises(PreconditionFailed) as refused:
        blob.upload_from_string(b"y" * size, if_generation_match=0)
    assert refused.value.code == 412
    assert blob.download_as_bytes() == b"x" * size


def test_of_many_that_put_the_same_manifest_exactly_one_wins(root: str, options: dict[str, str]) -> None:
    """Each with a client of its own, as executors have."""
    storages = [storage_for(root, options) for _ in range(ATTEMPTS)]
    for round_ in range(10):
        path = f"segments/{round_}.json"
        won = at_once(lambda n, path=path: storages[n].put_if_absent(path, str(n).encode()))  # type: ignore[misc]
        assert won.count(True) == 1
        assert storages[0].read(path) == str(won.index(True)).encode()


def test_of_many_commits_of_one_version_exactly_one_is_made(google_config: Config, topic: Topic) -> None:
    """delta-rs through the gateway: the log's next entry is put only where there is none."""
    folders, options = folders_of(google_config.settings, topic.name), google_config.settings.storage_options
    bronze_table(folders, topic, options)
    for version in range(1, 4):
        tables = [open_table(folders.bronze, options) for _ in range(ATTEMPTS)]

        def outcome(number: int, tables: list[Any] = tables, version: int = version) -> bool:
            state = IngestState(epoch=version, slots=number)
            try:
                commit_batch(tables[number], [], state, {"segments": [], "closed": []})
            except ConflictError:
                return False
            return True

        made = at_once(outcome)
        newest = open_table(folders.bronze, options)
        assert made.count(True) == 1
        assert newest.version() == version
        assert newest_state(newest).slots == made.index(True)


# --- one slot, pulled by many --------------------------------------------------------------------------------------


def test_of_many_attempts_at_one_slot_one_is_real_and_the_others_leave_nothing(
    google_config: Config, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tell the winner's facts; only its messages are acknowledged, and only its files are there."""
    with subscribed_broker(monkeypatch, ack_deadline_seconds=600) as broker:
        with PublisherClient() as publisher:
            payload = b'{"event_id": "%d", "played_at": "2026-11-23T05:00:00Z"}'
            sent = [publisher.publish(TOPIC, payload % number) for number in range(200)]
            published = {message.result() for message in sent}
        settings, raw = google_config.settings, folders_of(google_config.settings, topic.name).raw
        few = settings.ingest.model_copy(update={"max_messages": 10})
        land = land_of(topic, raw, few, settings.storage_options)
        reported = at_once(lambda _: facts_of(land, [Slot(1, 0, None)]))
        assert all(facts == reported[0] for facts in reported)
        storage = storage_for(raw, settings.storage_options)
        manifest = read_manifest(storage, 1, 0)
        assert manifest is not None
        assert [stored.path for stored in storage.listing("bronze")] == [f"bronze/{f.path}" for f in manifest.files]
        with storage.open(f"bronze/{manifest.files[0].path}") as file:
            real = set(pq.read_table(file)["message_id"].to_pylist())
        assert len(real) == 10
        assert published - set(broker.unacked(SUBSCRIPTION)) == real
        with SubscriberClient() as subscriber:
            answer = subscriber.pull(request={"subscription": SUBSCRIPTION, "max_messages": 1000})
        assert {each.message.message_id for each in answer.received_messages} == published - real


# --- all of it -----------------------------------------------------------------------------------------------------


def test_the_whole_application_delivers_on_google_s_storage(root: str, address: str, tmp_path: Path) -> None:
    """It dies once and goes on. Spark's checkpoint and its reads of sealed files go through Hadoop's connector.

    Then the tables must tell the whole truth, to the invariants and to `verify` and `audit`.
    """
    (connector,) = jars("gcs-connector", [CONNECTOR]).glob("*.jar")
    settings = {
        "raw_root": f"{root}/raw",
        "sealed_root": f"{root}/sealed",
        "storage_options": lake_options(address),
        "seal": {"small_rows": 0},
        "spark": {
            "spark.jars": str(connector),
            **{f"spark.hadoop.{key}": value for key, value in connector_settings(address).items()},
        },
    }
    with Broker() as broker:
        lake = KilledLake(tmp_path, broker, random.Random(0), settings=settings)
        assert lake.life_until("pull.manifest_durable") == []
        assert lake.last_life() == []
    topic, options = lake.topic, lake.config.settings.storage_options
    folders = folders_of(lake.config.settings, topic.name)
    assert folders.silver.startswith("gs://")
    assert application_folder(lake.config.settings).files().listing("checkpoint")
    history = Ledger(LedgerTable(ledger_table(folders, topic, options)), "test").history()
    assert history.hours()
    verification = verify_hours(topic, lake.config, [], datetime.now(UTC))
    assert (verification.hours, verification.findings) == (tuple(history.hours()), ())
    reports = storage_for(folders.reports, options)
    for hour in history.hours():
        assert json.loads(reports.read(f"{hour}/r1.json") or b"{}")["state"] == "valid"
        audit = audit_hour(topic, lake.config, hour)
        assert audit.is_right
        assert audit.rows == audit.sealed_rows
