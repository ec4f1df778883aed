"""Where a person's own query (`option("read", "messages")`) is in a log: its manifests say it, and nothing else."""

from __future__ import annotations

import json

from lakehouse.config import Ingest
from lakehouse.landing.brokers.contract import Broker
from lakehouse.landing.manifests import listed_manifests, read_manifest
from lakehouse.progress import LogRead, Positions, ReadFrom
from lakehouse.store.files import Storage
from lakehouse.topics import Topic

START = "segments/start"
"""Where the first epoch of all begins: what `start` says may be elsewhere when it is planned again."""


def read_from(storage: Storage, topic: Topic, ingest: Ingest, broker: Broker, epoch: int) -> ReadFrom | None:
    """Where the epoch's slots begin: where those before it ended; None for a queue.

    All of the last epoch's manifests are there: Spark plans none before the last one is done, and what is cleared away
    is older. SourceError when the broker does not say where a log begins.
    """
    if not broker.is_log:
        return None
    start = _start(storage, topic, ingest, broker)
    offsets = dict(start.offsets)
    for before, slot in listed_manifests(storage):
        manifest = read_manifest(storage, before, slot) if before < epoch else None
        if manifest is not None and manifest.read is not None:
            offsets |= {each.partition: each.end for each in LogRead.from_text(manifest.read).ranges}
    return ReadFrom(start.log, {number: (at, at) for number, at in offsets.items()})


def _start(storage: Storage, topic: Topic, ingest: Ingest, broker: Broker) -> Positions:
    known = storage.read(START)
    if known is None:
        positions = broker.start(topic, ingest)
        assert positions is not None
        storage.put_if_absent(START, json.dumps(positions.as_json()).encode())
        known = storage.read(START) or b""
    return Positions.from_json(json.loads(known))
