"""Plays a schedule in one process: the real source, ingest and stages without Spark."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import grpc

from lakehouse import failpoints, hours
from lakehouse.config import Config
from lakehouse.crash.checkpoints import SHARED, CheckpointInUseError, Checkpoints
from lakehouse.crash.driver import Death, Driver
from lakehouse.crash.invariants import Expected, violations
from lakehouse.crash.liveness import Liveness
from lakehouse.crash.publisher import Publisher
from lakehouse.crash.schedules import OWN, TASK, Act, Schedule
from lakehouse.crash.small_lake import NAMES, small_config
from lakehouse.crash.world import World
from lakehouse.errors import LakehouseError
from lakehouse.mirrors.stage import mirror_due
from lakehouse.sandbox.faults import Faults, RandomFaults
from lakehouse.seal.stage import seal_due
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.files import storage_for
from lakehouse.store.notes import Notes
from lakehouse.store.records import CloseRequested, State
from lakehouse.topics import Slots
from lakehouse.validate.release import release
from lakehouse.validate.stage import validate_hour

LAST = "z"
"""The driver that is left in peace in the end; it has all topics."""
_MOST_BATCHES = 80
_RESTART, _TRICKLE = timedelta(seconds=30), timedelta(minutes=1)
_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


@dataclass
class Outcome:
    """What was found wrong, whether the death of the schedule came, and how many damaged checkpoints were set aside."""

    schedule: Schedule
    violations: list[str]
    has_died: bool
    trace: list[str]
    set_aside: int = 0

    @property
    def is_right(self) -> bool:
        return not self.violations and (self.has_died or self.schedule.dies_once_at is None)


def outcome_of(
    schedule: Schedule,
    folder: Path,
    *,
    moved: Callable[[Config], Config] = lambda config: config,
    in_peace: Callable[[], object] = lambda: None,
    world: Callable[[Config], World] = World,
) -> Outcome:
    """The schedule from beginning to end, in an empty folder; then one more driver in peace, until all is delivered.

    `moved` may give the lake another place than the folder; `in_peace` is called once that place is to be well. `world`
    may have another broker.
    """
    play = Play(schedule, folder, moved, world)
    for act in schedule.acts:
        play.perform(act)
    in_peace()
    wrong = _end_in_peace(play)
    return Outcome(schedule, wrong, play.has_died, play.trace, play.checkpoints.set_aside())


class Play:
    """A world in which acts happen, and the drivers that live in it."""

    def __init__(
        self,
        schedule: Schedule,
        folder: Path,
        moved: Callable[[Config], Config] = lambda config: config,
        world: Callable[[Config], World] = World,
    ) -> None:
        self._schedule = schedule
        config = small_config(
            folder,
            first_hour=schedule.first_hour,
            empty_hours=schedule.empty_hours,
            quiet_period=schedule.quiet_period,
            names=NAMES[: schedule.topics],
        )
        self.world = world(moved(config))
        config = self.world.config
        self.publishers = {name: Publisher(self.world, name) for name in config.topics}
        self.checkpoints = Checkpoints(folder)
        self._liveness = {name: Liveness(topic) for name, topic in config.topics.items()}
        self.drivers: dict[str, Driver] = {}
        self._busy: list[Driver] = []
        self._number = 0
        self._seen = 0
        self.unexpected: list[str] = []
        self.has_died = False
        self.trace: list[str] = []

    def perform(self, act: Act) -> None:
        """Let it happen; what dies of it, or ends with an error of ours, is gone afterwards."""
        self.trace.append(str(act))
        with self._watching(act):
            try:
                _ACTS[act.kind](self, act)
            except Death:
                self.trace.append("  died")
                self.drivers.pop(act.driver, None)
            except (LakehouseError, CheckpointInUseError) as error:
                self.trace.append(f"  {type(error).__name__}: {error}"[:200])
                if act.kind in ("batch", "start"):
                    self.drivers.pop(act.driver, None)

    @contextmanager
    def _watching(self, act: Act) -> Iterator[None]:
        """Steps inside the act are its own; what happens around it is not interrupted by them."""
        before = failpoints.watcher()
        seen = 0

        def watcher(step: str) -> None:
            nonlocal seen
            if step == self._schedule.dies_once_at and not self.has_died:
                self._seen += 1
                if self._seen == self._schedule.nth:
                    self.has_died = True
                    raise Death(step)
            if step == act.at:
                seen += 1
                for inner in act.meanwhile if seen == act.nth else ():
                    self.perform(inner)
            if step == act.dies_at:
                raise Death(step)

        failpoints.watch(watcher)
        try:
            yield
        finally:
            failpoints.watch(before)

    # --- drivers

    def start(self, act: Act) -> None:
        """A new driver in the place of the one of that name; by the seed its slots, its checkpoint and its topics.

        So a topic is added to a checkpoint that others have used, or taken from it, or is read by two at a time.
        """
        if self.drivers.get(act.driver) in self._busy:
            return
        chance = random.Random(act.seed)
        self.drivers.pop(act.driver, None)
        least = chance.randrange(1, 4)
        slots = Slots(min=least, max=chance.randrange(least, 5))
        topics = [topic.model_copy(update={"slots": slots}) for topic in self.world.config.topics.values()]
        if act.what:
            topics = [topic for topic in topics if topic.name in act.what.removeprefix(OWN).split(",")]
        elif len(topics) > 1 and act.driver != LAST:
            topics = chance.sample(topics, chance.randrange(1, len(topics) + 1))
        place = chance.choice([SHARED, SHARED, f"own-{act.driver}"])
        if act.what:
            place = f"own-{act.driver}" if act.what.startswith(OWN) else SHARED
        checkpoint = self.checkpoints.folder(place)
        self._number += 1
        driver = Driver(self.world, topics, checkpoint, f"{act.driver}{self._number}", chance)
        driver.open()
        self.drivers[act.driver] = driver

    def batch(self, act: Act) -> None:
        """One trigger of the driver, which starts first where there is none."""
        if act.driver not in self.drivers:
            self.start(replace(act, what=""))
        driver = self.drivers[act.driver]
        if driver in self._busy:
            return
        self._busy.append(driver)
        driver.only_tasks_die = act.what == TASK
        try:
            driver.batch()
            self._check_liveness(driver)
        except Exception as error:
            if not isinstance(error, (LakehouseError, CheckpointInUseError)):
                self.unexpected.append(f"{type(error).__name__}: {error}")
                self.drivers.pop(act.driver, None)
                return
            raise
        finally:
            self._busy.remove(driver)

    def _check_liveness(self, driver: Driver) -> None:
        for name, frontier in driver.frontiers.items():
            if driver.query.is_polled(name):
                state = newest_state(self.world.tables_of(name).bronze())
                at = frontier.newest.at if frontier.newest else None
                wrong = self._liveness[name].batch_done(driver.run, state, at, self.world.now)
                if wrong is not None:
                    self.unexpected.append(f"{name}: {wrong}")

    def crash_machine(self, act: Act) -> None:
        """All drivers die, and a file of their checkpoint is not as it was written; nothing within a batch."""
        if not self._busy:
            self.drivers.clear()
            self.checkpoints.tear(act.what, random.Random(act.seed))
            self.world.now += _RESTART

    def trickle(self, act: Act) -> None:
        """A message within each quiet period, and a batch for each."""
        chance = random.Random(act.seed)
        for _ in range(int(act.amount)):
            self.publishers[chance.choice(list(self.publishers))].trickle(act.what, chance)
            self.perform(Act("batch", driver=act.driver))
            self.world.now += _TRICKLE

    def race(self, act: Act) -> None:
        """A second attempt at the bundle that is being pulled, as speculation starts it."""
        if self._busy and self._busy[-1].bundle is not None:
            with self._watching(Act("rival")):
                self._busy[-1].read_again()

    def stop(self, act: Act) -> None:
        if self.drivers.get(act.driver) not in self._busy:
            self.drivers.pop(act.driver, None)


# --- what happens beside the drivers -------------------------------------------------------------------------------


def _publish(play: Play, act: Act) -> None:
    chance = random.Random(act.seed)
    play.publishers[chance.choice(list(play.publishers))].publish(int(act.amount), chance)


def _wait(play: Play, act: Act) -> None:
    play.world.now += timedelta(seconds=act.amount)


def _weather(play: Play, act: Act) -> None:
    chance = random.Random(act.seed)

    def rate() -> float:
        return chance.choice([0, 0, 0.1, 0.3])

    play.world.broker.faults = RandomFaults(
        act.seed,
        refused=rate(),
        answer_lost=rate(),
        duplicated=rate(),
        reordered=rate(),
        delayed=rate(),
        ack_dropped=rate(),
        lease_cut=rate(),
        longest_delay=timedelta(seconds=chance.choice([5, 600])),
        codes=_PASSING if chance.random() < 0.7 else (*_PASSING, grpc.StatusCode.PERMISSION_DENIED),
    )


def _stages(play: Play, act: Act) -> None:
    world, run = play.world, f"stages-{act.seed}"
    for name, topic in world.config.topics.items():
        if world.tables_of(name).has_ledger():
            seal_due(topic, world.config, run=run)
            for hour in world.tables_of(name).history().due_to_validate():
                validate_hour(topic, world.config, hour, run=run)
            mirror_due(topic, world.config, None, run=run)


def _close(play: Play, act: Act) -> None:
    """Somebody asks for all hours so far to close."""
    world = play.world
    for name in world.config.topics:
        if world.tables_of(name).has_ledger():
            world.ledger(name).record(CloseRequested(by="ann", reason="done"), hours.hour_of(world.now))
            Notes(world.config.settings).leave(name)


def _release(play: Play, act: Act) -> None:
    world = play.world
    for name, topic in world.config.topics.items():
        history = world.tables_of(name).history()
        for hour in history.hours():
            if history.state_of(hour) == State.INVALID:
                release(topic, world.config, hour, "checked", "ann")


def _break(play: Play, act: Act) -> None:
    """A topic's store refuses what is committed, or loses the answer."""
    play.world.broken.add(random.Random(act.seed).choice(list(play.world.config.topics)))


def _hang(play: Play, act: Act) -> None:
    """A topic's store answers to no commit."""
    play.world.hanging.add(random.Random(act.seed).choice(list(play.world.config.topics)))


def _repair(play: Play) -> None:
    play.world.broken.clear()
    play.world.hanging.clear()


def _litter(play: Play, act: Act) -> None:
    """Something lies where the next hours are to be mirrored."""
    world = play.world
    settings, now = world.config.settings, hours.hour_of(world.now)
    place = storage_for(f"{settings.mirrors['folder']['path']}/{world.topic.name}", settings.storage_options)
    for hour in hours.hours_between(hours.after(now, -3), hours.after(now)):
        if not place.listing(hour):
            place.write(f"{hour}/half.crc", b"left over")


_ACTS: Mapping[str, Callable[[Play, Act], None]] = {
    "start": Play.start,
    "batch": Play.batch,
    "rival": Play.race,
    "stop": Play.stop,
    "tear": Play.crash_machine,
    "trickle": Play.trickle,
    "publish": _publish,
    "wait": _wait,
    "weather": _weather,
    "stages": _stages,
    "close": _close,
    "release": _release,
    "litter": _litter,
    "break": _break,
    "hang": _hang,
    "well": lambda play, act: _repair(play),
    "restart": lambda play, act: play.world.restart(act.what),
    "lose": lambda play, act: play.checkpoints.lose(),
    "save": lambda play, act: play.checkpoints.save(),
    "restore": lambda play, act: play.checkpoints.restore(),
    "log twice": lambda play, act: play.checkpoints.log_twice(),
}
"""What each kind of act does."""


# --- the end -------------------------------------------------------------------------------------------------------


def _end_in_peace(play: Play) -> list[str]:
    """One driver without faults, until all is delivered, sealed, cleared and mirrored; what is wrong then."""
    play.world.broker.faults = Faults()
    _repair(play)
    play.drivers.clear()
    play.world.now += timedelta(hours=1)
    quiet = Act("batch", 0, LAST)
    try:
        _until_finished(play, quiet)
        _close(play, quiet)
        _until_finished(play, quiet)
        for _ in range(5):  # a pass may die, and what it finds invalid is for the next one
            play.perform(Act("stages"))
            play.perform(Act("release"))
            if not _is_anything_due(play.world):
                break
    except LakehouseError as error:
        play.unexpected.append(str(error))
    wrong = list(play.unexpected)
    for name, topic in play.world.config.topics.items():
        world, publisher = play.world, play.publishers[name]
        acknowledged = set(world.published(name)) - set(world.unacked(name))
        expected = Expected(publisher.good, publisher.bad, acknowledged)
        wrong += [f"{name}: {each}" for each in violations(topic, world.config, expected)]
    return wrong


def _until_finished(play: Play, act: Act) -> None:
    """As `--until-drained` ends; twice, as the first may die once more."""
    names = list(play.world.config.topics)
    for _ in range(_MOST_BATCHES):
        play.perform(act)
        driver = play.drivers.get(act.driver)
        last = driver.last_batches if driver else {}
        if all((batch := last.get(name)) and batch.is_finished and not play.world.unacked(name) for name in names):
            return
        play.world.now += timedelta(seconds=11)
    play.unexpected.append(f"not finished after {_MOST_BATCHES} batches in peace")


def _is_anything_due(world: World) -> bool:
    histories = [world.tables_of(name).history() for name in world.config.topics]
    return any(each.due_to_seal() or each.due_to_validate() or each.due_to_mirror("folder") for each in histories)
