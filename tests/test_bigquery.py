"""What is BigQuery's own: jobs and their ids, errors in its words, schemas, labels, limits and patience."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from fake_bigquery import FakeBigQuery, Refused, serving
from fake_gcs import FakeGoogleStorage
from fake_gcs import serving as serving_storage
from mirror_targets import HOUR, NEXT, BigQueryTarget, Lake, bigquery_options, plays

from lakehouse.checksum import checksum_of
from lakehouse.config import Config, Settings
from lakehouse.crash.processes import free_ports
from lakehouse.errors import ConfigError, MirrorError
from lakehouse.mirrors.bigquery.mirror import BigQueryMirror
from lakehouse.mirrors.bigquery.schema import merged_fields, schema_of
from lakehouse.mirrors.bigquery.staging import stage_files
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.contract import Count, SealedHour, manifest_of
from lakehouse.mirrors.stage import mirror_due
from lakehouse.schemas import sealed_schema
from lakehouse.store.files import google_client
from lakehouse.store.place import Place
from lakehouse.topics import Topic
from tests.servers import object_store
from tests.servers.together import Servers

LAYOUTS = ("table_per_hour", "partition")


@pytest.fixture
def lake(config: Config) -> Lake:
    return Lake(config)


@pytest.fixture
def fake(tmp_path: Path) -> FakeBigQuery:
    return FakeBigQuery(tmp_path / "gcs")


@pytest.fixture
def address(fake: FakeBigQuery) -> Iterator[str]:
    with serving(fake) as address:
        yield address


@pytest.fixture
def tables(fake: FakeBigQuery, address: str) -> BigQueryTarget:
    return BigQueryTarget(bigquery_options(address, "lake"), fake.gcs)


@pytest.fixture
def partitions(fake: FakeBigQuery, address: str) -> BigQueryTarget:
    return BigQueryTarget(bigquery_options(address, "lake", layout="partition"), fake.gcs)


def loads(fake: FakeBigQuery) -> list[str]:
    return [job for job in fake.jobs if "manifest" not in job]


def test_a_job_is_named_by_what_it_loads(tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic) -> None:
    tables.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    tables.mirror.publish(lake.sealed(topic, HOUR, plays(["b"], topic)))
    assert loads(fake) == ["lakehouse_lake_plays_2026112305_r1_a1", "lakehouse_lake_plays_2026112305_r2_a1"]


def test_a_job_that_is_there_already_is_waited_for(
    tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic
) -> None:
    """The process that began it died before it could describe the table."""
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    tables.mirror.publish(hour)
    table = fake.tables["lake", "plays_2026112305"]
    del table["description"]
    tables.mirror.publish(hour)
    assert len(loads(fake)) == 1
    assert json.loads(table["description"]) == manifest_of(hour)


@pytest.mark.parametrize("reason", ["backendError", "rateLimitExceeded"])
def test_a_failure_that_may_pass_is_followed_by_the_next_attempt(
    tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic, reason: str
) -> None:
    fake.failures = [(reason, "try again")] * 2
    tables.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    assert [job[-3:] for job in loads(fake)] == ["_a1", "_a2", "_a3"]


def test_other_failures_are_reported_in_its_own_words(
    tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic
) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a"], topic))
    fake.failures = [("accessDenied", "Access Denied: File gs://lake/0.parquet")]
    with pytest.raises(MirrorError, match=r"r1_a1: found accessDenied: Access Denied: File gs://lake/0.parquet"):
        tables.mirror.publish(hour)
    tables.mirror.publish(hour)
    assert [job[-3:] for job in loads(fake)] == ["_a1", "_a2"]


def test_what_never_passes_ends_after_three_jobs(
    tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic
) -> None:
    fake.failures = [("backendError", "still broken")] * 9
    with pytest.raises(MirrorError, match="backendError: still broken"):
        tables.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    assert len(loads(fake)) == 3


def test_a_null_in_an_array_is_refused_as_bigquery_says_it(
    tables: BigQueryTarget, lake: Lake, topic_with: Callable[..., Topic]
) -> None:
    """Its arrays have no nulls; silver has."""
    topic = topic_with(fields={"tags": "array<string>"})
    with pytest.raises(MirrorError, match="repeated field: tags has null elements"):
        tables.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic, tags=[["x", None]])))


def test_the_table_says_whose_hour_it_is(tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic) -> None:
    hour = lake.sealed(topic, HOUR, plays(["a"], topic))
    tables.mirror.publish(hour)
    table = fake.tables["lake", "plays_2026112305"]
    labels = {"topic": "plays", "hour": "2026-11-23t05", "revision": "1", "release": "test"}
    assert json.loads(table["description"]) == manifest_of(hour)
    assert table["labels"] == labels
    assert next(iter(fake.jobs.values()))["configuration"]["labels"] == labels


@pytest.mark.parametrize("layout", LAYOUTS)
def test_expiry_is_set_when_it_is_configured(
    fake: FakeBigQuery, address: str, lake: Lake, topic: Topic, layout: str
) -> None:
    options = bigquery_options(address, "lake", layout=layout, expires_after="30 days")
    BigQueryTarget(options, fake.gcs).mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    if layout == "partition":
        assert fake.tables["lake", "plays"]["timePartitioning"]["expirationMs"] == str(30 * 86400 * 1000)
    else:
        expires = int(fake.tables["lake", "plays_2026112305"]["expirationTime"]) / 1000
        assert abs(expires - time.time() - 30 * 86400) < 60


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fields_that_come_later_do_not_touch_earlier_hours(
    fake: FakeBigQuery, address: str, lake: Lake, topic: Topic, topic_with: Callable[..., Topic], layout: str
) -> None:
    target = BigQueryTarget(bigquery_options(address, "lake", layout=layout), fake.gcs)
    target.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic, n=[1])))
    grown = topic_with(fields={"user": "string", "track": "struct<id: string, ms: int, tags: array<string>>",
                               "n": "bigint", "speed": "decimal(10,2)"})  # fmt: skip
    target.mirror.publish(lake.sealed(grown, NEXT, plays(["b"], grown, track=[{"id": "t", "ms": 1, "tags": ["x"]}])))
    seen = [target.rows(topic, HOUR), target.rows(grown, NEXT)]
    assert [rows["event_id"].to_pylist() for rows in seen if rows is not None] == [["a"], ["b"]]
    assert seen[1] is not None
    assert seen[1]["track"].to_pylist() == [{"id": "t", "ms": 1, "tags": ["x"]}]


def test_a_view_has_all_hours_of_a_partitioned_table(partitions: BigQueryTarget, lake: Lake, topic: Topic) -> None:
    for hour, ids in ((HOUR, ["a"]), (NEXT, ["b", "c"])):
        partitions.mirror.publish(lake.sealed(topic, hour, plays(ids, topic)))
    query = "select hour, count(*) as n from `sandbox.lake.plays_hours` group by hour order by hour"
    assert [tuple(row.values()) for row in partitions.client.query_and_wait(query)] == [(HOUR, 1), (NEXT, 2)]


def test_partitions_are_those_of_ingestion_and_not_of_event_time(
    partitions: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic
) -> None:
    """Skewed rows carry an earlier hour in their event time than the one that they are delivered in."""
    partitions.mirror.publish(lake.sealed(topic, NEXT, plays(["late"], topic)))
    assert fake.tables["lake", "plays"]["timePartitioning"] == {"type": "HOUR"}
    assert partitions.rows(topic, HOUR) is None
    assert partitions.rows(topic, NEXT) is not None


def test_the_limit_of_loads_for_a_table_and_day_is_kept(
    fake: FakeBigQuery, address: str, lake: Lake, topic: Topic
) -> None:
    """Failed loads count for it, too: asking on would only use up tomorrow's patience."""
    options = bigquery_options(address, "lake", layout="partition", loads_per_day=2)
    first = BigQueryTarget(options, fake.gcs)
    hours = [f"2026-11-23T{number:02d}" for number in range(3)]
    sealed = [lake.sealed(topic, hour, plays(["a"], topic)) for hour in hours]
    first.mirror.publish(sealed[0])
    later = BigQueryTarget(options, fake.gcs)  # another process: it has to ask what was loaded before
    later.mirror.publish(sealed[1])
    with pytest.raises(MirrorError, match=r"2 loads into lake.plays within a day; expected fewer than 2"):
        later.mirror.publish(sealed[2])
    assert len(loads(fake)) == 2


def test_a_server_that_stumbles_is_asked_again(
    tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic
) -> None:
    fake.refusals = [Refused(503, "backendError", "Visibility check was unavailable")] * 2
    tables.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    assert fake.requests[0] == fake.requests[2]


def test_what_is_refused_is_reported_at_once(
    tables: BigQueryTarget, fake: FakeBigQuery, lake: Lake, topic: Topic
) -> None:
    fake.refusals = [Refused(403, "accessDenied", "Permission bigquery.tables.get denied on table")]
    with pytest.raises(MirrorError, match=r"Forbidden: 403 .*Permission bigquery.tables.get denied"):
        tables.mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))
    assert len(fake.requests) == 1


@pytest.mark.parametrize("trouble", ["away", "hangs"])
def test_patience_with_a_silent_server_has_an_end_and_the_hour_stays_due(
    fake: FakeBigQuery, address: str, lake: Lake, config: Config, topic_with: Callable[..., Topic], trouble: str
) -> None:
    """Without a bound Google's client would ask for ten minutes, hour after hour; other targets go on meanwhile."""
    topic = topic_with(mirrors=["bigquery", "folder"])
    lake.cleared(topic, HOUR, plays(["a"], topic))
    if trouble == "hangs":
        fake.hanging.set()
    at = address if trouble == "hangs" else f"http://127.0.0.1:{free_ports(1)[0]}"
    silent = BigQueryTarget(bigquery_options(at, "lake", patience="0.5 seconds"), fake.gcs).mirror
    began = time.monotonic()
    with pytest.raises(MirrorError, match=r"mirror bigquery: plays 2026-11-23T05: found"):
        mirror_due(topic, config, None, run="1", mirrors={"bigquery": silent})
    assert timedelta(seconds=time.monotonic() - began) < timedelta(seconds=15)
    assert lake.history(topic).due_to_mirror("bigquery") == [HOUR]
    assert lake.history(topic).due_to_mirror("folder") == []


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_a_real_server_that_hangs_and_comes_back_takes_the_hour(servers: Servers, lake: Lake, topic: Topic) -> None:
    server = servers.bigquery()
    target = BigQueryTarget(bigquery_options(server.address, "hangs", patience="1 second"), server.folder / "gcs")
    hour = lake.sealed(topic, HOUR, plays(["a"], topic))
    server.process.send_signal(signal.SIGSTOP)  # as a machine that hangs: connections are accepted, nothing answers
    try:
        with pytest.raises(MirrorError, match="found"):
            target.mirror.publish(hour)
    finally:
        server.process.send_signal(signal.SIGCONT)
    patient = BigQueryTarget(bigquery_options(server.address, "hangs"), server.folder / "gcs")
    patient.mirror.publish(hour)
    assert patient.rows(topic, HOUR) is not None
    query = f"select hour, event_id from `{patient.options.project}.hangs.plays`"
    assert [tuple(row.values()) for row in patient.client.query_and_wait(query)] == [(HOUR, "a")]


def test_a_lake_that_bigquery_cannot_read_needs_a_place_for_copies(address: str, lake: Lake, topic: Topic) -> None:
    mirror = BigQueryMirror.from_config("bq", bigquery_options(address, "lake"), None)
    with pytest.raises(MirrorError, match=r"expected one on gs://.*Give `staging` of mirrors.bq"):
        mirror.publish(lake.sealed(topic, HOUR, plays(["a"], topic)))


def test_a_schema_keeps_what_the_topic_no_longer_declares(topic: Topic, topic_with: Callable[..., Topic]) -> None:
    """A load into a partition that leaves a column out is refused."""
    before = schema_of(sealed_schema(topic))
    after = merged_fields(before, schema_of(sealed_schema(topic_with(fields={"track": "struct<ms: int, bpm: int>"}))))
    assert [field.name for field in after] == [field.name for field in before]
    assert [member.name for member in after[1].fields] == ["id", "ms", "bpm"]


# --- paths are data -------------------------------------------------------------------------------------------------

ODD_LAKES = ["a b 50% größe+b;c $HOME&b=c", 'it\'s "b"', "-x:y,z"]
ODD_STAGING = "gs://stage/größe+b;c$HOME&b=c,it's:50"


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """Options of Google's storage, empty."""
    with object_store.serving() as server:
        yield {"google_base_url": server.address, "google_skip_signature": "true"}


@dataclass
class StagedTarget(BigQueryTarget):
    """Staged as the product does; what is staged is then where the fake BigQuery looks for it."""

    uris: list[str] = field(default_factory=list)

    @contextmanager
    def staged(self, hour: SealedHour) -> Iterator[list[str]]:
        with stage_files(hour, self.options.staging, "copies") as uris:
            self.uris += uris
            for name, content in objects_of(hour.silver.options).items():
                (self.gcs / "stage" / name).parent.mkdir(parents=True, exist_ok=True)
                (self.gcs / "stage" / name).write_bytes(content)
            yield uris


def objects_of(options: Mapping[str, str], bucket: str = "stage") -> dict[str, bytes]:
    return {blob.name: blob.download_as_bytes() for blob in google_client(options).list_blobs(bucket)}


@pytest.mark.parametrize("name", ODD_LAKES)
def test_a_lake_and_its_staging_folder_may_have_odd_names(
    fake: FakeBigQuery, address: str, store: dict[str, str], config: Config, tmp_path: Path, topic: Topic, name: str
) -> None:
    """What is loaded is what was copied, and no copy stays."""
    root = str(tmp_path / name)
    settings = config.settings.model_copy(update={"raw_root": root, "sealed_root": root, "storage_options": store})
    Settings.model_validate(settings.model_dump())
    lake = Lake(replace(config, settings=settings))
    target = StagedTarget(bigquery_options(address, "lake", staging=ODD_STAGING), fake.gcs)
    hour = lake.sealed(topic, HOUR, plays(["a", "b"], topic))
    target.mirror.publish(hour)
    assert target.mirror.read_back(topic, HOUR) == Count(2, checksum_of(["a", "b"]))
    assert [uri.rpartition("/")[0] for uri in target.uris] == [f"{ODD_STAGING}/copies/plays/{HOUR}-r1"] * 2
    assert objects_of(store) == {}


def test_a_staging_bucket_that_keeps_every_object_is_refused(
    fake: FakeBigQuery, address: str, lake: Lake, topic: Topic, tmp_path: Path
) -> None:
    """Each run would load the hour, and fail when it removes its copies."""
    google = FakeGoogleStorage(tmp_path / "stage", "stage")
    google.folder.mkdir()
    google.policies["retentionPolicy"] = {"retentionPeriod": "3600"}
    with serving_storage(google) as storage:
        hour = lake.sealed(topic, HOUR, plays(["a"], topic))
        options = {"google_base_url": storage, "google_skip_signature": "true"}
        target = StagedTarget(bigquery_options(address, "lake", staging="gs://stage/x"), fake.gcs)
        with pytest.raises(MirrorError, match="keeps every object for 3600 s by a retention policy"):
            target.mirror.publish(replace(hour, silver=Place(hour.silver.uri, options)))
    assert list(google.folder.iterdir()) == []
    assert loads(fake) == []


def test_a_staging_folder_that_bigquery_cannot_read_is_refused(topic: Topic) -> None:
    options = bigquery_options("http://127.0.0.1:9", "lake", staging="/tmp/x")
    (objection,) = BigQueryMirror.objections(topic, options, [])
    assert "where BigQuery reads gs:// alone" in objection


def test_a_lake_on_googles_storage_is_named_to_bigquery_as_it_is(
    store: dict[str, str], lake: Lake, topic: Topic
) -> None:
    """Addresses of objects are no URLs: nothing in them is quoted."""
    hour = replace(
        lake.sealed(topic, HOUR, plays(["a", "b"], topic)), silver=Place("gs://stage/größe&b+c'/silver", store)
    )
    for file in hour.files:
        hour.silver.files().write(file.path, b"it")
    with stage_files(hour, "", "copies") as uris:
        assert [uri.removeprefix("gs://stage/") for uri in uris] == sorted(objects_of(store))
    hour.silver.files().delete(file.path for file in hour.files)


@pytest.mark.parametrize("name", ["a*", "a/b", "../b", "", ".", "a?b", "a[b]", "a\nb", "-a"])
def test_a_mirrors_name_that_is_no_name_is_refused(config: Config, name: str) -> None:
    """Its copies are in a folder of that name, and a star there would find a neighbour's."""
    mirrors = {name: bigquery_options("http://127.0.0.1:9", "lake").model_dump(mode="json")}
    settings = config.settings.model_copy(update={"mirrors": mirrors})
    with pytest.raises(ConfigError, match=r"mirrors: found the name"):
        mirror_named(name, settings, config.path, None)


def test_the_fake_takes_a_star_for_a_pattern(fake: FakeBigQuery) -> None:
    """As BigQuery does: what this file proves would be nothing without it."""
    for name in ("a*", "ax"):
        (fake.gcs / "stage" / name).mkdir(parents=True)
        (fake.gcs / "stage" / name / "0").write_bytes(b"")
    assert len(fake.objects("gs://stage/a*/0")) == 2
    assert len(fake.objects("gs://stage/ax/0")) == 1
