"""An application's sign of life: what is written, whatever else happens, and what status makes of it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clock import NOON, Clock
from fleets import awaited
from status_lake import Lake
from status_lake import lake as lake

from lakehouse import concealed
from lakehouse.cli.columns import cause_of, status_fields
from lakehouse.config import Config, Settings
from lakehouse.errors import ConfigError
from lakehouse.operations.status import TopicStatus, statuses
from lakehouse.running.heart import Heart
from lakehouse.running.identity import application_name, configuration_hash
from lakehouse.running.neighbours import check_subscription
from lakehouse.store.heartbeats import Heartbeat, Heartbeats, Pulse, Sign
from lakehouse.topics import Topic

SUBSCRIPTION = "projects/test/subscriptions/plays"
PULSE = Pulse(subscription=SUBSCRIPTION, state="running", since=NOON, last_trigger=NOON, epoch=7, frontier=NOON)
HEARTBEAT = Heartbeat(
    application="local", run="one", host="here", release="r1", configuration="abc", started_at=NOON, written_at=NOON,
    topics={"plays": PULSE},
)  # fmt: skip


class Store:
    """The heartbeats of a lake that records requests, and refuses writes while it is asked to."""

    def __init__(self) -> None:
        self.written: list[Heartbeat] = []
        self.others: list[Heartbeat] = []
        self.refuses: Exception | None = None

    def of(self, application: str) -> Heartbeat | None:
        newest = [*self.written[-1:], *self.others[-1:]]
        return newest[-1] if newest else None

    def write(self, heartbeat: Heartbeat) -> None:
        if self.refuses:
            raise self.refuses
        self.written.append(heartbeat)
        self.others.clear()


def heart(store: Store, clock: Clock, topics: int = 1) -> Heart:
    pulses = {f"topic_{number}": PULSE for number in range(topics)}
    return Heart(store, replace(HEARTBEAT, topics={}), lambda: pulses, clock)  # type: ignore[arg-type]


# --- what is written -----------------------------------------------------------------------------------------------


def test_one_write_tells_of_all_topics(clock: Clock) -> None:
    """Three hundred topics must not cost three hundred requests."""
    store = Store()
    clock.advance(5)
    heart(store, clock, topics=300).beat()
    (written,) = store.written
    assert len(written.topics) == 300
    assert (written.started_at, written.written_at) == (NOON, clock.now)


def test_what_is_read_is_what_was_written_and_keys_of_later_releases_are_left_out(settings: Settings) -> None:
    """A release that is rolled back still says who runs what."""
    heartbeats = Heartbeats(settings)
    heartbeats.write(HEARTBEAT)
    assert heartbeats.of("local") == HEARTBEAT
    file = Path(settings.raw_root, "_applications", "local", "heartbeat.json")
    later = json.loads(file.read_text()) | {"colour": "red"}
    later["topics"]["plays"]["lag"] = 5
    file.write_text(json.dumps(later))
    assert [sign.heartbeat for sign in heartbeats.all()] == [HEARTBEAT]


def test_no_secret_is_in_a_heartbeat(settings: Settings) -> None:
    """Whoever may read the lake may read it, and an error quotes what a library says."""
    concealed.hide("hunter2-hunter2")
    leaky = replace(HEARTBEAT, topics={"plays": replace(PULSE, error="refused hunter2-hunter2")})
    Heartbeats(settings).write(leaky)
    (sign,) = Heartbeats(settings).all()
    assert sign.heartbeat.topics["plays"].error == "refused (not shown)"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"application": "local"}'])
def test_a_heartbeat_that_cannot_be_read_hides_no_other(settings: Settings, content: bytes) -> None:
    heartbeats = Heartbeats(settings)
    heartbeats.write(HEARTBEAT)
    heartbeats.write(replace(HEARTBEAT, application="other"))
    Path(settings.raw_root, "_applications", "local", "heartbeat.json").write_bytes(content)
    assert [sign.heartbeat.application for sign in heartbeats.all()] == ["other"]
    assert heartbeats.of("local") is None


def test_a_store_that_refuses_is_logged_once_and_is_no_error(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that an application does may depend on its heartbeat; a week of refusals must not fill the log."""
    store = Store()
    beating = heart(store, clock)
    store.refuses = PermissionError(13, "Permission denied")
    for _ in range(3):
        beating.beat()
    assert [record.getMessage() for record in caplog.records] == [
        "heartbeat: application=local error=[Errno 13] Permission denied"
    ]
    store.refuses = None
    beating.beat()
    assert len(store.written) == 1
    store.refuses = PermissionError(13, "Permission denied")
    beating.beat()
    assert len(caplog.records) == 2


def test_a_store_that_hangs_holds_up_neither_batches_nor_the_end(clock: Clock) -> None:
    """The thread waits alone, and the end waits so long only."""
    hanging = threading.Event()

    class Hanging(Store):
        def write(self, heartbeat: Heartbeat) -> None:
            hanging.wait(30)

    beating = heart(Hanging(), clock)
    beating.start()
    beating.end("asked to", patience=timedelta(milliseconds=10))
    hanging.set()


def test_an_orderly_end_says_when_and_why(clock: Clock) -> None:
    store = Store()
    beating = heart(store, clock)
    beating.start(every=timedelta(hours=1))
    clock.advance(60)
    beating.end("asked to")
    assert (store.written[-1].ended_at, store.written[-1].why_ended) == (clock.now, "asked to")


def test_a_topic_that_changes_is_in_the_next_heartbeat_at_once(clock: Clock) -> None:
    """Whoever deploys waits until each topic was polled, and would do so for half a minute more."""
    store, pulses = Store(), {"plays": replace(PULSE, state="starting", last_trigger=None), "skips": PULSE}
    beating = Heart(store, replace(HEARTBEAT, topics={}), lambda: pulses, clock)  # type: ignore[arg-type]
    beating.start(every=timedelta(hours=1), news_after=timedelta(milliseconds=5))
    changes = [
        PULSE,
        PULSE.after_trigger(clock.now, 8, NOON),
        PULSE.after_failure("parked", NOON, "no subscription", None),
        PULSE.after_trigger(clock.now, 9, NOON),
    ]
    for number, change in enumerate(changes):
        pulses["plays"] = change
        expected = 1 + len([1 for each in (0, 2, 3) if each <= number])
        awaited(lambda expected=expected: len(store.written) >= expected, str(change))  # type: ignore[misc]
    beating.end("asked to")
    said = [written.topics["plays"] for written in store.written]
    assert [(pulse.state, pulse.epoch) for pulse in said[1:-1]] == [("running", 7), ("parked", 7), ("running", 9)]


def test_a_run_that_never_began_writes_no_end(clock: Clock) -> None:
    """A mistyped subscription must not make a lake."""
    store = Store()
    heart(store, clock).end("no such subscription")
    assert store.written == []


# --- two applications ----------------------------------------------------------------------------------------------


def test_another_run_of_the_name_that_lives_is_logged_once_and_named(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each replaces what the other says: half of the topics would look as if nobody ran them."""
    store = Store()
    beating = heart(store, clock)
    other = replace(HEARTBEAT, run="two", host="there")
    store.others = [other]
    beating.beat()
    assert store.written[-1].other_run is None, "the run before this one may just have been killed"
    for _ in range(2):
        store.others = [other]
        beating.beat()
        assert store.written[-1].other_run == "two on there"
    (record,) = caplog.records
    assert "application local: run one on here: found run two on there" in record.getMessage()
    beating.beat()
    assert store.written[-1].other_run is None


def test_the_end_of_an_older_run_does_not_hide_the_newer_one(clock: Clock) -> None:
    """A new release takes over, and the old one ends after it."""
    store = Store()
    beating = heart(store, clock)
    beating.start(every=timedelta(hours=1))
    store.others = [replace(HEARTBEAT, run="two", started_at=NOON + timedelta(seconds=1))]
    beating.end("another run took the topic over")
    assert all(written.ended_at is None for written in store.written)


def test_a_subscription_that_another_application_reads_for_another_topic_is_refused(topic: Topic) -> None:
    """Each would get half of the events, and nothing would look wrong."""
    ours = replace(HEARTBEAT, run="two", started_at=NOON + timedelta(seconds=1))
    other = replace(HEARTBEAT, topics={"listens": PULSE})
    with pytest.raises(
        ConfigError, match=r"topic plays: .* which topic listens of application local \(run one on here"
    ):
        check_subscription(topic, ours, [Sign(other, NOON)], NOON)
    gone = replace(PULSE, state="taken over")
    for harmless, at in (
        (replace(other, ended_at=NOON), NOON),
        (other, NOON + timedelta(minutes=3)),  # dead
        (replace(other, topics={"listens": gone}), NOON),
        (HEARTBEAT, NOON),  # the same topic: the fence is for that
        (replace(other, started_at=NOON + timedelta(seconds=2)), NOON),  # it came later, and is refused itself
    ):
        check_subscription(topic, ours, [Sign(harmless, NOON)], at)


def test_an_application_has_a_name_of_its_own_by_default(config: Config, topic_with: Callable[..., Topic]) -> None:
    """Two jobs of one file, with topics of their own, are two applications."""
    topics = tuple(topic_with(name=f"topic_{number:03d}") for number in range(300))
    config = replace(config, topics={topic.name: topic for topic in topics})
    assert application_name(config, topics) == "test"
    assert application_name(config, topics[:2]) == "topic_000.topic_001"
    assert application_name(config, topics[:299]) != application_name(config, topics[1:])
    assert len(application_name(config, topics[:299])) < 100
    named = replace(config, settings=config.settings.model_copy(update={"application": "royalties"}))
    assert application_name(named, topics) == "royalties"


def test_the_configuration_has_one_hash_on_all_machines(config: Config, topic: Topic) -> None:
    """Skew is a difference in what is configured, not in where a checkout lies or which secret is in use."""
    moved = config.settings.model_copy(
        update={
            "raw_root": "/elsewhere",
            "sealed_root": "/there",
            "release": "next",
            "storage_options": {"key": "x"},
            "mirrors": {"folder": {**config.settings.mirrors["folder"], "storage_options": {"key": "y"}}},
            "spark": {**config.settings.spark, "spark.hadoop.fs.secret.key": "z"},
        }
    )
    assert configuration_hash(config, [topic]) == configuration_hash(replace(config, settings=moved), [topic])
    slower = topic.model_copy(update={"lateness": timedelta(hours=2)})
    assert configuration_hash(config, [topic]) != configuration_hash(config, [slower])


# --- what status makes of it ---------------------------------------------------------------------------------------


@pytest.fixture
def seen(lake: Lake) -> Callable[..., TopicStatus]:
    """The status of `plays` so long `after` a heartbeat, which says what is given, was written, now or `later`."""

    def status(
        after: timedelta = timedelta(0), pulse: Pulse | None = PULSE, later: timedelta = timedelta(0), **changes: object
    ) -> TopicStatus:
        at = datetime.now(UTC) + later
        topics = {"plays": pulse} if pulse else {}
        heartbeats = Heartbeats(lake.config.settings)
        heartbeats.write(replace(HEARTBEAT, topics=topics, **changes))  # type: ignore[arg-type]
        file = Path(lake.config.settings.raw_root, "_applications", "local", "heartbeat.json")
        os.utime(file, (at.timestamp(), at.timestamp()))
        (row,) = statuses(lake.config, ["plays"], at + after)
        return row

    return status


def text(row: TopicStatus) -> str:
    return cause_of(row).plain


def test_an_idle_topic_says_when_it_was_last_triggered(lake: Lake, seen: Callable[..., TopicStatus]) -> None:
    """It commits nothing, so dead and idle looked alike."""
    lake.start()
    row = seen(timedelta(seconds=3), written_at=NOON + timedelta(seconds=1))
    assert (row.state, text(row)) == ("ok", "ok, last trigger 4 s ago")


def test_a_topic_whose_application_starts_says_so(lake: Lake, seen: Callable[..., TopicStatus]) -> None:
    """It is neither down nor does it deliver yet."""
    lake.start()
    row = seen(pulse=replace(PULSE, state="starting", last_trigger=None))
    assert (row.state, text(row)) == ("ok", "ok, its application starts")


def test_a_killed_application_shows_no_sign_of_life(lake: Lake, seen: Callable[..., TopicStatus]) -> None:
    lake.start()
    assert text(seen(timedelta(minutes=1))) == "ok, last trigger 1 min ago"
    row = seen(timedelta(minutes=7))
    assert (row.state, text(row)) == ("silent", "no sign of life for 7 min")


@pytest.mark.parametrize("hours", [-5, 5])
def test_no_age_is_negative_or_wrong_when_clocks_differ(
    lake: Lake, seen: Callable[..., TopicStatus], hours: int
) -> None:
    """The writer's clock is hours off: its times are only compared with each other."""
    lake.start()
    off = timedelta(hours=hours)
    times = {"started_at": NOON + off, "written_at": NOON + off + timedelta(seconds=2)}
    row = seen(timedelta(seconds=2), replace(PULSE, last_trigger=NOON + off, since=NOON + off), **times)
    assert text(row) == "ok, last trigger 4 s ago"
    early = seen(timedelta(minutes=-10), replace(PULSE, last_trigger=NOON + off + timedelta(minutes=1)), **times)
    assert early.life is not None
    ages = [early.life.written_age_seconds, early.life.last_trigger_age_seconds, early.last_sign_age_seconds]
    assert ages == [0, 0, 0]


def test_a_topic_whose_application_has_ended_is_not_running(lake: Lake, seen: Callable[..., TopicStatus]) -> None:
    """An hour after the demo's application had ended, every topic was `ok`."""
    lake.start()
    ended = NOON + timedelta(minutes=5)
    row = seen(timedelta(hours=1), replace(PULSE, state="ended"), ended_at=ended, why_ended="asked to")
    assert (row.state, row.not_running_since) == ("not running", ended)
    assert text(row) == "not running since 23 Nov 12:05"
    years = seen(timedelta(days=5_000), replace(PULSE, state="ended"), ended_at=ended, why_ended="asked to")
    assert text(years) == f"not running since {ended:%-d %b %Y}"


def test_a_topic_that_no_application_names_is_not_running(lake: Lake, seen: Callable[..., TopicStatus]) -> None:
    lake.start()
    row = seen(timedelta(minutes=3), pulse=None)
    assert (row.state, row.life) == ("not running", None)
    later = timedelta(minutes=3)
    assert seen(pulse=None, later=later).state == "not running"
    assert seen(pulse=None, later=later, other_run="two on there").state == "ok", "the other run may have it"
    gone = replace(PULSE, state="taken over", since=NOON + timedelta(minutes=1))
    assert seen(pulse=gone).not_running_since == gone.since


def test_a_run_of_an_older_release_after_it_counts_more_than_an_old_heartbeat(
    lake: Lake, seen: Callable[..., TopicStatus]
) -> None:
    """After a rollback, the heartbeat of the release that was rolled back stays."""
    lake.start()
    lake.now = NOON.replace(year=2027)
    lake.record("started", details={"release": "r0", "run": "old", "host": "here"})
    row = seen(ended_at=NOON)
    assert (row.state, row.life) == ("ok", None)


@pytest.mark.parametrize("has_lake", [True, False])
def test_a_topic_that_dies_at_its_start_again_and_again_is_failing(
    lake: Lake, seen: Callable[..., TopicStatus], has_lake: bool
) -> None:
    """Also one that has no lake yet, of which no ledger can tell."""
    if has_lake:
        lake.start()
    pulse = Pulse(
        subscription=SUBSCRIPTION, state="failed at start", since=NOON, error="no permission", failures=7,
        next_try_at=NOON + timedelta(minutes=3),
    )  # fmt: skip
    row = seen(timedelta(seconds=30), pulse)
    assert row.state == "failing"
    assert text(row) == "fails at its start, 7 times, next try in 2 min 30 s: no permission"
    parked = replace(pulse, state="parked", last_trigger=NOON, failures=1)
    assert text(seen(timedelta(minutes=1), parked)) == "parked, next try in 2 min: no permission"


@pytest.mark.parametrize("state", ["running", "starting"])
def test_a_topic_that_hangs_in_an_application_that_lives_is_silent(
    lake: Lake, seen: Callable[..., TopicStatus], state: str
) -> None:
    """One whose store does not answer: the heart beats on."""
    lake.start()
    pulse = replace(PULSE, state=state, last_trigger=None if state == "starting" else NOON)
    assert seen(pulse=pulse, written_at=NOON + timedelta(minutes=9)).state == "ok"
    row = seen(pulse=pulse, written_at=NOON + timedelta(minutes=12))
    assert (row.state, text(row)) == ("silent", "no batch for 12 min")


def test_what_maintenance_fails_of_is_the_topic_s(lake: Lake, seen: Callable[..., TopicStatus]) -> None:
    """Bronze grows for ever where nobody may delete."""
    lake.start()
    row = seen(pulse=replace(PULSE, maintain_error="Permission denied", maintained_at=NOON))
    assert (row.state, text(row)) == ("failing", "maintain fails: Permission denied")
    assert ("maintained", "2026-11-23T12:00:00Z") in status_fields(row)
    ended = seen(pulse=replace(PULSE, state="ended", maintain_error="Permission denied"), ended_at=NOON)
    assert ended.state == "not running"
