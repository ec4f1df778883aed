"""What `fleet watch` serves: the page, /metrics and /healthz."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lakehouse.errors import UsageError
from lakehouse.fleet.health import FleetHealth
from lakehouse.fleet.incidents import TopicHealth
from lakehouse.fleet.watch import Watch
from lakehouse.pages.fleet import fleet_page

log = logging.getLogger(__name__)

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REFRESH_SECONDS = 10
_PATIENCE_SECONDS = 30.0
"""With a client that says nothing, or takes nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle of an answer is nobody's fault."""
        if not isinstance(sys.exception(), OSError):
            log.exception("watch: client=%s error=no answer", client_address[0])


def server(watch: Watch, host: str, port: int) -> ThreadingHTTPServer:
    """Serves what the watch knows, without a log line for each request; UsageError where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_SECONDS

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            code, kind, body = answer(watch, self.path.partition("?")[0])
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if kind.startswith("text/html"):
                self.send_header("Refresh", str(_REFRESH_SECONDS))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    try:
        return _Server((host, port), Handler)
    except (OSError, UnicodeError) as refused:
        raise UsageError(
            f"fleet watch at {host}:{port}",
            found=f"an address that cannot be bound ({getattr(refused, 'strerror', None) or refused})",
            expected="a free port of this machine",
            next_step="Stop what listens there, or choose another --port; 0 takes any free one.",
        ) from refused


def answer(watch: Watch, path: str) -> tuple[int, str, bytes]:
    """(status, content type, body) for a path."""
    if path == "/metrics":
        return 200, _METRICS_TYPE, watch.metrics().encode()
    if path == "/healthz":
        is_well = watch.is_well()
        return (200 if is_well else 503), "text/plain; charset=utf-8", b"ok\n" if is_well else b"no look lately\n"
    if path == "/":
        health = watch.health
        text = page(health) if health is not None else "The first look is under way."
        return 200, "text/html; charset=utf-8", text.encode()
    return 404, "text/plain; charset=utf-8", b"/, /metrics and /healthz\n"


def page(found: FleetHealth) -> str:
    """The grid, live: a browser asks for it again by itself."""
    return fleet_page(
        found.at,
        found.totals,
        [asdict(each) for each in found.applications],
        [asdict(each) for each in found.incidents],
        [_cell(each) for each in found.topics],
    )


def _cell(each: TopicHealth) -> dict[str, Any]:
    level = "ok" if each.cause.name == "ok" else "critical" if each.cause.is_critical else "warning"
    return {
        "topic": each.topic,
        "application": each.application,
        "cause": each.cause.name,
        "words": each.cause.words,
        "level": level,
        "overdue_hours": each.overdue.hours if each.overdue else 0,
    }
