"""What commands take from the command line, and how it is read."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.errors import LakeError, UsageError
from lakehouse.hours import Hour
from lakehouse.operations.snapshot import TopicSnapshot, first_hour, has_hour, read_topic
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]

Wide = Annotated[bool, typer.Option("--wide", help="All columns in full, however wide the terminal is.")]
TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="A topic's name, as in `conf/topics/<name>.yaml`.")]

HourText = Annotated[str, typer.Argument(metavar="HOUR", help="A UTC hour, such as 2026-11-23T05.")]

Reason = Annotated[str, typer.Option(help="Why; it stays in the ledger.")]

By = Annotated[str | None, typer.Option(help="Who decides it.", show_default="the user who is logged in")]


def hour_of(text: str, name: str = "HOUR") -> Hour:
    """The hour that the argument or option `name` says; UsageError when it says none."""
    try:
        return hours.parse_hour(text)
    except ValueError as error:
        raise UsageError(
            name, found=repr(text), expected="a UTC hour such as 2026-11-23T05", next_step="Write it in that form."
        ) from error


def moment_of(text: str | None, name: str) -> datetime | None:
    """The time that the option `name` says, None when it is not given; UsageError when it says none."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            name, found=repr(text), expected="a time such as 2026-11-23T05:00:00Z", next_step="Write it in that form."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def reason_of(text: str) -> str:
    if not text.strip():
        raise UsageError(
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
        raise UsageError(
            "--by", found="no name", expected="a person's name", next_step="Say with --by NAME who decides this."
        )
    return person


def topic_with_lake(config: Config, name: str) -> Topic:
    """The topic; LakeError when it has no table at all, and so was never started."""
    topic = config.topic(name)
    tables = TopicTables(topic, config.settings)
    if not _has_lake(tables):
        raise _no_lake(f"topic {name!r}", tables.raw.uri)
    return topic


def topics_with_lake(config: Config, names: Sequence[str] | None) -> list[Topic]:
    """The topics that are named, or all that were started when none is; LakeError when there is no lake.

    All means all: ConfigError when the file of one is wrong, of which nothing could be said.
    """
    if names:
        return [topic_with_lake(config, name) for name in names]
    config.refuse_unusable()
    topics = [config.topics[name] for name in sorted(config.topics)]
    started = [topic for topic in topics if _has_lake(TopicTables(topic, config.settings))]
    if topics and not started:
        raise _no_lake(f"{len(topics)} topics", config.settings.raw_root)
    return started


def started_topic(config: Config, name: str, newest_hours: int | None = None) -> TopicSnapshot:
    """What the topic's lake says, of all hours or of the newest; LakeError when there is none."""
    topic = topic_with_lake(config, name)
    snapshot = read_topic(topic, config, newest_hours=newest_hours)
    if not snapshot.is_started:
        raise _no_lake(f"topic {name!r}", TopicTables(topic, config.settings).raw.uri)
    return snapshot


def known_hour(snapshot: TopicSnapshot, hour: Hour, now: datetime) -> Hour:
    """The hour; LakeError when it lies before the topic's first, or has not begun at `now`."""
    if not has_hour(snapshot, hour, now):
        first = first_hour(snapshot)
        raise LakeError(
            f"{snapshot.topic.name} {hour}",
            found="no such hour",
            expected=f"an hour from {first} on that has begun" if first else "an hour, as the first event begins one",
            next_step=f"`lakehouse hours {snapshot.topic.name}` lists the hours.",
        )
    return hour


def _has_lake(tables: TopicTables) -> bool:
    return tables.has_ledger() or tables.has_bronze() or tables.has_silver()


def _no_lake(subject: str, root: str) -> LakeError:
    return LakeError(
        subject,
        found=f"no lake at {root}",
        expected="the tables that ingest creates at its first start",
        next_step="Start ingest, or check raw_root in the configuration.",
    )
