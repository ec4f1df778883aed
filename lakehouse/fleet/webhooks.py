"""Webhooks called with alerts; an address or a key that is secret comes from the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from lakehouse.concealed import hide
from lakehouse.errors import ConfigError, WebhookError, in_one_line
from lakehouse.fleet.alerts import Alert, alertmanager, pagerduty
from lakehouse.fleet.wanted import Webhook

_PATIENCE_SECONDS = 10.0


def call(webhook: Webhook, alerts: Sequence[Alert], address: str) -> None:
    """Hand the alerts over; WebhookError unless the receiver says that it has them.

    It may be handed one twice, if the watch dies before it has noted the answer: the key of both is the same.
    """
    url, routing_key = _url_of(webhook), _routing_key_of(webhook)
    if webhook.format == "pagerduty":
        for alert in alerts:
            _post(url, pagerduty(alert, address, routing_key))
    else:
        _post(url, alertmanager(alerts, address))


def check(webhook: Webhook) -> None:
    """ConfigError where a variable that it names is not set."""
    _url_of(webhook)
    _routing_key_of(webhook)


def shown_name(webhook: Webhook) -> str:
    """What a log may say of it: its variable or its host, since the rest of an address can be secret."""
    return webhook.url_from or urlsplit(webhook.url).hostname or "a webhook"


def _url_of(webhook: Webhook) -> str:
    return webhook.url or _variable(webhook.url_from, "watch.webhooks.url_from")


def _routing_key_of(webhook: Webhook) -> str:
    if webhook.format != "pagerduty":
        return ""
    return _variable(webhook.routing_key_from, "watch.webhooks.routing_key_from")


def _post(url: str, body: dict[str, Any]) -> None:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST")
    try:
        with urlopen(request, timeout=_PATIENCE_SECONDS):
            return
    except (URLError, OSError, ValueError) as refused:
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
