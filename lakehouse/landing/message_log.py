"""Where a person's own query (`option("read", "messages")`) is in a log: its manifests say it, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from lakehouse.config import Ingest
from lakehouse.landing.brokers.contract import Broker
from lakehouse.landing.manifests import Manifest, listed_manifests, read_manifest
from lakehouse.progress import LogRead, Positions, ReadFrom
from lakehouse.store.files import Storage
from lakehouse.topics import Topic

START = "segments/start"
"""Where the first epoch of all begins: what `start` says may be elsewhere when it is planned again."""

NEWEST = "segments/newest"
"""When the newest message was published of those whose manifests are cleared away: what came after it in the log tells
whether that is still the one which was read."""


def read_from(storage: Storage, topic: Topic, ingest: Ingest, broker: Broker, epoch: int) -> ReadFrom | None:
    """Where the epoch's slots begin: where those before it ended; None for a queue.

    All of the last epoch's manifests are there: Spark plans none before the last one is done, and what is cleared away
    is older. SourceError when the broker does not say where a log begins.
    """
    if not broker.is_log:
        return None
    start = _start(storage, topic, ingest, broker)
    listed = [key for key in listed_manifests(storage) if key[0] < epoch]
    manifests = [manifest for key in listed if (manifest := read_manifest(storage, *key)) is not None]
    offsets = dict(start.offsets)
    for manifest in manifests:
        if manifest.read is not None:
            offsets |= {each.partition: each.end for each in LogRead.from_text(manifest.read).ranges}
    since = newest_published(storage, manifests)
    return ReadFrom(start.log, {number: (at, at) for number, at in offsets.items()}, since)


def newest_published(storage: Storage, manifests: Iterable[Manifest]) -> datetime | None:
    """When the newest message was published of theirs and of those that are cleared away; None where there is none."""
    known = storage.read(NEWEST)
    cleared = [datetime.fromisoformat(known.decode())] if known else []
    return max([*cleared, *(file.max_publish_time for each in manifests for file in each.files)], default=None)


def _start(storage: Storage, topic: Topic, ingest: Ingest, broker: Broker) -> Positions:
    known = storage.read(START)
    if known is None:
        positions = broker.start(topic, ingest)
        assert positions is not None
        storage.put_if_absent(START, json.dumps(positions.as_json()).encode())
        known = storage.read(START) or b""
    return Positions.from_json(json.loads(known))
