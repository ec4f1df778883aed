"""Spark's part, played in one process: what it does with the source and with `foreachBatch`, and its two logs.

A death is an exception that nothing catches; the run is abandoned there, without any clean-up, and its leases end by
the broker's clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse.crash.checkpoints import Log
from lakehouse.crash.world import ACK_DEADLINE, World
from lakehouse.crews import Crew
from lakehouse.errors import LakeError, StaleDriverError, UnexpectedError
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.checkpoint import FOLDER, set_aside_if_damaged
from lakehouse.ingest.commits import Outcome
from lakehouse.ingest.facts import Fact
from lakehouse.ingest.frontier import FrontierSource
from lakehouse.ingest.parking import Pace
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.bundles import Bundle
from lakehouse.landing.source import FactStream
from lakehouse.progress import Frontier
from lakehouse.schemas import FACTS
from lakehouse.store.files import storage_for
from lakehouse.topics import Topic

_AT_ONCE = Pace(first_pause=timedelta(0), longest_pause=timedelta(0))


class Death(BaseException):
    """SIGKILL, as far as one process can play it."""


class Driver:
    """One life of an application's ingest query: the checkpoint's two logs, and what Spark calls between them.

    Its slots are bundled at random, also when they are planned again. Where `only_tasks_die`, a death of a task is
    followed by another attempt at its bundle, as Spark starts it.
    """

    def __init__(
        self, world: World, topics: Sequence[Topic], checkpoint: Path, run: str, chance: random.Random
    ) -> None:
        bounds = world.config.settings.ingest.model_copy(update={"max_messages": chance.choice([3, 8, 50])})
        settings = world.config.settings.model_copy(update={"ingest": bounds})
        config = replace(world.config, settings=settings, topics={topic.name: topic for topic in topics})
        self._world, self._checkpoint, self.run, self._chance = world, checkpoint, run, chance
        self.frontiers = {
            topic.name: _Remembered(world.frontier(topic.name, partial(self._reached, topic.name))) for topic in topics
        }
        self._ingests = [
            _Ingest(
                topic,
                config,
                run=run,
                clock=lambda: world.now,
                frontier=self.frontiers[topic.name],
                sweep_every=world.sweep_every,
            ).in_world(world)
            for topic in topics
        ]
        checkpoint.mkdir(parents=True, exist_ok=True)
        self.query = IngestQuery(
            self._ingests,
            settings,
            clock=lambda: world.now,
            commits=_Commits(world),
            pace=_AT_ONCE,
            plan_path=checkpoint.with_name(f"plan-{run}.json"),
        )
        self._offsets, self._commits = (Log(checkpoint / FOLDER / name) for name in ("offsets", "commits"))
        self._puller = world.puller()
        self._stream = self._new_stream()
        self._batch: int | None = None
        self._end: dict[str, Any] | None = None
        self.bundle: Bundle | None = None
        self.only_tasks_die = False

    @property
    def last_batches(self) -> Mapping[str, Batch | None]:
        """By topic."""
        return {ingest.name: ingest.last_batch for ingest in self._ingests}

    @property
    def last_batch(self) -> Batch | None:
        """Of the only topic, or of the first."""
        return self._ingests[0].last_batch

    def _reached(self, name: str) -> Mapping[int, int]:
        return next(ingest for ingest in self._ingests if ingest.name == name).reached()

    def open(self) -> None:
        """As `Supervisor.open` and `IngestQuery.start` do."""
        for ingest in self._ingests:
            ingest.open_topic(ACK_DEADLINE)
            self.query.add(ingest)
        storage = storage_for(str(self._checkpoint))
        set_aside_if_damaged(storage, self.run, self._world.now)
        storage.put_if_absent(f"{FOLDER}/metadata", b'{"id":"the query"}')

    def batch(self) -> None:
        """One trigger; the first one of a life may be the last one of another that was not finished.

        Raises what ends the run: that a newer one has all of its topics; and what nobody foresaw.
        """
        number, start, end = self._plan()
        if start is None:
            start = self._stream.initialOffset()
        bundles = self._bundled_otherwise(self._stream.partitions(start, end))
        self.query.take((task, self._read(bundle)) for task, bundle in enumerate(bundles))
        self._commits.put(number)
        self._batch, self._end = number, end
        self._raise_what_ends_it()

    def read_again(self) -> None:
        """Another attempt at the bundle that is being read, on another executor."""
        assert self.bundle is not None
        list(self._new_stream().read(replace(self.bundle, is_fresh=False)))

    def _raise_what_ends_it(self) -> None:
        errors = {name: parked.error for name, parked in self.query.parking.parked.items()}
        unforeseen = [error for error in errors.values() if isinstance(error, UnexpectedError)]
        stale = [error for error in errors.values() if isinstance(error, StaleDriverError)]
        for error in (*unforeseen, *(stale if len(stale) == len(self._ingests) else ())):
            raise error

    def _new_stream(self) -> FactStream:
        return FactStream(self.query.source_options(), self._puller, side_by_side=0)

    def _bundled_otherwise(self, planned: Iterable[object]) -> list[Bundle]:
        """The same slots in other tasks."""
        bundles = [bundle for bundle in planned if isinstance(bundle, Bundle)]
        slots = [slot for bundle in bundles for slot in bundle.slots]
        if len(self._ingests) == 1:
            return [replace(bundles[0], slots=(slot,)) for slot in slots]
        self._chance.shuffle(slots)
        found: list[Bundle] = []
        while slots:
            size = self._chance.randrange(1, 4)
            found.append(replace(bundles[0], slots=tuple(slots[:size])))
            slots = slots[size:]
        return found

    def _plan(self) -> tuple[int, dict[str, Any] | None, dict[str, Any]]:
        """The batch's number, start and end: the next one, or at first the one that has no entry in the commit log."""
        if self._batch is None and (last := self._offsets.latest()) is not None:
            number, end = last
            if not self._commits.has(number):
                return number, self._offsets.read(number - 1), end
            self._stream.partitions(end, end)
            self._batch, self._end = number, end
        number = -1 if self._batch is None else self._batch
        following = self._stream.latestOffset()
        self._offsets.put(number + 1, following)
        return number + 1, self._end, following

    def _read(self, bundle: Bundle) -> pa.Table:
        self.bundle = bundle
        try:
            batches = list(self._stream.read(bundle))
        except Death:
            if not self.only_tasks_die:
                raise
            batches = list(self._new_stream().read(replace(bundle, is_fresh=False)))
        self.bundle = None
        return pa.Table.from_batches(batches, FACTS)


class _Ingest(TopicIngest):
    """A topic whose commits fail while its store is broken: before anything is written, or when it is answered."""

    _world: World | None = None

    def in_world(self, world: World) -> _Ingest:
        self._world = world
        return self

    def reached(self) -> Mapping[int, int]:
        """The positions of a log, those of the batch that is under way included."""
        return self._claim().place.reached

    def commit_facts(self, facts: Sequence[Fact]) -> Batch:
        if self._world is None or self.name not in self._world.broken:
            return super().commit_facts(facts)
        if len(facts) % 2:
            super().commit_facts(facts)
        raise LakeError(self.name, found="a broken store", expected="one that answers", next_step="Wait.")


class _Commits(Crew[str, Outcome]):
    """Done where they are begun, one after the other; those of topics that hang when these no longer do."""

    def __init__(self, world: World) -> None:
        super().__init__(0)
        self._world = world
        self._hanging: dict[str, Callable[[], Outcome]] = {}

    @property
    def busy(self) -> Collection[str]:
        return {*super().busy, *self._hanging}

    def begin(self, key: str, work: Callable[[], Outcome]) -> None:
        if key in self._world.hanging:
            self._hanging[key] = work
        else:
            super().begin(key, work)

    def results(
        self, patience: float | Callable[[str, float], float], unawaited: Collection[str] = ()
    ) -> Iterator[tuple[str, Outcome]]:
        for name in [name for name in self._hanging if name not in self._world.hanging]:
            super().begin(name, self._hanging.pop(name))
        yield from super().results(patience, unawaited)


class _Remembered:
    """A source of the frontier, and what it said last."""

    def __init__(self, source: FrontierSource) -> None:
        self._source = source
        self.newest: Frontier | None = None

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        self.newest = self._source.observe(facts, now)
        return self.newest
