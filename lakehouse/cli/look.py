"""Commands that look: topics, hours, and why they are as they are."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from lakehouse.cli import columns
from lakehouse.cli.arguments import (
    AsJson,
    HourText,
    TopicName,
    Wide,
    hour_of,
    known_hour,
    started_topic,
    topic_with_lake,
    topics_with_lake,
)
from lakehouse.cli.output import (
    NOTHING,
    confirm,
    instant_text,
    print_fields,
    print_heading,
    print_json,
    print_line,
    print_table,
    table,
    terminal,
)
from lakehouse.cli.progress_line import progress, working
from lakehouse.clock import replayed_clock
from lakehouse.config import Config, load_usable
from lakehouse.errors import LakehouseError, UsageError, in_one_line, require
from lakehouse.operations.explain import Explanation, explain_hour
from lakehouse.operations.hour_status import hour_statuses
from lakehouse.operations.status import STATES, TopicStatus, statuses
from lakehouse.printable import printable

if TYPE_CHECKING:
    from lakehouse.mirrors.catalogue import Checks

_REFRESH_SECONDS = 5.0
_COLUMN_LINES = 4
"""Of a screen that is watched, the lines that are not topics."""


def status(
    context: typer.Context,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All topics when none is given.")
    ] = None,
    wide: Wide = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 5 seconds, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """A line per topic, what is wrong first; all about a topic when one is named. Exit code 1 if any fails.

    `behind` is the age of the newest hour that every mirror of the topic has. A topic without a lake is `not started`.
    Files of topics that are named are compared with the logs by their sizes; else the last look of `run` or `maintain`
    counts.
    """
    config = load_usable(context.obj)
    names = topics or config.names()
    if watch:
        _watch(config, names)
        return
    with working(f"{len(names):,} topics"):
        rows = statuses(config, names, config.now(), looks_at_files=bool(topics))
    if as_json:
        print_json({"topics": [asdict(row) for row in rows]})
    elif len(rows) == 1 and topics and not wide:
        print_line(Text(rows[0].topic, "bold"))
        print_fields(columns.status_fields(rows[0]))
    else:
        print_table(columns.STATUS, _worst_first(rows), wide=wide)
        print_line(Text(_totals(rows), "bold"))
    if not as_json and replayed_clock(config.settings.raw_root):
        print_line(Text(f"by this lake's clock, which replays a day: it is {instant_text(config.now())}", "dim"))
    if any(row.state in ("error", "failing", "damaged") for row in rows):
        raise typer.Exit(1)


def _worst_first(rows: Sequence[TopicStatus]) -> list[TopicStatus]:
    order = list(STATES)
    return sorted(rows, key=lambda row: order.index(row.state))


def _totals(rows: Sequence[TopicStatus]) -> str:
    counts = Counter(row.state for row in rows)
    noun = "topic" if len(rows) == 1 else "topics"
    return f"{len(rows):,} {noun}: " + ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])


def _watch(config: Config, names: Sequence[str]) -> None:
    """The table in place, as many lines as the screen has; each time again after a pause, until Ctrl-C."""
    console = terminal()

    def screen() -> Group:
        now = config.now()
        rows = statuses(config, names, now)
        lines, _ = table(columns.STATUS, _worst_first(rows), console.width)
        room = max(1, console.height - _COLUMN_LINES)
        more = f"and {len(rows) - room:,} more" if len(rows) > room else ""
        return Group(Text(f"{_totals(rows)} · {instant_text(now)}", "bold"), *lines[: room + 1], Text(more, "dim"))

    with (
        suppress(KeyboardInterrupt),
        Live(screen(), console=console, screen=console.is_terminal, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(_REFRESH_SECONDS)
            live.update(screen(), refresh=True)


def topic_hours(
    context: typer.Context,
    topic: TopicName,
    last: Annotated[int, typer.Option(min=1, help="How many hours, counted from the newest.")] = 24,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """A line per hour of a topic: counts, verdict, targets, and how long after its end it got there."""
    config = load_usable(context.obj)
    rows = hour_statuses(started_topic(config, topic, last), last, config.now())
    if as_json:
        print_json({"topic": topic, "hours": [asdict(row) for row in rows]})
    else:
        print_table(columns.HOUR, rows, wide=wide)


def explain(context: typer.Context, topic: TopicName, hour: HourText, as_json: AsJson = False) -> None:
    """Why an hour is open, held or closed, with every number behind it, and all that the ledger says of it."""
    wanted, config = hour_of(hour), load_usable(context.obj)
    now, snapshot = config.now(), started_topic(config, topic)
    explanation = explain_hour(snapshot, known_hour(snapshot, wanted, now), now)
    if as_json:
        print_json(asdict(explanation))
    else:
        _print_explanation(explanation)


def report(
    context: typer.Context,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or gs:// address for the pages.", show_default="_report in sealed_root"),
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many hours of each topic, counted from the newest.")] = 72,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Show them at an address of this machine until stopped, and keep them up to date."
        ),
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve; 0 takes any free port.")] = 8086,
    as_json: AsJson = False,
) -> None:
    """Pages of all topics and hours: a grid of the lake, the hours of each topic, and what is known of each hour."""
    from lakehouse.operations import report as report_site

    config = load_usable(context.obj)
    topics_with_lake(config, None)
    folder = (out or f"{config.settings.sealed_root}/_report").rstrip("/")
    if serve and "://" in folder:
        raise UsageError("--serve", found=folder, expected="a folder of this machine", next_step="Give one with --out.")
    built = report_site.build(config, folder, config.now(), last=last, track=progress("topics drawn"), is_live=serve)
    document = {"index": f"{folder}/index.html", **asdict(built)}
    confirm(
        f"{folder}/index.html: {built.topics} topics, {built.pages} hours, {built.drawn} drawn again.",
        document,
        as_json,
    )
    if not serve:
        return
    with report_site.server(folder, port) as pages, report_site.kept_built(config, folder, last):
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
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Compare possible values of `lateness` and recommend one, by the deliveries of a topic that bronze has.

    For each: the share of skewed events, the delay of the hours, and the duplicates that each dedup horizon catches.
    """
    from lakehouse.operations.lateness import outlook, picture

    config = load_usable(context.obj)
    if png is not None:
        require("matplotlib")
        if not png.parent.is_dir():
            raise _no_picture(f"no folder {png.parent}")
    with working(f"{topic}: deliveries, by how late they came"):
        found = outlook(topic_with_lake(config, topic), config, tolerated=skewed)
    if png is not None:
        try:
            picture(found, png)
        except (OSError, ValueError) as refused:
            raise _no_picture(in_one_line(refused)) from refused
    if as_json:
        print_json(asdict(found))
        return
    sample = "" if found.sampled_share == 1 else f", a sample of {found.sampled_share:.1%}"
    print_line(Text(f"{topic}: {found.events:,} events and {found.duplicates:,} duplicates{sample}", "bold"))
    print_table(columns.choice(found.choices[0].caught), found.choices, wide=wide)
    print_line(Text(found.why, "green"))


def _no_picture(found: str) -> UsageError:
    return UsageError(
        "--png",
        found=found,
        expected="a file that can be written, such as lateness.png",
        next_step="Give another path.",
    )


def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Every topic's file, suite and mirrors, without touching the lake. Exit code 1 if any has a complaint."""
    from lakehouse.mirrors.catalogue import Checks

    config = load_usable(context.obj)
    checks = Checks(config)
    names = config.names()
    checked_ones = progress("topics checked")((_checked(name, config, checks) for name in names), len(names))
    found = dict(zip(names, checked_ones, strict=True))
    if as_json:
        checked = [
            {"topic": name, "ok": not text, "complaint": text, "warnings": warnings}
            for name, (text, warnings) in found.items()
        ]
        print_json({"topics": checked})
    else:
        print_table(columns.CHECK, [(name, text) for name, (text, _) in found.items()])
        for name, (_, warnings) in found.items():
            for warning in warnings:
                print_line(f"{name}: warning: {warning}")
    if any(text for text, _ in found.values()):
        raise typer.Exit(1)


def _checked(name: str, config: Config, checks: Checks) -> tuple[str | None, list[str]]:
    """(what is wrong with a topic's suite and mirrors, what may keep single hours out); no mirror is opened for it."""
    from lakehouse.validate import suite_files

    if name in config.unusable:
        return str(config.unusable[name]), []
    topic = config.topic(name)
    complaints: list[str] = []
    warnings: list[str] = []
    questions = [(partial(suite_files.suite_complaints, topic, config), complaints)]
    questions += [(partial(checks.check, mirror, topic), warnings) for mirror in topic.mirrors]
    for ask, answers in questions:
        try:
            answers.extend(ask())
        except LakehouseError as error:
            complaints.append(str(error))
        except Exception as error:  # of one topic: it must not keep what is wrong with the others from being said
            complaints.append(
                f"{name}: found an error that nobody foresaw: {type(error).__name__}: {in_one_line(error)}"
            )
    return "\n".join(complaints) or None, warnings


def _print_explanation(explanation: Explanation) -> None:
    print_line(Text(f"{explanation.topic} {explanation.hour}: {explanation.state}", "bold"))
    print_line(explanation.why)
    if explanation.waits_for:
        print_line(f"It waits for: {explanation.waits_for}")
    if explanation.conditions:
        print_heading(f"Conditions, measured at {instant_text(explanation.measured_at)}")
        for condition in explanation.conditions:
            sign = Text("✓", "green") if condition.is_met else Text("✕", "bold red")
            print_line(Text.assemble(sign, f" {condition.condition}: {printable(condition.text)}"))
            print_line(
                Text(f"required {condition.required}; measured {condition.measured or NOTHING}", "dim"), indent=2
            )
    if explanation.numbers:
        print_heading("Numbers")
        print_fields((name.replace("_", " "), _number(value)) for name, value in explanation.numbers.items())
    if explanation.requests:
        print_heading("Requests")
        for request in explanation.requests:
            print_line(f"{instant_text(request.at)} {request.by}, through {request.through}: {request.reason}")
    print_heading("Ledger")
    for event in explanation.story:
        print_line(
            Text.assemble(f"{instant_text(event.at)}  ", (event.state, "bold"), (f"  {printable(event.by)}", "dim"))
        )
        if event.text:
            print_line(event.text, indent=2)


def _number(value: object) -> str:
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)
