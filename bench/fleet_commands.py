"""What the commands on a fleet take: of lakes with a year of ledgers, and of applications that are really started.

A lake is made once, as `bench.grown` says, and every topic has one by links to its files: nothing here changes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import yaml

from bench.grown import grow_ledger
from bench.played import PlayedTopics
from bench.report import Report
from lakehouse.config import MLflow, load
from lakehouse.crash.small_lake import PLAYS, write_suites
from lakehouse.fleet.deploy import deploy, plan_of
from lakehouse.fleet.files import Fleet, launcher_of, load_fleet, wanted_versions
from lakehouse.fleet.health import fleet_health
from lakehouse.running.heart import Heart
from lakehouse.running.identity import configuration_hash
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.fleet.__main__ import APPLICATIONS, named
from lakehouse.sandbox.fleet.alerts import Receiver
from lakehouse.sandbox.fleet.site import Site
from lakehouse.store.heartbeats import BEAT_EVERY, Heartbeat, Heartbeats, Pulse
from lakehouse.store.table_log import newest_log

BUILD = Path("build/bench/fleet").absolute()
_YEAR = 365
_APPLICATIONS = 4
_ROUNDS = 3
_WATCHED_SECONDS = 60.0
_PATIENCE = 120.0


class Unmeasured(Exception):
    """What was to be measured did not come."""


def status(report: Report, count: int) -> None:
    """From reading the files to the last topic's cause, in a process that has begun; and the command as a whole."""
    bound, plan_bound = (1.0, 1.0) if count <= 300 else (4.0, None)
    with _grown(count) as conf:
        seconds, cpu = _best(lambda: _fleet_is_well(_fleet(conf)))
        about = f"`fleet status` of {count:,} topics with a year of ledgers"
        report.at_most(about, seconds, bound, "seconds")
        report.shown(f"{about}: core-seconds", cpu, "core-seconds")
        report.shown(f"{about}: the command as a whole", _command_seconds(conf, "fleet", "status"), "seconds")
        seconds, _ = _best(lambda: _plan(_fleet(conf)))
        if plan_bound is not None:
            report.at_most(f"`fleet plan` of {count:,} topics", seconds, plan_bound, "seconds")


def watch(report: Report, count: int) -> None:
    """The command as it is started, looking as often as it does by default; and how soon it tells of an incident."""
    with Receiver() as receiver, _grown(count, receiver.address) as conf, _watching(conf) as process:
        _wait(lambda: _looks(process) >= 2, "two looks of the watch")
        before, began = _cpu(process), time.monotonic()
        time.sleep(_WATCHED_SECONDS)
        cores = (_cpu(process) - before) / (time.monotonic() - began)
        memory = process.memory_full_info().pss
        seen = _seconds_until_notified(_fleet(conf), receiver)
    about = f"`fleet watch` of {count:,} topics with a year of ledgers"
    report.at_most(f"{about}: cores", cores, 0.1, "cores")
    report.at_most(f"{about}: memory", memory / 1024**2, 300, "MiB")
    bound = 2 * BEAT_EVERY.total_seconds()
    report.at_most("an incident: from the failure of a topic to the webhook", seen, bound, "seconds")


def start(report: Report, count: int) -> None:
    """A first deployment of the fleet of `make fleet`: real applications, until each topic was polled."""
    site = Site(BUILD / "site", named(APPLICATIONS), "http://127.0.0.1:9/")
    with Broker() as broker:
        os.environ["PUBSUB_EMULATOR_HOST"] = broker.address
        site.write()
        for topic in site.fleet.config.topics.values():
            broker.create(topic.subscription)
        try:
            began = time.monotonic()
            ended = deploy(site.fleet, site.launcher, lambda: _plan(site.fleet), report=print)
            seconds = time.monotonic() - began
        finally:
            site.end_all()
    if ended is None or ended.outcome != "done":
        raise Unmeasured(f"the deployment ended as {ended.outcome if ended else None}: {ended.why if ended else ''}")
    about = f"`fleet deploy` of {len(site.names)} topics in {len(site.applications)} applications, local"
    report.at_most(about, seconds, 90, "seconds")


# --- grown lakes -----------------------------------------------------------------------------------------------------


@contextmanager
def _grown(count: int, webhook: str = "") -> Iterator[Path]:
    """The environment's file of a fleet of so many topics, whose applications have just given a sign of life."""
    shutil.rmtree(BUILD, ignore_errors=True)
    topic = PlayedTopics(None, BUILD / "played")
    no_runs = topic.config.settings.model_copy(update={"mlflow": MLflow(tracking_uri="none")})
    topic.config = replace(topic.config, settings=no_runs)
    topic.world.now = datetime.now(UTC) - timedelta(hours=5)
    topic.trigger(events=2)
    grow_ledger(topic, 24 * _YEAR)
    topic.start_again()
    topic.close_hour(4)
    topic.deliver()
    log = newest_log(topic.world.tables.raw.below("bronze").uri, {})
    assert log is not None
    names = [f"topic_{number:04d}" for number in range(count)]
    settings = topic.config.settings
    for root in (settings.raw_root, settings.sealed_root):
        for name in names:
            shutil.copytree(Path(root, PLAYS), Path(root, name), copy_function=os.link)
    conf = _written(topic, names, webhook)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(_fleet(conf), log.version, stop), daemon=True)
    beating.start()
    _wait(lambda: len(Heartbeats(settings).all()) == _APPLICATIONS, "heartbeats")
    try:
        yield conf
    finally:
        stop.set()
        beating.join()
        shutil.rmtree(BUILD, ignore_errors=True)


def _written(topic: PlayedTopics, names: list[str], webhook: str) -> Path:
    conf = BUILD / "conf" / "bench.yaml"
    (conf.parent / "topics").mkdir(parents=True)
    settings = topic.config.settings
    values = {
        "raw_root": settings.raw_root,
        "sealed_root": settings.sealed_root,
        "mirrors": dict(settings.mirrors),
    }
    conf.write_text(yaml.safe_dump(values))
    own = topic.topic.model_dump(mode="json", exclude_defaults=True, exclude={"name", "source"})
    for name in names:
        own["subscription"] = f"projects/sandbox/subscriptions/{name}"
        (conf.parent / "topics" / f"{name}.yaml").write_text(yaml.safe_dump(own))
    (BUILD / "expectations").mkdir()
    write_suites(BUILD / "expectations", names)
    size = -(-len(names) // _APPLICATIONS)
    applications = {
        f"app-{number}": {"topics": names[number * size : (number + 1) * size]} for number in range(_APPLICATIONS)
    }
    fleet = {"applications": applications, "local": {"folder": "../applications"}}
    if webhook:
        fleet["watch"] = {"webhooks": [{"url": webhook}]}
    (conf.parent / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    return conf


def _beat(fleet: Fleet, commit: int, stop: threading.Event) -> None:
    while not stop.is_set():
        for name in fleet.names:
            Heartbeats(fleet.config.settings).write(_heartbeat(fleet, name, commit))
        stop.wait(BEAT_EVERY.total_seconds())


def _heartbeat(fleet: Fleet, name: str, commit: int) -> Heartbeat:
    at = datetime.now(UTC)
    topics = [fleet.config.topics[each] for each in fleet.applications[name].topics]
    started = Pulse(subscription="s", state="running", since=at)
    return Heartbeat(
        application=name,
        run="bench 2",
        host="here",
        release="bench",
        configuration=configuration_hash(fleet.config, topics),
        started_at=at - timedelta(hours=1),
        written_at=at,
        topics={topic.name: started.after_trigger(at, 1, at, commit) for topic in topics},
    )


# --- what is measured ------------------------------------------------------------------------------------------------


def _fleet(conf: Path) -> Fleet:
    return load_fleet(load(conf))


def _fleet_is_well(fleet: Fleet) -> None:
    """Unmeasured where a topic is not as it was made: it would be read in another way."""
    found = fleet_health(fleet, launcher_of(fleet))
    if found.incidents:
        raise Unmeasured(f"{found.incidents[0]}")


def _plan(fleet: Fleet) -> object:
    return plan_of(fleet, launcher_of(fleet), wanted_versions(fleet))


def _best(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, core-seconds) of the fastest."""
    timed = []
    for _ in range(_ROUNDS):
        began, cpu = time.monotonic(), time.process_time()
        work()
        timed.append((time.monotonic() - began, time.process_time() - cpu))
    return min(timed)


def _command(conf: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "lakehouse.cli", "--conf", str(conf), *words]


def _command_seconds(conf: Path, *words: str) -> float:
    began = time.monotonic()
    subprocess.run(_command(conf, *words), stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


@contextmanager
def _watching(conf: Path) -> Iterator[psutil.Popen]:
    """`fleet watch`, which serves its metrics at `address`."""
    process = psutil.Popen(
        _command(conf, "fleet", "watch", "--port", "0", "--json"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    process.address = json.loads(process.stdout.readline() + process.stdout.readline() + process.stdout.readline())[
        "address"
    ]
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _looks(process: psutil.Popen) -> int:
    from urllib.request import urlopen

    with urlopen(f"{process.address}metrics", timeout=30) as answer:
        found = re.search(r"watch_looks_total ([\d.]+)", answer.read().decode())
    return int(float(found[1])) if found else 0


def _cpu(process: psutil.Popen) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _seconds_until_notified(fleet: Fleet, receiver: Receiver) -> float:
    """A topic of an application fails, whose heart is the product's own."""
    name = fleet.names[0]
    said = replace(_heartbeat(fleet, name, 0), application="failing", started_at=datetime.now(UTC))
    pulses: Mapping[str, Pulse] = said.topics
    heart = Heart(Heartbeats(fleet.config.settings), said, lambda: pulses)
    heart.start()
    time.sleep(BEAT_EVERY.total_seconds() / 2)
    began = time.monotonic()
    ill = next(iter(pulses))
    pulses = {**pulses, ill: pulses[ill].after_failure("parked", datetime.now(UTC), "x: found y; expected z.", None)}
    _wait(lambda: any(ill in each.topics for each in receiver.open()), "a notification")
    seconds = next(each.at for each in receiver.open() if ill in each.topics) - began
    heart.end("asked to")
    return seconds


def _wait(is_so: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _PATIENCE
    while not is_so():
        if time.monotonic() > until:
            raise Unmeasured(f"{what} did not come within {_PATIENCE:.0f} s")
        time.sleep(0.1)
