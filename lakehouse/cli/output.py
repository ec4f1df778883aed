"""What a person or a program sees: tables, lines and JSON, to a terminal or a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lakehouse.durations import written
from lakehouse.errors import LakehouseError
from lakehouse.printable import printable, printable_json

_PIPED_WIDTH = 10_000
"""Columns of what is not a terminal: no row is ever cut or broken for the program that reads it."""

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    heading: str
    cell: Callable[[Any], str | Text]
    is_number: bool = False


def print_table(columns: Iterable[Column], rows: Iterable[Any]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = tuple(columns)
    for column in columns:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_clean(column.cell(row)) for column in columns))
    _console().print(table)


def print_line(line: str | Text) -> None:
    """One line; a newline before it is an empty line, any other is spelled."""
    if str(line).startswith("\n"):
        _console().print()
        line = line[1:]
    _console().print(_clean(line), soft_wrap=True)


def _clean(cell: str | Text) -> Text:
    """What a publisher wrote can be in it."""
    if not isinstance(cell, Text):
        return Text(printable(cell))
    return cell if printable(cell.plain) == cell.plain else Text(printable(cell.plain), cell.style)


def print_json(document: Mapping[str, Any]) -> None:
    typer.echo(printable_json(json.dumps(document, indent=2, ensure_ascii=False, default=_as_text)))


def confirm(sentence: str, document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print_line(sentence)


def print_error(error: LakehouseError, *, as_json: bool) -> None:
    if as_json:
        told = {
            "kind": type(error).__name__,
            "subject": error.subject,
            "found": error.found,
            "expected": error.expected,
            "next_step": error.next_step,
            "message": str(error),
        }
        typer.echo(printable_json(json.dumps({"error": told}, ensure_ascii=False)), err=True)
    else:
        _console(is_error=True).print(Text(printable(str(error)), "red"), soft_wrap=True)


def _console(is_error: bool = False) -> Console:
    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=is_error, width=width, markup=False, emoji=False, highlight=False)


def _as_text(value: object) -> str:
    if isinstance(value, timedelta):
        return written(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def instant_text(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}" if instant else NOTHING


def value_text(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value, default=_as_text)


def number_text(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def age_text(seconds: float | None) -> str:
    """The two largest units: `3 s`, `12 min 5 s`, `2 h 10 min`, `400 d 4 h`."""
    if seconds is None:
        return NOTHING
    left = abs(int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    sign = "−" if seconds <= -1 else ""
    return sign + " ".join(parts[:2]).removesuffix(" 0 s")
