"""Commands for a topic before it runs: its files from samples, and what it makes of messages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from lakehouse.cli import columns
from lakehouse.cli.arguments import AsJson, TopicName
from lakehouse.cli.output import print_fields, print_heading, print_json, print_line, print_table
from lakehouse.cli.progress_line import working
from lakehouse.config import Config, load_usable
from lakehouse.operations.drafting import samples
from lakehouse.pages.words import counted

if TYPE_CHECKING:  # with what drafting needs, which other commands do not
    from lakehouse.operations.drafting.draft import Draft
    from lakehouse.operations.drafting.trial import Trial

_SHOWN = 20
"""Lines of a file of messages that are shown each; of a longer one, only those that are no events."""

From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="FILE|SUBSCRIPTION",
        help="A file of messages (a JSON payload per line, or what gcloud prints with --format=json); "
        "projects/…/subscriptions/…, whose messages are read and given back; or kafka://host:port/topic, of which no "
        "offsets are stored.",
    ),
]
FromSchemaToo = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="FILE|SUBSCRIPTION|SCHEMA",
        help="Messages: a file (a JSON payload per line, or what gcloud prints with --format=json), "
        "projects/…/subscriptions/… (read and given back) or kafka://host:port/topic (no offsets are stored). Or a "
        "schema: a file (.avsc, .proto, .desc), projects/…/schemas/…, or https://registry/subjects/NAME.",
    ),
]
Most = Annotated[int, typer.Option("--messages", min=1, help="How many to take from a broker at most.")]

Newest = Annotated[bool, typer.Option("--newest", help="Of Kafka, the newest messages and not the oldest.")]


def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new topic's name.")],
    source: FromSchemaToo,
    subscription: Annotated[
        str | None,
        typer.Option(
            help="What the topic will read: a subscription, or kafka://host:port/topic.",
            show_default="the one of --from, or one named after the topic",
        ),
    ] = None,
    message: Annotated[str, typer.Option(help="Which message of a Protobuf schema, where it has several.")] = "",
    event_id: Annotated[str | None, typer.Option(help="Where the id is, if you know it: `payload.<path>`.")] = None,
    event_time: Annotated[str | None, typer.Option(help="Where the time is, if you know it.")] = None,
    most: Most = samples.ENOUGH_MESSAGES,
    newest: Newest = False,
    as_json: AsJson = False,
) -> None:
    """Writes a topic's configuration and its suite from sample messages or a schema, and says what it is unsure of."""
    from lakehouse.operations.drafting import draft as drafts
    from lakehouse.operations.drafting import schema_draft, schema_sources

    config = load_usable(context.obj)
    drafts.check_name(name, config)
    places = {"event_id": event_id, "event_time": event_time}
    is_schema = schema_sources.is_schema(source)
    with working(f"{name}: drafted from {source}"):
        if is_schema:
            schema = schema_sources.found_schema(source, name, config)
            drafted = schema_draft.schema_draft(name, schema, config, source=subscription, message=message, **places)
        else:
            found = _samples(source, config, most, newest=newest)
            drafted = drafts.draft(name, found, config, subscription=subscription, **places)
        written = [str(_from_here(file)) for file in drafts.write(drafted, config)]
    if as_json:
        print_json(
            {
                "files": written,
                "topic": drafted.topic.model_dump(mode="json"),
                "samples": drafted.samples,
                "left_out": drafted.left_out,
                "unsure": [asdict(each) for each in drafted.doubts],
            }
        )
        return
    _print_drafted(drafted, written)
    print_line()
    again = drafted.topic.reads.address if is_schema else source
    print_line(f"Next: lakehouse topics try {name} --from {again}")


def _samples(source: str, config: Config, most: int, *, newest: bool) -> samples.Samples:
    from lakehouse.operations.drafting.draft import like_others

    answers, known = config.settings.ingest.answers, partial(like_others, config=config)
    return samples.samples_of(source, datetime.now(UTC), answers=answers, most=most, newest=newest, known=known)


def _print_drafted(drafted: Draft, files: Sequence[str]) -> None:
    for file in files:
        print_line(Text.assemble(("+ ", "green"), file))
    topic = drafted.topic
    print_line()
    print_fields([("event_id", topic.event_id), ("event_time", topic.event_time), *topic.fields.items()])
    if drafted.doubts:
        print_heading("Unsure")
        print_fields((f"field {each.about}" if each.is_of_field else each.about, each.text) for each in drafted.doubts)


def try_messages(
    context: typer.Context,
    topic: TopicName,
    source: From,
    most: Most = samples.ENOUGH_MESSAGES,
    newest: Newest = False,
    as_json: AsJson = False,
) -> None:
    """What would become of messages: typed, rejected and why, in which hour. Exit code 1 if any is rejected.

    Nothing is written, and no lake is needed.
    """
    from lakehouse.operations.drafting.trial import trial

    config = load_usable(context.obj)
    declared = config.topic(topic)
    with working(f"{topic}: messages of {source}"):
        tried = trial(declared, _samples(source, config, most, newest=newest))
    if as_json:
        print_json(asdict(tried))
    else:
        _print_tried(tried)
    if tried.rejected:
        raise typer.Exit(1)


def _print_tried(tried: Trial) -> None:
    shown = [each for each in tried.messages if each.outcome != "event" or len(tried.messages) <= _SHOWN]
    if shown:
        print_table(columns.TRIED, shown[:_SHOWN])
    if len(shown) > _SHOWN:
        print_line(Text(f"and {len(shown) - _SHOWN:,} more; --json has all", "dim"))
    print_heading("Events by hour")
    print_fields((hour, f"{count:,}") for hour, count in tried.hours.items())
    if tried.reasons:
        print_heading("Rejected")
        print_fields((f"{len(numbers):,}", reason) for reason, numbers in tried.reasons.items())
    if tried.undeclared:
        print_heading("Fields that nobody declared")
        print_fields((f"{count:,}", name) for name, count in tried.undeclared.items())
    late = f"; {tried.late:,} came after their hour's end and lateness" if tried.late else ""
    sums = f"{counted(tried.events, 'event')}, {counted(tried.duplicates, 'duplicate')}, {tried.rejected:,} rejected"
    print_line()
    print_line(Text(sums + late, "bold red" if tried.rejected else "green"))


def _from_here(file: Path) -> Path:
    """As short as it can be typed: below this folder without what is above it."""
    here, absolute = Path.cwd(), Path(os.path.abspath(file))
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
