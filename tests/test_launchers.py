"""One contract for every launcher: what it starts, finds, stops and tells. `local` starts real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_dataproc import FakeDataproc, Process, serving
from fleets import (
    OBEYS,
    RELEASE,
    SNAPSHOT,
    VERSION,
    ClusterLauncher,
    awaited,
    cluster_launcher,
    is_gone,
    job_of,
    local_launcher,
    of_cluster,
    python,
)

from lakehouse.errors import ConfigError, LakeError
from lakehouse.fleet.dataproc.client import EMULATOR
from lakehouse.fleet.launchers import local, supervisor
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.launchers.local import LocalLauncher, spark_submit
from lakehouse.fleet.versions import Launch
from lakehouse.fleet.wanted import Size

RUNS = """
import os, signal, sys, time
print("runs", os.environ["RELEASE"], os.environ["TOPICS"], flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    time.sleep(0.05)
"""
ENDS = "print('done', flush=True)"
DIES = "import sys; print('dies', flush=True); sys.exit(3)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("stays", flush=True)
while True:
    time.sleep(0.05)
"""


def launch(number: int = 1, application: str = "ads") -> Launch:
    return Launch(f"{application}-{number}", application, VERSION)


class Kind:
    """A launcher of one kind, whose jobs run a program of the test; all of them are ended with the test."""

    def running(self, code: str) -> Launcher:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class Local(Kind):
    def __init__(self, folder: Path) -> None:
        self._folder, self._launchers = folder, list[Launcher]()

    def running(self, code: str) -> Launcher:
        self._launchers.append(local_launcher(self._folder / "fleet", code))
        return self._launchers[-1]

    def end(self) -> None:
        for launcher in self._launchers:
            for job in launcher.jobs():
                launcher.end(job.launch.id)
                state = self._folder / "fleet" / "jobs" / job.launch.id / "state.json"
                known = supervisor_state(state)
                for process in ("supervisor", "process"):
                    if known.get(process) and supervisor.is_living(known[process]):
                        _kill_with_children(int(known[process]["pid"]))


def _kill_with_children(pid: int) -> None:
    """Also one that it has just started, and not told of yet."""
    process = psutil.Process(pid)
    process.suspend()
    for each in (*process.children(recursive=True), process):
        each.kill()


class OnDataproc(Kind):
    """The fake of Dataproc, at a port of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._code, self._serving = folder, "", ExitStack()
        self.lake = folder / "lake"
        self.lake.mkdir()
        self.fake = FakeDataproc(folder / "cluster", self._process)
        monkeypatch.setenv(EMULATOR, self._serving.enter_context(serving(self.fake)))

    def running(self, code: str) -> ClusterLauncher:
        self._code = code
        return cluster_launcher(self.folder / "fleet", self.lake)

    def _process(self, job: object) -> Process:
        return of_cluster(self.lake, python(OBEYS + self._code))(job)

    def end(self) -> None:
        self._serving.close()


def supervisor_state(file: Path) -> dict[str, dict[str, float]]:
    return json.loads(file.read_text()) if file.exists() else {}


@pytest.fixture
def local_kind(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path)
    yield made
    made.end()


@pytest.fixture
def on_dataproc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnDataproc]:
    made = OnDataproc(tmp_path, monkeypatch)
    yield made
    made.end()


@pytest.fixture(params=["local_kind", "on_dataproc"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.getfixturevalue(request.param)
    return made


def state_of(launcher: Launcher, job: str) -> str:
    return job_of(launcher, job).state


# --- the contract --------------------------------------------------------------------------------------------------


def test_what_is_started_runs_and_is_told_of(kind: Kind) -> None:
    launcher = kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: state_of(launcher, "ads-1") == "running")
    job = job_of(launcher, "ads-1")
    assert job.launch == launch()
    assert job.started_at is not None
    assert (job.failures, job.is_retired, job.is_active) == (0, False, True)
    awaited(lambda: launcher.log_tail("ads-1", 5) == [f"runs {RELEASE} plays"])


def test_a_second_start_with_the_same_id_is_no_second_job(kind: Kind) -> None:
    """The answer to the first may have been lost."""
    launcher = kind.running(RUNS)
    for _ in range(2):
        launcher.start(launch())
    awaited(lambda: launcher.log_tail("ads-1", 5))
    assert len(launcher.jobs()) == 1
    assert len(launcher.log_tail("ads-1", 5)) == 1


def test_jobs_of_an_application_run_side_by_side(kind: Kind) -> None:
    """A take-over without a gap needs both for a while."""
    launcher = kind.running(RUNS)
    launcher.start(launch(1))
    launcher.start(launch(2))
    awaited(lambda: all(job.state == "running" for job in launcher.jobs()))
    assert [job.launch.id for job in launcher.jobs()] == ["ads-1", "ads-2"]


def test_a_job_is_asked_to_end_and_ends_in_order(kind: Kind) -> None:
    launcher = kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: launcher.log_tail("ads-1", 1))
    launcher.end("ads-1")
    awaited(lambda: state_of(launcher, "ads-1") == "ended")
    launcher.end("ads-1")
    launcher.end("never-started")
    assert job_of(launcher, "ads-1").failures == 0


def test_a_job_that_ends_by_itself_is_not_started_again(kind: Kind) -> None:
    launcher = kind.running(ENDS)
    launcher.start(launch())
    awaited(lambda: state_of(launcher, "ads-1") == "ended")
    assert launcher.log_tail("ads-1", 9) == ["done"]


def test_a_job_that_dies_is_started_again_after_a_pause(kind: Kind) -> None:
    launcher = kind.running(DIES)
    launcher.start(launch())
    waiting = awaited(lambda: (job := job_of(launcher, "ads-1")).state == "waiting" and job)
    assert (waiting.failures, waiting.is_active) == (1, True)
    assert waiting.why
    awaited(lambda: len(launcher.log_tail("ads-1", 9)) >= 2)
    launcher.end("ads-1")
    awaited(lambda: state_of(launcher, "ads-1") == "ended")


def test_a_retired_job_that_dies_stays_dead(kind: Kind) -> None:
    """Its successor has taken its topics: started again, it would take them back."""
    launcher = kind.running(DIES)
    launcher.start(launch())
    awaited(lambda: job_of(launcher, "ads-1").failures)
    launcher.retire("ads-1")
    awaited(lambda: not job_of(launcher, "ads-1").is_active)
    assert job_of(launcher, "ads-1").is_retired


def test_a_job_whose_successor_never_came_up_is_retired_no_more(kind: Kind) -> None:
    launcher = kind.running(RUNS)
    launcher.start(launch())
    launcher.retire("ads-1")
    assert job_of(launcher, "ads-1").is_retired
    launcher.retire("ads-1", is_retired=False)
    assert not job_of(launcher, "ads-1").is_retired


@pytest.mark.parametrize(("kind_of", "name"), [("release", RELEASE), ("snapshot", SNAPSHOT)])
def test_what_a_job_is_made_of_must_be_there(kind: Kind, kind_of: str, name: str) -> None:
    launcher = kind.running(RUNS)
    missing = replace(launch(), version=replace(VERSION, **{kind_of: "gone"}))
    with pytest.raises(ConfigError) as error:
        launcher.start(missing)
    assert error.value.subject == f"application ads: {kind_of} gone"
    assert name in error.value.expected.replace("0-aaaa", "0+aaaa"), "in addresses on a store"
    assert launcher.jobs() == []


# --- local ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_outlives_the_command_that_started_it(tmp_path: Path, local_kind: Local) -> None:
    """Also when that is killed with its whole session."""
    launcher = local_kind.running(RUNS)
    starter = (
        "import sys, time; from fleets import *; from test_launchers import RUNS, launch\n"
        f"local_launcher(Path({str(tmp_path / 'fleet')!r}), RUNS).start(launch()); print('started', flush=True)\n"
        "time.sleep(60)"
    )
    folder = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", starter],
        env={**os.environ, "PYTHONPATH": f"{folder.parent}:{folder}"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        os.killpg(process.pid, signal.SIGKILL)
    awaited(lambda: launcher.log_tail("ads-1", 1))
    assert state_of(launcher, "ads-1") == "running"


def test_an_application_that_is_killed_comes_back(tmp_path: Path, local_kind: Local) -> None:
    launcher = local_kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: launcher.log_tail("ads-1", 1))
    pid = int(supervisor_state(tmp_path / "fleet/jobs/ads-1/state.json")["process"]["pid"])
    os.kill(pid, signal.SIGKILL)
    awaited(lambda: len(launcher.log_tail("ads-1", 9)) == 2)
    assert job_of(launcher, "ads-1").why == "killed by SIGKILL"


def test_a_job_whose_supervisor_was_killed_is_still_known_and_can_be_ended(tmp_path: Path, local_kind: Local) -> None:
    launcher = local_kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: launcher.log_tail("ads-1", 1))
    state = supervisor_state(tmp_path / "fleet/jobs/ads-1/state.json")
    os.kill(int(state["supervisor"]["pid"]), signal.SIGKILL)
    awaited(lambda: is_gone(int(state["supervisor"]["pid"])))
    assert state_of(launcher, "ads-1") == "running"
    launcher.end("ads-1")
    awaited(lambda: is_gone(int(state["process"]["pid"])))
    assert state_of(launcher, "ads-1") == "lost"


def test_it_says_when_a_job_is_started_again_and_how_it_died(local_kind: Local) -> None:
    launcher = local_kind.running(DIES)
    launcher.start(launch())
    waiting = awaited(lambda: (job := job_of(launcher, "ads-1")).state == "waiting" and job)
    assert waiting.why == "exit code 3"
    assert waiting.next_start_at is not None


def test_after_a_restart_of_the_machine_jobs_are_lost(tmp_path: Path, local_kind: Local) -> None:
    """The numbers of their processes may be those of others by then."""
    launcher = local_kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: launcher.log_tail("ads-1", 1))
    file = tmp_path / "fleet/jobs/ads-1/state.json"
    state = supervisor_state(file)
    launcher.end("ads-1")
    awaited(lambda: state_of(launcher, "ads-1") == "ended")
    ours = {**(supervisor.identity(os.getpid()) or {}), "boot": "another"}
    supervisor.write_atomically(file, {**state, "state": "running", "supervisor": ours, "process": ours})
    assert state_of(launcher, "ads-1") == "lost"


def test_who_ignores_the_end_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stays\n"
        supervisor.end_process(psutil.Process(process.pid), grace_seconds=0.1)
        assert process.wait(10) == -signal.SIGKILL


def test_pauses_grow_up_to_an_hour() -> None:
    assert [supervisor.pause_seconds(failures) for failures in (1, 2, 3, 10, 59, 60, 1000)] == [
        2, 6, 12, 110, 3540, 3600, 3600,
    ]  # fmt: skip


@pytest.mark.parametrize(("ran_seconds", "failures"), [(1.0, 6), (supervisor.WELL_AFTER_SECONDS + 1, 1)])
def test_deaths_before_a_good_run_count_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran_seconds: float, failures: int
) -> None:
    """An application that dies once a day is started again at once every time."""
    supervisor.write_atomically(tmp_path / "launch.json", {})
    one = supervisor.Supervisor(tmp_path)
    one._note(failures=5)
    waited: list[float] = []
    monkeypatch.setattr(one, "_run_once", lambda: (1, ran_seconds))
    monkeypatch.setattr(one, "_wait", lambda seconds: bool(waited.append(seconds)))
    one.run()
    assert waited == [supervisor.pause_seconds(failures)]


def test_what_cannot_be_run_at_all_is_a_death_with_its_reason(tmp_path: Path) -> None:
    supervisor.write_atomically(
        tmp_path / "launch.json", {"command": ["/no/such/program"], "folder": "/", "environment": {}}
    )
    one = supervisor.Supervisor(tmp_path)
    assert one._run_once() == (127, 0.0)
    assert "No such file or directory: '/no/such/program'" in (tmp_path / "log").read_text()


def test_a_long_log_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_LOG_BYTES", 10)
    supervisor.write_atomically(
        tmp_path / "launch.json", {"command": ["/bin/echo", "a longer line"], "folder": "/", "environment": {}}
    )
    one = supervisor.Supervisor(tmp_path)
    for _ in range(3):
        one._run_once()
    assert (tmp_path / "log").read_text() == (tmp_path / "log.1").read_text() == "a longer line\n"


CHATTERS = "import time\nwhile True: print('a line of some length', flush=True); time.sleep(0.001)"


def test_the_log_of_a_run_that_never_ends_makes_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_LOG_BYTES", 1000)
    monkeypatch.setattr(supervisor, "LOOKS_PER_LOG_LOOK", 1)
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.02)
    command = {"command": [sys.executable, "-c", CHATTERS], "folder": "/", "environment": {}}
    supervisor.write_atomically(tmp_path / "launch.json", command)
    one = supervisor.Supervisor(tmp_path)
    thread = threading.Thread(target=one._run_once)
    thread.start()
    awaited(lambda: (tmp_path / "log.1").exists())
    awaited(lambda: (tmp_path / "log").read_bytes().startswith(b"a line"), "it is written at its beginning again")
    (tmp_path / "end").touch()
    thread.join(30)
    assert not thread.is_alive()


def supervised(folder: Path, code: str) -> supervisor.Supervisor:
    command = {"command": [sys.executable, "-c", code], "folder": "/", "environment": {}}
    supervisor.write_atomically(folder / "launch.json", command)
    return supervisor.Supervisor(folder)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


DIES_ONCE = """
import pathlib, sys
first = pathlib.Path({first!r})
if first.exists():
    sys.exit(0)
first.touch()
sys.exit(3)
"""


def test_a_full_disk_costs_nobody_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it could not keep it keeps later; an application that dies meanwhile is started again."""
    one = supervised(tmp_path, DIES_ONCE.format(first=str(tmp_path / "first")))
    write, failed = supervisor.write_atomically, list[str]()

    def write_later(file: Path, values: dict[str, Any]) -> None:
        if "waiting" not in failed:
            failed.append(values["state"])
            full()
        write(file, values)

    monkeypatch.setattr(supervisor, "write_atomically", write_later)
    one.run()
    assert (failed[0], failed[-1]) == ("pending", "waiting")
    said = json.loads((tmp_path / "state.json").read_text())
    assert (said["state"], said["failures"], said["why"]) == ("ended", 1, "exit code 3")


def test_a_log_that_finds_no_room_beside_it_grows_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_LOG_BYTES", 1)
    monkeypatch.setattr(supervisor.shutil, "copyfile", full)
    one = supervised(tmp_path, "print('a line')")
    assert [one._run_once()[0] for _ in range(2)] == [0, 0]
    assert (tmp_path / "log").read_text() == "a line\n" * 2
    assert not (tmp_path / "log.1").exists()


def test_a_job_whose_folder_is_gone_is_not_started_for_ever(tmp_path: Path) -> None:
    home = tmp_path / "job"
    home.mkdir()
    one = supervised(home, f"import shutil; shutil.rmtree({str(home)!r})")
    with pytest.raises(FileNotFoundError):
        one.run()


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-35, "killed by signal 35"), (-34, "killed by SIGRTMIN")],
)
def test_how_a_job_died_is_said_of_every_signal(code: int, words: str) -> None:
    assert supervisor._ending(code) == words


STATES = (
    "", "{", "[]", "3", "null", "[1]", '"x"', '{"supervisor": 5}', '{"failures": null}', '{"failures": "x"}',
    '{"state": ["a"]}', '{"started_at": "2020"}', '{"next_start_at": {}}',
)  # fmt: skip


def test_a_job_whose_state_cannot_be_understood_runs_as_long_as_its_supervisor(
    tmp_path: Path, local_kind: Local
) -> None:
    """One garbled file must not hide the whole fleet, nor have a second job started beside the first."""
    launcher = local_kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: state_of(launcher, "ads-1") == "running")
    file = tmp_path / "fleet/jobs/ads-1/state.json"
    good = file.read_text()
    for content in STATES:
        file.write_text(content)
        assert state_of(launcher, "ads-1") == "running", content
    for odd in ({"started_at": 1e300}, {"started_at": 1e18}, {"state": "paused"}):
        file.write_text(json.dumps({**json.loads(good), **odd}))
        assert job_of(launcher, "ads-1").is_active, odd
    file.write_text(good)
    launcher.end("ads-1")
    awaited(lambda: state_of(launcher, "ads-1") == "ended")
    created = json.loads((tmp_path / "fleet/jobs/ads-1/launch.json").read_text())
    created["created_at"] = "2026-01-01T00:00:00+00:00"
    (tmp_path / "fleet/jobs/ads-1/launch.json").write_text(json.dumps(created))
    for content in STATES:
        file.write_text(content)
        assert state_of(launcher, "ads-1") == "lost", content


LATER = {"launch": {"id": "ads-1", "application": "ads", "version": {"of": "a later release"}}}


@pytest.mark.parametrize("content", ["", "{", "3", "{}", json.dumps(LATER)])
def test_a_job_that_this_release_does_not_understand_is_an_error_only_while_it_runs(
    tmp_path: Path, local_kind: Local, content: str
) -> None:
    launcher = local_kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: state_of(launcher, "ads-1") == "running")
    file = tmp_path / "fleet/jobs/ads-1/launch.json"
    good = file.read_text()
    file.write_text(content)
    with pytest.raises(LakeError, match="does not understand"):
        launcher.jobs()
    file.write_text(good)
    launcher.end("ads-1")
    awaited(lambda: state_of(launcher, "ads-1") == "ended")
    awaited(lambda: not supervisor.is_living(supervisor_state(file.with_name("state.json"))["supervisor"]))
    file.write_text(content)
    assert launcher.jobs() == []


def test_whatever_is_asked_of_a_folder_that_refuses_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = local_launcher(tmp_path / "fleet", RUNS)
    home = tmp_path / "fleet/jobs/ads-1"
    (home / "log").mkdir(parents=True)
    (home / "launch.json").mkdir()
    (home / "state.json").mkdir()
    (home / "retired").mkdir()
    asked = (launcher.jobs, lambda: launcher.end("ads-1"), lambda: launcher.log_tail("ads-1", 1))
    for ask in (*asked, lambda: launcher.retire("ads-1", is_retired=False)):
        with pytest.raises(LakeError, match="a folder for the launcher `local`"):
            ask()
    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(LakeError, match="No space left"):
        launcher.retire("ads-1")


def test_a_start_that_died_before_there_was_a_supervisor_is_gone_on_with(
    tmp_path: Path, local_kind: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = local_kind.running(RUNS)
    with monkeypatch.context() as dying:
        dying.setattr(local, "_supervise", lambda home: None)
        launcher.start(launch())
    launcher.start(launch())
    awaited(lambda: launcher.log_tail("ads-1", 1))
    local._supervise(tmp_path / "fleet/jobs/ads-1")
    launcher.end("ads-1")
    awaited(lambda: state_of(launcher, "ads-1") == "ended")
    assert len(launcher.log_tail("ads-1", 9)) == 1, "a second supervisor does nothing"


def test_of_jobs_that_ended_the_newest_are_kept(local_kind: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_KEPT_JOBS", 1)
    launcher = local_kind.running(ENDS)
    for number in (1, 2, 3):
        launcher.start(launch(number))
        awaited(lambda number=number: state_of(launcher, f"ads-{number}") == "ended")
    launcher.start(launch(4))
    assert [job.launch.id for job in launcher.jobs()] == ["ads-3", "ads-4"]
    awaited(lambda: state_of(launcher, "ads-4") == "ended")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "fleet").write_text("a file")
    with pytest.raises(LakeError, match=r"another `local\.folder`"):
        LocalLauncher(tmp_path / "fleet").keep("releases", "r", {})


def test_what_is_started_is_the_release_with_its_size_and_nobody_elses_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_CONF", "/somewhere/else.yaml")
    monkeypatch.setenv("LAKEHOUSE_JOB", "another-1")
    size = Size(master="local[3]", driver_memory="2g", spark={"spark.ui.enabled": "false"})
    made = spark_submit(replace(launch(), version=replace(VERSION, size=size)), tmp_path / "r", tmp_path / "s")
    text = " ".join(made.command)
    assert "--master local[3] " in text
    assert "--conf spark.driver.memory=2g" in text
    assert "--conf spark.ui.enabled=false" in text
    own = size.model_copy(update={"spark": {"spark.driver.memory": "3g"}})
    other = spark_submit(replace(launch(), version=replace(VERSION, size=own)), tmp_path / "r", tmp_path / "s")
    assert [word for word in other.command if "memory" in word] == ["spark.driver.memory=3g"]
    assert text.endswith(f"/r/{RELEASE}/jobs/run.py plays --conf {tmp_path}/s/{SNAPSHOT}/conf/test.yaml")
    assert made.environment["LAKEHOUSE_RELEASE"] == RELEASE
    assert made.environment["PYTHONPATH"] == f"{tmp_path}/r/{RELEASE}"
    assert made.environment["LAKEHOUSE_JOB"] == launch().id
    assert "LAKEHOUSE_CONF" not in made.environment


def test_the_environment_of_a_job_is_for_its_owner_alone(tmp_path: Path, local_kind: Local) -> None:
    launcher = local_kind.running(ENDS)
    launcher.start(launch())
    assert (tmp_path / "fleet/jobs/ads-1").stat().st_mode & 0o077 == 0
    awaited(lambda: state_of(launcher, "ads-1") == "ended")


def test_a_supervisor_is_small(tmp_path: Path, local_kind: Local) -> None:
    """There is one for each application."""
    launcher = local_kind.running(RUNS)
    launcher.start(launch())
    awaited(lambda: launcher.log_tail("ads-1", 1))
    pid = int(supervisor_state(tmp_path / "fleet/jobs/ads-1/state.json")["supervisor"]["pid"])
    process = psutil.Process(pid)
    assert process.memory_info().rss < 40 * 1024**2
    before = sum(process.cpu_times()[:2])
    time.sleep(1)
    assert sum(process.cpu_times()[:2]) - before < 0.1
