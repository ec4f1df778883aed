"""The one builder of a topic's lake: its tables as the product makes them, and in them what stages would have left.

Files are written by pyarrow, and their commits, closes, seals and verdicts come one call at a time. A test module that
needs more has functions, or a class of its own, upon `Lake`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from conftest import PLAYS, config_in
from folders import Folders, folders_of

from lakehouse import hours
from lakehouse.clock import Clock, now
from lakehouse.config import Config, Settings
from lakehouse.hours import Hour
from lakehouse.progress import IngestState
from lakehouse.schemas import segment_schema
from lakehouse.seal.stage import Sealer, SparkOrNone
from lakehouse.store.bronze_log import commit_batch, newest_state, segment_of
from lakehouse.store.delta import DataFile, commit, event_time_stats, files, files_of_hour
from lakehouse.store.history import History
from lakehouse.store.ledger import Ledger
from lakehouse.store.records import Closed, Mirrored, Valid
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic, topic_from
from lakehouse.validate import mlflow_runs

FIVE, SIX, SEVEN = "2025-06-01T05", "2025-06-01T06", "2025-06-01T07"


@dataclass(frozen=True)
class Delivery:
    """One message. Times are minutes: of the event since 05:00, of the publishing since then."""

    event_id: str | None
    minute: int = 0
    published: int = 0
    message_id: str = "m"
    value: int = 0
    reject_reason: str | None = None

    @property
    def event_time(self) -> datetime:
        return hours.start_of(FIVE) + timedelta(minutes=self.minute)

    @property
    def publish_time(self) -> datetime:
        return self.event_time + timedelta(minutes=self.published)

    def as_row(self, has_own_time: bool = True) -> dict[str, Any]:
        is_event = self.reject_reason is None
        track = {"id": f"t{self.value}", "ms": self.value}
        return {
            "message_id": self.message_id,
            "publish_time": self.publish_time,
            "attributes": [],
            "payload": b"{}",
            "event_id": self.event_id,
            "event_time": (self.event_time if has_own_time else self.publish_time) if is_event else None,
            "event": {"user": f"u{self.value}", "track": track, "n": self.value} if is_event else None,
            "reject_reason": self.reject_reason,
        }


@dataclass
class Lake:
    """A topic whose epochs, closes and seals come one call at a time; `by` is who writes in its ledger."""

    topic: Topic
    config: Config
    by: str = "ingest/test/run"
    clock: Clock = now
    epoch: int = 0
    row_group_rows: int = 1000
    written_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        """A topic that was ever started has a ledger."""
        self.tables.ledger(self.by, self.clock)

    @property
    def settings(self) -> Settings:
        return self.config.settings

    def with_settings(self, **changes: Any) -> Lake:
        """The same tables under other settings."""
        return replace(self, config=replace(self.config, settings=self.settings.model_copy(update=changes)))

    def copied(self, folder: Path) -> Lake:
        """A copy of the whole lake below the folder, which goes on as this one would; times are the original's."""
        root = str(folder / "lake")
        shutil.copytree(self.settings.raw_root, root)
        mirrors = {"folder": {"kind": "folder", "path": str(folder / "mirror")}}
        settings = self.settings.model_copy(update={"raw_root": root, "sealed_root": root, "mirrors": mirrors})
        config = replace(
            self.config, path=folder / "conf" / "test.yaml", settings=settings, expectations=folder / "expectations"
        )
        return replace(self, config=config)

    @property
    def tables(self) -> TopicTables:
        return TopicTables(self.topic, self.settings)

    @property
    def folders(self) -> Folders:
        return folders_of(self.settings, self.topic.name)

    @property
    def ledger(self) -> Ledger:
        return self.tables.ledger(self.by, self.clock)

    @property
    def bronze(self) -> Any:
        return self.tables.ensure_bronze()

    @property
    def silver(self) -> Any:
        return self.tables.ensure_silver()

    def history(self) -> History:
        return self.tables.history()

    # --- bronze ----------------------------------------------------------------------------------------------------

    def commit(
        self,
        added: Sequence[DataFile] = (),
        *,
        open_hour: Hour | None = None,
        state: IngestState | None = None,
        **said: Any,
    ) -> int:
        """The next epoch: what ingest commits with the files, and what is `said` beside that; its version.

        Its state is the one before, unless another is given.
        """
        self.epoch += 1
        if state is None:
            before = newest_state(self.bronze)
            state = replace(before, open_hour=open_hour or before.open_hour or FIVE)
        state = replace(state, epoch=self.epoch)
        metadata = {
            "release": "test", "run": "run", "epochs": [self.epoch], "rows": sum(file.rows for file in added),
            "rejected": 0, "segments": sorted({segment_of(file.path) for file in added}), "closed": [],
        }  # fmt: skip
        return commit_batch(self.bronze, added, state, metadata | said)

    def deliver(self, *deliveries: Delivery, hour: Hour | None = FIVE, parts: int = 1) -> list[str]:
        """One epoch: the deliveries in the bucket `hour`, dealt out to so many files as they come."""
        share = -(-len(deliveries) // parts)
        dealt = [deliveries[first : first + share] for first in range(0, len(deliveries), share or 1)]
        added = [self.bronze_file(part, hour, self.epoch + 1, slot) for slot, part in enumerate(dealt)]
        self.commit(added)
        return [file.path for file in added]

    def bronze_file(self, deliveries: Sequence[Delivery], hour: Hour | None, epoch: int, slot: int = 0) -> DataFile:
        """As a slot writes it; no commit names it yet."""
        has_own_time = self.topic.event_time != "publish_time"
        rows = [
            {**delivery.as_row(has_own_time), "epoch": epoch, "slot": slot, "position": position}
            for position, delivery in enumerate(deliveries)
        ]
        path = f"{hour or 'rejected'}/{epoch:012d}-{slot:04d}-abc.parquet"
        file = Path(self.folders.bronze, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(rows, schema=segment_schema(self.topic))
        pq.write_table(table, file, row_group_size=self.row_group_rows)
        times = [row["event_time"] for row in rows] if hour else []
        stats = event_time_stats(min(times, default=None), max(times, default=None))
        return DataFile(path, hour, len(rows), file.stat().st_size, self.written_at, stats)

    def bronze_rows(self) -> list[dict[str, Any]]:
        """Every delivery, its `hour` the bucket; by message id."""
        found = []
        for file in files(self.bronze):
            with self.tables.raw.open(f"bronze/{file.path}") as source:
                rows = pq.read_table(source).to_pylist()
            assert len(rows) == file.rows
            found += [{**row, "hour": file.hour} for row in rows]
        return sorted(found, key=lambda row: row["message_id"])

    # --- closes and seals ------------------------------------------------------------------------------------------

    def close(self, hour: Hour) -> None:
        closed = {"hour": hour, "why": "watermark", "conditions": [], "epoch": self.epoch + 1, "release": "test"}
        version = self.commit(open_hour=hours.after(hour), closed=[closed])
        rows = sum(file.rows for file in files_of_hour(self.bronze, hour))
        close = Closed(bronze_version=version, why="watermark", rows=rows, epoch=self.epoch, release="test")
        self.ledger.record(close, hour)

    def sealer(self, spark: SparkOrNone = None) -> Sealer:
        return Sealer(self.topic, self.settings, spark, run="test")

    def seal(self, hour: Hour = FIVE, spark: SparkOrNone = None) -> dict[str, Any]:
        """Close the hour and seal it; gives the manifest as recorded."""
        self.close(hour)
        entry = self.sealer(spark).seal(hour)
        assert entry is not None
        return dict(entry.details)

    def sealed(self, hour: Hour = FIVE) -> list[dict[str, Any]]:
        """The sealed rows, by pyarrow and by id."""
        paths = [Path(self.folders.silver, file.path) for file in files_of_hour(self.silver, hour)]
        rows = [row for file in paths for row in pq.ParquetFile(file).read().to_pylist()]
        return sorted(rows, key=lambda row: (row["event_id"], row["event_time"]))

    def ids(self, hour: Hour = FIVE) -> list[str]:
        return [row["event_id"] for row in self.sealed(hour)]

    def write_silver(self, hour: Hour, rows: pa.Table, *, revision: int = 1, files: int = 1) -> int:
        """The rows as the hour's revision, in so many files, in the place of the one before it; silver's version."""
        table = self.silver
        folder = Path(self.folders.silver, f"hour={hour}")
        folder.mkdir(exist_ok=True)
        size = -(-len(rows) // files) if files else 0
        added = []
        for number in range(files):
            path, part = folder / f"{number}-r{revision}.parquet", rows.slice(number * size, size)
            pq.write_table(part, path)
            added.append(DataFile(f"hour={hour}/{path.name}", hour, len(part), path.stat().st_size, datetime.now(UTC)))
        replaced = files_of_hour(table, hour)
        return commit(table, added, metadata={}, transactions={f"seal/{hour}": revision}, removed=replaced)

    def clear(self, hour: Hour, *targets: str) -> None:
        """Valid, and mirrored to the targets."""
        self.ledger.record(Valid(rows=0), hour)
        for target in targets:
            self.ledger.record(Mirrored(target=target, where="there"), hour)


def lake_in(folder: Path, **topic: Any) -> Lake:
    """A new lake below the folder; `topic` has what its topic says other than `PLAYS`."""
    made = topic_from("plays", {**PLAYS, **topic})
    return Lake(made, config_in(folder, made))


def begin_runs(settings: Settings) -> None:
    """MLflow's database of a lake, with no run in it: each of its own takes MLflow two core-seconds of migrations."""
    Path(settings.sealed_root, "mlflow.db").write_bytes(_no_runs())


@cache
def _no_runs() -> bytes:
    with TemporaryDirectory() as folder:
        database = Path(folder, "mlflow.db")
        mlflow_runs.client_of(f"sqlite:///{database}")
        return database.read_bytes()


def plays(*event_ids: str, minute: int = 0) -> Iterable[Delivery]:
    return [Delivery(each, minute, value=number) for number, each in enumerate(event_ids)]


def write_suite(folder: Path, name: str, expectations: Iterable[Mapping[str, Any]] = ()) -> None:
    """What the hours of the topic `name` must meet, in a folder of expectations."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, "expectations": list(expectations)}))


def write_conf(folder: Path, settings: Mapping[str, Any], topics: Mapping[str, Mapping[str, Any]]) -> Path:
    """`conf/test.yaml` below the folder, with a file for each topic; its path."""
    conf = folder / "conf" / "test.yaml"
    (conf.parent / "topics").mkdir(parents=True, exist_ok=True)
    conf.write_text(yaml.safe_dump(dict(settings)))
    for name, values in topics.items():
        (conf.parent / "topics" / f"{name}.yaml").write_text(yaml.safe_dump(dict(values)))
    return conf


def conf_of(lake: Lake, folder: Path) -> Path:
    """The lake's configuration as files, for the command line."""
    settings = lake.settings.model_dump(mode="json", exclude={"topics", "expectations"})
    return write_conf(folder, settings, {lake.topic.name: lake.topic.model_dump(mode="json", exclude={"name"})})
