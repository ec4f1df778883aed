"""Webhooks called with alerts; an address or a key that is secret comes from the environment."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lakehouse.concealed import hide
from lakehouse.errors import ConfigError, WebhookError, in_one_line
from lakehouse.fleet.alerts import Alert, alertmanager, pagerduty
from lakehouse.fleet.wanted import Webhook, web_address

PATIENCE_SECONDS = 10.0
"""For a whole call, and in all for one webhook in one check."""


def call(webhook: Webhook, alerts: Sequence[Alert], address: str) -> None:
    """Hand the alerts over; WebhookError unless the receiver says within `PATIENCE_SECONDS` that it has them.

    It may be handed one twice, if the watch dies before it has noted the answer: the key of both is the same.
    """
    url, routing_key = _url_of(webhook), _routing_key_of(webhook)
    if webhook.format == "pagerduty":
        for alert in alerts:
            _post(url, pagerduty(alert, address, routing_key))
    else:
        _post(url, alertmanager(alerts, address))


def check(webhook: Webhook) -> None:
    """ConfigError where a variable that it names is not set, or holds no address."""
    _url_of(webhook)
    _routing_key_of(webhook)


def receiver(webhook: Webhook) -> str:
    """What tells it from the others, and says nothing of its address."""
    said = "\0".join([webhook.format, webhook.url, webhook.url_from, webhook.routing_key_from])
    return hashlib.sha256(said.encode()).hexdigest()[:10]


def shown_name(webhook: Webhook) -> str:
    """What a log may say of it: its variable or its host, since the rest of an address can be secret."""
    return webhook.url_from or urlsplit(webhook.url).hostname or "a webhook"


def _url_of(webhook: Webhook) -> str:
    if webhook.url:
        return webhook.url
    key = "watch.webhooks.url_from"
    try:
        return web_address(_variable(webhook.url_from, key))
    except ValueError as wrong:
        raise ConfigError(
            f"fleet.yaml: {key}",
            found=f"something else in the variable {webhook.url_from}",
            expected=str(wrong),
            next_step="Correct it where `lakehouse fleet watch` is started.",
        ) from None


def _routing_key_of(webhook: Webhook) -> str:
    if webhook.format != "pagerduty":
        return ""
    return _variable(webhook.routing_key_from, "watch.webhooks.routing_key_from")


class _NoRedirects(HTTPRedirectHandler):
    """Behind a redirect a call would go on without its body: whoever answers there has no alert."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: str, body: dict[str, Any]) -> None:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST")
    ended: list[Exception | None] = []

    def send() -> None:
        try:
            with build_opener(_NoRedirects).open(request, timeout=PATIENCE_SECONDS):
                ended.append(None)
        except HTTPError as refused:
            refused.close()
            ended.append(refused)
        except (URLError, OSError, ValueError, HTTPException) as refused:
            ended.append(refused)

    sending = threading.Thread(target=send, name="webhook", daemon=True)  # who answers byte by byte is not waited for
    sending.start()
    sending.join(PATIENCE_SECONDS)
    refused = ended[0] if ended else TimeoutError(f"no answer within {PATIENCE_SECONDS:.0f} s")
    if refused is not None:
        raise WebhookError(
            "a webhook",
            found=in_one_line(refused),
            expected="an answer between 200 and 299",
            next_step="It is called again with the next check; see whether its address is right and its server up.",
        ) from refused


def _variable(name: str, key: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(
            f"fleet.yaml: {key}",
            found=f"no variable {name} in the environment",
            expected="what it names",
            next_step="Set it where `lakehouse fleet watch` is started.",
        )
    hide(value)
    return value
