"""A Spark cluster on this machine, whose executors race and die while the application on it goes on."""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import grpc
import pyspark

from lakehouse import failpoints
from lakehouse.crash.invariants import violations_so_far
from lakehouse.crash.lives import BY_PYTHON, END, FEW, HALF_ACKED, MANY, KilledLake, Result
from lakehouse.crash.processes import Server, free_ports, start_server
from lakehouse.crash.small_lake import SUBSCRIPTION
from lakehouse.landing.manifests import listed_manifests
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.faults import Faults

RACE_LOST = "pull.race_lost"
_HELD_AT = "pull.received"
OF_SLOTS = (
    "pull.received",
    "pull.files_durable",
    RACE_LOST,
    "pull.manifest_durable",
    HALF_ACKED,
    "pull.acknowledged",
)
"""The steps that executors take."""

_HOSTS = ("127.0.0.1", "127.0.0.2")
"""One for each worker: Spark starts no second attempt at a task on the host of the first."""
_SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.quantile": "0.5",
    "spark.speculation.multiplier": "1.1",
    # Of a job of one task, as each of ingest's is, Spark starts a second attempt only by this. Longer than a Python
    # worker takes to start: one that is killed for being cold would never be warm.
    "spark.speculation.task.duration.threshold": "5s",
}
_ACK_DEADLINE = timedelta(minutes=1)
_LOSER_SECONDS = 9.0
"""How long the loser of a race may take to find that it has lost."""


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """The address of a master that has two workers, each for one executor with one core."""
    home = Path(pyspark.__file__).parent
    port, pages, *of_workers = free_ports(2 + len(_HOSTS))
    address = f"spark://{_HOSTS[0]}:{port}"
    environment = {
        "SPARK_HOME": str(home),
        "SPARK_DAEMON_MEMORY": "160m",
        "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }

    def start(name: str, kind: str, workers: int, *arguments: object) -> Server:
        command = [str(home / "bin/spark-class"), f"org.apache.spark.deploy.{kind}", *map(str, arguments)]
        return start_server(name, command, folder, address, lambda: _workers(pages) >= workers, environment=environment)

    with ExitStack() as ends:
        master = ["--host", _HOSTS[0], "--port", port, "--webui-port", pages]
        ends.callback(start("master", "master.Master", 0, *master).end)
        for number, host in enumerate(_HOSTS):
            place = ["--host", host, "--webui-port", of_workers[number], "--work-dir", folder / f"work-{number}"]
            worker = start(
                f"worker-{number}", "worker.Worker", number + 1, *place, "--cores", 1, "--memory", "1g", address
            )
            ends.callback(worker.end)
        yield address


def _workers(pages: int) -> int:
    """How many have come to the master; -1 before it knows."""
    try:
        with urllib.request.urlopen(f"http://{_HOSTS[0]}:{pages}/json/", timeout=10) as answer:
            return int(json.load(answer)["aliveworkers"])
    except OSError:
        return -1


class Race(Faults):
    """Two attempts at one slot: the first that has pulled waits, and Spark starts a second one, as it is slow.

    The second one writes its manifest and is not answered to its acknowledgement before the first, which goes on then,
    has given its messages back: Spark ends an attempt once another has succeeded. `second_manifest` says whether both
    slots of an epoch have theirs; `let_go` ends the wait.
    """

    def __init__(self, second_manifest: Callable[[], bool], let_go: Callable[[], None]) -> None:
        self._is_overtaken, self._let_go = second_manifest, let_go
        self.begun = threading.Event()
        self.given_back = threading.Event()

    def refused(self, method: str) -> grpc.StatusCode | None:
        if method == "Acknowledge" and not self.given_back.is_set() and self._is_overtaken():
            self.begun.set()
            self._let_go()
            self.given_back.wait(_LOSER_SECONDS)
        elif method == "ModifyAckDeadline" and self.begun.is_set():
            self.given_back.set()
        return None


class Clock:
    """The broker's: real time, of which some can be skipped."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def __call__(self) -> float:
        return time.time() + self._skipped

    def skip(self, duration: timedelta) -> None:
        self._skipped += duration.total_seconds()


def executors_killed_at(chosen: Sequence[str], folder: Path, *, seed: int = 0) -> Iterator[Result]:
    """One life on a cluster: a race of two attempts, then for each step an executor that dies there; then the end.

    Where `RACE_LOST` is chosen the loser of the race dies, else it gives its messages back.
    """
    clock, share = Clock(), MANY if HALF_ACKED in chosen else FEW
    with cluster(folder / "cluster") as master, Broker(clock=clock) as broker:
        lake = ClusterLake(folder / "lake", broker, clock, master, share, random.Random(seed))
        race = broker.faults = lake.race()
        if RACE_LOST in chosen:
            lake.let_die_at(RACE_LOST)
        lake.new_hour(3 * share)
        with lake.application_process(BY_PYTHON, {}) as process:
            began = time.monotonic()
            wrong = lake.await_race(process, race)
            yield _result(RACE_LOST, wrong, began)
            for step in chosen:
                if step != RACE_LOST:
                    began = time.monotonic()
                    lake.new_hour(2 * share)
                    wrong = lake.await_recovery(process, step)
                    yield _result(step, wrong, began)
            began = time.monotonic()
            wrong = lake.bring_to_an_end(process)
            yield _result(END, wrong, began)


def _result(name: str, wrong: Sequence[str], began: float) -> Result:
    return Result("executor", name, tuple(wrong), round(time.monotonic() - began, 1))


class ClusterLake(KilledLake):
    """Its application runs on a cluster, with slots of `share` messages, whose executors seal hours, too.

    There is a slot for each executor, unless `slots` gives other bounds. `spark` is added to Spark's settings.
    """

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        clock: Clock,
        master: str,
        share: int,
        chance: random.Random,
        *,
        slots: tuple[int, int] = (len(_HOSTS), len(_HOSTS)),
        spark: Mapping[str, str] = MappingProxyType(_SPECULATION),
    ) -> None:
        self._clock = clock
        self._deaths, self.events = (folder.absolute() / name for name in ("deaths", "events"))
        self._deaths.mkdir(parents=True)
        self.events.mkdir()
        settings = {
            "ingest": {"trigger": "0.5 seconds", "empty_after": "0.2 seconds", "max_messages": share},
            "seal": {"small_rows": 0},
            "spark": {
                "spark.master": master,
                "spark.driver.host": _HOSTS[0],
                "spark.driver.bindAddress": _HOSTS[0],
                "spark.scheduler.minRegisteredResourcesRatio": "1.0",
                "spark.executor.cores": "1",
                "spark.executor.memory": "512m",
                "spark.executorEnv.PUBSUB_EMULATOR_HOST": broker.address,
                f"spark.executorEnv.{failpoints.EXECUTORS_VARIABLE}": str(self._deaths),
                "spark.eventLog.enabled": "true",
                "spark.eventLog.dir": f"file://{self.events}",
                "spark.eventLog.compress": "false",
                "spark.eventLog.rolling.enabled": "false",
                **spark,
            },
        }
        topic = {"slots": dict(zip(("min", "max"), slots, strict=True))}
        super().__init__(folder, broker, chance, settings=settings, topic=topic, ack_deadline=_ACK_DEADLINE)

    def let_die_at(self, step: str) -> None:
        """The first executor that gets there."""
        (self._deaths / step).touch()

    def race(self) -> Race:
        """Faults by which the first slot to be pulled is pulled twice."""
        held = self._deaths / f"{_HELD_AT}.held"
        held.with_suffix(".hold").touch()

        def second_manifest() -> bool:
            return held.exists() and len(listed_manifests(self.tables.raw.files())) >= len(_HOSTS)

        return Race(second_manifest, lambda: held.unlink(missing_ok=True))

    def await_race(self, process: subprocess.Popen[bytes], race: Race) -> list[str]:
        """Until two attempts at one slot have met, one has lost, and everything is read; what is wrong then."""
        death = self._deaths / RACE_LOST
        is_lost = race.given_back.is_set if not death.exists() else lambda: not death.exists()
        self.watch(process, is_lost)
        if not (race.begun.is_set() and is_lost()):
            return [f"no attempt at a slot lost it to another; see {self.log}"]
        race.given_back.set()
        return self._read(process)

    def await_recovery(self, process: subprocess.Popen[bytes], step: str) -> list[str]:
        """Until an executor has died at the step, and others have done its work; what is wrong then."""
        self.let_die_at(step)
        death = self._deaths / step
        self.watch(process, lambda: not death.exists())
        return self._read(process) if not death.exists() else [f"no executor died; see {self.log}"]

    def _read(self, process: subprocess.Popen[bytes]) -> list[str]:
        """What a dead executor had leased comes again at once."""
        self._clock.skip(_ACK_DEADLINE)
        self.watch(process, self.is_read)
        left = len(self.broker.unacked(SUBSCRIPTION))
        return [f"{left} messages are not read; see {self.log}"] if left else violations_so_far(self.topic, self.config)
