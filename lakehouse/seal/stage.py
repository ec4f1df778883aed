"""Seal: a closed hour becomes one silver commit with exactly one row per event, and never changes again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse import failpoints
from lakehouse.config import Config, Settings
from lakehouse.errors import SealError, unavailable
from lakehouse.hours import Hour
from lakehouse.lineage.datasets import dataset_at
from lakehouse.lineage.runs import lineage_run
from lakehouse.seal.copying import COPIED, Copied, Copy, Piece, copy_rows, pieces_of, rows_per_file
from lakehouse.seal.deliveries import Deliveries
from lakehouse.spark.session import SparkOrNone
from lakehouse.spark.tasks import errors_of_tasks, mapped
from lakehouse.store import parquet
from lakehouse.store.bronze_log import as_of_close
from lakehouse.store.delta import Conflicts, DataFile, files_of_hour, files_of_hours, metadata_of_commits, table_errors
from lakehouse.store.history import Entry
from lakehouse.store.holds import holds_for
from lakehouse.store.parquet import FILE, ROW
from lakehouse.store.records import Sealed, State
from lakehouse.store.silver_log import SEAL, files_of_seal
from lakehouse.store.table_log import ConflictError, log_of
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.underway import Work

log = logging.getLogger(__name__)

WORKING_EVERY_SECONDS = 30.0
"""Between two lines of the log about one hour that is being sealed."""

_MOST_CONFLICTS = 3
"""Each copies the hour again; after a conflict with another seal of it, that seal is found."""
_MOST_SEALS = 24
"""That are read by their commits: for more hours the table is opened."""

_WRITERS = min(4, pa.cpu_count())
"""Silver files that are written here at a time, of all topics together: each takes about 200 MB of memory."""

_COPIED_DDL = "path string, rows long, size_bytes long, skewed long, checksum string, " \
              "min_event_time_us long, max_event_time_us long, sha256 string, crc32c string"  # fmt: skip


def seal_due(
    topic: Topic,
    config: Config,
    spark: SparkOrNone = None,
    *,
    run: str,
    is_stopping: Callable[[], bool] = lambda: False,
) -> list[Entry]:
    """Seal every closed hour of the topic that is not sealed, oldest first; gives the ledger rows that were added.

    `spark` is asked when an hour is big enough to need it. No hour is begun once `is_stopping`.
    """
    sealer = Sealer(topic, config.settings, spark, run=run)
    hours = takewhile(lambda _: not is_stopping(), sealer.due())
    return [entry for hour in hours if (entry := sealer.seal(hour)) is not None]


class Sealer:
    """Seals a topic's hours one at a time, in order."""

    def __init__(self, topic: Topic, settings: Settings, spark: SparkOrNone = None, *, run: str) -> None:
        self._topic, self._settings, self._spark = topic, settings, spark
        self._tables = TopicTables(topic, settings)
        self._holds = holds_for(settings, self._tables.sealed.uri)
        self._ledger = self._tables.ledger(f"{SEAL}/{settings.release}/{run}")

    def due(self) -> list[Hour]:
        return self._ledger.digest().due_to_seal()

    def seal(self, hour: Hour) -> Entry | None:
        """One row per event of the closed hour, in one commit; None when the ledger has the seal already.

        SealError when the hour is not the next to seal, or when silver holds it sealed from another bronze version than
        the hour was closed at. LakeError when a file of bronze is missing or damaged.
        """
        bronze = dataset_at(self._tables.raw.below("bronze").uri)
        silver = dataset_at(self._tables.sealed.below("silver").uri)
        with lineage_run(self._settings, f"{self._topic.name}.seal", hour, bronze, silver) as run:
            sealed, entry = self._seal(hour)
            run.found(
                reads={"version": sealed.bronze_version, "rows": sealed.deliveries},
                writes={"version": sealed.silver_version, "rows": sealed.rows, "files": sealed.files},
                revision=sealed.revision,
                duplicates=sealed.duplicates,
                late_duplicates=sealed.late_duplicates,
                skewed=sealed.skewed,
            )
        return entry

    def _seal(self, hour: Hour) -> tuple[Sealed, Entry | None]:
        """The seal, and its row where the ledger had none."""
        started = time.monotonic()
        with _working(self._topic.name, hour) as work:
            version, manifest = self._commit(hour, self._bronze_version(hour), work)
        seconds = round(time.monotonic() - started, 3)
        sealed = Sealed.from_json({**manifest, "silver_version": version, "seconds": seconds})
        self._hold(hour, sealed)
        failpoints.reach("seal.committed")
        entry = self._ledger.record(sealed, hour, unless=lambda history: bool(history.first(State.SEALED, hour)))
        failpoints.reach("seal.recorded")
        log.info(
            "seal: topic=%s hour=%s rows=%d duplicates=%d late_duplicates=%d skewed=%d seconds=%.2f",
            self._topic.name,
            hour,
            sealed.rows,
            sealed.duplicates,
            sealed.late_duplicates,
            sealed.skewed,
            time.monotonic() - started,
        )
        return sealed, entry

    def _hold(self, hour: Hour, sealed: Sealed) -> None:
        if self._holds is not None:
            files = files_of_seal(self._tables.sealed.below("silver"), hour, sealed)
            self._holds.put(f"silver/{file.path}" for file in files)

    def _bronze_version(self, hour: Hour) -> int:
        """The version at which the hour closed: what was true of that when the ledger was read last is so for ever."""
        history = self._ledger.known_digest()
        if history.close_of(hour) is None:
            history = self._ledger.history_with(hour)
        close = history.close_of(hour)
        if close is None:
            raise self._error(
                hour,
                found="an hour that has not closed",
                expected="a closed hour",
                next_step="Wait for ingest to close it, or see `lakehouse explain`.",
            )
        earliest = min(history.due_to_seal(), default=hour)
        if earliest < hour and not history.first(State.SEALED, hour):
            raise self._error(
                hour,
                found=f"{earliest} closed and not sealed",
                expected="hours sealed in order: a late duplicate is looked for in those before",
                next_step="Seal the earlier hours first.",
            )
        return close.bronze_version

    def _commit(self, hour: Hour, bronze_version: int, work: Work) -> tuple[int, dict[str, Any]]:
        """(version, manifest) of the seal that silver has, else of one made now."""
        conflicts = Conflicts(f"{self._tables.sealed.uri}/silver", most=_MOST_CONFLICTS)
        while True:
            silver = self._tables.silver_head()
            unsealed = silver.without(hour)
            if unsealed is None:
                table = self._tables.silver()
                if table.transaction_version(app_of(hour)) is not None:
                    return self._sealed_before(table, hour, bronze_version)
                unsealed = log_of(table)
            manifest, files = self._sealed_files(hour, bronze_version, work)
            failpoints.reach("seal.files_durable")
            try:
                version = silver.commit(unsealed, files, manifest, {app_of(hour): manifest["revision"]})
            except ConflictError as conflict:
                conflicts.meet(conflict)
                continue
            return version, manifest

    def _sealed_before(self, silver: DeltaTable, hour: Hour, bronze_version: int) -> tuple[int, dict[str, Any]]:
        version, manifest = newest_seal(silver, hour)
        if manifest["bronze_version"] != bronze_version:
            raise self._error(
                hour,
                found=f"silver sealed from bronze version {manifest['bronze_version']}",
                expected=f"version {bronze_version}, at which the hour closed",
                next_step="Do not touch either table; `lakehouse verify` and `lakehouse audit` show what differs.",
            )
        return version, manifest

    def _sealed_files(self, hour: Hour, bronze_version: int, work: Work) -> tuple[dict[str, Any], list[DataFile]]:
        bronze = as_of_close(self._tables.bronze, bronze_version)
        files = files_of_hour(bronze, hour)
        driver_rows = self._settings.seal.driver_rows
        try:
            with Deliveries(self._tables, hour, files, work, spark=self._spark, driver_rows=driver_rows) as deliveries:
                footers = list(deliveries.footers())
                doubled, late = deliveries.doubled, deliveries.late(self._files_sealed)
                copies = self._plan_copies(hour, deliveries, footers, pa.concat_tables([doubled, late]))
                kept = deliveries.count - len(doubled) - len(late)
                copied = [copy for copy in self._run(copies, deliveries, kept, work) if copy.rows]
        except (OSError, pa.ArrowException) as refused:
            raise unavailable(f"{self._tables.sealed.uri}/silver: {hour}", refused) from refused
        manifest = {
            "kind": SEAL,
            "hour": hour,
            "revision": 1,
            "bronze_version": bronze_version,
            "release": self._settings.release,
            "deliveries": deliveries.count,
            "duplicates": len(doubled),
            "late_duplicates": len(late),
            **totals(copied),
        }
        if manifest["rows"] + len(doubled) + len(late) != manifest["deliveries"]:
            raise self._error(
                hour,
                found=f"{manifest['rows']} rows copied of {manifest['deliveries']} deliveries",
                expected=f"all but {len(doubled)} duplicates and {len(late)} late duplicates",
                next_step="Nothing was committed. Run `lakehouse verify`; if it finds nothing, report a defect.",
            )
        return manifest, [copy.as_data_file(hour) for copy in copied]

    def _files_sealed(self, hours: Sequence[Hour]) -> list[DataFile]:
        """Silver's files of these hours: by their seals, where few are asked for and the rows here have them."""
        history, silver = self._ledger.known_digest(), self._tables.sealed.below("silver")
        seals = [(hour, history.seal_of(hour)) for hour in hours if not history.is_in_range(hour)]
        if len(seals) <= _MOST_SEALS and all(seal for _, seal in seals):
            return [file for hour, seal in seals if seal for file in files_of_seal(silver, hour, seal)]
        return files_of_hours(self._tables.silver(), hours)

    def _plan_copies(
        self, hour: Hour, deliveries: Deliveries, footers: list[pq.FileMetaData], losers: pa.Table
    ) -> list[Copy]:
        """Copies of about the target size; skewed rows apart, so that few files are read to find a late duplicate."""
        lost = _rows_by_file(losers)
        pieces: dict[bool, list[Piece]] = {False: [], True: []}
        for number, (file, footer) in enumerate(zip(deliveries.files, footers, strict=True)):
            lost_here = lost.get(number, np.empty(0, np.int64))
            pieces[deliveries.has_skewed(file)] += pieces_of(file.path, footer, lost_here)
        target_bytes = self._settings.seal.target_file_bytes
        groups = [group for alike in pieces.values() for group in rows_per_file(alike, target_bytes, _WRITERS)]
        topic_json, raw, sealed = self._topic.as_json(), self._tables.raw, self._tables.sealed
        unrepeated = parquet.unrepeated(footers, "event")
        return [
            Copy(topic_json, hour, raw, sealed, f"part-{number:05d}", group, unrepeated)
            for number, group in enumerate(groups)
        ]

    def _run(self, copies: Sequence[Copy], deliveries: Deliveries, rows: int, work: Work) -> list[Copied]:
        """Small hours here, the others by Spark tasks; `rows` is how many there are to copy."""
        if self._spark is None or deliveries.count <= self._settings.seal.small_rows:
            work.begin("copy", rows, "rows")
            return list(_writers().map(lambda copy: _copied(copy, deliveries, work), copies))
        spark = self._spark()
        rows_copied = spark.sparkContext.accumulator(0)
        work.begin("copy", rows, "rows", lambda: rows_copied.value)

        def copied(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                made = [copy_rows(copies[number]) for number in batch.column(0).to_pylist()]
                rows_copied.add(sum(each.rows for each in made))
                yield pa.RecordBatch.from_pylist([vars(each) for each in made], schema=COPIED)

        numbers = spark.range(0, len(copies), 1, len(copies))
        with errors_of_tasks():
            return [Copied(**row.asDict()) for row in mapped(numbers, copied, _COPIED_DDL, "copying").collect()]

    def _error(self, hour: Hour, *, found: str, expected: str, next_step: str) -> SealError:
        return SealError(f"{self._topic.name} {hour}", found=found, expected=expected, next_step=next_step)


def app_of(hour: Hour) -> str:
    """The app id of an hour's seals: one for each hour, or an older hour would be taken for done."""
    return f"{SEAL}/{hour}"


def newest_seal(silver: DeltaTable, hour: Hour) -> tuple[int, dict[str, Any]]:
    """(version, manifest) of the newest commit that sealed the hour."""
    for version, metadata in metadata_of_commits(silver):
        if metadata.get("kind") == SEAL and metadata.get("hour") == hour:
            with table_errors(f"{silver.table_uri} version {version}: the seal of {hour}"):
                Sealed.from_json({**metadata, "silver_version": version})
            return version, metadata
    raise SealError(
        f"{silver.table_uri} {hour}",
        found="a seal without its manifest",
        expected="the commit that sealed the hour in the log",
        next_step="The log was cut or edited; `lakehouse verify` shows where.",
    )


def totals(copied: Sequence[Copied]) -> dict[str, Any]:
    """What a seal's manifest says of its files together."""
    return {
        "rows": sum(copy.rows for copy in copied),
        "skewed": sum(copy.skewed for copy in copied),
        "files": len(copied),
        "id_checksum": str(sum(int(copy.checksum) for copy in copied)),
        "digests": digests_of(copied),
    }


def digests_of(copied: Sequence[Copied]) -> list[str]:
    """As a seal has them: by the files' names."""
    return sorted(str(copy.digest) for copy in copied)


def _rows_by_file(addresses: pa.Table) -> dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The rows of each file in the table, sorted."""
    ordered = addresses.sort_by([(FILE, "ascending"), (ROW, "ascending")])
    numbers, firsts = np.unique(ordered[FILE].to_numpy(), return_index=True)
    return dict(zip(numbers.tolist(), np.split(ordered[ROW].to_numpy(), firsts[1:]), strict=False))


@cache
def _writers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WRITERS, thread_name_prefix="silver writer")


def _copied(copy: Copy, deliveries: Deliveries, work: Work) -> Copied:
    copied = copy_rows(copy, deliveries.raw, deliveries.kept)
    work.add(copied.rows)
    return copied


@contextmanager
def _working(topic: str, hour: Hour) -> Iterator[Work]:
    """A line in the log now and then while a large hour is sealed: whoever waits for it sees how far it has come."""
    ended, began, work = threading.Event(), time.monotonic(), Work()

    def tell() -> None:
        while not ended.wait(WORKING_EVERY_SECONDS):
            how_far, seconds = work.text() or "begins", time.monotonic() - began
            log.info("seal: topic=%s hour=%s state=working step=%s seconds=%.0f", topic, hour, how_far, seconds)

    thread = threading.Thread(target=tell, name=f"seal {topic} {hour}", daemon=True)
    thread.start()
    try:
        yield work
    finally:
        ended.set()
        thread.join()
