"""Google's JSON API for objects: get, read, list, patch, delete, upload and copies within the bucket, over a folder.

The emulator that is started as a server takes `temporaryHold` without a word and forgets it, and deletes what is held.
This one keeps it, and refuses as Google does; the texts are Google's own. Bytes of objects are files of the folder, so
that Delta, which would not write through this, can be beside it on the local file system.
"""

from __future__ import annotations

import base64
import email
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
from served import served

PAGE = 3
"""Objects in one answer to a listing; Google gives up to 1,000, and a token for more."""


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "domain": "global", "reason": reason}
        self.document = {"error": {"code": status, "message": message, "errors": [error]}}


class Media(NamedTuple):
    """An object's bytes, with the checksum of those that are stored."""

    content: bytes
    hashes: str


class FakeGoogleStorage:
    """One bucket, which is a folder. `denies` says which objects the caller may look at and not change.

    A copy by `rewriteTo` takes two calls.
    """

    def __init__(self, folder: Path, bucket: str = "lake") -> None:
        self.folder, self.bucket = folder, bucket
        self.denies: Callable[[str], bool] = lambda name: False
        self.policies: dict[str, Any] = {}
        self.requests: list[str] = []
        self._refusal: tuple[int, int] | None = None
        self._garbled_at: int | None = None
        self._holds: dict[str, bool] = {}
        self._changes: dict[str, int] = {}
        self._lock = threading.RLock()

    def refuse_at(self, place: int, status: int) -> None:
        """Answer the request for objects that will be at that place with a refusal that passes."""
        self._refusal = place, status

    def garble_at(self, place: int) -> None:
        """Answer the request for objects that will be at that place, and reads one, with other bytes than there are."""
        self._garbled_at = place

    def requests_for_objects(self) -> int:
        """So many; the client asks for the bucket whenever it likes."""
        return sum("/o" in each for each in self.requests)

    def held(self) -> set[str]:
        return {name for name, is_held in self._holds.items() if is_held}

    def answer(self, method: str, url: str, body: bytes, headers: Any) -> tuple[int, dict[str, Any] | Media | None]:
        address = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        with self._lock:
            self.requests.append(f"{method} {unquote(address.path)}")
            if self._refusal and self.requests_for_objects() == self._refusal[0] + 1:
                (_, status), self._refusal = self._refusal, None
                raise Refused(status, "rateLimitExceeded" if status == 429 else "backendError", "Try again.")
            match method, address.path.removeprefix("/upload").removeprefix("/download").split("/")[4:]:
                case "GET", [self.bucket]:
                    return 200, {"kind": "storage#bucket", "name": self.bucket, **self.policies}
                case "GET", [self.bucket, "o"]:
                    return 200, self._listed(query)
                case "GET", [self.bucket, "o", name] if query.get("alt") == "media":
                    return 200, self._media(unquote(name))
                case "GET", [self.bucket, "o", name]:
                    return 200, self._resource(unquote(name))
                case "POST", [self.bucket, "o", name, "rewriteTo", "b", self.bucket, "o", target]:
                    if "rewriteToken" not in query:
                        return 200, {"kind": "storage#rewriteResponse", "done": False, "rewriteToken": "token",
                                     "objectSize": "2", "totalBytesRewritten": "1"}  # fmt: skip
                    copied = self._copied(unquote(name), unquote(target), query)
                    return 200, {"kind": "storage#rewriteResponse", "done": True, "resource": copied,
                                 "objectSize": "2", "totalBytesRewritten": "2"}  # fmt: skip
                case "POST", [self.bucket, "o", name, "copyTo", "b", self.bucket, "o", target]:
                    return 200, self._copied(unquote(name), unquote(target), query)
                case "PATCH", [self.bucket, "o", name]:
                    return 200, self._patched(unquote(name), json.loads(body))
                case "DELETE", [self.bucket, "o", name]:
                    self._deleted(unquote(name), query)
                    return 204, None
                case "POST", [self.bucket, "o"] if query.get("uploadType") == "multipart":
                    return 200, self._uploaded(query, body, headers)
        raise Refused(404, "notFound", "The specified bucket does not exist.")

    def _listed(self, query: dict[str, str]) -> dict[str, Any]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        names = sorted(str(path.relative_to(self.folder)) for path in files)
        after = query.get("pageToken", "")
        first, end = query.get("startOffset", ""), query.get("endOffset")
        names = [name for name in names if name >= first and (end is None or name < end)]
        found = [name for name in names if name.startswith(query.get("prefix", "")) and name > after]
        page = {"kind": "storage#objects", "items": [self._resource(name) for name in found[:PAGE]]}
        return {**page, "nextPageToken": found[PAGE - 1]} if len(found) > PAGE else page

    def _resource(self, name: str) -> dict[str, Any]:
        """As Google shows an object: one that was never held has no `temporaryHold`, a released one has false."""
        file = self.folder / name
        if not file.is_file():
            raise Refused(404, "notFound", f"No such object: {self.bucket}/{name}")
        status = file.stat()
        written = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        crc32c = base64.b64encode(google_crc32c.Checksum(file.read_bytes()).digest()).decode()
        hold = {"temporaryHold": self._holds[name]} if name in self._holds else {}
        return {
            "kind": "storage#object", "name": name, "bucket": self.bucket, "size": str(status.st_size),
            "generation": str(status.st_mtime_ns), "metageneration": str(self._changes.get(name, 1)),
            "timeCreated": written, "updated": written, "crc32c": crc32c, **hold,
        }  # fmt: skip

    def _media(self, name: str) -> Media:
        crc32c, content = self._resource(name)["crc32c"], (self.folder / name).read_bytes()
        is_garbled = self._garbled_at is not None and self.requests_for_objects() == self._garbled_at + 1
        return Media(content[::-1] if is_garbled else content, f"crc32c={crc32c}")

    def _patched(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        self._resource(name)
        if self.denies(name):
            raise Refused(
                403, "forbidden", "someone@example.com does not have storage.objects.update access to the Google Cloud"
                " Storage object. Permission 'storage.objects.update' denied on resource (or it may not exist).",
            )  # fmt: skip
        self._holds[name] = changes["temporaryHold"]
        self._changes[name] = self._changes.get(name, 1) + 1
        return self._resource(name)

    def _deleted(self, name: str, query: dict[str, str]) -> None:
        self._check_generation(name, query)
        self._resource(name)
        self._check_hold(name)
        (self.folder / name).unlink()
        self._holds.pop(name, None)

    def _uploaded(self, query: dict[str, str], body: bytes, headers: Any) -> dict[str, Any]:
        message = email.message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
        metadata, media = (part.get_payload(decode=True) for part in message.get_payload())  # type: ignore[union-attr]
        name = json.loads(metadata)["name"]
        self._check_generation(name, query)
        self._check_hold(name)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(media)  # type: ignore[arg-type]
        return self._resource(name)

    def _copied(self, name: str, target: str, query: dict[str, str]) -> dict[str, Any]:
        generation = self._resource(name)["generation"]
        if query.get("ifSourceGenerationMatch", generation) != generation:
            raise Refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        self._check_generation(target, query)
        (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / target).write_bytes((self.folder / name).read_bytes())
        return self._resource(target)

    def _check_generation(self, name: str, query: dict[str, str]) -> None:
        """Google looks at a condition before it looks at a hold."""
        file = self.folder / name
        there = str(file.stat().st_mtime_ns) if file.is_file() else "0"
        if query.get("ifGenerationMatch", there) != there:
            raise Refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")

    def _check_hold(self, name: str) -> None:
        if self._holds.get(name):
            raise Refused(
                403, "forbidden", f"Object '{self.bucket}/{name}' is under active Temporary hold and cannot be deleted,"
                " overwritten or archived until hold is removed.",
            )  # fmt: skip


@contextmanager
def serving(fake: FakeGoogleStorage) -> Iterator[str]:
    """The fake at an address of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            try:
                status, document = fake.answer(self.command, self.path, body, self.headers)
            except Refused as refused:
                status, document = refused.status, refused.document
            self.send_response(status)
            if isinstance(document, Media):
                data = document.content
                self.send_header("x-goog-hash", document.hashes)
            else:
                data = b"" if document is None else json.dumps(document).encode()
                self.send_header("content-type", "application/json; charset=UTF-8")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: `requests` has it."""

    with served(Handler) as address:
        yield address
