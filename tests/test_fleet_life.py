"""Real applications under a real fleet: Spark, the sandbox's broker, supervisors, and a take-over while events flow."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SPARK_SETTINGS
from fleets import end_all, fleet_at, topic_values, write_fleet
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient

from lakehouse.errors import LakeError
from lakehouse.fleet.deploy import deploy, plan_of, running, stop_plan
from lakehouse.fleet.deployments import Deployment
from lakehouse.fleet.files import launcher_of, wanted_versions
from lakehouse.fleet.launchers.local import LocalLauncher
from lakehouse.sandbox.broker import Broker
from lakehouse.store.delta import files
from lakehouse.store.tables import TopicTables

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NAMES = ["plays", "skips"]
APPLICATIONS = {"music": {"topics": ["*"]}}
PATIENCE_SECONDS = 200.0
"""On a busy machine a first batch takes a minute."""


class Publisher:
    """Publishes to all topics until it is closed; what was published of each."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self._over = threading.Event()
        self._client = PublisherClient()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._client.stop()

    def _publish(self) -> None:
        while not self._over.wait(0.1):
            for name in NAMES:
                number = self.sent[name]
                event = {"event_id": f"{name}-{number}", "played_at": datetime.now(UTC).isoformat(), "user": "u"}
                self._client.publish(f"projects/test/topics/{name}", json.dumps(event).encode()).result(30)
                self.sent[name] += 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with Broker() as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        with PublisherClient() as publisher, SubscriberClient() as subscriber:
            for name in NAMES:
                topic, subscription = f"projects/test/topics/{name}", topic_values(name)["subscription"]
                publisher.create_topic(name=topic)
                subscriber.create_subscription(request={"name": subscription, "topic": topic})
        yield broker


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        size = {"master": "local[1]", "driver_memory": "600m", "spark": {"spark.ui.enabled": "false"}}
        roll_out = {"canary_for": "1 second", "wave_within": "6 minutes"}
        self.conf = write_fleet(folder, APPLICATIONS, NAMES, sizes={"tiny": size}, size="tiny", roll_out=roll_out)
        values = yaml.safe_load(self.conf.read_text())
        spark = {key: value for key, value in SPARK_SETTINGS.items() if "memory" not in key and "master" not in key}
        values |= {"frontier": {"source": "drained"}, "spark": spark}
        self.conf.write_text(yaml.safe_dump(values))
        launcher = launcher_of(fleet_at(self.conf))
        assert isinstance(launcher, LocalLauncher)
        self.launcher = launcher

    def deploy(self, **options: Any) -> Deployment:
        fleet = fleet_at(self.conf)
        wanted = options.pop("wanted", lambda: plan_of(fleet, self.launcher, wanted_versions(fleet)))
        ended = deploy(fleet, self.launcher, wanted, by="ann", report=print, **options)
        for job in self.launcher.jobs():
            if ended is None or ended.outcome != "done":
                print(job, "\n".join(self.launcher.log_tail(job.launch.id, 30)), sep="\n")
        assert ended is not None
        assert ended.outcome == "done", ended.why
        return ended

    def awaited(self, is_so: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < until, what
            time.sleep(0.5)

    def rows(self, topic: str) -> int:
        """What bronze has of a topic; 0 before there is one."""
        config = fleet_at(self.conf).config
        try:
            return sum(file.rows for file in files(TopicTables(config.topic(topic), config.settings).bronze()))
        except LakeError:
            return 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    end_all(made.launcher)


def test_a_deployment_takes_over_while_events_flow_and_every_event_is_there_once(site: Site, broker: Broker) -> None:
    """By the fence, without a gap; what the old run had begun is adopted by the new one."""
    publisher = Publisher()
    try:
        site.deploy()
        site.awaited(lambda: all(site.rows(name) for name in NAMES), "events of every topic")
        for name in NAMES:
            file = site.conf.parent / "topics" / f"{name}.yaml"
            file.write_text(yaml.safe_dump({**topic_values(name), "lateness": "2 hours"}))
        ended = site.deploy()
    finally:
        publisher.close()
    assert {step.application: step.state for step in ended.steps} == {"music": "well"}
    assert [job.is_retired for job in site.launcher.jobs()] == [True, False]
    fleet = fleet_at(site.conf)
    site.awaited(lambda: all(site.rows(name) >= publisher.sent[name] for name in NAMES), "all events")
    assert {name: site.rows(name) for name in NAMES} == dict(publisher.sent)
    assert not any(broker.unacked(fleet.config.topic(name).subscription) for name in NAMES)
    site.deploy(kind="stop", wanted=lambda: stop_plan(fleet, site.launcher, ["music"]))
    site.awaited(lambda: not any(job.is_active for job in site.launcher.jobs()), "an end")
    assert not any(each.is_alive for each in running(fleet, site.launcher).values())
