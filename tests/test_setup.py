"""The set-up: what a fresh machine gets, what it says when something is missing, and how a job is submitted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SET_UP = ("set-up.sh", "pyproject.toml", "constraints.txt")
TOOLS = "bash basename cat cksum cut dirname env flock id mktemp pwd rm sed tail touch".split()


def run(
    *command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


def java(path: Path, version: str) -> Path:
    home = path.parent.parent
    return script(path, f"echo '    java.home = {home}'\necho '    java.specification.version = {version}'")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The scripts in a tree of their own, whose path has a space in it."""
    tree = tmp_path / "a tree"
    tree.mkdir()
    for name in (*SET_UP, "spark-submit.sh"):
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture
def bare_machine(tmp_path: Path) -> dict[str, str]:
    """An environment without Java, Python and apt-get, as far as PATH goes."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return {"PATH": str(tools), "JVMS": str(tmp_path / "jvms"), "TMPDIR": str(scratch), "HOME": str(tmp_path)}


# --- dependencies -------------------------------------------------------------------------------------------------


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"].values()
    return project["project"]["dependencies"] + [line for lines in (*extras, *groups) for line in lines]


def normalized(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def test_constraints_pin_every_requirement() -> None:
    """A set-up a year from now gets the versions the tests passed with. `make constraints` closes a gap."""
    pinned = {normalized(pin) for pin in pins()}
    assert {normalized(requirement) for requirement in requirements()} - pinned == {"lakehouse"}


def test_constraints_are_exact_versions() -> None:
    assert [pin for pin in pins() if not re.match(r"[a-z0-9-]+==[^ ]+( ; .+)?$", pin)] == []


def test_constraints_name_no_host() -> None:
    """Where packages come from is the machine's affair, not the project's."""
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text


# --- set-up.sh ----------------------------------------------------------------------------------------------------


def assert_untouched(tree: Path, env: Mapping[str, str]) -> None:
    assert {path.name for path in tree.iterdir()} == {*SET_UP, "spark-submit.sh"}
    assert list(Path(env["TMPDIR"]).iterdir()) == []


def test_without_java_one_sentence_says_what_to_do(tree: Path, bare_machine: dict[str, str]) -> None:
    done = run(tree / "set-up.sh", env=bare_machine)
    assert done.returncode == 1
    assert done.stderr == (
        "set-up: Java 17 to 23 is needed (there is none): install one, for example with "
        "'apt-get install openjdk-17-jre-headless', or set JAVA_HOME to one, and run this again.\n"
    )
    assert_untouched(tree, bare_machine)


@pytest.mark.parametrize("version", ["1.8", "11", "25"])
def test_a_java_that_spark_cannot_use_is_named(tree: Path, bare_machine: dict[str, str], version: str) -> None:
    """Older ones stop Spark at its start; with newer ones the first write fails in Hadoop."""
    unfit = java(Path(bare_machine["PATH"]) / "java", version)
    done = run(tree / "set-up.sh", env=bare_machine)
    assert done.returncode == 1
    assert f"(found Java {version} at {unfit})" in done.stderr
    assert_untouched(tree, bare_machine)


def test_a_fit_java_is_found_behind_an_unfit_one(tree: Path, bare_machine: dict[str, str], tmp_path: Path) -> None:
    """The set-up gets past Java here, and stops at the next thing that is missing."""
    java(tmp_path / "old" / "bin" / "java", "11")
    java(tmp_path / "jvms" / "java-21" / "bin" / "java", "21")
    done = run(tree / "set-up.sh", env=bare_machine | {"JAVA_HOME": str(tmp_path / "old")})
    assert done.returncode == 1
    assert done.stderr == "set-up: Python 3.11, 3.12 or 3.13 is needed: install one and run this again.\n"
    assert_untouched(tree, bare_machine)


def test_missing_java_is_installed_where_that_is_allowed(
    tree: Path, bare_machine: dict[str, str], tmp_path: Path
) -> None:
    """Debian 12 has Java 17; where it is gone, 21 is asked for."""
    tools = Path(bare_machine["PATH"])
    template = java(tmp_path / "template" / "bin" / "java", "21")
    for tool in ("cp", "mkdir"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    script(tools / "sudo", 'shift; exec "$@"')
    script(
        tools / "apt-get",
        f"""
        echo "$@" >> {tmp_path}/asked
        [ "$1" = update ] && exit
        [[ "$*" == *openjdk-21* ]] || exit 100
        mkdir -p {tmp_path}/jvms/21/bin
        cp {template} {tmp_path}/jvms/21/bin/java
        """,
    )
    done = run(tree / "set-up.sh", env=bare_machine)
    asked = (tmp_path / "asked").read_text().split()
    assert [word for word in asked if "jre" in word] == ["openjdk-17-jre-headless", "openjdk-21-jre-headless"]
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr


def test_a_python_without_venv_is_named(tree: Path, bare_machine: dict[str, str], tmp_path: Path) -> None:
    """Debian and Ubuntu ship Python without it."""
    java(tmp_path / "jvms" / "17" / "bin" / "java", "17")
    script(Path(bare_machine["PATH"]) / "python3.12", '[[ "$*" != *ensurepip* ]]')
    script(Path(bare_machine["PATH"]) / "python3", "exit 1")
    done = run(tree / "set-up.sh", env=bare_machine)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "python3.12 cannot make environments: install its venv, for example with "
        "'apt-get install python3-venv', and run this again.\n"
    )
    assert_untouched(tree, bare_machine)


@pytest.mark.slow
def test_a_finished_set_up_takes_no_time() -> None:
    """It stands before every target of the Makefile."""
    started = time.monotonic()
    done = run(ROOT / "set-up.sh")
    assert time.monotonic() - started < 1
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# --- Makefile and CI ----------------------------------------------------------------------------------------------


def test_ci_runs_make_test(tmp_path: Path) -> None:
    script(tmp_path / "make", 'echo "make $@ in $PWD"')
    done = run(ROOT / ".ci" / "run", cwd=tmp_path, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (0, f"make test in {ROOT}\n")


def test_make_help_lists_every_target() -> None:
    rules = re.findall(r"^([a-z][a-z0-9%-]*):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    listed = [line.split()[0] for line in run("make", "--no-print-directory").stdout.splitlines()]
    assert listed == rules
    assert {"set-up", "demo", "test", "lint", "types"} <= set(rules)


def test_make_help_is_aligned() -> None:
    lines = run("make", "--no-print-directory").stdout.splitlines()
    assert len({re.match(r" +\S+ +", line).end() for line in lines}) == 1  # type: ignore[union-attr]


# --- spark-submit.sh ----------------------------------------------------------------------------------------------


@pytest.fixture
def jobs_tree(tree: Path) -> Path:
    files = {
        "jobs/ingest.py": "",
        "jobs/seal.py": "",
        "lakehouse/__init__.py": "",
        "lakehouse/__pycache__/x.pyc": "",
        "lakehouse/crash/kit.py": "",
        "lakehouse/sandbox/parts/broker.py": "",
        "lakehouse/landing/sandbox.py": "",
        "conf/dataproc.yaml": "",
        "conf/topics/clicks.yaml": "",
        "expectations/clicks.json": "{}",
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return tree


def submitted(tree: Path, *arguments: str, cwd: Path | None = None) -> list[str]:
    done = run(tree / "spark-submit.sh", "--dry-run", *arguments, cwd=cwd or tree)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_an_unknown_job_is_answered_with_the_list(jobs_tree: Path) -> None:
    done = run(jobs_tree / "spark-submit.sh", "seel", "--topic", "clicks")
    assert done.returncode == 2
    assert done.stderr == "spark-submit.sh: there is no job 'seel'; there are: ingest, seal.\n"


def test_an_unknown_option_is_not_taken_for_a_job(jobs_tree: Path) -> None:
    done = run(jobs_tree / "spark-submit.sh", "--cluster", "c", "seal")
    assert done.returncode == 2
    assert "there is no option --cluster" in done.stderr


def test_a_job_on_this_machine_gets_its_arguments_as_given(jobs_tree: Path, tmp_path: Path) -> None:
    words = submitted(jobs_tree, "seal", "--topic", "two words", cwd=tmp_path)
    assert after(words, "--master") == os.environ.get("SPARK_MASTER", "local[*]")
    assert words[-3:] == [str(jobs_tree / "jobs" / "seal.py"), "--topic", "two words"]
    assert "--packages" not in words


def test_a_job_on_dataproc_is_submitted_by_our_own_command(jobs_tree: Path, tmp_path: Path) -> None:
    words = submitted(
        jobs_tree, "--dataproc", "lake", "--region", "europe-west1", "--bucket", "b", "seal", "--every", "1 minute",
        cwd=tmp_path,
    )  # fmt: skip
    assert words[:5] == [str(jobs_tree / ".venv/bin/python"), "-m", "lakehouse.cli", "dataproc", "submit"]
    assert [after(words, option) for option in ("--cluster", "--region")] == ["lake", "europe-west1"]
    assert after(words, "--folder") == "gs://b/lakehouse"
    assert after(words, "--conf") == str(jobs_tree / "conf" / "dataproc.yaml")
    assert "--project" not in words
    assert words[words.index("--") + 1 :] == ["seal", "--every", "1 minute"]


def test_what_is_packed_needs_nothing_that_stays_here() -> None:
    """The crash kit and the sandbox do not travel: no job may import them, not even in the middle of a function."""
    stays = re.compile(r"^\s*(?:from|import) lakehouse\.(?:crash|sandbox)\b", re.MULTILINE)
    kept_here = ("crash", "sandbox", "cli")
    files = [*(ROOT / "jobs").glob("*.py"), *(ROOT / "lakehouse").rglob("*.py")]
    packed = [file for file in files if file.relative_to(ROOT).parts[1] not in kept_here]
    assert [str(file) for file in packed if stays.search(file.read_text())] == []
