"""What commands take from the command line, and how it is read."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer

from lakehouse import hours
from lakehouse.config import Config, load
from lakehouse.errors import LakehouseError
from lakehouse.hours import Hour
from lakehouse.operations.status import TopicSnapshot, read_topic
from lakehouse.store.tables import TopicTables

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]

Wide = Annotated[bool, typer.Option("--wide", help="All columns in full, however wide the terminal is.")]
TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="A topic's name, as in conf/topics/<name>.yaml.")]

HourText = Annotated[str, typer.Argument(metavar="HOUR", help="A UTC hour, such as 2026-11-23T05.")]

Reason = Annotated[str, typer.Option(help="Why; it stays in the ledger.")]

By = Annotated[str | None, typer.Option(help="Who decides it.", show_default="the user who is logged in")]


def hour_of(text: str) -> Hour:
    try:
        return hours.parsed(text)
    except ValueError as error:
        raise LakehouseError(
            "HOUR", found=repr(text), expected="a UTC hour such as 2026-11-23T05", next_step="Write it in that form."
        ) from error


def moment_of(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise LakehouseError(
            "TIME", found=repr(text), expected="a time such as 2026-11-23T05:00:00Z", next_step="Write it in that form."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def reason_of(text: str) -> str:
    if not text.strip():
        raise LakehouseError(
            "--reason",
            found="no text",
            expected="a sentence for those who read the ledger later",
            next_step="Say why in a few words.",
        )
    return text.strip()


def person_of(by: str | None) -> str:
    try:
        person = (by if by is not None else getpass.getuser()).strip()
    except (KeyError, OSError):
        person = ""
    if not person:
        raise LakehouseError(
            "--by", found="no name", expected="the name of the person who decides", next_step="Give it with --by NAME."
        )
    return person


def started_topic(context: typer.Context, name: str) -> TopicSnapshot:
    config = load(context.obj)
    standing = read_topic(config.topic(name), config)
    if not standing.is_started:
        raise LakehouseError(
            f"topic {name!r}",
            found="no lake at " + TopicTables(config.topic(name), config.settings).raw.uri,
            expected="the tables that ingest creates at its first start",
            next_step="Start ingest for this topic, or check raw_root in the configuration.",
        )
    return standing


def is_started(config: Config, name: str) -> bool:
    return read_topic(config.topic(name), config).is_started
