"""A lake of two topics that is made once, without Spark, and copied for each case; and all that a release does to it.

Of each topic FIVE is sealed, judged and mirrored, SIX has closed, SEVEN is open, and two segments have manifests that
no commit took. Every table has a checkpoint, and commits after it.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from conftest import PLAYS, SPARK_SETTINGS
from pyspark.sql import SparkSession

from lakehouse.application import Application
from lakehouse.cli import app
from lakehouse.clock import Clock, now
from lakehouse.config import Config, load
from lakehouse.errors import unexpected
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.supervisor import Supervisor
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.manifests import Manifest, SegmentFile, listed_manifests, manifest_path
from lakehouse.landing.slots import Slot
from lakehouse.mirrors.stage import mirror_due
from lakehouse.operations import status
from lakehouse.operations.status import TopicStatus
from lakehouse.progress import Frontier
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.history import History
from lakehouse.store.tables import TopicTables
from lakehouse.validate.stage import validate_due
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake, begin_runs, write_conf, write_suite
from tests.pulls import facts_of, land_of

Facts = Callable[[str], list[dict[str, Any]]]

DAMAGED, NEIGHBOUR = "plays", "skips"
ADOPTED, READ = 900, 901
"""Epochs of the manifests that no commit took: a sweep finds the first, a slot that is read again the second."""
ACK_DEADLINE = timedelta(seconds=10)


@dataclass
class TwoTopics:
    """The lake below a folder, and its stages in the words of an operator: each gives what was said of each topic."""

    folder: Path
    spark: SparkSession | None = None

    @classmethod
    def made(cls, folder: Path) -> TwoTopics:
        lake = cls(folder)
        lake.configure()
        config = lake.config
        Path(config.settings.sealed_root).mkdir(parents=True, exist_ok=True)
        begin_runs(config.settings)
        for name in (DAMAGED, NEIGHBOUR):
            _fill(Lake(config.topic(name), config))
        return lake

    def copied(self, folder: Path, spark: SparkSession | None = None) -> TwoTopics:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow*"))
        copy = TwoTopics(folder, spark)
        copy.configure()
        return copy

    @property
    def config(self) -> Config:
        return load(self.folder / "conf" / "test.yaml")

    def tables(self, name: str = DAMAGED) -> TopicTables:
        return TopicTables(self.config.topic(name), self.config.settings)

    def at(self, path: str, name: str = DAMAGED) -> Path:
        return self.folder / "lake" / name / path

    def history(self, name: str = NEIGHBOUR) -> History:
        return self.tables(name).history()

    def made_file(self, path: str) -> Path:
        self.at(path).parent.mkdir(parents=True)
        return self.at(path)

    def statuses(self, *names: str, looks_at_files: bool = False) -> list[TopicStatus]:
        return status.statuses(self.config, names, now(), looks_at_files=looks_at_files)

    # --- stages --------------------------------------------------------------------------------------------------

    def ingest(self, facts: Facts | None = None, clock: Clock = now) -> dict[str, BaseException]:
        """Open every topic, plan and read an epoch, commit it: the steps that Spark calls; what failed, by topic."""
        config, facts = self.config, facts or self.known_facts
        ingests = [
            _Ingest(topic, config, run=uuid.uuid4().hex[:8], clock=clock, frontier=_Drained())
            for topic in config.topics.values()
        ]
        query = IngestQuery(ingests, config.settings)
        supervisor = Supervisor(query, ingests, lambda: None)  # type: ignore[arg-type, return-value]
        supervisor.open()
        failed: dict[str, BaseException] = dict(supervisor.failures)
        ready = list(query.topics.values())
        for ingest in ready:
            try:
                ingest.commit_facts(facts(ingest.name))
            except Exception as error:
                failed[ingest.name] = unexpected(f"ingest of {ingest.name}", error)
                ingest.record_failure(failed[ingest.name])
        for ingest in ready:
            if ingest.name not in failed:
                ingest.record_stop()
        return failed

    def known_facts(self, name: str) -> list[dict[str, Any]]:
        """Of an epoch that is planned, but whose slot another attempt has pulled."""
        return self._facts(name, READ)

    def pulled_facts(self, name: str) -> list[dict[str, Any]]:
        """Of a new epoch, from the broker."""
        tables = self.tables(name)
        last = max(epoch for epoch, _ in listed_manifests(tables.raw.files()))
        return self._facts(name, max(last, newest_state(tables.bronze()).epoch) + 1)

    def _facts(self, name: str, epoch: int) -> list[dict[str, Any]]:
        config, tables = self.config, self.tables(name)
        land = land_of(config.topic(name), tables.raw.uri, config.settings.ingest)
        return facts_of(land, [Slot(epoch, 0, SEVEN)], name=name)

    def stage(self, job: Callable[[Application], None]) -> BaseException | None:
        """A job of `jobs/` over both topics; what it ended with."""
        config = self.config
        application = Application(config, tuple(config.topics.values()), run="one")
        application._session = self.spark
        try:
            job(application)
        except Exception as error:
            return error
        return None

    def command(self, *arguments: str) -> int:
        """A command line in this process; gives its exit code, and raises what is none of our errors."""
        try:
            app.main(["--conf", str(self.folder / "conf" / "test.yaml"), *arguments])
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def configure(self) -> None:
        """The files of its configuration, as they are for its folder."""
        settings = {
            "raw_root": str(self.folder / "lake"),
            "release": "test",
            "frontier": {"source": "drained"},
            "ingest": {"trigger": "1 second", "empty_after": "0.2 seconds"},
            "mirrors": {"folder": {"kind": "folder", "path": str(self.folder / "mirror")}},
            "spark": SPARK_SETTINGS,
        }
        both = (DAMAGED, NEIGHBOUR)
        topics = {name: {**PLAYS, "subscription": f"projects/test/subscriptions/{name}"} for name in both}
        write_conf(self.folder, settings, topics)
        for name in ("_every_topic", *both):
            write_suite(self.folder / "expectations", name)


class _Ingest(TopicIngest):
    def ack_deadline(self) -> timedelta:
        return ACK_DEADLINE


class _Drained:
    """All that was ever published has been consumed: every hour with rows closes."""

    def observe(self, facts: Any, now: datetime) -> Frontier:
        return Frontier(now, now, "drained")


def _fill(lake: Lake) -> None:
    lake.deliver(Delivery("a", 1, 0, "a1", 7), Delivery("b", 2, 0, "b1", 1), Delivery("b", 2, 3, "b2"))
    lake.seal(FIVE)
    validate_due(lake.topic, lake.config, run="test")
    mirror_due(lake.topic, lake.config, None, run="test")
    for table in (lake.bronze, lake.silver, lake.tables.sealed.below("ledger").table()):
        table.create_checkpoint()
    lake.deliver(Delivery("c", 61, 0, "c1"), Delivery("d", 62, 0, "d1"), hour=SIX)
    lake.deliver(Delivery("x", 0, 0, "x1", reject_reason="not JSON"), hour=None)
    lake.silver.alter.set_table_properties({"delta.checkpointInterval": "51"})  # a commit after the checkpoint
    lake.close(SIX)
    lake.deliver(Delivery("e", 121, 0, "e1"), hour=SEVEN)
    for epoch in (ADOPTED, READ):
        _segment(lake, epoch, Delivery(f"s{epoch}", 130, 0, f"s{epoch}"))


def _segment(lake: Lake, epoch: int, delivery: Delivery) -> None:
    """A durable segment as a slot leaves it, which no commit took."""
    file = lake.bronze_file([delivery], SEVEN, epoch)
    at = delivery.publish_time
    segment = SegmentFile(
        file.path, SEVEN, file.rows, file.size_bytes, delivery.event_time, delivery.event_time, at, at
    )
    manifest = Manifest(epoch, 0, "a" * 32, 0, at, at, False, (segment,))
    assert lake.tables.raw.files().put_if_absent(manifest_path(epoch, 0), manifest.as_json())
