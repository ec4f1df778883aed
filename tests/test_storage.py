"""The local file system as a store: exactly one winner, all or nothing, and durable when the call returns."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from lakehouse.errors import ConfigError
from lakehouse.store.files import GoogleStorage, LocalStorage, Storage, google_client, storage_for

THREADS = 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lake" / "plays"


@pytest.fixture
def storage(root: Path) -> Storage:
    return storage_for(str(root))


def at_once(call: Callable[[int], object]) -> list[object]:
    """What `call` answers to each of many threads that start together."""
    barrier = threading.Barrier(THREADS)

    def started(number: int) -> object:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started, range(THREADS)))


def test_of_many_that_put_the_same_file_exactly_one_wins(storage: Storage) -> None:
    """Two attempts at one slot must agree whose messages are acknowledged."""
    for round_ in range(10):
        path = f"segments/{round_}.json"
        won = at_once(lambda number, path=path: storage.put_if_absent(path, str(number).encode()))  # type: ignore[misc]
        assert won.count(True) == 1
        assert storage.read(path) == str(won.index(True)).encode()


def test_a_file_that_was_put_is_complete_at_its_first_sight(storage: Storage) -> None:
    """A reader sees the whole manifest or none."""
    content = os.urandom(1_000_000)
    done = threading.Event()
    seen = set()

    def look() -> None:
        while not done.is_set():
            seen.add(storage.read("segments/1.json"))

    watcher = threading.Thread(target=look)
    watcher.start()
    storage.put_if_absent("segments/1.json", content)
    done.set()
    watcher.join()
    assert seen <= {None, content}


def test_putting_leaves_nothing_aside(storage: Storage, root: Path) -> None:
    at_once(lambda number: storage.put_if_absent("segments/1.json", b"x"))
    storage.write("segments/2.json", b"y")
    assert sorted(os.listdir(root / "segments")) == ["1.json", "2.json"]


def test_a_file_can_be_replaced(storage: Storage) -> None:
    storage.write("reports/a.json", b"old")
    storage.write("reports/a.json", b"new")
    assert storage.read("reports/a.json") == b"new"


def test_a_file_that_is_not_there_reads_as_none(storage: Storage) -> None:
    assert storage.read("segments/1.json") is None


def test_listing_gives_every_file_below_a_folder_in_order(storage: Storage, root: Path) -> None:
    for path in ("segments/2.json", "segments/10.json", "bronze/2026/a.parquet", "bronze/b.parquet"):
        storage.write(path, path.encode())
    assert [stored.path for stored in storage.listing("segments")] == ["segments/10.json", "segments/2.json"]
    found = storage.listing("bronze")
    assert [(stored.path, stored.size_bytes) for stored in found] == [
        ("bronze/2026/a.parquet", 21),
        ("bronze/b.parquet", 16),
    ]
    assert found[0].modified_at.timestamp() == pytest.approx((root / "bronze/2026/a.parquet").stat().st_mtime)


def test_a_folder_that_is_not_there_holds_nothing(storage: Storage) -> None:
    """A topic's first start."""
    assert storage.listing("segments") == []


def test_deleting_what_is_gone_is_no_error(storage: Storage) -> None:
    """Clean-up may be repeated, and two may do it."""
    storage.write("segments/1.json", b"x")
    storage.delete(["segments/0.json", "segments/1.json"])
    storage.delete(["segments/1.json"])
    assert storage.listing("segments") == []


def test_what_took_a_listed_file_s_place_is_not_deleted(storage: Storage) -> None:
    """Two clear one manifest away, and an attempt that was thought dead puts its own between the two."""
    storage.put_if_absent("segments/1.json", b"x")
    (listed,) = storage.listing("segments")
    storage.delete_as_listed([listed])
    storage.put_if_absent("segments/1.json", b"y")
    storage.delete_as_listed([listed])
    assert storage.read("segments/1.json") == b"y"
    storage.delete_as_listed(storage.listing("segments"))
    storage.delete_as_listed([listed])
    assert storage.listing("segments") == []


def test_google_deletes_only_the_generation_that_was_listed() -> None:
    """It tells us by a refusal, and forgets what is gone."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    asked: list[int] = []

    class Blob:
        name, size, generation, crc32c = "plays/segments/1.json", 1, 17, "AAAAAA=="
        _properties = MappingProxyType({"updated": "2026-11-23T05:00:00.123Z"})

        def delete(self, if_generation_match: int) -> None:
            asked.append(if_generation_match)
            raise PreconditionFailed("conditionNotMet") if len(asked) == 1 else NotFound("gone")  # type: ignore[no-untyped-call]

    class Bucket(GoogleStorage):
        def blob(self, path: str) -> Any:
            assert path == "segments/1.json"
            return Blob()

        def blobs(self, folder: str, since: str = "", before: str = "") -> list[tuple[str, Any]]:
            return [(f"{folder}/1.json", Blob())]

    bucket = Bucket("gs://bucket/plays", {})
    (listed,) = bucket.listing("segments")
    bucket.delete_as_listed([listed])
    bucket.delete_as_listed([listed])
    assert asked == [17, 17]


def test_a_created_file_can_be_written_in_parts_and_read_at_any_place(storage: Storage) -> None:
    with storage.create("bronze/2026-11-23T05/a.parquet") as sink:
        sink.write(b"one ")
        sink.write(b"two")
    storage.finish(["bronze/2026-11-23T05/a.parquet"])
    with storage.open("bronze/2026-11-23T05/a.parquet") as source:
        source.seek(4)
        assert source.read() == b"two"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths that were made durable, in this process, from now on."""
    paths: set[str] = set()
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        paths.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return paths


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux tells a descriptor's path")


@needs_proc
def test_a_manifest_is_durable_with_its_folder_and_all_new_folders_above(
    storage: Storage, root: Path, synced: set[str]
) -> None:
    """Messages are acknowledged right after: a power cut must not take the directory entry along."""
    storage.put_if_absent("segments/1.json", b"x")
    folders = {str(folder) for folder in (root / "segments", root, root.parent, root.parent.parent)}
    assert folders <= synced
    assert any(".1.json." in path for path in synced)


@needs_proc
def test_finished_files_are_durable_with_their_folders(storage: Storage, root: Path, synced: set[str]) -> None:
    paths = ["bronze/2026-11-23T05/a.parquet", "bronze/late/b.parquet"]
    for path in paths:
        with storage.create(path) as sink:
            sink.write(b"x")
    storage.finish(paths)
    files = {str(root / path) for path in paths}
    assert files | {os.path.dirname(file) for file in files} | {str(root / "bronze")} <= synced


def test_an_address_is_the_file_system_or_google_storage() -> None:
    assert isinstance(storage_for("/lake"), LocalStorage)
    assert isinstance(storage_for("file:///lake"), LocalStorage)
    assert isinstance(storage_for("gs://bucket/lake"), GoogleStorage)


def test_all_folders_of_a_store_share_one_client() -> None:
    """Each client has a token and connections of its own: 300 topics would begin with a thousand of both."""
    options = {"google_base_url": "http://127.0.0.1:9", "google_skip_signature": "true"}
    plays, skips = (storage_for(f"gs://bucket/lake/{name}", options) for name in ("plays", "skips"))
    assert isinstance(plays, GoogleStorage)
    assert isinstance(skips, GoogleStorage)
    assert plays.blob("a").client is skips.blob("a").client


def test_another_scheme_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"s3://.*expected a local folder or gs://"):
        storage_for("s3://bucket/lake")


@pytest.mark.parametrize("proxy", [None, "HTTPS_PROXY"])
def test_the_environment_is_looked_through_once_where_it_names_no_proxy(
    proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each request it was a third of what a request takes of a core."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/bundle.pem")
    if proxy:
        monkeypatch.setenv(proxy, "http://proxy:3128")
    session = google_client({"google_skip_signature": "true", "google_base_url": "http://127.0.0.1:1"})._http
    asked = session.merge_environment_settings("https://storage.googleapis.com", {}, False, None, None)
    assert asked["verify"] == "/etc/bundle.pem"
    assert asked["proxies"].get("https") == ("http://proxy:3128" if proxy else None)
    assert session.trust_env == bool(proxy)
