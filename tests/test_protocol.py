"""The ingest protocol holds whatever is interrupted, lost or repeated, and in whatever order two drivers go on.

Two models of it: a large one by random schedules, and a small one of which nothing is left out. The real source and
ingest are then made to take their steps in turns, and must do nothing that the small one does not know.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_model
from model import Outcome, outcome
from small_model import (
    ATTEMPT,
    MOVES,
    STEPS,
    UNSEEN,
    Driver,
    Found,
    Key,
    Messages,
    Rules,
    State,
    at_first,
    explored,
    moved,
)

from lakehouse import failpoints
from lakehouse.crash import driver
from lakehouse.crash.checkpoints import CheckpointInUseError
from lakehouse.crash.driver import Death
from lakehouse.crash.small_lake import PLAYS, small_config
from lakehouse.crash.world import ACK_DEADLINE, World
from lakehouse.errors import StaleDriverError
from lakehouse.ingest import claim, closing
from lakehouse.ingest.adoption import Manifests
from lakehouse.ingest.journal import Journal
from lakehouse.landing.bundles import Bundle
from lakehouse.landing.manifests import Manifest, listed_manifests, read_manifest
from lakehouse.landing.slots import Slot
from lakehouse.landing.source import FactStream
from lakehouse.sandbox.monitoring import MISSING
from lakehouse.store.bronze_log import ingest_commits, segment_of
from lakehouse.topics import Slots
from tests.examples import examples

SEEDS = range(examples(300))
SOME = range(examples(100))
"""Of these, where it is to be seen only that the schedules are hard enough."""
HOLDS = Outcome(lost=set(), in_closed_hours=[], committed_twice=[])


def test_no_message_is_lost_no_closed_hour_written_to_and_every_hour_closes() -> None:
    """With two drivers, deaths between any two steps, lost checkpoints, redelivery, ids of two events, late events."""
    broken = {seed: found for seed in SEEDS if (found := outcome(seed)) != HOLDS}
    assert broken == {}


def test_without_adoption_messages_would_be_lost() -> None:
    """The schedules are hard enough: what adoption is there for does happen in most of them."""
    losing = [seed for seed in SOME if outcome(seed, adopts=False).lost]
    assert len(losing) > len(SOME) / 2


def test_events_of_one_id_would_be_lost_if_the_id_alone_decided() -> None:
    """In one hour, in two, late and redelivered."""
    losing = [seed for seed in SOME if outcome(seed, matches_time=False).lost_events]
    assert len(losing) > len(SOME) / 2


def test_a_trickle_of_late_events_would_hold_hours_if_all_writes_counted() -> None:
    """The last driver's hours are then never quiet; with the bound none is held in any schedule."""
    holding = [seed for seed in SOME if outcome(seed, waits_for_quiet_bounded=False).held]
    assert len(holding) > len(SOME) / 2


def test_a_schedule_is_its_seed() -> None:
    """So that a failure can be played again."""
    assert outcome(7, adopts=False) == outcome(7, adopts=False)


# --- every order ------------------------------------------------------------------------------------------------------

ONE_CHECKPOINT, TWO_CHECKPOINTS = 0, 1
CHECKPOINTS = pytest.mark.parametrize("other", [ONE_CHECKPOINT, TWO_CHECKPOINTS], ids=["one", "two"])


def drivers(other: int, slots: tuple[int, int] = (1, 1), batches: tuple[int, int] = (1, 1)) -> list[Driver]:
    """Two that start at any time, on one checkpoint or on two, with these numbers of slots, for so many batches."""
    return [Driver("a", ONE_CHECKPOINT, slots[0], batches[0]), Driver("b", other, slots[1], batches[1])]


@pytest.mark.slow
@CHECKPOINTS
@pytest.mark.parametrize("slots", [(1, 2), (2, 1), (2, 2)])
def test_two_drivers_with_any_slots_lose_and_double_nothing(other: int, slots: tuple[int, int]) -> None:
    """Whoever was first has set the slots of an epoch, and whatever it has not finished must not be left out."""
    assert explored(drivers(other, slots), messages=1).wrong is None


@CHECKPOINTS
def test_two_drivers_that_share_the_messages_lose_and_double_nothing(other: int) -> None:
    """In any part, with any part of the acknowledgements lost."""
    found = explored(drivers(other), messages=2)
    assert found.wrong is None
    assert found.states > 5000


@pytest.mark.slow
@CHECKPOINTS
def test_two_drivers_that_go_on_lose_and_double_nothing(other: int) -> None:
    assert explored(drivers(other, batches=(2, 2)), messages=1).wrong is None


@pytest.mark.slow
def test_three_messages_and_one_checkpoint_lose_and_double_nothing() -> None:
    assert explored(drivers(ONE_CHECKPOINT), messages=3).wrong is None


@pytest.mark.slow
def test_the_older_driver_comes_to_its_end_by_an_error() -> None:
    """Both of them do in some order, as either may be the older; and no place of the model is out of reach."""
    one, two = (explored(drivers(other, batches=(2, 2)), messages=1).places for other in (0, 1))
    assert {("a", "stale"), ("b", "stale")} <= one & two
    assert {("a", "checkpoint in use"), ("b", "checkpoint in use")} <= one - two
    cleared = explored([Driver("a", ONE_CHECKPOINT, slots=1, batches=3)], messages=1).places
    assert {at for _, at in one | cleared} >= MOVES.keys() | {"ended"}


@CHECKPOINTS
def test_an_attempt_that_was_thought_dead_loses_and_doubles_nothing(other: int) -> None:
    """It wakes at any time and goes on: nobody can stop it."""
    assert explored([*drivers(other), ATTEMPT], messages=1).wrong is None


def late(me: Driver, living: Sequence[Driver]) -> bool:
    """`b` starts when `a` clears away its first epoch, of which another attempt then wakes."""
    a = living[0]
    return me is a or a.at == "clear" or a.batches == 0 or (me.at == "waits" and a.batches == 3)


def when_both_clear(rules: Rules) -> Found:
    a, b = drivers(ONE_CHECKPOINT, batches=(3, 1))
    return explored([a, b, ATTEMPT], 1, rules, late)


def test_two_that_clear_one_manifest_away_spare_the_one_that_took_its_place() -> None:
    found = when_both_clear(Rules())
    assert found.wrong is None
    assert {("a", "clear"), ("b", "clear"), ("again", "acknowledge")} <= found.places


@pytest.mark.parametrize(
    ("broken", "wrong", "messages", "batches"),
    [
        ("acknowledges_last", "lost", 1, 2),
        ("puts_if_absent", "lost", 2, 1),
        ("loser_gives_back", "lost", 2, 1),
        ("conflicts", "doubled", 1, 2),
        ("looks_in_log", "doubled", 1, 2),
        ("adopts", "lost", 1, 2),
        ("checks_newest", "not stopped", 1, 2),
    ],
)
def test_a_protocol_without_one_of_its_rules_is_found_out(broken: str, wrong: str, messages: int, batches: int) -> None:
    """So each rule is there for something, and the exploration would see if it failed.

    Winner and loser of a slot must have pulled different messages: a slot to which nothing comes has no manifest.
    """
    found = explored(drivers(ONE_CHECKPOINT, batches=(batches, batches)), messages, replace(Rules(), **{broken: False}))
    assert (found.wrong or "").startswith(wrong), found.way
    assert found.way


def test_a_seal_by_the_id_alone_is_found_out() -> None:
    """Two of the messages are events of one id in two hours."""
    found = explored(drivers(ONE_CHECKPOINT), 2, Rules(matches_time=False))
    assert (found.wrong or "").startswith("merged")


def test_a_protocol_without_a_bound_on_waiting_for_quiet_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some message comes again and again, and its hour is open for ever, whatever the drivers did before."""
    monkeypatch.setattr(closing, "LONGEST_QUIET_WAIT", 10**6)
    found = explored(drivers(ONE_CHECKPOINT), 1)
    assert (found.wrong or "").startswith("open too long: with repeated")


def sleeps(me: Driver, living: Sequence[Driver]) -> bool:
    """`a` has pulled, and publishes only when `b` is in its fourth batch."""
    a, b = living
    return (me is a) == (a.at in MOVES and (a.at != "publish" or b.batches == 1)) or (me is b and b.batches == 1)


def test_a_protocol_that_clears_away_by_age_is_found_out() -> None:
    """A manifest that comes between the look for what is left out and the clearing."""
    found = explored(drivers(TWO_CHECKPOINTS, batches=(1, 4)), 1, Rules(clears_by_log=False), sleeps)
    assert (found.wrong or "").startswith("lost")
    assert [move for move in found.way if move.startswith("a")][-1] == "a: publish"
    assert explored(drivers(TWO_CHECKPOINTS, batches=(1, 4)), 1, Rules(), sleeps).wrong is None


def test_a_protocol_that_clears_away_by_name_is_found_out() -> None:
    """What took the place of what was listed."""
    found = when_both_clear(Rules(clears_what_it_listed=False))
    assert (found.wrong or "").startswith("lost")
    assert found.way[-3:] == ("again: look", "again: publish", "a: clear")


# --- the code in turns ------------------------------------------------------------------------------------------------


def test_the_model_knows_every_step_of_ingest() -> None:
    """A new step of the code is a question to the model."""
    names = list(failpoints.STEPS)
    of_ingest = set(names[: names.index("ingest.batch_done") + 1])
    assert set(STEPS.values()) | UNSEEN.keys() == of_ingest


def test_each_move_of_the_model_names_code_that_exists() -> None:
    """Where a rule lives moves, and a name that leads nowhere hides what the model is a model of."""
    text = Path(small_model.__file__).read_text(encoding="utf-8")
    for name in re.findall(r"`(lakehouse(?:\.\w+)+)`", text):
        resolve_name(name)
    silent = {at for at, move in MOVES.items() if "`lakehouse." not in (move.__doc__ or "")}
    assert silent == {"log offset", "end batch"}, "which are Spark's"


class Player(threading.Thread):
    """One of the real drivers, or an attempt at a slot: goes on from step to step when it is asked to."""

    def __init__(self, name: str, life: Callable[[], Iterable[str]]) -> None:
        super().__init__(name=name, daemon=True)
        self._life = life
        self._turn, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._is_dead = False
        self.at = ""
        self.has_ended = False
        self.failure: BaseException | None = None

    def goes_on(self) -> str:
        """To the next step that the model knows, or to the end of a batch; where it then stands."""
        if not self.is_alive():
            self.start()
        self._turn.release()
        self._paused.acquire()
        return self.at

    def dies(self) -> None:
        if self.is_alive() and not self.has_ended:
            self._is_dead = True
            self._turn.release()
            self.join()

    def pause(self, at: str) -> None:
        self.at = at
        self._paused.release()
        self._turn.acquire()
        if self._is_dead:
            raise Death(at)

    def run(self) -> None:
        self._turn.acquire()
        try:
            for at in self._life():
                self.pause(at)
            self.at = "ended"
        except StaleDriverError:
            self.at = "stale"
        except CheckpointInUseError:
            self.at = "checkpoint in use"
        except Death:
            return
        except BaseException as failure:
            self.failure = failure
        self.has_ended = True
        self._paused.release()


Seen = tuple[Messages, frozenset[tuple[Key, Messages]], tuple[frozenset[tuple[Key, Messages]], ...]]
"""Of a world: what is not acknowledged, manifests, and the segments of each commit."""


def seen_in(state: State) -> Seen:
    world, _ = state
    commits = tuple(frozenset((each.key, each.messages) for each in commit.segments) for commit in world.log)
    return world.unacked, frozenset((each.key, each.messages) for each in world.manifests), commits


def followed(states: Iterable[State], who: str, at: str) -> set[State]:
    """Where the model can be when `who` has gone on to a step, or to the end of a batch, and nobody else has moved."""
    found: set[State] = set()
    waiting = list(states)
    while waiting:
        state = waiting.pop()
        me = named(who, state)
        if me.at == at:
            found.add(state)
        for following in moved(state, me):
            then = named(who, following)
            reached = STEPS.get((me.at, then.at)) or (then.at if then.at not in MOVES or me.at == "end batch" else None)
            if reached == at:
                found.add(following)
            elif reached is None:
                waiting.append(following)
    return found


def named(who: str, state: State) -> Driver:
    return next(driver for driver in state[1] if driver.name == who)


class Turns:
    """Real drivers on one lake, and what can be seen of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World(small_config(folder), sweep_every=1)  # as in the model
        self.world.broker.sampling = MISSING  # no hour closes: what is committed are segments
        self._folder = folder
        self._storage = self.world.tables.raw.files()
        self._messages: dict[str, int] = {}
        self._segments: dict[str, tuple[Key, Messages]] = {}
        self.players: list[Player] = []
        self.drivers: dict[str, driver.Driver] = {}

    def key_of(self, name: str) -> Key:
        """Of the slot that a driver is pulling."""
        bundle = self.drivers[name].bundle
        assert bundle is not None
        ((_, slot),) = bundle.slots
        return slot.epoch, slot.slot

    def publish(self, count: int) -> None:
        for number in range(count):
            played_at = self.world.now.isoformat()
            payload = f'{{"event_id": "e{number}", "played_at": "{played_at}", "n": 1}}'.encode()
            self.world.publish(payload)
        self._messages = {name: number for number, name in enumerate(self.world.published())}

    def add(self, planned: Driver, most: int) -> None:
        topic = self.world.topic.model_copy(update={"slots": Slots(min=planned.slots, max=planned.slots)})
        checkpoint = self._folder / f"checkpoint-{planned.checkpoint}"
        real = driver.Driver(self.world, [topic], checkpoint, planned.name, Always(most))
        self._options = real.query.source_options()
        self.drivers[planned.name] = real

        def life() -> Iterator[str]:
            real.open()
            for left in reversed(range(planned.batches)):
                real.batch()
                if left:
                    yield "plan"

        self.players.append(Player(planned.name, life))

    def add_attempt(self, key: Key) -> None:
        def life() -> Iterator[str]:
            puller = self.world.puller()
            list(FactStream(self._options, puller, side_by_side=0).read(Bundle(((PLAYS, Slot(*key, None)),))))
            yield from ()

        self.players.append(Player(ATTEMPT.name, life))

    def end(self) -> None:
        for player in self.players:
            player.dies()

    def seen(self) -> Seen:
        unacked = frozenset(self._messages[name] for name in self.world.unacked())
        present = frozenset(
            self._segment(read_manifest(self._storage, *key)) for key in listed_manifests(self._storage)
        )
        if not self.world.tables.has_bronze():
            return unacked, present, ()
        log = sorted(
            (version, metadata["segments"]) for version, metadata in ingest_commits(self.world.tables.bronze())
        )
        return unacked, present, tuple(frozenset(self._segments[name] for name in names) for _, names in log)

    def _segment(self, manifest: Manifest | None) -> tuple[Key, Messages]:
        assert manifest is not None
        paths = [f"bronze/{file.path}" for file in manifest.files]
        ids = [name for path in paths for name in self._message_ids(path)]
        segment = (manifest.epoch, manifest.slot), frozenset(self._messages[name] for name in ids)
        self._segments.update((segment_of(path), segment) for path in paths)
        return segment

    def _message_ids(self, path: str) -> list[str]:
        with self._storage.open(path) as source, pq.ParquetFile(source) as file:
            return list(file.read(["message_id"])["message_id"].to_pylist())


class Always(random.Random):
    """A choice that is made already."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self._answer = answer

    def choice(self, options: object) -> Any:
        return self._answer


@pytest.fixture
def in_turns() -> Iterator[None]:
    """Each player stops at the model's steps."""

    def watcher(step: str) -> None:
        player = threading.current_thread()
        if isinstance(player, Player) and step in STEPS.values():
            player.pause(step)

    failpoints.watch(watcher)
    yield
    failpoints.watch(None)


def disagreement(seed: int, folder: Path) -> tuple[str | None, list[str]]:
    """What the real drivers did that the model does not know, if anything; and the turns that they took.

    Whose turn it is, who dies, when leases end, and a second attempt at a slot are by chance.
    """
    turns = Turns(folder, seed)
    chance = turns.chance
    turns.publish(3)
    planned = drivers(chance.randrange(2), (chance.choice([1, 2]), chance.choice([1, 2])), (2, 2))
    states = {at_first([*planned, ATTEMPT], 3)}
    reported: list[str] = []
    player, stays = None, chance.choice([0, 0.5, 0.8])
    for each in planned:
        turns.add(each, most=chance.choice([1, 2, 50]))
    while living := [player for player in turns.players if not player.has_ended]:
        if chance.random() < 0.1:
            turns.world.now += 2 * ACK_DEADLINE
        player = player if player in living and chance.random() < stays else chance.choice(living)
        at = player.goes_on()
        reported.append(f"{player.name}: {at}")
        known, seen = followed(states, player.name, at), turns.seen()
        states = {state for state in known if seen_in(state) == seen}
        if not states or player.failure is not None:
            turns.end()
            return f"{player.failure!r}, saw {seen}, expected one of {[*map(seen_in, known)]}", reported
        if (
            at == "pull.files_durable"
            and player.name in turns.drivers
            and named(ATTEMPT.name, next(iter(states))).at == "waits"
            and chance.random() < 0.3
        ):
            key = turns.key_of(player.name)
            turns.add_attempt(key)
            known = {state for state in states if named(player.name, state).key == key}
            begun = {each for state in known for each in moved(state, ATTEMPT)}
            states = {state for state in begun if named(ATTEMPT.name, state).key == key}
        if chance.random() < 0.03:
            player.dies()
            turns.players.remove(player)
    return None, reported


@pytest.mark.usefixtures("in_turns")
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 12))])
def test_the_code_does_nothing_that_the_model_does_not_know(seed: int, tmp_path: Path) -> None:
    wrong, reported = disagreement(seed, tmp_path)
    assert wrong is None, "\n".join([*reported, wrong])


@pytest.mark.usefixtures("in_turns")
@pytest.mark.parametrize(
    ("place", "rule", "breaks_it", "first"),
    [
        (Manifests, "adoptable", lambda manifests, bronze, epoch, facts, now: [], 5),
        (claim, "unknown_to_log", lambda bronze, facts, state: facts, 20),
        (Journal, "check_newest", lambda journal: None, 0),
    ],
)
def test_code_without_one_of_its_rules_does_what_the_model_does_not_know(
    place: object,
    rule: str,
    breaks_it: Callable[..., object],
    first: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So the turns that they take are hard enough. From `first` on, since the seeds before it find nothing."""
    monkeypatch.setattr(place, rule, breaks_it)
    assert any(disagreement(seed, tmp_path / str(seed))[0] for seed in range(first, first + 60))
