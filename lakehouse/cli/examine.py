"""Commands that examine: whether hours, deliveries and mirrors are what the ledger says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from lakehouse.cli import columns
from lakehouse.cli.arguments import (
    AsJson,
    HourText,
    TopicName,
    Wide,
    hour_of,
    known_hour,
    moment_of,
    started_topic,
    topic_with_lake,
    topics_with_lake,
)
from lakehouse.cli.output import (
    Column,
    instant_text,
    number_text,
    print_heading,
    print_json,
    print_line,
    print_table,
    value_text,
)
from lakehouse.cli.progress_line import progress, working
from lakehouse.config import Config, load_usable
from lakehouse.hours import Hour
from lakehouse.underway import Work

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.operations.verify import Verification

_BATCH = {"bronze version": "bronze_version", "release": "release", "run": "run"}


def verify(
    context: typer.Context,
    topic: TopicName,
    hour: Annotated[
        list[str] | None, typer.Argument(metavar="[HOUR]...", help="All sealed hours when none is given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Open no file: only sizes, and checksums where the store keeps some.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Whether sealed hours are what their seals said, by the log and every byte of the files.

    Exit code 1 if any is not.
    """
    from lakehouse.operations.verify import verify_hours

    config = load_usable(context.obj)
    wanted = [hour_of(each) for each in hour or []]
    result = verify_hours(
        topic_with_lake(config, topic), config, wanted, config.now(), progress("hours verified"), is_quick=quick
    )
    if as_json:
        print_json(asdict(result))
    else:
        print_line(f"{topic}: {len(result.hours)} hours, {result.files:,} files and {result.rows:,} rows checked")
        if result.findings:
            print_table(columns.FINDING, result.findings)
        else:
            print_line(f"OK: all match their seals and the log in {_compared(result)}")
        if result.without_digests:
            print_line(_without_digests(result.without_digests))
    if result.findings:
        raise typer.Exit(1)


def _compared(result: Verification) -> str:
    if result.is_quick:
        return "sizes and the store's checksums; no file was opened"
    return "rows, ids and sizes" if result.without_digests else "every byte"


def _without_digests(hours: Sequence[Hour]) -> str:
    among = hours[0] if len(hours) == 1 else f"{hours[0]} to {hours[-1]}"
    return (
        f"Without digests of all files: {len(hours):,} hours ({among}), sealed by an older release."
        " Of these no values are compared: `lakehouse audit TOPIC HOUR` does, while bronze has the deliveries."
    )


def audit(
    context: typer.Context,
    topic: TopicName,
    hour: HourText,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="As the tables were then, such as 2026-11-23T05:00:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of each kind to list; all are counted.")] = 100,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Compute an hour again from its deliveries, and say why each is or is not in it. Exit code 1 if it differs."""
    from lakehouse.operations.audit import audit_hour

    config = load_usable(context.obj)
    wanted, then = hour_of(hour), moment_of(as_of, "--as-of")
    snapshot = started_topic(config, topic)
    known_hour(snapshot, wanted, config.now())
    work = Work()
    with working(f"{topic} {wanted}: computed again from its deliveries", work.text):
        result = audit_hour(snapshot.topic, config, wanted, then, limit, work=work)
    if as_json:
        print_json(asdict(result))
    else:
        print_line(
            f"{topic} {hour}: {result.deliveries:,} deliveries come to {result.rows:,} rows; "
            + ("not sealed" if result.sealed_rows is None else f"{result.sealed_rows:,} are sealed")
        )
        print_line("; ".join(f"{count:,} {what}" for what, count in result.counts.items()) or "nothing to explain")
        print_table(columns.EXPLAINED, result.explained, wide=wide)
    if not result.is_right:
        raise typer.Exit(1)


def trace(
    context: typer.Context,
    topic: TopicName,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id.")],
    as_of: Annotated[str | None, typer.Option(metavar="TIME", help="As the tables were then.")] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """An event's way: release, batch, epoch and segment of each delivery, the hour that has it, and its mirrors."""
    from lakehouse.operations.trace import trace_event

    config = load_usable(context.obj)
    then = moment_of(as_of, "--as-of")
    with working(f"{topic}: deliveries of {event_id}"):
        result = trace_event(topic_with_lake(config, topic), config, event_id, then)
    if as_json:
        print_json(asdict(result))
        return
    print_line(Text(f"{topic} {event_id}: {', '.join(result.hours) or 'in no sealed hour'}", "bold"))
    for delivery in result.deliveries:
        print_line(f"{instant_text(delivery.publish_time)}  {delivery.outcome}")
        batch = {name: delivery.batch.get(key) for name, key in _BATCH.items()}
        known = ", ".join(f"{name} {value}" for name, value in batch.items() if value is not None)
        print_line(Text(f"message {delivery.message_id}, epoch {delivery.epoch}, {known}", "dim"), indent=2)
        print_line(Text(f"segment {delivery.segment}", "dim"), indent=2)
    print_heading("Ledger")
    print_table(columns.LEDGER, result.story, wide=wide)


def failing(
    context: typer.Context,
    topic: TopicName,
    hour: HourText,
    expectation: Annotated[
        str, typer.Argument(metavar="EXPECTATION", help="Its type, or `<type>.<column>`, as on the hour's page.")
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many rows to list; all of them are counted.")] = 100,
    as_json: AsJson = False,
) -> None:
    """The rows of a sealed hour that break an expectation, looked up in silver."""
    config = load_usable(context.obj)
    wanted, snapshot = hour_of(hour), started_topic(config, topic)
    known_hour(snapshot, wanted, config.now())
    from lakehouse.validate import failing as validate

    with working(f"{topic} {wanted}: rows against {expectation}"):
        finding = validate.failing(snapshot.topic, config, wanted, expectation, limit)
    if as_json:
        print_json({"topic": topic, "hour": wanted, **finding.as_json()})
        return
    print_line(Text(f"{topic} {wanted}: {finding.expectation.type} of {finding.expectation.subject}", "bold"))
    against = "it holds" if finding.success else "it does not hold"
    counted = "" if finding.unexpected is None else f"; {number_text(finding.unexpected)} rows against it"
    observed = "" if finding.observed is None else f"; observed {finding.observed}"
    print_line(f"{against}{counted}{observed}")
    if finding.examples:
        columns = [Column(name, partial(value_text, name)) for name in finding.examples[0]]
        print_table(columns, finding.examples)


def reconcile(
    context: typer.Context,
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="All topics when none is given.")] = None,
    hours_text: Annotated[
        str | None, typer.Option("--hours", metavar="FIRST[..LAST]", help="All hours when none are given.")
    ] = None,
    repair: Annotated[bool, typer.Option(help="Publish again what is missing or different at a mirror.")] = False,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Ledger, silver and every mirror, hour by hour: what is missing, extra or different. Exit code 1 if any is.

    Without a topic only the wrong cells are listed, unless `--wide`.
    """
    from lakehouse.operations import reconcile as reconciling

    config = load_usable(context.obj)
    first, _, last = (hours_text or "").partition("..")
    bounds = (hour_of(first, "--hours"), hour_of(last or first, "--hours")) if hours_text is not None else (None, None)
    chosen = topics_with_lake(config, [topic] if topic else None)
    spark = session_of(config) if reconciling.needs_spark(config, chosen) else None
    open_mirror = reconciling.mirrors_of(config, spark)
    work = Work()
    with working("compared", work.text):
        found = reconciling.reconcile(
            config, chosen, open_mirror, first=bounds[0], last=bounds[1], repair=repair, work=work
        )
    if as_json:
        cells = [{**asdict(cell), "is_right": cell.is_right, "next_step": cell.next_step} for cell in found.cells]
        print_json({"cells": cells, "wrong": len(found.wrong)})
    else:
        shown = found.cells if topic or wide else found.wrong
        if shown:
            print_table(columns.CELL, shown, wide=wide)
        print_line(
            f"{len(found.cells):,} cells, {len(found.wrong):,} wrong;"
            " rows and ids are compared, files by their digests, and rows by their values"
        )
        for cell in found.wrong:
            print_line(f"{cell.topic} {cell.hour} {cell.store}: {cell.error or cell.where}", indent=2)
        for next_step in dict.fromkeys(cell.next_step for cell in found.wrong if cell.next_step):
            print_line(next_step)
    if found.wrong:
        raise typer.Exit(1)


def session_of(config: Config) -> Callable[[], SparkSession]:
    """Started at once: without Spark no mirror is asked, rather than each in vain."""
    from lakehouse.spark.session import spark_session

    session = spark_session(config.settings, "reconcile")
    return lambda: session
