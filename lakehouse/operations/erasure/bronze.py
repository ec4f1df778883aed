"""Deliveries that are erased: the files that held some are replaced."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.operations.as_of import in_parallel
from lakehouse.operations.erasure.fence import Claim
from lakehouse.operations.erasure.leftovers import ERASED_FOLDER, bronze_leftovers
from lakehouse.operations.erasure.order import ERASE, Order
from lakehouse.operations.erasure.rows import Event, Match, batches, events_of, with_hour
from lakehouse.progress import IngestState
from lakehouse.schemas import sealed_schema
from lakehouse.seal.copying import sealed_columns
from lakehouse.store import bronze_log, parquet
from lakehouse.store.delta import Conflicts, DataFile, event_time_stats, files
from lakehouse.store.ledger import Ledger
from lakehouse.store.table_log import ConflictError
from lakehouse.store.tables import TopicTables

_REJECTED_COLUMNS = {"event_id", "message_id", "publish_time"}
"""What a rejected delivery has of silver's columns."""


class BronzeErasure:
    """Deliveries: the files that held some are replaced in one commit, which no close of an hour can slip past."""

    def __init__(self, tables: TopicTables, ledger: Ledger, order: Order) -> None:
        self._tables, self._topic, self._ledger, self._order = tables, tables.topic, ledger, order
        self._storage = tables.raw.files()
        self._claim = Claim(tables.topic)
        self.deleted: list[str] = []

    def check_sealed(self, bronze: DeltaTable) -> None:
        """A closed hour is sealed from the files that it closed with: these must not change before.

        A crash may come between the commit that closes an hour and its row in the ledger, so the log is asked, too.
        """
        history = self._ledger.digest()
        due = history.due_to_seal()
        if due:
            raise LakeError(
                f"topic {self._topic.name}",
                found=f"{len(due)} closed hours without a seal, the oldest {due[0]}",
                expected="every closed hour sealed",
                next_step="Run the seal stage first, then erase again.",
            )
        if closes := bronze_log.closes_since(bronze, history.closed_through() or ""):
            raise LakeError(
                f"topic {self._topic.name}",
                found=f"{len(closes)} hours that have just closed, the oldest {closes[0][1]['hour']}",
                expected="every close in the ledger, and its hour sealed",
                next_step="Let ingest of the topic run, which records them, and the seal stage; then erase again.",
            )

    def claim(self) -> None:
        self._claim.take(self._tables.bronze(), self._order.release)

    def finish(self) -> None:
        """Files that an erasure took out of the table, or never committed, are deleted; and what was compacted."""
        self._delete(bronze_leftovers(self._tables.bronze(), self._storage))

    def matches(self, events: set[Event]) -> list[Match]:
        """By the condition, and every other delivery of these events."""
        found = in_parallel(partial(self._match, events), files(self._tables.bronze()))
        return [match for match in found if match.count]

    def rewrite(self, events: set[Event]) -> int:
        """One commit; gives how many deliveries it took away."""
        conflicts = Conflicts(f"{self._tables.raw.uri}/bronze")
        while matches := self.matches(events):
            table = self._tables.bronze()
            claim = self._claim.transactions(table)
            self.check_sealed(table)
            rewritten = [file for match in matches if (file := self._without(match, events))]
            count = sum(match.count for match in matches)
            metadata = {
                "kind": ERASE,
                "deliveries": count,
                "reason": self._order.reason,
                "release": self._order.release,
            }
            removed = [match.file for match in matches]
            try:
                bronze_log.commit_change(
                    table,
                    added=rewritten,
                    removed=removed,
                    metadata=metadata,
                    transactions=claim,
                    state=_without(bronze_log.newest_state(table), matches),
                )
            except ConflictError as conflict:
                self._storage.delete(f"bronze/{file.path}" for file in rewritten)
                conflicts.meet(conflict)
                continue
            self._delete([f"bronze/{file.path}" for file in removed])
            return count
        return 0

    def _match(self, events: set[Event], file: DataFile) -> Match:
        columns = ["event_id", "message_id", "publish_time", "event_time"]
        columns += ["event"] if file.hour is not None else []
        parts = batches(self._storage, f"bronze/{file.path}", columns)
        return Match(file, sum(pc.sum(self._mask(batch, file, events)).as_py() or 0 for batch in parts))

    def _mask(self, batch: pa.RecordBatch, file: DataFile, events: set[Event]) -> pa.Array:
        is_known = self._is_delivery_of(batch, events)
        condition = self._order.condition
        if file.hour is None:
            if not set(condition.columns) <= _REJECTED_COLUMNS:
                return is_known
            rows = batch.select(sorted(_REJECTED_COLUMNS))
        else:
            rows = sealed_columns(batch, sealed_schema(self._topic))
        return pc.or_(condition.mask(with_hour(rows, file)).combine_chunks(), is_known)

    def _is_delivery_of(self, batch: pa.RecordBatch, events: set[Event]) -> pa.Array:
        """Whether each row is a delivery of one of the events; of a rejected one only the id is known, so it is not."""
        ids = pa.array(sorted({event[0] for event in events}), pa.string())
        mask = pc.is_in(batch.column("event_id"), value_set=ids)
        if not pc.any(mask).as_py():
            return mask
        found = events_of(pa.Table.from_batches([batch]), self._topic)
        times = batch.column("event_time").is_valid().to_pylist()
        return pa.array(
            [is_event and event in events for is_event, event in zip(times, found, strict=True)], pa.bool_()
        )

    def _without(self, match: Match, events: set[Event]) -> DataFile | None:
        """The file's other rows under the same segment's name, in a folder of this erasure's own."""
        file = match.file
        if match.count == file.rows:
            return None
        path = f"{ERASED_FOLDER}{uuid.uuid4().hex[:8]}/{file.path}"
        rows = 0
        times: list[Any] = []
        with parquet.LakeFile(self._storage, f"bronze/{file.path}") as opened:
            schema = opened.schema_arrow
            with self._storage.create(f"bronze/{path}") as sink:
                with pq.ParquetWriter(sink, schema, **parquet.options(schema)) as writer:
                    for batch in opened.iter_batches():
                        kept = batch.filter(pc.invert(self._mask(batch, file, events)))
                        writer.write_batch(kept)
                        rows += len(kept)
                        times += pc.min_max(kept.column("event_time")).values() if len(kept) else []
                size_bytes = sink.tell()
        self._storage.finish([f"bronze/{path}"])
        known = [time.as_py() for time in times if time.is_valid]
        stats = event_time_stats(min(known, default=None), max(known, default=None))
        return replace(file, path=path, rows=rows, size_bytes=size_bytes, stats=stats)

    def _delete(self, paths: list[str]) -> None:
        self._storage.delete(paths)
        self.deleted += paths


def _without(state: IngestState, matches: Iterable[Match]) -> IngestState:
    """An open hour says how many rows it has: what is erased is none of them."""
    erased: Counter[Hour | None] = Counter()
    for match in matches:
        erased[match.file.hour] += match.count
    open_hours = {hour: replace(held, rows=held.rows - erased[hour]) for hour, held in state.hours.items()}
    return replace(state, hours=open_hours)
