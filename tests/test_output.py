"""Whatever a row holds, a line of it fits the terminal, tells it nothing to do, and can be encoded."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from lakehouse.cli import app, columns
from lakehouse.cli.output import as_json, left_out_hint, table
from lakehouse.cli.progress_line import progress, working
from lakehouse.operations.audit import Explained
from lakehouse.operations.hour_status import HourStatus
from lakehouse.operations.lateness import Choice
from lakehouse.operations.status import STATES, TopicStatus
from lakehouse.printable import printable
from lakehouse.progress import OpenHour
from lakehouse.store.history import Entry
from tests.jobs import command_on
from tests.status_lake import FIVE, NOON, Lake
from tests.status_lake import lake as lake

pytestmark = pytest.mark.xdist_group("processes")

HOUSE = Path(__file__).parent.parent
OBEYED = [chr(code) for code in (*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066)]


def topic_rows(number: int, name: str = "topic_{}_of_a_long_name") -> list[TopicStatus]:
    return [
        TopicStatus(
            name.format(each), state, error="found no permission, " * 5, open_hour=FIVE, behind_seconds=4e8,
            rejected=123_456, rejected_share=0.5, invalid_hours=(FIVE,), waiting_hour=FIVE, waits_for="mirror folder",
        )
        for each, state in zip(range(number), list(STATES) * number, strict=False)
    ]  # fmt: skip


@pytest.mark.parametrize("number", [1, 3, 300])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_topic_is_one_line_that_fits(number: int, width: int) -> None:
    """What folds into fifteen lines per topic is read by nobody."""
    lines, _ = table(columns.STATUS, topic_rows(number), width)
    assert len(lines) == number + 1
    assert max(cell_len(line.plain) for line in lines) <= width


def test_what_a_narrow_terminal_leaves_out_is_named() -> None:
    assert left_out_hint(["size"]) == "--wide shows 1 more column: size"
    assert left_out_hint(["a", "b", "c"]) == "--wide shows 3 more columns: a, b, c"
    assert left_out_hint(["a", "b", "c", "d"]) == "--wide shows 4 more columns: a, b, c, …"


def test_an_hour_of_the_largest_topic_fits_eighty_columns() -> None:
    """360 million rows, and every number in full."""
    row = HourStatus(
        "2026-11-23T05", "mirrored", "mirror bigquery, folder", *[360_000_000] * 6, 12, "valid", ("folder", "bigquery"),
        None, 4e6, 4e6, 4e6,
    )  # fmt: skip
    lines, left_out = table(columns.HOUR, [row], 80)
    assert max(cell_len(line.plain) for line in lines) <= 80
    assert "360,000,000" in lines[1].plain
    assert "deliveries" in left_out
    lines, left_out = table(columns.HOUR, [row], 10_000)
    assert (left_out, lines[1].plain.count("360,000,000")) == ([], 6)


@pytest.mark.parametrize(
    ("state", "details", "shown"),
    [
        ("mirrored", {"target": "bigquery"}, "mirrored bigquery"),
        ("mirrored", {"target": 3}, "mirrored"),
        ("mirror_failed", {}, "mirror_failed"),
        ("closed", {"bronze_version": 1, "target": "bigquery"}, "closed"),
        ("eaten", {"target": "bigquery"}, "eaten"),
    ],
)
def test_a_row_of_the_ledger_that_nobody_wrote_is_its_state(state: str, details: dict[str, object], shown: str) -> None:
    """A forged row must end no command that shows it; `verify` reports what it is."""
    lines, _ = table(columns.LEDGER, [Entry(FIVE, state, NOON, "mallory", details)], 200)
    assert f" {shown} " in lines[1].plain
    assert "bigquery" not in lines[1].plain.replace(shown, "")


@given(st.text(st.sampled_from([*OBEYED, "a", "é", "漢"])))
def test_no_text_of_an_event_is_obeyed_by_a_terminal(text: str) -> None:
    """An id with an escape sequence could rewrite what stands above it, or hide itself."""
    assert not set(printable(text)) & set(OBEYED)
    printed = as_json({"event": text})
    assert not set(printed.replace("\n", "")) & set(OBEYED)
    assert json.loads(printed) == {"event": text}


def test_an_escape_and_a_line_end_are_written_out() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"


COMMANDS = [["status"], ["status", "plays"], ["hours", "plays"], ["explain", "plays", FIVE]]


@pytest.mark.parametrize(
    ("command", "encoding"),
    [*((command, "ascii") for command in COMMANDS), *((COMMANDS[-1], each) for each in ("latin-1", "cp1252", "utf-8"))],
)
def test_a_stream_of_any_encoding_takes_what_is_printed(
    lake: Lake, encoding: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cron and old terminals have no UTF-8: dashes and signs become ASCII, not a traceback."""
    lake.start(hours={FIVE: OpenHour(40, NOON)})
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with suppress(SystemExit):
        app.main(["--conf", str(lake.conf), *command])
    out.flush()
    assert FIVE in out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert err.buffer.getvalue() == b""  # type: ignore[attr-defined]


def test_a_process_with_a_stream_of_ascii_prints_it(lake: Lake) -> None:
    lake.start(hours={FIVE: OpenHour(40, NOON)})
    environment = {**os.environ, "LAKEHOUSE_CONF": str(lake.conf), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli", *COMMANDS[-1]],
        cwd=HOUSE,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert FIVE in done.stdout.decode("ascii")


@pytest.mark.parametrize(("command", "width"), [*((command, 80) for command in COMMANDS), (["hours", "plays"], 120)])
def test_commands_fit_a_terminal(lake: Lake, width: int, command: list[str]) -> None:
    """On a real terminal of that width, no line is broken by it."""
    lake.start()
    reason = {"condition": "backlog", "is_met": False, "required": "", "measured": None, "text": "very " * 60 + "late"}
    lake.record("held", FIVE, {"reasons": [reason]})
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, pack("HHHH", 40, width, 0, 0))
    environment = {**os.environ, "LAKEHOUSE_CONF": str(lake.conf), "TERM": "xterm-mono", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    process = command_on(side, command, environment)
    os.close(side)
    said = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        said += part
    os.close(main)
    process.join(30)
    assert process.exitcode == 0, said
    lines = [Text.from_ansi(line).plain.rstrip() for line in said.decode().splitlines()]
    assert max(cell_len(line) for line in lines) <= width, said.decode()
    if command == ["status"]:
        assert [line[0] for line in lines if line[:1] in ("!", "·")] == ["!", "·"]  # beside what is wiped off again


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_on_the_terminal_only(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, where it counts each step; a program that reads the output or the errors of a command sees nothing."""
    out, err = io.StringIO(), _Screen() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress("hours verified")(iter("abc"), 3)) == ["a", "b", "c"]
    assert out.getvalue() == ""
    shown = Text.from_ansi(err.getvalue()).plain
    assert ("hours verified" in shown, "3/3" in shown) == (is_terminal, is_terminal)


def test_a_name_that_is_cut_keeps_its_end() -> None:
    """Of 300 topics many begin alike: cut at the end they would all be `team_0.topic_with_a_na…`."""
    rows = [TopicStatus(f"team_0.topic_with_a_long_name_{number:03d}", "silent") for number in range(300)]
    lines, _ = table(columns.STATUS, rows, 40)
    assert len({line.plain for line in lines}) == 301
    assert all(cell_len(line.plain) <= 80 for line in lines)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_work_of_unknown_length_is_on_the_terminal_only(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit of a large hour takes minutes: whoever watches sees that it goes on, and a log has no spinner in it."""
    err = _Screen() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    with working("plays: computed again"):
        pass
    assert ("plays: computed again" in Text.from_ansi(err.getvalue()).plain) == is_terminal


def test_every_delivery_of_an_audit_is_a_line_of_80_columns() -> None:
    """The reason is whole, and the event's name keeps its ends."""
    where = "after the close, delivered in 2013-01-02T14"
    row = Explained("in another hour", "WN4974-EWR-2013-01-02/departed", "189", datetime(2013, 1, 2, tzinfo=UTC), where)
    (_, line), left_out = table(columns.EXPLAINED, [row], 80)
    assert cell_len(line.plain) <= 80
    assert line.plain.endswith(where)
    assert "…" in line.plain.removesuffix(where)
    assert left_out == ["message", "published"]


def test_a_choice_of_lateness_is_a_line_of_80_columns() -> None:
    """The bar goes first, then the longest horizons: few duplicates come as late."""
    choice = Choice(
        timedelta(hours=1), 5, 0.5, timedelta(hours=1), dict.fromkeys((0, 1, 3, 6, 12, 24, 48, 72, 168), 1.0)
    )
    lines, left_out = table(columns.choice(choice.caught), [choice], 80)
    assert max(cell_len(line.plain) for line in lines) <= 80
    assert lines[0].plain.startswith("lateness  hours' delay   skewed   ≤ 0 h")
    assert left_out[0] == "bar"
