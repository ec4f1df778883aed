"""Log lines have one form: `stage: key=value key=value`, and what failed ends with `error=…`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
PRODUCT = [
    file
    for file in sorted((HOUSE / "lakehouse").rglob("*.py"))
    if not {"crash", "sandbox"} & set(file.relative_to(HOUSE).parts)
]
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")

VALUE = r"[\w-]+=[^=]*?"
FORM = re.compile(rf"(\w+|%s): {VALUE}( {VALUE})*")


def calls() -> list[tuple[str, str, str]]:
    """Place, level and format of each call of a logger."""
    found = []
    for file in PRODUCT:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            logger = node.func.value
            if isinstance(logger, ast.Name) and logger.id == "log" and node.func.attr in LEVELS:
                assert isinstance(node.args[0], ast.Constant), f"{file}:{node.lineno}: a format that is not a literal"
                found.append((f"{file.relative_to(HOUSE)}:{node.lineno}", node.func.attr, str(node.args[0].value)))
    return found


@pytest.mark.parametrize(("place", "level", "line"), calls())
def test_a_log_line_has_the_one_form(place: str, level: str, line: str) -> None:
    assert FORM.fullmatch(line), place
    unnamed = re.sub(r"[\w-]+=%[.\d]*\w", "", line.partition("error=")[0].removeprefix("%s: "))
    assert "%" not in unnamed, f"{place}: a value without a key"
    if level in ("error", "exception", "critical"):
        assert re.search(r" error=[^=]*$", line), f"{place}: a failure ends with its error"
