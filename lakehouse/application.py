"""What the doors in `jobs/` share: arguments, logs and the session; and all stages in one process."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from lakehouse import durations, failpoints, hours
from lakehouse.concealed import conceal_in_logs
from lakehouse.config import DEFAULT_CONF, Config, folder_of, load_usable
from lakehouse.doctor.examination import as_document, examined
from lakehouse.errors import CheckError, ConfigError, UnexpectedError, extras_named, require, unexpected
from lakehouse.hours import Hour
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.supervisor import Supervisor
from lakehouse.ingest.topic import TopicIngest
from lakehouse.mirrors.catalogue import Checks
from lakehouse.mirrors.stage import mirror_due
from lakehouse.operations.audit import check_topic
from lakehouse.operations.damage import record_damage
from lakehouse.operations.maintain import maintain_topic
from lakehouse.running.care import Care
from lakehouse.running.identity import application_name
from lakehouse.running.life import Life
from lakehouse.running.replayed import settle_clock
from lakehouse.running.stages import Stages
from lakehouse.seal.stage import seal_due
from lakehouse.spark.session import is_submitted, spark_session
from lakehouse.spark.shutdown import end_in_order
from lakehouse.store.files import storage_for
from lakehouse.store.retired_jobs import RetiredJobs, own_job
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate.stage import validate_due
from lakehouse.validate.suite_files import suite_of

log = logging.getLogger("lakehouse")

LOOK_EVERY = timedelta(hours=6)
"""At all files of a topic, by their sizes: some requests for a listing. Maintain looks before it removes anything, too:
what is missing then was lost, not removed. But it comes more rarely or never, and a loss is to be known the same day.
"""


@dataclass
class Application:
    """One job's run: its topics, its session when somebody asks for it, and its stop signal."""

    config: Config
    topics: tuple[Topic, ...]
    until_drained: bool = False
    every: timedelta | None = None
    dry_run: bool = False
    tries_all: bool = False
    """Whether hours that a mirror refused are tried without waiting for their time: at the end of a run, or of a job
    that a person started for one."""
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    checked_at: dict[str, datetime] = field(default_factory=dict)
    """When each topic's files were compared with its logs."""
    _session: SparkSession | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _unhook: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        name = application_name(self.config, self.topics)
        settings = self.config.settings.model_copy(update={"application": name})
        self.config = replace(self.config, settings=settings)
        if settings.lineage.events == "openlineage":
            require("openlineage")

    @cached_property
    def mirror_checks(self) -> Checks:
        return Checks(self.config)

    @property
    def spark(self) -> SparkSession:
        """One for all threads, started by the first that asks."""
        with self._starting:
            if self._session is None:
                name = "lakehouse " + " ".join(topic.name for topic in self.topics)
                self._session = spark_session(self.config.settings, name)
                self._unhook = end_in_order(self._session, self.stop, self.ended)
            return self._session

    def spark_for(self, topic: Topic) -> SparkSession:
        """The session, with what this thread asks of it from now on in the topic's pool of Spark's scheduler."""
        self.spark.sparkContext.setLocalProperty("spark.scheduler.pool", topic.name)
        return self.spark

    def start_spark(self) -> None:
        """Let it start while something else is done; what it fails of, it fails of again when it is asked for."""

        def start() -> None:
            with suppress(Exception):
                _ = self.spark

        threading.Thread(target=start, name="start-spark", daemon=True).start()

    def close(self) -> None:
        """Let the JVM go: nothing of this run is under way any more."""
        self.ended.set()
        self._unhook()


Job = Callable[[Application], None]


Stage = Callable[[Topic, Application, Callable[[], bool]], object]
"""What is due of one topic, as long as its last argument does not say that nothing more shall begin."""


def run_job(job: Job) -> NoReturn:
    """The whole life of a job's process; ends it with 0, or with one message and the exit code of `errors.py`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    conceal_in_logs()
    for chatty in ("py4j", "great_expectations", "mlflow", "alembic", "google"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    failpoints.lead()
    try:
        with extras_named():
            command_of(job)(standalone_mode=True)
    except Exception as error:
        ours = unexpected("application", error, "Start it again; the log has the trace.")
        log.error("application: error=%s", ours, exc_info=error if isinstance(ours, UnexpectedError) else None)
        sys.exit(ours.exit_code)
    sys.exit(0)


def ingest(application: Application) -> None:
    """Ingest all topics until asked to stop or, with --until-drained, until nothing is left to pull or close."""
    if _has_successor(application):
        return
    settle_clock(application.config.settings)
    with _living(application) as life:
        _run_ingest(application, life)


def seal(application: Application) -> None:
    """Seal what is due, topics side by side."""
    _repeatedly(application, {"seal": _seal})


def validate(application: Application) -> None:
    """Validate what is due, topics side by side."""
    _check_suites(application)
    _repeatedly(application, {"validate": _validate})


def mirror(application: Application) -> None:
    """Mirror what is due, topics side by side."""
    _repeatedly(application, {"mirror": _mirror})


def maintain(application: Application) -> None:
    """Remove what nobody needs any more; with --dry-run only say what."""
    _repeatedly(application, {"maintain": _maintain})


def audit(application: Application) -> None:
    """Verify every sealed hour and recompute the newest from its deliveries; fails when anything differs."""
    _repeatedly(application, {"audit": _audit})


def run(application: Application) -> None:
    """All stages: ingest closes hours, and a pool of workers takes them through the rest."""
    if _has_successor(application):
        return
    _check_suites(application)
    settle_clock(application.config.settings)
    stages = _stages(application, _ALL_STAGES, application.config.settings.stages.look_every)
    with _living(application) as life:
        care = Care(application.topics, application.config, application.stop, life.note_maintained)

        def begin() -> None:
            stages.start()
            care.start(life.maintained)

        try:
            _run_ingest(application, life, begin, stages.tell)
            care.end()
        except BaseException:
            stages.abandon()
            raise
        application.tries_all = True
        stages.finish()


def _has_successor(application: Application) -> bool:
    """Whether the launcher's job was started again although another has its topics: it must not take them back."""
    job = own_job()
    if not job or not RetiredJobs(application.config.settings).has(job):
        return False
    log.info("application: job=%s state=retired", job)
    _have_session(application)
    return True


def doctor(application: Application) -> None:
    """Check where it runs whether all is there that these topics need; fails when anything is not.

    What was found is in the log and, where $LAKEHOUSE_DOCTOR_TO has an address, in that file as JSON.
    """
    found = examined(application.config, application.topics, lambda: application.spark)
    for each in found:
        log.info("doctor: check=%r outcome=%s found=%r seconds=%s", each.check, each.outcome, each.found, each.seconds)
    if to := os.environ.get("LAKEHOUSE_DOCTOR_TO"):
        folder, _, name = to.rpartition("/")
        content = json.dumps(as_document(found)).encode()
        storage_for(folder, application.config.settings.storage_options).write(name, content)
    failing = [each for each in found if each.outcome == "fails"]
    if failing:
        raise CheckError(
            f"doctor: {failing[0].check}",
            found=failing[0].found + (f"; and {len(failing) - 1} more checks fail" if len(failing) > 1 else ""),
            expected="all that these topics need",
            next_step=failing[0].what_to_do,
        )


@contextmanager
def _living(application: Application) -> Iterator[Life]:
    """The run's heartbeat, until what is within has ended, and why it has."""
    life = Life(application.config, application.topics, application.run)
    try:
        yield life
    except BaseException as error:
        life.end(str(unexpected("application", error)))
        raise
    life.end("asked to" if application.stop.is_set() else "drained")


def _run_ingest(
    application: Application,
    life: Life,
    begin: Callable[[], None] = lambda: None,
    tell: Callable[[str, datetime, datetime], None] = lambda topic, due_since, now: None,
) -> None:
    """Ingest; once there is something to run it says `begin`, and `tell` of each topic of which hours close."""

    clock = application.config.settings.clock

    def tell_of(topic: str, closed: Sequence[Hour]) -> None:
        tell(topic, hours.end_of(closed[0]), clock())

    settings = application.config.settings
    ingests = [
        TopicIngest(topic, application.config, run=application.run, clock=clock, on_closed=partial(tell_of, topic.name))
        for topic in application.topics
    ]
    life.follow(ingests)
    query = IngestQuery(ingests, settings, run=application.run, clock=clock)

    def start() -> StreamingQuery:
        return query.start(application.spark)

    supervisor = Supervisor(query, ingests, start, check=life.check)
    supervisor.open(meanwhile=application.start_spark)
    life.start(has_topics=bool(query.topics))
    if query.topics:
        _ = application.spark  # by now: where it cannot start, no stage begins
        begin()
    supervisor.run(application.stop, until_drained=application.until_drained)


def _check_suites(application: Application) -> None:
    for topic in application.topics:
        suite_of(topic, application.config)


def _seal(topic: Topic, application: Application, is_stopping: Callable[[], bool]) -> object:
    spark = partial(application.spark_for, topic)
    return seal_due(topic, application.config, spark, run=application.run, is_stopping=is_stopping)


def _validate(topic: Topic, application: Application, is_stopping: Callable[[], bool]) -> object:
    return validate_due(topic, application.config, run=application.run, is_stopping=is_stopping)


def _mirror(topic: Topic, application: Application, is_stopping: Callable[[], bool]) -> object:
    return mirror_due(
        topic,
        application.config,
        partial(application.spark_for, topic),
        run=application.run,
        is_stopping=is_stopping,
        clock=None if application.tries_all else application.config.settings.clock,
        checks=application.mirror_checks,
    )


def look(topic: Topic, application: Application, is_stopping: Callable[[], bool]) -> object:
    """Record what is damaged, at the start of a run and at times after it."""
    last, this = application.checked_at.get(topic.name), application.config.now()
    if last is None or this - last >= LOOK_EVERY:
        settings = application.config.settings
        record_damage(TopicTables(topic, settings), f"look/{settings.release}/{application.run}")
        application.checked_at[topic.name] = this
    return None


def _maintain(topic: Topic, application: Application, is_stopping: Callable[[], bool]) -> object:
    config, now = application.config, application.config.now()
    removals = maintain_topic(topic, config, now, dry_run=application.dry_run, is_stopping=is_stopping)
    for removal in removals:
        log.info("maintain: topic=%s kind=%s path=%s why=%s", topic.name, removal.kind, removal.path, removal.why)
    return removals


def _audit(topic: Topic, application: Application, is_stopping: Callable[[], bool]) -> None:
    check_topic(topic, application.config, application.config.now())


_ALL_STAGES: dict[str, Stage] = {"seal": _seal, "validate": _validate, "mirror": _mirror, "look": look}


def _stages(application: Application, stages: Mapping[str, Stage], look_every: timedelta) -> Stages:
    def bound(stage: Stage) -> Callable[[Topic, Callable[[], bool]], object]:
        return lambda topic, is_stopping: stage(topic, application, is_stopping)

    return Stages(
        application.topics,
        {name: bound(stage) for name, stage in stages.items()},
        application.config.settings,
        run=application.run,
        stop=application.stop,
        look_every=look_every,
    )


def _have_session(application: Application) -> None:
    """Under spark-submit, which expects one although nothing here may ask for it."""
    if is_submitted():
        _ = application.spark


def _repeatedly(application: Application, stages_of_topic: Mapping[str, Stage]) -> None:
    _have_session(application)
    stages = _stages(application, stages_of_topic, application.every or timedelta(0))
    if application.every is not None:
        stages.start()
        application.stop.wait()
    application.tries_all = True
    stages.finish()


def _run_by(job: Job, application: Application) -> None:
    """From the first signal that is listened to until nothing of the run is under way."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: application.stop.set())
        job(application)
    finally:
        application.close()


_Topics = Annotated[list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All topics when none is given.")]
_Conf = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="The environment's configuration.", show_default=f"$LAKEHOUSE_CONF, else {DEFAULT_CONF}"
    ),
]
_UntilDrained = Annotated[
    bool, typer.Option("--until-drained", "--until-dry", help="End when nothing is left to pull or to close.")
]
_Every = Annotated[
    timedelta | None,
    typer.Option(
        parser=durations.parse_duration, metavar="DURATION", help="Run again and again, with this pause between."
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]


def command_of(job: Job) -> typer.Typer:
    """The command line of a job: its topics, its environment, and the options that are its own."""

    def application(topics: list[str] | None, conf: Path | None, **options: Any) -> None:
        config = load_usable(conf)
        names = dict.fromkeys(topics or sorted(config.topics))
        for name, error in sorted(config.unusable.items()) if not topics else ():
            log.error("application: topic=%s state=left out error=%s", name, error)
        if not names:
            config.refuse_unusable()
            raise ConfigError(
                str(folder_of(config.path, config.settings.topics)),
                found="no topic",
                expected="a <topic>.yaml for each topic of the application",
                next_step="Add one (`lakehouse topics new`), or point the key `topics` of the configuration there.",
            )
        _run_by(job, Application(config, tuple(config.topic(name) for name in names), **options))
        if not topics:
            config.refuse_unusable()

    def endless(topics: _Topics = None, conf: _Conf = None, until_drained: _UntilDrained = False) -> None:
        application(topics, conf, until_drained=until_drained)

    def repeated(topics: _Topics = None, conf: _Conf = None, every: _Every = None) -> None:
        application(topics, conf, every=every)

    def maintained(topics: _Topics = None, conf: _Conf = None, every: _Every = None, dry_run: _DryRun = False) -> None:
        application(topics, conf, every=every, dry_run=dry_run)

    def once(topics: _Topics = None, conf: _Conf = None) -> None:
        application(topics, conf)

    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    own: dict[Job, Callable[..., None]] = {maintain: maintained, ingest: endless, run: endless, doctor: once}
    body = own.get(job, repeated)
    command.command(job.__name__, help=job.__doc__)(body)
    return command
