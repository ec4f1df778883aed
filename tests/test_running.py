"""Several topics' queries in one application: one that fails is reported, tried again, and holds up no other."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from folders import folders_of
from py4j.protocol import Py4JNetworkError
from subscribing import create_subscription, subscribed_broker

from lakehouse.clock import now
from lakehouse.config import Config
from lakehouse.errors import LakeError, SourceError, StaleDriverError, UnexpectedError, noting_errors
from lakehouse.ingest import supervisor
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.query import TopicIngest
from lakehouse.ingest.supervisor import Pace
from lakehouse.operations import status
from lakehouse.store.delta import open_table, table_exists
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.topics import Topic
from tests.clock import Clock

ACK_DEADLINE = timedelta(seconds=10)
DENIED = SourceError("projects/test/subscriptions/plays", found="no permission", expected="one", next_step="Grant it.")
DONE = Batch(1, None, 0, (), True)


class Query:
    """A query that lives until it is stopped, or dies of an error after some looks at it."""

    def __init__(self, ingest: TopicIngest, dies_of: BaseException | None = None, looks: int = 0) -> None:
        self._ingest, self._error, self._looks = ingest, dies_of, looks
        self._is_stopped = False
        self.status = {"isTriggerActive": False, "message": "Waiting for next trigger"}

    @property
    def isActive(self) -> bool:
        self._looks -= 1
        if self._error is not None and self._looks < 0:
            self._ingest.failure = self._error
            return False
        return not self._is_stopped

    def exception(self) -> None:
        return None

    def stop(self) -> None:
        self._is_stopped = True


HASTY = Pace(0.001, timedelta(milliseconds=1), timedelta(milliseconds=8))
start_queries = partial(supervisor.start_queries, pace=HASTY)
run_until_stopped = partial(supervisor.run_until_stopped, pace=HASTY)


@pytest.fixture
def config(config: Config, topic_with: Callable[..., Topic]) -> Config:
    skips = topic_with(name="skips", subscription="projects/test/subscriptions/skips")
    return replace(config, topics={**config.topics, "skips": skips})


@pytest.fixture
def claimed(config: Config) -> Callable[..., TopicIngest]:
    """A topic that ingest has claimed."""

    def claim(name: str, run: str = "one", clock: Callable[[], datetime] = now) -> TopicIngest:
        ingest = TopicIngest(config.topic(name), config, run=run, clock=clock)
        ingest.open_topic(ACK_DEADLINE)
        return ingest

    return claim


def test_topics_that_cannot_be_read_or_opened_hold_up_no_other(
    config: Config, monkeypatch: pytest.MonkeyPatch, topic_with: Callable[..., Topic]
) -> None:
    """One has no subscription, another one a damaged ledger; only of the first nothing is made."""
    stops = topic_with(name="stops", subscription="projects/test/subscriptions/stops")
    config = replace(config, topics={**config.topics, "stops": stops})
    damaged = Path(folders_of(config.settings, "stops").ledger, "_delta_log")
    damaged.mkdir(parents=True)
    (damaged / "00000000000000000000.json").write_text("no commit")
    with subscribed_broker(monkeypatch):
        create_subscription(stops.subscription)
        ready, failures = supervisor.open_topics(
            TopicIngest(topic, config, run="one") for topic in config.topics.values()
        )
    assert [ingest.name for ingest in ready] == ["plays"]
    assert {ingest.name: type(error) for ingest, error in failures.items()} == {
        "skips": SourceError,
        "stops": LakeError,
    }
    assert states(config) == ["started"]
    assert not table_exists(folders_of(config.settings, "skips").ledger, {})


class Starting:
    """A query whose planner comes up when it is checked for the third time, or never."""

    def __init__(self, *, is_late: bool = False) -> None:
        self._looks = 0
        self.isActive = not is_late

    def exception(self) -> Exception:
        return RuntimeError("Python worker failed to connect back.")

    @property
    def status(self) -> dict[str, str]:
        self._looks += 1
        return {"message": "Initializing sources" if self._looks < 3 else "Waiting for next trigger"}

    @property
    def is_up(self) -> bool:
        return self._looks >= 3


def test_no_more_queries_are_starting_than_there_are_cores(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty planners at once take longer to come up than Spark waits for any of them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    begun: list[Starting] = []
    starting: list[int] = []

    def start(ingest: TopicIngest) -> Starting:
        begun.append(Starting())
        starting.append(sum(not query.is_up for query in begun))
        return begun[-1]

    ingests = [TopicIngest(config.topic("plays"), config, run=f"run-{number}") for number in range(9)]
    queries = start_queries(ingests, start)  # type: ignore[arg-type]
    assert len(queries) == 9
    assert max(starting) == 2
    assert all(query.is_up for query in begun)


@pytest.mark.parametrize("late", [1, 100])
def test_a_planner_that_came_up_too_late_is_started_again_a_few_times(
    config: Config, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """On a busy machine; a planner that cannot start at all must not be tried for ever."""
    begun: list[Starting] = []

    def start(ingest: TopicIngest) -> Starting:
        begun.append(Starting(is_late=len(begun) < late))
        return begun[-1]

    (query,) = start_queries([TopicIngest(config.topic("plays"), config, run="one")], start).values()  # type: ignore[arg-type]
    assert query.isActive == (late == 1)
    assert len(begun) == min(late + 1, 5)


def states(config: Config, name: str = "plays") -> list[str]:
    ledger = Ledger(LedgerTable(open_table(folders_of(config.settings, name).ledger, {})), "test")
    return [entry.state for entry in ledger.history().entries]


class Tried:
    """What starts a topic again: some errors first, and then a query."""

    def __init__(self, *errors: SourceError, then: Callable[[], object] = lambda: None) -> None:
        self._errors, self._then = list(errors), then
        self.tried: list[str] = []

    def __call__(self, ingest: TopicIngest) -> Query:
        self.tried.append(ingest.name)
        if self._errors:
            raise self._errors.pop(0)
        self._then()
        ingest.failure = None
        return Query(ingest)


def test_a_topic_that_fails_is_tried_again_while_the_others_go_on(
    config: Config, claimed: Callable[..., TopicIngest]
) -> None:
    """A subscription that was deleted must not hold up the other 49 topics of an application."""
    stop = threading.Event()
    plays, skips = claimed("plays"), claimed("skips")
    others = Query(skips)
    again = Tried(DENIED, DENIED, then=stop.set)
    run_until_stopped({plays: Query(plays, DENIED), skips: others}, stop, start_again=again)  # type: ignore[dict-item, arg-type]
    assert again.tried == ["plays"] * 3
    assert states(config) == ["started", "failed", "stopped"]
    assert states(config, "skips") == ["started", "stopped"]
    answer = status.statuses(config, ["plays", "skips"], datetime.now(UTC))
    assert [row.state for row in answer] == ["failing", "not running"]
    assert answer[0].failure is not None
    assert (answer[0].failure.error, answer[0].failure.run) == (str(DENIED), "one")


def test_a_query_whose_planner_never_comes_up_is_failing_while_it_is_started_again_and_again(
    config: Config, claimed: Callable[..., TopicIngest]
) -> None:
    """Each start is a few warnings in the log; whoever asks for the status sees the cause, also between two of them."""
    plays, skips, stop = claimed("plays"), claimed("skips"), threading.Event()
    begun: list[Starting] = []
    seen: list[tuple[str, str]] = []

    def start(ingest: TopicIngest) -> Starting:
        (row,) = status.statuses(config, ["plays"], datetime.now(UTC))
        seen.append((row.state, row.failure.error if row.failure else ""))
        begun.append(Starting(is_late=True))
        if len(begun) == 11:
            stop.set()
        return begun[-1]

    dead = Starting(is_late=True)
    with pytest.raises(UnexpectedError, match="Python worker failed to connect back"):
        run_until_stopped({plays: dead, skips: Query(skips)}, stop, start_again=start)  # type: ignore[dict-item, arg-type]
    assert len(begun) >= 11
    assert {state for state, _ in seen} == {"failing"}
    assert all("Python worker failed to connect back" in error for _, error in seen)


def test_a_heartbeat_says_how_often_a_topic_fails_and_why(claimed: Callable[..., TopicIngest]) -> None:
    """The same of one whose query dies at its start, of one that is parked, and of one that works again."""
    plays, skips, stop = claimed("plays"), claimed("skips"), threading.Event()
    pulses = []

    def start_again(ingest: TopicIngest) -> Query:
        pulses.append(ingest.pulse)
        if len(pulses) < 3:
            raise DENIED
        stop.set()
        ingest.failure = None
        return Query(ingest)

    assert plays.pulse.state == "starting"
    run_until_stopped({plays: Query(plays, DENIED), skips: Query(skips)}, stop, start_again=start_again)  # type: ignore[dict-item, arg-type]
    assert [(pulse.state, pulse.failures, pulse.error) for pulse in pulses] == [
        ("failed at start", count, str(DENIED)) for count in (1, 2, 3)
    ]
    assert all(pulse.next_try_at is not None for pulse in pulses)
    assert plays.pulse.state == "ended"
    skips.last_batch = DONE
    skips.record_failure(DENIED)
    assert (skips.pulse.state, skips.pulse.failures) == ("parked", 1)
    well = skips.pulse.after_trigger(datetime.now(UTC), 1, None)
    assert (well.state, well.failures, well.error, well.next_try_at) == ("running", 0, None, None)


def test_the_fence_names_both_applications(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds a topic in two applications must know which to stop."""
    monkeypatch.setattr(TopicIngest, "ack_deadline", lambda ingest: ACK_DEADLINE)

    def ingest(application: str, run: str) -> TopicIngest:
        settings = config.settings.model_copy(update={"application": application})
        opened = TopicIngest(config.topic("plays"), replace(config, settings=settings), run=run)
        opened.open_topic(ACK_DEADLINE)
        return opened

    older = ingest("royalties", "one")
    ingest("charts", "two")
    with pytest.raises(StaleDriverError) as stale:
        older.start_again(None)  # type: ignore[arg-type]
    assert "found run two of application charts on " in str(stale.value)
    assert "expected this run, one of application royalties, to be the newest" in str(stale.value)


def test_a_topic_that_still_fails_when_the_run_is_stopped_makes_it_fail(claimed: Callable[..., TopicIngest]) -> None:
    """Exit code 0 would say that all is well."""
    plays, skips = claimed("plays"), claimed("skips")
    stop = threading.Event()
    errors = [DENIED] * 5

    def again(ingest: TopicIngest) -> Query:
        if len(errors) == 1:
            stop.set()
        raise errors.pop()

    queries = {plays: Query(plays, DENIED), skips: Query(skips)}
    with pytest.raises(SourceError, match="found no permission"):
        run_until_stopped(queries, stop, start_again=again)  # type: ignore[arg-type]
    assert not queries[skips].isActive


def test_a_run_whose_topics_all_fail_ends(claimed: Callable[..., TopicIngest]) -> None:
    """So that whoever started it starts it again, or gives up."""
    plays, skips = claimed("plays"), claimed("skips")
    queries = {plays: Query(plays, DENIED), skips: Query(skips, DENIED, looks=20)}
    again = Tried(*[DENIED] * 1000)
    with pytest.raises(SourceError, match="found no permission"):
        run_until_stopped(queries, threading.Event(), start_again=again)  # type: ignore[arg-type]
    assert set(again.tried) == {"plays"}


def test_a_failure_that_is_no_topic_s_own_ends_the_run(config: Config, claimed: Callable[..., TopicIngest]) -> None:
    plays, skips = claimed("plays"), claimed("skips")
    others = Query(skips)
    with pytest.raises(MemoryError):
        run_until_stopped(
            {plays: Query(plays, MemoryError("heap")), skips: others}, threading.Event(), start_again=Tried()
        )  # type: ignore[dict-item, arg-type]
    assert not others.isActive
    assert states(config) == ["started", "failed"]


def test_a_query_that_dies_while_the_run_is_stopped_is_still_a_failure(claimed: Callable[..., TopicIngest]) -> None:
    """An application that ends with exit code 0 is not restarted."""
    plays, stop = claimed("plays"), threading.Event()
    stop.set()
    with pytest.raises(MemoryError, match="heap"):
        run_until_stopped({plays: Query(plays, MemoryError("heap"))}, stop)  # type: ignore[dict-item]


def test_a_jvm_that_is_gone_ends_the_run(claimed: Callable[..., TopicIngest]) -> None:
    """No topic can go on without it."""
    plays, skips = claimed("plays"), claimed("skips")
    others = Query(skips)

    def again(ingest: TopicIngest) -> Query:
        raise Py4JNetworkError("Answer from Java side is empty")

    with pytest.raises(Py4JNetworkError):
        run_until_stopped({plays: Query(plays, DENIED), skips: others}, threading.Event(), start_again=again)  # type: ignore[dict-item, arg-type]
    assert not others.isActive


class PanicException(BaseException):
    """As pyo3 has it: no Exception."""


UNFORESEEN = (
    KeyError("state"),
    ValueError("first\nsecond"),
    PanicException("index out of bounds"),
    RuntimeError("full"),
)


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_parks_its_topic_alone(
    config: Config, claimed: Callable[..., TopicIngest], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Whatever a library throws: the trace is in the log, one line in `status`, and the neighbours go on."""
    stop = threading.Event()
    plays, skips = claimed("plays"), claimed("skips")
    others = Query(skips)
    again = Tried(error, then=stop.set)  # type: ignore[arg-type]
    run_until_stopped({plays: Query(plays, error), skips: others}, stop, start_again=again)  # type: ignore[dict-item, arg-type]
    assert again.tried == ["plays"] * 2
    assert states(config) == ["started", "failed", "stopped"]
    (row, other) = status.statuses(config, ["plays", "skips"], datetime.now(UTC))
    assert (row.state, other.state) == ("failing", "not running")
    assert row.failure is not None
    assert row.failure.error.startswith(f"ingest of plays: found {type(error).__name__}: ")
    assert "\n" not in row.failure.error
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_a_topic_that_cannot_be_opened_or_started_holds_up_no_other(
    config: Config, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """At the start, too: in the claim of the topic, or in Spark's start of its query."""

    class Broken(TopicIngest):
        def ack_deadline(self) -> timedelta:
            return ACK_DEADLINE

        def open_topic(self, ack_deadline: timedelta) -> None:
            if self.name == "plays":
                raise error
            super().open_topic(ack_deadline)

    ready, failures = supervisor.open_topics(Broken(topic, config, run="one") for topic in config.topics.values())
    assert [ingest.name for ingest in ready] == ["skips"]
    plays = TopicIngest(config.topic("plays"), config, run="one")

    def start(ingest: TopicIngest) -> Query:
        if ingest is plays:
            raise error
        return Query(ingest)

    queries = start_queries([plays, *ready], start, failures)  # type: ignore[arg-type]
    assert [ingest.name for ingest in queries] == ["skips"]
    assert {ingest.name for ingest in failures} == {"plays"}


class StreamFailure(Exception):
    """Spark's exception of a query: nothing but text."""


def test_an_error_of_ours_in_another_process_is_that_error_here(claimed: Callable[..., TopicIngest]) -> None:
    """Spark hands on a trace; kind, subject and next step are in it, whatever the text of the error is."""
    odd = SourceError("a: b\nlakehouse.errors.LakeError: x", found="ü [x]", expected="y", next_step="z.")
    try:
        with noting_errors("plays"):
            raise odd
    except SourceError:
        trace = traceback.format_exc()
    plays = claimed("plays")

    class Dead(Query):
        def exception(self) -> StreamFailure:  # type: ignore[override]
            return StreamFailure(f"[STREAM_FAILED] Job aborted:\n{trace}\n at java")

    with pytest.raises(SourceError) as raised:
        run_until_stopped({plays: Dead(plays, StreamFailure("of the batch"))}, threading.Event())  # type: ignore[dict-item]
    assert raised.value.args == odd.args


def test_a_topic_that_a_newer_run_has_is_left_to_it(config: Config, claimed: Callable[..., TopicIngest]) -> None:
    """To take it back, and be taken from again, would never end; nor does it fail."""
    plays, skips = claimed("plays"), claimed("skips")
    claimed("plays", run="two")
    stale = StaleDriverError("topic plays", found="run two", expected="run one", next_step="Leave it.")
    again, stop = Tried(), threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(StaleDriverError):
        run_until_stopped({plays: Query(plays, stale), skips: Query(skips)}, stop, start_again=again)  # type: ignore[dict-item, arg-type]
    assert again.tried == []
    assert states(config) == ["started", "started"]


def test_until_drained_ends_when_the_others_are_finished_and_says_who_failed(
    claimed: Callable[..., TopicIngest],
) -> None:
    plays, skips = claimed("plays"), claimed("skips")
    skips.last_batch = DONE
    again = Tried()
    with pytest.raises(SourceError, match="found no permission"):
        run_until_stopped(
            {plays: Query(plays, DENIED), skips: Query(skips)},  # type: ignore[dict-item]
            threading.Event(),
            until_drained=True,
            start_again=again,  # type: ignore[arg-type]
        )
    assert again.tried == []


def test_until_drained_ends_with_what_keeps_a_topic_from_being_finished(claimed: Callable[..., TopicIngest]) -> None:
    plays, skips = claimed("plays"), claimed("skips")
    plays.last_batch = replace(DONE, is_finished=False, blocked=DENIED)
    skips.last_batch = DONE
    with pytest.raises(SourceError, match="found no permission"):
        run_until_stopped({plays: Query(plays), skips: Query(skips)}, threading.Event(), until_drained=True)  # type: ignore[dict-item]


def test_a_topic_that_could_not_start_is_tried_again_and_has_no_lake_before_it_can(
    config: Config, claimed: Callable[..., TopicIngest]
) -> None:
    """A mistyped subscription must not make a lake."""
    skips, plays, stop = claimed("skips"), TopicIngest(config.topic("plays"), config, run="one"), threading.Event()
    again = Tried(DENIED, then=stop.set)
    run_until_stopped({skips: Query(skips)}, stop, failures={plays: DENIED}, start_again=again)  # type: ignore[dict-item, arg-type]
    assert again.tried == ["plays", "plays"]
    assert not table_exists(folders_of(config.settings, "plays").ledger, {})


def test_a_run_of_which_nothing_could_start_ends(claimed: Callable[..., TopicIngest], config: Config) -> None:
    claimed("plays")
    plays = TopicIngest(config.topic("plays"), config, run="two")
    with pytest.raises(SourceError, match="found no permission"):
        run_until_stopped({}, threading.Event(), failures={plays: DENIED}, start_again=Tried())  # type: ignore[arg-type]
    assert states(config) == ["started", "failed"]


def test_pauses_grow_while_a_topic_fails_and_are_short_again_after_a_batch(
    claimed: Callable[..., TopicIngest], clock: Clock
) -> None:
    """A subscription that is gone for a week is asked for every few minutes."""
    plays, skips, stop = claimed("plays", clock=clock), claimed("skips"), threading.Event()
    pauses: list[int] = []

    def start_again(ingest: TopicIngest) -> Query:
        assert ingest.pulse.next_try_at is not None
        pauses.append((ingest.pulse.next_try_at - clock.now) // timedelta(milliseconds=1))
        if len(pauses) < 6:
            raise DENIED
        if len(pauses) == 6:
            ingest.last_batch = DONE
            return Query(ingest, DENIED, looks=3)
        stop.set()
        ingest.failure = None
        return Query(ingest)

    run_until_stopped({plays: Query(plays, DENIED), skips: Query(skips)}, stop, start_again=start_again)  # type: ignore[dict-item, arg-type]
    assert pauses == [1, 2, 4, 8, 8, 8, 1]
