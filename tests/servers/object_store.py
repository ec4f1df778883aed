"""Google Cloud Storage in the memory of a process, which counts what is asked of it and answers as late as a real one.

Both interfaces that our clients speak: JSON (google-cloud-storage, pyarrow, Hadoop's connector) and XML (delta-rs).
Lists come in pages of 1,000, uploads honour generation conditions, reads honour ranges. What is not known here is
refused with 501, so that no client goes on with a wrong answer. The limits are those of
https://cloud.google.com/storage/docs/json_api and https://cloud.google.com/storage/docs/xml-api/overview.
"""

from __future__ import annotations

import base64
import bisect
import email
import json
import random
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from urllib.request import urlopen

import google_crc32c

from tests.served import Server

PAGE = 1000
"""Objects in one answer to a listing."""

_NAMED_BYTES = 1_000
"""Of a body, in which an upload of several parts has its object's name."""
_CONTROL = "/_control/"
_ITEM_FIELDS = re.compile(r"items\(([^)]*)\)")
_COPY = re.compile(r"o/([^/]+)/(rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_Headers = Mapping[str, str]


class Request(NamedTuple):
    """One request as it is billed: `kind` is list, get, stat, insert, chunk, delete or other; `began` is monotonic."""

    kind: str
    name: str
    client: str
    began: float
    seconds: float


class Answer(NamedTuple):
    status: int
    headers: _Headers = MappingProxyType({})
    body: bytes = b""


class Faults(NamedTuple):
    """What a store does to clients in a bad hour, by chance. `share` of the requests is refused with 429 or 503.

    A third of the refused was done before, so that its answer is lost. Lists do not show what is younger than
    `lag_seconds`; one answer in `slow_every` takes `slow_seconds` more.
    """

    share: float = 0.0
    seed: int = 1
    lag_seconds: float = 0.0
    slow_every: int = 20
    slow_seconds: float = 0.0


class _Object(NamedTuple):
    content: bytes
    generation: int
    written_at: float
    crc32c: str


@dataclass
class ObjectStore:
    """Any number of buckets. `delay` is how long each answer takes, in seconds.

    `delays` are those of requests that name a part of a path, such as `/plays/`; what names one of `read_only` is
    refused to be written.
    """

    delay: float = 0.0
    delays: dict[str, float] = field(default_factory=dict)
    read_only: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    chance: random.Random = field(default_factory=random.Random)
    _objects: dict[str, _Object] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _uploads: dict[str, tuple[str, list[bytes], str | None]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _generation: int = 0

    def counted(self) -> list[Request]:
        """What was asked since the last call."""
        with self._lock:
            asked, self.requests = self.requests, []
        return asked

    def put(self, name: str, content: bytes, generation: str | None = None) -> _Object | None:
        """Store `bucket/name`; None where the object's generation (0: none is there) is not the one that is given."""
        with self._lock:
            there = self._objects.get(name)
            if generation is not None and int(generation) != (there.generation if there else 0):
                return None
            if there is None:
                bisect.insort(self._names, name)
            self._generation += 1
            self._objects[name] = stored = _Object(content, self._generation, time.time(), _crc32c(content))
            return stored

    def fill(self, names: Iterable[str], like: str) -> None:
        """Put each `bucket/name`, all with the content of `like`."""
        with self._lock:
            self._objects |= dict.fromkeys(names, self._objects[like])
            self._names = sorted(self._objects)

    def get(self, name: str) -> _Object | None:
        return self._objects.get(name)

    def delete(self, name: str) -> bool:
        with self._lock:
            if self._objects.pop(name, None) is None:
                return False
            self._names.pop(bisect.bisect_left(self._names, name))
            return True

    def listing(self, bucket: str, prefix: str, after: str, start: str = "", end: str = "") -> tuple[list[str], str]:
        """A page of names in the bucket and, where more follow, the last of them.

        From `start` on, beyond `after`, and where there is an `end` before it.
        """
        with self._lock:
            full = f"{bucket}/{prefix}"
            at = bisect.bisect_left(self._names, max(full, f"{bucket}/{start}"))
            if after:
                at = max(at, bisect.bisect_right(self._names, f"{bucket}/{after}"))
            found = []
            newest = time.time() - self.faults.lag_seconds
            last = bisect.bisect_left(self._names, f"{bucket}/{end}") if end else len(self._names)
            while at < last and self._names[at].startswith(full) and len(found) <= PAGE:
                if self._objects[self._names[at]].written_at <= newest:
                    found.append(self._names[at].partition("/")[2])
                at += 1
        return found[:PAGE], found[PAGE - 1] if len(found) > PAGE else ""

    def answer(self, method: str, url: str, headers: _Headers, body: bytes) -> Answer:
        """What the request gets, after the delay; it is counted."""
        began = time.monotonic()
        named = unquote(url) + body[:_NAMED_BYTES].decode(errors="replace")
        if delay := max([self.delay, *(seconds for part, seconds in self.delays.items() if part in named)]):
            time.sleep(delay)
        if method not in ("GET", "HEAD") and any(part in named for part in self.read_only):
            return _refused(403, "forbidden", "The caller does not have storage.objects.create access.")
        refusal = self._refusal()
        if refusal and self.chance.random() > 1 / 3:
            with self._lock:
                self.requests.append(Request("refused", url, "", began, time.monotonic() - began))
            return refusal
        address = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        path = address.path
        if path.startswith(("/upload/", "/resumable/")):
            kind, name, answer = self._upload(path, query, headers, body)
        elif path.startswith(("/storage/", "/download/")):
            kind, name, answer = self._json(method, path, query, headers)
        else:
            kind, name, answer = self._xml(method, path, query, headers, body)
        with self._lock:
            client = _client(headers.get("User-Agent", ""))
            self.requests.append(Request(kind, name, client, began, time.monotonic() - began))
        return refusal or answer

    def _refusal(self) -> Answer | None:
        faults = self.faults
        if faults.slow_seconds and self.chance.randrange(faults.slow_every) == 0:
            time.sleep(faults.slow_seconds)
        if self.chance.random() >= faults.share:
            return None
        status = self.chance.choice([429, 503])
        return _refused(status, "rateLimitExceeded" if status == 429 else "backendError", "Try again.")

    # --- JSON ------------------------------------------------------------------------------------------------------

    def _upload(self, path: str, query: Mapping[str, str], headers: _Headers, body: bytes) -> tuple[str, str, Answer]:
        bucket = path.split("/b/")[1].partition("/")[0]
        condition = query.get("ifGenerationMatch")
        if "upload_id" in query:
            return self._resumed(query["upload_id"], headers, body)
        if query.get("uploadType") == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            upload = f"u{time.monotonic_ns()}"
            self._uploads[upload] = f"{bucket}/{name}", [], condition
            target = f"http://{headers['Host']}{path}?uploadType=resumable&upload_id={upload}"
            return "insert", name, Answer(200, {"Location": target})
        if query.get("uploadType") == "multipart":
            message = email.message_from_bytes(
                b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
            )
            metadata, media = (part.get_payload(decode=True) for part in message.get_payload())  # type: ignore[union-attr]
            name, content = query.get("name") or json.loads(metadata)["name"], bytes(media)  # type: ignore[arg-type]
        else:
            name, content = query["name"], body
        return "insert", name, self._inserted(f"{bucket}/{name}", content, condition)

    def _resumed(self, upload: str, headers: _Headers, body: bytes) -> tuple[str, str, Answer]:
        """The rest of a resumable upload: billed with its start, so it counts as `chunk`."""
        name, parts, condition = self._uploads[upload]
        parts.append(body)
        if headers.get("Content-Range", "").endswith("/*"):
            return "chunk", name, Answer(308, {"Range": f"bytes=0-{sum(map(len, parts)) - 1}"})
        return "chunk", name, self._inserted(name, b"".join(parts), condition)

    def _inserted(self, name: str, content: bytes, condition: str | None) -> Answer:
        if self.put(name, content, condition) is None:
            return _refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        return _json(self._resource(name))

    def _json(self, method: str, path: str, query: Mapping[str, str], headers: _Headers) -> tuple[str, str, Answer]:
        bucket, _, rest = path.split("/b/", 1)[1].partition("/")
        if not rest:
            return "stat", bucket, _json({"kind": "storage#bucket", "name": bucket, "id": bucket})
        name = unquote(rest.removeprefix("o").removeprefix("/"))
        key = f"{bucket}/{name}"
        if not name:
            return "list", query.get("prefix", ""), _json(self._page(bucket, query))
        if method == "DELETE":
            return "delete", name, self._deleted(key, query)
        if method == "POST" and (copied := _COPY.fullmatch(rest)):
            return "insert", name, self._copied(*(unquote(part) for part in (bucket, *copied.groups())), query)
        found = self.get(key)
        if method != "GET":
            return "other", name, Answer(501)
        if query.get("alt") == "media" or path.startswith("/download/"):
            return "get", name, _content(found, headers, "GET")
        return (
            "stat",
            name,
            _json(self._resource(key)) if found else _refused(404, "notFound", f"No such object: {key}"),
        )

    def _page(self, bucket: str, query: Mapping[str, str]) -> dict[str, Any]:
        asked = (query.get(name, "") for name in ("prefix", "pageToken", "startOffset", "endOffset"))
        names, after = self.listing(bucket, *asked)
        names, folders = _by_delimiter(names, query.get("prefix", ""), query.get("delimiter", ""))
        items = [self._resource(f"{bucket}/{name}") for name in names if f"{bucket}/{name}" in self._objects]
        fields = query.get("fields", "")
        if wanted := _ITEM_FIELDS.search(fields):
            items = [{name: item[name] for name in wanted[1].split(",") if name in item} for item in items]
        page = {"kind": "storage#objects", "items": items, "prefixes": folders}
        return page | ({"nextPageToken": after} if after and "nextPageToken" in (fields or "nextPageToken") else {})

    def _copied(
        self, bucket: str, name: str, how: str, to_bucket: str, to_name: str, query: Mapping[str, str]
    ) -> Answer:
        """In one call, as between places of one location and class."""
        found, target = self.get(f"{bucket}/{name}"), f"{to_bucket}/{to_name}"
        if found is None:
            return _refused(404, "notFound", f"No such object: {bucket}/{name}")
        is_another = query.get("ifSourceGenerationMatch", str(found.generation)) != str(found.generation)
        if is_another or self.put(target, found.content, query.get("ifGenerationMatch")) is None:
            return _refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        if how == "copyTo":
            return _json(self._resource(target))
        size = str(len(found.content))
        done = {"kind": "storage#rewriteResponse", "done": True, "objectSize": size, "totalBytesRewritten": size}
        return _json(done | {"resource": self._resource(target)})

    def _deleted(self, key: str, query: Mapping[str, str]) -> Answer:
        found = self.get(key)
        if found is None:
            return _refused(404, "notFound", f"No such object: {key}")
        if query.get("ifGenerationMatch", str(found.generation)) != str(found.generation):
            return _refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        self.delete(key)
        return Answer(204)

    def _resource(self, key: str) -> dict[str, Any]:
        found, (bucket, _, name) = self._objects[key], key.partition("/")
        moment = datetime.fromtimestamp(found.written_at, UTC).isoformat(timespec="milliseconds")
        written = moment.replace("+00:00", "Z")
        return {
            "kind": "storage#object", "name": name, "bucket": bucket, "size": str(len(found.content)),
            "generation": str(found.generation), "metageneration": "1", "timeCreated": written, "updated": written,
            "etag": f"e{found.generation}", "contentType": "application/octet-stream", "crc32c": found.crc32c,
        }  # fmt: skip

    # --- XML -------------------------------------------------------------------------------------------------------

    def _xml(
        self, method: str, path: str, query: Mapping[str, str], headers: _Headers, body: bytes
    ) -> tuple[str, str, Answer]:
        bucket, _, name = unquote(path).strip("/").partition("/")
        key = f"{bucket}/{name}"
        if method == "GET" and not name:
            return "list", query.get("prefix", ""), self._listing(bucket, query)
        if method == "PUT":
            stored = self.put(key, body, headers.get("x-goog-if-generation-match"))
            tags = {"ETag": f'"e{stored.generation}"', "x-goog-generation": str(stored.generation)} if stored else {}
            return "insert", name, Answer(200 if stored else 412, tags)
        if method == "DELETE":
            return "delete", name, Answer(204 if self.delete(key) else 404)
        return ("get" if method == "GET" else "stat"), name, _content(self.get(key), headers, method)

    def _listing(self, bucket: str, query: Mapping[str, str]) -> Answer:
        after = query.get("continuation-token") or query.get("start-after", "")
        names, more = self.listing(bucket, query.get("prefix", ""), after)
        root = ElementTree.Element("ListBucketResult")
        ElementTree.SubElement(root, "Name").text = bucket
        ElementTree.SubElement(root, "IsTruncated").text = "true" if more else "false"
        if more:
            ElementTree.SubElement(root, "NextContinuationToken").text = more
        for name in names:
            found = self.get(f"{bucket}/{name}")
            if found is None:
                continue
            entry = ElementTree.SubElement(root, "Contents")
            moment = datetime.fromtimestamp(found.written_at, UTC).isoformat(timespec="milliseconds")
            values = {"Key": name, "LastModified": moment.replace("+00:00", "Z"), "Size": str(len(found.content))}
            for tag, value in {**values, "ETag": f'"e{found.generation}"'}.items():
                ElementTree.SubElement(entry, tag).text = value
        return Answer(200, {"Content-Type": "application/xml"}, ElementTree.tostring(root))


def _content(found: _Object | None, headers: _Headers, method: str) -> Answer:
    if found is None:
        return Answer(404, {}, b"The specified key does not exist.")
    written = datetime.fromtimestamp(found.written_at, UTC)
    tags = {
        "ETag": f'"e{found.generation}"',
        "Last-Modified": f"{written:%a, %d %b %Y %H:%M:%S GMT}",
        "x-goog-generation": str(found.generation),
        "x-goog-hash": f"crc32c={found.crc32c}",
    }
    if method == "HEAD":
        return Answer(200, {**tags, "Content-Length": str(len(found.content))})
    wanted, size = _RANGE.match(headers.get("Range", "")), len(found.content)
    if wanted is None:
        return Answer(200, tags, found.content)
    first, last = wanted.groups()
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if begin >= size:
        return Answer(416, {"Content-Range": f"bytes */{size}"})
    return Answer(206, {**tags, "Content-Range": f"bytes {begin}-{end - 1}/{size}"}, found.content[begin:end])


def _by_delimiter(names: Iterable[str], prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
    """The names in the folder itself, and the folders in it."""
    if not delimiter:
        return list(names), []
    within = {name: name.removeprefix(prefix).partition(delimiter) for name in names}
    folders = {f"{prefix}{first}{delimiter}" for first, found, _ in within.values() if found}
    return [name for name, (_, found, _) in within.items() if not found], sorted(folders)


def _crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def _json(document: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(document).encode())


def _refused(status: int, reason: str, message: str) -> Answer:
    error = {"code": status, "message": message, "errors": [{"message": message, "reason": reason}]}
    return Answer(status, {"Content-Type": "application/json"}, json.dumps({"error": error}).encode())


def _client(agent: str) -> str:
    known = {"object_store": "delta-rs", "gcloud-cpp": "pyarrow", "gcloud-python": "google", "gcs-python": "google"}
    return next((name for key, name in known.items() if key in agent.lower()), agent[:30])


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: ObjectStore

    def do_GET(self) -> None:
        if self.path.startswith(_CONTROL):
            answer = self._controlled(self.path.removeprefix(_CONTROL))
        else:
            answer = self.store.answer(self.command, self.path, self.headers, self._body())  # type: ignore[arg-type]
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers and answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        return True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # who wants only the beginning of an object hangs up
            self.close_connection = True

    def log_message(self, format: str, *values: object) -> None:
        """Nothing: the store counts."""

    def _controlled(self, path: str) -> Answer:
        """For `ObjectStoreServer`; neither counted nor delayed."""
        if path == "requests":
            return _json(self.store.counted())
        if path == "fill":
            self.store.fill(**json.loads(self._body()))
            return _json(None)
        if path.startswith("faults"):
            values = {key: found[0] for key, found in parse_qs(urlsplit(path).query).items()}
            faults = Faults(**{key: type(getattr(Faults(), key))(value) for key, value in values.items()})
            self.store.faults, self.store.chance = faults, random.Random(faults.seed)
            return _json(None)
        asked = {key: found[0] for key, found in parse_qs(urlsplit(path).query).items()}
        if path.startswith("read_only"):
            self.store.read_only.add(asked["part"])
        elif "part" in asked:
            self.store.delays[asked["part"]] = float(asked["seconds"])
        else:
            self.store.delay = float(asked["seconds"])
        return _json(None)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)


class ObjectStoreServer:
    """The store in a process of its own, at `address`: some of delta-rs' calls let no other thread of theirs run."""

    def __init__(self, address: str) -> None:
        self.address = address

    def requests(self) -> list[Request]:
        """What was asked since the last call."""
        return [Request(*row) for row in json.loads(self._control("requests"))]

    def delay(self, seconds: float, part: str = "") -> None:
        """Let each answer take so long from now on, or those to requests that name this part of a path."""
        self._control(f"delay?{urlencode({'seconds': seconds} | ({'part': part} if part else {}))}")

    def make_read_only(self, part: str) -> None:
        """Refuse to write what has this part in its path from now on, as for want of a permission."""
        self._control(f"read_only?{urlencode({'part': part})}")

    def fill(self, names: Iterable[str], like: str) -> None:
        """Put many objects alike at once, see `ObjectStore.fill`: what a topic of years has."""
        self._control("fill", json.dumps({"names": list(names), "like": like}).encode())

    def misbehave(self, faults: Faults) -> None:
        """From now on; `Faults()` ends it."""
        self._control(f"faults?{urlencode(faults._asdict())}")

    def _control(self, path: str, body: bytes | None = None) -> bytes:
        with urlopen(f"{self.address}{_CONTROL}{path}", body, timeout=60) as answer:
            return bytes(answer.read())


@contextmanager
def serving() -> Iterator[ObjectStoreServer]:
    """An empty store, until the context ends."""
    command = [sys.executable, "-m", "tests.servers.object_store"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield ObjectStoreServer(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.terminate()


def main() -> None:
    """Serve at a free port, which is printed, until SIGTERM."""
    _Connection.store = ObjectStore()
    server = Server(("127.0.0.1", 0), _Connection)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
