"""The notebooks run from a clean kernel on a lake of flights, and the door that they come in by."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from flights_lake import FlightsLake, shared_lake

from docs import notebooks
from lakehouse.crash.lives import SHORT_LIVED_JVM
from lakehouse.errors import LakeError
from lakehouse.lake import Lake, open_lake
from lakehouse.store.tables import TopicTables
from lakehouse.validate import mlflow_runs

NOTEBOOKS = notebooks.NOTEBOOKS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),
    pytest.mark.xdist_group("flights"),
]


@pytest.fixture(scope="module")
def flights() -> FlightsLake:
    """Eight hours are more than what is ever open: there are sealed, skewed, invalid and mirrored hours."""
    lake = shared_lake()
    mlflow_runs.log_due(TopicTables(lake.config.topic("weather_observed"), lake.config.settings))
    return lake


@pytest.fixture
def lake(flights: FlightsLake) -> Lake:
    return open_lake(flights.conf)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_from_a_clean_kernel(
    file: Path, flights: FlightsLake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever opens one for the first time presses run-all: nothing may depend on what its author had open."""
    monkeypatch.setenv("LAKEHOUSE_CONF", str(flights.conf))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the notebook that makes a lake of its own
    monkeypatch.setenv("JDK_JAVA_OPTIONS", SHORT_LIVED_JVM)
    notebook = notebooks.executed(file)
    said = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(said) > 8
    assert not [output.text for output in said if output.get("name") == "stderr"]
    if file.stem == "first_topic":  # the first one is of a topic of its own
        assert "not acknowledged: 0" in str(said)
        assert re.search(r"sealed hours: (1, rows: 60|2, rows: 120), as sealed", str(said))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_defines_nothing_and_says_what_one_learns(file: Path) -> None:
    """What is worth a function is worth a test, in the house."""
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    title, promise = notebook.cells[0].source.split("\n\n", 1)
    assert title.startswith("# ")
    assert promise.startswith("You will learn ")
    for cell in code_of(notebook):
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        python = "\n".join(line for line in cell.source.splitlines() if not line.startswith("!"))
        assert not [node for node in ast.walk(ast.parse(python)) if isinstance(node, defined)]
    assert "from lakehouse import open_lake" in code_of(notebook)[0].source


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_kept_with_what_it_showed(file: Path) -> None:
    """It is read where nothing runs: on a code host, or before set-up; `make notebooks` writes it."""
    notebook = nbformat.read(file, as_version=4)
    assert sum(bool(cell.outputs) for cell in code_of(notebook)) >= len(code_of(notebook)) - 1
    assert all(cell.execution_count for cell in code_of(notebook))
    text = file.read_text(encoding="utf-8")
    assert len(text) < 120_000
    assert not re.search(r"/(home|root|work|tmp|dev/shm|Users)/|Traceback", text)
    assert notebooks.kept(nbformat.from_dict(notebook)) == notebook


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_four_notebooks() -> None:
    """A search in the wrong folder would let everything pass."""
    assert [file.stem for file in NOTEBOOKS] == ["audit_time_travel", "data_quality", "explore_hours", "first_topic"]


def test_rows_can_be_had_as_arrow_pandas_and_by_sql(lake: Lake) -> None:
    """Without a JVM: a look at an hour takes milliseconds."""
    sealed = lake.topic("flight_departed").silver("2013-01-02T14")
    assert len(sealed) == len(sealed.arrow()) == len(sealed.pandas()) == sealed.duckdb("select * from rows").shape[0]
    assert set(sealed.pandas(["hour", "event_id"]).columns) == {"hour", "event_id"}
    assert set(sealed.arrow()["hour"].to_pylist()) == {"2013-01-02T14"}


def test_spark_reads_the_same_version(lake: Lake, spark: object) -> None:
    """What is too large for one process is the same rows there."""
    sealed = lake.topic("flight_departed").silver("2013-01-02T14")
    assert {row.event_id for row in sealed.spark().select("event_id").collect()} == set(
        sealed.arrow()["event_id"].to_pylist()
    )


def test_a_table_is_read_as_it_was(lake: Lake) -> None:
    """By version and by time; before there was a table there is nothing to read, and not an empty answer."""
    topic = lake.topic("flight_landed")
    ledger = topic.ledger()
    first = ledger[ledger["state"] == "sealed"].iloc[0]
    then = topic.silver(as_of=first["at"].to_pydatetime())
    assert len(then) == first["details"]["rows"] < len(topic.silver())
    assert len(topic.silver(as_of=0)) == 0
    with pytest.raises(LakeError, match="no version as of 1999"):
        topic.silver(as_of="1999-01-01T00:00:00Z")


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Executors and the command line import it at every start; only who opens a lake pays for tables."""
    code = "import lakehouse, sys; print({'pyarrow', 'deltalake', 'pandas', 'pyspark'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_opening_a_lake_leaves_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's own files count from its folder; only the lake's roots count from the folder that holds `conf/`."""
    conf = tmp_path / "conf"
    (conf / "topics").mkdir(parents=True)
    (conf / "local.yaml").write_text("raw_root: build/lake\n")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("LAKEHOUSE_CONF", raising=False)
    lake = open_lake()
    assert Path.cwd() == tmp_path / "notebooks"
    assert lake.config.settings.raw_root == lake.config.settings.sealed_root == str(tmp_path / "build" / "lake")
