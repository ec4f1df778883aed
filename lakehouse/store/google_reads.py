"""Objects of Google's storage by plain requests: each takes a third of the CPU of the client's own `download`."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import quote

import google_crc32c

_TIMEOUT_SECONDS = 60.0
"""To connect, and from byte to byte, as of the client."""
_CRC32C = re.compile(r"crc32c=([^,\s]+)")
_CONTENT_RANGE = re.compile(r"bytes 0-\d+/(\d+)")


class PlainReads:
    """What one client reads with its account and on its session's connections, proxies and certificates included."""

    def __init__(self, client: Any) -> None:
        from google.auth.transport.requests import Request as TokenRequest
        from requests import Request
        from urllib3 import Timeout

        session, endpoint = client._http, client.api_endpoint
        self._address = f"{endpoint}/download/storage/v1/b"
        request = Request("GET", self._address).prepare()
        settings = session.merge_environment_settings(endpoint, {}, False, None, None)
        adapter = session.get_adapter(endpoint)
        self._connections = adapter.get_connection_with_tls_context(
            request, settings["verify"], settings["proxies"], settings["cert"]
        )
        self._target = adapter.request_url(request, settings["proxies"])
        self._credentials, self._token_request = session.credentials, TokenRequest()
        self._agent = client._connection.user_agent
        self._timeout = Timeout(connect=_TIMEOUT_SECONDS, read=_TIMEOUT_SECONDS)

    def content(self, bucket: str, name: str, most_bytes: int | None = None) -> bytes | None:
        """All of an object, or its first bytes; FileNotFoundError when it is not there.

        None for any other answer and for none: the client knows which to ask for again, and what is wrong with others.
        """
        from google.auth.exceptions import GoogleAuthError
        from urllib3.exceptions import HTTPError

        headers = {"User-Agent": self._agent}
        if most_bytes is not None:
            headers["Range"] = f"bytes=0-{most_bytes - 1}"
        path = f"/{bucket}/o/{quote(name, safe='')}?alt=media"
        try:
            self._credentials.before_request(self._token_request, "GET", self._address + path, headers)
            answer = self._connections.urlopen(
                "GET",
                self._target + path,
                headers=headers,
                retries=False,
                assert_same_host=False,  # behind a proxy it is another one
                timeout=self._timeout,
            )
        except (HTTPError, GoogleAuthError):
            return None
        match answer.status:
            case 404:
                raise FileNotFoundError(f"gs://{bucket}/{name}")
            case 416 if most_bytes is not None:  # it is empty
                return b""
            case 206 if most_bytes is not None and _is_beginning(answer, most_bytes):
                return bytes(answer.data)
            case 200 if _is_as_stored(answer):
                return bytes(answer.data)
        return None


def _is_beginning(answer: Any, most_bytes: int) -> bool:
    """Whether the answer has as many bytes as were asked for; of an object that has fewer, all as they are stored."""
    named = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if named is None:
        return False
    size_bytes = int(named[1])
    is_whole = size_bytes <= most_bytes
    return len(answer.data) == min(size_bytes, most_bytes) and (not is_whole or _is_as_stored(answer))


def _is_as_stored(answer: Any) -> bool:
    """By the checksum that the store keeps of the whole object, where the answer names it."""
    named = _CRC32C.search(answer.headers.get("x-goog-hash", ""))
    return named is None or named[1] == crc32c_of(answer.data)


def crc32c_of(content: bytes) -> str:
    return crc32c_text(google_crc32c.value(content))


def crc32c_text(crc32c: int) -> str:
    """As Google names it: in base64."""
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()
