"""Buckets of GCS that let nothing be moved, replaced or removed: no mirror can publish there, nor stage copies."""

from __future__ import annotations

from typing import Any


def refuse_retention(client: Any, address: str) -> None:
    """OSError where the bucket's policies forbid what publishing needs: to move an hour and to replace it.

    Without the right `storage.buckets.get` nobody can ask, and publishing is tried.
    """
    from google.api_core.exceptions import Forbidden

    name = address.removeprefix("gs://").partition("/")[0]
    try:
        bucket = client.get_bucket(name)
    except Forbidden:
        return
    if bucket.retention_period:
        raise _refusal(name, f"every object for {bucket.retention_period} s by a retention policy")
    if bucket.default_event_based_hold:
        raise _refusal(name, "each new object by an event-based hold")


def _refusal(name: str, how: str) -> OSError:
    return OSError(
        f"bucket {name} keeps {how}: an hour cannot be moved or replaced there, give the mirror another bucket"
    )
