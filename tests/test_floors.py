"""Imports only go down (DESIGN §8): words, pure, state, stages, operations, sandbox, cli, jobs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent

FLOORS: dict[str, tuple[str, ...]] = {
    "words": ("errors", "hours", "durations", "types", "topics", "events", "checksum"),
    "pure": (
        "parse", "parse_json", "buckets", "closing", "dedup", "parquet", "suites", "measures", "delays", "volume",
        "charts", "overview", "reports",
    ),
    "state": (
        "config", "session", "storage", "tables", "bronze", "ledger", "steps", "experiments", "models", "copying",
        "deliveries", "holds", "workers",
    ),
    "stages": ("sources", "ingest", "seal", "validate", "gate", "usual", "mirrors"),
    "operations": (
        "application", "audit", "erase", "explain", "fleet", "lake", "lateness", "maintain", "reconcile", "report_site",
        "running", "verify",
    ),
    "sandbox": ("sandbox",),
    "cli": ("cli",),
    "jobs": ("jobs",),
}  # fmt: skip
"""From the ground up. A folder stands for all modules in it."""

BELONGS_TO = {"sources": "ingest", "gate": "validate", "usual": "gate"}
"""A stage's own rooms: only that stage may import them."""

_FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}
_HEIGHT = {floor: height for height, floor in enumerate(FLOORS)}


def modules() -> list[Path]:
    found = [*(HOUSE / "lakehouse").rglob("*.py"), *(HOUSE / "jobs").rglob("*.py")]
    return sorted(file.relative_to(HOUSE) for file in found if file != HOUSE / "lakehouse" / "__init__.py")


def part_of(dotted: str) -> str | None:
    """`lakehouse.landing.source` is part of `sources`; None for what is not of the house, or is all of it."""
    top, _, rest = dotted.partition(".")
    if top == "jobs":
        return "jobs"
    return rest.partition(".")[0] or None if top == "lakehouse" else None


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands: lazy ones and those for types count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            yield from ((node.lineno, f"{source}.{name.name}") for name in node.names)


def complaints(file: Path, source: str) -> list[str]:
    own = part_of(".".join(file.with_suffix("").parts))
    if own not in _FLOOR_OF:
        return [
            f"{file} stands on no floor: add {own!r} to FLOORS in tests/test_floors.py, on the lowest that it fits."
        ]
    reached = [(line, part_of(name)) for line, name in imports(ast.parse(source), ".".join(file.parent.parts))]
    return [
        f"{file}:{line} {complaint}"
        for line, part in reached
        if part in _FLOOR_OF and part != own and (complaint := _complaint(str(own), str(part)))
    ]


def _complaint(own: str, other: str) -> str | None:
    mine, theirs = _FLOOR_OF[own], _FLOOR_OF[other]
    if _HEIGHT[theirs] > _HEIGHT[mine]:
        return f"imports up: {own} ({mine}) may not know {other} ({theirs})."
    if theirs == "stages" and mine == "stages" and BELONGS_TO.get(other) != own:
        return f"imports another stage: {own} and {other} meet in tables and in the ledger only."
    return None


@pytest.mark.parametrize("file", modules(), ids=str)
def test_a_module_imports_only_from_its_floor_and_below(file: Path) -> None:
    found = complaints(file, (HOUSE / file).read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("part", FLOORS["words"])
def test_words_know_neither_spark_nor_tables(part: str) -> None:
    """They are imported by executors' workers and by the command line, before anything else."""
    file = HOUSE / "lakehouse" / f"{part}.py"
    tops = {name.partition(".")[0] for _, name in imports(ast.parse(file.read_text(encoding="utf-8")), "lakehouse")}
    assert not tops & {"pyspark", "delta", "deltalake", "google", "great_expectations", "mlflow"}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("lakehouse/hours.py", "from lakehouse.config import Config"),
        ("lakehouse/hours.py", "from lakehouse import config"),
        ("lakehouse/ingest/closing.py", "import lakehouse.store.ledger as ledger"),
        ("lakehouse/store/tables.py", "def lazily():\n    from lakehouse import seal"),
        ("lakehouse/seal/stage.py", "from . import ingest"),
        ("lakehouse/mirrors/folder.py", "from ..seal import seal_hour"),
        ("lakehouse/seal/stage.py", "from lakehouse.landing.segments import Segment"),
        ("lakehouse/seal/stage.py", "from lakehouse import gate"),
        ("lakehouse/landing/source.py", "from lakehouse.ingest.query import run"),
        ("lakehouse/operations/status.py", "from lakehouse.sandbox.broker import Broker"),
        ("lakehouse/sandbox/demo.py", "from lakehouse.cli.app import main"),
        ("lakehouse/cli/app.py", "import jobs.seal"),
    ],
)
def test_an_import_up_or_across_is_found(file: str, source: str) -> None:
    assert len(complaints(Path(file), source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("lakehouse/config.py", "from lakehouse import __version__\nfrom lakehouse.topics import Topic"),
        ("lakehouse/ingest/query.py", "from lakehouse.landing.source import PubSubSource"),
        ("lakehouse/validate/stage.py", "from lakehouse.validate.gx import gated"),
        ("lakehouse/mirrors/folder.py", "from lakehouse.mirrors import Mirror\nfrom . import hive"),
        ("lakehouse/cli/app.py", "from lakehouse import fleet, validate\nfrom lakehouse.sandbox.broker import serve"),
        ("jobs/seal.py", "from lakehouse.seal.stage import run"),
    ],
)
def test_an_import_down_or_of_ones_own_is_fine(file: str, source: str) -> None:
    assert complaints(Path(file), source) == []


def test_a_module_without_a_floor_is_told_where_to_go() -> None:
    (complaint,) = complaints(Path("lakehouse/novelty.py"), "")
    assert complaint.startswith("lakehouse/novelty.py stands on no floor: add 'novelty' to FLOORS")


def test_the_house_is_not_empty() -> None:
    """A search in the wrong folder would let everything pass."""
    assert Path("lakehouse/hours.py") in modules()
