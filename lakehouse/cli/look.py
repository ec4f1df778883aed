"""Commands that look: topics, hours, and why they are as they are."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lakehouse.cli import columns
from lakehouse.cli.arguments import AsJson, HourText, TopicName, hour_of, started_topic
from lakehouse.cli.output import NOTHING, Column, confirm, instant_text, print_json, print_line, print_table
from lakehouse.config import DEFAULT_CONF, Config, load
from lakehouse.errors import ConfigError, LakehouseError
from lakehouse.operations import explain as explanations
from lakehouse.operations import status as fleet


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
        print_json({"topics": [asdict(row) for row in rows]})
    else:
        print_table(columns.STATUS, rows)
    if any(row.state in ("error", "failing") for row in rows):
        raise typer.Exit(1)


def topic_hours(
    context: typer.Context,
    topic: TopicName,
    last: Annotated[int, typer.Option(min=1, help="How many hours, counted from the newest.")] = 24,
    as_json: AsJson = False,
) -> None:
    """A row per hour of a topic: counts, verdict, targets, and how long after its end it got there."""
    rows = fleet.hour_statuses(started_topic(context, topic), last, datetime.now(UTC))
    if as_json:
        print_json({"topic": topic, "hours": [asdict(row) for row in rows]})
    else:
        print_table(columns.HOUR, rows)


def explain(context: typer.Context, topic: TopicName, hour: HourText, as_json: AsJson = False) -> None:
    """Why an hour is open, held or closed, with every number behind it, and all that the ledger says of it."""
    explanation = explanations.explain_hour(started_topic(context, topic), hour_of(hour), datetime.now(UTC))
    if as_json:
        print_json(asdict(explanation))
    else:
        _print_explanation(explanation)


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
    confirm(
        f"{folder}/index.html: {built.topics} topics, {built.pages} hours, {built.drawn} drawn anew.", document, as_json
    )
    if not serve:
        return
    with report_site.server(folder, port) as pages:
        confirm(
            f"http://127.0.0.1:{pages.server_port}/", {"address": f"http://127.0.0.1:{pages.server_port}/"}, as_json
        )
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            pages.serve_forever()


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
        print_json(asdict(found))
        return
    sample = "" if found.sampled_share == 1 else f", a sample of {found.sampled_share:.1%}"
    print_line(Text(f"{topic}: {found.events:,} events and {found.duplicates:,} duplicates{sample}", "bold"))
    horizons = [Column(f"≤ {each} h", partial(columns.caught, hours=each), True) for each in found.choices[0].caught]
    print_table((*columns.CHOICE, *horizons), found.choices)
    print_line(Text(found.why, "green"))


def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Every topic's file, suite and mirrors, without touching the lake. Exit code 1 if any has a complaint."""
    try:
        config = load(context.obj)
    except ConfigError as error:
        complaints = fleet.file_complaints(Path(context.obj or DEFAULT_CONF), error)
    else:
        complaints = {name: _complaint(name, config) for name in sorted(config.topics)}
    if as_json:
        print_json(
            {"topics": [{"topic": name, "ok": not text, "complaint": text} for name, text in complaints.items()]}
        )
    else:
        print_table(columns.CHECK, complaints.items())
    if any(complaints.values()):
        raise typer.Exit(1)


def _complaint(name: str, config: Config) -> str | None:
    """What is wrong with a topic's suite or the configuration of its mirrors; no mirror is opened for it."""
    from lakehouse.mirrors import catalogue
    from lakehouse.validate import suite_files

    topic = config.topic(name)
    try:
        suite_files.check_suites(topic, config)
        for mirror in topic.mirrors:
            catalogue.check(mirror, config.settings, config.path)
    except LakehouseError as error:
        return str(error)
    return None


def _print_explanation(explanation: explanations.Explanation) -> None:
    print_line(Text(f"{explanation.topic} {explanation.hour}: {explanation.state}", "bold"))
    print_line(explanation.why)
    if explanation.waits_for:
        print_line(f"It waits for: {explanation.waits_for}")
    if explanation.conditions:
        print_line(Text(f"\nConditions, measured at {instant_text(explanation.measured_at)}", "bold"))
        print_table(columns.CONDITION, explanation.conditions)
    if explanation.numbers:
        print_line(Text("\nNumbers", "bold"))
        for name, value in explanation.numbers.items():
            print_line(f"{name:<16} {NOTHING if value is None else value}")
    if explanation.requests:
        print_line(Text("\nRequests", "bold"))
        for request in explanation.requests:
            print_line(f"{instant_text(request.at)} {request.by}, through {request.through}: {request.reason}")
    print_line(Text("\nLedger", "bold"))
    print_table(columns.STORY, explanation.story)
