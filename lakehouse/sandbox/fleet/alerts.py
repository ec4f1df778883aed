"""Who is notified of the fleet's incidents: a receiver of Alertmanager's webhooks that remembers when each came."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Notified:
    """One incident as the webhook told it; instants are seconds of `time.monotonic`."""

    key: str
    cause: str
    subject: str
    topics: frozenset[str]
    applications: frozenset[str]
    at: float
    over_at: float | None = None


class Receiver:
    """Takes alerts from entering to leaving its context; `address` is what the watch calls."""

    def __init__(self) -> None:
        self.notified: list[Notified] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    receiver._take(alert)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/alerts"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def open(self) -> list[Notified]:
        """Those that are not over."""
        with self._lock:
            return [each for each in self.notified if each.over_at is None]

    def _take(self, alert: dict[str, Any]) -> None:
        now, key, said = time.monotonic(), str(alert["fingerprint"]), alert["annotations"]
        with self._lock:
            known = next((each for each in self.notified if each.key == key and each.over_at is None), None)
            if alert["status"] == "resolved":
                if known is not None:
                    known.over_at = now
            elif known is None:
                topics, applications = (frozenset(said[what].split(", ")) for what in ("topics", "applications"))
                cause = str(alert["labels"]["cause"])
                self.notified.append(Notified(key, cause, said["subject"], topics, applications, now))
