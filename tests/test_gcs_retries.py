"""What Google's storage refuses for a moment is asked again, by every call that we make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fake_gcs import FakeGoogleStorage, Refused, serving
from google.auth.credentials import Credentials
from google.cloud.storage import Client

from lakehouse.mirrors.google import rewrite
from lakehouse.store.files import GoogleStorage, google_client
from lakehouse.store.google_reads import PlainReads, crc32c_of
from tests.served import served


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeGoogleStorage, dict[str, str]]]:
    """With one object, and a client that does not wait between its tries."""
    monkeypatch.setattr("google.api_core.retry.retry_unary.time.sleep", lambda seconds: None)
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "a").write_bytes(b"it")
    fake = FakeGoogleStorage(tmp_path)
    with serving(fake) as address:
        yield fake, {"google_base_url": address, "google_skip_signature": "true"}


def mirrored(options: dict[str, str]) -> None:
    """An hour's file, from a lake on GCS to a folder on GCS, by GCS itself."""
    rewrite(google_client(options), "gs://lake/plays/a", "gs://lake/mirror/a")


def on_lake(call: Callable[[GoogleStorage], object]) -> Callable[[dict[str, str]], None]:
    def run(options: dict[str, str]) -> None:
        call(GoogleStorage("gs://lake", options))

    return run


CALLS: dict[str, Callable[[dict[str, str]], None]] = {
    "mirror": mirrored,
    "move": on_lake(lambda storage: storage.move("plays", "aside")),
    "delete": on_lake(lambda storage: storage.delete(["plays/a"])),
    "write": on_lake(lambda storage: storage.write("plays/b", b"new")),
    "put_if_absent": on_lake(lambda storage: storage.put_if_absent("plays/b", b"new")),
    "read": on_lake(lambda storage: storage.read("plays/a")),
    "read of what is not there": on_lake(lambda storage: storage.read("plays/b")),
    "open": on_lake(lambda storage: storage.open("plays/a")),
    "listed": on_lake(lambda storage: storage.listing("plays")),
}


@pytest.mark.parametrize("status", [503, 429])
@pytest.mark.parametrize("name", CALLS)
def test_a_refusal_that_passes_fails_no_call(
    google: tuple[FakeGoogleStorage, dict[str, str]], name: str, status: int, tmp_path: Path
) -> None:
    """Before each request that the call makes: a copy takes two, a move a listing, a copy and a deletion."""
    fake, options = google
    CALLS[name](options)
    requests, after = fake.requests_for_objects(), contents(tmp_path)
    for refused_at in range(requests):
        reset(tmp_path)
        fake.requests.clear()
        fake.refuse_at(refused_at, status)
        CALLS[name](options)
        assert (contents(tmp_path), fake.requests_for_objects()) == (after, requests + 1), refused_at


def test_bytes_that_are_not_those_that_are_stored_are_asked_for_again(google: Any) -> None:
    """By the checksum that comes with them."""
    fake, options = google
    fake.garble_at(0)
    assert GoogleStorage("gs://lake", options).read("plays/a") == b"it"
    assert fake.requests_for_objects() == 2


STORED = b"bytes of a small object"


@pytest.mark.parametrize("spoilt_answers", [1, 2])
@pytest.mark.parametrize("spoilt", [STORED[:-1], STORED[::-1], b""])
def test_a_small_object_that_comes_cut_or_garbled_is_asked_for_again(spoilt: bytes, spoilt_answers: int) -> None:
    """It is asked for by its first bytes, and is taken for the whole file where these are few."""
    ranged = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ranged = "Range" in self.headers
            ranged.append(is_ranged)
            content = spoilt if is_ranged and len(ranged) <= spoilt_answers else STORED
            self.send_response(206 if is_ranged else 200)
            self.send_header("x-goog-hash", f"crc32c={crc32c_of(STORED)}")
            if is_ranged:
                self.send_header("Content-Range", f"bytes 0-{len(STORED) - 1}/{len(STORED)}")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing."""

    with served(Handler) as address:
        storage = GoogleStorage("gs://lake", {"google_base_url": address, "google_skip_signature": "true"})
        assert storage.open("plays/a").read() == STORED
    assert ranged == [True, True, False][: spoilt_answers + 1]


@pytest.mark.parametrize("proxied", [False, True])
def test_an_object_is_read_by_one_plain_request(google: Any, monkeypatch: pytest.MonkeyPatch, proxied: bool) -> None:
    """Also through the proxy that the environment names, which is the store here: no other host has the name."""
    fake, options = google
    if proxied:
        monkeypatch.setenv("http_proxy", options["google_base_url"])
        options |= {"google_base_url": "http://storage.invalid"}
    reads = PlainReads(google_client(options))
    assert reads.content("lake", "plays/a") == b"it"
    with pytest.raises(FileNotFoundError, match="gs://lake/plays/b"):
        reads.content("lake", "plays/b")
    fake.refuse_at(2, 503)
    assert reads.content("lake", "plays/a") is None
    assert fake.requests_for_objects() == 3


class Account(Credentials):
    """An account whose token is another one each time that it is fetched."""

    fetched = 0

    def refresh(self, request: object) -> None:
        self.fetched += 1
        self.token, self.expiry = f"token {self.fetched}", None


def test_an_object_is_read_with_the_client_s_account(google: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is fetched once, and again where it has expired or is refused."""
    fake, options = google
    account, seen = Account(), []
    client = Client(project="p", credentials=account, client_options={"api_endpoint": options["google_base_url"]})
    monkeypatch.setattr("lakehouse.store.files.google_client", lambda options: client)
    answer = fake.answer

    def asked(method: str, url: str, body: bytes, headers: Any) -> Any:
        seen.append(headers["authorization"])
        if headers["authorization"] == "Bearer token 2":
            raise Refused(401, "authError", "Invalid Credentials")
        return answer(method, url, body, headers)

    monkeypatch.setattr(fake, "answer", asked)
    storage = GoogleStorage("gs://lake", options | {"of": "this test"})
    assert [storage.read("plays/a"), storage.read("plays/a")] == [b"it", b"it"]
    account.expiry = datetime(2026, 11, 23)
    assert storage.read("plays/a") == b"it"
    assert seen == [f"Bearer token {number}" for number in (1, 1, 2, 2, 3)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reset(folder: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    (folder / "plays" / "a").write_bytes(b"it")


def test_what_was_replaced_since_it_was_listed_is_not_moved(google: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what was listed and what goes are two things."""
    from google.api_core.exceptions import PreconditionFailed

    fake, options = google
    storage = GoogleStorage("gs://lake", options)
    listed = list(storage.blobs("plays"))
    monkeypatch.setattr(storage, "blobs", lambda folder: listed)
    (fake.folder / "plays" / "a").write_bytes(b"another")
    with pytest.raises(PreconditionFailed):
        storage.move("plays", "aside")
    assert contents(fake.folder) == {"plays/a": b"another"}
