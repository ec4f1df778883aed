"""`option("read", "messages")`: a topic's messages as rows, for a query that does not want the lake.

    messages = (
        spark.readStream.format("pubsub")
        .option("read", "messages")
        .option("topic", "conf/topics/plays.yaml")     # source, declared fields and slots, as for the lake
        .option("segments", "gs://bucket/plays")       # a folder of this query's own
        .load()
    )
    sink = messages.writeStream.format("delta").option("checkpointLocation", "gs://bucket/plays/checkpoint")
    sink.trigger(processingTime="10 seconds").start("gs://bucket/plays/table")

`lakehouse.PubSubSource` has to be registered first: `spark.dataSource.register(PubSubSource)`. Rows have
bronze's columns without `hour`. Give a trigger: each one is an epoch, also when there is nothing to read.
`max_messages`, `max_bytes`, `max_pull` and `empty_after` may be given as in `conf/`, and `storage` with delta-rs'
options as JSON.

The guarantees are the lake's: an epoch is a set of files, durable and named by a manifest before anything is
acknowledged, so a batch that comes again has the same rows. With a sink that skips batches it has seen, such as
Delta's, each delivery is in the table once. Files are kept until Spark has committed the batch after theirs. Without
its checkpoint a query starts with the segments that are still there: some may come twice, none is lost. With a
checkpoint older than what was cleared away it is refused: its sink would skip new messages as old ones.

Of a log (Kafka, Pub/Sub Lite) the segments say up to where it was read, and it goes on there; the first epoch begins at
the source's `start`. Where messages are gone before they were read, or the log is another one of the same name, the
query ends with an error that says so: another folder with a new checkpoint begins at `start` again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.config import FORMER_KEYS, Ingest, topic_of
from lakehouse.errors import SourceError
from lakehouse.landing.manifests import PART_STRIDE, Manifest, listed_manifests, manifest_path, read_manifest
from lakehouse.landing.message_log import NEWEST, newest_published
from lakehouse.schemas import segment_schema
from lakehouse.sources import LogSource
from lakehouse.store.files import Storage
from lakehouse.store.place import Place
from lakehouse.topics import Topic

OWNER = "segments/owner"
"""Whose folder it is: the subscription."""
CLEARED = "segments/cleared"
"""The last epoch whose files may be gone; written before the first of them goes."""


def topic_named(options: Mapping[str, str]) -> Topic:
    """The option `topic`: a file such as `conf/topics/plays.yaml`, or the topic itself as JSON."""
    text = _option(options, "topic", "the topic's file, such as conf/topics/plays.yaml")
    return Topic.from_json(text) if text.lstrip().startswith("{") else topic_of(Path(text))


def source_options_of(options: Mapping[str, str]) -> dict[str, str]:
    """What the source works with, from what a person writes."""
    bounds = {key: options[key] for key in (*Ingest.model_fields, *FORMER_KEYS) if key in options}
    return {
        "read": "messages",
        "topic": topic_named(options).as_json(),
        "raw": _option(options, "segments", "a folder or gs:// address of this query's own").rstrip("/"),
        "ingest": Ingest.model_validate(bounds).model_dump_json(),
        "storage": options.get("storage", "{}"),
    }


class Segments:
    """The segments below one folder, of which a query's checkpoint is the only log."""

    def __init__(self, place: Place, topic: Topic) -> None:
        self._place, self._topic = place, topic
        self._is_own = False

    @cached_property
    def _storage(self) -> Storage:
        return self._place.files()

    def check_own(self) -> None:
        """SourceError when the folder belongs to a lake, or to a query of another subscription.

        What Spark has committed is removed here: files of a lake's bronze, were they in this folder.
        """
        if self._is_own:
            return
        here = _without_links(self._place)
        above, lake = Place(here.uri.rpartition("/")[0], here.options), here.below(self._topic.name)
        for place in (here, here.below("bronze"), above, above.below("bronze"), lake.below("bronze")):
            if place.has_table():
                raise self._not_own(f"a folder of a lake: there is a table at {place.uri}")
        mine = self._topic.reads.address.encode()
        self._storage.put_if_absent(OWNER, mine)
        if (owner := self._storage.read(OWNER)) not in (mine, None):
            raise self._not_own(f"the segments of {owner.decode(errors='replace')}")
        self._is_own = True

    def _not_own(self, found: str) -> SourceError:
        return SourceError(
            self._place.uri,
            found=found,
            expected="a folder of this query's own, from which it may remove files",
            next_step='Give another folder with .option("segments", …).',
        )

    def first(self) -> int:
        """The epoch before the first that was not cleared away; 0 when there was none."""
        return min((epoch for epoch, _ in listed_manifests(self._storage)), default=self._cleared_through() + 1) - 1

    def slots_of(self, epoch: int) -> int:
        """How many slots an epoch has that was pulled before, by a query that lost its checkpoint."""
        return max(
            (slot + 1 for listed, slot in listed_manifests(self._storage) if listed == epoch and slot < PART_STRIDE),
            default=0,
        )

    def check(self, epoch: int) -> None:
        """SourceError when an epoch without a manifest is one that was delivered long ago.

        Asked again before anything is acknowledged: an attempt that was thought dead may wake after its epoch was
        delivered from another one's segment and cleared away, and nobody would ever read what it brings.
        """
        if epoch <= self._cleared_through():
            raise SourceError(
                self._place.uri,
                found=f"a checkpoint that plans epoch {epoch}, whose files were delivered and cleared away",
                expected=f"an epoch after {self._cleared_through()}",
                next_step="Start with a new checkpoint: what is still there comes first, then what is new.",
            )

    def rows(self, manifest: Manifest) -> Iterator[pa.RecordBatch]:
        schema = segment_schema(self._topic)
        for file in manifest.files:
            with pq.ParquetFile(self._storage.open(f"bronze/{file.path}")) as opened:
                for batch in opened.iter_batches():
                    present = set(batch.schema.names)
                    columns = [
                        batch.column(field.name).cast(field.type)
                        if field.name in present  # an older release wrote fewer
                        else pa.nulls(len(batch), field.type)
                        for field in schema
                    ]
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def clear(self, epoch: int) -> None:
        """Remove what Spark cannot plan again: everything before `epoch`, which it has committed."""
        past = [key for key in listed_manifests(self._storage) if key[0] < epoch]
        if not past:
            return
        manifests = [manifest for key in past if (manifest := read_manifest(self._storage, *key)) is not None]
        self._storage.write(CLEARED, str(max(max(past)[0], self._cleared_through())).encode())
        if isinstance(self._topic.reads, LogSource) and any(each.files for each in manifests):
            newest = newest_published(self._storage, manifests)
            self._storage.write(NEWEST, str(newest).encode())
        for manifest in manifests:
            self._storage.delete([manifest_path(manifest.epoch, manifest.slot)])
            self._storage.delete(f"bronze/{file.path}" for file in manifest.files)

    def _cleared_through(self) -> int:
        return int(self._storage.read(CLEARED) or 0)


def _without_links(place: Place) -> Place:
    """Where it really is: a link on a local disk may lead into a lake."""
    address = urlsplit(place.uri)
    if address.scheme not in ("", "file"):
        return place
    return Place(os.path.realpath(address.path if address.scheme else place.uri), place.options)


def _option(options: Mapping[str, str], key: str, expected: str) -> str:
    if key not in options:
        raise SourceError(
            'format("pubsub") with option("read", "messages")',
            found=f"no option {key!r}",
            expected=expected,
            next_step="Give it with .option(…); see lakehouse/landing/messages.py.",
        )
    return str(options[key])
