"""The ingest protocol (DESIGN §4, §5) as a model small enough to run thousands of times.

Up to two drivers at a time live and are killed between any two steps; checkpoints get lost; leases end and messages
come again. Each driver is a generator that yields wherever it may be interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

MESSAGES, STEPS, LAST_STEPS = 12, 400, 600

Key = tuple[int, int]
"""(epoch, slot), as a manifest is named."""


@dataclass(frozen=True)
class Commit:
    """One entry of bronze's log. `buckets` says in which hour it delivers each of its messages."""

    segments: frozenset[Key]
    buckets: dict[int, int]
    ingest: int
    open_before: int
    open_after: int


@dataclass
class World:
    """What outlives a driver: the subscription, the manifests, the log and the checkpoints."""

    chance: random.Random
    adopts: bool
    event_hours: dict[int, int] = field(default_factory=dict)
    unacked: set[int] = field(default_factory=set)
    leased: set[int] = field(default_factory=set)
    manifests: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    log: list[Commit] = field(default_factory=list)
    checkpoints: dict[str, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.event_hours = {message: self.chance.randrange(6) for message in range(MESSAGES)}
        self.unacked = set(self.event_hours)

    def committed(self) -> set[Key]:
        return {key for commit in self.log for key in commit.segments}

    def ingest_epoch(self) -> int:
        return self.log[-1].ingest if self.log else 0

    def open_hour(self) -> int:
        return self.log[-1].open_after if self.log else 0


def driver(world: World, checkpoint: str) -> Iterator[None]:
    """One driver's life: plan an epoch, pull its slots, commit what no commit has, and so on."""
    offsets = world.checkpoints.setdefault(checkpoint, {})
    while True:
        epoch, slots = yield from _planned(world, offsets)
        yield
        for slot in range(slots):
            yield from _pulled(world, (epoch, slot))
        yield from _committed(world, epoch, slots)


def _planned(world: World, offsets: dict[int, int]) -> Generator[None, None, tuple[int, int]]:
    """The epoch that is not finished, with the slots that it was given; or a new one, put if absent."""
    last = max(offsets, default=0)
    if last > world.ingest_epoch():
        return last, offsets[last]
    epoch, slots = max(last, world.ingest_epoch()) + 1, world.chance.choice([1, 2, 3])
    yield
    return epoch, offsets.setdefault(epoch, slots)


def _pulled(world: World, key: Key) -> Iterator[None]:
    """Files, then the manifest, then the acknowledgements, of which some are lost."""
    if key in world.manifests:
        return
    free = sorted(world.unacked - world.leased)
    messages = world.chance.sample(free, min(len(free), world.chance.randrange(4)))
    world.leased.update(messages)
    yield
    if key in world.manifests:
        world.leased.difference_update(messages)
        return
    world.manifests[key] = tuple(messages)
    yield
    for message in messages:
        if world.chance.random() < 0.9:
            world.unacked.discard(message)
        world.leased.discard(message)
    yield


def _committed(world: World, epoch: int, slots: int) -> Iterator[None]:
    """One commit on the log as it was read; when another came since, nothing, and the epoch is planned again."""
    version, ingest, open_hour = len(world.log), world.ingest_epoch(), world.open_hour()
    yield
    planned = {(epoch, slot) for slot in range(slots)}
    left_out = {key for key in world.manifests if key[0] <= max(epoch, ingest)} - world.committed() - planned
    segments = (planned if epoch > ingest else set()) | (left_out if world.adopts else set())
    closes = world.chance.random() < 0.3
    yield
    if len(world.log) == version and (segments or epoch > ingest):
        present = frozenset(segments & world.manifests.keys())
        messages = {message for key in present for message in world.manifests[key]}
        buckets = {message: max(world.event_hours[message], open_hour) for message in messages}
        world.log.append(Commit(present, buckets, max(ingest, epoch), open_hour, open_hour + closes))
    yield


@dataclass(frozen=True)
class Outcome:
    """What must all be empty. Messages may be delivered twice: sealing sees to that; segments may not."""

    lost: set[int]
    in_closed_hours: list[Commit]
    committed_twice: list[Key]


def outcome(seed: int, *, adopts: bool = True) -> Outcome:
    """A random schedule, and then one driver that is left in peace."""
    chance = random.Random(seed)
    world = World(chance, adopts)
    drivers: list[Iterator[None]] = []
    for step in range(STEPS):
        if len(drivers) < 2 and chance.random() < 0.3:
            drivers.append(driver(world, chance.choice(["shared", "shared", f"own-{step}"])))
        if drivers:
            running = chance.choice(drivers)
            next(running)
            if chance.random() < 0.05:
                drivers.remove(running)
        if chance.random() < 0.05:
            world.leased.clear()
        if chance.random() < 0.02:
            world.checkpoints.pop("shared", None)
    world.leased.clear()
    last = driver(world, "last")
    for _ in range(LAST_STEPS):
        next(last)
        if chance.random() < 0.2:
            world.leased.clear()
    return _judged(world)


def _judged(world: World) -> Outcome:
    delivered = {message for commit in world.log for message in commit.buckets}
    counts = [key for commit in world.log for key in commit.segments]
    return Outcome(
        lost=set(world.event_hours) - delivered,
        in_closed_hours=[
            commit for commit in world.log if min(commit.buckets.values(), default=99) < commit.open_before
        ],
        committed_twice=[key for key in set(counts) if counts.count(key) > 1],
    )
