"""Schedules of what can go wrong: acts in an order that is decided by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lakehouse import failpoints
from lakehouse.crash.checkpoints import PARTS
from lakehouse.crash.publisher import TRICKLES


@dataclass(frozen=True)
class Act:
    """One thing that happens. `meanwhile` happens inside it, when it reaches `at`; `dies_at` ends it."""

    kind: str
    seed: int = 0
    driver: str = "a"
    amount: float = 0
    what: str = ""
    at: str | None = None
    nth: int = 1
    meanwhile: tuple[Act, ...] = ()
    dies_at: str | None = None

    def __str__(self) -> str:
        what = f"{self.kind} {self.driver}" if self.kind in ("batch", "start", "stop") else self.kind
        what += f" {self.what}" if self.what else ""
        what += f" {self.amount:g}" if self.amount else ""
        if self.meanwhile:
            what += f" [at {self.at!r}" + (f" ({self.nth}.): " if self.nth > 1 else ": ")
            what += ", ".join(map(str, self.meanwhile)) + "]"
        return what + (f" [dies at {self.dies_at!r}]" if self.dies_at else "")


@dataclass(frozen=True)
class Schedule:
    """What happens in order, to so many `topics`; then one more driver is left in peace until all is delivered."""

    name: str
    acts: tuple[Act, ...]
    empty_hours: str = "skip"
    first_hour: str = "earliest"
    quiet_period: str = "0 seconds"
    dies_once_at: str | None = None
    nth: int = 1
    topics: int = 1


def shrunk(schedule: Schedule, is_failing: Callable[[Schedule], bool]) -> Schedule:
    """A schedule with as few acts as possible that still fails: no single one of them can be left out."""
    acts = list(schedule.acts)
    size = max(1, len(acts) // 2)
    while True:
        start = 0
        while start < len(acts):
            fewer = acts[:start] + acts[start + size :]
            if is_failing(replace(schedule, acts=tuple(fewer))):
                acts = fewer
            else:
                start += size
        if size == 1:
            return replace(schedule, acts=tuple(acts))
        size //= 2


def dying_at(step: str, seed: int = 0) -> Schedule:
    """A topic's ordinary days, with one death at the step; by the seed it is another one that dies there."""
    chance = random.Random(f"{step} {seed}")
    rival = Act("batch", at="pull.files_durable", meanwhile=_race(chance.randrange(10**6)))
    day: list[Act] = []
    for _ in range(2):
        day += [Act("publish", chance.randrange(10**6), amount=chance.randrange(4, 14)), Act("batch")]
        day += [Act("wait", amount=chance.choice([60, 1800, 5400])), Act("litter")]
        day += [Act("publish", chance.randrange(10**6), amount=chance.randrange(1, 9)), rival]
        day += [
            Act("wait", amount=3600),
            Act("batch"),
            Act("batch"),
            Act("close"),
            Act("batch"),
            Act("stages"),
            Act("stop"),
        ]
    nth = 1 if seed == 0 or step == "mirror.old_aside" else chance.randrange(1, 3)  # few litters matter
    first_hour = chance.choice(["earliest", "now"])
    return Schedule(f"dies at {step!r}, seed {seed}", tuple(day), first_hour=first_hour, dies_once_at=step, nth=nth)


def _race(seed: int) -> tuple[Act, ...]:
    """Another attempt at what is being pulled, to which something comes: else it leaves nothing."""
    return Act("publish", seed, amount=3), Act("rival")


def random_schedule(seed: int) -> Schedule:
    """Anything at any time: weather, deaths, lost and restored checkpoints, two drivers, late and repeated events."""
    chance = random.Random(seed)
    is_long = chance.random() < 0.5
    topics = (1, 2, 3)[seed % 3]
    acts = tuple(_random_act(chance, is_long, topics=topics) for _ in range(chance.randrange(15, 40)))
    return Schedule(
        f"seed {seed}",
        (Act("publish", chance.randrange(10**6), amount=6), *acts),
        empty_hours="skip" if is_long else "close",
        first_hour=chance.choice(["earliest", "now"]),
        quiet_period=chance.choice(["0 seconds", "2 minutes"]),
        topics=topics,
    )


READING = "reading"
"""What a restart of the broker interrupts, where it is not between two acts or at a step."""


def restarting(steps: Sequence[str], seed: int = 0) -> Schedule:
    """The broker restarts between batches, while a range is read, and at each of the steps, where a driver may die."""
    chance = random.Random(f"restarting {seed}")
    acts: list[Act] = [Act("publish", chance.randrange(10**6), amount=9), Act("start", 3), Act("batch"), Act("restart")]
    for step in steps:
        restart = (Act("restart"),)
        dies_at = step if chance.random() < 0.5 else None
        acts += [Act("publish", chance.randrange(10**6), amount=9)]
        acts += [Act("batch", at=step, meanwhile=restart, dies_at=dies_at), Act("wait", amount=1800)]
    acts += [
        Act("restart", what=READING),
        Act("publish", chance.randrange(10**6), amount=12),
        Act("batch"),
        Act("stages"),
    ]
    return Schedule(f"the broker restarts, seed {seed}", tuple(acts))


def with_restarts(schedule: Schedule, count: int) -> Schedule:
    """The schedule with so many restarts of the broker somewhere in it."""
    chance = random.Random(schedule.name)
    acts = list(schedule.acts)
    for _ in range(count):
        inside = Act("batch", at=chance.choice(_STEPS_OF["batch"]), meanwhile=(Act("restart"),))
        act = chance.choice([Act("restart"), Act("restart", what=READING), inside])
        acts.insert(chance.randrange(len(acts) + 1), act)
    return replace(schedule, name=f"{schedule.name}, {count} restarts", acts=tuple(acts))


def trickling(kind: str, seed: int = 0) -> Schedule:
    """An hour that could close, and from then on a message of the kind within each quiet period."""
    day = (
        Act("publish", seed, amount=6),
        Act("batch"),
        Act("wait", amount=5400),
        Act("trickle", seed, what=kind, amount=14),
    )
    return Schedule(f"a trickle of {kind}, seed {seed}", day, quiet_period="2 minutes")


def tear(part: str, step: str, seed: int = 0) -> Schedule:
    """A crash of the machine at the step, which leaves that part of the checkpoint empty or cut."""
    chance = random.Random(f"{part} {step} {seed}")
    acts: list[Act] = []
    for _ in range(2):
        acts += [Act("publish", chance.randrange(10**6), amount=9), Act("start", 3), Act("batch")]
        acts += [Act("publish", chance.randrange(10**6), amount=9), Act("batch", dies_at=step)]
        acts += [Act("tear", chance.randrange(10**6), what=part), Act("batch"), Act("wait", amount=3600), Act("batch")]
    return Schedule(f"{part} torn at {step!r}, seed {seed}", tuple(acts))


TASK = "task"
"""What dies in a batch, where it is not the whole application."""
OWN = "own "
"""Before the topics of a driver that has a checkpoint of its own."""


def _days(*between: Act, driver: str = "a") -> tuple[Act, ...]:
    """Events of all three topics, batch by batch, with what is to happen between two of them."""
    acts: list[Act] = []
    for number in range(4):
        acts += [Act("publish", seed, amount=5) for seed in range(9 * number, 9 * number + 9)]
        acts += [Act("batch", number, driver), Act("wait", amount=1200)]
        acts += between[number : number + 1]
    return (*acts, Act("batch", driver=driver), Act("stages"))


_ALL, _TWO, _ONE = "plays,skips,stops", "plays,skips", "stops"
_TAKE_OVER = (Act("start", 2, "b", what=OWN + _TWO), Act("batch", driver="b"))
SEVERAL: dict[str, tuple[Act, ...]] = {
    "a topic's commit fails while others go on": _days(Act("break", 1), Act("break", 2), Act("well")),
    "a topic's commit hangs while others go on": _days(Act("hang", 1), Act("wait", amount=60), Act("well")),
    "an application dies while a commit hangs": _days(Act("hang", 1), Act("stop"), Act("well")),
    "a topic moves to another application": (
        *_days(),
        Act("stop"),
        Act("start", 2, "b", what=OWN + _ONE),
        *_days(driver="b"),
        Act("start", 1, what=OWN + _ALL),
        *_days(),
    ),
    "topics move while their old application lives": _days(
        *(Act("batch", 7, "a", at=step, meanwhile=_TAKE_OVER) for step in ("pull.files_durable", "ingest.decided")),
        Act("batch", driver="b"),
    ),
    "a task dies and its bundle is read again": _days(
        *(Act("batch", 3, what=TASK, dies_at=step) for step in ("pull.manifest_durable", "pull.half_acknowledged"))
    ),
    "a replay bundles otherwise": _days(
        *(Act("batch", 3, dies_at=step) for step in ("pull.manifest_durable", "ingest.committed", "ingest.batch_done"))
    ),
    "a topic is added at a restart with an old checkpoint": (
        Act("start", 4, what=_TWO),
        *_days(Act("save"), Act("batch")),
        Act("restore"),
        Act("start", 4, what=_ALL),
        *_days(),
    ),
    "a topic is taken away at a restart with an old checkpoint": (
        Act("start", 4, what=_ALL),
        *_days(Act("save"), Act("batch", dies_at="ingest.decided")),
        Act("restore"),
        Act("start", 4, what=_TWO),
        *_days(),
    ),
}
"""What can happen to one topic of an application that has three."""


def of_several(name: str) -> Schedule:
    """One of `SEVERAL`."""
    return Schedule(name, SEVERAL[name], topics=3)


_STEPS_OF = {
    "start": ["ingest.started", "ingest.close_recorded"],
    "batch": list(failpoints.STEPS)[1 : list(failpoints.STEPS).index("seal.files_durable")],
    "stages": list(failpoints.STEPS)[list(failpoints.STEPS).index("seal.files_durable") :],
}
_LIKELY = {"publish": 8, "batch": 16, "wait": 5, "stages": 3, "weather": 2, "start": 3, "close": 2, "stop": 1}
_LIKELY |= {"lose": 1, "save": 1, "restore": 1, "tear": 1, "litter": 1, "release": 1, "trickle": 1}
_OF_SEVERAL = {"break": 2, "hang": 2, "well": 2}
"""Only where there are several topics: one fails, and the others go on."""
_MANY_HOURS_SECONDS = 1_100 * 3600
"""So long that the empty hours close as one range."""


def _random_act(chance: random.Random, is_long: bool, depth: int = 0, topics: int = 1) -> Act:
    likely = _LIKELY | (_OF_SEVERAL if topics > 1 else {})
    kind = chance.choices(list(likely), list(likely.values()))[0]
    act = Act(kind, chance.randrange(10**6), driver=chance.choice("aaab"))
    if kind == "publish":
        return replace(act, amount=chance.randrange(1, 12))
    if kind == "wait":
        is_very_long = not is_long and depth == 0 and chance.random() < 0.05
        longer = [86_400, 200_000] if is_long else [_MANY_HOURS_SECONDS] * is_very_long
        return replace(act, amount=chance.choice([1, 5, 11, 60, 1800, 7200, *longer]))
    if kind == "tear":
        return replace(act, what=chance.choice(PARTS))
    if kind == "trickle":
        return replace(act, what=chance.choice(TRICKLES), amount=chance.randrange(2, 6))
    if kind not in _STEPS_OF or depth > 1:
        return act
    if chance.random() < 0.35:
        act = replace(act, dies_at=chance.choice(_STEPS_OF[kind]))
        if topics > 1 and kind == "batch" and chance.random() < 0.3:
            act = replace(act, what=TASK, dies_at=chance.choice([step for step in _STEPS_OF[kind] if "pull" in step]))
    if chance.random() < 0.35:
        act = replace(act, at=chance.choice(_STEPS_OF[kind]), nth=chance.choice([1, 1, 1, 2]))
        inner = tuple(
            _other(_random_act(chance, is_long, depth + 1, topics), act) for _ in range(chance.randrange(1, 4))
        )
        may_race = act.at == "pull.files_durable" and chance.random() < 0.5
        act = replace(act, meanwhile=_race(act.seed) if may_race else inner)
    return act


def _other(act: Act, outer: Act) -> Act:
    """What happens inside a driver's batch is the other driver's doing."""
    return replace(act, driver="b" if outer.driver == "a" else "a")
