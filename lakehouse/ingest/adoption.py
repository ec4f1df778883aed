"""Manifests that no commit took are adopted; those whose files are long in the log are cleared away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from lakehouse import failpoints
from lakehouse.ingest.facts import Fact, segments_of, with_files
from lakehouse.ingest.positions import is_past
from lakehouse.landing.facts import rows_of
from lakehouse.landing.manifests import listed_manifests, read_manifest, stored_manifests
from lakehouse.progress import Positions
from lakehouse.store import bronze_log
from lakehouse.store.bronze_log import Bronze, Segment
from lakehouse.store.files import Storage

SWEEP_EVERY = 20
"""Batches that commit between two looks at the manifests."""
IDLE_SWEEP = timedelta(hours=1)
"""The same for a topic to which nothing comes: what an attempt that was thought dead leaves there waits no longer."""

_READERS = 16


class Manifests:
    """A topic's manifests, as one run of ingest sees to them: at its first batch, and then every `sweep_every`th."""

    def __init__(self, storage: Storage, sweep_every: int = SWEEP_EVERY) -> None:
        self._storage, self._sweep_every = storage, sweep_every
        self._batches = 0
        self._is_demanded = False
        self._swept_at: datetime | None = None
        self._settled: set[Segment] = set()
        self._settled_keys: set[tuple[int, int]] = set()
        """(epoch, slot) of these segments' manifests, which are never changed: they need not be read."""
        self.positions: Positions | None = None
        """Of the log that is read, see `lakehouse.ingest.positions`: what is past them is waited for no longer."""

    def last_epoch(self) -> int:
        """Of the manifests that are there; 0 without any."""
        return max((epoch for epoch, _ in listed_manifests(self._storage)), default=0)

    def demand_sweep(self) -> None:
        """With the next batch: something may have been left out, or an hour is about to close."""
        self._is_demanded = True

    def is_sweep_due(self, now: datetime) -> bool:
        """Whether the next batch is one that looks."""
        return self._is_demanded or self._batches % self._sweep_every == 0 or self._is_long_ago(now)

    def adoptable(self, bronze: Bronze, epoch: int, facts: Iterable[Fact], now: datetime) -> list[Fact]:
        """Facts of segments up to `epoch` that some driver made durable and no commit took; none between sweeps."""
        if not self.is_sweep_due(now):
            return []
        mine = {(fact["epoch"], fact["slot"]) for fact in with_files(facts)}
        candidates = [key for key in listed_manifests(self._storage) if key not in mine and key[0] <= epoch]
        return self._left_out(bronze, candidates) if candidates else []

    def batch_done(self, bronze: Bronze, epoch: int, facts: Sequence[Fact], now: datetime) -> None:
        """The log has these facts. From time to time: remove manifests of epochs that Spark cannot plan again."""
        self._settled |= segments_of(facts)
        self._settled_keys |= {(fact["epoch"], fact["slot"]) for fact in with_files(facts)}
        is_clearing = self._is_long_ago(now)
        if self._swept_at is None or self.is_sweep_due(now):
            self._swept_at, self._is_demanded = now, False
        self._batches += 1
        if is_clearing or self._batches % self._sweep_every == 0:
            self._clear(bronze, epoch)

    def _is_long_ago(self, now: datetime) -> bool:
        return self._swept_at is not None and now - self._swept_at >= IDLE_SWEEP

    def _clear(self, bronze: Bronze, epoch: int) -> None:
        past = {key: stored for key, stored in stored_manifests(self._storage).items() if key[0] < epoch - 1}
        waiting = {(fact["epoch"], fact["slot"]) for fact in self._left_out(bronze, sorted(past))}
        cleared = [stored for key, stored in sorted(past.items()) if key not in waiting]
        middle = (len(cleared) + 1) // 2
        for some in filter(None, (cleared[:middle], cleared[middle:])):
            self._storage.delete_as_listed(some)
            failpoints.reach("ingest.manifests_half_cleared")
        self._settled = {segment for segment in self._settled if segment >= f"{epoch - 1:012d}"}
        self._settled_keys = {key for key in self._settled_keys if key[0] >= epoch - 1}

    def _left_out(self, bronze: Bronze, keys: list[tuple[int, int]]) -> list[Fact]:
        unknown = [key for key in keys if key not in self._settled_keys]
        with ThreadPoolExecutor(_READERS) as readers:
            manifests = list(readers.map(lambda key: read_manifest(self._storage, *key), unknown))
        found = [fact for manifest in manifests if manifest for fact in rows_of(manifest)]
        found = [fact for fact in with_files(found) if not is_past(fact, self.positions)]
        unsettled = [fact for fact in found if not segments_of([fact]) <= self._settled]
        if not unsettled:
            return []
        known = bronze_log.segments_in_log(bronze, min(fact["epoch"] for fact in unsettled))
        return [fact for fact in unsettled if not segments_of([fact]) <= known]
