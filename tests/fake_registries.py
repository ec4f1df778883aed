"""Fakes of two registries of schemas, by their documented protocols; both record what they were asked."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import grpc
from google.pubsub_v1 import types

from tests.served import served

_SCHEMA = re.compile(r"projects/[^/]+/schemas/([A-Za-z][A-Za-z0-9._~+%-]{2,254})(@[A-Za-z0-9]{8})?")
"""Of GetSchemaRequest.name, as the API has it: a revision is eight letters and digits."""


@dataclass
class FakeSchemaService:
    """Pub/Sub's SchemaService: GetSchema of a schema's revisions. `failures` are answers that come first."""

    revisions: dict[str, list[types.Schema]] = field(default_factory=dict)
    failures: deque[tuple[grpc.StatusCode, str]] = field(default_factory=deque)
    asked: list[str] = field(default_factory=list)

    def commit(self, name: str, kind: types.Schema.Type, definition: str) -> str:
        """A new revision, whose id is given: eight characters, as those of the service."""
        revisions = self.revisions.setdefault(name, [])
        revision = f"{len(revisions) + 1:08x}"
        revisions.append(types.Schema(name=name, type_=kind, definition=definition, revision_id=revision))
        return revision

    def get(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append(request.name)
        if self.failures:
            context.abort(*self.failures.popleft())
        if _SCHEMA.fullmatch(request.name) is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"You have passed an invalid argument: {request.name}")
        name, _, revision = request.name.partition("@")
        found = [each for each in self.revisions.get(name, []) if not revision or each.revision_id == revision]
        if not found:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={request.name}).")
        schema = types.Schema.pb(found[-1])
        if request.view == types.SchemaView.BASIC:
            schema = type(schema)(name=schema.name, type_=schema.type_)
        return schema

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address at which it answers."""
        handler = grpc.unary_unary_rpc_method_handler(
            self.get,
            request_deserializer=types.GetSchemaRequest.pb().FromString,
            response_serializer=types.Schema.pb().SerializeToString,
        )
        server = grpc.server(futures.ThreadPoolExecutor(2))
        service = "google.pubsub.v1.SchemaService"
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"GetSchema": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@dataclass
class FakeConfluentRegistry:
    """A registry of schemas by HTTP. `failures` are statuses and bodies that come first, None for no answer at all.

    While it `hangs`, nobody gets an answer.
    """

    user: str = ""
    password: str = ""
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    failures: deque[tuple[int, Any, dict[str, str]] | None] = field(default_factory=deque)
    asked: list[str] = field(default_factory=list)
    hangs: threading.Event = field(default_factory=threading.Event)
    _goes_on: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register(
        self, subject: str, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None
    ) -> int:
        """The schema's id. Avro's type is not said, as the registry does not."""
        number = len(self.schemas) + 100_001
        entry: dict[str, Any] = {"schema": schema}
        if kind != "AVRO":
            entry["schemaType"] = kind
        if references:
            entry["references"] = references
        self.schemas[number] = entry
        self.subjects.setdefault(subject, []).append(number)
        return number

    def answer(self, path: str, authorization: str | None) -> tuple[int, Any]:
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if self.user and authorization != f"Basic {wanted}":
            return 401, {"error_code": 401, "message": "Unauthorized"}
        if (match := re.fullmatch(r"/schemas/ids/([0-9]+)", path)) and int(match[1]) < 2**31:  # Java's int
            found = self.schemas.get(int(match[1]))
            return (200, found) if found else (404, {"error_code": 40403, "message": f"Schema {match[1]} not found"})
        if match := re.fullmatch(r"/subjects/([^/]+)/versions/([0-9]+|latest)", path):
            numbers = self.subjects.get(match[1])
            if numbers is None:
                return 404, {"error_code": 40401, "message": f"Subject '{match[1]}' not found."}
            version = len(numbers) if match[2] == "latest" else int(match[2])
            if version > len(numbers):
                return 404, {"error_code": 40402, "message": f"Version {version} not found."}
            number = numbers[version - 1]
            return 200, {"subject": match[1], "version": version, "id": number, **self.schemas[number]}
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address at which it answers."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with registry._lock:
                    registry.asked.append(self.path)
                    failure = registry.failures.popleft() if registry.failures else ()
                if registry.hangs.is_set():
                    registry._goes_on.wait(60)
                if failure is None:
                    self.close_connection = True
                    return
                headers: dict[str, str] = {}
                if failure:
                    status, body, headers = failure
                else:
                    status, body = registry.answer(self.path, self.headers.get("Authorization"))
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/vnd.schemaregistry.v1+json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        with served(Handler) as address:
            try:
                yield address
            finally:
                self._goes_on.set()
