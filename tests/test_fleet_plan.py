"""What a fleet's file says, and the difference between that and what runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from clock import NOON
from fleets import VERSION, fleet_at, topics_named, write_fleet
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.cli.fleet import plan_totals
from lakehouse.cli.fleet_columns import differences_text
from lakehouse.config import load
from lakehouse.errors import ConfigError, UsageError
from lakehouse.fleet import releases
from lakehouse.fleet.files import launcher_of, load_fleet, wanted_versions
from lakehouse.fleet.plan import plan
from lakehouse.fleet.running import running_applications
from lakehouse.fleet.versions import Job, Launch, Running, Version
from lakehouse.fleet.wanted import FleetFile, Size, wanted_applications
from lakehouse.store.heartbeats import SILENT_AFTER, Heartbeat, Heartbeats, Pulse, Sign

TOPICS = topics_named("ad_shown", "ad_clicked", "play_started", "play_ended", "song_liked")


def wanted(**keys: Any) -> dict[str, tuple[str, ...]]:
    found = wanted_applications(FleetFile.model_validate(keys), TOPICS, "fleet.yaml")
    return {name: each.topics for name, each in found.items()}


# --- the file ------------------------------------------------------------------------------------------------------


def test_patterns_and_classes_name_topics_and_an_exclamation_mark_leaves_some_out() -> None:
    found = wanted(
        classes={"critical": {"topics": ["play_*"]}},
        applications={
            "ads": {"topics": ["ad_*"]},
            "plays": {"classes": ["critical"], "topics": ["!play_ended"]},
            "rest": {"topics": ["*", "!ad_*", "!play_started"]},
        },
    )
    assert found == {
        "ads": ("ad_clicked", "ad_shown"),
        "plays": ("play_started",),
        "rest": ("play_ended", "song_liked"),
    }


def test_a_topic_that_nobody_names_is_an_error() -> None:
    """Nobody would read it, and nobody would notice."""
    with pytest.raises(ConfigError) as error:
        wanted(applications={"ads": {"topics": ["ad_*", "play_*"]}})
    assert error.value.found == "no application for song_liked"


def test_a_topic_that_two_applications_name_is_an_error_that_names_both() -> None:
    with pytest.raises(ConfigError) as error:
        wanted(applications={"ads": {"topics": ["ad_*"]}, "rest": {"topics": ["*"]}})
    assert error.value.subject == "fleet.yaml: topic ad_clicked"
    assert error.value.found == "application ads and application rest"
    assert '"!ad_clicked"' in error.value.next_step


@pytest.mark.parametrize(
    ("keys", "subject", "found"),
    [
        ({"applications": {"all": {"topics": ["*", "palys"]}}}, "applications.all.topics", "'palys'"),
        ({"applications": {"all": {"topics": ["*"]}, "none": {"topics": ["x_*"]}}}, "applications.none", "no topic"),
        ({"applications": {"all": {"topics": ["*"], "classes": ["x"]}}}, "applications.all.classes", "'x'"),
        ({"applications": {"all": {"topics": ["*"], "size": "huge"}}}, "applications.all.size", "'huge'"),
        (
            {
                "classes": {"a": {"topics": ["ad_*"]}, "b": {"topics": ["ad_shown"]}},
                "applications": {"all": {"topics": ["*"]}},
            },
            "topic ad_shown",
            "class a and class b",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named(keys: dict[str, Any], subject: str, found: str) -> None:
    with pytest.raises(ConfigError) as error:
        wanted(**keys)
    assert (error.value.subject, error.value.found) == (f"fleet.yaml: {subject}", found)


def test_the_nearest_word_on_freshness_counts() -> None:
    """That of the topic's own file, its class, its application, the fleet, in this order."""
    topics = {**TOPICS, "ad_shown": TOPICS["ad_shown"].model_copy(update={"deliver_within": timedelta(minutes=5)})}
    file = FleetFile.model_validate(
        {
            "classes": {"critical": {"topics": ["ad_*"], "deliver_within": "20 minutes"}},
            "applications": {
                "ads": {"topics": ["ad_*", "song_*"], "deliver_within": "30 minutes"},
                "plays": {"topics": ["play_*"]},
            },
        }
    )
    found = wanted_applications(file, topics, "fleet.yaml")
    minutes = {
        name: within / timedelta(minutes=1) for each in found.values() for name, within in each.deliver_within.items()
    }
    assert minutes == {"ad_shown": 5, "ad_clicked": 20, "song_liked": 30, "play_started": 45, "play_ended": 45}


@pytest.mark.parametrize(
    ("content", "subject", "found"),
    [
        ({"applications": {"a": {"topics": ["*"]}}, "colour": 1}, "colour", "the unknown key 'colour'"),
        ({}, "applications", "nothing"),
        ({"applications": {"a": {"topics": ["*"]}}, "roll_out": {"canary": "b"}}, "roll_out.canary", "'b'"),
    ],
)
def test_an_error_names_file_and_key(tmp_path: Path, content: dict[str, Any], subject: str, found: str) -> None:
    conf = write_fleet(tmp_path, {}, ["plays"])
    file = conf.parent / "fleet.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        load_fleet(load(conf))
    assert (error.value.subject, error.value.found) == (f"{file}: {subject}", found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("sizes.s.driver_memory", value) for value in ("0", "0g", "-1g", "abc", "1.5g", "4 g", "4g ")),
        *(("sizes.s.master", value) for value in ("", "local[0]", "local[2] --x", "--help", "local[]", "4")),
        *(
            ("sizes.s.spark", {name: value})
            for name, value in (("a", "b"), ("", "1"), ("spark.a=b", "1"), ("spark.a", "b\nc"))
        ),
        *(("release", value) for value in ("../../x", "..", ".", "/etc", "a/b", "a b", "a\nb", "-x", "é", "x" * 101)),
        ("applications.a.release", "../x"),
        *(("watch.look_every", value) for value in ("0 seconds", "0.5 seconds")),
        *(("local.folder", value) for value in ("", "gs://bucket/fleet", "a\0b")),
    ],
)
def test_a_value_that_nothing_could_run_with_is_refused_with_its_key(tmp_path: Path, key: str, value: Any) -> None:
    """Else it is found out by applications that die, or in a folder that nobody meant."""
    content: dict[str, Any] = {"applications": {"a": {"topics": ["*"]}}}
    *path, last = key.split(".")
    place = content
    for name in path:
        place = place.setdefault(name, {})
    place[last] = value
    conf = write_fleet(tmp_path, {}, ["plays"])
    (conf.parent / "fleet.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    with pytest.raises(ConfigError) as error:
        load_fleet(load(conf))
    assert error.value.subject == f"{conf.parent / 'fleet.yaml'}: {key}"


def test_values_that_spark_takes_are_taken() -> None:
    for master in (
        "local",
        "local[*]",
        "local[4]",
        "local[4,2]",
        "local-cluster[2, 1, 1024]",
        "spark://a:7077",
        "yarn",
    ):
        assert Size(master=master).master == master
    for memory in ("512m", "4g", "4G", "1gb"):
        assert Size(driver_memory=memory).driver_memory == memory
    assert Size(spark={"spark.sql.extensions": "a,b", "spark.driver.extraJavaOptions": "-Da=b -Dc=d"}).spark


@pytest.mark.parametrize("release", ["../../x", ".", "/etc", "a b"])
def test_a_release_that_is_no_name_is_refused_before_anything_is_looked_for(tmp_path: Path, release: str) -> None:
    """A path would run whatever code lies there."""
    conf = write_fleet(tmp_path, {"a": {"topics": ["*"]}}, ["plays"])
    with pytest.raises(UsageError, match="a release's name"):
        wanted_versions(load_fleet(load(conf)), release)


def test_a_folder_may_be_below_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    conf = write_fleet(tmp_path, {"a": {"topics": ["*"]}}, ["plays"], local={"folder": "~/fleet"})
    launcher_of(load_fleet(load(conf))).keep("releases", "r", {"a": conf})
    assert (tmp_path / "home/fleet/releases/r/a").is_file()


@pytest.mark.parametrize("name", ["Ads", "a_b", "-ads", "a" * 51, ""])
def test_a_name_that_no_launcher_could_give_a_job_is_refused(tmp_path: Path, name: str) -> None:
    conf = write_fleet(tmp_path, {name: {"topics": ["*"]}}, ["plays"])
    with pytest.raises(ConfigError, match="names of up to 50 letters"):
        load_fleet(load(conf))


def test_an_environment_without_a_fleet_says_how_to_begin(tmp_path: Path) -> None:
    conf = write_fleet(tmp_path, {}, ["plays"])
    (conf.parent / "fleet.yaml").unlink()
    with pytest.raises(ConfigError, match="no such file; expected the applications of the environment"):
        load_fleet(load(conf))


@pytest.mark.parametrize("what", ["no.yaml", "a folder"])
@pytest.mark.parametrize(
    "command", ["fleet plan", "fleet status", "fleet pack", "dataproc create-command", "doctor --on dataproc"]
)
def test_a_fleets_file_that_cannot_be_read_is_answered_with_its_option(tmp_path: Path, command: str, what: str) -> None:
    conf = write_fleet(tmp_path, {"a": {"topics": ["*"]}}, ["plays"])
    (tmp_path / "a folder").mkdir()
    arguments = [*command.split(), "--conf", str(conf), "--fleet", str(tmp_path / what)]
    refused = CliRunner().invoke(app.app, arguments).exception
    assert isinstance(refused, ConfigError)
    assert (refused.subject, "the path with --fleet." in refused.next_step) == (str(tmp_path / what), True)


# --- releases and snapshots ----------------------------------------------------------------------------------------


def test_a_release_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for folder in releases.code(tmp_path / name).values():
            folder.mkdir(parents=True)
            (folder / "run.py").write_text("a")
    one = releases.release_of(tmp_path / "one")
    (tmp_path / "two" / "lakehouse" / "__pycache__").mkdir()
    (tmp_path / "two" / "lakehouse" / "__pycache__" / "run.pyc").write_text("made by Python")
    assert releases.release_of(tmp_path / "two") == one
    (tmp_path / "two" / "jobs" / "run.py").write_text("b")
    assert releases.release_of(tmp_path / "two") != one


def test_files_of_a_release_come_folder_by_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    """In another order the same code would have another name, and a deployment would replace every application."""
    for name in ("a.b", "a-b/y", "a/x", "a/.hidden", ".hidden/x", "a/__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "a/folder").symlink_to("../a-b")
    expected = [("code/a/x", tmp_path / "a/x"), ("code/a-b/y", tmp_path / "a-b/y"), ("code/a.b", tmp_path / "a.b")]
    assert list(releases.part_files("code", tmp_path)) == expected


def test_a_snapshot_loads_as_its_original_and_hashes_alike(tmp_path: Path) -> None:
    """What an application runs must have the configuration's hash that the plan expects of it."""
    conf = write_fleet(tmp_path / "here", {"all": {"topics": ["*"]}}, ["plays", "skips"])
    values = yaml.safe_load(conf.read_text()) | {"expectations": "../expectations"}
    conf.write_text(yaml.safe_dump(values))
    fleet = fleet_at(conf)
    copy = tmp_path / "snapshot"
    assert releases.copied(releases.configuration(fleet.config), copy)
    assert not releases.copied(releases.configuration(fleet.config), copy), "it never changes"
    copied = load(copy / releases.file_in_snapshot(fleet.config))
    assert copied.topics == fleet.config.topics
    assert copied.expectations.is_relative_to(copy)
    assert not copied.path.stat().st_mode & 0o222, "nobody edits what runs by mistake"
    shutil.copy(conf.parent / "fleet.yaml", copied.path.parent)
    again = wanted_versions(load_fleet(copied), "r")["all"]
    assert again == wanted_versions(fleet, "r")["all"]


# --- the plan ------------------------------------------------------------------------------------------------------


def version(**changes: Any) -> Version:
    return replace(VERSION, **changes)


def job(launched: Version = VERSION, state: Any = "running", **changes: Any) -> Job:
    return Job(Launch("ads-1", "ads", launched), state, NOON, **changes)


def running(launched: Version | None = VERSION, **changes: Any) -> Running:
    values: dict[str, Any] = {
        "application": "ads", "is_alive": True, "run": "one", "host": "here", "release": VERSION.release,
        "configuration": VERSION.configuration, "topics": VERSION.topics, "job": job(launched) if launched else None,
    }  # fmt: skip
    return Running(**(values | changes))


CASES: list[tuple[str, Version | None, Running | None, str, str]] = [
    ("nothing was ever started", version(), None, "start", "nothing runs it"),
    ("it ended", version(), running(is_alive=False, job=job(state="ended")), "start", "nothing runs it"),
    ("its machine was started again", version(), running(is_alive=False, job=job(state="lost")), "start", "nothing"),
    ("all is as wanted", version(), running(), "keep", "–"),
    ("it is coming up", version(), Running("ads", False, job=job(state="pending")), "keep", "–"),
    ("it dies again and again", version(), running(is_alive=False, job=job(state="waiting")), "keep", "–"),
    ("another release", version(release="2"), running(), "replace", f"release {VERSION.release} → 2"),
    ("what runs is older than what was launched", version(), running(release="0"), "replace", "release 0 →"),
    ("a topic more", version(topics=("plays", "skips")), running(), "replace", "gains skips"),
    ("a topic less", version(), running(topics=("plays", "skips")), "replace", "loses skips"),
    ("a topic was stopped", version(), running(topics=()), "replace", "gains plays"),
    ("another setting", version(configuration="x"), running(), "replace", "configuration hash → x"),
    ("another suite", version(suites="x"), running(), "replace", "suites suites → x"),
    (
        "more memory",
        version(size=Size(driver_memory="4g")),
        running(),
        "replace",
        "driver_memory as by default → driver_memory 4g",
    ),
    ("a person started it", version(), running(None), "replace", "started by a person"),
    ("it is wanted no more", None, running(), "stop", "does not name it"),
    ("somebody else's", None, running(None), "leave", "started by a person"),
]


@pytest.mark.parametrize(("case", "wants", "runs", "action", "words"), CASES, ids=[case[0] for case in CASES])
def test_only_what_differs_is_touched(
    case: str, wants: Version | None, runs: Running | None, action: str, words: str
) -> None:
    found = plan({"ads": wants} if wants else {}, {"ads": runs} if runs else {})
    (change,) = found.changes
    assert change.action == action
    assert words in differences_text(change)
    assert bool(found.touched) == (action in ("start", "replace", "stop"))


def test_what_ended_and_is_not_wanted_is_no_change() -> None:
    assert plan({}, {"ads": running(is_alive=False, job=job(state="ended"))}).changes == ()


def test_an_application_is_what_its_heartbeat_and_its_newest_job_say() -> None:
    pulse = Pulse(subscription="s", state="running", since=NOON)
    beat = Heartbeat(
        application="ads", run="one", host="here", release="r", configuration="c", started_at=NOON, written_at=NOON,
        topics={"plays": pulse, "skips": replace(pulse, state="taken over"), "likes": replace(pulse, state="parked")},
    )  # fmt: skip
    old, new = job(is_retired=True), replace(job(), launch=Launch("ads-2", "ads", VERSION))
    found = running_applications([Sign(beat, NOON)], [new, old], NOON + timedelta(minutes=1))["ads"]
    assert (found.is_alive, found.topics, found.job) == (True, ("likes", "plays"), new)
    later = running_applications([Sign(beat, NOON)], [], NOON + SILENT_AFTER * 2)["ads"]
    assert (later.is_alive, later.is_running) == (False, False)


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., str]:
    conf = write_fleet(tmp_path, {"ads": {"topics": ["ad_*"]}, "rest": {"topics": ["*", "!ad_*"]}}, list(TOPICS))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app.app, ["fleet", "plan", "--conf", str(conf), *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_plan_says_what_would_be_done_and_does_nothing(planned: Callable[..., str], tmp_path: Path) -> None:
    out = planned()
    assert re.search(r"^ads +\+ start +2 +nothing runs it$", out, re.MULTILINE)
    assert out.splitlines()[-1] == "2 to start; 0 stay as they are."
    assert not (tmp_path / "fleet").exists()
    assert not (tmp_path / "lake").exists()


def test_plan_reads_what_runs_from_heartbeats(planned: Callable[..., str], tmp_path: Path) -> None:
    """A fleet that was started by hand is known, too."""
    fleet = fleet_at(tmp_path / "conf" / "test.yaml")
    launcher_of(fleet).keep("releases", "r1", {"conf": tmp_path / "conf"})
    want = wanted_versions(fleet, "r1")["ads"]
    at = fleet.config.now()
    pulses = {name: Pulse(subscription=name, state="running", since=at) for name in want.topics}
    said = {"application": "ads", "run": "one", "host": "h", "configuration": want.configuration, "topics": pulses}
    Heartbeats(fleet.config.settings).write(Heartbeat(release="r0", started_at=at, written_at=at, **said))  # type: ignore[arg-type]
    document = json.loads(planned("--json", "--release", "r1"))
    ads, rest = document["applications"]
    assert [each["what"] for each in ads["differences"]] == ["release", "launcher"]
    assert ads["differences"][0] == {"what": "release", "found": "r0", "wanted": "r1"}
    assert (rest["action"], document["touched"], document["releases"]) == ("start", 2, {"r0": 1})


def test_a_fleet_that_is_as_wanted_needs_nothing() -> None:
    assert plan_totals(plan({"ads": VERSION}, {"ads": running()})) == (
        "Nothing to do: 1 of 1 applications are as they are wanted."
    )
