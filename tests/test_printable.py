"""Nothing that a publisher wrote steers a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.cli.output import Column, print_error, print_json, print_line, print_table
from lakehouse.errors import LakehouseError
from lakehouse.printable import printable, printable_json

STEERING = "\x1b]52;c;aGk=\x07", "\x9b2J", "a\nb", "a\r\tb", "\u202egnp.exe", "\ud800", "\u2028"


@given(st.text(st.characters(exclude_categories=())))
def test_no_character_that_steers_a_terminal_is_left(text: str) -> None:
    shown = printable(text)
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(each) for each in shown}
    assert not {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI"} & set(
        map(unicodedata.bidirectional, shown)
    )
    assert printable(shown) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_json_means_what_it_meant(text: str) -> None:
    document = printable_json(json.dumps({"id": text}, ensure_ascii=False))
    assert json.loads(document) == {"id": text}
    assert printable(document) == document


@pytest.mark.parametrize("text", STEERING)
def test_every_way_out_is_clean(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, lines, JSON and errors."""
    print_table([Column("id", str)], [text])
    print_line(text)
    print_json({"id": text})
    print_error(LakehouseError(text, found=text, expected=text, next_step=text), as_json=True)
    print_error(LakehouseError(text, found=text, expected=text, next_step=text), as_json=False)
    captured = capsys.readouterr()
    for line in (captured.out + captured.err).split("\n"):
        assert printable(line) == line
    table, plain = captured.out.split("\n")[1:3]
    assert table.strip() == plain == printable(text)
