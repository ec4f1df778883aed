"""Applications as Dataproc jobs: what is asked of the API, what it refuses, and what becomes of jobs."""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_dataproc import Cluster, FakeDataproc, Process, serving
from fleets import (
    OBEYS,
    SHORT,
    SNAPSHOT,
    VERSION,
    ClusterLauncher,
    awaited,
    cluster_launcher,
    fleet_at,
    job_of,
    of_cluster,
    python,
    small_application,
    write_fleet,
)
from google.cloud.dataproc_v1 import types
from typer.testing import CliRunner

from lakehouse.cli.app import app
from lakehouse.errors import ConfigError, LakeError
from lakehouse.fleet.dataproc import client, jobs, labels
from lakehouse.fleet.dataproc.client import EMULATOR
from lakehouse.fleet.dataproc.sizing import PYTHON_MIB_PER_TOPIC
from lakehouse.fleet.files import launcher_of
from lakehouse.fleet.launchers import dataproc
from lakehouse.fleet.roll_out import verdict
from lakehouse.fleet.versions import Launch
from lakehouse.fleet.wanted import Dataproc, Size

RUNS = "import time\nwhile True: time.sleep(0.05)"
DIES = "import sys; sys.exit(3)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(0.05)"
STATE = types.JobStatus.State


class Site:
    """A launcher and the fake that it talks to; `code` is what jobs run from now on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code = folder, OBEYS + RUNS
        self.lake = folder / "lake"
        self.lake.mkdir()
        self.fake = FakeDataproc(folder / "cluster", self._process)
        self.launcher = cluster_launcher(folder / "fleet", self.lake)
        self.fake.restart_seconds = 0.05

    def _process(self, job: Any) -> Process:
        return of_cluster(self.lake, python(self.code))(job)

    def start(self, number: int = 1, application: str = "ads", **version: Any) -> Launch:
        made = Launch(f"{application}-{number}", application, replace(VERSION, **version))
        self.launcher.start(made)
        return made

    def state(self, job: str) -> str:
        return job_of(self.launcher, job).state

    def id(self, job: str) -> str:
        (found,) = [each for each in self.fake.jobs if each.endswith(f"-{job}")]
        return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path)
    with serving(made.fake) as address:
        monkeypatch.setenv(EMULATOR, address)
        yield made


# --- names ---------------------------------------------------------------------------------------------------------

NAMES = [
    "0.1.0+abc",
    "0.1.0+ABC",
    "1.0",
    "v1.0",
    "1.0-",
    "1.-0",
    "10",
    "r1",
    "Ümlaut",
    "a_b",
    "a-b",
    "-",
    "x" * 64,
    "x" * 65,
    "X" * 64,
    "a" * 63,
]


def test_every_release_has_a_label_that_is_taken_and_no_other_has() -> None:
    """Upper case and dots are refused by Google, and a label of two releases would name the wrong one."""
    made = [labels.label_value(name) for name in NAMES]
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", each) for each in made)
    assert len(set(made)) == len(NAMES)
    assert made[0] == "v0-1-0-abc"
    assert labels.label_value("") == ""


def test_a_job_is_named_by_its_lake_and_its_start_within_what_dataproc_takes(site: Site) -> None:
    site.start(application="a" * 50, number=10**6)
    (id_,) = site.fake.jobs
    assert id_.startswith(labels.lake_label(str(site.lake)))
    assert len(labels.request_id(id_)) == 40
    with pytest.raises(ValueError, match="up to 90 signs"):
        labels.job_id("l12345678", "x" * 91)


# --- what is submitted ---------------------------------------------------------------------------------------------


def test_settings_travel_as_properties_and_nothing_that_is_taken_for_sparks_own(site: Site) -> None:
    """Dataproc sets its own defaults before our code runs, and takes arguments such as --conf for Spark's."""
    size = Size(spark={"spark.executor.cores": "2", "spark.scheduler.mode": "FIFO"})
    site.start(size=size, topics=tuple(f"topic_{number}" for number in range(300)))
    (job,) = site.fake.jobs.values()
    properties = dict(job.pyspark_job.properties)
    assert properties["spark.scheduler.mode"] == "FIFO", "of the size, above that of the environment's file"
    assert properties["spark.submit.deployMode"] == "cluster"
    assert properties["spark.yarn.maxAppAttempts"] == "1"
    assert properties["spark.yarn.appMasterEnv.LAKEHOUSE_CONF"] == "snapshot/conf/test.yaml"
    assert properties["spark.executorEnv.PYSPARK_PYTHON"] == "./environment/bin/python"
    assert not any(each.startswith("-") for each in job.pyspark_job.args)
    assert not any("delta" in each for each in [*properties.values(), *job.pyspark_job.jar_file_uris])
    assert int(properties["spark.driver.memoryOverhead"].removesuffix("m")) > 300 * PYTHON_MIB_PER_TOPIC
    assert properties["spark.executor.memoryOverhead"] == "1280m", "two slots of 128 MiB, three times, and 512 MiB"
    assert dict(job.labels)["lakehouse-release"] == "v0-1-0-aaaa"
    assert job.scheduling.max_failures_per_hour == 10


def test_an_application_may_have_a_cluster_of_its_own(site: Site) -> None:
    site.fake.clusters["large"] = Cluster()
    site.start(size=Size(cluster="large", driver_memory="9g"))
    (job,) = site.fake.jobs.values()
    assert job.placement.cluster_name == "large"
    assert job.pyspark_job.properties["spark.driver.memory"] == "9g"


def test_without_its_packages_a_release_is_not_started(site: Site) -> None:
    for file in (site.folder / "fleet" / "environments").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match=r"no packages for it at .* Run `lakehouse dataproc package`"):
        site.start()
    assert not site.fake.jobs


# --- answers that are lost, late or refusals -----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100, None], ids=["empty", "cut", "garbled", "another"])
def test_a_snapshot_that_is_damaged_is_said(site: Site, content: bytes | None) -> None:
    file = site.launcher.folder / "snapshots" / f"{SNAPSHOT}.zip"
    file.unlink()
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("conf/other.yaml", "a: 1")
    else:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"snapshot cccc: found a damaged file at .*conf/test.yaml"):
        site.start()


def test_a_submission_whose_answer_was_lost_makes_one_job(site: Site) -> None:
    site.fake.lost_answers["SubmitJob"] = 3
    site.start()
    site.start()
    assert len(site.fake.jobs) == 1
    assert site.fake.requests.count("SubmitJob") == 5


@pytest.mark.parametrize("is_forgotten", [False, True], ids=["request known", "request forgotten"])
def test_a_job_of_the_same_id_that_is_not_ours_is_said(site: Site, is_forgotten: bool) -> None:
    """Dataproc answers a request that it knows with its first job, which would be taken for our start."""
    site.start()
    if is_forgotten:
        site.fake._by_request.clear()
    site.start()
    with pytest.raises(ConfigError, match="a job of that id that was started with something else"):
        site.start(topics=("others",))


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
@pytest.mark.parametrize("method", ["SubmitJob", "GetJob", "ListJobs", "UpdateJob", "CancelJob"])
def test_what_passes_is_tried_again(site: Site, method: str, code: grpc.StatusCode) -> None:
    site.fake.pending = {f"{labels.lake_label(str(site.lake))}-ads-1"}
    site.fake.refusals += [(method, code, "not now")] * 2
    site.start()
    site.launcher.retire("ads-1")
    site.launcher.end("ads-1")
    awaited(lambda: site.state("ads-1") == "ended")
    assert not site.fake.refusals
    assert site.fake.requests.count(method) >= 3


def test_a_quota_of_the_minute_is_waited_out(site: Site) -> None:
    """400 submissions and changes of jobs: a deployment of as many applications comes to more."""
    site.fake.quotas["SubmitJob"], site.fake.minute_seconds = ("JobOperation", 3), 0.3
    site.fake.pending = {f"{labels.lake_label(str(site.lake))}-a{number}-1" for number in range(12)}
    for number in range(12):
        site.start(application=f"a{number}")
    assert len(site.launcher.jobs()) == 12
    assert site.fake.requests.count("SubmitJob") > 12


def test_what_does_not_pass_in_time_is_one_error(site: Site) -> None:
    site.launcher = ClusterLauncher(site.folder / "fleet", site.lake, replace(SHORT, patience=timedelta(seconds=0.1)))
    site.fake.quotas["ListJobs"] = ("Default", 0)
    with pytest.raises(LakeError, match="Quota exceeded for quota metric") as error:
        site.launcher.jobs()
    assert "Run the command again" in error.value.next_step


@pytest.mark.parametrize(
    ("method", "ask", "role"),
    [
        ("SubmitJob", lambda site: site.start(2), "roles/dataproc.editor"),
        ("GetJob", lambda site: site.launcher.end("ads-1"), "roles/dataproc.viewer"),
        ("ListJobs", lambda site: site.launcher.jobs(), "roles/dataproc.viewer"),
        ("UpdateJob", lambda site: site.launcher.retire("ads-1"), "roles/dataproc.editor"),
    ],
)
def test_a_refused_permission_names_the_role(site: Site, method: str, ask: Callable[[Site], object], role: str) -> None:
    site.start()
    site.fake.denied.add(method)
    with pytest.raises(ConfigError, match="no permission") as error:
        ask(site)
    assert role in error.value.expected
    assert site.fake.requests.count(method) <= 2, "it is not tried again"


def test_another_project_or_region_is_said(site: Site) -> None:
    for changes, found in (
        ({"project": "other-project"}, "no permission"),
        ({"region": "mars-north1"}, "a refused request"),
    ):
        launcher = ClusterLauncher(site.folder / "fleet", site.lake)
        launcher._client = client.JobsClient(**{"project": "example-project", "region": "europe-north1", **changes})
        with pytest.raises(ConfigError, match=found):
            launcher.jobs()


@pytest.mark.parametrize("takes_jobs", [None, False])
def test_a_cluster_that_is_gone_or_stopped_is_said_with_how_to_make_one(site: Site, takes_jobs: bool | None) -> None:
    if takes_jobs is None:
        del site.fake.clusters["lake"]
    else:
        site.fake.clusters["lake"].takes_jobs = False
    with pytest.raises(ConfigError, match=r"no cluster lake that takes jobs .*`lakehouse dataproc create-command`"):
        site.start()


# --- what becomes of jobs ------------------------------------------------------------------------------------------


def test_a_job_that_no_agent_takes_is_pending_and_can_be_ended(site: Site) -> None:
    site.fake.pending = {f"{labels.lake_label(str(site.lake))}-ads-1"}
    site.start()
    assert site.state("ads-1") == "pending"
    site.launcher.end("ads-1")
    awaited(lambda: site.state("ads-1") == "ended")


def test_a_job_for_which_the_master_has_no_room_says_so(site: Site) -> None:
    """In cluster mode each job keeps a launcher on the master."""
    site.fake.clusters["lake"].jobs = 1
    site.start(1)
    awaited(lambda: site.state("ads-1") == "running")
    site.start(2)
    queued = awaited(lambda: (job := job_of(site.launcher, "ads-2")).why and job)
    assert (queued.state, queued.is_active) == ("pending", True)
    found = verdict(queued.launch.version, None, queued, None, {}, datetime.now(UTC))
    assert found.state == "waits"
    assert "Too many running jobs (current=1 max=1)" in found.reasons[0]
    site.launcher.end("ads-1")
    awaited(lambda: site.state("ads-2") == "running")


def test_a_job_whose_agent_is_silent_runs_until_dataproc_gives_it_up(site: Site) -> None:
    site.start()
    awaited(lambda: site.state("ads-1") == "running")
    site.fake.lose_agent(site.id("ads-1"))
    silent = job_of(site.launcher, "ads-1")
    assert (silent.state, silent.why) == ("running", "the cluster's agent is silent")
    site.fake.lose_agent(site.id("ads-1"), for_good=True)
    lost = job_of(site.launcher, "ads-1")
    assert (lost.state, lost.why) == ("failed", "Agent did not report status in time.")


def test_jobs_of_a_cluster_that_was_deleted_have_failed(site: Site) -> None:
    site.start()
    awaited(lambda: site.state("ads-1") == "running")
    del site.fake.clusters["lake"]
    failed = awaited(lambda: (job := job_of(site.launcher, "ads-1")).state == "failed" and job)
    assert "Cluster lake was deleted" in failed.why


def test_a_job_that_somebody_deleted_is_no_job_any_more(site: Site) -> None:
    site.start()
    site.fake.forget(site.id("ads-1"))
    assert site.launcher.jobs() == []
    site.launcher.retire("ads-1")
    site.launcher.end("ads-1")
    assert site.launcher.log_tail("ads-1", 5) == []


def test_what_dies_again_and_again_is_given_up_with_its_reason(site: Site) -> None:
    site.code = DIES
    site.start()
    failed = awaited(lambda: (job := job_of(site.launcher, "ads-1")).state == "failed" and job)
    assert failed.failures == 4
    assert failed.why.startswith("Job is thrashing. Google Cloud Dataproc Agent reports job failure.")


def test_what_its_nodes_cannot_fetch_fails(site: Site) -> None:
    made = Launch("ads-1", "ads", VERSION)
    materials = site.launcher._artifacts.materials(made)
    job = jobs.job_of(made, "l1", "lake", replace(materials, code="/gone/lakehouse.zip"), {}, 0)
    site.launcher._client.submit(job, "one")
    awaited(lambda: site.fake.jobs["l1-ads-1"].status.state == STATE.ERROR)


def status(state: str, minute: float, details: str = "") -> types.JobStatus:
    at = datetime(2026, 11, 27, 8, tzinfo=UTC) + timedelta(minutes=minute)
    return types.JobStatus(state=STATE[state], state_start_time=at, details=details)


@pytest.mark.parametrize(("ran_minutes", "deaths"), [(9, 3), (11, 1)])
def test_deaths_before_a_good_run_count_no_more(site: Site, ran_minutes: float, deaths: int) -> None:
    site.start()
    job = types.Job(next(iter(site.fake.jobs.values())))
    job.status_history = [
        status("PENDING", 0), status("RUNNING", 1), status("ATTEMPT_FAILURE", 2, "one"), status("RUNNING", 3),
        status("ATTEMPT_FAILURE", 4, "two"), status("RUNNING", 5),
    ]  # fmt: skip
    job.status = status("ATTEMPT_FAILURE", 5 + ran_minutes, "three\n  of them")
    found = jobs.known(job)
    assert found is not None
    assert (found.failures, found.why, found.state) == (deaths, "three of them", "waiting")


def test_every_state_of_the_api_is_one_of_ours() -> None:
    """A new one would look lost, and a lost job is started again beside the one that runs."""
    known = {each.name: jobs.state_of(types.JobStatus(state=each)) for each in STATE}
    assert [name for name, state in known.items() if state == "lost"] == ["STATE_UNSPECIFIED"]


# --- the end -------------------------------------------------------------------------------------------------------


def test_a_job_ends_by_a_request_through_the_lake_and_by_no_signal(site: Site) -> None:
    """YARN would kill it 250 ms after SIGTERM."""
    site.code = OBEYS + DEAF
    site.start()
    awaited(lambda: site.state("ads-1") == "running")
    site.launcher.end("ads-1")
    awaited(lambda: site.state("ads-1") == "ended")
    assert "CancelJob" not in site.fake.requests


def test_a_job_that_does_not_end_when_it_is_asked_is_cancelled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.code = DEAF
    site.start()
    awaited(lambda: site.state("ads-1") == "running")
    for _ in range(2):
        site.launcher.end("ads-1")
    assert "CancelJob" not in site.fake.requests, "it has five minutes"
    monkeypatch.setattr(dataproc, "GRACE", timedelta(seconds=-1))
    site.launcher.end("ads-1")
    awaited(lambda: site.state("ads-1") == "ended")
    assert site.fake.requests.count("CancelJob") == 1


def test_a_job_that_dies_after_it_was_asked_to_end_is_not_back_for_long(site: Site) -> None:
    site.code = OBEYS.replace("os._exit(0)", "os._exit(7)") + "print('runs', flush=True)\n" + RUNS
    site.start()
    awaited(lambda: site.launcher.log_tail("ads-1", 1))
    site.launcher.end("ads-1")
    awaited(lambda: site.state("ads-1") == "ended")
    assert job_of(site.launcher, "ads-1").failures == 1


def test_lakehouse_stop_ends_an_application_and_dataproc_does_not_start_it_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = write_fleet(site.folder, {"songs": {"topics": ["song_*"]}}, ["song_liked"])
    version = replace(VERSION, topics=("song_liked",))
    site.fake._process = of_cluster(site.lake, small_application(site.lake))
    site.launcher.start(Launch("songs-1", "songs", version))
    heartbeat = site.lake / "_applications" / "songs" / "heartbeat.json"
    awaited(heartbeat.exists)
    done = CliRunner().invoke(app, ["stop", "songs", "--conf", str(conf), "--by", "ann", "--reason", "a test"])
    assert (done.exit_code, done.output) == (0, "application songs has stopped.\n")
    awaited(lambda: site.state("songs-1") == "ended")
    assert job_of(site.launcher, "songs-1").failures == 0
    assert {"CancelJob", "UpdateJob"} & set(site.fake.requests) == set()


# --- lists ---------------------------------------------------------------------------------------------------------


def test_jobs_of_other_lakes_and_of_other_people_are_not_ours(site: Site) -> None:
    site.start()
    other = cluster_launcher(site.folder / "other", site.folder / "another-lake")
    other.start(Launch("ads-1", "ads", VERSION))
    stranger = types.Job(
        placement={"cluster_name": "lake"}, labels={"lakehouse-lake": labels.lake_label(str(site.lake))},
        pyspark_job={"main_python_file_uri": "gs://b/x.py"},
    )  # fmt: skip
    site.launcher._client._client.submit_job(project_id="example-project", region="europe-north1", job=stranger)
    assert len(site.fake.jobs) == 3
    assert [job.launch.id for job in site.launcher.jobs()] == ["ads-1"]


def test_a_list_has_all_its_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    site.fake.pending = {f"{labels.lake_label(str(site.lake))}-ads-{number}" for number in range(1, 6)}
    for number in range(1, 6):
        site.start(number)
    before = site.fake.requests.count("ListJobs")
    assert len(site.launcher.jobs()) == 5
    assert site.fake.requests.count("ListJobs") - before == 3


def test_of_jobs_that_ended_the_newest_are_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the fleet lists them all."""
    monkeypatch.setattr(dataproc, "_KEPT_JOBS", 1)
    site.code = "print('done')"
    for number in (1, 2, 3):
        site.start(number)
        site.launcher.retire(f"ads-{number}")
        awaited(lambda number=number: site.state(f"ads-{number}") == "ended")
    site.start(4)
    assert [each.name for each in (site.lake / "_applications" / "ads" / "retired").iterdir()] == ["ads-3"]
    assert [job.launch.id for job in site.launcher.jobs()] == ["ads-3", "ads-4"]


# --- fleet.yaml ----------------------------------------------------------------------------------------------------

GIVEN = {
    "project": "example-project",
    "region": "europe-north1",
    "cluster": "lake",
    "folder": "gs://example-lake/fleet",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("project", "My Project"),
        ("project", "x; rm -rf /"),
        ("region", "europe-north1-a"),
        ("region", "europe"),
        ("cluster", "Lake"),
        ("cluster", "lake-"),
        ("folder", "/tmp/x"),
        ("folder", "gs://Bucket"),
        ("folder", "gs://bucket/a b"),
        ("folder", "gs://bucket/$(id)"),
        ("folder", "gs://bucket/x#environment"),
        ("service_account", "nobody"),
        ("image", "latest"),
        ("python", "3"),
        ("max_failures_per_hour", 11),
    ],
)
def test_a_name_that_google_would_not_take_is_refused_with_its_key(tmp_path: Path, key: str, value: Any) -> None:
    conf = write_fleet(tmp_path, {"ads": {"topics": ["*"]}}, ["ads"], dataproc={**GIVEN, key: value})
    with pytest.raises(ConfigError) as error:
        fleet_at(conf)
    assert f"dataproc.{key}" in str(error.value)


@pytest.mark.parametrize("key", sorted(GIVEN))
def test_without_a_key_that_is_needed_nothing_is_asked_of_dataproc(tmp_path: Path, key: str) -> None:
    given = {name: value for name, value in GIVEN.items() if name != key}
    conf = write_fleet(tmp_path, {"ads": {"topics": ["*"]}}, ["ads"], launcher="dataproc", dataproc=given)
    with pytest.raises(ConfigError, match=rf"dataproc\.{key}: found nothing"):
        launcher_of(fleet_at(conf))


def test_a_lake_on_this_machine_is_out_of_a_clusters_reach(tmp_path: Path) -> None:
    conf = write_fleet(tmp_path, {"ads": {"topics": ["*"]}}, ["ads"], launcher="dataproc", dataproc=GIVEN)
    with pytest.raises(ConfigError, match="a lake on gs://"):
        launcher_of(fleet_at(conf))


def test_the_least_that_is_needed_is_taken() -> None:
    assert Dataproc(**GIVEN, service_account="lake@example-project.iam.gserviceaccount.com").python == "3.12"


def test_credentials_that_are_missing_are_said(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(EMULATOR)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    began = time.monotonic()
    with pytest.raises(ConfigError, match="gcloud auth application-default login"):
        site.launcher.jobs()
    assert time.monotonic() - began < 20
