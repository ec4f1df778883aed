"""In which order applications are replaced, and when a new one counts as well: values in, values out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from clock import NOON
from fleets import VERSION

from lakehouse.fleet.plan import Change
from lakehouse.fleet.roll_out import Before, Verdict, before, verdict, waves
from lakehouse.fleet.versions import Job, Launch, Running, Version
from lakehouse.fleet.wanted import RollOut
from lakehouse.store.heartbeats import SILENT_AFTER, Heartbeat, Pulse, Sign

NEW = replace(VERSION, topics=("plays", "skips"))
PULSE = Pulse(subscription="s", state="running", since=NOON, last_trigger=NOON, epoch=3, frontier=NOON)


def change(name: str, *topics: str, had: tuple[str, ...] | None = None, action: Any = "replace") -> Change:
    version = replace(VERSION, topics=topics or (name,))
    running = Running(name, True, topics=topics or (name,) if had is None else had)
    return Change(name, action, len(version.topics), (), version, None if action == "start" else running)


# --- waves ---------------------------------------------------------------------------------------------------------


def test_the_smallest_is_the_canary_and_the_rest_follows_some_at_a_time() -> None:
    changes = [change("big", *"abc"), change("mid", *"de"), change("small", "f"), change("more", *"gh")]
    made = waves(changes, RollOut(side_by_side=2))
    assert made.canary == ("small",)
    assert made.rest == (("mid", "more"), ("big",))
    assert made.all == (("small",), ("mid", "more"), ("big",))


def test_the_canary_can_be_named() -> None:
    made = waves([change("big", *"abc"), change("small", "d")], RollOut(canary="big"))
    assert made.all == (("big",), ("small",))
    assert made.canary == ("big",)


def test_no_canary_where_there_is_nothing_to_protect() -> None:
    """The first deployment, and that of a single application, need not wait for an hour to be sealed."""
    first = waves([change("a", action="start"), change("b", action="start")], RollOut())
    assert (first.canary, first.rest) == ((), (("a", "b"),))
    assert waves([change("a")], RollOut()).canary == ()
    assert waves([change("a"), change("b")], RollOut(), has_canary=False).canary == ()


def test_what_exchanges_topics_is_replaced_together() -> None:
    """One by one, an application that restarts in between would take back a topic that nobody would read then."""
    changes = [
        change("a", "x", had=("x", "y")),
        change("b", "y", "z", had=("z",)),
        change("c", "u"),
        change("d", "z2", had=("z2",)),
    ]
    assert waves(changes, RollOut(side_by_side=1, canary="d")).all == (("d",), ("c",), ("a", "b"))


def test_what_is_stopped_or_kept_is_in_no_wave() -> None:
    gone = Change("gone", "stop", 1, (), None, Running("gone", True, topics=("a",)))
    assert waves([gone], RollOut()).all == ()
    assert waves([gone, change("a", "a")], RollOut()).all == (("a",),)


# --- verdicts ------------------------------------------------------------------------------------------------------


def sign(age: timedelta = timedelta(0), pulses: dict[str, Pulse] | None = None, **changes: Any) -> Sign:
    beat = Heartbeat(
        application="ads", run="two", host="here", release=NEW.release, configuration=NEW.configuration,
        started_at=NOON, written_at=NOON, topics=pulses if pulses is not None else {"plays": PULSE, "skips": PULSE},
    )  # fmt: skip
    return Sign(replace(beat, **changes), NOON - age)


def job(state: Any = "running", failures: int = 0, why: str | None = None) -> Job:
    return Job(Launch("ads-2", "ads", NEW), state, NOON, failures=failures, why=why)


RUNS = job()


def said(
    sign: Sign | None, job: Job | None = RUNS, earlier: dict[str, Before] | None = None, version: Version = NEW
) -> Verdict:
    return verdict(version, sign, job, "one", earlier or {}, NOON)


def test_an_application_is_well_when_each_topic_was_polled() -> None:
    assert said(sign()) == Verdict("well")


def pulses(**changes: Any) -> dict[str, Pulse]:
    return {"plays": replace(PULSE, **changes), "skips": PULSE}


FAILS = {"state": "parked", "error": "denied"}
LATER = NOON + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("sign", "job", "state", "reason"),
    [
        (None, job(), "waits", "no heartbeat yet"),
        (sign(run="one"), job(), "waits", "no heartbeat yet"),
        (sign(run="died and came back", job="ads-1", release="0"), job(), "waits", "no heartbeat yet"),
        (sign(run="died and came back", job="ads-1"), job(), "waits", "no heartbeat yet"),
        (sign(job="ads-2", release="0"), job(), "failed", f"it runs release 0, not {NEW.release}"),
        (None, job("waiting", 1, "exit code 1"), "waits", "it died once: exit code 1"),
        (None, job("waiting", 2, "exit code 1"), "failed", "it died 2 times in a row: exit code 1"),
        (None, job("ended"), "failed", "its job has ended"),
        (sign(), job("lost"), "failed", "its job has lost"),
        (None, None, "failed", "the launcher does not know its job"),
        (sign(SILENT_AFTER * 2), job(), "failed", "its heartbeat has stopped"),
        (sign(ended_at=NOON, why_ended="no suite"), job(), "failed", "it ended: no suite"),
        (sign(release="0"), job(), "failed", f"it runs release 0, not {NEW.release}"),
        (sign(configuration="0"), job(), "failed", "it runs configuration 0, not hash"),
        (sign(pulses={"plays": PULSE}), job(), "waits", "skips is not in the heartbeat yet"),
        (sign(pulses=pulses(last_trigger=None)), job(), "waits", "plays has not been polled yet"),
        (sign(pulses=pulses(failures=1, **FAILS)), job(), "waits", "plays fails: denied"),
        (sign(pulses=pulses(failures=3, **FAILS)), job(), "failed", "plays fails: denied"),
        (sign(pulses=pulses(state="taken over", error="run 3")), job(), "failed", "plays is taken over: run 3"),
    ],
)  # fmt: skip
def test_why_an_application_is_not_well(sign: Sign | None, job: Job | None, state: str, reason: str) -> None:
    assert said(sign, job) == Verdict(state, (reason,))  # type: ignore[arg-type]


def test_a_topic_that_failed_before_is_held_against_nobody() -> None:
    """Or nothing could be deployed while one subscription of three hundred is missing."""
    failing = sign(pulses=pulses(failures=9, **FAILS))
    earlier = before(sign(pulses=pulses(failures=1, **FAILS)))
    assert said(failing, earlier=earlier) == Verdict("well")


def test_a_frontier_never_falls_back() -> None:
    earlier = {"plays": Before(frontier=LATER)}
    found = said(sign(), earlier=earlier)
    assert (found.state, found.reasons) == ("failed", ("the frontier of plays fell back from 12:01:00 to 12:00:00",))
    assert said(sign(pulses=pulses(frontier=None)), earlier=earlier).state == "well", "Monitoring lags by minutes"
    assert said(sign(pulses=pulses(frontier=LATER)), earlier=earlier).state == "well"


def test_of_many_reasons_some_are_listed() -> None:
    names = tuple(f"topic_{number}" for number in range(9))
    found = said(sign(pulses={}), version=replace(NEW, topics=names))
    assert found.reasons[-1] == "and 4 more topics"
    assert len(found.reasons) == 6


def test_topics_that_wait_for_their_first_batch_are_counted() -> None:
    """All of an application do so when it starts."""
    started = {name: replace(PULSE, last_trigger=None) for name in ("plays", "skips")}
    assert said(sign(pulses=started)) == Verdict("waits", ("2 topics have not been polled yet",))


def test_a_failure_comes_before_what_is_waited_for() -> None:
    found = said(sign(pulses={"skips": replace(PULSE, state="parked", failures=5, error="denied")}))
    assert found == Verdict("failed", ("skips fails: denied",))
