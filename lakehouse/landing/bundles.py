"""A bundle: slots of many topics that one task pulls at the same time, none of which holds up another."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

import pyarrow as pa
from pyspark.sql.datasource import InputPartition

from lakehouse.config import Ingest
from lakehouse.crews import Crew
from lakehouse.decode.events import Decoded, Schemas
from lakehouse.durations import duration_text
from lakehouse.errors import LakehouseError, SlowStoreError, SourceError, unexpected
from lakehouse.landing.brokers.contract import HOLD, LONGEST_HOLD, Idle, Key, Reading, Wanted
from lakehouse.landing.facts import Row, row_of_error, row_of_idle, rows_of_slot
from lakehouse.landing.manifests import read_manifest
from lakehouse.landing.pull import Budget, Puller, Share, attempt_number
from lakehouse.landing.segments import Decoder
from lakehouse.landing.slots import Slot
from lakehouse.store.place import Place
from lakehouse.topics import Topic

SIDE_BY_SIDE = 32
"""Slots of a bundle that pull, decode and write at the same time: most of it waits for a store, or for whether a
subscription has more."""
_STRAGGLER_SECONDS = 2.0
"""How long a slot of several goes on pulling once no other ends, and then may take to be durable: the others' facts
wait with it."""
_LOOKERS = 16
"""Manifests that are looked for at the same time."""
_FIRST_MESSAGES, _LEAST_FIRST_MESSAGES = 20_000, 20
"""Asked for in the first questions of a bundle together, and at least in each: all answers may come at once, and are
held in memory until their turn. A slot of which more comes asks for full pages in its turn."""


@dataclass
class Bundle(InputPartition):
    """Slots of one epoch that a task pulls, each with its topic's name.

    `is_fresh` says that nobody has planned the epoch before: a manifest that is there is another driver's. `patience`
    is how long the task waits for a slot once all of it is pulled before it is reported as failed, None without an end;
    where it has others, too, only until these have ended, and a little longer.
    """

    slots: tuple[tuple[str, Slot], ...]
    is_fresh: bool = False
    patience: timedelta | None = None


@dataclass(frozen=True)
class Land:
    """What a task knows of the application: its topics and their raw folders, by name."""

    topic: Callable[[str], Topic]
    raw: Callable[[str], Place]
    ingest: Ingest


def pulled(bundle: Bundle, land: Land, puller: Puller, side_by_side: int = SIDE_BY_SIDE) -> list[Row]:
    """Rows of `FACTS` of every slot, with its topic; a slot that fails is a row with an error.

    With `side_by_side` 0 all is done in this thread, one slot after the other, however long it takes.
    """
    return _Pulling(bundle, land, puller, side_by_side).rows()


class _Pulling:
    """One attempt at a bundle."""

    def __init__(self, bundle: Bundle, land: Land, puller: Puller, side_by_side: int) -> None:
        self._land, self._puller, self._patience = land, puller, bundle.patience
        self._slots: dict[Key, Slot] = {(name, slot.slot): slot for name, slot in bundle.slots}
        self._attempt = attempt_number()
        self._looks_first = not bundle.is_fresh or self._attempt > 0
        self._budget = Budget(land.ingest.max_bytes)
        self._crew: Crew[Key, list[Row]] = Crew(side_by_side, "pull")
        self._pulled_at: dict[Key, float] = {}
        self._newest_end = self._over_at = math.inf
        self._decoder: Decoder | None = None
        self._answering = threading.Lock()
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        with ExitStack() as ends:
            if self._attempt > 0 or any(slot.is_suspect for slot in self._slots.values()):
                self._decoder = _OneAtATime(ends.enter_context(self._puller.quarantine()))
            known = self._slots_with_manifest() if self._looks_first else []
            for key in known:
                self._begin(key, self._share())
            asked = [key for key in self._slots if key not in known]
            if len(asked) == 1:  # nobody waits for it, and its pulls can go ahead of each other
                self._begin(asked[0], self._share())
            else:
                self._ask(asked)
            self._wait()
        return self._rows

    def _slots_with_manifest(self) -> list[Key]:
        """Also those of which it cannot be read whether they have one: that is found again where it is reported."""

        def has_manifest(key: Key) -> bool:
            slot = self._slots[key]
            try:
                return read_manifest(self._land.raw(key[0]).files(), slot.epoch, slot.slot) is not None
            except Exception:
                return True

        with ThreadPoolExecutor(min(_LOOKERS, len(self._slots))) as lookers:
            return [
                key for key, found in zip(self._slots, lookers.map(has_manifest, self._slots), strict=True) if found
            ]

    def _ask(self, keys: Sequence[Key]) -> None:
        """Each broker for its own slots, all at the same time."""
        kinds: dict[str, dict[Key, Wanted]] = {}
        for key in keys:
            topic = self._land.topic(key[0])
            kinds.setdefault(topic.reads.kind, {})[key] = Wanted(topic, self._slots[key], self._is_given_up)
        if len(kinds) <= 1:
            for kind, wanted in kinds.items():
                self._ask_broker(kind, wanted)
            return
        with ThreadPoolExecutor(len(kinds)) as askers:
            for _ in askers.map(self._ask_broker, kinds, kinds.values()):
                pass

    def _ask_broker(self, kind: str, wanted: Mapping[Key, Wanted]) -> None:
        each = max(_FIRST_MESSAGES // max(len(wanted), 1), _LEAST_FIRST_MESSAGES)
        messages = min(self._puller.page_messages, self._land.ingest.max_messages, each)
        try:
            broker = self._puller.broker(kind)
        except LakehouseError as missing:  # its package
            for key in wanted:
                self._add(key, [row_of_error(self._slots[key], self._puller.clock(), missing, self._attempt)])
            return
        for key, answer in broker.readings(wanted, self._land.ingest, self._puller.clock, messages):
            with self._answering:
                self._answer(key, answer)

    def _answer(self, key: Key, answer: Reading | Idle | SourceError) -> None:
        slot, now = self._slots[key], self._puller.clock()
        if isinstance(answer, SourceError):
            self._add(key, [row_of_error(slot, now, answer, self._attempt)])
        elif isinstance(answer, Idle):
            read = answer.read.as_text() if answer.read else None
            self._add(key, [row_of_idle(slot, now, answer.drained_at, answer.unanswered_at, self._attempt, read)])
        else:
            self._begin(key, self._share(answer))

    def _share(self, reading: Reading | None = None) -> Share:
        return Share(
            self._budget,
            reading,
            self._decoder,
            self._attempt,
            looks_first=self._looks_first,
            keeps_empty=False,
            is_awaited=self._others_wait,
            is_given_up=self._is_given_up,
        )

    def _begin(self, key: Key, share: Share) -> None:
        """What was pulled stays leased, also while it waits for its turn."""
        topic, slot = self._land.topic(key[0]), self._slots[key]

        def work() -> list[Row]:
            try:
                storage = self._land.raw(topic.name).files()
                given = replace(share, on_pulled=lambda: self._note_pulled(key))
                return rows_of_slot(
                    list(self._puller.parts(topic, self._land.ingest, storage, slot, lambda: None, given))
                )
            except MemoryError:
                raise
            except Exception as error:
                ours = unexpected(self._land.raw(topic.name).uri, error)
                return [row_of_error(slot, self._puller.clock(), ours, self._attempt)]
            finally:
                if share.reading is not None:
                    share.reading.close()

        self._crew.begin(key, work)

    def _others_wait(self) -> bool:
        return len(self._slots) > 1 and time.monotonic() > self._newest_end + _STRAGGLER_SECONDS

    def _is_given_up(self) -> bool:
        return time.monotonic() > self._over_at + HOLD.total_seconds()

    def _note_pulled(self, key: Key) -> None:
        self._pulled_at[key] = time.monotonic()

    def _waited_until(self, key: Key, began: float) -> float:
        """Pulling takes its time, however fast the store is."""
        pulled_at = self._pulled_at.get(key, began + self._land.ingest.max_pull.total_seconds())
        until = pulled_at + (self._patience or timedelta.max).total_seconds()
        if self._patience is None or len(self._slots) == 1:
            return until
        return min(until, max(pulled_at, self._newest_end) + _STRAGGLER_SECONDS)

    def _wait(self) -> None:
        self._newest_end = time.monotonic()
        for key, rows in self._crew.results(self._waited_until):
            self._newest_end = time.monotonic()
            self._add(key, rows)
        self._over_at = time.monotonic()
        now = self._puller.clock()
        for key in self._crew.busy:
            waited = self._over_at - self._pulled_at.get(key, self._newest_end)
            late = _late(self._land.raw(key[0]), timedelta(seconds=round(waited)))
            self._add(key, [row_of_error(self._slots[key], now, late, self._attempt, now + LONGEST_HOLD)])

    def _add(self, key: Key, rows: Sequence[Row]) -> None:
        self._rows += [{**row, "topic": key[0], "slots": self._slots[key].of} for row in rows]


class _OneAtATime:
    """A decoder for several threads of one that is not."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._lock = decoder, threading.Lock()

    def __call__(self, messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None) -> Decoded:
        with self._lock:
            return self._decoder(messages, topic, schemas)


def _late(raw: Place, patience: timedelta) -> SlowStoreError:
    return SlowStoreError(
        raw.uri,
        found=f"a segment that was not durable after {duration_text(patience)}",
        expected="a store that answers",
        next_step="It is tried again by itself, and nothing is lost; see how long requests to that store take.",
    )
