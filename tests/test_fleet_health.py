"""One cause for each topic, incidents of topics that share one, what is late; and the command that shows them."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clock import NOON
from fleets import TOPIC as TOPIC_KEYS
from fleets import VERSION, fleet_at, topic_values, topics_named, write_fleet
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.fleet.causes import BEHIND_AFTER, CAUSES, STARVED_AFTER, Cause, cause, shared_words
from lakehouse.fleet.files import launcher_of, wanted_versions
from lakehouse.fleet.freshness import Overdue, overdue
from lakehouse.fleet.health import fleet_health
from lakehouse.fleet.incidents import Incident, TopicHealth, counts, incidents
from lakehouse.fleet.launchers.local import LocalLauncher
from lakehouse.fleet.versions import Job, Launch, Running
from lakehouse.operations.held import Held, Stuck
from lakehouse.operations.signs import Failure
from lakehouse.operations.stage_failures import StageFailure
from lakehouse.operations.status import TopicStatus
from lakehouse.operations.topic_life import TopicLife, topic_life
from lakehouse.store.heartbeats import SILENT_AFTER, Heartbeat, Heartbeats, Pulse, Sign
from lakehouse.store.records import Damaged
from lakehouse.topics import topic_from

TOPIC = topics_named("plays")["plays"]
PULSE = Pulse(subscription=TOPIC.subscription, state="running", since=NOON, last_trigger=NOON, frontier=NOON)
HOUR = timedelta(hours=1)
LONG_AGO = NOON - BEHIND_AFTER - timedelta(minutes=1)


def life(age: timedelta = timedelta(0), *, beat: dict[str, Any] | None = None, **pulse: Any) -> TopicLife:
    said = Heartbeat(
        application="music", run="one", host="here", release="r1", configuration="c", started_at=NOON, written_at=NOON,
        topics={"plays": replace(PULSE, **pulse)},
    )  # fmt: skip
    found = topic_life("plays", [Sign(replace(said, **(beat or {})), NOON - age)], NOON)
    assert found is not None
    return found


WELL: dict[str, Any] = {
    "life": life(), "open_hour": "2026-11-23T12", "delivered_hour": "2026-11-23T10", "frontier": NOON,
}  # fmt: skip


def status(state: str = "ok", **changes: Any) -> TopicStatus:
    return TopicStatus("plays", state, **(WELL | changes))


RUNNING = Running("music", True, "one", "here", "r1", "c", ("plays",))
DAMAGED = Damaged(count=1)
FAILURE = Failure(LONG_AGO, 10.0, "topic plays: found 403 denied; expected a role. Grant it.", "one", "here")
LATE = Overdue("2026-11-23T11", NOON - HOUR, 3600.0, 1)


def found(status: TopicStatus, running: Running | None = RUNNING, late: Overdue | None = None) -> tuple[str, str]:
    said = cause(status, TOPIC, running, late, NOON)
    return said.name, said.words


# --- one cause for each topic --------------------------------------------------------------------------------------

HOLDS: dict[str, dict[str, Any]] = {
    "not running": {"life": life(SILENT_AFTER * 2)},
    "cannot read": {"failure": FAILURE},
    "damaged": {"damage": DAMAGED},
    "starved": {"life": life(frontier=NOON - STARVED_AFTER - timedelta(seconds=1))},
    "behind": {"stage_failures": (StageFailure("seal", "2026-11-23T09", LONG_AGO, "disk"),)},
    "held": {"stuck": Stuck("2026-11-23T09", LONG_AGO, 9.0, "no sample of the backlog", NOON)},
    "rejecting": {"rejected_share": 0.9},
    "invalid": {"invalid_hours": ("2026-11-23T09",)},
    "mirror": {"stage_failures": (StageFailure("mirror", "2026-11-23T09", LONG_AGO, "mirror hive: found no route"),)},
    "maintain": {"life": life(maintain_error="read-only")},
}
"""Of each cause, what makes it hold."""


PAIRS = [pair for pair in itertools.combinations(HOLDS, 2) if not HOLDS[pair[0]].keys() & HOLDS[pair[1]].keys()]
"""Two that can hold at the same time."""


def test_every_cause_has_a_case_and_a_sentence() -> None:
    assert [*HOLDS, "ok"] == list(CAUSES)


@pytest.mark.parametrize("name", HOLDS)
def test_each_cause_is_found(name: str) -> None:
    assert found(status(**HOLDS[name]))[0] == name


def test_a_topic_that_is_well_has_none() -> None:
    assert found(status()) == ("ok", "")


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_first_cause_that_holds_is_the_one(first: str, second: str) -> None:
    """In one order for all topics: an operator of 300 does not weigh them each time."""
    assert found(status(**HOLDS[second], **HOLDS[first]))[0] == first


def job(state: Any, why: str | None = None, failures: int = 0, started_at: datetime | None = None) -> Running:
    launched = Job(Launch("music-1", "music", VERSION), state, NOON, started_at, failures, why=why)
    return Running("music", False, job=launched)


def test_an_application_that_has_started_again_and_said_so_runs() -> None:
    """Its deaths count for ten minutes more."""
    assert found(status(), job("running", "killed by SIGKILL", 1, NOON - HOUR)) == ("ok", "")


@pytest.mark.parametrize(
    ("life", "running", "words"),
    [
        (None, None, "no application has ever had it"),
        (None, job("lost"), "its job is lost"),
        (life(), job("waiting", "killed by SIGKILL", 1), "its job has died: killed by SIGKILL"),
        (
            life(),
            job("running", "killed by SIGKILL", 1, NOON + HOUR),
            "its job has died: killed by SIGKILL; it starts again",
        ),
        (life(SILENT_AFTER * 2), job("failed", "exit code 1", 3), "its job is failed: exit code 1"),
        (life(SILENT_AFTER * 2), job("running"), "its application gives no sign of life"),
        (life(beat={"ended_at": NOON, "why_ended": "asked to"}), None, "its application ended: asked to"),
        (life(state="ended"), RUNNING, "its application was asked to leave it"),
        (life(state="taken over", failures=1), RUNNING, "another application has taken it over"),
        (life(since=NOON - HOUR, last_trigger=NOON - HOUR), RUNNING, "its application is alive and brings no batch"),
    ],
)
def test_why_nobody_runs_a_topic(life: TopicLife | None, running: Running | None, words: str) -> None:
    assert found(status(life=life), running) == ("not running", words)


def test_a_store_that_refuses_is_no_application_that_is_gone() -> None:
    """Neither heartbeats nor ledgers can be read: that nobody runs anything is not known."""
    assert found(
        TopicStatus("plays", "error", error="gs://lake/plays/ledger: found 403; expected a lake. Give access.")
    ) == (
        "cannot read",
        "403",
    )


def test_a_topic_that_fails_says_why_though_it_is_alive() -> None:
    failing = life(state="parked", failures=3, error="topic plays: found no subscription; expected one. Make it.")
    assert found(status("failing", life=failing)) == ("cannot read", "no subscription")


@pytest.mark.parametrize(
    ("changes", "late", "name", "words"),
    [
        ({"waits_for": "seal", "waits_since": LONG_AGO}, None, "behind", "an hour waits for seal"),
        ({"waits_for": "validate", "waits_since": NOON}, None, "ok", ""),
        (
            {"waits_for": "validate", "waits_since": NOON, "waiting_hour": LATE.hour},
            LATE,
            "behind",
            "an hour waits for validate",
        ),
        ({"waits_for": "mirror hive", "waits_since": LONG_AGO}, None, "mirror", "an hour waits for mirror hive"),
        (
            {"waits_for": "release", "waits_since": LONG_AGO, "invalid_hours": ("x",)},
            None,
            "invalid",
            "an hour is invalid",
        ),
        ({"open_hour": LATE.hour}, LATE, "held", "an hour is open past its time"),
        (
            {"open_hour": LATE.hour, "held": (Held(LATE.hour, NOON, ("the backlog is not known",)),)},
            LATE,
            "held",
            "the backlog is not known",
        ),
    ],
)
def test_what_is_late_is_explained_by_where_the_missing_hour_is(
    changes: dict[str, Any], late: Overdue | None, name: str, words: str
) -> None:
    assert found(status(**changes), late=late) == (name, words)


def test_slots_at_their_maximum_are_said() -> None:
    starved = life(frontier=NOON - HOUR)
    assert "are at their maximum" in found(status(life=starved, slots=2, slots_max=2))[1]
    assert "are below their maximum" in found(status(life=starved, slots=1, slots_max=2))[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "topic plays: found no subscription projects/test/subscriptions/plays; expected one. Make it.",
            "no subscription its source",
        ),
        ("hour 2026-11-23T05 of plays waits for 2 h 10 min", "hour TIME of TOPIC waits for a while"),
        ("since 2026-11-23T05:00:00Z, 1,234 rows in 12.5 seconds", "since TIME, N rows in a while"),
        ("run 1a2b3c4d on host", "run N on host"),
        ("displays are not plays", "displays are not TOPIC"),
    ],
)
def test_words_are_those_of_all_topics_with_the_same_trouble(text: str, words: str) -> None:
    assert shared_words(text, TOPIC) == words


def test_a_topic_of_kafka_shares_its_words_too() -> None:
    """It has no subscription, which would otherwise be found between any two letters."""
    source = {"kind": "kafka", "bootstrap": "kafka:9092", "topic": "plays-of-users"}
    topic = topic_from("plays", {**TOPIC_KEYS, "source": source})
    text = f"topic plays: found no answer from {topic.reads.address}; expected one. Wait."
    assert shared_words(text, topic) == "no answer from its source"


# --- what is late --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "minutes", "expected"),
    [
        ({"open_hour": "2026-11-23T11"}, 45, None),
        ({"open_hour": "2026-11-23T10"}, 45, ("2026-11-23T10", 15, 1)),
        ({"open_hour": "2026-11-23T08"}, 45, ("2026-11-23T08", 135, 3)),
        ({"open_hour": "2026-11-23T12", "waiting_hour": "2026-11-23T09"}, 45, ("2026-11-23T09", 75, 2)),
        ({"open_hour": "2026-11-23T10"}, 60, ("2026-11-23T10", 0, 1)),
        ({"open_hour": "2026-11-23T10"}, 61, None),
        ({"open_hour": None}, 45, None),
    ],
)
def test_an_hour_is_overdue_when_it_is_absent_past_its_time(
    changes: dict[str, Any], minutes: int, expected: tuple[str, int, int] | None
) -> None:
    late = overdue(status(**changes), timedelta(minutes=minutes), NOON)
    assert (late and (late.hour, late.seconds / 60, late.hours)) == expected


def test_it_is_seen_also_when_nothing_runs_any_more() -> None:
    """Nobody writes that an hour did not come: the reader knows what time it is."""
    silent = status(life=None, open_hour="2026-11-23T10")
    later = NOON + timedelta(hours=5)
    late = overdue(silent, timedelta(minutes=45), later)
    assert late is not None
    assert late.hours == 6


def test_an_open_hour_of_old_events_is_not_late() -> None:
    replayed = status(open_hour="2013-01-02T05")
    assert overdue(replayed, timedelta(minutes=45), NOON, skips_empty_hours=True) is None
    assert overdue(replace(replayed, waiting_hour="2013-01-02T04"), timedelta(minutes=45), NOON, skips_empty_hours=True)


# --- incidents -----------------------------------------------------------------------------------------------------


def ill(
    topic: str, name: str = "cannot read", words: str = "no route", application: str = "music", **more: Any
) -> TopicHealth:
    return TopicHealth(topic, application, Cause(name, words, more.get("since")), more.get("late"), "r1", None)


def one(*topics: TopicHealth, applications: tuple[str, ...] = ("music", "social")) -> Incident:
    (incident,) = incidents(topics, applications)
    return incident


def test_topics_with_a_common_cause_are_one_incident() -> None:
    """Three hundred topics of a broker that is away are one telephone call."""
    many = [ill(f"topic_{number}", since=NOON - number * HOUR) for number in range(300)]
    incident = one(*many, ill("well", "ok", ""))
    assert (len(incident.topics), incident.subject, incident.severity) == (300, "300 topics", "critical")
    assert incident.since == NOON - 299 * HOUR


def test_an_incident_keeps_its_key_while_topics_come_and_go() -> None:
    first = one(ill("a"))
    assert first.subject == "topic a"
    assert one(ill("b"), ill("c", application="social")).key == first.key
    assert one(ill("a", words="denied")).key != first.key
    assert one(ill("a", "mirror")).key != first.key


def test_what_does_not_run_is_one_incident_for_each_application() -> None:
    gone = [ill("a", "not running", "its job is lost"), ill("b", "not running", "its application ended: asked to")]
    incident = one(*gone)
    assert (incident.subject, incident.topics) == ("application music", ("a", "b"))
    assert incident.words == "its job is lost; its application ended: asked to"
    both = incidents([*gone, ill("c", "held", application="social")], ["music", "social"])
    assert [each.cause for each in both] == ["not running", "held"]


def test_where_no_application_runs_it_is_one_incident_of_the_fleet() -> None:
    """The cluster is gone, or its network."""
    gone = [ill("a", "not running"), ill("c", "not running", application="social")]
    assert one(*gone).subject == "the fleet"
    assert one(ill("a", "not running"), applications=("music",)).subject == "application music"


def test_the_worst_comes_first_and_counts_are_in_the_order_of_causes() -> None:
    topics = [ill("a", "mirror"), ill("b", "invalid"), ill("c", "invalid"), ill("d", "not running"), ill("e", "ok", "")]
    assert [each.cause for each in incidents(topics, ["music"])] == ["not running", "invalid", "mirror"]
    assert counts(topics) == {"not running": 1, "invalid": 2, "mirror": 1, "ok": 1}


# --- the command ---------------------------------------------------------------------------------------------------

NAMES = ["plays", "skips", "likes"]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return write_fleet(tmp_path, {"music": {"topics": ["plays", "skips"]}, "social": {"topics": ["likes"]}}, NAMES)


def beat(config: Config, application: str, topics: dict[str, Pulse], **changes: Any) -> None:
    at = config.now()
    said = {"run": f"run of {application}", "host": "h", "release": "r1", "configuration": "c", "started_at": at}
    Heartbeats(config.settings).write(
        Heartbeat(**{"application": application, "written_at": at, "topics": topics, **said, **changes})
    )


@pytest.fixture
def run(conf: Path) -> Callable[..., tuple[int, str]]:
    def ran(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app.app, ["fleet", "status", "--conf", str(conf), *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    return ran


def test_status_of_a_fleet_that_was_never_started(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, out = run()
    assert code == 1
    assert "not running: the fleet: no application has ever had it" in out
    assert out.splitlines()[-1] == "3 topics: 3 not running · releases: none runs"
    assert not (tmp_path / "lake").exists(), "looking makes nothing"


def test_status_shows_skew_and_one_cause_for_each_topic(conf: Path, run: Callable[..., tuple[int, str]]) -> None:
    config = fleet_at(conf).config
    wanted = wanted_versions(fleet_at(conf), "r1")
    at = config.now()
    well = replace(PULSE, since=at, last_trigger=at, frontier=at)
    broken = replace(
        well, state="parked", failures=2, error="topic skips: found no subscription; expected one. Make it."
    )
    beat(config, "music", {"plays": well, "skips": broken}, configuration=wanted["music"].configuration)
    beat(config, "social", {"likes": well}, release="r0")
    code, out = run("--topics")
    assert code == 1
    assert re.search(r"^cannot read for [0-9.]+ s: topic skips: no subscription$", out, re.MULTILINE)
    assert "r0, another configuration" in out
    assert "3 topics: 1 cannot read, 2 ok · releases: r0 ×1, r1 ×1" in out
    first = out[out.index("\nTopics") :].splitlines()[3]
    assert first.startswith("skips"), "what is wrong comes first"
    document = json.loads(run("--json")[1])
    assert [each["cause"] for each in document["incidents"]] == ["cannot read"]
    assert document["releases"] == {"r1": 1, "r0": 1}
    assert [each["has_wanted_configuration"] for each in document["applications"]] == [True, False]


def test_status_of_a_fleet_that_is_well_ends_with_0(conf: Path, run: Callable[..., tuple[int, str]]) -> None:
    config = fleet_at(conf).config
    at = config.now()
    well = replace(PULSE, since=at, last_trigger=at, frontier=at)
    beat(config, "music", {"plays": well, "skips": well})
    beat(config, "social", {"likes": well})
    code, out = run()
    assert code == 0
    assert "Incidents" not in out


def test_status_goes_by_heartbeats_where_the_launcher_does_not_answer(
    conf: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of the cluster's API is when somebody looks."""
    config = fleet_at(conf).config
    at = config.now()
    well = replace(PULSE, since=at, last_trigger=at, frontier=at)
    beat(config, "music", {"plays": well, "skips": well})
    beat(config, "social", {"likes": well})

    def silent(self: LocalLauncher, patience: timedelta | None = None) -> list[Job]:
        assert patience is not None
        assert patience <= timedelta(seconds=10)
        raise LakeError("Dataproc", found="nothing", expected="an answer", next_step="Wait.")

    monkeypatch.setattr(LocalLauncher, "jobs", silent)
    code, out = run()
    assert code == 0
    assert "3 topics: 3 ok" in out
    assert "the launcher does not answer" in out


@pytest.mark.slow
def test_status_of_300_topics_takes_a_second_or_so(tmp_path: Path) -> None:
    """Without lakes; how long ledgers of a year take, `make bench-fleet` measures."""
    names = [f"topic_{number:03d}" for number in range(300)]
    fleet = fleet_at(write_fleet(tmp_path, {"all": {"topics": ["*"]}}, names))
    at = fleet.config.now()
    beat(fleet.config, "all", {name: replace(PULSE, since=at, last_trigger=at, frontier=at) for name in names})
    began = time.perf_counter()
    found = fleet_health(fleet, launcher_of(fleet))
    assert time.perf_counter() - began < 10
    assert found.totals.startswith("300 topics: 300 ok")
    assert topic_values("plays")["subscription"] == TOPIC.subscription
