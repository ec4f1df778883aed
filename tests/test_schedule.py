"""Turns of topics: oldest deadline first, fair, one worker for each topic, and none that waits for a sick neighbour."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lakehouse.errors import UnexpectedError
from lakehouse.running import pool as pools
from lakehouse.running.pool import MakesRoom, Pool
from lakehouse.running.schedule import Outcome, Pauses, Schedule

TOPICS = ("a", "b", "c", "d")
LOOK = 60.0

steps = st.one_of(
    st.tuples(st.just("tell"), st.sampled_from(TOPICS), st.floats(0, 7200)),
    st.tuples(st.just("next"), st.none(), st.just(0.0)),
    st.tuples(st.just("done"), st.sampled_from(TOPICS), st.sampled_from(list(Outcome))),
    st.tuples(st.just("wait"), st.none(), st.floats(0, 400)),
)


NEXT = ("next", None, 0.0)

WORK_COMES_TO_ONE_THAT_WAITS = [
    *(NEXT, ("tell", "c", 1.0), NEXT, ("tell", "a", 0.0)),
    *(("done", "a", Outcome.DONE), ("tell", "b", 0.0), NEXT, NEXT),
]


@given(st.lists(steps, max_size=120))
@example(WORK_COMES_TO_ONE_THAT_WAITS)
def test_no_topic_has_two_turns_at_a_time_and_none_goes_twice_while_another_waits(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """Whatever becomes due, fails, makes room or takes long: one worker per topic, and fair."""
    schedule, now = Schedule(TOPICS, 0.0, look_every=LOOK), 0.0
    running: set[str] = set()
    begun: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    """For each topic the turns that others began since it has been ready."""
    for what, topic, value in steps:
        now += 0.001
        ready = schedule.ready(now)
        if what == "tell":
            schedule.tell(topic, now - value, now)
        elif what == "wait":
            now += value
        elif what == "done" and topic in running:
            schedule.done(topic, value, now)
            running.remove(topic)
        elif what == "next":
            chosen = schedule.next(now)
            assert (chosen is None) == (not ready), "a worker is idle only when nothing is ready"
            if chosen is None:
                continue
            assert chosen in ready - running
            running.add(chosen)
            begun[chosen] = []
            for other in ready - {chosen}:
                begun[other].append(chosen)
                assert len(begun[other]) == len(set(begun[other])), f"{begun[other]} while {other} waits"


@given(st.lists(st.floats(1, 100_000), min_size=4, max_size=4))
def test_the_oldest_deadline_goes_first(ages: list[float]) -> None:
    schedule = Schedule(TOPICS, 0.0, look_every=LOOK)
    for topic, age in zip(TOPICS, ages, strict=True):
        schedule.tell(topic, -age, 1.0)
    turns = [schedule.next(1.0) for _ in TOPICS]
    assert [ages[TOPICS.index(str(topic))] for topic in turns] == sorted(ages, reverse=True)


def test_a_topic_is_checked_now_and_then_although_nothing_became_due() -> None:
    """What a person released, and what a crash left, no batch tells of."""
    schedule = Schedule(["a"], 0.0, look_every=LOOK)
    assert schedule.next(0.0) == "a"
    schedule.done("a", Outcome.DONE, 5.0)
    assert schedule.next(64.9) is None
    assert schedule.seconds_to_next(64.0) == 1.0
    assert schedule.next(65.0) == "a"


def test_what_becomes_due_during_a_turn_is_not_forgotten() -> None:
    """The turn may have looked before the hour closed."""
    schedule = Schedule(["a"], 0.0, look_every=LOOK)
    schedule.next(0.0)
    schedule.tell("a", 1.0, 1.0)
    schedule.done("a", Outcome.DONE, 2.0)
    assert schedule.next(2.0) == "a"
    schedule.done("a", Outcome.DONE, 3.0)
    assert schedule.next(3.0) is None


def test_pauses_grow_while_a_topic_fails_whatever_becomes_due() -> None:
    schedule = Schedule(["a"], 0.0, look_every=LOOK)
    now, pauses = 0.0, []
    for _ in range(12):
        schedule.next(now)
        schedule.done("a", Outcome.FAILED, now)
        schedule.tell("a", now, now)
        pauses.append(schedule.seconds_to_next(now))
        now += pauses[-1]
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == Pauses().longest_seconds
    schedule.next(now)
    schedule.done("a", Outcome.DONE, now)
    assert schedule.seconds_to_next(now) == LOOK


# --- the workers ---------------------------------------------------------------------------------------------------


def pool_of(turn: Callable[[str, MakesRoom], Outcome], size: int, stop: threading.Event, look: float = 60.0) -> Pool:
    return Pool(Schedule(TOPICS, time.monotonic(), look_every=look), TOPICS, turn, stop, size)


def test_a_topic_that_hangs_holds_one_worker_and_one_that_fails_none() -> None:
    """The other topics' hours are sealed as if alone."""
    stop, released, seen = threading.Event(), threading.Event(), threading.Semaphore(0)
    turns: list[str] = []

    def turn(topic: str, makes_room: MakesRoom) -> Outcome:
        turns.append(topic)
        if topic == "a":
            released.wait(30)
        if topic in "cd":
            seen.release()
        return Outcome.FAILED if topic == "b" else Outcome.DONE

    pool = pool_of(turn, 2, stop)
    pool.start()
    for _ in range(3):
        assert seen.acquire(timeout=10)
        assert seen.acquire(timeout=10)
        at = datetime.now(UTC)
        for topic in ("a", "c", "d"):
            pool.tell(topic, at - timedelta(hours=1), at)
    assert turns.count("a") == 1
    stop.set()
    released.set()
    pool.finish(last_turns=True)


def test_each_topic_has_one_last_turn_after_the_one_under_way() -> None:
    """What ingest closed in its last batch is sealed before the end, never beside itself."""
    stop, under_way = threading.Event(), threading.Event()
    running: list[str] = []
    turns: list[str] = []

    def turn(topic: str, makes_room: MakesRoom) -> Outcome:
        assert topic not in running
        running.append(topic)
        turns.append(topic)
        under_way.set()
        time.sleep(0.01)
        running.remove(topic)
        return Outcome.DONE

    pool = pool_of(turn, 3, stop)
    pool.start()
    assert under_way.wait(10)
    pool.finish(last_turns=True)
    assert sorted(turns[-4:]) == list(TOPICS)


def test_one_shot_jobs_give_each_topic_one_turn() -> None:
    turns: list[str] = []
    pool = pool_of(lambda topic, room: turns.append(topic) or Outcome.DONE, 2, threading.Event())  # type: ignore[func-returns-value]
    pool.finish(last_turns=True)
    assert sorted(turns) == list(TOPICS)


def test_a_topic_makes_room_only_when_another_waits_or_the_run_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand hours of one topic must not hold the one worker; alone, it need not look up."""
    monkeypatch.setattr(pools, "TURN", timedelta(0))
    stop, answers = threading.Event(), []

    def turn(topic: str, makes_room: MakesRoom) -> Outcome:
        answers.append(makes_room(time.monotonic() - 1))
        if len(answers) == len(TOPICS):
            stop.set()
            answers.append(makes_room(time.monotonic() + 60))
        return Outcome.DONE

    pool = pool_of(turn, 1, stop)
    pool.start()
    while not stop.is_set():
        time.sleep(0.001)
    pool.finish(last_turns=True)
    assert answers == [True, True, True, False, True]


def test_what_concerns_all_stops_the_run_and_is_raised() -> None:
    stop = threading.Event()

    def turn(topic: str, makes_room: MakesRoom) -> Outcome:
        raise UnexpectedError("jvm", found="none", expected="one", next_step="Start it.")

    pool = pool_of(turn, 2, stop)
    pool.start()
    assert stop.wait(10)
    with pytest.raises(UnexpectedError):
        pool.finish(last_turns=True)
