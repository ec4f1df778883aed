"""The one way to a terminal or a pipe: what is printed fits, can be encoded, and obeys no event."""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from lakehouse import hours
from lakehouse.durations import brief, duration_text
from lakehouse.errors import LakehouseError
from lakehouse.pages.words import counted
from lakehouse.printable import printable, printable_json

NOTHING = "–"
_PIPED_WIDTH = 10_000
"""Columns of what is no terminal: no row is ever cut or broken for the program that reads it."""
_GAP = "  "
_NAMED_COLUMNS = 3
"""Of those that are left out."""
_PLAIN = {
    "–": "-", "−": "-", "…": "...", "·": ".", "✓": "+", "✕": "x", "→": "->", "≤": "<=", "█": "#", "▌": "#", "▏": ".",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Where a terminal is too narrow, columns of a `rank` above 0 are left out, the highest first; then those with a
    `least` are cut to it, in the middle where its values differ in their ends, as names do.
    """

    heading: str
    cell: Callable[[Any], str | Text]
    is_number: bool = False
    rank: int = 0
    least: int | None = None
    is_name: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Any], *, wide: bool = False) -> None:
    """A line for each row. On a terminal it fits the width unless `wide`; the last line then says what is missing."""
    console = _console()
    width = _PIPED_WIDTH if wide else console.width
    lines, left_out = table(columns, list(rows), width)
    for line in lines:
        console.print(line, soft_wrap=True)
    if left_out:
        print_line(Text(left_out_hint(left_out)[: console.width], "dim"))


def left_out_hint(headings: Sequence[str]) -> str:
    """How to see the columns that the terminal has no room for."""
    more = ", …" if len(headings) > _NAMED_COLUMNS else ""
    return f"--wide shows {counted(len(headings), 'more column')}: {', '.join(headings[:_NAMED_COLUMNS])}{more}"


def table(columns: Sequence[Column], rows: Sequence[Any], width: int) -> tuple[list[Text], list[str]]:
    """The table's lines, none of them wider than `width` if that can be, and the headings that are left out."""
    cells = {column: [_cell(column.cell(row)) for row in rows] for column in columns}
    widths = {
        column: max([cell_len(column.heading), *(cell_len(cell.plain) for cell in cells[column])]) for column in columns
    }

    def excess() -> int:
        return sum(widths.values()) + len(_GAP) * (len(widths) - 1) - width

    left_out = []
    for column in sorted(columns, key=lambda column: -column.rank):
        if excess() > 0 and column.rank:
            del widths[column]
            left_out.append(column.heading)
    while excess() > 0:
        widest = max(
            (column for column in widths if _can_be_cut(column, widths[column])),
            key=lambda column: widths[column],
            default=None,
        )
        if widest is None:
            break
        widths[widest] -= 1
    heads = _line([_fitted(Text(column.heading, "bold"), column, widths[column]) for column in widths])
    body = [
        _line([_fitted(cells[column][place], column, widths[column]) for column in widths])
        for place in range(len(rows))
    ]
    return [heads, *body], [column.heading for column in columns if column.heading in left_out]


def print_fields(fields: Iterable[tuple[str, str | Text]]) -> None:
    """A labelled line for each field, folded below itself where it is long."""
    console = _console()
    for label, value in fields:
        label = printable(label)
        label = f"{label:<19}" if cell_len(label) < 19 else label + _GAP
        text = Text.assemble((label, "dim"), _cell(value))
        if console.width >= _PIPED_WIDTH:
            console.print(text, soft_wrap=True)
            continue
        width = max(20, console.width - max(19, cell_len(label)))
        first, *rest = _cell(value).wrap(console, width, overflow="fold") or [Text()]
        console.print(Text.assemble((label, "dim"), first))
        for line in rest:
            console.print(Text.assemble(" " * 19, line))


def print_line(line: str | Text = "", *, indent: int = 0) -> None:
    """One line; with an `indent`, a paragraph that keeps it where the terminal folds it."""
    if indent:
        _console().print(
            Padding(_cell(line), (0, 0, 0, indent)) if _is_terminal() else Text(" " * indent) + _cell(line)
        )
    else:
        _console().print(_cell(line), soft_wrap=not _is_terminal())


def print_heading(text: str) -> None:
    print_line()
    print_line(Text(text, "bold"))


def print_json(document: Mapping[str, Any]) -> None:
    typer.echo(as_json(document))


def as_json(document: Mapping[str, Any]) -> str:
    """The document as JSON; what a terminal would obey is in it as `\\u….`."""
    return printable_json(json.dumps(document, indent=2, ensure_ascii=False, default=_as_text))


def confirm(sentence: str, document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print_line(sentence)


def print_error(error: LakehouseError, *, as_json: bool) -> None:
    if as_json:
        values = {
            "kind": type(error).__name__,
            "subject": error.subject,
            "found": error.found,
            "expected": error.expected,
            "next_step": error.next_step,
            "message": str(error),
        }
        typer.echo(printable_json(json.dumps({"error": values}, ensure_ascii=False)), err=True)
    else:
        _console(is_error=True).print(Text(printable(str(error)), "red"), soft_wrap=True)


def make_encodable() -> None:
    """What the streams' encoding has no sign for is printed in ASCII instead of ending the command."""
    codecs.register_error("lakehouse.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lakehouse.plain")


def instant_text(instant: datetime | None) -> str:
    return hours.instant_text(instant) if instant else NOTHING


def value_text(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value, default=_as_text)


def number_text(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def age_text(seconds: float | None) -> str:
    return NOTHING if seconds is None else brief(seconds)


def share_text(share: float | None) -> str:
    """`0.3%`; never 0% for what is not nothing, nor 100% for what is not all."""
    if share is None:
        return NOTHING
    if 0 < share < 0.001:
        return "<0.1%"
    return ">99.9%" if 0.999 < share < 1 else f"{share:.1%}".replace(".0%", "%")


def terminal(is_error: bool = False) -> Console:
    """The terminal itself, for what draws on it in place."""
    return _console(is_error)


_SHORTEST_CUT = 4


# --- fitting -------------------------------------------------------------------------------------------------------


def _cell(value: str | Text) -> Text:
    """What a publisher wrote can be in it."""
    if not isinstance(value, Text):
        return Text(printable(value))
    return value if printable(value.plain) == value.plain else Text(printable(value.plain), value.style)


def _can_be_cut(column: Column, width: int) -> bool:
    return column.least is not None and width > column.least


def _fitted(cell: Text, column: Column, width: int) -> Text:
    cell = cell.copy()
    if column.is_name and len(cell) > width > _SHORTEST_CUT and cell.plain.isascii():
        end = (width - 1) // 2
        cell = cell[: width - 1 - end] + Text("…") + cell[-end:]
    cell.truncate(width, overflow="ellipsis")
    missing = width - cell_len(cell.plain)
    return Text(" " * missing) + cell if column.is_number else cell + Text(" " * missing)


def _line(cells: Sequence[Text]) -> Text:
    line = Text(_GAP).join(cells)
    line.rstrip()
    return line


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text), error.end


def _is_terminal(is_error: bool = False) -> bool:
    return (sys.stderr if is_error else sys.stdout).isatty()


def _console(is_error: bool = False) -> Console:
    width = None if _is_terminal(is_error) else _PIPED_WIDTH
    return Console(stderr=is_error, width=width, markup=False, emoji=False, highlight=False)


def _as_text(value: object) -> str:
    if isinstance(value, timedelta):
        return duration_text(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
