"""The door for people: where topics stand, why an hour is open, and what only a person may decide."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lakehouse import hours
from lakehouse.config import DEFAULT_CONF, Config, load
from lakehouse.durations import written
from lakehouse.errors import ConfigError, LakehouseError
from lakehouse.hours import Hour
from lakehouse.operations import explain as explanations
from lakehouse.operations import status as fleet
from lakehouse.store.delta import open_table
from lakehouse.store.ledger import History, Ledger
from lakehouse.store.tables import folders_of

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
    """A row per topic: its open hour, what is stuck, held or failing, its heartbeat. Exit code 1 if any fails."""
    config = load(context.obj)
    rows = fleet.statuses(config, topics or sorted(config.topics), datetime.now(UTC))
    if as_json:
        _print_json({"topics": [asdict(row) for row in rows]})
    else:
        _print_table(_STATUS_COLUMNS, rows)
    if any(row.state in ("error", "failing") for row in rows):
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


@app.command()
def verify(
    context: typer.Context,
    topic: TopicName,
    hour: Annotated[
        list[str] | None, typer.Argument(metavar="[HOUR]...", help="All sealed hours when none is given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Whether sealed hours are what their seals said, by the log and the files. Exit code 1 if any is not."""
    from lakehouse.operations.verify import verified

    config = load(context.obj)
    result = verified(config.topic(topic), config, [_hour(each) for each in hour or []], datetime.now(UTC))
    if as_json:
        _print_json(asdict(result))
    else:
        _print_line(f"{topic}: {len(result.hours)} hours, {result.files:,} files and {result.rows:,} rows looked at")
        _print_table(_FINDING_COLUMNS, result.findings) if result.findings else _print_line("all as they were sealed")
    if result.findings:
        raise typer.Exit(1)


@app.command()
def audit(
    context: typer.Context,
    topic: TopicName,
    hour: HourText,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="As the tables were then, such as 2026-11-23T05:00:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of each kind to list; all are counted.")] = 100,
    as_json: AsJson = False,
) -> None:
    """What an hour should hold by its deliveries, and why each is or is not in it. Exit code 1 if it differs."""
    from lakehouse.operations.audit import audited

    config = load(context.obj)
    result = audited(config.topic(topic), config, _hour(hour), _moment(as_of) if as_of else None, limit)
    if as_json:
        _print_json(asdict(result))
    else:
        _print_line(
            f"{topic} {hour}: {result.deliveries:,} deliveries come to {result.rows:,} rows; "
            + ("not sealed" if result.sealed_rows is None else f"{result.sealed_rows:,} are sealed")
        )
        _print_line("; ".join(f"{count:,} {what}" for what, count in result.counts.items()) or "nothing to explain")
        _print_table(_EXPLAINED_COLUMNS, result.explained)
    if not result.is_right:
        raise typer.Exit(1)


@app.command()
def trace(
    context: typer.Context,
    topic: TopicName,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id.")],
    as_of: Annotated[str | None, typer.Option(metavar="TIME", help="As the tables were then.")] = None,
    as_json: AsJson = False,
) -> None:
    """An event's way: release, batch, epoch and segment of each delivery, the hour that has it, and its mirrors."""
    from lakehouse.operations.audit import traced

    config = load(context.obj)
    result = traced(config.topic(topic), config, event_id, _moment(as_of) if as_of else None)
    if as_json:
        _print_json(asdict(result))
        return
    _print_line(Text(f"{topic} {event_id}: {', '.join(result.hours) or 'in no sealed hour'}", "bold"))
    _print_table(_DELIVERED_COLUMNS, result.deliveries)
    _print_line(Text("\nLedger", "bold"))
    _print_table(_LEDGER_COLUMNS, result.story)


@app.command()
def failing(
    context: typer.Context,
    topic: TopicName,
    hour: HourText,
    expectation: Annotated[
        str, typer.Argument(metavar="EXPECTATION", help="Its type, or <type>.<column>, as on the hour's page.")
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many rows to list; all of them are counted.")] = 100,
    as_json: AsJson = False,
) -> None:
    """The rows of a sealed hour that break an expectation, looked up in silver."""
    config = load(context.obj)
    named, wanted = config.topic(topic), _hour(hour)
    from lakehouse.validate import stage as validate

    finding = validate.failing(named, config, wanted, expectation, limit)
    if as_json:
        _print_json({"topic": topic, "hour": wanted, **finding.as_json()})
        return
    _print_line(Text(f"{topic} {wanted}: {finding.expectation.type} of {finding.expectation.subject}", "bold"))
    against = "it holds" if finding.success else "it does not hold"
    counted = "" if finding.unexpected is None else f"; {_number(finding.unexpected)} rows against it"
    observed = "" if finding.observed is None else f"; observed {finding.observed}"
    _print_line(f"{against}{counted}{observed}")
    if finding.examples:
        columns = [Column(name, partial(_value_of, name)) for name in finding.examples[0]]
        _print_table(columns, finding.examples)


@app.command()
def report(
    context: typer.Context,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or gs:// address for the pages.", show_default="<sealed_root>/_report"),
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many hours of each topic, counted from the newest.")] = 72,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show them at an address of this machine until stopped.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve; 0 takes any free port.")] = 8086,
    as_json: AsJson = False,
) -> None:
    """Pages of all topics and hours: a grid of the lake, the hours of each topic, and what is known of each hour."""
    from lakehouse.operations import report as report_site

    config = load(context.obj)
    folder = (out or f"{config.settings.sealed_root}/_report").rstrip("/")
    if serve and "://" in folder:
        raise LakehouseError(
            "--serve", found=folder, expected="a folder of this machine", next_step="Give one with --out."
        )
    built = report_site.build(config, folder, datetime.now(UTC), last=last)
    document = {"index": f"{folder}/index.html", **asdict(built)}
    _confirm(
        f"{folder}/index.html: {built.topics} topics, {built.pages} hours, {built.drawn} drawn anew.", document, as_json
    )
    if not serve:
        return
    with report_site.server(folder, port) as pages:
        _confirm(
            f"http://127.0.0.1:{pages.server_port}/", {"address": f"http://127.0.0.1:{pages.server_port}/"}, as_json
        )
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            pages.serve_forever()


@app.command()
def lateness(
    context: typer.Context,
    topic: TopicName,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw it there.")] = None,
    skewed: Annotated[float, typer.Option(min=0, max=1, help="Share of skewed events that is tolerable.")] = 0.001,
    as_json: AsJson = False,
) -> None:
    """For each possible lateness: the share of skewed events, the hours' delay, the duplicates caught; recommends."""
    from lakehouse.operations.lateness import outlook, picture

    config = load(context.obj)
    found = outlook(config.topic(topic), config, tolerated=skewed)
    if png is not None:
        picture(found, str(png))
    if as_json:
        _print_json(asdict(found))
        return
    sample = "" if found.sampled_share == 1 else f", a sample of {found.sampled_share:.1%}"
    _print_line(Text(f"{topic}: {found.events:,} events and {found.duplicates:,} duplicates{sample}", "bold"))
    horizons = [Column(f"≤ {each} h", partial(_caught, hours=each), True) for each in found.choices[0].caught]
    _print_table((*_CHOICE_COLUMNS, *horizons), found.choices)
    _print_line(Text(found.why, "green"))


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


@app.command()
def reconcile(
    context: typer.Context,
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="All topics when none is given.")] = None,
    hours_text: Annotated[
        str | None, typer.Option("--hours", metavar="FIRST[..LAST]", help="All hours when none are given.")
    ] = None,
    repair: Annotated[bool, typer.Option(help="Publish what is missing or different at a mirror once more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ledger, silver and every mirror, hour by hour: what is missing, extra or different. Exit code 1 if any is."""
    from lakehouse.operations import reconcile as reconciling
    from lakehouse.spark.session import spark_session

    config = load(context.obj)
    first, _, last = (hours_text or "").partition("..")
    bounds = (_hour(first), _hour(last or first)) if first else (None, None)
    names = [topic] if topic else [name for name in sorted(config.topics) if _is_started(config, name)]
    chosen = [_started(context, topic).topic] if topic else [config.topic(name) for name in names]
    session = spark_session(config.settings, "reconcile") if reconciling.needs_spark(config, chosen) else None
    opened = reconciling.mirrors_of(config, session)
    found = reconciling.reconciled(config, chosen, opened, first=bounds[0], last=bounds[1], repair=repair)
    if as_json:
        cells = [{**asdict(cell), "is_right": cell.is_right, "next_step": cell.next_step} for cell in found.cells]
        _print_json({"cells": cells, "wrong": len(found.wrong)})
    else:
        _print_table(_CELL_COLUMNS, found.cells)
        _print_line(f"{len(found.cells)} cells, {len(found.wrong)} wrong")
        for next_step in dict.fromkeys(cell.next_step for cell in found.wrong if cell.next_step):
            _print_line(next_step)
    if found.wrong:
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
    from lakehouse.validate import stage as validate

    validate.release(named, config, wanted, why, person)
    _confirm(
        f"{topic}: {wanted} is released and goes to its mirrors next.",
        {"topic": topic, "hour": wanted, "state": "released", "reason": why, "by": person},
        as_json,
    )


@app.command()
def maintain(
    context: typer.Context,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All topics when none is given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what nobody needs any more: old deliveries of hours that are everywhere, orphans, expired reports."""
    from lakehouse.operations.maintain import maintained

    config = load(context.obj)
    chosen = [config.topic(name) for name in topics or sorted(config.topics)]
    removals = [each for topic in chosen for each in maintained(topic, config, datetime.now(UTC), dry_run=dry_run)]
    if as_json:
        _print_json({"dry_run": dry_run, "removals": [asdict(removal) for removal in removals]})
        return
    _print_table(_REMOVAL_COLUMNS, removals)
    size_bytes = sum(removal.size_bytes for removal in removals)
    _print_line(f"{len(removals):,} {'would go' if dry_run else 'gone'}, {size_bytes / 1024**2:,.1f} MiB")


@app.command()
def erase(
    context: typer.Context,
    topic: TopicName,
    where: Annotated[
        str, typer.Option(metavar="CONDITION", help="Over silver's columns, as after `where` in DuckDB's SQL.")
    ],
    reason: Reason,
    by: By = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person's events from bronze and silver; sealed hours get a new revision, and are mirrored again."""
    from lakehouse.operations import erase as erasing

    config = load(context.obj)
    why, person = _reason(reason), _person(by)
    erasure = erasing.erase(config.topic(topic), config, where, reason=why, by=person, dry_run=dry_run)
    if as_json:
        _print_json({"dry_run": dry_run, **asdict(erasure)})
        return
    _print_table(_ERASED_COLUMNS, erasure.hours)
    would = "would be " if dry_run else ""
    rows = sum(hour.erased for hour in erasure.hours)
    _print_line(f"{rows:,} rows of {len(erasure.hours)} hours and {erasure.deliveries:,} deliveries {would}erased")


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


def _is_started(config: Config, name: str) -> bool:
    return fleet.standing_of(config.topic(name), config).is_started


def _hour(text: str) -> Hour:
    try:
        return hours.parsed(text)
    except ValueError as error:
        raise LakehouseError(
            "HOUR", found=repr(text), expected="a UTC hour such as 2026-11-23T05", next_step="Write it in that form."
        ) from error


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise LakehouseError(
            "TIME", found=repr(text), expected="a time such as 2026-11-23T05:00:00Z", next_step="Write it in that form."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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
    from lakehouse.mirrors import catalogue
    from lakehouse.validate import stage as validate

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
    styles = {"ok": "green", "stuck": "bold yellow", "failing": "bold red", "error": "bold red", "not started": "dim"}
    told = row.state
    if row.error:
        told = f"error: {row.error}"
    elif row.failure:
        told = f"failing for {_age(row.failure.seconds)}: {row.failure.error}"
    elif row.stuck:
        told = f"stuck at {row.stuck.hour} for {_age(row.stuck.seconds)}: {row.stuck.reason}"
    return Text(told, styles[row.state])


def _status_slots(row: fleet.TopicStatus) -> str:
    return _NOTHING if row.slots is None else f"{row.slots} of {row.slots_min} to {row.slots_max}"


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
    Column("slots", _status_slots, is_number=True),
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


def _cell_verdict(cell: Any) -> Text:
    text = f"{cell.verdict}, repaired" if cell.repaired else cell.verdict
    return Text(text, "green" if cell.is_right else "bold red")


_CELL_COLUMNS = (
    Column("topic", lambda cell: cell.topic),
    Column("hour", lambda cell: cell.hour),
    Column("store", lambda cell: cell.store),
    Column("verdict", _cell_verdict),
    Column("rows", lambda cell: _number(cell.rows), is_number=True),
    Column("expected", lambda cell: _number(cell.expected_rows), is_number=True),
    Column("checksum", lambda cell: cell.id_checksum or _NOTHING, is_number=True),
    Column("expected", lambda cell: cell.expected_id_checksum, is_number=True),
    Column("where", lambda cell: cell.error or cell.where),
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


_FINDING_COLUMNS = (
    Column("hour", lambda row: row.hour or _NOTHING),
    Column("what", lambda row: Text(row.kind, "bold red")),
    Column("where", lambda row: row.subject),
    Column("found", lambda row: row.found),
    Column("expected", lambda row: row.expected),
)


_EXPLAINED_COLUMNS = (
    Column("what", lambda row: row.what),
    Column("event", lambda row: row.event_id or _NOTHING),
    Column("message", lambda row: row.message_id or _NOTHING),
    Column("published", lambda row: _instant(row.publish_time)),
    Column("", lambda row: row.where),
)

_DELIVERED_COLUMNS = (
    Column("published", lambda row: _instant(row.publish_time)),
    Column("message", lambda row: row.message_id),
    Column("epoch", lambda row: str(row.epoch), is_number=True),
    Column("segment", lambda row: row.segment),
    Column("version", lambda row: str(row.batch.get("bronze_version", _NOTHING)), is_number=True),
    Column("release", lambda row: str(row.batch.get("release", _NOTHING))),
    Column("run", lambda row: str(row.batch.get("run", _NOTHING))),
    Column("became", lambda row: row.outcome),
)

_LEDGER_COLUMNS = (
    Column("at", lambda row: _instant(row.at)),
    Column("hour", lambda row: row.hour or _NOTHING),
    Column("what", lambda row: " ".join(filter(None, (row.state, row.details.get("target"))))),
    Column("by", lambda row: row.by),
)


_REMOVAL_COLUMNS = (
    Column("topic", lambda row: row.topic),
    Column("what", lambda row: row.kind),
    Column("hour", lambda row: row.hour or _NOTHING),
    Column("path", lambda row: row.path),
    Column("bytes", lambda row: _number(row.size_bytes), is_number=True),
    Column("why", lambda row: row.why),
)


_ERASED_COLUMNS = (
    Column("hour", lambda row: row.hour),
    Column("revision", lambda row: str(row.revision), is_number=True),
    Column("erased", lambda row: _number(row.erased), is_number=True),
    Column("rows", lambda row: _number(row.rows), is_number=True),
)


_BAR_WIDTH = 40


def _bar(share: float) -> str:
    """Whole and half blocks, at least a thin one for what is not nothing."""
    halves = round(share * _BAR_WIDTH * 2)
    return "█" * (halves // 2) + "▌" * (halves % 2) or ("▏" if share else "")


def _caught(row: Any, hours: int) -> str:
    return f"{row.caught[hours]:.1%}"


_CHOICE_COLUMNS = (
    Column("lateness", lambda row: written(row.lateness)),
    Column("hours' delay", lambda row: _age(row.delay.total_seconds()), is_number=True),
    Column("skewed", lambda row: f"{row.skewed_share:.3%}", is_number=True),
    Column("", lambda row: _bar(row.skewed_share)),
)
"""And a column for each horizon: the duplicates that it would leave out."""


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
    if isinstance(value, timedelta):
        return written(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _instant(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}" if instant else _NOTHING


def _value_of(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    return _NOTHING if value is None else value if isinstance(value, str) else json.dumps(value, default=_as_text)


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
