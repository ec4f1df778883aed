"""Rows of sealed hours that are erased: the hour gets a new revision without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse import hours
from lakehouse.checksum import id_checksum
from lakehouse.hours import Hour
from lakehouse.operations.as_of import in_parallel
from lakehouse.operations.erasure.fence import Claim
from lakehouse.operations.erasure.leftovers import (
    ERASED_STEM,
    older_reports,
    silver_leftovers,
    stem_of,
    unrecorded_revisions,
)
from lakehouse.operations.erasure.order import Order
from lakehouse.operations.erasure.rows import Event, Match, batches, events_of, with_hour
from lakehouse.seal.copying import Copied, write_silver
from lakehouse.seal.stage import app_of, digests_of, newest_seal
from lakehouse.store import parquet
from lakehouse.store.delta import DataFile, commit, files, files_of_hour
from lakehouse.store.holds import holds_for
from lakehouse.store.ledger import Ledger
from lakehouse.store.records import PreviousSeal, Sealed
from lakehouse.store.silver_log import SEAL
from lakehouse.store.table_log import ConflictError
from lakehouse.store.tables import TopicTables


@dataclass(frozen=True)
class ErasedHour:
    """A sealed hour that held such rows. `revision` is the one that it has now, or with a dry run would have."""

    hour: Hour
    revision: int
    erased: int
    rows: int


class SilverErasure:
    """Rows of sealed hours: an hour that held some gets a new revision, in one commit."""

    def __init__(self, tables: TopicTables, ledger: Ledger, order: Order) -> None:
        self._tables, self._topic, self._ledger, self._order = tables, tables.topic, ledger, order
        self._storage = tables.sealed.files()
        self._holds = holds_for(tables.settings, tables.sealed.uri)
        self._claim = Claim(tables.topic)
        self.deleted: list[str] = []

    def claim(self) -> None:
        self._claim.take(self._tables.silver(), self._order.release)

    def finish(self) -> None:
        """A crash can come at each step: a revision without its ledger row, replaced files and reports still there.

        And what a seal that died left in the folder of an hour that is erased.
        """
        silver = self._tables.silver()
        for hour in unrecorded_revisions(silver, self._ledger.history()):
            version, manifest = newest_seal(silver, hour)
            if self._holds is not None:
                self._holds.put(f"silver/{file.path}" for file in files_of_hour(silver, hour))
            self._record(hour, Sealed.from_json({**manifest, "silver_version": version}))
        leftover = silver_leftovers(self._tables.silver(), self._storage, self._ledger.history().erased_hours())
        if self._holds is not None:
            self._holds.lift(leftover)
        self._delete([*leftover, *older_reports(self._storage, self._ledger.history())])

    def matches(self) -> dict[Hour, list[Match]]:
        found: dict[Hour, list[Match]] = defaultdict(list)
        for match in in_parallel(self._match, files(self._tables.silver())):
            if match.count and match.file.hour:
                found[match.file.hour].append(match)
        return dict(found)

    def _match(self, file: DataFile) -> Match:
        wanted = dict.fromkeys([*self._order.condition.columns, "event_id", "event_time"])
        count = skewed = 0
        events: list[Event] = []
        event_ids: list[str] = []
        start = pa.scalar(hours.start_of(str(file.hour)))
        for batch in batches(self._storage, f"silver/{file.path}", [name for name in wanted if name != "hour"]):
            matching = with_hour(batch, file).filter(self._mask(batch, file))
            count += len(matching)
            events += events_of(matching, self._topic)
            event_ids += matching["event_id"].to_pylist()
            skewed += pc.sum(pc.less(matching["event_time"], start)).as_py() or 0
        return Match(file, count, skewed, tuple(events), tuple(event_ids))

    def _mask(self, batch: pa.RecordBatch, file: DataFile) -> pa.ChunkedArray:
        return self._order.condition.mask(with_hour(batch, file))

    def would_be(self, hour: Hour, matches: Sequence[Match]) -> ErasedHour:
        erased = sum(match.count for match in matches)
        rows = sum(file.rows for file in files_of_hour(self._tables.silver(), hour))
        return ErasedHour(hour, self._ledger.history().revision(hour) + 1, erased, rows - erased)

    def seal_again(self, hour: Hour, matches: Sequence[Match]) -> ErasedHour:
        """The hour's next revision: the files that held such rows are replaced, the others stay."""
        silver = self._tables.silver()
        claim = self._claim.transactions(silver)
        old = self._ledger.history().seal_of(hour)
        if old is None:
            raise ValueError(f"{hour} of {self._topic.name} is not sealed")
        revision = old.revision + 1
        rewritten = [copied for match in matches if (copied := self._without(match, revision)) is not None]
        sealed = self._revision(old, matches, rewritten, len(files_of_hour(silver, hour)))
        manifest = sealed.as_json() | {"kind": SEAL, "hour": hour}
        del manifest["silver_version"]
        try:
            version = commit(
                silver,
                [copied.as_data_file(hour) for copied in rewritten],
                metadata=manifest,
                transactions={app_of(hour): revision, **claim},
                removed=[match.file for match in matches],
            )
        except ConflictError as conflict:
            raise self._claim.lost() from conflict
        replaced = [f"silver/{match.file.path}" for match in matches]
        if self._holds is not None:
            self._holds.put(f"silver/{copied.path}" for copied in rewritten)
            self._holds.lift(replaced)
        self._record(hour, replace(sealed, silver_version=version))
        self._delete([*replaced, *older_reports(self._storage, self._ledger.history())])
        return ErasedHour(hour, revision, sum(match.count for match in matches), sealed.rows)

    def _without(self, match: Match, revision: int) -> Copied | None:
        """The file's other rows in a new file, with all columns that it has; None when there are none."""
        file = match.file
        if match.count == file.rows:
            return None
        with parquet.LakeFile(self._storage, f"silver/{file.path}") as opened:
            schema = opened.schema_arrow
        rows = batches(self._storage, f"silver/{file.path}", None)
        kept = (batch.filter(pc.invert(self._mask(batch, file)).combine_chunks()) for batch in rows)
        stem = f"{ERASED_STEM.sub('', stem_of(file.path)) or 'part'}-e{revision}"
        return write_silver(self._storage, stem, str(file.hour), kept, schema)

    def _revision(
        self, old: Sealed, matches: Sequence[Match], rewritten: Sequence[Copied], files_before: int
    ) -> Sealed:
        """The new seal; its `silver_version` is known once it is committed."""
        replaced = {match.file.path.rpartition("/")[2] for match in matches}
        kept = [str(each) for name, each in old.digest_by_name.items() if name not in replaced]
        erased = sum(match.count for match in matches)
        ids = pa.array([event_id for match in matches for event_id in match.event_ids], pa.string())
        evidence = {key: getattr(old, key) for key in PreviousSeal.__dataclass_fields__}
        return replace(
            old,
            silver_version=0,
            revision=old.revision + 1,
            release=self._order.release,
            rows=old.rows - erased,
            skewed=old.skewed - sum(match.skewed for match in matches),
            files=files_before - len(matches) + len(rewritten),
            digests=tuple(sorted([*kept, *digests_of(rewritten)])) or (() if old.digests else None),
            id_checksum=old.id_checksum - id_checksum(ids),
            seconds=None,
            erased=(old.erased or 0) + erased,
            reason=self._order.reason,
            requested_by=self._order.by,
            previous=PreviousSeal(**evidence),
        )

    def _record(self, hour: Hour, sealed: Sealed) -> None:
        self._ledger.record(sealed, hour, unless=lambda history: history.revision(hour) >= sealed.revision)

    def _delete(self, paths: list[str]) -> None:
        self._storage.delete(paths)
        self.deleted += paths
