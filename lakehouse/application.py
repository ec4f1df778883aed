"""What the doors in `jobs/` share: arguments, logs, the session and an orderly end; and all stages in one process."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NoReturn

from pyspark import InheritableThread
from pyspark.sql import SparkSession

from lakehouse import durations, failpoints
from lakehouse.config import Config, load
from lakehouse.errors import LakehouseError
from lakehouse.ingest.query import TopicIngest
from lakehouse.ingest.supervisor import opened, run_until_stopped, started
from lakehouse.mirrors.stage import mirror_due
from lakehouse.operations.audit import check_topic
from lakehouse.operations.maintain import maintain_topic
from lakehouse.seal.stage import seal_due
from lakehouse.spark.session import spark_session
from lakehouse.topics import Topic
from lakehouse.validate.stage import validate_due
from lakehouse.validate.suite_files import suite_of

log = logging.getLogger("lakehouse")

_LONGEST_BATCH = timedelta(minutes=2)
"""How long the JVM's end waits for ours: one batch and what follows from it."""
_BEFORE_SPARK = 100
"""Hooks of a higher priority run first; Spark's has 40."""


@dataclass
class Application:
    """One job's run: its topics, its session when somebody asks for it, and the wish that it stop."""

    config: Config
    topics: tuple[Topic, ...]
    until_dry: bool = False
    every: timedelta | None = None
    dry_run: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _unhook: Callable[[], None] = lambda: None

    @cached_property
    def spark(self) -> SparkSession:
        session = spark_session(self.config.settings, "lakehouse " + " ".join(topic.name for topic in self.topics))
        self._unhook = _hooked(session, self)
        return session

    def close(self) -> None:
        """Let the JVM go: nothing of this run is under way any more."""
        self.ended.set()
        self._unhook()


Job = Callable[[Application], None]
Stage = Callable[[Topic, Application], object]


def run_job(job: Job) -> NoReturn:
    """The whole life of a job's process; ends it with 0, or with 1 and one message in the words of `errors.py`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("py4j", "great_expectations", "mlflow", "alembic", "google"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    failpoints.lead()
    application: Application | None = None
    try:
        application = _application(job)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: application.stop.set())
        job(application)
    except LakehouseError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
    finally:
        if application is not None:
            application.close()
    sys.exit(0)


def ingest(application: Application) -> None:
    """Ingest all topics until asked to stop or, with --until-dry, until nothing is left to pull or close."""
    _ingested(application, lambda: None)


def seal(application: Application) -> None:
    """Seal what is due, topics side by side."""
    _repeatedly(application, [_seal])


def validate(application: Application) -> None:
    """Validate what is due, topics side by side."""
    _check_suites(application)
    _repeatedly(application, [_validate])


def mirror(application: Application) -> None:
    """Mirror what is due, topics side by side."""
    _repeatedly(application, [_mirror])


def maintain(application: Application) -> None:
    """Remove what nobody needs any more; with --dry-run only say what."""
    _repeatedly(application, [_maintain])


def audit(application: Application) -> None:
    """Verify every sealed hour and recompute the newest from its deliveries; fails when anything differs."""
    _repeatedly(application, [_audit])


def run(application: Application) -> None:
    """All stages: ingest closes hours, and for each topic one thread takes them through the rest."""
    _check_suites(application)
    stages = _Stages(application, [_seal, _validate, _mirror], application.config.settings.ingest.trigger)
    try:
        _ingested(application, stages.start)
    except BaseException:
        stages.end()
        raise
    stages.finish()


def _ingested(application: Application, begin: Callable[[], None]) -> None:
    topics = (TopicIngest(topic, application.config, run=application.run) for topic in application.topics)
    ready, failures = opened(topics)
    queries = started(ready, lambda ingest: ingest.start(application.spark))
    if queries:
        begin()
    run_until_stopped(
        queries,
        application.stop,
        until_dry=application.until_dry,
        failures=failures,
        start_again=lambda ingest: ingest.start_again(application.spark),
    )


def _check_suites(application: Application) -> None:
    for topic in application.topics:
        suite_of(topic, application.config)


def _seal(topic: Topic, application: Application) -> object:
    return seal_due(topic, application.config, lambda: application.spark, run=application.run)


def _validate(topic: Topic, application: Application) -> object:
    return validate_due(topic, application.config, lambda: application.spark, run=application.run)


def _mirror(topic: Topic, application: Application) -> object:
    return mirror_due(topic, application.config, application.spark, run=application.run)


def _maintain(topic: Topic, application: Application) -> object:
    removals = maintain_topic(topic, application.config, datetime.now(UTC), dry_run=application.dry_run)
    for removal in removals:
        log.info("maintain: topic=%s %s: %s (%s)", topic.name, removal.kind, removal.path, removal.why)
    return removals


def _audit(topic: Topic, application: Application) -> None:
    check_topic(topic, application.config, datetime.now(UTC))


def _repeatedly(application: Application, steps_of_topic: list[Stage]) -> None:
    stages = _Stages(application, steps_of_topic, application.every or timedelta(0))
    if application.every is None:
        stages.finish()
        return
    stages.start()
    application.stop.wait()
    stages.finish()


class _Stages:
    """A thread for each topic that does what is due, so that no topic waits for another.

    A stage that fails leaves its hour due and is tried again at the next pass; what fails at the last pass is raised.
    """

    def __init__(self, application: Application, stages: list[Stage], pause: timedelta) -> None:
        self._application, self._stages, self._pause = application, stages, pause
        self._finishing = threading.Event()
        self._threads: list[Any] = []
        self._errors: dict[str, LakehouseError] = {}
        self._failure: BaseException | None = None

    def start(self) -> None:
        self._threads = [InheritableThread(target=self._follow, args=(topic,)) for topic in self._application.topics]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """One last pass over every topic; raises what is still in the way."""
        self._finishing.set()
        if not self._threads:
            self.start()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        for error in self._errors.values():
            raise error

    def end(self) -> None:
        """Of a run that failed: what is under way and one last pass are waited for, and what they meet is only told."""
        if self._threads:
            with suppress(Exception):
                self.finish()

    def _follow(self, topic: Topic) -> None:
        self._application.spark.sparkContext.setLocalProperty("spark.scheduler.pool", topic.name)
        try:
            while not self._finishing.wait(self._pause.total_seconds()):
                self._pass_over(topic)
            self._pass_over(topic)
        except BaseException as failure:
            self._failure = failure
            self._application.stop.set()

    def _pass_over(self, topic: Topic) -> None:
        errors_before = self._errors.pop(topic.name, None)
        for stage in self._stages:
            try:
                stage(topic, self._application)
            except LakehouseError as error:
                self._errors[topic.name] = error
                if str(error) != str(errors_before):
                    log.error("%s: %s", topic.name, error)


def _application(job: Job) -> Application:
    parser = argparse.ArgumentParser(prog=job.__name__, description=job.__doc__)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="topics to work on (default: all)")
    parser.add_argument("--conf", help="the environment (default: $LAKEHOUSE_CONF or conf/local.yaml)")
    if job in (ingest, run):
        parser.add_argument("--until-dry", action="store_true", help="end when nothing is left to pull or to close")
    else:
        parser.add_argument("--every", type=durations.parsed, metavar="DURATION", help="go on, with this pause between")
    if job is maintain:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    arguments = vars(parser.parse_args())
    config = load(arguments.pop("conf"))
    names = arguments.pop("topics") or sorted(config.topics)
    return Application(config, tuple(config.topic(name) for name in names), **arguments)


class _BeforeTheEnd:
    """Run by the JVM when it is told to end: spark-submit's process is the JVM, and gets the SIGTERM."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def run(self) -> None:
        self._application.stop.set()
        self._application.ended.wait(_LONGEST_BATCH.total_seconds())

    class Java:
        implements = ["java.lang.Runnable"]  # noqa: RUF012 - py4j reads it


def _hooked(session: SparkSession, application: Application) -> Callable[[], None]:
    """End before Spark's own hook stops the session under our feet; gives what takes this hook away again."""
    from py4j.protocol import Py4JError
    from pyspark.java_gateway import ensure_callback_server_started

    gateway: Any = session.sparkContext._gateway
    ensure_callback_server_started(gateway)  # type: ignore[no-untyped-call]
    jvm = gateway.jvm
    # In a Thread, because the hooks are kept by their hash code, and a proxy has none.
    hook = jvm.java.lang.Thread(_BeforeTheEnd(application))
    hooks = jvm.org.apache.hadoop.util.ShutdownHookManager.get()
    seconds = int(_LONGEST_BATCH.total_seconds())
    hooks.addShutdownHook(hook, _BEFORE_SPARK, seconds, jvm.java.util.concurrent.TimeUnit.SECONDS)

    def unhook() -> None:
        # Refused while the JVM is ending: then the hook is what we have just served.
        with suppress(Py4JError):
            hooks.removeShutdownHook(hook)

    return unhook
