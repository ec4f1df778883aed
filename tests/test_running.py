"""Topics of one application: one that fails is reported, tried again, and holds up no other."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from folders import folders_of
from py4j.protocol import Py4JNetworkError
from subscribing import create_subscription, subscribed_broker

from lakehouse.clock import now
from lakehouse.config import Config
from lakehouse.errors import (
    LakeError,
    LakehouseError,
    SlowStoreError,
    SourceError,
    StaleDriverError,
    UnexpectedError,
    noting_errors,
)
from lakehouse.ingest import planning
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.facts import Fact
from lakehouse.ingest.parking import Pace
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.supervisor import Supervisor
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.facts import row_of_error, row_of_idle
from lakehouse.landing.plan import Plan
from lakehouse.landing.slots import Slot
from lakehouse.landing.source import bundles_file
from lakehouse.operations import status
from lakehouse.progress import Frontier
from lakehouse.schemas import FACTS
from lakehouse.store.applications import application_folder
from lakehouse.store.delta import open_table, table_exists
from lakehouse.store.files import LocalStorage
from lakehouse.store.heartbeats import Pulse
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.store.notes import Notes, StopRequest, leave_note
from lakehouse.store.records import CloseRequested
from lakehouse.topics import Topic

ACK_DEADLINE = timedelta(seconds=10)
DENIED = SourceError("projects/test/subscriptions/plays", found="no permission", expected="one", next_step="Grant it.")
DONE = Batch(1, None, 0, (), True)
HASTY = Pace(0.001, timedelta(milliseconds=1), timedelta(milliseconds=8))
PATIENCE_SECONDS = 20
"""For what is due at once; only a failing test waits this long."""


@pytest.fixture
def config(config: Config, topic_with: Callable[..., Topic]) -> Config:
    skips = topic_with(name="skips", subscription="projects/test/subscriptions/skips")
    settings = config.settings.model_copy(update={"application": "charts"})
    return replace(config, settings=settings, topics={**config.topics, "skips": skips})


class Opened(TopicIngest):
    """A topic whose subscription is there, or is not as often as `denied` says."""

    denied: list[BaseException]
    broken: BaseException | None = None
    """What its next commit fails of."""

    def ack_deadline(self) -> timedelta:
        if self.denied:
            raise self.denied.pop(0)
        return ACK_DEADLINE

    def look(self, facts: Sequence[Fact]) -> bool:
        return self.broken is None and super().look(facts)

    def commit_facts(self, facts: Sequence[Fact]) -> Batch:
        if self.broken is not None:
            raise self.broken
        return super().commit_facts(facts)


class Streaming:
    """A streaming query without Spark: with each look at it one more batch has ended, until it dies.

    `brings` says what a topic fails of in an epoch, if it does.
    """

    def __init__(self, query: IngestQuery, brings: Callable[[str, int], LakehouseError | None]) -> None:
        self._query, self._brings = query, brings
        self._is_stopped = False
        self.epoch = Plan.read(query.plan_path).last_epoch
        self.dies_of: BaseException | None = None
        self.status = {"isTriggerActive": False}

    @property
    def isActive(self) -> bool:
        if self._is_stopped or self.dies_of is not None:
            return False
        self.epoch += 1
        rows = [self._row(name) for name in Plan.read(self._query.plan_path).topics]
        try:
            self._query.take([(0, pa.Table.from_pylist(rows, schema=FACTS))])
        except BaseException as failure:
            self.dies_of = RuntimeError(f"the batch failed: {type(failure).__name__}")
        return self.dies_of is None

    def exception(self) -> BaseException | None:
        return self.dies_of

    def stop(self) -> None:
        self._is_stopped = True

    def _row(self, name: str) -> Fact:
        slot, error = Slot(self.epoch, 0, None), self._brings(name, self.epoch)
        row = row_of_error(slot, now(), error, 0) if error else row_of_idle(slot, now(), now(), None, 0)
        return {**row, "topic": name}


class App:
    """An application of the configuration's topics; `brings` is as in `Streaming`."""

    def __init__(self, config: Config, run: str = "one", clock: Callable[[], datetime] = now, **denied: Any) -> None:
        self.config = config
        self.ingests = {name: Opened(topic, config, run=run, clock=clock) for name, topic in config.topics.items()}
        for name, ingest in self.ingests.items():
            ingest.denied = list(denied.get(name, []))
        self.query = IngestQuery(self.ingests.values(), config.settings, run=run, clock=clock, pace=HASTY)
        self.started: list[Streaming] = []
        self.brings: Callable[[str, int], LakehouseError | None] = lambda name, epoch: None
        self.stop = threading.Event()
        self.supervisor = Supervisor(self.query, self.ingests.values(), self._start, pace=HASTY)  # type: ignore[arg-type]
        self.before_start: Callable[[], BaseException | None] = lambda: None

    def _start(self) -> Streaming:
        self.query.failure = None
        self.started.append(Streaming(self.query, lambda name, epoch: self.brings(name, epoch)))
        self.started[-1].dies_of = self.before_start()
        return self.started[-1]

    def open(self, meanwhile: Callable[[], object] = lambda: None) -> App:
        self.supervisor.open(meanwhile)
        return self

    def run(self, **more: Any) -> None:
        threading.Timer(PATIENCE_SECONDS, self.stop.set).start()
        self.supervisor.run(self.stop, **more)


def failing(name: str, *epochs: int, then: Callable[[], object] = lambda: None) -> Callable[[str, int], Any]:
    """What a topic fails of in so many of its epochs; what is to happen after them."""
    left = list(epochs)

    def brings(asked: str, epoch: int) -> LakehouseError | None:
        if asked != name:
            return None
        if left:
            left.pop()
            return DENIED
        then()
        return None

    return brings


def states(config: Config, name: str = "plays") -> list[str]:
    ledger = Ledger(LedgerTable(open_table(folders_of(config.settings, name).ledger, {})), "test")
    return [entry.state for entry in ledger.history().entries if entry.state != "held"]


# --- the start of topics -------------------------------------------------------------------------------------------


def test_topics_that_cannot_be_read_or_opened_hold_up_no_other(
    config: Config, monkeypatch: pytest.MonkeyPatch, topic_with: Callable[..., Topic]
) -> None:
    """One has no subscription, another one a damaged ledger; only of the first nothing is made."""
    stops = topic_with(name="stops", subscription="projects/test/subscriptions/stops")
    config = replace(config, topics={**config.topics, "stops": stops})
    damaged = Path(folders_of(config.settings, "stops").ledger, "_delta_log")
    damaged.mkdir(parents=True)
    (damaged / "00000000000000000000.json").write_text("no commit")
    ingests = [TopicIngest(topic, config, run="one") for topic in config.topics.values()]
    query = IngestQuery(ingests, config.settings)
    supervisor = Supervisor(query, ingests, lambda: None)  # type: ignore[arg-type, return-value]
    with subscribed_broker(monkeypatch):
        create_subscription(stops.subscription)
        supervisor.open()
    assert list(query.topics) == ["plays"]
    assert {name: type(error) for name, error in supervisor.failures.items()} == {
        "skips": SourceError,
        "stops": LakeError,
    }
    assert states(config) == ["started"]
    assert not table_exists(folders_of(config.settings, "skips").ledger, {})


def test_a_topic_that_could_not_start_is_tried_again_and_has_no_lake_before_it_can(config: Config) -> None:
    """A mistyped subscription must not make a lake."""
    app = App(config, plays=[DENIED, DENIED, DENIED]).open()
    assert list(app.query.topics) == ["skips"]
    assert not table_exists(folders_of(config.settings, "plays").ledger, {})
    assert app.ingests["plays"].pulse.state == "failed at start"

    def brings(name: str, epoch: int) -> None:
        if name == "plays":
            app.stop.set()

    app.brings = brings
    app.run()
    assert states(config)[:1] == ["started"]


def test_a_run_of_which_nothing_could_start_ends(config: Config) -> None:
    App(config).open()
    app = App(config, "two", plays=[DENIED], skips=[DENIED]).open()
    with pytest.raises(SourceError, match="found no permission"):
        app.run()
    assert not app.started
    assert states(config) == ["started", "failed"]


def test_what_the_query_needs_begins_before_the_first_topic_is_claimed_if_one_can_be_read(config: Config) -> None:
    """From a topic's claim on nobody else reads it; and a run that can read nothing has no use for Spark."""
    begun: list[bool] = []

    def begin() -> None:
        begun.append(table_exists(folders_of(config.settings, "plays").ledger, {}))

    App(config, plays=[DENIED], skips=[DENIED]).open(begin)
    assert begun == []
    App(config, "two", plays=[DENIED]).open(begin)
    App(config, "three").open(begin)
    assert begun == [False, False]


# --- a topic that fails --------------------------------------------------------------------------------------------


def test_a_topic_that_fails_is_tried_again_while_the_others_go_on(config: Config) -> None:
    """A subscription that was deleted must not hold up the other 49 topics of an application."""
    app = App(config).open()
    others: list[int] = []
    fails = failing("plays", 1, 2, 3, then=app.stop.set)

    def brings(name: str, epoch: int) -> LakehouseError | None:
        if name == "skips":
            others.append(epoch)
        return fails(name, epoch)

    app.brings = brings
    app.run()
    assert states(config) == ["started", "failed", "recovered", "stopped"]
    assert states(config, "skips") == ["started", "stopped"]
    assert len(others) > 3
    assert others == list(range(others[0], others[-1] + 1)), "one of each epoch"
    assert len(app.started) == 1, "the query goes on"


def test_a_heartbeat_says_how_often_a_topic_fails_and_why(config: Config) -> None:
    app = App(config).open()
    plays = app.ingests["plays"]
    seen = []
    fails = failing("plays", 1, 2, 3, then=app.stop.set)

    def brings(name: str, epoch: int) -> LakehouseError | None:
        if name == "plays":
            seen.append(plays.pulse)
        return fails(name, epoch)

    assert plays.pulse.state == "starting"
    app.brings = brings
    app.run()
    assert [(pulse.state, pulse.failures, pulse.error) for pulse in seen[1:4]] == [
        ("parked", count, str(DENIED)) for count in (1, 2, 3)
    ]
    assert all(pulse.next_try_at is not None for pulse in seen[1:4])
    assert plays.pulse.state == "ended"


def test_pauses_grow_while_a_topic_fails_and_are_short_again_after_a_batch(config: Config) -> None:
    """A subscription that is gone for a week is asked for every few minutes."""
    app = App(config).open()
    pauses = []
    for _ in range(5):
        app.query.park("plays", DENIED)
        pauses.append(app.query.parking.next_pause("plays", DENIED))
    assert [pause // timedelta(milliseconds=1) for pause in pauses if pause] == [2, 4, 8, 8, 8]
    app.query.parking.recover("plays")
    assert app.query.parking.next_pause("plays", DENIED) == HASTY.first_pause


def test_a_topic_that_still_fails_when_the_run_is_stopped_makes_it_fail(config: Config) -> None:
    """Exit code 0 would say that all is well."""
    app = App(config).open()

    def brings(name: str, epoch: int) -> LakehouseError | None:
        if epoch > 5:
            app.stop.set()
        return DENIED if name == "plays" else None

    app.brings = brings
    with pytest.raises(SourceError, match="found no permission"):
        app.run()
    assert states(config, "skips") == ["started", "stopped"]


def test_a_run_whose_topics_all_fail_ends(config: Config) -> None:
    """So that whoever started it starts it again, or gives up."""
    app = App(config).open()
    app.brings = lambda name, epoch: DENIED
    with pytest.raises(SourceError, match="found no permission"):
        app.run()
    assert app.started[0].epoch < 5


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
    config: Config, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Whatever a library throws: the trace is in the log, one line in `status`, and the neighbours go on."""
    app = App(config).open()
    app.ingests["plays"].broken = error

    def brings(name: str, epoch: int) -> None:
        if epoch > 4:
            app.stop.set()

    app.brings = brings
    with pytest.raises(UnexpectedError):
        app.run()
    assert states(config) == ["started", "failed"]
    (row, other) = status.statuses(config, ["plays", "skips"], now())
    assert (row.state, other.state) == ("failing", "not running")
    assert row.failure is not None
    assert row.failure.error.startswith(f"ingest of plays: found {type(error).__name__}: ")
    assert "\n" not in row.failure.error
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_a_topic_that_cannot_be_opened_holds_up_no_other(config: Config, error: BaseException) -> None:
    app = App(config, plays=[error]).open()
    assert list(app.query.topics) == ["skips"]
    assert set(app.supervisor.failures) == {"plays"}


def test_a_topic_that_a_newer_run_has_is_left_to_it(config: Config) -> None:
    """To take it back, and be taken from again, would never end; nor does it fail."""
    app = App(config).open()
    only_plays = replace(config, topics={"plays": config.topic("plays")})
    App(only_plays, "two").open()
    plays: list[int] = []

    def brings(name: str, epoch: int) -> None:
        if name == "plays":
            plays.append(epoch)
        if epoch > 8:
            app.stop.set()

    app.brings = brings
    with pytest.raises(StaleDriverError):
        app.run()
    assert len(plays) <= 2, "a note told it, though nothing came to commit"
    assert states(config) == ["started", "started"]
    assert app.ingests["plays"].pulse.state == "taken over"


def test_the_fence_names_both_applications(config: Config) -> None:
    """Who finds a topic in two applications must know which to stop."""

    def claimed(application: str, run: str) -> TopicIngest:
        settings = config.settings.model_copy(update={"application": application})
        opened = TopicIngest(config.topic("plays"), replace(config, settings=settings), run=run)
        opened.open_topic(ACK_DEADLINE)
        return opened

    older = claimed("royalties", "one")
    claimed("charts", "two")
    with pytest.raises(StaleDriverError) as stale:
        older.check_newest()
    assert "found run two of application charts on " in str(stale.value)
    assert "expected this run, one of application royalties, to be the newest" in str(stale.value)


# --- a store that does not answer ----------------------------------------------------------------------------------


def test_a_commit_that_hangs_holds_up_no_other_topic_and_is_taken_back_when_it_ends(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its topic leaves the plan meanwhile, and says why."""
    monkeypatch.setattr(planning, "LEAST_PATIENCE", timedelta(milliseconds=300))
    settings = config.settings
    short = settings.ingest.model_copy(update={"trigger": timedelta(milliseconds=1)})
    config = replace(config, settings=settings.model_copy(update={"ingest": short}))
    app = App(config).open()
    answers, epochs = threading.Event(), {"plays": list[int](), "skips": list[int]()}
    commit = Opened.commit_facts

    def hanging(ingest: Opened, facts: Sequence[Fact]) -> Batch:
        if ingest.name == "plays":
            answers.wait(PATIENCE_SECONDS)
        return commit(ingest, facts)

    monkeypatch.setattr(Opened, "commit_facts", hanging)
    errors: list[str | None] = []

    def brings(name: str, epoch: int) -> None:
        epochs[name].append(epoch)
        errors.append(app.ingests["plays"].pulse.error)
        if len(epochs["skips"]) > 5:
            answers.set()
        if len(epochs["plays"]) > 1:
            app.stop.set()

    app.brings = brings
    app.run()
    first, second, *_ = epochs["plays"]
    assert second - first > 5
    assert epochs["skips"][:6] == list(range(first, first + 6))
    assert any("a commit that takes longer than" in (error or "") for error in errors)


def test_what_is_recorded_of_a_topic_whose_segment_is_late_is_not_waited_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger is where its segments are, and may hang as well: the epoch would wait a second time."""
    app = App(config).open()
    answers, epochs, pulses = threading.Event(), list[int](), list[Pulse]()
    late = SlowStoreError("plays", found="no segment", expected="a store that answers", next_step="Wait.")

    def hanging(ingest: Opened, error: BaseException, tried_again_in: timedelta | None = None) -> None:
        answers.wait(PATIENCE_SECONDS)

    def brings(name: str, epoch: int) -> LakehouseError | None:
        if name == "skips":
            epochs.append(epoch)
            if len(epochs) == 4:
                assert app.query.parking.is_slow("plays")
                pulses.append(app.ingests["plays"].pulse)
                answers.set()
                app.stop.set()
        return late if name == "plays" else None

    monkeypatch.setattr(planning, "LEAST_PATIENCE", timedelta(hours=1))
    monkeypatch.setattr(Opened, "record_failure", hanging)
    app.brings = brings
    began = time.monotonic()
    with pytest.raises(SlowStoreError):
        app.run()
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert [pulse.error for pulse in pulses] == [str(late)]


def test_a_topic_whose_segment_is_late_among_others_has_a_task_of_its_own_before_it_is_parked(config: Config) -> None:
    """The others wait for it only a little: that is no time in which a store must have answered."""
    app = App(config).open()
    late = SlowStoreError("plays", found="no segment", expected="a store that answers", next_step="Wait.")
    seen = []

    def brings(name: str, epoch: int) -> LakehouseError | None:
        if name == "skips":
            plan = app.query.plan().topics.get("plays")
            seen.append((plan and (plan.is_apart, plan.patience_seconds), app.query.parking.is_slow("plays")))
            if len(seen) == 3:
                app.stop.set()
        return late if name == "plays" else None

    app.brings = brings
    with pytest.raises(SlowStoreError):
        app.run()
    own_task = (True, planning.patience(config.settings.ingest.trigger).total_seconds())
    assert seen[:2] == [((False, own_task[1]), False), (own_task, False)]
    assert seen[2][1], "it has had a task of its own"


@pytest.mark.parametrize("way", ["its segment is late", "its look fails", "its commit fails"])
def test_the_frontier_hears_of_an_attempt_that_died_where_no_batch_is_made_of_it(
    config: Config, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leased is not there for the next epoch, which would find the subscription drained."""
    attempts: list[int] = []

    class Heard:
        def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
            attempts.extend(fact["attempt"] for fact in facts)
            return Frontier(None, None, "nothing is known", "test")

    app = App(config)
    plays = app.ingests["plays"]
    monkeypatch.setattr(plays, "_frontier", Heard())
    app.open()

    def take(epoch: int, attempt: int, error: LakehouseError | None = None) -> None:
        slot = Slot(epoch, 0, None)
        row = row_of_error(slot, now(), error, attempt) if error else row_of_idle(slot, now(), now(), None, attempt)
        app.query.take([(0, pa.Table.from_pylist([{**row, "topic": "plays"}], schema=FACTS))])

    kind = SlowStoreError if way == "its segment is late" else LakeError
    trouble = kind("plays", found="no segment", expected="a store that answers", next_step="Wait.")

    def fails(facts: Sequence[Fact]) -> bool:
        raise trouble

    with monkeypatch.context() as troubled:
        if way == "its look fails":
            troubled.setattr(plays, "look", fails)
        if way == "its commit fails":
            troubled.setattr(plays, "broken", trouble)
        take(1, 1, trouble if way == "its segment is late" else None)
    assert attempts == []
    take(2, 0)
    assert attempts[:2] == [1, 0]
    take(3, 0)
    assert set(attempts[2:]) == {0}


def test_a_slow_topic_is_waited_for_once(config: Config) -> None:
    app = App(config).open()
    slow = SlowStoreError("plays", found="nothing", expected="an answer", next_step="Wait.")
    app.query.park("plays", slow)
    time.sleep(0.01)
    plan = app.query.plan().topics["plays"]
    assert (plan.is_apart, plan.patience_seconds) == (True, 2.0)
    assert not app.query.parking.is_failing("plays"), "it is no reason to end the run"
    app.query.parking.recover("plays", has_answered=False)
    assert app.query.plan().topics["plays"].is_apart, "an idle trigger asks its store for nothing"
    app.query.parking.recover("plays")
    assert not app.query.plan().topics["plays"].is_apart


# --- requests ------------------------------------------------------------------------------------------------------


def test_idle_topics_cost_one_request_per_trigger_for_all_of_them(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the notes."""
    app = App(config).open()
    listed: list[str] = []
    listing = LocalStorage.listing

    def counted(storage: LocalStorage, folder: str) -> Any:
        listed.append(storage.address(folder))
        return listing(storage, folder)

    def touched(*_: object) -> None:
        raise AssertionError("the store was asked")

    def brings(name: str, epoch: int) -> None:
        if epoch == 4:
            monkeypatch.setattr(LocalStorage, "listing", counted)
            for method in ("read", "put_if_absent", "create", "write"):
                monkeypatch.setattr(LocalStorage, method, touched)
        if epoch == 14:
            monkeypatch.undo()
            app.stop.set()

    app.brings = brings
    app.run()
    assert 9 <= len(listed) <= 10
    assert {Path(path).name or Path(path).parent.name for path in listed} == {"notes"}


def test_a_request_is_looked_at_within_a_trigger_though_nothing_comes(config: Config) -> None:
    """Nobody else would look into an idle topic's ledger."""
    hour = "2026-11-23T05"
    of_hour = config.topic("plays").model_copy(update={"first_hour": hour})
    app = App(replace(config, topics={**config.topics, "plays": of_hour})).open()
    asked: list[int] = []

    def brings(name: str, epoch: int) -> None:
        if name != "plays":
            return
        if epoch == 6:
            ledger = open_table(folders_of(config.settings, "plays").ledger, {})
            Ledger(LedgerTable(ledger), "test").record(CloseRequested(by="ann", reason="now"), hour)
            leave_note(config.settings, "charts", "plays")
            asked.append(epoch)
        if asked and epoch == asked[0] + 1:
            app.stop.set()

    app.brings = brings
    app.run()
    assert "closed" in states(config)


def ask_to_stop(config: Config, topic: str | None, run: str = "one") -> None:
    Notes(config.settings).ask_to_stop(run, StopRequest(topic, "ann", "a move"))


def test_a_run_stops_between_two_batches_when_it_is_asked_through_the_store(config: Config) -> None:
    """On YARN there is no signal that leaves time for it."""
    app = App(config).open()
    epochs: list[int] = []

    def brings(name: str, epoch: int) -> None:
        epochs.append(epoch)
        if len(epochs) == 5:
            ask_to_stop(config, None)

    app.brings = brings
    app.run()
    assert app.stop.is_set(), "the stages of the run stop, too"
    assert len(set(epochs)) <= 5
    assert states(config) == states(config, "skips") == ["started", "stopped"]


def test_a_request_to_another_run_stops_nobody(config: Config) -> None:
    """One that came late must not stop what a person has started since."""
    app = App(config).open()
    ask_to_stop(config, None, run="an earlier one")

    def brings(name: str, epoch: int) -> None:
        if epoch == 9:
            app.stop.set()

    app.brings = brings
    app.run()
    assert not app.query.is_asked_to_stop


def test_a_topic_is_left_when_it_is_asked_for_and_the_others_go_on(config: Config) -> None:
    app = App(config).open()
    after: list[int] = []

    def brings(name: str, epoch: int) -> None:
        if (name, epoch) == ("plays", 3):
            ask_to_stop(config, "plays")
        if name == "skips" and "plays" not in app.query.topics:
            after.append(epoch)
            if len(after) == 3:
                assert app.ingests["plays"].pulse.state == "ended"
                assert not app.query.is_polled("plays")
                app.stop.set()

    app.brings = brings
    app.run()
    assert after
    assert states(config) == ["started", "stopped"]
    assert status.statuses(config, ["plays"], now())[0].state == "not running"


def test_a_run_that_was_asked_to_leave_all_its_topics_ends_in_order(config: Config) -> None:
    """One of them fails, and one cannot even be opened: nobody wants them any more."""
    app = App(config, skips=[DENIED] * 1000).open()
    app.brings = failing("plays", *range(1000))

    def ask() -> None:
        for name in ("plays", "skips"):
            ask_to_stop(config, name)

    ask()
    app.run()
    assert app.stop.is_set()
    assert app.ingests["skips"].pulse.state == app.ingests["plays"].pulse.state == "ended"


def test_a_request_that_nobody_can_read_stops_nobody(config: Config) -> None:
    notes = Notes(config.settings)
    storage = application_folder(config.settings).below("notes").files()
    for name, content in {"a": b"", "b": b"{", "c": b"[]", "d": b'{"topic": 1}'}.items():
        storage.write(f"_stop/one/{name}", content)
    assert notes.look(now(), "one").stops == ()


# --- what concerns all ---------------------------------------------------------------------------------------------


def test_a_failure_that_is_no_topic_s_own_ends_the_run(config: Config) -> None:
    app = App(config).open()
    app.ingests["plays"].broken = MemoryError("heap")
    with pytest.raises(MemoryError):
        app.run()
    assert states(config) == ["started", "failed"]


def test_a_jvm_that_is_gone_ends_the_run(config: Config) -> None:
    """No topic can go on without it."""
    app = App(config).open()
    app.ingests["plays"].broken = Py4JNetworkError("Answer from Java side is empty")
    with pytest.raises(Py4JNetworkError):
        app.run()


def test_a_query_that_dies_while_the_run_is_stopped_is_still_a_failure(config: Config) -> None:
    """An application that ends with exit code 0 is not restarted."""
    app = App(config).open()
    app.stop.set()
    app.before_start = lambda: MemoryError("heap")
    with pytest.raises(MemoryError, match="heap"):
        app.run()


class StreamFailure(Exception):
    """Spark's exception of a query: nothing but text."""


@pytest.mark.parametrize("late", [2, 100])
def test_a_query_whose_planner_came_up_too_late_is_started_again_a_few_times(config: Config, late: int) -> None:
    """On a busy machine; a planner that cannot start at all must not be tried for ever."""
    app = App(config).open()
    app.before_start = lambda: (
        StreamFailure("Python worker failed to connect back.") if len(app.started) <= late else None
    )
    app.brings = lambda name, epoch: app.stop.set()
    if late == 2:
        app.run()
    else:
        with pytest.raises(StreamFailure, match="failed to connect back"):
            app.run()
    assert len(app.started) == min(late + 1, 5)


def test_an_error_of_ours_in_another_process_is_that_error_here(config: Config) -> None:
    """Spark hands on a trace; kind, subject and next step are in it, whatever the text of the error is."""
    odd = SourceError("a: b\nlakehouse.errors.LakeError: x", found="ü [x]", expected="y", next_step="z.")
    try:
        with noting_errors("plays"):
            raise odd
    except SourceError:
        trace = traceback.format_exc()
    app = App(config).open()
    app.before_start = lambda: StreamFailure(f"[STREAM_FAILED] Job aborted:\n{trace}\n at java")
    with pytest.raises(SourceError) as raised:
        app.run()
    assert raised.value.args == odd.args


def test_who_was_in_a_task_that_died_is_pulled_apart_and_parked_when_it_kills_again(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what kills a process can touch a neighbour."""
    app = App(config).open()
    died = StreamFailure("Job aborted: Task 0 in stage 7.0 failed: Python worker exited unexpectedly (crashed)")
    plans: list[Plan] = []

    def before_start() -> BaseException | None:
        plans.append(app.query.plan())
        tasks = [["plays", "skips"], ["plays"], None]
        task = tasks[min(len(app.started) - 1, 2)]
        if task is None:
            return None
        bundles_file(app.query.plan_path).write_text(json.dumps([task]))
        app.query.died = {0: died}
        return died

    app.before_start = before_start
    app.brings = lambda name, epoch: app.stop.set()
    app.run()
    assert "topic=plays state=parked" in caplog.text
    assert "a task that died twice while it pulled this topic alone" in caplog.text
    assert [sorted(name for name, each in plan.topics.items() if each.is_apart) for plan in plans[:2]] == [
        [],
        ["plays", "skips"],
    ]
    assert [plan.is_suspect for plan in plans] == [False, True, True]


# --- until drained -------------------------------------------------------------------------------------------------


def test_until_drained_ends_when_the_others_are_finished_and_says_who_failed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(config).open()
    monkeypatch.setattr(Opened, "look", lambda ingest, facts: setattr(ingest, "last_batch", DONE) or True)
    app.brings = lambda name, epoch: DENIED if name == "plays" else None
    with pytest.raises(SourceError, match="found no permission"):
        app.run(until_drained=True)
    assert app.started[0].epoch < 5


def test_until_drained_waits_for_a_topic_whose_store_is_slow(config: Config) -> None:
    """What fails is given up; what only takes its time was left out for ever, and the run never ended."""
    app = App(config).open()
    app.query.parking.is_final = True
    slow = SlowStoreError("plays", found="nothing", expected="an answer", next_step="Wait.")
    app.query.park("plays", slow)
    app.query.park("skips", DENIED)
    time.sleep(0.01)
    assert list(app.query.plan().topics) == ["plays"]


def test_until_drained_ends_with_what_keeps_a_topic_from_being_finished(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(config).open()
    blocked = replace(DONE, is_finished=False, blocked=DENIED)

    def look(ingest: Opened, facts: Sequence[Fact]) -> bool:
        ingest.last_batch = blocked if ingest.name == "plays" else DONE
        return True

    monkeypatch.setattr(Opened, "look", look)
    with pytest.raises(SourceError, match="found no permission"):
        app.run(until_drained=True)
