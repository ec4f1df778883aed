"""What every command refuses alike, with the exit code of the error's kind; and a refusal leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main
import yaml

from docs.generate import kinds_of_errors
from lakehouse.cli import app
from lakehouse.errors import EXIT_CODES, LAKE, MISUSE, LakehouseError, from_trace, noting_errors
from tests.status_lake import FIVE, SIX, Lake
from tests.status_lake import lake as lake

WHY = ("--reason", "a test", "--by", "ada")
NEEDS_LAKE = {
    "hours": ("plays",),
    "explain": ("plays", FIVE),
    "report": (),
    "lateness": ("plays",),
    "verify": ("plays",),
    "audit": ("plays", FIVE),
    "trace": ("plays", "e1"),
    "failing": ("plays", FIVE, "expect_x"),
    "reconcile": (),
    "close": ("plays", FIVE, *WHY),
    "release": ("plays", FIVE, *WHY),
    "replay-rejected": ("plays", "--by", "ada"),
    "maintain": (),
    "accept-loss": ("plays", *WHY),
    "erase": ("plays", "--where", "user = 'u'", *WHY),
}
"""Each command that needs a lake, with arguments that are well-formed."""

OTHERS = {"dataproc", "doctor", "fleet", "sandbox", "status", "stop", "topics"}
NAMES_A_TOPIC = [("reconcile", ("plays",)), ("maintain", ("plays",))]
TAKES_AN_HOUR = ("explain", "audit", "failing", "close", "release")

Refused = Callable[..., tuple[object, str]]


@pytest.fixture
def refused(lake: Lake, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs one command that must fail before it prints anything; gives its exit code and its message."""

    def ended(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as exit_:
            app.main(["--conf", str(lake.conf), *arguments])
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1, err
        return exit_.value.code, err

    return ended


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_who_is_not_logged_in_is_told_so_by_every_command(
    lake: Lake, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thing that happens to a newcomer with a lake on gs://."""
    values = yaml.safe_load(lake.conf.read_text())
    lake.conf.write_text(yaml.safe_dump({**values, "raw_root": "gs://nobody/raw", "sealed_root": "gs://nobody/sealed"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(lake.conf.parent / "none"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    code, err = refused("fleet", "history")
    assert code == LAKE
    assert "gcloud auth application-default login" in err


def test_the_table_has_every_command() -> None:
    commands = set(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]
    assert commands - OTHERS == set(NEEDS_LAKE)


@pytest.mark.parametrize(("command", "arguments"), [*NEEDS_LAKE.items(), *NAMES_A_TOPIC])
def test_without_a_lake_every_command_gives_the_same_answer_and_creates_nothing(
    lake: Lake, refused: Refused, command: str, arguments: tuple[str, ...]
) -> None:
    """A mistyped `raw_root` would look like success."""
    before = everything_below(lake.conf.parent.parent)
    code, err = refused(command, *arguments)
    assert code == LAKE
    subject = "topic 'plays'" if "plays" in arguments else "2 topics"
    assert err.startswith(f"{subject}: found no lake at {lake.config.settings.raw_root}")
    assert "expected the tables that ingest creates at its first start. Start ingest, or check raw_root" in err
    assert everything_below(lake.conf.parent.parent) == before


@pytest.mark.parametrize("command", TAKES_AN_HOUR)
@pytest.mark.parametrize("hour", ["1999-01-02T13", "2025-06-01T04"])
def test_an_hour_that_never_was_is_refused_and_recorded_nowhere(
    lake: Lake, refused: Refused, command: str, hour: str
) -> None:
    """A slip of the hand would look like an hour without complaint."""
    lake.start(open_hour=SIX)
    lake.closed(FIVE)
    before = lake.ledger()
    arguments = [hour if each == FIVE else each for each in NEEDS_LAKE[command]]
    code, err = refused(command, *arguments)
    assert code == LAKE
    assert err.startswith(f"plays {hour}: found no such hour; expected an hour from {FIVE} on")
    assert lake.ledger() == before


@pytest.mark.parametrize("command", ["explain", "audit", "failing", "release"])
def test_an_hour_that_has_not_begun_is_refused(lake: Lake, refused: Refused, command: str) -> None:
    lake.start(open_hour=SIX)
    arguments = ["2999-01-01T00" if each == FIVE else each for each in NEEDS_LAKE[command]]
    code, err = refused(command, *arguments)
    assert (code, "found no such hour" in err) == (LAKE, True)


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("HOUR", ("explain", "plays", "foo")),
        ("--as-of", ("audit", "plays", FIVE, "--as-of", "foo")),
        ("--as-of", ("trace", "plays", "e1", "--as-of", "foo")),
        ("--since", ("replay-rejected", "plays", "--since", "foo")),
        ("--hours", ("reconcile", "--hours", "foo")),
        ("--hours", ("reconcile", "--hours", f"{FIVE}..foo")),
        ("--hours", ("reconcile", "--hours", "")),
        ("--reason", ("replay-rejected", "plays", "--reason", "nope")),
        ("--png", ("lateness", "plays", "--png", "/nonexistent/x.png")),
        ("--reason", ("close", "plays", FIVE, "--reason", " ")),
    ],
)
def test_a_wrong_argument_is_called_by_its_name(
    lake: Lake, refused: Refused, option: str, arguments: tuple[str, ...]
) -> None:
    lake.start()
    code, err = refused(*arguments)
    assert code == MISUSE
    assert err.startswith(f"{option}: found ")


def test_an_unknown_reason_of_rejection_is_answered_with_those_there_are(lake: Lake, refused: Refused) -> None:
    lake.start()
    _, err = refused("replay-rejected", "plays", "--reason", "wrong types", "--dry-run")
    assert "expected one of not JSON, compressed (gzip)" in err
    assert "no event id, no event time" in err


def test_pages_that_cannot_be_written_are_no_fault_of_the_lake(lake: Lake, refused: Refused, tmp_path: Path) -> None:
    lake.start()
    (tmp_path / "taken").write_text("a file")
    code, err = refused("report", "--out", str(tmp_path / "taken"))
    assert code == MISUSE
    assert err.startswith(f"{tmp_path}/taken: found ")
    assert "name another with --out" in err
    assert "again by itself" not in err


def test_every_kind_of_error_has_a_documented_exit_code() -> None:
    kinds = kinds_of_errors()
    assert {kind.exit_code for kind in kinds} == set(EXIT_CODES) - {0}
    undecided = [kind.__name__ for kind in kinds if "exit_code" not in vars(kind)]
    assert undecided == ["ExecutorError", "UnexpectedError"]


def test_every_error_that_is_raised_says_its_kind() -> None:
    """One of the general class would end with the code of what nobody foresaw."""
    sources = Path(app.__file__).parent.parent.rglob("*.py")
    general = [path.name for path in sources if re.search(r"\bLakehouseError\($", path.read_text(), re.MULTILINE)]
    assert general == []


@pytest.mark.parametrize("kind", kinds_of_errors(), ids=lambda kind: kind.__name__)
def test_an_executors_error_ends_the_job_with_its_own_code(kind: type[LakehouseError]) -> None:
    with pytest.raises(kind) as caught, noting_errors("a slot"):
        raise kind("a", found="b", expected="c", next_step="D.")
    made_again = from_trace("\n".join(caught.value.__notes__))
    assert made_again is not None
    assert (type(made_again), made_again.exit_code) == (kind, kind.exit_code)


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "plays", "f\udcf6r"),
        ("close", "plays", FIVE, "--reason", "f\udcf6r", "--by", "ann"),
        ("erase", "plays", "--where", "event_id = 'f\udcf6r'", "--reason", "asked", "--by", "ann"),
        ("status", "\udcff"),
    ],
)
def test_bytes_that_are_no_text_are_refused(lake: Lake, refused: Refused, arguments: tuple[str, ...]) -> None:
    """As a terminal of another encoding sends them: Arrow takes no such text, and a ledger's JSON should not."""
    lake.start()
    code, err = refused(*arguments)
    assert code == MISUSE
    assert re.search(r"the command line: found ..*\\udcf.*, which is no text in utf-8; expected arguments in", err)
