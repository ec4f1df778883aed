"""Deployments of a small fleet of real processes, with each launcher."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_dataproc import FakeDataproc, serving
from fleets import (
    ClusterLauncher,
    awaited,
    end_all,
    fleet_at,
    of_cluster,
    small_application,
    topic_values,
    write_fleet,
)
from rich.cells import cell_len
from typer.testing import CliRunner

from lakehouse.cli import app, fleet_columns
from lakehouse.cli.output import table
from lakehouse.errors import FOUND_WRONG, CheckError, ConfigError, LakeError
from lakehouse.fleet import deploy as deploying
from lakehouse.fleet import deployments as deployments_module
from lakehouse.fleet import files, releases, waiting
from lakehouse.fleet.dataproc.artifacts import release_folder
from lakehouse.fleet.dataproc.client import EMULATOR
from lakehouse.fleet.deploy import (
    check_deployable,
    check_done,
    deploy,
    plan_of,
    restart_plan,
    rollback_plan,
    running,
    stop_plan,
)
from lakehouse.fleet.deployments import Deployment, Deployments, state_after
from lakehouse.fleet.files import Fleet, wanted_versions
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.launchers.local import LocalLauncher
from lakehouse.fleet.plan import Plan
from lakehouse.fleet.versions import Job
from lakehouse.store.heartbeats import Heartbeats
from lakehouse.store.records import Started
from tests.lake import Lake

pytestmark = pytest.mark.slow

NAMES = ["ad_shown", "ad_clicked", "play_started", "play_ended", "song_liked"]
APPLICATIONS = {"ads": {"topics": ["ad_*"]}, "plays": {"topics": ["play_*"]}, "songs": {"topics": ["song_*"]}}
ROLL_OUT = {"canary_for": "0.2 seconds", "wave_within": "20 seconds", "side_by_side": 2}


@dataclass
class Site:
    """A fleet's files, launcher and lake below one folder; what was reported of deployments."""

    folder: Path
    launcher: Launcher
    said: list[str] = field(default_factory=list)
    on_line: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        self.applications: dict[str, Any] = dict(APPLICATIONS)
        self.write()

    def write(self, **keys: Any) -> None:
        self.conf = write_fleet(self.folder, self.applications, NAMES, **{"roll_out": ROLL_OUT, **keys})

    @property
    def fleet(self) -> Fleet:
        return fleet_at(self.conf)

    def make_release(self, name: str) -> str:
        """One whose behaviour follows from its name, see `tests/small_application.py`."""
        self.launcher.keep("releases", name, {"jobs": Path(__file__).parent.parent / "jobs"})
        return name

    def report(self, line: str) -> None:
        self.said.append(line)
        self.on_line(line)

    def plan(self, release: str = "") -> Plan:
        return plan_of(self.fleet, self.launcher, wanted_versions(self.fleet, release))

    def deploy(self, release: str = "r1", **options: Any) -> Deployment | None:
        self.make_release(release)
        wanted = options.pop("wanted", lambda: self.plan(release))
        return deploy(self.fleet, self.launcher, wanted, by="ann", report=self.report, **options)

    def releases(self) -> dict[str, str | None]:
        """What each application that is alive runs, by its heartbeat."""
        return {name: each.release for name, each in running(self.fleet, self.launcher).items() if each.is_alive}

    def jobs(self) -> dict[str, str]:
        """Their states, by application and number of the deployment."""
        return {_named(job.launch.id): job.state for job in self.launcher.jobs()}

    def job(self, name: str) -> Job:
        (found,) = [job for job in self.launcher.jobs() if _named(job.launch.id) == name]
        return found

    def owners(self, topic: str) -> list[str]:
        """Who has ever claimed it: application and release."""
        lines = (self.folder / "lake" / "claims" / f"{topic}.log").read_text().splitlines()
        return [line.rpartition(" ")[0] for line in lines]

    def history(self) -> list[Deployment]:
        return Deployments(self.fleet.config.settings).all()


def _named(job: str) -> str:
    """An id without what makes it unique, such as `ads-1`."""
    return re.sub("-[0-9a-f]{8}(?=$|-back$)", "", job)


@pytest.fixture(params=["local", "dataproc"])
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.05)
    lake = tmp_path / "lake"
    lake.mkdir()
    if request.param == "local":
        launcher = LocalLauncher(tmp_path / "fleet", small_application(lake))
        yield Site(tmp_path, launcher)
        end_all(launcher)
        return
    fake = FakeDataproc(tmp_path / "cluster", of_cluster(lake, small_application(lake)))
    with serving(fake) as address:
        monkeypatch.setenv(EMULATOR, address)
        yield Site(tmp_path, ClusterLauncher(tmp_path / "fleet", lake))


def outcome(ended: Deployment | None) -> str | None:
    return ended.outcome if ended else "nothing to do"


# --- going on ------------------------------------------------------------------------------------------------------


def test_a_first_deployment_starts_all_and_a_second_finds_nothing_to_do(site: Site) -> None:
    assert outcome(site.deploy()) == "done"
    assert site.releases() == {"ads": "r1", "plays": "r1", "songs": "r1"}
    assert outcome(site.deploy()) == "nothing to do"
    (entry,) = site.history()
    assert (entry.number, entry.by, entry.kind, entry.releases) == (1, "ann", "deploy", ["r1"])
    assert [step.state for step in entry.steps] == ["well"] * 3
    assert not (site.folder / "fleet" / "snapshots" / "x").exists()


def test_a_release_goes_to_the_canary_first_and_takes_over_from_what_runs(site: Site) -> None:
    """No job is ended before its successor has its topics, and none comes back for them."""
    site.deploy("r1")
    seen: list[dict[str, str | None]] = []
    site.on_line = lambda line: seen.append(site.releases()) if line.startswith("canary") else None
    assert outcome(site.deploy("r2")) == "done"
    assert seen[0] == {"songs": "r2", "ads": "r1", "plays": "r1"}
    assert set(site.releases().values()) == {"r2"}
    awaited(
        lambda: (
            sorted(name for name, state in site.jobs().items() if state == "running") == ["ads-2", "plays-2", "songs-2"]
        )
    )
    assert site.owners("song_liked") == ["songs r1", "songs r2"]
    assert site.history()[-1].waves == (("songs",), ("ads", "plays"))


def test_only_what_differs_is_touched(site: Site) -> None:
    site.deploy()
    topic = site.conf.parent / "topics" / "ad_shown.yaml"
    topic.write_text(yaml.safe_dump({**topic_values("ad_shown"), "lateness": "2 hours"}))
    assert [change.application for change in site.plan("r1").touched] == ["ads"]
    assert outcome(site.deploy()) == "done"
    assert [step.application for step in site.history()[-1].steps] == ["ads"]
    assert sorted(site.jobs()) == ["ads-1", "ads-2", "plays-1", "songs-1"]
    copy = {job.launch.version.snapshot for job in site.launcher.jobs()}
    assert len(copy) == 2, "the new configuration is a copy of its own"


def test_a_suite_that_changed_is_a_difference_of_its_topics_application_alone(site: Site) -> None:
    site.deploy()
    suite = site.folder / "expectations" / "song_liked.json"
    suite.write_text(suite.read_text() + "\n")
    assert [(change.application, change.differences[0].what) for change in site.plan("r1").touched] == [
        ("songs", "suites")
    ]


def test_a_topic_moves_to_another_application_and_is_never_left_alone(site: Site) -> None:
    site.deploy()
    site.applications = {
        "ads": {"topics": ["ad_clicked"]},
        "plays": {"topics": ["play_*", "ad_shown"]},
        "songs": {"topics": ["song_*"]},
    }
    site.write()
    assert outcome(site.deploy()) == "done"
    assert site.owners("ad_shown") == ["ads r1", "plays r1"]
    assert not site.plan("r1").touched
    assert site.history()[-1].waves == (("ads", "plays"),)


def test_an_application_that_is_wanted_no_more_ends_after_its_topics_have_gone(site: Site) -> None:
    site.deploy()
    site.applications = {"ads": {"topics": ["ad_*", "song_*"]}, "plays": {"topics": ["play_*"]}}
    site.write()
    assert outcome(site.deploy()) == "done"
    awaited(lambda: site.jobs()["songs-1"] in ("ended", "failed"))
    assert site.owners("song_liked") == ["songs r1", "ads r1"]
    assert state_after(site.history(), 2).keys() == {"ads", "plays"}


def test_an_application_that_was_killed_for_good_is_started_again(site: Site) -> None:
    site.deploy()
    site.launcher.end(site.job("songs-1").launch.id)
    awaited(lambda: site.jobs()["songs-1"] == "ended")
    assert outcome(site.deploy()) == "done"
    assert site.releases()["songs"] == "r1"


@pytest.mark.parametrize("lost", [".", "_fleet"], ids=["lake", "history"])
def test_deployments_that_are_numbered_from_1_again_start_jobs_of_their_own(site: Site, lost: str) -> None:
    """A launcher still has the jobs of a lake that was removed, and takes the same id for the same start."""
    site.deploy("r1")
    for _ in range(2):
        stopped = site.deploy(kind="stop", wanted=lambda: stop_plan(site.fleet, site.launcher, list(APPLICATIONS)))
        assert outcome(stopped) == "done"
        shutil.rmtree(site.folder / "lake" / lost)
        (site.folder / "lake").mkdir(exist_ok=True)
        assert outcome(site.deploy("r1")) == "done"
        assert site.history()[-1].number == 1
        assert site.releases() == {"ads": "r1", "plays": "r1", "songs": "r1"}


# --- going back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "why"),
    [
        ("bad-dies", "songs: it died 2 times in a row: "),
        ("bad-fails", "songs: song_liked fails: topic x: found no subscription"),
        ("bad-lags", "songs: the frontier of song_liked fell back"),
    ],
)
def test_a_canary_that_is_not_well_is_rolled_back_and_nobody_else_was_touched(
    site: Site, release: str, why: str
) -> None:
    site.deploy("r1")
    ended = site.deploy(release)
    assert outcome(ended) == "rolled back"
    assert ended is not None
    assert (ended.why or "").startswith(why)
    awaited(lambda: site.releases() == {"ads": "r1", "plays": "r1", "songs": "r1"})
    assert sorted(each for each in site.jobs() if not each.startswith("songs")) == ["ads-1", "plays-1"]
    assert [step.state for step in ended.steps] == ["planned", "planned", "restored"]
    with pytest.raises(CheckError, match="What ran before runs again"):
        check_done(ended)
    assert outcome(site.deploy("r1")) == "nothing to do"


def test_what_hangs_is_rolled_back_when_its_time_is_over(site: Site) -> None:
    site.deploy("r1")
    site.write(roll_out={**ROLL_OUT, "wave_within": "2 seconds"})
    ended = site.deploy("bad-hangs")
    assert ended is not None
    assert ended.why == "not well within 2 s: songs: song_liked has not been polled yet"
    assert outcome(ended) == "rolled back"


def test_a_release_that_never_claimed_a_topic_leaves_the_old_run_as_it_is(site: Site) -> None:
    """Nothing is started again that has never stopped."""
    site.deploy("r1")
    run = running(site.fleet, site.launcher)["songs"].run
    config = site.fleet.config
    lake = Lake(config.topics["song_liked"], config)
    lake.ledger.record(Started(run=run or "", host="here", release="r1"))
    assert outcome(site.deploy("bad-dies")) == "rolled back"
    assert site.owners("song_liked") == ["songs r1"]
    awaited(lambda: site.jobs()["songs-2"] == "ended")
    assert site.jobs()["songs-1"] == "running"
    assert not site.job("songs-1").is_retired


def test_where_what_ran_before_is_gone_the_deployment_fails_and_the_next_one_goes_on(site: Site) -> None:
    """Else each command after it would try the same way back, and none would ever deploy again."""
    site.deploy("r1")

    def lose(line: str) -> None:
        if line.startswith("not well"):
            shutil.rmtree(site.folder / "fleet" / "releases" / "r1")

    site.on_line = lose
    ended = site.deploy("bad-fails")
    assert ended is not None
    assert (ended.outcome, ended.step("songs").state) == ("failed", "failed")
    assert "and on the way back: application songs: release r1: found nothing" in str(ended.why)
    site.on_line = lambda line: None
    assert outcome(site.deploy("r2")) == "done"
    awaited(lambda: site.releases() == {"ads": "r2", "plays": "r2", "songs": "r2"})


def test_waves_that_were_well_go_back_with_the_one_that_is_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One version for all: a fleet of two releases is what nobody can reason about."""
    site.deploy("r1")
    site.applications["ads"] = {"topics": ["ad_*"], "release": site.make_release("bad-fails")}
    site.applications["plays"] = {"topics": ["play_*"], "release": site.make_release("r2")}
    site.applications["songs"] = {"topics": ["song_*"], "release": "r2"}
    site.write(roll_out={**ROLL_OUT, "side_by_side": 1, "canary": "songs"})
    ended = site.deploy("r2", wanted=lambda: site.plan(""))
    assert outcome(ended) == "rolled back"
    awaited(lambda: site.releases() == {"ads": "r1", "plays": "r1", "songs": "r1"})
    assert site.owners("song_liked") == ["songs r1", "songs r2", "songs r1"]


def test_where_nothing_ran_before_nothing_runs_after(site: Site) -> None:
    assert outcome(site.deploy("bad-fails")) == "rolled back"
    awaited(lambda: set(site.jobs().values()) == {"ended"})


def test_a_topic_that_was_broken_before_keeps_nobody_from_deploying(site: Site) -> None:
    """Or one subscription of three hundred that is missing would hold up them all."""
    site.deploy("r1")
    (site.folder / "lake" / "broken").mkdir()
    (site.folder / "lake" / "broken" / "song_liked").touch()
    heartbeats = Heartbeats(site.fleet.config.settings)
    awaited(lambda: (beat := heartbeats.of("songs")) and beat.topics["song_liked"].failures)
    assert outcome(site.deploy("r2")) == "done"


def test_it_goes_back_to_what_was_last_well(site: Site) -> None:
    """What runs may be the broken half of an earlier deployment."""
    site.deploy("r1")
    known = site.job("songs-1").launch
    bad = replace(known.version, release=site.make_release("bad-fails"))
    site.launcher.retire(known.id)
    site.launcher.start(replace(known, id="songs-by-hand", version=bad))
    awaited(lambda: site.releases().get("songs") == "bad-fails")
    assert outcome(site.deploy("bad-dies")) == "rolled back"
    awaited(lambda: site.releases()["songs"] == "r1")


# --- one at a time, and after a death ------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of the command, as a signal makes it."""


def test_two_deployments_do_not_meet(site: Site) -> None:
    site.deploy("r1")
    is_begun, go_on = threading.Event(), threading.Event()

    def hold(line: str) -> None:
        is_begun.set()
        go_on.wait(30)

    site.on_line = hold
    ended: list[str | None] = []
    thread = threading.Thread(target=lambda: ended.append(outcome(site.deploy("r2"))))
    thread.start()
    is_begun.wait(30)
    with pytest.raises(LakeError) as refused:
        deploy(site.fleet, site.launcher, lambda: site.plan("r1"), by="bob")
    assert refused.value.subject == "deployment 2"
    assert refused.value.found.startswith("deploy by ann on ")
    with pytest.raises(LakeError, match="deployment 2: found deploy by ann"):
        check_deployable(site.fleet, site.launcher, site.plan("r1"))
    go_on.set()
    thread.join()
    assert ended == ["done"]
    assert [each.number for each in site.history()] == [1, 2]


@pytest.mark.parametrize("dies_at", ["songs: starts", "canary", "songs: well", "ads: starts", "plays: well"])
def test_a_deployment_that_was_interrupted_is_gone_on_with(site: Site, dies_at: str) -> None:
    """Nothing is started twice, and what was found well is not put to the proof again."""
    site.deploy("r1")

    def die(line: str) -> None:
        if line.startswith(dies_at):
            raise Killed

    site.on_line = die
    with pytest.raises(Killed):
        site.deploy("r2")
    assert site.history()[-1].outcome == "interrupted"
    site.on_line = lambda line: None
    site.said.clear()
    ended = site.deploy("r2")
    assert outcome(ended) == "done"
    assert ended is not None
    assert ended.resumes == 2
    assert set(site.releases().values()) == {"r2"}
    for topic, name in (("song_liked", "songs"), ("ad_shown", "ads"), ("play_ended", "plays")):
        assert site.owners(topic) == [f"{name} r1", f"{name} r2"]
    assert any(line.startswith("canary") for line in site.said) == (dies_at in ("songs: starts", "canary"))
    assert not site.plan("r2").touched


@pytest.mark.parametrize("seconds", [-1, 1], ids=["after a while", "after the clock was set back"])
def test_a_deployment_whose_command_was_killed_counts_as_dead(
    site: Site, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """SIGKILL leaves no word."""
    site.deploy("r1")
    monkeypatch.setattr(deploying, "_interrupted", lambda *_: None)

    def die(line: str) -> None:
        if line.startswith("ads: starts"):
            raise Killed

    site.on_line = die
    with pytest.raises(Killed):
        site.deploy("r2")
    site.on_line = lambda line: None
    with pytest.raises(LakeError, match="counts as dead"):
        site.deploy("r2")
    file = site.folder / "lake" / "_fleet" / "deployments" / "000002.json"
    old = time.time() + seconds * (deployments_module.STALE_AFTER.total_seconds() + 1)
    os.utime(file, (old, old))
    assert outcome(site.deploy("r2")) == "done"
    assert [each.outcome for each in site.history()] == ["done", None, "done"]


def test_the_history_fits_a_terminal(site: Site) -> None:
    site.deploy("r1")
    (one,) = site.history()
    long = replace(
        one, number=100_000, by="somebody.with.a.name", why="a reason " * 30, outcome="interrupted", kind="rollback"
    )
    lines, left_out = table(fleet_columns.DEPLOYMENT, [one, long], 80)
    assert max(cell_len(line.plain) for line in lines) <= 80
    assert left_out == ["took", "applications"]


def test_what_else_lies_beside_the_deployments_is_none_of_them(site: Site) -> None:
    site.deploy("r1")
    folder = site.folder / "lake" / "_fleet" / "deployments"
    for name in ("000001.json~", "zzz", ".000009.json", "000009.json.part", "9.json"):
        (folder / name).write_text("{}")
    assert Deployments(site.fleet.config.settings).newest() == site.history()[0]
    assert outcome(site.deploy("r2")) == "done"
    assert [each.number for each in site.history()] == [1, 2]


def test_a_deployment_that_was_taken_for_dead_does_nothing_more(site: Site) -> None:
    """Its machine may only have slept."""
    site.deploy("r1")
    settings = site.fleet.config.settings

    def taken(line: str) -> None:
        if line.startswith("canary"):
            site.on_line = lambda line: None
            file = site.folder / "lake" / "_fleet" / "deployments" / "000002.json"
            os.utime(file, (1, 1))
            Deployments(settings).begin("deploy", "", "bob")

    site.on_line = taken
    with pytest.raises(LakeError, match="deployment 3: found deploy by bob"):
        site.deploy("r2")
    assert site.releases() == {"songs": "r2", "ads": "r1", "plays": "r1"}


def test_a_way_back_that_was_interrupted_is_brought_to_its_end(site: Site) -> None:
    """And what was wanted is not tried again by the way."""
    site.deploy("r1")

    def die(line: str) -> None:
        if line.startswith("songs: back"):
            raise Killed

    site.on_line = die
    with pytest.raises(Killed):
        site.deploy("bad-fails")
    site.on_line = lambda line: None
    ended = site.deploy("r1")
    assert outcome(ended) == "rolled back"
    awaited(lambda: site.releases() == {"ads": "r1", "plays": "r1", "songs": "r1"})
    assert outcome(site.deploy("r1")) == "nothing to do"


def test_nothing_is_touched_where_something_is_missing(site: Site) -> None:
    site.deploy("r1")
    with pytest.raises(ConfigError, match="application ads: release r9: found nothing"):
        deploy(site.fleet, site.launcher, lambda: site.plan("r9"))
    assert sorted(site.jobs()) == ["ads-1", "plays-1", "songs-1"]
    assert [each.number for each in site.history()] == [1]


def commands_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`lakehouse fleet` with these arguments: exit code and what is printed; raises what it ends with."""
    monkeypatch.setattr(files, "launcher_of", lambda fleet: site.launcher)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app.app, ["fleet", *arguments, "--conf", str(site.conf)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    return run


@pytest.mark.parametrize(
    ("gone", "command"),
    [
        ("releases/r9", ["deploy", "--release", "r9"]),
        ("releases/r1", ["rollback"]),
        ("releases/r2", ["restart", "songs"]),
        ("snapshots", ["restart", "songs"]),
        ("environments", ["deploy"]),
    ],
)
def test_what_a_command_refuses_its_dry_run_refuses_and_no_deployment_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch, gone: str, command: list[str]
) -> None:
    """Whoever has seen a plan counts on it; and one that is left there is to be gone on with by the next command."""
    if gone == "environments" and site.launcher.kind == "local":
        pytest.skip("its packages are those of this machine")
    site.deploy("r1")
    site.deploy("r2")
    shutil.rmtree(site.folder / "fleet" / gone, ignore_errors=True)
    if gone == "snapshots":  # else the configuration that is there now is kept again
        (site.folder / "expectations" / "_every_topic.json").write_text('{"name": "_every_topic", "expectations": [] }')
    run, refusals = commands_of(site, monkeypatch), []
    plan = [["plan", *command[1:]]] if command[0] == "deploy" else []
    for arguments in (*plan, [*command, "--dry-run"], command):
        with pytest.raises(ConfigError) as refused:
            run(*arguments)
        refusals.append(str(refused.value))
    assert len(set(refusals)) == 1
    assert [each.number for each in site.history()] == [1, 2]
    assert set(site.releases().values()) == {"r2"}


def test_a_plan_keeps_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of code and configuration which nobody has deployed yet: a deployment would bring them."""
    run = commands_of(site, monkeypatch)
    for arguments in (["plan"], ["deploy", "--dry-run"]):
        assert "3 to start" in run(*arguments)[1]
    assert not [each for kind in ("releases", "snapshots") for each in (site.folder / "fleet" / kind).glob("*")]


def test_this_trees_code_is_packed_and_its_configuration_copied(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    own = releases.release_of(releases.tree())
    assert outcome(deploy(site.fleet, site.launcher, lambda: site.plan(""))) == "done"
    assert set(site.releases().values()) == {own}
    kept, snapshot = site.folder / "fleet", releases.snapshot_of(site.fleet.config)
    if isinstance(site.launcher, ClusterLauncher):
        assert "lakehouse/fleet/deploy.py" in zipfile.ZipFile(kept / release_folder(own) / "lakehouse.zip").namelist()
        copy = zipfile.ZipFile(kept / "snapshots" / f"{snapshot}.zip").read("conf/test.yaml").decode()
    else:
        assert (kept / "releases" / own / "jobs" / "run.py").is_file()
        copy = (kept / "snapshots" / snapshot / "conf" / "test.yaml").read_text()
    assert copy == site.conf.read_text()


def test_a_package_without_a_tree_deploys_what_was_packed_before(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.make_release("r1")
    monkeypatch.setattr(releases, "_HOME", site.folder)
    assert outcome(site.deploy("r1")) == "done"
    with pytest.raises(ConfigError, match="no jobs; expected the project's tree"):
        site.plan("")


# --- the other commands --------------------------------------------------------------------------------------------


def test_a_restart_gives_each_application_a_new_run_of_what_it_runs(site: Site) -> None:
    site.deploy("r1")
    before = running(site.fleet, site.launcher)["songs"].run
    ended = site.deploy(
        kind="restart", wanted=lambda: restart_plan(site.fleet, site.launcher, ["songs"]), has_canary=False
    )
    assert outcome(ended) == "done"
    after = running(site.fleet, site.launcher)["songs"]
    assert after.run != before
    assert after.release == "r1"
    site.launcher.end(site.job("ads-1").launch.id)
    awaited(lambda: site.jobs()["ads-1"] == "ended")
    awaited(lambda: "ads" not in site.releases())
    with pytest.raises(ConfigError, match="no job of it that runs"):
        restart_plan(site.fleet, site.launcher, ["ads"])


def test_a_rollback_goes_to_the_deployment_before_or_to_the_one_that_is_named(site: Site) -> None:
    for release in ("r1", "r2", "r3"):
        site.deploy(release)
    back = rollback_plan(site.fleet, site.launcher, None, [])
    assert {change.wanted.release for change in back.touched if change.wanted} == {"r2"}
    ended = site.deploy(
        kind="rollback", wanted=lambda: rollback_plan(site.fleet, site.launcher, 1, []), has_canary=False
    )
    assert outcome(ended) == "done"
    assert set(site.releases().values()) == {"r1"}
    only = rollback_plan(site.fleet, site.launcher, 3, ["ads"])
    assert [change.application for change in only.touched] == ["ads"]
    with pytest.raises(ConfigError, match=r"no deployment of that number that was done; expected one of .* 1, 2, 3, 4"):
        rollback_plan(site.fleet, site.launcher, 7, [])


def test_without_an_earlier_deployment_there_is_no_way_back(site: Site) -> None:
    site.deploy("r1")
    with pytest.raises(ConfigError, match="rollback: found no earlier deployment"):
        rollback_plan(site.fleet, site.launcher, None, [])


def test_what_is_stopped_stays_ended_until_it_is_deployed_again(site: Site) -> None:
    site.deploy("r1")
    ended = site.deploy(kind="stop", wanted=lambda: stop_plan(site.fleet, site.launcher, ["songs"]))
    assert outcome(ended) == "done"
    awaited(lambda: site.jobs()["songs-1"] == "ended")
    awaited(lambda: site.releases().keys() == {"ads", "plays"})
    assert [change.action for change in site.plan("r1").touched] == ["start"]
    assert outcome(site.deploy("r1")) == "done"


def test_the_commands_say_what_they_do_and_how_it_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run = commands_of(site, monkeypatch)
    site.make_release("r1")
    code, out = run("deploy", "--release", "r1", "--dry-run")
    assert (code, site.jobs()) == (0, {})
    assert "3 to start; 0 stay as they are." in out
    code, out = run("deploy", "--release", "r1", "--by", "ann", "--reason", "the first")
    assert "ads: starts r1 with 2 topics" in out
    assert out.splitlines()[-1] == "deployment 1: done"
    assert "Nothing to do: 3 of 3 applications are as they are wanted." in run("deploy", "--release", "r1")[1]
    site.make_release("bad-dies")
    with pytest.raises(SystemExit) as exit_:
        app.main(["fleet", "deploy", "--release", "bad-dies", "--conf", str(site.conf)])
    assert exit_.value.code == FOUND_WRONG
    code, out = run("restart", "songs", "--json")
    assert json.loads(out[out.index("{\n") :])["deployment"]["outcome"] == "done"
    code, out = run("stop", "songs")
    assert "songs: ends, as it is not wanted any more" in out
    code, out = run("rollback", "--to", "1", "--dry-run")
    assert "songs" in out
    code, out = run("history", "--json")
    assert [(each["kind"], each["outcome"]) for each in json.loads(out)["deployments"]] == [
        ("deploy", "done"), ("deploy", "rolled back"), ("restart", "done"), ("stop", "done"),
    ]  # fmt: skip
    _, out = run("history")
    assert "the first" in out
    with pytest.raises(ConfigError, match="expected one of ads, plays, songs"):
        run("restart", "nobody")


def test_a_renewed_deployment_is_not_taken_for_dead(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments_module, "RENEW_EVERY", timedelta(0))
    deployments = Deployments(site.fleet.config.settings)
    ours, _ = deployments.begin("deploy", "")
    file = site.folder / "lake" / "_fleet" / "deployments" / "000001.json"
    os.utime(file, (1, 1))
    deployments.renew(ours)
    assert time.time() - file.stat().st_mtime < 30
