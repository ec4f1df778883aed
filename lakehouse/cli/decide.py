"""Commands by which a person decides: what closes, goes on, or is removed."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated

import typer

from lakehouse import hours
from lakehouse.cli import columns
from lakehouse.cli.arguments import (
    AsJson,
    By,
    HourText,
    Reason,
    TopicName,
    hour_of,
    known_hour,
    moment_of,
    person_of,
    reason_of,
    started_topic,
    topic_with_lake,
    topics_with_lake,
)
from lakehouse.cli.examine import session_of
from lakehouse.cli.output import confirm, instant_text, print_error, print_json, print_line, print_table
from lakehouse.cli.progress_line import progress, working
from lakehouse.config import Config, load_usable
from lakehouse.durations import duration_text, parse_duration
from lakehouse.errors import ACCEPT_LOSS, LakeError, LakehouseError, UsageError
from lakehouse.hours import Hour
from lakehouse.operations import stopping
from lakehouse.operations.removal import Removal
from lakehouse.operations.snapshot import TopicSnapshot, is_open
from lakehouse.store.heartbeats import Heartbeats
from lakehouse.store.history import History
from lakehouse.store.notes import leave_note
from lakehouse.store.records import Failed, LossAccepted, Started, State
from lakehouse.store.tables import TopicTables

_LOOK_SECONDS = 0.5
"""Between two looks at a heartbeat that is waited for."""


def close(
    context: typer.Context, topic: TopicName, hour: HourText, reason: Reason, by: By = None, as_json: AsJson = False
) -> None:
    """Ask ingest to close all hours through HOUR with its next batch, whatever the conditions say."""
    config = load_usable(context.obj)
    person = person_of(by)
    details = {"reason": reason_of(reason), "by": person}
    wanted, snapshot = hour_of(hour), started_topic(config, topic)
    through = _closable(snapshot, wanted, config.now())
    tables = TopicTables(snapshot.topic, config.settings)
    ledger = tables.ledger(f"close/{config.settings.release}/{person}")
    if ledger.record("close_requested", through, details, unless=lambda history: _has_closed(history, through)) is None:
        raise _closed_already(topic, through)
    newest = ledger.digest().last(State.STARTED)
    leave_note(config.settings, newest.of(Started).application if newest else None, topic)
    confirm(
        f"{topic}: all hours through {through} close with the next batch of ingest.",
        {"topic": topic, "hour": through, "state": "close_requested", **details},
        as_json,
    )


def stop(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An application's or a topic's.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the application's log.")] = "not given",
    is_topic: Annotated[bool, typer.Option("--topic", help="The topic, where an application has the name.")] = False,
    wait: Annotated[
        timedelta,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="How long to wait until it has stopped; `0 seconds`: not at all.",
            show_default="3 minutes",
        ),
    ] = timedelta(minutes=3),
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Ask an application to end, or to leave one topic, after the batch under way. Exit code 3 if it does not in time.

    It is asked through the lake, so it works wherever the application runs. What is closed by then goes on to its
    mirrors; the topics' messages wait in their subscriptions.
    """
    config, person = load_usable(context.obj), person_of(by)
    heartbeats = Heartbeats(config.settings)
    find = stopping.topic_to_stop if is_topic else stopping.what_to_stop
    what = find(name, heartbeats.all(), config.now())
    stopping.ask_to_stop(config.settings, what, person, reason)
    ends = time.monotonic() + wait.total_seconds()
    is_done = False
    with working(f"{what.words} ends its batch"):
        while not is_done and time.monotonic() < ends:
            time.sleep(_LOOK_SECONDS)
            is_done = stopping.has_stopped(what, heartbeats.of(what.application))
    if not is_done and wait:
        raise LakeError(
            what.words,
            found=f"run {what.run} on {what.host}, which has not stopped within {duration_text(wait)}",
            expected="a run that sees the request with its next trigger",
            next_step="It may still do so; its log says `asked to stop` when it has. One that hangs has to be killed.",
        )
    words = "has stopped" if is_done else "is asked to stop"
    confirm(f"{what.words} {words}.", {**asdict(what), "by": person, "reason": reason, "has_stopped": is_done}, as_json)


def accept_loss(
    context: typer.Context, topic: TopicName, reason: Reason, by: By = None, as_json: AsJson = False
) -> None:
    """Let ingest go on without messages that a log (Kafka, Pub/Sub Lite) had no longer when they were to be read."""
    config = load_usable(context.obj)
    why, person = reason_of(reason), person_of(by)
    snapshot = started_topic(config, topic)
    ledger = TopicTables(snapshot.topic, config.settings).ledger(f"accept-loss/{config.settings.release}/{person}")
    accepted = LossAccepted(by=person, reason=why)
    if ledger.record(accepted, unless=lambda history: not _stands_for_loss(history)) is None:
        raise LakeError(
            f"topic {topic}",
            found="no loss that it stands still for",
            expected="a topic whose ingest says that messages are gone",
            next_step=f"`lakehouse status {topic}` says how it is.",
        )
    newest = ledger.digest().last(State.STARTED)
    leave_note(config.settings, newest.of(Started).application if newest else None, topic)
    confirm(
        f"{topic}: ingest goes on without what is gone when it tries the topic again, within 5 minutes.",
        {"topic": topic, "state": "loss_accepted", "reason": why, "by": person},
        as_json,
    )


def release(
    context: typer.Context, topic: TopicName, hour: HourText, reason: Reason, by: By = None, as_json: AsJson = False
) -> None:
    """Let an invalid hour go to its mirrors as it is."""
    config = load_usable(context.obj)
    wanted, why, person = hour_of(hour), reason_of(reason), person_of(by)
    snapshot = started_topic(config, topic)
    known_hour(snapshot, wanted, config.now())
    from lakehouse.validate import release as validate

    validate.release(snapshot.topic, config, wanted, why, person)
    confirm(
        f"{topic}: {wanted} is released and goes to its mirrors next.",
        {"topic": topic, "hour": wanted, "state": "released", "reason": why, "by": person},
        as_json,
    )


def replay_rejected(
    context: typer.Context,
    topic: TopicName,
    reason: Annotated[
        str | None,
        typer.Option(help="Only what was rejected for this reason, such as `wrong type`. All when left out."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what was published since, such as 2026-11-23T05:00:00Z.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be replayed; change nothing.")] = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Decode rejected deliveries again with today's configuration; what is an event now goes into an open hour."""
    from lakehouse.operations.replay import Choice
    from lakehouse.operations.replay import replay_rejected as replay

    config = load_usable(context.obj)
    chosen = Choice(_known_reason(reason), moment_of(since, "--since"))
    done = replay(topic_with_lake(config, topic), config, chosen, by=person_of(by), dry_run=dry_run)
    if as_json:
        print_json({**done.as_json(), "dry_run": dry_run})
        return
    verb = "would be replayed" if dry_run else "replayed"
    print_line(f"{topic}: {done.replayed.total():,} of {done.examined.total():,} rejected deliveries {verb}")
    print_table(columns.REPLAY, [(each, done.examined[each], done.replayed[each]) for each in sorted(done.examined)])
    for hour, count in sorted(done.hours.items()):
        print_line(f"  {count:,} into {hour}")


def maintain(
    context: typer.Context,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All topics when none is given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what nobody needs any more: old deliveries of hours that every mirror has, orphans, expired reports.

    A topic that cannot be maintained is an error at the end, and keeps no other from it.
    """
    from lakehouse.operations.maintain import removals

    config = load_usable(context.obj)
    chosen, removed, failed = topics_with_lake(config, topics), list[Removal](), list[LakehouseError]()
    for topic in progress("topics maintained")(chosen, len(chosen)):
        try:
            removed.extend(removals(topic, config, config.now(), dry_run=dry_run))
        except LakehouseError as refused:
            failed.append(refused)
    if as_json:
        print_json({"dry_run": dry_run, "removals": [asdict(removal) for removal in removed]})
    else:
        print_table(columns.REMOVAL, removed)
        size_bytes = sum(removal.size_bytes for removal in removed)
        print_line(f"{len(removed):,} {'would be removed' if dry_run else 'removed'}, {size_bytes / 1024**2:,.1f} MiB")
    for error in failed:
        print_error(error, as_json=as_json)
    if failed:
        raise typer.Exit(failed[0].exit_code)


def erase(
    context: typer.Context,
    topic: TopicName,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Over silver's columns, as after `where` in DuckDB's SQL.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it stays in the ledger.")] = None,
    by: By = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Erase nothing: what of earlier erasures is outstanding, store by store.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person's events from bronze and silver; sealed hours get a new revision, and are mirrored again.

    With --status, exit code 1 as long as any store may still hold what was erased.
    """
    from lakehouse.operations import erase as erasing

    config = load_usable(context.obj)
    if status:
        _erasure_status(config, topic, as_json)
        return
    condition, why, person = _given(where, "--where"), reason_of(_given(reason, "--reason")), person_of(by)
    erasure = erasing.erase(
        topic_with_lake(config, topic),
        config,
        condition,
        reason=why,
        by=person,
        dry_run=dry_run,
        track=progress("hours sealed again"),
    )
    if as_json:
        print_json({"dry_run": dry_run, **asdict(erasure)})
        return
    print_table(columns.ERASED, erasure.hours)
    would = "would be " if dry_run else ""
    rows = sum(hour.erased for hour in erasure.hours)
    print_line(f"{rows:,} rows of {len(erasure.hours)} hours and {erasure.deliveries:,} deliveries {would}erased")
    if erasure.hours and not dry_run:
        print_line(f"Reports and mirrors follow: `lakehouse erase {topic} --status` says what still holds them.")


def _given(text: str | None, option: str) -> str:
    if text is None:
        raise UsageError(
            option,
            found="nothing",
            expected="--where and --reason, or --status",
            next_step="Say what is to be erased and why, or ask for what is outstanding.",
        )
    return text


def _erasure_status(config: Config, name: str, as_json: bool) -> None:
    from lakehouse.operations import reconcile as reconciling
    from lakehouse.operations.erasure.outstanding import outstanding

    topic = topic_with_lake(config, name)
    spark = session_of(config) if reconciling.needs_spark(config, [topic]) else None
    items = outstanding(topic, config, reconciling.mirrors_of(config, spark))
    if as_json:
        print_json({"topic": name, "is_finished": not items, "outstanding": [asdict(item) for item in items]})
    elif items:
        print_table(columns.OPEN_ITEM, items)
        for next_step in dict.fromkeys(item.next_step for item in items):
            print_line(next_step)
    else:
        print_line(f"{name}: nothing is outstanding, every erasure is finished.")
    if items:
        raise typer.Exit(1)


def _known_reason(reason: str | None) -> str | None:
    from lakehouse.operations.replay import REASONS

    if reason is not None and reason.partition(":")[0] not in REASONS:
        raise UsageError(
            "--reason",
            found=repr(reason),
            expected="one of " + ", ".join(REASONS),
            next_step="Check the spelling, or leave it out to replay whatever can be decoded.",
        )
    return reason


def _closable(snapshot: TopicSnapshot, hour: Hour, now: datetime) -> Hour:
    """An hour that is over and still open: nobody may close an hour that goes on, for all its later events."""
    if hours.end_of(hour) > now:
        raise LakeError(
            f"{snapshot.topic.name} {hour}",
            found=f"an hour that ends at {instant_text(hours.end_of(hour))}",
            expected="an hour that is over",
            next_step="Name an earlier hour, or wait: what comes after a close is skewed into a later hour.",
        )
    if not is_open(snapshot, known_hour(snapshot, hour, now)):
        raise _closed_already(snapshot.topic.name, hour)
    return hour


def _stands_for_loss(history: History) -> bool:
    """Whether the newest failure is a loss, and nobody has accepted it."""
    newest = history.newest(State.FAILED, State.RECOVERED, State.LOSS_ACCEPTED, State.LOST)
    return newest is not None and newest.state == State.FAILED and ACCEPT_LOSS in newest.of(Failed).error


def _has_closed(history: History, hour: Hour) -> bool:
    return history.first("closed", hour) is not None


def _closed_already(topic: str, hour: Hour) -> LakeError:
    return LakeError(
        f"{topic} {hour}",
        found="an hour that is no longer open",
        expected="an open hour",
        next_step=f"`lakehouse explain {topic} {hour}` says when and why it closed.",
    )
