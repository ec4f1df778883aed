"""The real application on a small lake, as a process that is killed and started again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from lakehouse import failpoints, hours
from lakehouse.config import Config, load
from lakehouse.crash.checkpoints import PARTS, tear
from lakehouse.crash.invariants import Expected, violations, violations_so_far
from lakehouse.crash.processes import bound_to_us
from lakehouse.crash.small_lake import PUBSUB_TOPIC, SUBSCRIPTION, write_suites
from lakehouse.hours import Hour
from lakehouse.ingest.checkpoint import ASIDE, FOLDER
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.store.applications import application_folder
from lakehouse.store.ledger import Ledger
from lakehouse.store.notes import leave_note
from lakehouse.store.place import Place
from lakehouse.store.records import CloseRequested, State
from lakehouse.store.tables import TopicTables

HOUSE = Path(__file__).parents[2]
BY_PYTHON = (sys.executable, str(HOUSE / "jobs/run.py"))
BY_SPARK_SUBMIT = (str(HOUSE / "spark-submit.sh"), "run")
END = "the last life, to the end"
HALF_ACKED = "pull.half_acknowledged"
LITTERED = "mirror.old_aside"
CLEARED = "ingest.manifests_half_cleared"
"""Steps that come only where there is much to acknowledge, something lies in the place of the hour's mirror, or many
batches have had events."""

_PATIENCE_SECONDS = 240.0
"""Without anything new in the lake: a life that goes on may take as long as a loaded machine makes it."""
_POLL_SECONDS = 0.1
_LOOK_EVERY_SECONDS = 1.0
FEW, MANY = 40, 2_600
"""Events of an hour; and more of them than one request acknowledges."""

SHORT_LIVED_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""What the better compiler and collector gain by the hour, they cost a JVM of one minute: a third of its time."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """One case. `kind` is how it died: played in one process, by a random schedule, killed, or an executor of it."""

    kind: str
    name: str
    violations: tuple[str, ...]
    seconds: float

    @property
    def is_right(self) -> bool:
        return not self.violations


class KilledLake:
    """A small topic, its broker, and the application as a process of its own. Each life has a new hour to deliver.

    `settings` and `topic` change keys of the configuration; what is changed in `spark` is added to what is there.
    """

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        chance: random.Random,
        *,
        settings: Values | None = None,
        topic: Values | None = None,
        ack_deadline: timedelta = timedelta(seconds=10),
    ) -> None:
        self.broker, self._chance = broker, chance
        self.folder = folder.absolute()
        self.config = _written_config(self.folder, settings or {}, topic or {})
        self.topic = self.config.topic("plays")
        self.tables = TopicTables(self.topic, self.config.settings)
        self._hour = hours.after(hours.hour_of(datetime.now(UTC)), -100)
        self._asked: Hour | None = None
        self._events: list[tuple[str, datetime]] = []
        self._hours = self._lives = 0
        self.log = self.folder
        self._channel = DirectChannel(broker)
        self._channel.create(PUBSUB_TOPIC, SUBSCRIPTION, ack_deadline)

    # --- lives

    def life_until(self, death: str) -> list[str]:
        """Publish, ask for the hour's close, run until `death` (a `failpoints.VARIABLE`); what is wrong."""
        step = death.partition(":")[0]
        if step == LITTERED:
            Path(self._mirror, self._hour).mkdir(parents=True)
        self.new_hour(MANY if step == HALF_ACKED else FEW)
        with self.application_process(BY_PYTHON, {failpoints.VARIABLE: death}) as process:
            self.watch(process, goes_on=step == CLEARED)
            code = process.poll()
        if code != -signal.SIGKILL:
            return [f"{_ending(code)} instead of dying; see {self.log}"]
        return violations_so_far(self.topic, self.config)

    def tear_checkpoint(self) -> bool:
        """As if the machine had crashed with the application: some file of Spark's checkpoint is no longer whole."""
        folder = Path(self._application_folder, FOLDER)
        return any(tear(folder, part, self._chance) for part in self._chance.sample(PARTS, len(PARTS)))

    def has_set_aside(self) -> bool:
        """Whether a life has found a torn checkpoint and gone on without it."""
        return any(Path(self._application_folder).glob(f"{ASIDE}-*"))

    @property
    def _application_folder(self) -> str:
        return application_folder(self.config.settings).uri

    def last_life(self) -> list[str]:
        """One that delivers everything and is then asked to end; what is wrong then."""
        self.new_hour(FEW)
        with self.application_process(BY_PYTHON, {}) as process:
            return self.bring_to_an_end(process)

    def bring_to_an_end(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Wait until everything is delivered and ask the application to stop; what is wrong then."""
        self.watch(process, self._is_delivered)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_SECONDS)
        if process.poll() != 0:
            return [f"{_ending(process.poll())}; see {self.log}"]
        return self.violations()

    def violations(self) -> list[str]:
        """What is wrong once everything that was published is delivered."""
        acknowledged = set(self.broker.published(PUBSUB_TOPIC)) - set(self.broker.unacked(SUBSCRIPTION))
        wrong = violations(self.topic, self.config, Expected(set(self._events), self._hours, acknowledged))
        return [*wrong, *(f"{left} is left over" for left in Path(self._mirror, "_staging").glob("*"))]

    def new_hour(self, count: int) -> None:
        """Publish events of the present hour, some late, some twice, some under a used id; one message is none."""
        self._hours += 1
        self._asked = None
        start = hours.start_of(self._hour)
        payloads = [b"not json"]
        for _ in range(count):
            late = timedelta(hours=self._chance.choice([0, 0, 0, 2, 30]))
            event_id = f"e{len(self._events)}"
            if self._events and self._chance.random() < 0.1:  # another event, as its time is another
                event_id, _ = self._chance.choice(self._events[-10:])
            played_at = start + timedelta(seconds=self._chance.uniform(0, 3599)) - late
            self._events.append((event_id, played_at))
            payloads.append(_payload(event_id, played_at))
            if self._chance.random() < 0.1:
                payloads.append(payloads[-1])
        self._channel.publish(PUBSUB_TOPIC, payloads)

    def _one_more(self) -> None:
        event_id, played_at = f"e{len(self._events)}", hours.start_of(self._hour)
        self._events.append((event_id, played_at))
        self._channel.publish(PUBSUB_TOPIC, [_payload(event_id, played_at)])

    # --- its process

    @contextmanager
    def application_process(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The application as an operator starts it, with a `log` of its own; nothing of it is left afterwards."""
        self._lives += 1
        self.log = self.folder / f"life-{self._lives:02d}.log"
        known = {**os.environ, "PUBSUB_EMULATOR_HOST": self.broker.address, "PYSPARK_PYTHON": sys.executable}
        environment = {**known, "LAKEHOUSE_CONF": str(self.config.path), **environment}
        with self.log.open("wb") as out:
            process = subprocess.Popen(
                [*bound_to_us(), *command], stdout=out, stderr=out, env=environment, cwd=HOUSE, start_new_session=True
            )
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def watch(
        self, process: subprocess.Popen[bytes], until: Callable[[], bool] = lambda: False, *, goes_on: bool = False
    ) -> None:
        """Wait until it ends, or `until` holds, or it has done nothing that lasts for long.

        The hour's close is asked for once everything is read, and not before: it would be empty. Where it `goes_on`,
        event after event of the next hour follows.
        """
        seen: object = None
        looked_at = moved_at = time.monotonic()
        while process.poll() is None and time.monotonic() - moved_at < _PATIENCE_SECONDS and not until():
            if self.is_read():
                if self._asked is None:
                    self._close()
                elif goes_on:
                    self._one_more()
            if time.monotonic() - looked_at > _LOOK_EVERY_SECONDS:
                looked_at = time.monotonic()
                if (there := self._progress()) != seen:
                    seen, moved_at = there, looked_at
            time.sleep(_POLL_SECONDS)

    def is_read(self) -> bool:
        return not self.broker.unacked(SUBSCRIPTION)

    def _close(self) -> None:
        """No later event will come, so a person has to say that the hour is over."""
        self._ledger().record(CloseRequested(by="crash", reason="the hour is over"), self._hour)
        leave_note(self.config.settings, self.config.settings.application, self.topic.name)
        self._asked, self._hour = self._hour, hours.after(self._hour)

    def _is_delivered(self) -> bool:
        if self._asked is None or not self.is_read():
            return False
        history = self.tables.history()
        is_closed = history.first(State.CLOSED, self._asked) is not None
        return is_closed and not (history.due_to_seal() or history.due_to_validate() or history.due_to_mirror("folder"))

    def _progress(self) -> object:
        """Differs whenever the application has done something that lasts; idle batches leave nothing here."""
        raw, sealed = self.tables.raw.files(), self.tables.sealed.files()
        counts = [len(raw.listing("bronze")), *(len(sealed.listing(each)) for each in ("silver", "ledger", "reports"))]
        mirrored = Place(self._mirror, self.config.settings.storage_options).files().listing("")
        return counts, len(mirrored), len(self.broker.unacked(SUBSCRIPTION))

    def _ledger(self) -> Ledger:
        return self.tables.ledger("crash")

    @property
    def _mirror(self) -> str:
        return f"{self.config.settings.mirrors['folder']['path']}/plays"


def _payload(event_id: str, played_at: datetime) -> bytes:
    return json.dumps({"event_id": event_id, "played_at": played_at.isoformat(), "n": 1}).encode()


def _ending(code: int | None) -> str:
    return f"it did nothing for {_PATIENCE_SECONDS:.0f} s" if code is None else f"it ended with {code}"


def _written_config(folder: Path, changed: Values, of_topic: Values) -> Config:
    """`conf/` and `expectations/` as an operator would write them."""
    for name in ("conf/topics", "expectations"):
        (folder / name).mkdir(parents=True)
    write_suites(folder / "expectations")
    settings = {
        "raw_root": str(folder / "raw"),
        "sealed_root": str(folder / "sealed"),
        "release": "crash",
        "application": "crash",
        "ingest": {"trigger": "1 second", "empty_after": "0.2 seconds"},
        "frontier": {"source": "drained"},
        "mirrors": {"folder": {"kind": "folder", "path": str(folder / "mirror")}},
        **changed,
        "spark": {
            "spark.master": "local[2]",
            "spark.scheduler.mode": "FAIR",
            "spark.sql.shuffle.partitions": "2",
            "spark.databricks.delta.snapshotPartitions": "2",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.memory": "1g",
            "spark.driver.extraJavaOptions": SHORT_LIVED_JVM,
            **changed.get("spark", {}),
        },
    }
    topic = {
        "subscription": SUBSCRIPTION,
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": {"n": "bigint"},
        "lateness": "1 hour",
        "quiet_period": "0 seconds",
        "dedup_horizon": "10 days",
        "first_hour": "earliest",
        "empty_hours": "skip",
        "slots": {"min": 1, "max": 2},
        "mirrors": ["folder"],
        **of_topic,
    }
    (folder / "conf/crash.yaml").write_text(yaml.safe_dump(settings))
    (folder / "conf/topics/plays.yaml").write_text(yaml.safe_dump(topic))
    return load(folder / "conf/crash.yaml")
