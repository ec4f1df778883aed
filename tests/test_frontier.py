"""What is known of the frontier, from slots that were drained and from Cloud Monitoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from folders import folders_of
from google.api_core.exceptions import PermissionDenied
from google.cloud.monitoring_v3 import MetricServiceClient
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport
from google.cloud.pubsub_v1 import PublisherClient
from subscribing import SUBSCRIPTION, subscribed_broker

from lakehouse.config import Config
from lakehouse.hours import hour_of
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.frontier import (
    ClockCheck,
    DrainedFrontier,
    MonitoringFrontier,
    fresh,
    monitoring_client,
    store_ahead,
)
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.brokers.contract import LONGEST_HOLD
from lakehouse.landing.slots import Slot
from lakehouse.operations.explain import explain_hour
from lakehouse.operations.snapshot import read_topic
from lakehouse.progress import Frontier
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.monitoring import DENIED, FRESH, MISSING, Sampling
from lakehouse.store.files import Storage, Stored, storage_for
from lakehouse.topics import Topic
from tests.clock import NOON, Clock
from tests.pulls import facts_of, land_of

ACK_DEADLINE = timedelta(seconds=10)
MAX_AGE = timedelta(minutes=5)
UNTRUSTED_SECONDS = (LONGEST_HOLD + ACK_DEADLINE).total_seconds()
"""After a slot was given up, and after the clock was set."""


def after_noon(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def slot(dry_at: datetime | None, attempt: int = 0) -> dict[str, Any]:
    return {"dry_at": dry_at, "attempt": attempt}


# --- dry -----------------------------------------------------------------------------------------------------------


class Steady:
    """A clock that nobody sets: by the test it goes on as the other one does, until that is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def drained(trusted_from: datetime = NOON) -> DrainedFrontier:
    """By a clock that can be believed, whatever the test says that it is."""

    class Believed(ClockCheck):
        def problem(self, now: datetime, newest_publish_time: datetime | None) -> str | None:
            return None

    return DrainedFrontier(ACK_DEADLINE, MAX_AGE, trusted_from, Believed())


@pytest.fixture
def dry() -> DrainedFrontier:
    return drained()


def test_the_frontier_is_when_the_drained_subscription_was_asked(dry: DrainedFrontier) -> None:
    assert dry.observe([slot(after_noon(1))], after_noon(2)).at == after_noon(1)


def test_all_slots_must_be_drained(dry: DrainedFrontier) -> None:
    """What one slot could not finish may be older than what the other found nothing of."""
    assert dry.observe([slot(after_noon(1)), slot(None)], after_noon(2)).at is None


def test_the_slot_that_was_drained_first_counts(dry: DrainedFrontier) -> None:
    assert dry.observe([slot(after_noon(3)), slot(after_noon(1))], after_noon(4)).at == after_noon(1)


def test_an_epoch_that_is_not_drained_keeps_what_was_known(dry: DrainedFrontier) -> None:
    dry.observe([slot(after_noon(1))], after_noon(2))
    assert dry.observe([slot(None)], after_noon(60)).at == after_noon(1)


def test_the_frontier_never_goes_back(dry: DrainedFrontier) -> None:
    """A replayed epoch tells of an older dry moment."""
    dry.observe([slot(after_noon(9))], after_noon(10))
    assert dry.observe([slot(after_noon(1))], after_noon(11)).at == after_noon(9)


def test_an_old_drained_moment_is_no_frontier(dry: DrainedFrontier) -> None:
    dry.observe([slot(after_noon(0))], after_noon(1))
    frontier = dry.observe([slot(None)], after_noon(301))
    assert frontier.at is None
    assert frontier.sampled_at == NOON
    assert "older than 5 minutes" in frontier.text


def test_a_drained_slot_counts_only_when_no_dead_attempt_can_hold_messages() -> None:
    """An earlier run's leases end one ack deadline after its death."""
    dry = drained(after_noon(10))
    early = dry.observe([slot(after_noon(5))], after_noon(6))
    assert early.at is None
    assert "12:00:10" in early.text
    assert dry.observe([slot(after_noon(10))], after_noon(11)).at == after_noon(10)


def test_a_retried_slot_makes_the_frontier_wait_again(dry: DrainedFrontier) -> None:
    """Its first attempt died with messages in its hands."""
    retried = dry.observe([slot(after_noon(1), attempt=1)], after_noon(2))
    assert retried.at is None
    assert dry.observe([slot(after_noon(11))], after_noon(11.5)).at is None
    assert dry.observe([slot(after_noon(12))], after_noon(13)).at == after_noon(12)


def slot_given_up(now: datetime) -> dict[str, Any]:
    return {**slot(None), "unanswered_at": now + LONGEST_HOLD}


def test_a_retried_slot_makes_the_wait_for_one_that_was_given_up_no_shorter(dry: DrainedFrontier) -> None:
    dry.observe([slot_given_up(NOON)], NOON)
    dry.observe([slot(after_noon(1), attempt=1)], after_noon(1))
    for seconds in (UNTRUSTED_SECONDS - 1, UNTRUSTED_SECONDS):
        is_over = seconds == UNTRUSTED_SECONDS
        assert (dry.observe([slot(after_noon(seconds))], after_noon(seconds)).at is not None) is is_over


def test_a_slot_whose_clock_is_ahead_is_waited_for_no_longer_than_others(dry: DrainedFrontier) -> None:
    dry.observe([slot_given_up(after_noon(TEN_HOURS))], NOON)
    assert dry.observe([slot(after_noon(UNTRUSTED_SECONDS))], after_noon(UNTRUSTED_SECONDS)).at is not None


def test_before_the_subscription_was_drained_the_reason_says_so(dry: DrainedFrontier) -> None:
    expected = Frontier(None, None, "the subscription was not drained yet", "not drained")
    assert dry.observe([slot(None)], after_noon(1)) == expected


# --- the machine's clock -------------------------------------------------------------------------------------------

TEN_HOURS = 36_000


def test_a_clock_that_jumps_ahead_and_back_closes_nothing() -> None:
    """Ten hours closed at once, and stayed ahead of every event that came after."""
    steady = Steady()
    dry = DrainedFrontier(ACK_DEADLINE, MAX_AGE, NOON, ClockCheck(steady))
    assert dry.observe([slot(after_noon(1))], after_noon(2)).at == after_noon(1)
    steady.seconds += 10
    ahead = dry.observe([slot(after_noon(TEN_HOURS))], after_noon(TEN_HOURS + 1))
    assert (ahead.at, ahead.problem) == (None, "clock")
    assert "jumped ahead by" in ahead.text
    steady.seconds += 10
    assert dry.observe([slot(after_noon(21))], after_noon(22)).at == after_noon(1)
    steady.seconds += UNTRUSTED_SECONDS
    later = 22 + UNTRUSTED_SECONDS
    assert dry.observe([slot(after_noon(later))], after_noon(later)).at == after_noon(later)


@pytest.mark.parametrize("jump", [TEN_HOURS, -TEN_HOURS])
@pytest.mark.parametrize("is_given_up_before", [True, False], ids=["given up before it", "given up after it"])
@pytest.mark.parametrize("goes_back", [True, False], ids=["the clock goes back", "the broker confirms the clock"])
def test_what_a_slot_holds_is_waited_for_by_a_clock_that_was_set_meanwhile(
    jump: int, is_given_up_before: bool, goes_back: bool
) -> None:
    """In full, and not for the hours by which the clock was wrong."""
    steady = Steady()
    dry = DrainedFrontier(ACK_DEADLINE, MAX_AGE, NOON, ClockCheck(steady))
    ahead, given_up_at = 0, 1 if is_given_up_before else 2

    def observe(seconds: float, *slots: dict[str, Any], confirmed: bool = False) -> Frontier:
        now = after_noon(seconds + ahead)
        steady.seconds = seconds
        newest = {"max_publish_time": now} if confirmed else {}
        return dry.observe([{**each, **newest} for each in slots or [slot(now)]], now)

    observe(0, slot(None))
    if is_given_up_before:
        observe(1, slot_given_up(after_noon(1)))
    ahead = jump
    if not is_given_up_before:
        assert observe(2, slot_given_up(after_noon(2 + ahead))).problem == "clock"
    if goes_back:
        assert observe(3).problem == "clock"
        ahead = 0
    released_at = given_up_at + UNTRUSTED_SECONDS
    for seconds in (4, released_at - 1):
        assert observe(seconds, confirmed=not goes_back).at is None
    last = released_at + UNTRUSTED_SECONDS
    assert observe(last).at == after_noon(last + ahead)


@pytest.mark.parametrize("jump", [TEN_HOURS, -TEN_HOURS])
def test_a_clock_that_was_set_right_is_believed_when_the_broker_says_the_same(jump: int) -> None:
    """Not before: on an idle topic nobody knows which of the two was right."""
    steady = Steady()
    check = ClockCheck(steady)
    assert check.problem(NOON, None) is None
    assert check.problem(after_noon(jump), None) is not None
    assert check.problem(after_noon(jump + 1), after_noon(jump)) is None
    assert check.problem(after_noon(jump + 2), None) is None


@pytest.mark.parametrize("ahead", [TEN_HOURS, -TEN_HOURS])
def test_a_machine_that_starts_with_another_clock_than_its_store_closes_nothing(ahead: int) -> None:
    """Until it is set right, by itself or by hand; then the store agrees."""
    steady = Steady()
    dry = DrainedFrontier(
        ACK_DEADLINE, MAX_AGE, after_noon(-2 * TEN_HOURS), ClockCheck(steady, timedelta(seconds=-ahead))
    )
    wrong = dry.observe([slot(after_noon(ahead))], after_noon(ahead))
    assert (wrong.at, wrong.problem) == (None, "clock")
    assert f"10 hours {'ahead of' if ahead > 0 else 'behind'} the store's" in wrong.text
    steady.seconds += 10
    assert dry.observe([slot(after_noon(9))], after_noon(10)).problem == "leases"
    steady.seconds += UNTRUSTED_SECONDS
    later = 10 + UNTRUSTED_SECONDS
    assert dry.observe([slot(after_noon(later))], after_noon(later)).at == after_noon(later)


def test_the_store_s_clock_is_that_of_the_newest_row() -> None:
    class Bucket:
        has_clock = True

        def listing(self, folder: str, since: str) -> list[Stored]:
            assert since == f"{7:020d}"
            assert folder == "_delta_log"
            return [Stored(f"_delta_log/{n}.json", 1, after_noon(n)) for n in (7, 3)]

    assert store_ahead(cast(Storage, Bucket()), 7, lambda: after_noon(5)) == timedelta(seconds=2)


def test_a_folder_has_no_clock_of_its_own(tmp_path: Path) -> None:
    storage = storage_for(str(tmp_path))
    assert storage.put_if_absent("_delta_log/0.json", b"{}")
    assert store_ahead(storage, 7, lambda: NOON) == timedelta(0)


def test_a_clock_behind_the_broker_s_is_reported() -> None:
    problem = ClockCheck(Steady()).problem(NOON, after_noon(3600))
    assert problem is not None
    assert "60 minutes behind the broker's" in problem or "1 hour behind the broker's" in problem


def test_a_clock_that_drifts_or_steps_as_ntp_lets_it_is_believed() -> None:
    steady, now = Steady(), NOON
    check = ClockCheck(steady)
    for _ in range(50):
        steady.seconds += 600
        now += timedelta(seconds=660)
        assert check.problem(now, None) is None


def test_a_slot_on_a_machine_whose_clock_is_ahead_does_not_count(dry: DrainedFrontier) -> None:
    assert dry.observe([slot(after_noon(TEN_HOURS))], after_noon(1)).at is None


# --- Cloud Monitoring ----------------------------------------------------------------------------------------------


@pytest.fixture
def broker(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with subscribed_broker(monkeypatch, clock.seconds) as broker:
        yield broker


@pytest.fixture
def monitoring(broker: Broker) -> Iterator[Callable[..., MonitoringFrontier]]:
    with grpc.insecure_channel(broker.address) as channel:
        client = MetricServiceClient(transport=MetricServiceGrpcTransport(channel=channel))
        yield lambda subscription=SUBSCRIPTION, ask_every=timedelta(0): MonitoringFrontier(
            subscription, client, MAX_AGE, ask_every=ask_every
        )


def publish(payload: bytes = b"{}") -> None:
    publisher = PublisherClient()
    publisher.publish("projects/test/topics/plays", payload).result(10)
    publisher.stop()
    publisher.transport.close()


def test_the_frontier_is_the_sample_s_time_less_the_oldest_message_s_age(
    monitoring: Callable[..., MonitoringFrontier], clock: Clock
) -> None:
    publish()
    clock.now = after_noon(90)
    frontier = monitoring().observe([], clock.now)
    assert frontier.sampled_at is not None
    assert frontier.at is not None
    assert after_noon(-60) <= frontier.at <= NOON
    assert "the oldest message was" in frontier.text


def test_a_frontier_is_never_later_than_the_oldest_message(
    monitoring: Callable[..., MonitoringFrontier], clock: Clock
) -> None:
    """Ages are whole seconds, rounded down: one second more is taken off."""
    publish()
    for millis in (0, 1, 500, 999, 1000, 1999):
        clock.now = after_noon(millis / 1000)
        frontier = monitoring().observe([], clock.now)
        assert frontier.at is not None
        assert NOON - timedelta(seconds=1) <= frontier.at <= NOON


def test_without_unacknowledged_messages_the_frontier_is_a_second_before_the_sample(
    monitoring: Callable[..., MonitoringFrontier], clock: Clock
) -> None:
    frontier = monitoring().observe([], clock.now)
    assert frontier.sampled_at is not None
    assert frontier.at == frontier.sampled_at - timedelta(seconds=1)


def test_the_sandbox_s_broker_can_stand_in_for_cloud_monitoring(
    broker: Broker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`frontier.source: monitoring` works on one machine, too."""
    monkeypatch.setenv("MONITORING_EMULATOR_HOST", broker.address)
    client = monitoring_client()
    frontier = MonitoringFrontier(SUBSCRIPTION, client, MAX_AGE, ask_every=timedelta(0)).observe([], clock.now)
    client.transport.close()
    assert frontier.at == NOON - timedelta(seconds=1)


def test_no_sample_is_no_frontier(broker: Broker, monitoring: Callable[..., MonitoringFrontier], clock: Clock) -> None:
    """A missing metric does not mean that there is no backlog."""
    broker.sampling = MISSING
    frontier = monitoring().observe([], clock.now)
    assert frontier.at is None
    assert "has no sample" in frontier.text


def test_an_old_sample_is_no_frontier(
    broker: Broker, monitoring: Callable[..., MonitoringFrontier], clock: Clock
) -> None:
    broker.sampling = Sampling(age=timedelta(minutes=6))
    frontier = monitoring().observe([], clock.now)
    assert frontier.at is None
    assert frontier.sampled_at is not None


def test_a_refusal_is_no_frontier_and_is_reported(
    broker: Broker, monitoring: Callable[..., MonitoringFrontier], clock: Clock
) -> None:
    """The topic goes on without; its hours are held, with this reason."""
    broker.sampling = DENIED
    frontier = monitoring().observe([], clock.now)
    assert frontier.at is None
    assert PermissionDenied.__name__ in frontier.text


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        (MISSING, "Cloud Monitoring has no sample"),
        (Sampling(age=timedelta(minutes=6)), "older than 5 minutes"),
        (DENIED, "PermissionDenied"),
    ],
    ids=["missing", "stale", "denied"],
)
def test_without_a_fresh_sample_hours_are_held_and_explain_says_why(
    sampling: Sampling,
    reason: str,
    broker: Broker,
    monitoring: Callable[..., MonitoringFrontier],
    clock: Clock,
    config: Config,
    topic: Topic,
) -> None:
    """Also when the watermark is long past them; with the next sample they close."""
    broker.sampling = sampling
    now = clock.now = datetime.now(UTC) + timedelta(hours=1)  # files are written by real time, and must be old by it
    hour = hour_of(now - timedelta(hours=9))
    driver = TopicIngest(topic, config, run="one", clock=clock, frontier=monitoring())
    driver.open_topic(ACK_DEADLINE)
    raw = folders_of(config.settings, topic.name).raw
    land = land_of(topic, raw, config.settings.ingest)

    def batch(epoch: int) -> Batch:
        return driver.commit_facts(facts_of(land, [Slot(epoch, 0, None)]))

    for played_at in (now - timedelta(hours=9), now):
        publish(b'{"event_id": "%s", "played_at": "%s"}' % ((played_at.isoformat().encode(),) * 2))
    assert batch(1).closed == ()
    answer = explain_hour(read_topic(topic, config), hour, clock.now)
    assert answer.state == "held"
    assert reason in " ".join(condition.text for condition in answer.conditions)
    broker.sampling = FRESH
    clock.now += timedelta(minutes=1)
    assert [closed.hour for closed in batch(2).closed][:1] == [hour]


def test_another_subscription_s_samples_do_not_count(
    monitoring: Callable[..., MonitoringFrontier], clock: Clock
) -> None:
    assert monitoring("projects/test/subscriptions/skips").observe([], clock.now).at is None


def test_monitoring_is_asked_no_more_often_than_it_has_news() -> None:
    """Samples come once a minute, batches every few seconds."""
    asked = []

    class Counting:
        def list_time_series(self, **request: object) -> list[object]:
            asked.append(request)
            return []

    frontier = MonitoringFrontier(SUBSCRIPTION, Counting(), MAX_AGE, ask_every=timedelta(seconds=30))
    for seconds in (0, 10, 29, 30, 31):
        frontier.observe([], after_noon(seconds))
    assert len(asked) == 2


def test_a_frontier_is_fresh_up_to_its_greatest_age() -> None:
    known = Frontier(NOON, NOON, "sampled")
    assert fresh(known, NOON + MAX_AGE, MAX_AGE) == known
    assert fresh(known, NOON + MAX_AGE + timedelta(seconds=1), MAX_AGE).at is None
    unknown = Frontier(None, None, "not asked yet")
    assert fresh(unknown, NOON, MAX_AGE) == unknown
