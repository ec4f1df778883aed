"""The ingest protocol and the closing of hours as a model small enough to run thousands of times.

Up to two drivers at a time live and are killed between any two steps; checkpoints get lost; leases end and messages
come again. Each driver is a generator that yields wherever it may be interrupted. In the end one driver is left in
peace, while late events go on coming, and every hour must close.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

MESSAGES, STEPS, TRICKLING_STEPS, LAST_STEPS = 12, 400, 450, 600
IDS, HOURS, MOMENTS = 4, 6, 2
HOUR_STEPS, QUIET_STEPS, TRICKLE_STEPS = 60, 40, 15
"""How long an hour is, how long nothing may be written to it, and how often a late event comes in the end."""
MOST_BEHIND = HOUR_STEPS + 5 * QUIET_STEPS
"""The bound: an hour closes so many steps after its end at the latest, which is a batch and five quiet periods."""

Key = tuple[int, int]
"""(epoch, slot), as a manifest is named."""
Event = tuple[int, int, int]
"""(id, hour, moment of the hour): an id comes in several hours, and twice in one; these are different events."""


@dataclass(frozen=True)
class Commit:
    """One entry of bronze's log. `buckets` says in which hour it delivers each of its messages.

    `closed` are (first, last) hours: several empty ones may close as one range.
    """

    segments: frozenset[Key]
    buckets: dict[int, int]
    ingest: int
    open_before: int
    open_after: int
    closed: tuple[tuple[int, int], ...]
    at: int


@dataclass
class World:
    """What outlives a driver: the subscription, the manifests, the log and the checkpoints."""

    chance: random.Random
    adopts: bool
    waits_for_quiet_bounded: bool = True
    in_peace: bool = False
    now: int = 0
    events: dict[int, Event] = field(default_factory=dict)
    unacked: set[int] = field(default_factory=set)
    leased: set[int] = field(default_factory=set)
    manifests: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    log: list[Commit] = field(default_factory=list)
    checkpoints: dict[str, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _ in range(MESSAGES):
            self.publish((self.chance.randrange(IDS), self.chance.randrange(HOURS), self.chance.randrange(MOMENTS)))

    def publish(self, event: Event) -> None:
        message = len(self.events)
        self.events[message] = event
        self.unacked.add(message)

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
    yield
    if len(world.log) == version and (segments or epoch > ingest):
        present = frozenset(segments & world.manifests.keys())
        messages = {message for key in present for message in world.manifests[key]}
        buckets = {message: max(world.events[message][1], open_hour) for message in messages}
        closed = _closed(world, buckets, open_hour)
        open_after = closed[-1][1] + 1 if closed else open_hour
        world.log.append(Commit(present, buckets, max(ingest, epoch), open_hour, open_after, closed, world.now))
    yield


def _closed(world: World, buckets: dict[int, int], open_hour: int) -> tuple[tuple[int, int], ...]:
    """At any time before there is peace, as safety must not rest on time; then what is due, empty hours as a range."""
    if not world.in_peace:
        through = open_hour + world.chance.choice([0, 0, 0, 2]) if world.chance.random() < 0.3 else -1
    else:
        through = max(world.now // HOUR_STEPS - 1, open_hour - 1)
        if _is_written_to(world, buckets, open_hour):
            return ()
    filled = {bucket for commit in world.log for bucket in commit.buckets.values()} | set(buckets.values())
    closed: list[tuple[int, int]] = []
    hour = open_hour
    while hour <= through:
        last = min((each - 1 for each in filled if each > hour), default=through) if hour not in filled else hour
        closed.append((hour, min(last, through)))
        hour = closed[-1][1] + 1
    return tuple(closed)


def _is_written_to(world: World, buckets: dict[int, int], open_hour: int) -> bool:
    """Whether the oldest open hour is not quiet. With the bound, late events of after its end do not count."""
    writes = [commit.at for commit in world.log if open_hour in commit.buckets.values()]
    writes += [world.now] * (open_hour in buckets.values())
    if world.waits_for_quiet_bounded:
        writes = [at for at in writes if at < (open_hour + 1) * HOUR_STEPS]
    return world.now - max(writes, default=-QUIET_STEPS) < QUIET_STEPS


@dataclass(frozen=True)
class Outcome:
    """What must all be empty. Messages may be delivered twice: sealing sees to that; segments may not.

    `held` are hours that were still open longer after their end than the bound, `not_closed_once` those that closed
    twice, or not at all between others that did, `lost_events` and `doubled_events` those of what is sealed.
    """

    lost: set[int]
    in_closed_hours: list[Commit]
    committed_twice: list[Key]
    lost_events: set[Event] = field(default_factory=set)
    doubled_events: set[Event] = field(default_factory=set)
    not_closed_once: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)


def outcome(
    seed: int, *, adopts: bool = True, matches_time: bool = True, waits_for_quiet_bounded: bool = True
) -> Outcome:
    """A random schedule, and then one driver that is left in peace, and a late event every few steps.

    Without `matches_time` seal takes events of one id for one event.
    """
    chance = random.Random(seed)
    world = World(chance, adopts, waits_for_quiet_bounded)
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
    world.in_peace, world.now = True, world.open_hour() * HOUR_STEPS
    last = driver(world, "last")
    for step in range(TRICKLING_STEPS + LAST_STEPS):
        world.now += 1
        if step % TRICKLE_STEPS == 0 and step < TRICKLING_STEPS:
            world.publish((chance.randrange(IDS), 0, chance.randrange(MOMENTS)))
        if step == TRICKLING_STEPS:
            held = set(range(world.open_hour(), (world.now - MOST_BEHIND) // HOUR_STEPS))
        next(last)
        if chance.random() < 0.2:
            world.leased.clear()
    return _judged(world, matches_time, held)


def _judged(world: World, matches_time: bool, held: set[int]) -> Outcome:
    delivered = {message for commit in world.log for message in commit.buckets}
    counts = [key for commit in world.log for key in commit.segments]
    sealed = _sealed(world, matches_time)
    closes = [hour for commit in world.log for first, last in commit.closed for hour in range(first, last + 1)]
    return Outcome(
        lost_events=set(world.events.values()) - set(sealed),
        doubled_events={event for event in sealed if sealed.count(event) > 1},
        not_closed_once={hour for hour in range(world.open_hour()) if closes.count(hour) != 1},
        held=held,
        lost=set(world.events) - delivered,
        in_closed_hours=[
            commit for commit in world.log if min(commit.buckets.values(), default=99) < commit.open_before
        ],
        committed_twice=[key for key in set(counts) if counts.count(key) > 1],
    )


def _sealed(world: World, matches_time: bool) -> list[Event]:
    """Every hour's events, oldest first: of each the first delivery, unless an earlier hour has it."""
    buckets: dict[int, list[Event]] = {}
    for commit in world.log:
        for message, bucket in commit.buckets.items():
            buckets.setdefault(bucket, []).append(world.events[message])
    sealed: list[Event] = []
    for bucket in sorted(buckets):
        for event in buckets[bucket]:
            known = event in sealed if matches_time else event[0] in {each[0] for each in sealed}
            if not known:
                sealed.append(event)
    return sealed
