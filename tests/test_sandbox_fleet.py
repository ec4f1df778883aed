"""`make fleet`: what its topics publish, what it breaks, and that it can say that something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleets import VERSION, awaited, is_gone, job_of, local_launcher
from rich.console import Console

from lakehouse.fleet import releases
from lakehouse.fleet.alerts import Alert, alertmanager
from lakehouse.fleet.deployments import Deployment
from lakehouse.fleet.health import ApplicationHealth, FleetHealth
from lakehouse.fleet.incidents import Incident
from lakehouse.fleet.versions import Launch
from lakehouse.fleet.wanted import Webhook
from lakehouse.fleet.webhooks import call
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.fleet import breaking, day
from lakehouse.sandbox.fleet.alerts import Notified, Receiver
from lakehouse.sandbox.fleet.breaking import Breakage
from lakehouse.sandbox.fleet.count import Result, outcomes, tables
from lakehouse.sandbox.fleet.publishing import Publisher
from lakehouse.sandbox.fleet.site import Site
from lakehouse.sandbox.fleet.watching import picture
from lakehouse.sandbox.flights import Message
from lakehouse.sandbox.tally import Outcome

NAMES = [f"t{number:03d}" for number in range(1, 301)]
ENDS = datetime(2026, 11, 23, 12, tzinfo=UTC)
APPLICATIONS = {"busy": ("busy_001",), "quiet": ("quiet_002", "quiet_003")}


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return day.messages(NAMES, ENDS)


# --- what is published ---------------------------------------------------------------------------------------------


def test_topics_are_as_large_as_zipf_says(messages: list[Message]) -> None:
    """The topic at rank n has 1/n of what the first has, and none has nothing: a fleet is some large ones and many."""
    events = {each.event_id: each.topic for each in messages if each.event_id}
    sizes = Counter(events.values())
    first = sizes[NAMES[0]]
    assert min(sizes[name] for name in NAMES) >= 2
    assert all(abs(sizes[NAMES[rank - 1]] - first / rank) <= 0.2 * first / rank + 2 for rank in (2, 5, 10, 40))


def test_events_are_as_late_as_they_were(messages: list[Message]) -> None:
    """A plane reports its departure when it has landed: by hours, and each by another time."""
    late = [each.publish_at - _departed(each) for each in messages if each.event_id]
    assert all(timedelta(0) < each < timedelta(hours=24) for each in late)
    assert sum(each > timedelta(hours=1) for each in late) > len(late) / 2


def test_the_day_ends_when_it_is_asked_to(messages: list[Message]) -> None:
    times = [each.publish_at for each in messages]
    assert times == sorted(times)
    assert ENDS - timedelta(hours=day.HOURS) <= times[0]
    assert ENDS - timedelta(minutes=5) < times[-1] < ENDS


def test_copies_of_an_event_are_of_its_topic(messages: list[Message]) -> None:
    topics: dict[str, set[str]] = {}
    for each in messages:
        if each.event_id:
            topics.setdefault(each.event_id, set()).add(each.topic)
    assert len(topics) < sum(each.event_id is not None for each in messages)
    assert all(len(each) == 1 for each in topics.values())


def test_too_few_events_for_the_topics_are_refused() -> None:
    with pytest.raises(ValueError, match="events for 300 topics"):
        day.messages(NAMES, ENDS, days=1)


def test_a_topic_that_is_held_gets_nothing_and_all_of_it_later(messages: list[Message]) -> None:
    """What is published while there is no subscription, nobody gets."""
    few = [replace(each, topic="plays") for each in messages[:20]] + [
        replace(each, topic="skips") for each in messages[20:40]
    ]
    subscriptions = {name: f"projects/sandbox/subscriptions/{name}" for name in ("plays", "skips")}
    broker = Broker()
    for path in subscriptions.values():
        broker.create(path)
    publisher = Publisher(broker, sorted(few, key=lambda each: each.publish_at), subscriptions, 3600)
    publisher.hold("plays")
    publisher.finish()
    assert [len(broker.unacked(path)) for path in subscriptions.values()] == [0, 20]
    publisher.let_go("plays")
    publisher.finish()
    assert [len(broker.unacked(path)) for path in subscriptions.values()] == [20, 20]


def _departed(message: Message) -> datetime:
    return datetime.fromisoformat(json.loads(message.payload)["departed_at"])


# --- who is notified -----------------------------------------------------------------------------------------------

INCIDENT = Incident(
    "abc", "mirror", "2 topics", "gone", "warning", ("busy_001", "quiet_002"), ("busy", "quiet"), None, 0, "Look."
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def test_an_incident_is_known_from_its_first_alert_to_its_end(receiver: Receiver) -> None:
    """By the webhook that the watch calls; one that is called twice tells nothing new."""
    webhook = Webhook(url=receiver.address)
    for _ in range(2):
        call(webhook, [Alert("firing", INCIDENT, ENDS)], "")
    (known,) = receiver.open()
    assert (known.cause, known.topics, known.applications) == ("mirror", {"busy_001", "quiet_002"}, {"busy", "quiet"})
    call(webhook, [Alert("resolved", INCIDENT, ENDS, ENDS)], "")
    assert receiver.open() == []
    assert receiver.notified[0].over_at is not None


def test_the_receiver_reads_what_alertmanager_sends() -> None:
    """Its own fields are those of the documented webhook."""
    (alert,) = alertmanager([Alert("firing", INCIDENT, ENDS)], "")["alerts"]
    assert {"status", "labels", "annotations", "fingerprint"} <= alert.keys()


# --- what is broken ------------------------------------------------------------------------------------------------


def notified(cause: str, *topics: str, at: float = 5.0, over_at: float | None = 9.0) -> Notified:
    return Notified("k", cause, "s", frozenset(topics), frozenset({"quiet"}), at, over_at)


@pytest.mark.parametrize(
    ("found", "is_noticed"),
    [
        (notified("mirror", "busy_001"), True),
        (notified("mirror", "busy_001", at=0.5), False),
        (notified("mirror", "quiet_002"), False),
        (notified("held", "busy_001"), False),
    ],
)
def test_a_breakage_is_noticed_by_an_incident_of_its_cause_that_came_after_it(
    found: Notified, is_noticed: bool
) -> None:
    broken = Breakage("a target gone", "mirror", "busy_001", lambda: None, broken_at=1.0)
    assert broken.is_noticed([found]) is is_noticed


def test_what_would_pass_by_itself_is_done_again_until_somebody_is_notified() -> None:
    """An application that is killed once may be there again before anybody looks."""
    times: list[int] = []
    broken = Breakage("killed", "not running", "quiet", lambda: times.append(1), recurs=True, broken_at=1.0)
    assert not broken.is_noticed([])
    assert broken.is_noticed([notified("not running", "quiet_002")])
    assert len(times) == 1


def test_each_release_has_a_name_of_its_own_and_the_poison_kills(tmp_path: Path) -> None:
    """Whatever a release is changed by is in its name; the poison must be one that the application obeys."""
    site = Site(tmp_path, APPLICATIONS, "http://127.0.0.1:1/")
    names = [site.keep_release(change) for change in (breaking.harmless, breaking.poison)]
    assert len({*names, releases.release_of(releases.tree())}) == 3
    job = (tmp_path / "applications" / "releases" / names[1] / "jobs" / "run.py").read_text()
    compile(job, "run.py", "exec")
    from lakehouse.failpoints import STEPS, VARIABLE

    assert f'os.environ["{VARIABLE}"] = "{breaking.DIES_AT}"' in job
    assert breaking.DIES_AT in STEPS


def test_files_of_a_fleet_are_such_as_the_commands_read(tmp_path: Path) -> None:
    """And whatever an earlier run has left there is gone."""
    site = Site(tmp_path / "fleet", APPLICATIONS, "http://127.0.0.1:1/")
    (site.folder / "lake" / "old").mkdir(parents=True)
    site.write()
    assert {name: each.topics for name, each in site.fleet.applications.items()} == APPLICATIONS
    assert site.fleet.config.topics["busy_001"].mirrors == ("folder", "archive")
    assert not (site.folder / "lake").exists()


def test_what_a_run_that_was_killed_has_left_running_ends(tmp_path: Path) -> None:
    """Applications outlive who started them, so whoever runs it again would have two fleets."""
    site = Site(tmp_path / "fleet", APPLICATIONS, "http://127.0.0.1:1/")
    launcher = local_launcher(site.folder / "applications", "import time\ntime.sleep(600)")
    launcher.start(Launch("busy-1", "busy", VERSION))
    awaited(lambda: job_of(launcher, "busy-1").state == "running")
    state = json.loads((site.folder / "applications" / "jobs" / "busy-1" / "state.json").read_text())
    site.write()
    assert is_gone(state["process"]["pid"])
    assert site.launcher.jobs() == []


def test_the_picture_of_the_fleet_fits_80_columns() -> None:
    """Also with an incident whose words are long."""
    application = ApplicationHealth("busy", "running", "0.1.0+0123456789", True, 100, 3, 0, 12.0, "here", "j", 0, "")
    said = replace(INCIDENT, words="no route to a host " * 20)
    found = FleetHealth(ENDS, (), (application,) * 2, (said,), {"0.1.0+0123456789": 2}, None, {})
    console = Console(width=80, record=True)
    console.print(picture(found))
    assert max(map(len, console.export_text().splitlines())) <= 80


def test_where_nothing_was_delivered_everything_is_lost(tmp_path: Path) -> None:
    """A first deployment that fails must end with a count, not with a trace."""
    site = Site(tmp_path / "fleet", APPLICATIONS, "http://127.0.0.1:1/")
    site.write()
    sent = [Message(name, ENDS, b"{}", {}, f"{name}/1") for name in site.names]
    assert {name: each.lost for name, each in outcomes(site, sent).items()} == {
        name: {f"{name}/1"} for name in site.names
    }


# --- what is said at the end ---------------------------------------------------------------------------------------


def deployment(outcome: Any) -> Deployment:
    return Deployment(
        number=1, kind="deploy", by="ann", reason="", host="here", token="t", began_at=ENDS,
        ended_at=ENDS + timedelta(seconds=20), outcome=outcome,
    )  # fmt: skip


BROKEN = Breakage("a target gone", "mirror", "busy_001", lambda: None, broken_at=1.0)
RIGHT = Result(
    APPLICATIONS,
    {
        name: Outcome(2, 2, delivered=2, sealed=1, valid=1, mirrored=1)
        for each in APPLICATIONS.values()
        for name in each
    },
    [BROKEN],
    [notified("mirror", "busy_001")],
    [deployment("done")],
    ["done"],
)


def test_a_run_that_is_right_has_no_differences() -> None:
    """Otherwise the tests below would show nothing."""
    assert RIGHT.differences() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outcomes": {"busy_001": Outcome(2, 2, lost={"x"})}}, "busy_001: lost: x"),
        ({"outcomes": {"busy_001": Outcome(2, 2, doubled={"x"})}}, "busy_001: doubled: x"),
        ({"outcomes": {"busy_001": Outcome(2, 2, changed=["x"])}}, "busy_001: changed: x"),
        ({"outcomes": {"busy_001": Outcome(2, 2, sealed=2, mirrored=1)}}, "2 hours sealed, 1 at every mirror"),
        ({"notified": []}, "a target gone: nobody was notified of it"),
        ({"notified": [notified("mirror", "busy_001", over_at=None)]}, "nobody was notified of its end"),
        ({"notified": [*RIGHT.notified, notified("held", "busy_001")]}, "an incident of nothing that was broken: held"),
        ({"deployments": [deployment("rolled back")]}, "ended as rolled back; expected done"),
        ({"deployments": []}, "expected done"),
    ],
)
def test_each_difference_is_said(changes: dict[str, Any], words: str) -> None:
    (found,) = replace(RIGHT, **changes).differences()
    assert words in found


@pytest.mark.parametrize("result", [RIGHT, replace(RIGHT, notified=[])])
def test_what_is_said_fits_80_columns(result: Result) -> None:
    console = Console(width=80, record=True)
    for table in tables(result):
        console.print(table)
    assert max(map(len, console.export_text().splitlines())) <= 80
    assert "…" not in console.export_text()


# --- the whole of it -----------------------------------------------------------------------------------------------

SMALL = """
import sys
from pathlib import Path
from lakehouse.sandbox.fleet.__main__ import run
sys.exit(run(Path(sys.argv[1]), {"busy": 3, "quiet": 3}, days=4, seconds=20))
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_small_fleet_is_deployed_broken_and_counted(tmp_path: Path) -> None:
    """Real applications: each event exactly once through two take-overs, a kill and a release that dies."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(tmp_path / "fleet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Everything is as it should be" in done.stdout
    assert "rolled back" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    awaited(lambda: not _running_below(tmp_path), "an end of every process")


def _running_below(folder: Path) -> list[psutil.Process]:
    """A worker of Spark may end a moment after its application."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if str(folder) in " ".join(each.info["cmdline"] or ())]
