"""Sealed files are held where a store can do that: set by the seal, lifted by an erasure, missed by `verify`.

The store is a local folder that answers for its objects' holds as Google's does; what else it does is not looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sealing import FIVE, SIX, Delivery, Lake

from lakehouse import holds
from lakehouse.config import Config, Seal, Settings
from lakehouse.erase import erase
from lakehouse.errors import ConfigError, LakeError
from lakehouse.holds import Holds, holds_for
from lakehouse.storage import GoogleStorage, LocalStorage
from lakehouse.tables import files_of_hour
from lakehouse.topics import Topic
from lakehouse.verify import verified


class Bucket(GoogleStorage):
    """Objects are the files of a folder; a hold is a name in a set."""

    def __init__(self, root: str) -> None:
        self._local = LocalStorage(root)
        self.holds: set[str] = set()

    def blob(self, path: str) -> Any:
        return Blob(self, path)

    def blobs(self, folder: str) -> list[tuple[str, Any]]:
        return [(stored.path, Blob(self, stored.path)) for stored in self._local.listed(folder)]

    def has(self, path: str) -> bool:
        return self._local.read(path) is not None


class Blob:
    def __init__(self, bucket: Bucket, path: str) -> None:
        self._bucket, self._path = bucket, path
        self.temporary_hold = path in bucket.holds

    def patch(self) -> None:
        from google.api_core.exceptions import Forbidden, NotFound

        if not self._bucket.has(self._path):
            raise NotFound(self._path)
        if "forbidden" in self._path:
            raise Forbidden("storage.objects.update")
        (self._bucket.holds.add if self.temporary_hold else self._bucket.holds.discard)(self._path)


@pytest.fixture
def bucket(settings: Settings, topic: Topic, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket(f"{settings.sealed_root}/{topic.name}")
    monkeypatch.setattr(holds, "storage_for", lambda root, options: bucket)
    return bucket


@pytest.fixture
def lake(bucket: Bucket, topic: Topic, settings: Settings, config: Config) -> Lake:
    held = settings.model_copy(update={"seal": Seal(protect="hold")})
    lake = Lake(topic, held, Config(config.path, held, config.topics, config.expectations))
    lake.deliver(Delivery("a", value=7), Delivery("b", value=1))
    lake.seal(FIVE)
    lake.deliver(Delivery("c", 61), hour=SIX)
    lake.seal(SIX)
    return lake


def paths(lake: Lake, *sealed_hours: str) -> set[str]:
    return {f"silver/{file.path}" for hour in sealed_hours for file in files_of_hour(lake.silver, hour)}


def test_every_file_of_a_sealed_hour_is_held(lake: Lake, bucket: Bucket) -> None:
    assert bucket.holds == paths(lake, FIVE, SIX)
    assert verified(lake.topic, lake.config, [], datetime.now(UTC)).findings == ()


def test_a_missing_hold_is_found(lake: Lake, bucket: Bucket) -> None:
    (path,) = paths(lake, SIX)
    bucket.holds.discard(path)
    (finding,) = verified(lake.topic, lake.config, [], datetime.now(UTC)).findings
    assert (finding.hour, finding.kind, f"silver/{finding.subject}") == (SIX, "missing hold", path)


def test_an_erasure_lifts_the_holds_of_what_it_replaces(lake: Lake, bucket: Bucket) -> None:
    """And holds what stands there now."""
    erase(lake.topic, lake.config, "n = 7", reason="asked", by="ann")
    assert bucket.holds == paths(lake, FIVE, SIX)


def test_a_store_that_refuses_is_told_in_our_words(bucket: Bucket) -> None:
    Path(bucket._local._root).mkdir(parents=True)
    bucket._local.write("forbidden", b"")
    with pytest.raises(LakeError, match=r"storage\.objects\.update"):
        Holds(bucket).put(["forbidden"])
    with pytest.raises(LakeError, match="gone"):
        Holds(bucket).put(["gone"])
    Holds(bucket).lift(["gone"])


def test_holds_need_google_s_storage(settings: Settings) -> None:
    """Said when the stage starts, not after the first hour is committed."""
    held = settings.model_copy(update={"seal": Seal(protect="hold")})
    with pytest.raises(ConfigError, match="only Google's storage has holds"):
        holds_for(held, held.sealed_root)
    assert holds_for(settings, settings.sealed_root) is None
