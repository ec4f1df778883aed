"""The door for people: where topics stand, why an hour is open, and what only a person may decide."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lakehouse import explain as explanations
from lakehouse import fleet, hours
from lakehouse.config import DEFAULT_CONF, Config, load
from lakehouse.errors import ConfigError, LakehouseError
from lakehouse.hours import Hour
from lakehouse.ledger import History, Ledger
from lakehouse.tables import folders_of, open_table

_PIPED_WIDTH = 10_000
"""Columns of what is not a terminal: no row is ever cut or broken for the program that reads it."""
_NOTHING = "–"

app = typer.Typer(
    help="Hourly event delivery: where topics stand, why hours wait, and what a person decides.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
topics_app = typer.Typer(help="The topics' configuration.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]
TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="A topic's name, as in conf/topics/<name>.yaml.")]
HourText = Annotated[str, typer.Argument(metavar="HOUR", help="A UTC hour, such as 2026-11-23T05.")]
Reason = Annotated[str, typer.Option(help="Why; it stays in the ledger.")]
By = Annotated[str | None, typer.Option(help="Who decides it.", show_default="the user who is logged in")]


@app.callback()
def _door(
    context: typer.Context,
    conf: Annotated[
        Path | None,
        typer.Option(envvar="LAKEHOUSE_CONF", help="The environment's configuration.", show_default=DEFAULT_CONF),
    ] = None,
) -> None:
    context.obj = conf


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process: an operator's error is one message and the error's exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(args=given, prog_name="lakehouse")
    except LakehouseError as error:
        _tell(error, as_json="--json" in given)
        raise SystemExit(error.exit_code) from error


# --- looking -------------------------------------------------------------------------------------------------------


@app.command()
def status(
    context: typer.Context,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All topics when none is given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A row per topic: its open hour, what waits or is held, its heartbeat. Exit code 1 if any cannot be read."""
    config = load(context.obj)
    rows = fleet.statuses(config, topics or sorted(config.topics), datetime.now(UTC))
    if as_json:
        _print_json({"topics": [asdict(row) for row in rows]})
    else:
        _print_table(_STATUS_COLUMNS, rows)
    if any(row.state == "error" for row in rows):
        raise typer.Exit(1)


@app.command(name="hours")
def hours_of_topic(
    context: typer.Context,
    topic: TopicName,
    last: Annotated[int, typer.Option(min=1, help="How many hours, counted from the newest.")] = 24,
    as_json: AsJson = False,
) -> None:
    """A row per hour of a topic: counts, verdict, targets, and how long after its end it got there."""
    rows = fleet.hour_statuses(_started(context, topic), last, datetime.now(UTC))
    if as_json:
        _print_json({"topic": topic, "hours": [asdict(row) for row in rows]})
    else:
        _print_table(_HOUR_COLUMNS, rows)


@app.command()
def explain(context: typer.Context, topic: TopicName, hour: HourText, as_json: AsJson = False) -> None:
    """Why an hour is open, held or closed, with every number behind it, and all that the ledger says of it."""
    explanation = explanations.explained(_started(context, topic), _hour(hour), datetime.now(UTC))
    if as_json:
        _print_json(asdict(explanation))
    else:
        _print_explanation(explanation)


@topics_app.command()
def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Every topic's file, suite and mirrors, without touching the lake. Exit code 1 if any has a complaint."""
    try:
        config = load(context.obj)
    except ConfigError as error:
        complaints = fleet.file_complaints(Path(context.obj or DEFAULT_CONF), error)
    else:
        complaints = {name: _complaint(name, config) for name in sorted(config.topics)}
    if as_json:
        _print_json(
            {"topics": [{"topic": name, "ok": not text, "complaint": text} for name, text in complaints.items()]}
        )
    else:
        _print_table(_CHECK_COLUMNS, complaints.items())
    if any(complaints.values()):
        raise typer.Exit(1)


# --- deciding ------------------------------------------------------------------------------------------------------


@app.command()
def close(
    context: typer.Context, topic: TopicName, hour: HourText, reason: Reason, by: By = None, as_json: AsJson = False
) -> None:
    """Ask ingest to close all hours through HOUR with its next batch, whatever the conditions say."""
    config = load(context.obj)
    person = _person(by)
    details = {"reason": _reason(reason), "by": person}
    standing = fleet.standing_of(config.topic(topic), config)
    through = _closable(standing, _hour(hour))
    table = open_table(folders_of(config.settings, topic).ledger, config.settings.storage_options)
    ledger = Ledger(table, f"close/{config.settings.release}/{person}")
    if ledger.record("close_requested", through, details, unless=lambda history: _has_closed(history, through)) is None:
        raise _closed_already(topic, through)
    _confirm(
        f"{topic}: all hours through {through} close with the next batch of ingest.",
        {"topic": topic, "hour": through, "state": "close_requested", **details},
        as_json,
    )


@app.command()
def release(
    context: typer.Context, topic: TopicName, hour: HourText, reason: Reason, by: By = None, as_json: AsJson = False
) -> None:
    """Let an invalid hour go to its mirrors as it is."""
    config = load(context.obj)
    named, wanted, why, person = config.topic(topic), _hour(hour), _reason(reason), _person(by)
    from lakehouse import validate

    validate.release(named, config, wanted, why, person)
    _confirm(
        f"{topic}: {wanted} is released and goes to its mirrors next.",
        {"topic": topic, "hour": wanted, "state": "released", "reason": why, "by": person},
        as_json,
    )


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8085,
    as_json: AsJson = False,
) -> None:
    """A Pub/Sub on this machine, in memory, until it is stopped."""
    from lakehouse.sandbox.broker import serve

    def ready(address: str) -> None:
        _confirm(f"export PUBSUB_EMULATOR_HOST={address}", {"PUBSUB_EMULATOR_HOST": address}, as_json)
        sys.stdout.flush()

    serve(host, port, ready)


def _started(context: typer.Context, name: str) -> fleet.Standing:
    config = load(context.obj)
    standing = fleet.standing_of(config.topic(name), config)
    if not standing.is_started:
        raise LakehouseError(
            f"topic {name!r}",
            found="no lake at " + folders_of(config.settings, name).raw,
            expected="the tables that ingest creates at its first start",
            next_step="Start ingest for this topic, or check raw_root in the configuration.",
        )
    return standing


def _hour(text: str) -> Hour:
    try:
        return hours.parsed(text)
    except ValueError as error:
        raise LakehouseError(
            "HOUR", found=repr(text), expected="a UTC hour such as 2026-11-23T05", next_step="Write it in that form."
        ) from error


def _reason(text: str) -> str:
    if not text.strip():
        raise LakehouseError(
            "--reason",
            found="no text",
            expected="a sentence for those who read the ledger later",
            next_step="Say why in a few words.",
        )
    return text.strip()


def _person(by: str | None) -> str:
    try:
        person = (by if by is not None else getpass.getuser()).strip()
    except (KeyError, OSError):
        person = ""
    if not person:
        raise LakehouseError(
            "--by", found="no name", expected="the name of who decides it", next_step="Give one with --by NAME."
        )
    return person


def _closable(standing: fleet.Standing, hour: Hour) -> Hour:
    """An hour that is over and still open: nobody may close an hour that goes on, for all its later events."""
    if not fleet.is_open(standing, hour):
        raise _closed_already(standing.topic.name, hour)
    if hours.end_of(hour) > datetime.now(UTC):
        raise LakehouseError(
            f"{standing.topic.name} {hour}",
            found=f"an hour that ends at {_instant(hours.end_of(hour))}",
            expected="an hour that is over",
            next_step="Name an earlier hour, or wait: what comes after a close is skewed into a later hour.",
        )
    return hour


def _has_closed(history: History, hour: Hour) -> bool:
    return history.first("closed", hour) is not None


def _closed_already(topic: str, hour: Hour) -> LakehouseError:
    return LakehouseError(
        f"{topic} {hour}",
        found="an hour that is no longer open",
        expected="an open hour",
        next_step=f"`lakehouse explain {topic} {hour}` says when and why it closed.",
    )


def _complaint(name: str, config: Config) -> str | None:
    """What is wrong with a topic's suite or the configuration of its mirrors; no mirror is opened for it."""
    from lakehouse import validate
    from lakehouse.mirrors import catalogue

    topic = config.topic(name)
    try:
        validate.check_suites(topic, config)
        for mirror in topic.mirrors:
            catalogue.check(mirror, config.settings, config.path)
    except LakehouseError as error:
        return str(error)
    return None


# --- columns -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    heading: str
    cell: Callable[[Any], str | Text]
    is_number: bool = False


def _status_state(row: fleet.TopicStatus) -> Text:
    styles = {"ok": "green", "error": "bold red", "not started": "dim"}
    return Text(f"error: {row.error}" if row.error else row.state, styles[row.state])


def _status_held(row: fleet.TopicStatus) -> str:
    if not row.held:
        return _NOTHING
    first, *others = row.held
    more = f" (and {len(others)} more)" if others else ""
    return f"{first.hour}: {'; '.join(first.reasons)}{more}"


def _status_waiting(row: fleet.TopicStatus) -> str:
    return f"{row.waiting_hour}: {row.waits_for}" if row.waiting_hour else _NOTHING


def _status_due(row: fleet.TopicStatus) -> str:
    counts = {"seal": row.due.seal, "validate": row.due.validate, **row.due.mirrors}
    return _NOTHING if row.state != "ok" else ", ".join(f"{stage} {count}" for stage, count in counts.items())


def _with_age(instant: datetime | None, age_seconds: float | None) -> str:
    return f"{_instant(instant)} ({_age(age_seconds)})" if instant else _NOTHING


_STATUS_COLUMNS = (
    Column("topic", lambda row: row.topic),
    Column("state", _status_state),
    Column("open hour", lambda row: row.open_hour or _NOTHING),
    Column("oldest not through", _status_waiting),
    Column("newest sealed", lambda row: row.newest_sealed_hour or _NOTHING),
    Column("held", _status_held),
    Column("watermark", lambda row: _instant(row.watermark)),
    Column("frontier (age)", lambda row: _with_age(row.frontier, row.frontier_age_seconds)),
    Column("last commit", lambda row: _age(row.last_commit_age_seconds), is_number=True),
    Column("batch rows", lambda row: _number(row.last_batch_rows), is_number=True),
    Column("slots", lambda row: _number(row.slots), is_number=True),
    Column("release", lambda row: row.release or _NOTHING),
    Column("invalid", lambda row: ", ".join(row.invalid_hours) or _NOTHING),
    Column("due", _status_due),
)

_HOUR_COLUMNS = (
    Column("hour", lambda row: row.hour),
    Column("state", lambda row: row.state),
    Column("waits for", lambda row: row.waits_for or _NOTHING),
    Column("rows", lambda row: _number(row.rows), is_number=True),
    Column("deliveries", lambda row: _number(row.deliveries), is_number=True),
    Column("duplicates", lambda row: _number(row.duplicates), is_number=True),
    Column("late duplicates", lambda row: _number(row.late_duplicates), is_number=True),
    Column("skewed", lambda row: _number(row.skewed), is_number=True),
    Column("revision", lambda row: _number(row.revision or None), is_number=True),
    Column("verdict", lambda row: row.verdict or _NOTHING),
    Column("mirrored", lambda row: ", ".join(row.mirrored) or _NOTHING),
    Column("closed at", lambda row: _instant(row.closed_at)),
    Column("end to closed", lambda row: _age(row.closed_after_seconds), is_number=True),
    Column("to sealed", lambda row: _age(row.sealed_after_seconds), is_number=True),
    Column("to mirrored", lambda row: _age(row.mirrored_after_seconds), is_number=True),
)

_CHECK_COLUMNS = (
    Column("topic", lambda row: row[0]),
    Column("ok", lambda row: Text("no", "bold red") if row[1] else Text("yes", "green")),
    Column("complaint", lambda row: row[1] or _NOTHING),
)

_CONDITION_COLUMNS = (
    Column("condition", lambda row: row.condition),
    Column("met", lambda row: Text("yes", "green") if row.is_met else Text("no", "bold red")),
    Column("required", lambda row: row.required),
    Column("measured", lambda row: row.measured or _NOTHING),
    Column("", lambda row: row.text),
)

_STORY_COLUMNS = (
    Column("at", lambda row: _instant(row.at)),
    Column("what", lambda row: row.state),
    Column("by", lambda row: row.by),
    Column("", lambda row: row.text),
)


# --- printing ------------------------------------------------------------------------------------------------------


def _print_explanation(explanation: explanations.Explanation) -> None:
    _print_line(Text(f"{explanation.topic} {explanation.hour}: {explanation.state}", "bold"))
    _print_line(explanation.why)
    if explanation.waits_for:
        _print_line(f"It waits for: {explanation.waits_for}")
    if explanation.conditions:
        _print_line(Text(f"\nConditions, measured at {_instant(explanation.measured_at)}", "bold"))
        _print_table(_CONDITION_COLUMNS, explanation.conditions)
    if explanation.numbers:
        _print_line(Text("\nNumbers", "bold"))
        for name, value in explanation.numbers.items():
            _print_line(f"{name:<16} {_NOTHING if value is None else value}")
    if explanation.requests:
        _print_line(Text("\nRequests", "bold"))
        for request in explanation.requests:
            _print_line(f"{_instant(request.at)} {request.by}, through {request.through}: {request.reason}")
    _print_line(Text("\nLedger", "bold"))
    _print_table(_STORY_COLUMNS, explanation.story)


def _print_table(columns: Iterable[Column], rows: Iterable[Any]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = tuple(columns)
    for column in columns:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    _console().print(table)


def _print_line(line: str | Text) -> None:
    _console().print(line, soft_wrap=True)


def _print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=_as_text))


def _confirm(sentence: str, document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(document)
    else:
        _print_line(sentence)


def _tell(error: LakehouseError, *, as_json: bool) -> None:
    if as_json:
        told = {
            "kind": type(error).__name__,
            "subject": error.subject,
            "found": error.found,
            "expected": error.expected,
            "next_step": error.next_step,
            "message": str(error),
        }
        typer.echo(json.dumps({"error": told}, ensure_ascii=False), err=True)
    else:
        _console(is_error=True).print(Text(str(error), "red"), soft_wrap=True)


def _console(is_error: bool = False) -> Console:
    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=is_error, width=width, markup=False, emoji=False, highlight=False)


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _instant(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}" if instant else _NOTHING


def _number(number: int | None) -> str:
    return _NOTHING if number is None else f"{number:,}"


def _age(seconds: float | None) -> str:
    """The two largest units: `3 s`, `12 min 5 s`, `2 h 10 min`, `400 d 4 h`."""
    if seconds is None:
        return _NOTHING
    left = abs(int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    sign = "−" if seconds <= -1 else ""
    return sign + " ".join(parts[:2]).removesuffix(" 0 s")


if __name__ == "__main__":
    main()
