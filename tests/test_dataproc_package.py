"""What a cluster's jobs are made of: packages that run wherever they are unpacked, code, and where both are kept."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_dataproc import FakeDataproc, Process, serving
from fake_gcs import FakeGoogleStorage
from fake_gcs import serving as serving_store
from fleets import awaited, write_fleet
from google.cloud.dataproc_v1 import types

from lakehouse.cli import app
from lakehouse.cli import dataproc as commands
from lakehouse.config import load
from lakehouse.errors import ConfigError, UnknownOutcomeError
from lakehouse.fleet import releases, waiting
from lakehouse.fleet.dataproc import one_job
from lakehouse.fleet.dataproc.artifacts import Artifacts, zipped
from lakehouse.fleet.dataproc.client import EMULATOR
from lakehouse.fleet.dataproc.environment import (
    NOT_FOR_CLUSTERS,
    PLATFORM,
    Recipe,
    _runs_on,
    build,
    distributions,
    recipe_of,
)
from lakehouse.fleet.wanted import Dataproc
from lakehouse.store.files import LocalStorage
from tests.servers import object_store

Running = Callable[[str], AbstractContextManager[FakeDataproc]]
HOUSE = Path(__file__).parent.parent
PINS = {line.split("==")[0]: line for line in (HOUSE / "constraints.txt").read_text().splitlines() if "==" in line}
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
SECTION = Dataproc(
    project="example-project", region="europe-north1", cluster="lake", folder="gs://lake/fleet", extras=("kafka",)
)


def installs(wheels: dict[str, str]) -> Any:
    """Stands in for the installer: packages by name, with their wheels' tags."""

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        target = Path(command[list(command).index("--target") + 1])
        for name, tag in wheels.items():
            (target / f"{name}-1.0.dist-info").mkdir(parents=True)
            (target / f"{name}-1.0.dist-info" / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
            (target / f"{name}-1.0.dist-info" / "METADATA").write_text("Name: x\n")
            (target / name).mkdir()
            (target / name / "__init__.py").write_text("")
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


SMALL = Recipe(("six",), "3.12", "six==1.17.0")

# --- packages ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_packages_run_wherever_they_are_unpacked_and_see_no_others(tmp_path: Path) -> None:
    """From the package index, one of them compiled; the machine's own packages must not come between."""
    recipe = Recipe(("six", "msgpack"), HERE, f"{PINS['six']}\n{PINS.get('msgpack', '')}")
    archive = build(recipe)
    assert distributions(archive) == ["msgpack", "six"]
    folder = tmp_path / "another place"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    program = "import six, msgpack, sys; print(six.__file__); import yaml"
    done = subprocess.run(
        [folder / "bin" / "python", "-c", program], capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])},
    )  # fmt: skip
    assert done.stdout == f"{folder}/site-packages/six.py\n"
    assert "No module named 'yaml'" in done.stderr


def test_the_interpreter_is_the_machines_own_of_that_version(tmp_path: Path) -> None:
    """Which may be anywhere in an image; another version would not load what is compiled."""
    with tarfile.open(fileobj=io.BytesIO(build(SMALL, installs({"six": "py3-none-any"})))) as tar:
        tar.extractall(tmp_path / "environment", filter="data")
    for name, version in (("python3", "3.9"), ("python3.12", "3.12")):
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(
            f'#!/bin/sh\nif [ "$2" = -c ]; then [ {version} = 3.12 ]; else echo {name} "$PYTHONPATH" "$@"; fi\n'
        )
        fake.chmod(0o755)

    def run(path: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "environment" / "bin" / "python", "-m", "x y"]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={"PATH": f"{path}:/usr/bin:/bin", "PYTHONPATH": "code.zip", **more},
        )

    packages = tmp_path / "environment" / "site-packages"
    assert run(str(tmp_path / "bin")).stdout == f"python3.12 {packages}:code.zip -S -m x y\n"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bin" / "python3.12").rename(tmp_path / "elsewhere" / "our-python")
    if not any(Path(each, "python3.12").exists() for each in ("/usr/bin", "/usr/local/bin")):
        missing = run(str(tmp_path / "bin"))
        assert (missing.returncode, "found no Python 3.12 here" in missing.stderr) == (127, True)
    named = run(str(tmp_path / "bin"), LAKEHOUSE_PYTHON=str(tmp_path / "elsewhere" / "our-python"))
    assert named.stdout.startswith("python3.12 ")


def test_the_same_packages_are_the_same_archive() -> None:
    one, two = (build(SMALL, installs({"six": "py3-none-any"})) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("name", ["pyspark", "py4j", "delta_spark"])
def test_what_the_image_brings_is_not_brought_again(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the package {name}"):
        build(SMALL, installs({name: "py3-none-any"}))


def test_what_was_compiled_for_this_machine_is_refused() -> None:
    """A package without a wheel is built where the command runs."""
    with pytest.raises(ConfigError, match=r"x-1\.0: found a wheel for cp311-cp311-linux_x86_64"):
        build(SMALL, installs({"x": "cp311-cp311-linux_x86_64"}))


@pytest.mark.parametrize(
    ("tag", "runs"),
    [
        ("py3-none-any", True),
        ("cp312-cp312-manylinux_2_28_x86_64", True),
        ("cp312-cp312-manylinux2014_x86_64", True),
        ("cp39-abi3-manylinux_2_34_x86_64", True),
        ("cp311-cp311-manylinux_2_28_x86_64", False),
        ("cp312-cp312-manylinux_2_39_x86_64", False),
        ("cp312-cp312-manylinux_2_28_aarch64", False),
        ("cp312-cp312-musllinux_1_2_x86_64", False),
        ("cp312-cp312-linux_x86_64", False),
        ("py2-none-any", False),
    ],
)
def test_a_wheel_runs_on_the_image_or_does_not(tag: str, runs: bool) -> None:
    assert _runs_on(tag, "3.12") is runs


def test_a_package_that_cannot_be_had_is_said_by_both_installers() -> None:
    asked = []

    def fails(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command[2])
        return subprocess.CompletedProcess(command, 1, "", f"{command[2]}: no wheel\n  of six")

    with pytest.raises(ConfigError, match=r"uv: no wheel of six / pip: no wheel of six.*`dataproc\.extras`"):
        build(SMALL, fails)
    assert asked == ["uv", "pip"]


def test_other_versions_another_python_and_other_extras_are_other_packages() -> None:
    code = releases.code(HOUSE)
    recipe = recipe_of(code, SECTION)
    others = [
        recipe_of(code, SECTION.model_copy(update={"extras": ()})),
        replace(recipe, python="3.13"),
        replace(recipe, constraints="six==1.0"),
    ]
    assert len({recipe.digest, *(each.digest for each in others)}) == 4
    assert recipe_of(code, SECTION).digest == recipe.digest
    assert not any(each.startswith("pyspark") for each in recipe_of(code, Dataproc()).requirements)


def test_a_cluster_has_every_extra_unless_it_is_left_out() -> None:
    """Else a topic of a new format would fail there, and nowhere else."""
    extras = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(Dataproc().extras) == set(extras) - set(NOT_FOR_CLUSTERS)


@pytest.mark.parametrize("extra", ["local", "dev", "nothing"])
def test_an_extra_that_no_cluster_needs_is_refused(extra: str) -> None:
    with pytest.raises(ConfigError, match=f"dataproc.extras: found '{extra}'"):
        recipe_of(releases.code(HOUSE), SECTION.model_copy(update={"extras": (extra,)}))


def test_the_platform_is_one_that_the_installer_knows() -> None:
    done = subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--help"], capture_output=True, text=True)
    assert PLATFORM in done.stdout


# --- where it is kept ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store() -> Iterator[object_store.ObjectStoreServer]:
    with object_store.serving() as server:
        yield server


def environment_at(root: Path, address: str, **section: Any) -> Path:
    """An environment whose lake and launcher are on that store."""
    conf = write_fleet(root, {"ads": {"topics": ["*"]}}, ["ad_shown"], launcher="dataproc",
                       dataproc={**SECTION.model_dump(mode="json"), **section})  # fmt: skip
    values = yaml.safe_load(conf.read_text())
    values |= {"raw_root": "gs://lake/raw", "sealed_root": "gs://lake/sealed"}
    values["storage_options"] = {"google_base_url": address, "google_skip_signature": "true"}
    conf.write_text(yaml.safe_dump(values))
    return conf


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes of which archives were made, by a stand-in for the installer."""
    made: list[Recipe] = []

    def small(recipe: Recipe) -> bytes:
        made.append(recipe)
        return build(recipe, installs({"six": "py3-none-any"}))

    monkeypatch.setattr(commands, "build", small)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        app.main(list(arguments))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_packages_and_code_are_uploaded_once(
    tmp_path: Path, store: object_store.ObjectStoreServer, packaged: list[Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    conf = environment_at(tmp_path, store.address, folder="gs://lake/once")
    code, out, _ = run(capsys, "dataproc", "package", "--conf", str(conf), "--json")
    first = json.loads(out)
    assert (code, first["packages_state"], first["code_state"], first["count"]) == (0, "uploaded", "uploaded", 1)
    store.requests()
    second = json.loads(run(capsys, "dataproc", "package", "--conf", str(conf), "--json")[1])
    assert (second["packages_state"], second["code_state"]) == ("are there", "is there")
    assert second["packages"] == first["packages"]
    assert len(packaged) == 1
    assert {each.kind for each in store.requests()} <= {"list", "get", "stat", "other"}, "nothing is written"
    shown = run(capsys, "dataproc", "package", "--conf", str(conf))[1]
    assert all(len(line) <= 10_000 for line in shown.splitlines())
    storage = Artifacts(commands.storage_for("gs://lake/once", load(conf).settings.storage_options), SECTION)._storage
    names = {each.path.rpartition("/")[2] for each in storage.listing("releases")}
    assert {"run.py", "seal.py", "lakehouse.zip", "environment"} <= names
    content = storage.read(next(each.path for each in storage.listing("releases") if each.path.endswith(".zip")))
    packed = zipfile.ZipFile(io.BytesIO(content or b"")).namelist()
    assert "lakehouse/pages/templates/base.html" in packed or any("/templates/" in each for each in packed)
    assert not any(each.startswith(("lakehouse/crash", "lakehouse/sandbox")) for each in packed)


def test_a_release_without_its_last_part_is_uploaded_again(tmp_path: Path) -> None:
    """Whoever began it may have died."""
    artifacts = Artifacts(LocalStorage(str(tmp_path)), SECTION)
    parts = releases.code(HOUSE)
    assert artifacts.keep_release("r", parts)
    (tmp_path / "releases" / "r" / "environment").unlink()
    assert artifacts.keep_release("r", parts)
    assert not artifacts.keep_release("r", parts)


def test_an_upload_whose_answer_was_lost_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, lost = LocalStorage(str(tmp_path)), []

    def put(path: str, content: bytes) -> bool:
        written = LocalStorage.put_if_absent(storage, path, content)
        if not lost:
            lost.append(path)
            raise UnknownOutcomeError(path, found="x", expected="x", next_step="x")
        return written

    monkeypatch.setattr(storage, "put_if_absent", put)
    Artifacts(storage, SECTION).keep_environment(SMALL, b"packages")
    assert Artifacts(storage, SECTION).has_environment(SMALL)


def test_an_environment_whose_name_begins_alike_is_another(tmp_path: Path) -> None:
    artifacts = Artifacts(LocalStorage(str(tmp_path)), SECTION)
    file = tmp_path / "environments" / f"{SMALL.digest}.tar.gz.part"
    file.parent.mkdir()
    file.touch()
    assert not artifacts.has_environment(SMALL)


def test_the_same_files_are_the_same_zip(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    first = zipped([("x/a", tmp_path / "a")])
    os.utime(tmp_path / "a", (1, 1))
    assert zipped([("x/a", tmp_path / "a")]) == first


def test_a_bucket_that_is_not_there_or_gives_no_rights_is_said_with_the_role(
    tmp_path: Path, packaged: list[Recipe], capsys: pytest.CaptureFixture[str], store: object_store.ObjectStoreServer
) -> None:
    with serving_store(FakeGoogleStorage(tmp_path / "bucket", bucket="another")) as address:
        conf = environment_at(tmp_path, address)
        code, out, err = run(capsys, "dataproc", "package", "--conf", str(conf))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "bucket does not exist" in err
    assert "roles/storage.objectAdmin" in err
    store.make_read_only("read-only/x")
    conf = environment_at(tmp_path, store.address, folder="gs://lake/read-only/x")
    code, out, err = run(capsys, "dataproc", "package", "--conf", str(conf))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("gs://lake/read-only/x: found 403")


def test_packages_can_be_written_to_a_file_without_any_store(
    tmp_path: Path, packaged: list[Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    conf = write_fleet(tmp_path, {"ads": {"topics": ["*"]}}, ["ad_shown"])
    code, out, _ = run(capsys, "dataproc", "package", "--conf", str(conf), "--output", str(tmp_path / "p.tar.gz"))
    assert code == 0
    assert "1 packages" in out
    with tarfile.open(tmp_path / "p.tar.gz") as archive:
        assert archive.getnames()[0] == "bin/python"


@pytest.mark.parametrize("name", ["no/p.tar.gz", ".", "x" * 300, "/dev/null"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_made(
    tmp_path: Path, packaged: list[Recipe], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    conf = write_fleet(tmp_path, {"ads": {"topics": ["*"]}}, ["ad_shown"])
    code, _, err = run(capsys, "dataproc", "package", "--conf", str(conf), "--output", str(tmp_path / name))
    assert (code, err.startswith("--output: found"), packaged) == (2, True, [])


def test_packages_that_are_not_whole_take_the_place_of_no_others(
    tmp_path: Path, packaged: list[Recipe], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a command that is interrupted, or finds the disk full, nothing is left."""
    conf = write_fleet(tmp_path, {"ads": {"topics": ["*"]}}, ["ad_shown"])
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "p.tar.gz"
    file.write_bytes(b"as it was")
    arguments = ("dataproc", "package", "--conf", str(conf), "--output", str(file))
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as filling:
        filling.setattr(Path, "write_bytes", full)
        code, _, err = run(capsys, *arguments)
        assert (code, "No space left on device" in err) == (2, True)
    assert [(each.name, each.read_bytes()) for each in file.parent.iterdir()] == [("p.tar.gz", b"as it was")]
    with monkeypatch.context() as dying:
        dying.setattr("lakehouse.cli.dataproc.build", lambda recipe: (_ for _ in ()).throw(KeyboardInterrupt))
        run(capsys, *arguments)
    assert [(each.name, each.read_bytes()) for each in file.parent.iterdir()] == [("p.tar.gz", b"as it was")]


@pytest.mark.parametrize("output", [True, False], ids=["to a file", "to the folder"])
def test_what_fails_while_packages_are_made_is_no_fault_of_where_they_go(
    tmp_path: Path, store: object_store.ObjectStoreServer, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, output: bool,
) -> None:  # fmt: skip
    """They are made in the folder for temporary files, which may be full or away."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    conf = environment_at(tmp_path, store.address, folder="gs://lake/made")
    arguments = ("--output", str(tmp_path / "p.tar.gz")) if output else ()
    code, out, err = run(capsys, "dataproc", "package", "--conf", str(conf), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("packages for Python 3.")
    assert f"{tmp_path / 'gone'}" in err
    assert "TMPDIR=" in err
    assert not list(tmp_path.glob("*p.tar.gz*"))


# --- a fleet, by the commands themselves ---------------------------------------------------------------------------


def test_a_fleet_is_planned_packaged_and_deployed_and_rolled_back_where_nothing_comes_up(
    tmp_path: Path, store: object_store.ObjectStoreServer, packaged: list[Recipe], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The path of a newcomer, with lake and folder on a store; what runs gives no sign of life."""
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.05)
    conf = environment_at(tmp_path, store.address, folder="gs://lake/fleet")
    values = yaml.safe_load((conf.parent / "fleet.yaml").read_text())
    values["roll_out"] = {"wave_within": "2 seconds"}
    (conf.parent / "fleet.yaml").write_text(yaml.safe_dump(values))
    sleeps = Process([sys.executable, "-c", "import time; time.sleep(60)"], str(tmp_path), {})
    fake = FakeDataproc(tmp_path / "cluster", lambda job: sleeps)
    with serving(fake) as address:
        monkeypatch.setenv(EMULATOR, address)
        for command in ("plan", "deploy"):
            code, _, err = run(capsys, "fleet", command, "--conf", str(conf))
            assert (code, "Run `lakehouse dataproc package`" in err, fake.jobs) == (2, True, {})
        run(capsys, "dataproc", "package", "--conf", str(conf))
        code, out, _ = run(capsys, "fleet", "plan", "--conf", str(conf), "--json")
        assert (code, [each["action"] for each in json.loads(out)["applications"]]) == (0, ["start"])
        code, out, err = run(capsys, "fleet", "deploy", "--conf", str(conf))
        assert (code, "not well within 2 s: ads: no heartbeat yet" in err) == (1, True)
        (job,) = fake.jobs.values()
        assert job.pyspark_job.main_python_file_uri.startswith("gs://lake/fleet/releases/0.1.0-")
        assert "lakehouse-asked-to-end" in job.labels
        code, out, _ = run(capsys, "fleet", "history", "--conf", str(conf), "--json")
        assert [each["outcome"] for each in json.loads(out)["deployments"]] == ["rolled back"]
        code, out, _ = run(capsys, "fleet", "status", "--conf", str(conf))
        assert (code, "not running" in out) == (1, True)


# --- single jobs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path, packaged: list[Recipe], monkeypatch: pytest.MonkeyPatch) -> Running:
    """A cluster whose jobs run such a program."""
    monkeypatch.setattr(one_job, "LOOK_SECONDS", 0.05)

    @contextmanager
    def cluster(program: str) -> Iterator[FakeDataproc]:
        process = Process([sys.executable, "-c", program], str(tmp_path), {})
        fake = FakeDataproc(tmp_path / "cluster", lambda job: process)
        with serving(fake) as address:
            monkeypatch.setenv(EMULATOR, address)
            yield fake

    return cluster


def test_a_job_is_submitted_with_code_configuration_and_packages(
    tmp_path: Path, store: object_store.ObjectStoreServer, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = environment_at(tmp_path, store.address, folder="gs://lake/jobs")
    with running("") as fake:
        code, _, err = run(capsys, "dataproc", "submit", "--conf", str(conf), "seal")
        assert (code, "Run `lakehouse dataproc package`" in err) == (2, True)
        run(capsys, "dataproc", "package", "--conf", str(conf))
        code, out, _ = run(
            capsys, "dataproc", "submit", "--conf", str(conf), "--wait", "--", "seal", "ad_shown", "--every", "1 minute"
        )
        assert (code, "has ended" in out) == (0, True)
        code, out, _ = run(capsys, "dataproc", "submit", "--conf", str(conf), "run", "ad_shown", "--until-drained")
        assert (code, "It ends by `lakehouse stop`." in out) == (0, False)
        seal, endless = sorted(fake.jobs.values(), key=lambda job: job.labels["lakehouse-job"], reverse=True)
        assert list(seal.pyspark_job.args) == ["ad_shown", "--every", "1 minute"]
        assert seal.pyspark_job.main_python_file_uri.endswith("/seal.py")
        assert (seal.scheduling.max_failures_per_hour, endless.scheduling.max_failures_per_hour) == (0, 10)
        assert list(endless.pyspark_job.args) == ["ad_shown", "--until-drained"]


def test_a_job_that_fails_is_an_error_with_where_its_log_is(
    tmp_path: Path, store: object_store.ObjectStoreServer, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = environment_at(tmp_path, store.address, folder="gs://lake/fails")
    with running("1/0") as fake:
        run(capsys, "dataproc", "package", "--conf", str(conf))
        code, _, err = run(capsys, "dataproc", "submit", "--conf", str(conf), "--wait", "seal")
        assert (code, "gcloud dataproc jobs wait" in err) == (1, True)
        awaited(lambda: [job.status.state for job in fake.jobs.values()] == [types.JobStatus.State.ERROR])


def test_a_job_that_goes_on_until_it_is_stopped_is_not_waited_for(
    tmp_path: Path, store: object_store.ObjectStoreServer, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` ends by itself only where it is to end when nothing is left."""
    conf = environment_at(tmp_path, store.address, folder="gs://lake/endless")
    with running("") as fake:
        run(capsys, "dataproc", "package", "--conf", str(conf))
        code, _, err = run(capsys, "dataproc", "submit", "--conf", str(conf), "--wait", "run")
        assert (code, "found the job run, which goes on until it is stopped" in err, fake.jobs) == (2, True, {})
        code, out, _ = run(capsys, "dataproc", "submit", "--conf", str(conf), "run")
        assert (code, "It ends by `lakehouse stop`." in out) == (0, True)
        code, out, _ = run(capsys, "dataproc", "submit", "--conf", str(conf), "--wait", "run", "--until-drained")
        assert (code, "has ended" in out) == (0, True)


def test_a_dry_run_submits_and_uploads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = environment_at(tmp_path, "http://127.0.0.1:9")
    code, out, _ = run(capsys, "dataproc", "submit", "--conf", str(conf), "--dry-run", "run", "ad_shown")
    assert code == 0
    assert json.loads(out)["pyspark_job"]["args"] == ["ad_shown"]


def test_a_job_that_there_is_not_is_answered_with_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = environment_at(tmp_path, "http://127.0.0.1:9")
    code, _, err = run(capsys, "dataproc", "submit", "--conf", str(conf), "seel")
    assert (code, "one of audit, " in err) == (2, True)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--cluster", "$(touch x)"), ("--region", "x y"), ("--project", "../x"), ("--folder", "s3://x")],
)
def test_an_odd_name_on_the_command_line_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    conf = environment_at(tmp_path, "http://127.0.0.1:9")
    code, _, err = run(capsys, "dataproc", "submit", "--conf", str(conf), option, value, "seal")
    assert (code, err.count("\n"), f"{option.removeprefix('--')}" in err) == (2, 1, True)
