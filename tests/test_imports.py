"""The contracts on imports break when they should: each is tried with an import that it forbids."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
CONTRACTS = {contract["name"]: contract for contract in PROJECT["importlinter"]["contracts"]}
DOWN, CIRCLES, PURE, PAGES, FLEET, LOW = CONTRACTS
PURE_MODULES = CONTRACTS[PURE]["source_modules"]

BREAKING = [
    *((DOWN, importer, imported) for importer, imported in [
        ("lakehouse.landing.source", "lakehouse.ingest.batch"),
        ("lakehouse.seal.stage", "lakehouse.validate.stage"),
        ("lakehouse.mirrors.stage", "lakehouse.ingest.query"),
        ("lakehouse.operations.status", "lakehouse.application"),
        ("lakehouse.application", "lakehouse.lake"),
        ("lakehouse.store.files", "lakehouse.spark.session"),
        ("lakehouse.decode.events", "lakehouse.store.delta"),
        ("lakehouse.hours", "lakehouse.durations"),
    ]),
    (CIRCLES, "lakehouse.store.records", "lakehouse.store.ledger"),
    (CIRCLES, "lakehouse.mirrors.bigquery.quota", "lakehouse.mirrors.bigquery.mirror"),
    (PAGES, "lakehouse.pages.words", "pyarrow"),
    *((PURE, "lakehouse.pages.words", name) for name in ("socket", "requests", "os", "pathlib", "pandas", "google")),
    *((PURE, "lakehouse.hours", name) for name in ("pathlib", "urllib", "subprocess", "duckdb", "deltalake")),
    *((PURE, "lakehouse.decode.columns", name) for name in ("pyspark", "http", "io")),
    *((FLEET, "lakehouse.fleet.plan", name) for name in ("lakehouse.fleet.launchers.local", "subprocess", "os")),
    *((LOW, f"lakehouse.{name}", "deltalake") for name in ("checksum", "config", "failpoints")),
]  # fmt: skip
"""Contract, importer and imported: as the code is now, all of these are missing."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy of the package with all of these imports and one more top-level module."""
    folder = tmp_path_factory.mktemp("imports")
    shutil.copytree(HOUSE / "lakehouse", folder / "lakehouse", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOUSE / "pyproject.toml", folder)
    for _, importer, imported in BREAKING:
        file = folder / (importer.replace(".", "/") + ".py")
        with file.open("a", encoding="utf-8") as module:
            module.write(f"\nimport {imported}\n")
    (folder / "lakehouse" / "newcomer.py").write_text("")
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [linter, "--no-cache"], cwd=folder, env={"COLUMNS": "300"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stderr
    return run.stdout


@pytest.mark.parametrize(("contract", "importer", "imported"), BREAKING)
def test_an_import_that_a_contract_forbids_is_found(broken: str, contract: str, importer: str, imported: str) -> None:
    section = _section(broken, contract)
    if contract == CIRCLES:
        assert f"No cycles are allowed in {importer.rpartition('.')[0]}.\n" in section
    else:
        assert re.search(rf"{re.escape(importer)} -> {re.escape(imported)} ", section)


def test_a_new_top_level_module_must_be_entered(broken: str) -> None:
    assert "newcomer" in _section(broken, DOWN)


def test_a_pure_module_opens_no_files() -> None:
    """Ruff bans what of pyarrow reads and writes files (TID251), but cannot name the function that needs no import."""
    opened = [f"{file}:{call.lineno}" for file in _pure_files() for call in _calls(file) if call.func.id == "open"]
    assert opened == []


def test_ruff_bans_the_files_of_pyarrow_in_the_same_modules(tmp_path: Path) -> None:
    shutil.copy(HOUSE / "pyproject.toml", tmp_path)
    files = [file.relative_to(HOUSE) for file in _pure_files()]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(
            "import pyarrow as pa\nimport pyarrow.parquet\nfrom pyarrow import fs\npa.memory_map\n"
        )
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select=TID251", "--output-format=concise"]
    run = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert {str(file): run.stdout.count(f"{file}:") for file in files} == dict.fromkeys(map(str, files), 3), run.stderr


def _section(report: str, contract: str) -> str:
    """What the report says of one broken contract, under its name."""
    _, _, rest = report.partition("Broken contracts")
    return re.split(r"\n\S[^\n]*\n-{5,}\n", rest.partition(f"\n{contract}\n")[2])[0]


def _pure_files() -> list[Path]:
    places = [HOUSE / module.replace(".", "/") for module in PURE_MODULES]
    return [file for place in places for file in (place.glob("*.py") if place.is_dir() else [place.with_suffix(".py")])]


def _calls(file: Path) -> list[ast.Call]:
    """Its calls of plain names."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


def test_sparks_planner_imports_no_library_that_it_does_not_need() -> None:
    """It is three processes of each application that starts, beside those of its tasks."""
    code = "import lakehouse.landing.source, sys; print({'duckdb', 'google', 'grpc', 'pandas'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
