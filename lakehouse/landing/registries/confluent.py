"""A registry that speaks the API of Confluent's Schema Registry, by HTTP."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lakehouse.concealed import hide
from lakehouse.errors import SourceError, UnansweredError, in_one_line
from lakehouse.landing.registries.contract import AVRO, PROTOBUF, Definition
from lakehouse.landing.variables import resolved
from lakehouse.sources import ConfluentRegistry

_HEADERS = {"Accept": "application/vnd.schemaregistry.v1+json, application/json", "User-Agent": "lakehouse"}
_ANSWERS_WITHIN = timedelta(seconds=10)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_PATIENCE = timedelta(seconds=60)
_MOST_BYTES = 4 * 1024**2
_MOST_LETTERS = 300
"""Of what a registry says is wrong."""
_READ_BYTES = 64 * 1024
_MOST_REFERENCES = 200
_LARGEST_ID = 2**31 - 1
"""Ids are Java's int: of a larger one Confluent's registry says that it has no such path, and not, no such schema."""
_FORMATS = {"AVRO": AVRO, "PROTOBUF": PROTOBUF}
_SCHEMA_NOT_FOUND, _SUBJECT_NOT_FOUND, _VERSION_NOT_FOUND = 40403, 40401, 40402
_SAFE = ":.-_"


class _Missing(Exception):
    """The registry says that it has no such thing."""


class _Passing(Exception):
    """The same request may be answered a little later: after so many seconds, where the registry said so."""

    def __init__(self, found: str, after: float | None = None) -> None:
        super().__init__(found)
        self.after = after


class _NoRedirect(HTTPRedirectHandler):
    """Credentials are for the registry's own host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class HttpRegistry:
    """Ids are numbers as text. `sleep` and `clock` (seconds) are for how a failure that passes is waited out."""

    def __init__(
        self,
        registry: ConfluentRegistry,
        *,
        answers_within: timedelta = _ANSWERS_WITHIN,
        patience: timedelta = _PATIENCE,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._patience, self._sleep, self._clock = registry, patience, sleep, clock
        self._answers_within = answers_within.total_seconds()
        self._opener = build_opener(_NoRedirect)
        self._google: Any = None

    def definition(self, schema_id: str) -> Definition | None:
        if int(schema_id) > _LARGEST_ID:
            return None
        try:
            return self._whole(self._get(f"/schemas/ids/{quote(schema_id, safe=_SAFE)}"))
        except _Missing:
            return None

    def newest(self, name: str) -> Definition:
        """`name` is a subject, such as `plays-value`."""
        try:
            return self._whole(self._get(f"/subjects/{quote(name, safe=_SAFE)}/versions/latest"))
        except _Missing as missing:
            raise SourceError(
                f"{self._registry.address}, subject {name}",
                found=f"no such subject ({missing})",
                expected="a subject with a schema",
                next_step="See /subjects of the registry for those that it has.",
            ) from missing

    def _whole(self, answer: dict[str, Any]) -> Definition:
        """With all that it refers to, at whatever depth; _Missing where one of them is gone."""
        texts: dict[str, str] = {}
        waiting = self._references(answer)
        while waiting:
            name, path = waiting.pop(0)
            if name not in texts:
                found = self._get(path)
                texts[name] = str(found["schema"])
                waiting += self._references(found)
            if len(texts) > _MOST_REFERENCES:
                raise _Missing(f"more than {_MOST_REFERENCES} references")
        kind = str(answer.get("schemaType") or "AVRO")
        return Definition(_FORMATS.get(kind, kind), str(answer["schema"]), texts)

    def _references(self, answer: dict[str, Any]) -> list[tuple[str, str]]:
        """The names by which a schema refers to others, and where these are."""
        try:
            return [
                (
                    str(each["name"]),
                    f"/subjects/{quote(str(each['subject']), safe=_SAFE)}/versions/{int(each['version'])}",
                )
                for each in answer.get("references") or ()
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise self._error(
                SourceError,
                "references that do not say name, subject and version",
                "Fix `registry.url`: see what is there.",
            ) from error

    def _get(self, path: str) -> dict[str, Any]:
        """Asked again while it fails in passing; SourceError when it fails for good, or for too long."""
        ends, pause = self._clock() + self._patience.total_seconds(), _FIRST_PAUSE
        while True:
            try:
                return self._answer(path)
            except _Passing as passing:
                wait = pause if passing.after is None else min(max(passing.after, pause), _LONGEST_PAUSE)
                if self._clock() + wait > ends:
                    raise self._error(
                        UnansweredError,
                        str(passing),
                        "Nothing is lost: messages wait until the schema can be had.",
                    ) from passing
                self._sleep(wait)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _answer(self, path: str) -> dict[str, Any]:
        headers = {**_HEADERS, **self._authorization()}
        try:
            with self._response(path, headers) as got:
                content = self._content(got)
        except (URLError, HTTPException, OSError) as unreachable:
            raise _Passing(in_one_line(unreachable)) from unreachable
        except ValueError as unspeakable:
            raise self._error(
                SourceError, f"no address of a host: {in_one_line(unspeakable)}", "Fix `registry.url`."
            ) from unspeakable
        if not 200 <= got.status < 300:
            raise self._refusal(path, got.status, got.headers.get("Retry-After"), content)
        if len(content) > _MOST_BYTES:
            raise self._error(
                SourceError, f"an answer to {path} of more than {_MOST_BYTES:,} bytes", "Publish by a smaller schema."
            )
        found = _json(content)
        if not isinstance(found.get("schema"), str):
            raise self._error(
                SourceError, f"an answer to {path} without a schema", "Fix `registry.url`: see what is there."
            )
        return found

    def _response(self, path: str, headers: dict[str, str]) -> Any:
        """Whatever its status is."""
        request = Request(self._registry.address + path, headers=headers)
        try:
            return self._opener.open(request, timeout=self._answers_within)
        except HTTPError as refused:
            return refused

    def _content(self, got: Any) -> bytes:
        """Up to the first byte that is too much; OSError where it is cut off or comes too slowly."""
        ends, content = self._clock() + self._answers_within, b""
        while len(content) <= _MOST_BYTES and (some := got.read1(_READ_BYTES)):
            content += some
            if self._clock() > ends:
                raise TimeoutError(f"no whole answer in {self._answers_within:g} s")
        if len(content) <= _MOST_BYTES and got.length:
            raise ConnectionError("an answer that was cut off")
        return content

    def _refusal(self, path: str, status: int, retry_after: str | None, content: bytes) -> Exception:
        said = _json(content)
        code, message = said.get("error_code"), str(said.get("message") or "no message")
        text = f"HTTP {status}: {message[:_MOST_LETTERS]}"
        if status == 404 and code in (_SCHEMA_NOT_FOUND, _SUBJECT_NOT_FOUND, _VERSION_NOT_FOUND):
            return _Missing(text)
        if status == 429 or status >= 500:
            seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
            return _Passing(text, seconds)
        if status in (401, 403):
            return self._error(
                SourceError, text, "Fix `registry.auth`, `user` and `password`; reading is all it needs."
            )
        return self._error(
            SourceError, f"{text}, to {path}", "Fix `registry.url`: what answers there is no such registry."
        )

    def _error(self, kind: type[SourceError], found: str, next_step: str) -> SourceError:
        return kind(
            self._registry.address,
            found=found,
            expected="a schema registry that answers with the schema that messages name",
            next_step=next_step,
        )

    def _authorization(self) -> dict[str, str]:
        if self._registry.auth == "none":
            return {}
        if self._registry.auth == "google":
            return {"Authorization": f"Bearer {self._google_token()}"}
        user = resolved("registry.user", self._registry.user)
        password = resolved("registry.password", self._registry.password)
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        hide(pair)
        return {"Authorization": f"Basic {pair}"}

    def _google_token(self) -> str:
        """That of this machine's credentials, kept until it ends."""
        import google.auth
        import google.auth.transport.requests
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

        try:
            if self._google is None:
                self._google, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
            if not self._google.valid:
                self._google.refresh(google.auth.transport.requests.Request())
        except DefaultCredentialsError as missing:
            raise self._error(
                SourceError,
                f"no Google credentials here ({in_one_line(missing)})",
                "Run `gcloud auth application-default login`, or give the job a service account.",
            ) from missing
        except GoogleAuthError as refused:
            raise _Passing(f"no token of Google: {in_one_line(refused)}") from refused
        token = str(self._google.token)
        hide(token)
        return token


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
