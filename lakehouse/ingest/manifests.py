"""Manifests that no commit took are adopted; those whose files are long in the log are cleared away."""

from __future__ import annotations

from collections.abc import Iterable

from lakehouse import failpoints
from lakehouse.ingest.facts import Fact, segments_of, with_files
from lakehouse.landing.manifests import listed_manifests, read_manifest, stored_manifests
from lakehouse.landing.source import facts as facts_of
from lakehouse.store import bronze_log
from lakehouse.store.bronze_log import Bronze, Segment
from lakehouse.store.files import Storage

SWEEP_EVERY = 20
"""Batches between two looks at the manifests."""


class Manifests:
    """A topic's manifests, as one run of ingest sees to them: at every `sweep_every`th batch, the first included."""

    def __init__(self, storage: Storage, sweep_every: int = SWEEP_EVERY) -> None:
        self._storage, self._sweep_every = storage, sweep_every
        self._batches = 0
        self._settled: set[Segment] = set()

    def adoptable(self, bronze: Bronze, epoch: int, facts: Iterable[Fact]) -> list[Fact]:
        """Facts of segments up to `epoch` that some driver made durable and no commit took; none between sweeps."""
        if self._batches % self._sweep_every != 0:
            return []
        mine = {(fact["epoch"], fact["slot"]) for fact in facts}
        candidates = [key for key in listed_manifests(self._storage) if key not in mine and key[0] <= epoch]
        return self._left_out(bronze, candidates) if candidates else []

    def batch_done(self, bronze: Bronze, epoch: int, facts: Iterable[Fact]) -> None:
        """The log has these facts. From time to time: remove manifests of epochs that Spark cannot plan again."""
        self._settled |= segments_of(facts)
        self._batches += 1
        if self._batches % self._sweep_every == 0:
            self._clear(bronze, epoch)

    def _clear(self, bronze: Bronze, epoch: int) -> None:
        past = {key: stored for key, stored in stored_manifests(self._storage).items() if key[0] < epoch - 1}
        waiting = {(fact["epoch"], fact["slot"]) for fact in self._left_out(bronze, sorted(past))}
        for key, stored in sorted(past.items()):
            if key not in waiting:
                self._storage.delete_as_listed(stored)
                failpoints.reach("ingest.manifests_half_cleared")
        self._settled = {segment for segment in self._settled if segment >= f"{epoch - 1:012d}"}

    def _left_out(self, bronze: Bronze, keys: list[tuple[int, int]]) -> list[Fact]:
        manifests = [read_manifest(self._storage, *key) for key in keys]
        found = [fact for manifest in manifests if manifest for fact in facts_of(manifest).to_pylist()]
        unsettled = [fact for fact in with_files(found) if not segments_of([fact]) <= self._settled]
        if not unsettled:
            return []
        known = bronze_log.segments_in_log(bronze, min(fact["epoch"] for fact in unsettled))
        return [fact for fact in unsettled if not segments_of([fact]) <= known]
