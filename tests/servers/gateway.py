"""A gateway to GCS' emulator with what delta-rs asks of XML's interface, and the emulator does not know.

    python -m tests.servers.gateway PORT EMULATOR_PORT

PUT of an object becomes the upload that it knows, with its precondition; a listing begins after `start-after`, which it
overlooks. Everything else is handed on as it is, so that this can be the one address of a lake. Uploads in parts, which
delta-rs makes of 10 MB and more, are refused: nothing that it writes of a lake is so large.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.served import Server

_OURS = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "date", "server"}
"""Headers that belong to one connection, and are not handed on."""
_JSON_PATHS = ("/upload/", "/storage/", "/download/", "/resumable/", "/batch/")
_GENERATION_MATCH = "x-goog-if-generation-match"


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Gateway(Server):
    """Serves on 127.0.0.1 in front of an emulator there."""

    def __init__(self, port: int, emulator_port: int) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.emulator_port = emulator_port


class _Connection(BaseHTTPRequestHandler):
    """One client's connection, with one to the emulator behind it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Gateway

    def setup(self) -> None:
        super().setup()
        self._emulator = HTTPConnection("127.0.0.1", self.server.emulator_port)

    def finish(self) -> None:
        self._emulator.close()
        super().finish()

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        return True

    def do_GET(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OURS}
        request = _Request(self.command, self.path, headers, b"".join(self._content()))
        is_xml = not self.path.startswith(_JSON_PATHS)
        if is_xml and self.command == "PUT":
            self._put(request)
        elif is_xml and (after := parse_qs(urlsplit(self.path).query).get("start-after")):
            self._list(request, after[0])
        else:
            self._answer(*self._asked(request))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def log_message(self, format: str, *values: object) -> None:
        """Nothing: the emulator keeps a log of its own."""

    def _put(self, request: _Request) -> None:
        """`PUT /bucket/object` as the upload that the emulator knows, and its answer as XML's."""
        _, bucket, name = urlsplit(request.path).path.split("/", 2)
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(unquote(name), safe='')}"
        headers = {key.lower(): value for key, value in request.headers.items()}
        if _GENERATION_MATCH in headers:
            path += f"&ifGenerationMatch={headers.pop(_GENERATION_MATCH)}"
        status, headers, body = self._asked(_Request("POST", path, headers, request.body))
        if status == 200:
            written = json.loads(body)
            headers, body = {"ETag": written["etag"], "x-goog-generation": str(written["generation"])}, b""
        self._answer(status, headers, body)

    def _list(self, request: _Request, after: str) -> None:
        status, headers, body = self._asked(request)
        if status == 200:
            listing = ElementTree.fromstring(body)
            for entry in [*listing.findall("Contents"), *listing.findall("CommonPrefixes")]:
                if (entry.findtext("Key") or entry.findtext("Prefix") or "") <= after:
                    listing.remove(entry)
            body = ElementTree.tostring(listing)
        self._answer(status, headers, body)

    def _asked(self, request: _Request) -> tuple[int, dict[str, str], bytes]:
        self._emulator.request(request.method, request.path, request.body, request.headers)
        with self._emulator.getresponse() as answer:
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _OURS}
            if request.method == "HEAD" and (length := answer.getheader("content-length")):
                headers["Content-Length"] = length
            return answer.status, headers, answer.read()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # who wants only the beginning of an object hangs up
            self.wfile.write(body)

    def _content(self) -> Iterator[bytes]:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers


if __name__ == "__main__":
    with Gateway(int(sys.argv[1]), int(sys.argv[2])) as gateway:
        gateway.serve_forever()
