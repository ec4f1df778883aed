"""Schedules of what can go wrong, played in one process: the real source, ingest and stages without Spark.

`Driver` does what Spark does with the source and with `foreachBatch`: offset log, partitions, reads, the batch, commit
log. A death is an exception that nothing catches; the run is abandoned there, without any clean-up, and its leases end
by the broker's clock. Everything is decided by the schedule, and a schedule by its seed.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
from google.cloud.monitoring_v3 import types as monitoring
from google.pubsub_v1 import types

from lakehouse import failpoints, hours
from lakehouse.config import Config, Settings
from lakehouse.crash.invariants import Expected, violations
from lakehouse.errors import LakehouseError
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.frontier import MonitoringFrontier
from lakehouse.ingest.query import TopicIngest
from lakehouse.landing.brokers.pubsub import Pauses, SubscriptionReader
from lakehouse.landing.manifests import Slot
from lakehouse.landing.pull import Puller
from lakehouse.landing.source import SegmentStream, source_options
from lakehouse.mirrors.stage import mirror_due
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel, DirectError
from lakehouse.sandbox.faults import Faults, RandomFaults
from lakehouse.schemas import FACTS
from lakehouse.seal.stage import seal_due
from lakehouse.store.ledger import Ledger
from lakehouse.store.records import CloseRequested, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Slots, Topic, topic_from
from lakehouse.validate.release import release
from lakehouse.validate.stage import validate_hour

PUBSUB_TOPIC = "projects/sandbox/topics/plays"
SUBSCRIPTION = "projects/sandbox/subscriptions/plays"
ACK_DEADLINE = timedelta(seconds=10)
_START = datetime(2035, 3, 5, 9, 20, tzinfo=UTC)
"""Later than any real time, as files carry the time of their writing and hours must be quiet by this clock."""
_MOST_BATCHES = 80
_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class Death(BaseException):
    """SIGKILL, as far as one process can play it."""


class CheckpointInUseError(Exception):
    """Spark's own: another query has written the same entry of the offset log."""


@dataclass(frozen=True)
class Act:
    """One thing that happens. `meanwhile` happens inside it, when it reaches `at`; `dies_at` ends it."""

    kind: str
    seed: int = 0
    driver: str = "a"
    amount: float = 0
    at: str | None = None
    nth: int = 1
    meanwhile: tuple[Act, ...] = ()
    dies_at: str | None = None

    def __str__(self) -> str:
        what = f"{self.kind} {self.driver}" if self.kind in ("batch", "start", "stop") else self.kind
        what += f" {self.amount:g}" if self.amount else ""
        if self.meanwhile:
            what += f" [at {self.at!r}" + (f" ({self.nth}.): " if self.nth > 1 else ": ")
            what += ", ".join(map(str, self.meanwhile)) + "]"
        return what + (f" [dies at {self.dies_at!r}]" if self.dies_at else "")


@dataclass(frozen=True)
class Schedule:
    """What happens, in order; afterwards one more driver is left in peace until everything is delivered."""

    name: str
    acts: tuple[Act, ...]
    empty_hours: str = "skip"
    first_hour: str = "earliest"
    dies_once_at: str | None = None
    nth: int = 1


@dataclass
class Outcome:
    """What was found wrong, and whether the death that the schedule is about did come."""

    schedule: Schedule
    violations: list[str]
    has_died: bool
    trace: list[str]

    @property
    def is_right(self) -> bool:
        return not self.violations and (self.has_died or self.schedule.dies_once_at is None)


def played(schedule: Schedule, folder: Path) -> Outcome:
    """The schedule from beginning to end, in an empty folder."""
    world = World(schedule, folder)
    for act in schedule.acts:
        world.perform(act)
    wrong = world.end_in_peace()
    return Outcome(schedule, wrong, world.has_died, world.trace)


def shrunk(schedule: Schedule, is_failing: Callable[[Schedule], bool]) -> Schedule:
    """A schedule with as few acts as possible that still fails: no single one of them can be left out."""
    acts = list(schedule.acts)
    size = max(1, len(acts) // 2)
    while True:
        start = 0
        while start < len(acts):
            fewer = acts[:start] + acts[start + size :]
            if is_failing(replace(schedule, acts=tuple(fewer))):
                acts = fewer
            else:
                start += size
        if size == 1:
            return replace(schedule, acts=tuple(acts))
        size //= 2


# --- which schedules there are -------------------------------------------------------------------------------------


def dying_at(step: str, seed: int = 0) -> Schedule:
    """A topic's ordinary days, with one death at the step; by the seed it is another one that dies there."""
    chance = random.Random(f"{step} {seed}")
    rival = Act("batch", at="pull.files_durable", meanwhile=(Act("rival"),))
    day: list[Act] = []
    for _ in range(2):
        day += [Act("publish", chance.randrange(10**6), amount=chance.randrange(4, 14)), Act("batch")]
        day += [Act("wait", amount=chance.choice([60, 1800, 5400])), Act("litter")]
        day += [Act("publish", chance.randrange(10**6), amount=chance.randrange(1, 9)), rival]
        day += [
            Act("wait", amount=3600),
            Act("batch"),
            Act("batch"),
            Act("close"),
            Act("batch"),
            Act("stages"),
            Act("stop"),
        ]
    nth = 1 if seed == 0 else chance.randrange(1, 3)
    first_hour = chance.choice(["earliest", "now"])
    return Schedule(f"dies at {step!r}, seed {seed}", tuple(day), first_hour=first_hour, dies_once_at=step, nth=nth)


def random_schedule(seed: int) -> Schedule:
    """Anything at any time: weather, deaths, lost and restored checkpoints, two drivers, late and repeated events."""
    chance = random.Random(seed)
    is_long = chance.random() < 0.5
    acts = tuple(_random_act(chance, is_long) for _ in range(chance.randrange(15, 40)))
    return Schedule(
        f"seed {seed}",
        (Act("publish", chance.randrange(10**6), amount=6), *acts),
        empty_hours="skip" if is_long else "close",
        first_hour=chance.choice(["earliest", "now"]),
    )


_STEPS_OF = {
    "start": ["ingest.started", "ingest.close_recorded"],
    "batch": list(failpoints.STEPS)[1 : list(failpoints.STEPS).index("seal.files_durable")],
    "stages": list(failpoints.STEPS)[list(failpoints.STEPS).index("seal.files_durable") :],
}
_LIKELY = {"publish": 8, "batch": 16, "wait": 5, "stages": 3, "weather": 2, "start": 3, "close": 2, "stop": 1}
_LIKELY |= {"lose": 1, "save": 1, "restore": 1, "litter": 1, "release": 1}


def _random_act(chance: random.Random, is_long: bool, depth: int = 0) -> Act:
    kind = chance.choices(list(_LIKELY), list(_LIKELY.values()))[0]
    act = Act(kind, chance.randrange(10**6), driver=chance.choice("aaab"))
    if kind == "publish":
        return replace(act, amount=chance.randrange(1, 12))
    if kind == "wait":
        return replace(act, amount=chance.choice([1, 5, 11, 60, 1800, 7200] + [86_400, 200_000] * is_long))
    if kind not in _STEPS_OF or depth > 1:
        return act
    if chance.random() < 0.35:
        act = replace(act, dies_at=chance.choice(_STEPS_OF[kind]))
    if chance.random() < 0.35:
        act = replace(act, at=chance.choice(_STEPS_OF[kind]), nth=chance.choice([1, 1, 1, 2]))
        inner = tuple(_other(_random_act(chance, is_long, depth + 1), act) for _ in range(chance.randrange(1, 4)))
        may_race = act.at == "pull.files_durable" and chance.random() < 0.5
        act = replace(act, meanwhile=(Act("rival"),) if may_race else inner)
    return act


def _other(act: Act, outer: Act) -> Act:
    """What happens inside a driver's batch is the other driver's doing."""
    return replace(act, driver="b" if outer.driver == "a" else "a")


# --- the world -----------------------------------------------------------------------------------------------------


class World:
    """What outlives every driver: the broker and its clock, the lake, the checkpoints."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self._schedule = schedule
        self.now = _START
        self.sweep_every = 3
        self.broker = Broker(clock=lambda: self.now.timestamp())
        self._channel = DirectChannel(self.broker)
        self._call("CreateTopic", types.Topic, name=PUBSUB_TOPIC)
        self._call(
            "CreateSubscription",
            types.Subscription,
            name=SUBSCRIPTION,
            topic=PUBSUB_TOPIC,
            ack_deadline_seconds=int(ACK_DEADLINE.total_seconds()),
        )
        self.config = _config(schedule, folder)
        self.topic = self.config.topic("plays")
        self.tables = TopicTables(self.topic, self.config.settings)
        self._checkpoints, self._copies = folder / "checkpoints", folder / "copies"
        self.drivers: dict[str, Driver] = {}
        self._busy: list[Driver] = []
        self._number = 0
        self._events: list[bytes] = []
        self._good: set[str] = set()
        self._bad = 0
        self._unexpected: list[str] = []
        self._seen = 0
        self.has_died = False
        self.trace: list[str] = []

    # --- acts

    def perform(self, act: Act) -> None:
        """Let it happen; what dies of it, or ends with an error of ours, is gone afterwards."""
        self.trace.append(str(act))
        with self._watching(act):
            try:
                getattr(self, f"_{act.kind}")(act)
            except Death:
                self.trace.append("  died")
                self.drivers.pop(act.driver, None)
            except (LakehouseError, CheckpointInUseError) as error:
                self.trace.append(f"  {type(error).__name__}: {error}"[:200])
                if act.kind in ("batch", "start"):
                    self.drivers.pop(act.driver, None)

    def _publish(self, act: Act) -> None:
        chance = random.Random(act.seed)
        for _ in range(int(act.amount)):
            payload = self._payload(chance)
            message = types.PubsubMessage.pb()(data=payload)
            try:
                self._call("Publish", types.PublishRequest, topic=PUBSUB_TOPIC, messages=[message])
            except DirectError:
                self._call("Publish", types.PublishRequest, topic=PUBSUB_TOPIC, messages=[message], surely=True)

    def _payload(self, chance: random.Random) -> bytes:
        """A new event, some time late; or one that was published before; or none at all."""
        if chance.random() < 0.05:
            return b"not json"
        if self._events and chance.random() < 0.15:
            return chance.choice(self._events)
        late = chance.choice(
            [0, 30, 600, 3000, 5000, 9000, 20_000] + [90_000, 250_000] * (self.topic.empty_hours == "skip")
        )
        event_id = f"e{len(self._events):04d}"
        played_at = self.now - timedelta(seconds=chance.uniform(0, late))
        self._events.append(
            json.dumps({"event_id": event_id, "played_at": played_at.isoformat(), "n": chance.randrange(100)}).encode()
        )
        return self._events[-1]

    def _wait(self, act: Act) -> None:
        self.now += timedelta(seconds=act.amount)

    def _weather(self, act: Act) -> None:
        chance = random.Random(act.seed)

        def rate() -> float:
            return chance.choice([0, 0, 0.1, 0.3])

        self.broker.faults = RandomFaults(
            act.seed,
            refused=rate(),
            answer_lost=rate(),
            duplicated=rate(),
            reordered=rate(),
            delayed=rate(),
            ack_dropped=rate(),
            lease_cut=rate(),
            longest_delay=timedelta(seconds=chance.choice([5, 600])),
            codes=_PASSING if chance.random() < 0.7 else (*_PASSING, grpc.StatusCode.PERMISSION_DENIED),
        )

    def _start(self, act: Act) -> None:
        if self.drivers.get(act.driver) in self._busy:
            return
        chance = random.Random(act.seed)
        self.drivers.pop(act.driver, None)
        least = chance.randrange(1, 4)
        slots = Slots(min=least, max=chance.randrange(least, 5))
        checkpoint = self._checkpoints / chance.choice(["shared", "shared", f"own-{act.driver}"])
        self._number += 1
        driver = Driver(
            self, self.topic.model_copy(update={"slots": slots}), checkpoint, f"{act.driver}{self._number}", chance
        )
        driver.open()
        self.drivers[act.driver] = driver

    def _batch(self, act: Act) -> None:
        if act.driver not in self.drivers:
            self._start(act)
        driver = self.drivers[act.driver]
        if driver in self._busy:
            return
        self._busy.append(driver)
        try:
            driver.batch()
        except Exception as error:
            if not isinstance(error, (LakehouseError, CheckpointInUseError)):
                self._unexpected.append(f"{type(error).__name__}: {error}")
                self.drivers.pop(act.driver, None)
                return
            raise
        finally:
            self._busy.remove(driver)

    def _rival(self, act: Act) -> None:
        """A second attempt at the slot that is being pulled, as speculation starts it."""
        if self._busy and self._busy[-1].slot is not None:
            with self._watching(Act("rival")):
                self._busy[-1].read_again()

    def _stop(self, act: Act) -> None:
        if self.drivers.get(act.driver) not in self._busy:
            self.drivers.pop(act.driver, None)

    def _stages(self, act: Act) -> None:
        if not self.tables.has_ledger():
            return
        run = f"stages-{act.seed}"
        seal_due(self.topic, self.config, run=run)
        for hour in self.tables.history().due_to_validate():
            validate_hour(self.topic, self.config, hour, run=run)
        mirror_due(self.topic, self.config, None, run=run)

    def _close(self, act: Act) -> None:
        """Somebody asks for all hours so far to close."""
        if self.tables.has_ledger():
            self._ledger().record(CloseRequested(by="ann", reason="done"), hours.hour_of(self.now))

    def _release(self, act: Act) -> None:
        history = self.tables.history()
        for hour in history.hours():
            if history.state_of(hour) == State.INVALID:
                release(self.topic, self.config, hour, "looked at", "ann")

    def _lose(self, act: Act) -> None:
        shutil.rmtree(self._checkpoints / "shared", ignore_errors=True)

    def _save(self, act: Act) -> None:
        shutil.rmtree(self._copies, ignore_errors=True)
        if (self._checkpoints / "shared").exists():
            shutil.copytree(self._checkpoints / "shared", self._copies)

    def _restore(self, act: Act) -> None:
        """An old copy comes back, as from a backup."""
        if self._copies.exists():
            self._lose(act)
            shutil.copytree(self._copies, self._checkpoints / "shared")

    def _litter(self, act: Act) -> None:
        """Something lies where the next hours are to be mirrored."""
        place = Path(str(self.config.settings.mirrors["folder"]["path"]), self.topic.name)
        for hour in hours.hours_between(hours.after(hours.hour_of(self.now), -3), hours.after(hours.hour_of(self.now))):
            if not (place / hour).exists():
                (place / hour).mkdir(parents=True)
                (place / hour / "half.crc").write_text("left over")

    # --- the end

    def end_in_peace(self) -> list[str]:
        """One driver without faults, until all is delivered, sealed, cleared and mirrored; what is wrong then."""
        self.broker.faults = Faults()
        self.drivers.clear()
        self.now += timedelta(hours=1)
        quiet = Act("batch", 0, "z")
        try:
            self._until_finished(quiet)
            self._close(quiet)
            self._until_finished(quiet)
            for _ in range(5):  # a pass may die, and what it finds invalid is for the next one
                self.perform(Act("stages"))
                self.perform(Act("release"))
                if not self._is_anything_due():
                    break
        except LakehouseError as error:
            self._unexpected.append(str(error))
        return [*self._unexpected, *self._violations()]

    def _until_finished(self, act: Act) -> None:
        """As `--until-dry` ends; twice, as the first may die once more."""
        for _ in range(_MOST_BATCHES):
            self.perform(act)
            driver = self.drivers.get(act.driver)
            last = driver.last_batch if driver else None
            if last and last.is_finished and not self.broker.unacked(SUBSCRIPTION):
                return
            self.now += timedelta(seconds=11)
        self._unexpected.append(f"not finished after {_MOST_BATCHES} batches in peace")

    def _is_anything_due(self) -> bool:
        history = self.tables.history()
        return bool(history.due_to_seal() or history.due_to_validate() or history.due_to_mirror("folder"))

    def _violations(self) -> list[str]:
        published = self.broker.published(PUBSUB_TOPIC)
        acknowledged = set(published) - set(self.broker.unacked(SUBSCRIPTION))
        return violations(self.topic, self.config, Expected(self._good, self._bad, acknowledged))

    # --- what acts are made of

    def _call(self, method: str, kind: Any, *, surely: bool = False, **values: Any) -> Any:
        request = kind.pb()(**values)
        if surely:
            faults, self.broker.faults = self.broker.faults, Faults()
            try:
                return self._call(method, kind, **values)
            finally:
                self.broker.faults = faults
        before = len(self.broker.published(PUBSUB_TOPIC)) if method == "Publish" else 0
        try:
            return self._channel.unary_unary(f"/x/{method}")(request)
        finally:
            if method == "Publish" and len(self.broker.published(PUBSUB_TOPIC)) > before:
                self._remember([message.data for message in request.messages])

    def _remember(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            if payload == b"not json":
                self._bad += 1
            else:
                self._good.add(json.loads(payload)["event_id"])

    @contextmanager
    def _watching(self, act: Act) -> Iterator[None]:
        """Steps inside the act are its own; what happens around it is not interrupted by them."""
        before = failpoints.watcher()
        seen = 0

        def watcher(step: str) -> None:
            nonlocal seen
            if step == self._schedule.dies_once_at and not self.has_died:
                self._seen += 1
                if self._seen == self._schedule.nth:
                    self.has_died = True
                    raise Death(step)
            if step == act.at:
                seen += 1
                for inner in act.meanwhile if seen == act.nth else ():
                    self.perform(inner)
            if step == act.dies_at:
                raise Death(step)

        failpoints.watch(watcher)
        try:
            yield
        finally:
            failpoints.watch(before)

    def frontier(self) -> MonitoringFrontier:
        client = _Monitoring(DirectChannel(self.broker).unary_unary("/x/ListTimeSeries"))
        return MonitoringFrontier(SUBSCRIPTION, client, timedelta(minutes=5), ask_every=timedelta(0))

    def _ledger(self) -> Ledger:
        return self.tables.ledger("world", lambda: self.now)


class _Monitoring:
    """The one call of a MetricServiceClient that a frontier makes."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._call = call

    def list_time_series(self, request: Mapping[str, Any], timeout: float) -> Iterable[Any]:
        from google.api_core.exceptions import from_grpc_status

        try:
            answer = self._call(monitoring.ListTimeSeriesRequest.pb(monitoring.ListTimeSeriesRequest(**request)))
        except DirectError as error:
            refused: Exception = from_grpc_status(error.code(), error.details())  # type: ignore[no-untyped-call]
            raise refused from error
        series: Iterable[Any] = answer.time_series
        return series


# --- Spark's part --------------------------------------------------------------------------------------------------


class Driver:
    """One life of a topic's ingest query: the checkpoint's two logs, and what Spark calls between them."""

    def __init__(self, world: World, topic: Topic, checkpoint: Path, run: str, chance: random.Random) -> None:
        settings = world.config.settings
        bounds = settings.ingest.model_copy(update={"max_messages": chance.choice([3, 8, 50])})
        raw = world.tables.raw
        self._options = source_options(topic, raw.uri, bounds, raw.options)
        config = replace(world.config, topics={topic.name: topic})
        self._ingest = TopicIngest(
            topic, config, run=run, clock=lambda: world.now, frontier=world.frontier(), sweep_every=world.sweep_every
        )
        self._offsets, self._commits = _Log(checkpoint / "offsets"), _Log(checkpoint / "commits")
        self._puller = hasty_puller(world.broker)
        self._stream = SegmentStream(self._options, self._puller)
        self._batch: int | None = None
        self._end: dict[str, Any] | None = None
        self.slot: Slot | None = None

    @property
    def last_batch(self) -> Batch | None:
        return self._ingest.last_batch

    def open(self) -> None:
        self._ingest.open_topic(ACK_DEADLINE)

    def batch(self) -> None:
        """One trigger; the first one of a life may be the last one of another that was not finished."""
        number, start, end = self._planned()
        if start is None:
            start = self._stream.initialOffset()
        slots = [slot for slot in self._stream.partitions(start, end) if isinstance(slot, Slot)]
        frame: Any = _Frame(lambda: [batch for slot in slots for batch in self._read(slot)])
        self._ingest.on_batch(frame, number)
        self._commits.put(number, {})
        self._batch, self._end = number, end

    def read_again(self) -> None:
        """Another attempt at the slot that is being read, on another executor."""
        assert self.slot is not None
        list(SegmentStream(self._options, self._puller).read(self.slot))

    def _planned(self) -> tuple[int, dict[str, Any] | None, dict[str, Any]]:
        """The batch's number, start and end: the next one, or at first the one that has no entry in the commit log."""
        if self._batch is None and (last := self._offsets.latest()) is not None:
            number, end = last
            if self._commits.read(number) is None:
                return number, self._offsets.read(number - 1), end
            self._stream.partitions(end, end)
            self._batch, self._end = number, end
        number = -1 if self._batch is None else self._batch
        following = self._stream.latestOffset()
        self._offsets.put(number + 1, following)
        return number + 1, self._end, following

    def _read(self, slot: Slot) -> Iterator[pa.RecordBatch]:
        self.slot = slot
        yield from self._stream.read(slot)
        self.slot = None


class _Frame:
    """The part of a DataFrame that a batch uses: reads happen when it is collected."""

    def __init__(self, batches: Callable[[], list[pa.RecordBatch]]) -> None:
        self._batches = batches

    def toArrow(self) -> pa.Table:
        return pa.Table.from_batches(self._batches(), FACTS)


@dataclass
class _Log:
    """One of a checkpoint's logs: numbered entries, each put once."""

    folder: Path
    _mine: dict[int, Any] = field(default_factory=dict)

    def put(self, number: int, entry: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with (self.folder / str(number)).open("x") as file:
                json.dump(entry, file)
        except FileExistsError as taken:
            raise CheckpointInUseError(f"{self.folder.name}/{number} is there already") from taken

    def read(self, number: int) -> dict[str, Any] | None:
        path = self.folder / str(number)
        return dict(json.loads(path.read_text())) if path.exists() else None

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        numbers = [int(path.name) for path in self.folder.glob("*")] if self.folder.exists() else []
        if not numbers:
            return None
        return max(numbers), self.read(max(numbers)) or {}


# --- setting up ----------------------------------------------------------------------------------------------------


def _config(schedule: Schedule, folder: Path) -> Config:
    topic = topic_from(
        "plays",
        {
            "subscription": SUBSCRIPTION,
            "event_id": "payload.event_id",
            "event_time": "payload.played_at",
            "fields": {"n": "bigint"},
            "lateness": "30 minutes",
            "quiet_period": "0 seconds",
            "dedup_horizon": "60 days",
            "first_hour": schedule.first_hour,
            "empty_hours": schedule.empty_hours,
            "mirrors": ["folder"],
        },
    )
    settings = Settings(
        raw_root=str(folder / "raw"),
        sealed_root=str(folder / "sealed"),
        release="crash",
        ingest={"empty_after": "0.005 seconds"},
        mirrors={"folder": {"kind": "folder", "path": str(folder / "mirror")}},
    )
    expectations = folder / "expectations"
    expectations.mkdir(parents=True)
    write_suites(expectations)
    return Config(folder / "conf" / "crash.yaml", settings, {"plays": topic}, expectations)


def write_suites(folder: Path) -> None:
    """Hours with an event of `n` above 97 are invalid: enough that some are, and have to be released."""
    (folder / "_every_topic.json").write_text(json.dumps({"name": "_every_topic", "expectations": []}))
    low = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "n", "max_value": 97},
        "severity": "critical",
    }
    (folder / "plays.json").write_text(json.dumps({"name": "plays", "expectations": [low]}))


def hasty_puller(broker: Broker) -> Puller:
    """One whose calls reach the broker directly, with short pauses and small requests."""
    return Puller(connect=partial(_hasty_reader, broker))


def _hasty_reader(broker: Broker, subscription: str, answers: str) -> SubscriptionReader:
    pauses = Pauses(timedelta(seconds=0.0005), timedelta(seconds=0.001))
    channel: Any = DirectChannel(broker)
    return SubscriptionReader(subscription, answers=answers, channel=channel, pauses=pauses, max_ack_ids=3)
