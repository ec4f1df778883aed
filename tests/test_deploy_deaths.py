"""A deployment's command dies at every one of its effects, one run for each; the next command must bring it to its end.

The applications are simulated: with each pause of the command one moment passes, in which jobs start, claim topics as
the fence has it, give signs of life, and are started again by their supervisors when they die.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fleets import fleet_at, write_fleet

from lakehouse.fleet import deploy as deploying
from lakehouse.fleet import deployments, releases, waiting
from lakehouse.fleet.deploy import deploy, plan_of
from lakehouse.fleet.deployments import Deployment, Deployments
from lakehouse.fleet.files import wanted_versions
from lakehouse.fleet.releases import NOTHING_BROUGHT, Brought, Parts
from lakehouse.fleet.versions import ArtifactKind, Job, Launch
from lakehouse.store.heartbeats import Heartbeat, Heartbeats, Pulse

pytestmark = pytest.mark.slow

APPLICATIONS = {"ads": {"topics": ["ad_*"]}, "plays": {"topics": ["play_*"]}, "songs": {"topics": ["song_*"]}}
NAMES = ["ad_shown", "play_started", "play_ended", "song_liked"]
MOVED = {
    "ads": {"topics": ["ad_*", "play_ended"]},
    "plays": {"topics": ["play_started"]},
    "songs": {"topics": ["song_*"]},
}
MERGED = {"ads": {"topics": ["ad_*", "song_*"]}, "plays": {"topics": ["play_*"]}}


class Killed(BaseException):
    """The command has died."""


@dataclass
class Run:
    """A job as the world has it. `run` changes with each start."""

    launch: Launch
    created_at: datetime
    state: str = "pending"
    starts: int = 0
    failures: int = 0
    is_retired: bool = False
    is_asked_to_end: bool = False

    @property
    def name(self) -> str:
        return f"{self.launch.id}/{self.starts}"


@dataclass
class World:
    """Launcher and applications. `dies_at` is which effect kills the command, and whether before or after it."""

    conf: Path
    dies_at: int | None = None
    is_before: bool = True
    kind: str = "local"
    runs: dict[str, Run] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    effects: int = 0
    moments: int = 0

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """The files, again."""
        self.fleet = fleet_at(self.conf)
        self.heartbeats = Heartbeats(self.fleet.config.settings)

    # --- the launcher ----------------------------------------------------------------------------------------------

    def keep(self, kind: ArtifactKind, name: str, parts: Parts) -> None: ...

    def check(self, launch: Launch, brought: Brought = NOTHING_BROUGHT) -> None: ...

    def start(self, launch: Launch) -> None:
        with self.effect():
            if launch.id not in self.runs:
                created = self.fleet.config.now() + timedelta(microseconds=len(self.runs))
                self.runs[launch.id] = Run(launch, created)

    def retire(self, job: str, *, is_retired: bool = True) -> None:
        with self.effect():
            if job in self.runs:
                self.runs[job].is_retired = is_retired

    def end(self, job: str) -> None:
        with self.effect():
            if job in self.runs:
                self.runs[job].is_asked_to_end = True

    def jobs(self, patience: timedelta | None = None) -> list[Job]:
        return [
            Job(each.launch, each.state, each.created_at, failures=each.failures, is_retired=each.is_retired)  # type: ignore[arg-type]
            for each in self.runs.values()
        ]

    def log_tail(self, job: str, lines: int) -> list[str]:
        return []

    # --- deaths ----------------------------------------------------------------------------------------------------

    def effect(self) -> _Effect:
        self.effects += 1
        return _Effect(self.effects == self.dies_at, self.is_before)

    # --- what applications do --------------------------------------------------------------------------------------

    def pass_moment(self, seconds: float = 0.0) -> None:
        self.moments += 1
        assert self.moments < 300, "nothing ever ends"
        for each in list(self.runs.values()):
            self._live(each)

    def _live(self, each: Run) -> None:
        if each.state in ("ended", "failed"):
            return
        if each.is_asked_to_end:
            each.state = "ended"
            self._beat(each, ended=True)
        elif each.state in ("pending", "waiting"):
            self._begin(each)
        elif not any(self.owners.get(topic) == each.name for topic in each.launch.version.topics):
            self._die(each)
        else:
            self._beat(each)

    def _begin(self, each: Run) -> None:
        if each.state == "waiting" and each.is_retired:
            each.state = "failed"
            return
        each.starts += 1
        if each.launch.version.release == "bad-dies":
            self._die(each)
            return
        each.state = "running"
        self.owners |= dict.fromkeys(each.launch.version.topics, each.name)
        self._beat(each)

    def _die(self, each: Run) -> None:
        each.failures += 1
        each.state = "failed" if each.is_retired else "waiting"

    def _beat(self, each: Run, *, ended: bool = False) -> None:
        version, at = each.launch.version, self.fleet.config.now()
        is_bad = version.release == "bad-fails"
        newest = self.heartbeats.of(each.launch.application)
        if ended and newest is not None and newest.run != each.name:
            return
        pulses = {}
        for topic in version.topics:
            pulse = Pulse(subscription=topic, state="running", since=at, last_trigger=at, frontier=at)
            if self.owners.get(topic) != each.name:
                pulse = replace(pulse, state="taken over", failures=1, error="a newer run has it")
            elif is_bad:
                pulse = replace(pulse, state="parked", failures=9, error="topic x: found nothing; expected it. Wait.")
            pulses[topic] = pulse
        beat = Heartbeat(
            application=each.launch.application, run=each.name, host="here", release=version.release,
            configuration=version.configuration, started_at=at, written_at=at, topics=pulses,
        )  # fmt: skip
        self.heartbeats.write(replace(beat, ended_at=at, why_ended="asked to") if ended else beat)


@dataclass
class _Effect:
    kills: bool
    is_before: bool

    def __enter__(self) -> None:
        if self.kills and self.is_before:
            raise Killed

    def __exit__(self, *failure: object) -> None:
        if self.kills and not self.is_before and failure[0] is None:
            raise Killed


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """One in which the fleet runs `r1`, and every write of the deployment is an effect, too."""
    roll_out = {"canary_for": "0.01 seconds", "wave_within": "1 hour", "side_by_side": 1}
    made = World(write_fleet(tmp_path, APPLICATIONS, NAMES, roll_out=roll_out))
    monkeypatch.setattr(waiting.time, "sleep", made.pass_moment)
    monkeypatch.setattr(
        releases, "has_tree", lambda: False
    )  # no release here is of this tree, which takes a while to read
    monkeypatch.setattr(deploying, "_interrupted", lambda *_: None)
    monkeypatch.setattr(deployments, "STALE_AFTER", timedelta(seconds=-1))
    write = Deployments.write

    def counted(self: Deployments, deployment: Deployment) -> None:
        with made.effect():
            write(self, deployment)

    monkeypatch.setattr(Deployments, "write", counted)
    ended = run(made, "r1")
    assert ended is not None
    assert ended.outcome == "done"
    made.effects = made.moments = 0
    return made


def run(world: World, release: str) -> Deployment | None:
    wanted = wanted_versions(world.fleet, release)
    return deploy(world.fleet, world, lambda: plan_of(world.fleet, world, wanted), by="ann")


def settle(world: World) -> None:
    for _ in range(12):
        world.pass_moment()


def check(world: World, release: str, applications: Mapping[str, Any] = APPLICATIONS) -> None:
    """Each topic is read, by the application and release that should; nothing else runs, or would start again."""
    settle(world)
    active = [each for each in world.runs.values() if each.state in ("pending", "running", "waiting")]
    assert sorted(each.launch.application for each in active) == sorted(applications)
    assert not any(each.is_retired for each in active), "one that dies would not come back"
    assert {each.launch.version.release for each in active} == {release}
    wanted = {topic: each.name for each in active for topic in each.launch.version.topics}
    assert world.owners == wanted


def effects_of(world: World, release: str) -> int:
    """Of a deployment that is not interrupted: the number that the tests below go through."""
    run(world, release)
    return world.effects


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("dies_at", range(1, 30))
def test_wherever_the_command_dies_the_next_one_completes_the_deployment(
    world: World, dies_at: int, is_before: bool
) -> None:
    world.dies_at, world.is_before = dies_at, is_before
    died = False
    try:
        run(world, "r2")
    except Killed:
        died = True
    settle(world)
    assert died or world.effects < dies_at
    world.dies_at = None
    ended = run(world, "r2")
    assert ended is None or ended.outcome == "done"
    check(world, "r2")
    jobs = [each.launch.id for each in world.runs.values() if each.launch.version.release == "r2"]
    assert len(jobs) == 3, "nothing was started twice"


@pytest.mark.parametrize("release", ["bad-dies", "bad-fails"])
@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("dies_at", range(1, 18))
def test_wherever_the_way_back_is_interrupted_all_is_as_it_was_in_the_end(
    world: World, dies_at: int, is_before: bool, release: str
) -> None:
    world.dies_at, world.is_before = dies_at, is_before
    try:
        ended = run(world, release)
        assert ended is not None
        assert ended.outcome == "rolled back"
    except Killed:
        settle(world)
        world.dies_at = None
        ended = run(world, release)
        assert ended is not None
        assert ended.outcome == "rolled back"
    world.dies_at = None
    check(world, "r1")


@pytest.mark.parametrize("wanted", [MOVED, MERGED], ids=["moved", "merged"])
@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("dies_at", range(1, 26))
def test_wherever_the_command_dies_topics_that_move_are_read_in_the_end(
    world: World, dies_at: int, is_before: bool, wanted: dict[str, Any]
) -> None:
    """Also those of an application that is not wanted any more."""
    roll_out = {"canary_for": "0.01 seconds", "wave_within": "1 hour"}
    write_fleet(world.conf.parent.parent, wanted, NAMES, roll_out=roll_out)
    world.read()
    world.dies_at, world.is_before = dies_at, is_before
    try:
        run(world, "r1")
    except Killed:
        settle(world)
    world.dies_at = None
    run(world, "r1")
    check(world, "r1", wanted)
    assert world.owners["play_ended" if wanted is MOVED else "song_liked"].startswith("ads-")


@pytest.mark.parametrize("seed", range(12))
def test_however_often_commands_die_the_last_one_gets_there(world: World, seed: int) -> None:
    """Whatever was wanted by those before it: a release that is not well, too."""
    chance = random.Random(seed)
    for _ in range(6):
        world.dies_at, world.is_before = world.effects + chance.randint(1, 20), chance.random() < 0.5
        try:
            run(world, chance.choice(["r2", "r3", "bad-dies", "bad-fails", "r1"]))
        except Killed:
            for _ in range(chance.randint(0, 4)):
                world.pass_moment()
        world.moments = 0
    world.dies_at = None
    outcomes = []
    for _ in range(3):  # the first may only bring a way back to its end, and the second begin anew
        world.moments = 0
        ended = run(world, "r4")
        outcomes.append(ended.outcome if ended else "nothing to do")
        settle(world)
    assert outcomes[-1] == "nothing to do", outcomes
    check(world, "r4")


def test_the_tests_go_through_every_effect(world: World) -> None:
    """One more effect in the code needs one more number in the tests above."""
    assert effects_of(world, "r2") < 30
