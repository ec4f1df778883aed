"""A gRPC channel to Pub/Sub, or to the emulator that PUBSUB_EMULATOR_HOST names; and to other services of Google."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import grpc

from lakehouse.errors import SourceError, joined_lines

_MAX_MESSAGE_BYTES = 64 * 1024**2
"""More than any answer: 10 MB is the largest message, gRPC's own limit is 4 MiB."""
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
STREAMS = 80
"""Calls at a time on a connection: Google's servers take 100, and gRPC lets the others wait without a word."""


def shared_channel(subscription: str, number: int = 0) -> grpc.Channel:
    """This process's channel for the `number`th subscription of those that are asked at the same time; stays open.

    SourceError when there are no credentials.
    """
    return _shared(os.getpid(), os.environ.get("PUBSUB_EMULATOR_HOST"), number // STREAMS, subscription.split("/")[1])


@lru_cache(maxsize=256)
def _shared(process: int, emulator: str | None, connection: int, project: str) -> grpc.Channel:
    return channel_to(f"projects/{project}")


def channel_to(subscription: str) -> grpc.Channel:
    """SourceError when there are no credentials."""
    emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
    if emulator:
        return open_channel(emulator)
    return authorized_channel(
        "pubsub.googleapis.com:443",
        subscription,
        scope="https://www.googleapis.com/auth/pubsub",
        otherwise="an emulator's address in PUBSUB_EMULATOR_HOST",
        next_step="Run `gcloud auth application-default login`, or `lakehouse sandbox` for a broker of your own.",
    )


def open_channel(address: str) -> grpc.Channel:
    """Without TLS and credentials."""
    return grpc.insecure_channel(address, _OPTIONS)


def authorized_channel(address: str, subject: str, *, scope: str, otherwise: str, next_step: str) -> grpc.Channel:
    """By this machine's credentials; SourceError, with these words, when there are none."""
    import google.auth
    import google.auth.transport.grpc
    import google.auth.transport.requests
    from google.auth.exceptions import DefaultCredentialsError

    try:
        credentials, _ = google.auth.default(scopes=[scope])
    except DefaultCredentialsError as missing:
        raise SourceError(
            subject,
            found="no Google credentials here",
            expected=f"Application Default Credentials, or {otherwise}",
            next_step=next_step,
        ) from missing
    request = google.auth.transport.requests.Request()
    return google.auth.transport.grpc.secure_authorized_channel(  # type: ignore[no-untyped-call]
        credentials, request, address, options=_OPTIONS
    )


def status_text(error: Any) -> str:
    """What an RpcError says: `UNAVAILABLE: …`, in one line."""
    return ": ".join(filter(None, (error.code().name, joined_lines(error.details() or ""))))


def place() -> str:
    """Who is asked, in words."""
    emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
    return f"the emulator at {emulator}" if emulator else "Pub/Sub"
