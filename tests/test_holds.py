"""Sealed files are held where a store can do that: set by the seal, lifted by an erasure, missed by `verify`.

Google's own client speaks to a small server of the documented protocol (`fake_gcs`), as the emulator of GCS forgets
holds and deletes what is held. Its objects are the files of a lake on the local file system, and only their bytes pass
it by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_gcs import PAGE, FakeGoogleStorage, serving
from google.api_core.exceptions import Forbidden

from lakehouse.config import Config, Seal, Settings
from lakehouse.errors import ConfigError, LakeError
from lakehouse.mirrors.retention import refuse_retention
from lakehouse.operations.erase import erase
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.verify import verify_hours
from lakehouse.store import holds as holds_module
from lakehouse.store import place as place_module
from lakehouse.store.delta import files_of_hour
from lakehouse.store.files import GoogleStorage, LocalStorage, Storage, google_client
from lakehouse.store.holds import Holds, holds_for
from lakehouse.topics import Topic
from tests.lake import FIVE, SIX, Delivery, Lake
from tests.servers.together import Servers

NOW = datetime.now(UTC)


class Bucket(GoogleStorage):
    """Google's, with the bytes of files read and written beside it."""

    def __init__(self, root: str, address: str, local: LocalStorage) -> None:
        super().__init__(root, {"google_base_url": address, "google_skip_signature": "true"})
        self.create, self.finish, self.open, self.read = local.create, local.finish, local.open, local.read  # type: ignore[method-assign]


@pytest.fixture
def google(tmp_path: Path) -> FakeGoogleStorage:
    (tmp_path / "lake").mkdir()
    return FakeGoogleStorage(tmp_path / "lake")


def test_a_bucket_that_keeps_every_object_is_refused_before_anything_is_copied(google: FakeGoogleStorage) -> None:
    """Each run would leave two more copies there, and never finish. Who may not ask tries."""
    with serving(google) as address:
        client = google_client({"google_base_url": address, "google_skip_signature": "true"})
        refuse_retention(client, f"gs://{google.bucket}/mirror/plays")
        google.policies["retentionPolicy"] = {"retentionPeriod": "3600"}
        with pytest.raises(OSError, match="keeps every object for 3600 s"):
            refuse_retention(client, f"gs://{google.bucket}/mirror/plays")
        google.policies = {"defaultEventBasedHold": True}
        with pytest.raises(OSError, match="keeps each new object by an event-based hold"):
            refuse_retention(client, f"gs://{google.bucket}/mirror/plays")
        assert {each.split()[0] for each in google.requests} == {"GET"}


@pytest.fixture
def bucket(
    google: FakeGoogleStorage, settings: Settings, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """The lake's root is the bucket `lake`, wherever a stage asks for its storage."""
    assert settings.sealed_root == str(google.folder)
    with serving(google) as address:

        def storage_at(root: str, options: Any = None) -> Storage:
            path = Path(root).relative_to(google.folder)
            return Bucket(f"gs://{google.bucket}/{path}", address, LocalStorage(root))

        for module in (holds_module, place_module):
            monkeypatch.setattr(module, "storage_for", storage_at)
        yield Bucket(
            f"gs://{google.bucket}/{topic.name}", address, LocalStorage(f"{settings.sealed_root}/{topic.name}")
        )


@pytest.fixture
def lake(bucket: Bucket, topic: Topic, settings: Settings, config: Config) -> Lake:
    held = settings.model_copy(update={"seal": Seal(protect="hold")})
    lake = Lake(topic, replace(config, settings=held))
    lake.deliver(Delivery("a", value=7), Delivery("b", value=1))
    lake.seal(FIVE)
    lake.deliver(Delivery("c", 61), hour=SIX)
    lake.seal(SIX)
    return lake


def paths(lake: Lake, *sealed_hours: str) -> set[str]:
    return {f"silver/{file.path}" for hour in sealed_hours for file in files_of_hour(lake.silver, hour)}


def held(google: FakeGoogleStorage, topic: Topic) -> set[str]:
    return {name.removeprefix(f"{topic.name}/") for name in google.held()}


def test_every_file_of_a_sealed_hour_is_held(lake: Lake, google: FakeGoogleStorage) -> None:
    assert held(google, lake.topic) == paths(lake, FIVE, SIX)
    assert verify_hours(lake.topic, lake.config, [], NOW).findings == ()


def test_the_quick_look_finds_a_changed_byte_by_the_checksum_that_the_store_keeps(
    lake: Lake, google: FakeGoogleStorage
) -> None:
    """It comes with the listing; the file is not read."""
    assert verify_hours(lake.topic, lake.config, [], NOW, is_quick=True).findings == ()
    (path,) = paths(lake, SIX)
    file = google.folder / lake.topic.name / path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (finding,) = verify_hours(lake.topic, lake.config, [], NOW, is_quick=True).findings
    assert (finding.kind, finding.subject) == ("changed file", path.removeprefix("silver/"))
    assert re.fullmatch(r"crc32c \S{6}==, as the store says", finding.found)


def test_a_script_that_deletes_or_overwrites_a_sealed_file_is_refused(
    lake: Lake, bucket: Bucket, google: FakeGoogleStorage
) -> None:
    (path,) = paths(lake, SIX)
    with pytest.raises(Forbidden, match="is under active Temporary hold and cannot be deleted, overwritten"):
        bucket.delete([path])
    with pytest.raises(Forbidden, match="is under active Temporary hold"):
        bucket.write(path, b"other rows")
    assert verify_hours(lake.topic, lake.config, [], NOW).findings == ()
    Holds(bucket).lift([path])
    bucket.delete([path])
    assert not (google.folder / lake.topic.name / path).exists()


def test_a_missing_hold_is_found(lake: Lake, bucket: Bucket) -> None:
    (path,) = paths(lake, SIX)
    Holds(bucket).lift([path])
    (finding,) = verify_hours(lake.topic, lake.config, [], NOW).findings
    assert (finding.hour, finding.kind, f"silver/{finding.subject}") == (SIX, "missing hold", path)


def test_holds_of_more_files_than_one_answer_lists_are_found(bucket: Bucket) -> None:
    names = {f"silver/{number}.parquet" for number in range(3 * PAGE + 1)}
    for name in names:
        bucket.write(name, b"rows")
    Holds(bucket).put(names - {"silver/1.parquet"})
    Holds(bucket).put(["silver/2.parquet"])
    assert Holds(bucket).held("silver") == names - {"silver/1.parquet"}


def test_an_erasure_lifts_the_holds_of_what_it_replaces(lake: Lake, google: FakeGoogleStorage) -> None:
    """In time to delete it, and holds what stands there now."""
    before = paths(lake, FIVE)
    erase(lake.topic, lake.config, "n = 7", reason="asked", by="ann")
    assert held(google, lake.topic) == paths(lake, FIVE, SIX)
    assert [path for path in before if (google.folder / lake.topic.name / path).exists()] == []
    assert lake.ids(FIVE) == ["b"]


def test_what_a_dead_seal_held_is_not_kept_for_ever(lake: Lake, bucket: Bucket, google: FakeGoogleStorage) -> None:
    orphan = f"silver/hour={FIVE}/part-dead.parquet"
    bucket.write(orphan, b"rows")
    Holds(bucket).put([orphan])
    removed = maintain_topic(lake.topic, lake.config, NOW + timedelta(days=2))
    assert [removal.path for removal in removed] == [orphan]
    assert held(google, lake.topic) == paths(lake, FIVE, SIX)


def test_a_store_that_refuses_is_reported_in_our_words(bucket: Bucket, google: FakeGoogleStorage, topic: Topic) -> None:
    bucket.write("guarded", b"")
    google.denies = lambda name: name == f"{topic.name}/guarded"
    with pytest.raises(LakeError, match=r"someone@example.com does not have storage\.objects\.update access"):
        Holds(bucket).put(["guarded"])
    with pytest.raises(LakeError, match=f"No such object: lake/{topic.name}/gone"):
        Holds(bucket).put(["gone"])
    Holds(bucket).lift(["gone"])


def test_an_hour_whose_files_cannot_be_held_is_not_recorded_and_sealed_by_the_next_run(
    lake: Lake, google: FakeGoogleStorage
) -> None:
    """The commit is made by then; what the ledger says of an hour must hold."""
    seven = "2025-06-01T07"
    lake.deliver(Delivery("d", 121), hour=seven)
    google.denies = lambda name: True
    with pytest.raises(LakeError, match=r"storage\.objects\.update"):
        lake.seal(seven)
    assert lake.ledger.history().first("sealed", seven) is None
    google.denies = lambda name: False
    assert lake.sealer().seal(seven) is not None
    assert held(google, lake.topic) == paths(lake, FIVE, SIX, seven)


def test_holds_need_google_s_storage(settings: Settings) -> None:
    """Said when the stage starts, not after the first hour is committed."""
    held = settings.model_copy(update={"seal": Seal(protect="hold")})
    with pytest.raises(ConfigError, match="only Google's storage has holds"):
        holds_for(held, held.sealed_root)
    assert holds_for(settings, settings.sealed_root) is None


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_the_emulator_forgets_holds(servers: Servers) -> None:
    """Why `fake_gcs` is there; the day this fails, the emulator can take its place."""
    options = {"google_base_url": servers.gcs().address, "google_skip_signature": "true"}
    bucket = GoogleStorage("gs://holds/plays", options)
    google_client(options).create_bucket("holds")
    bucket.write("silver/a", b"rows")
    Holds(bucket).put(["silver/a"])
    assert Holds(bucket).held("silver") == set()
    bucket.delete(["silver/a"])
    assert bucket.read("silver/a") is None
