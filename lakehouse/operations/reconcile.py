"""Reconcile: the ledger, silver and every mirror, compared hour by hour and cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lakehouse.checksum import id_checksum
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError, MirrorError
from lakehouse.hours import Hour
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.contract import Count, Mirror, digests_of
from lakehouse.mirrors.sealed import sealed_hour
from lakehouse.mirrors.values import differing_values
from lakehouse.store.contents import Contents, sha256_of
from lakehouse.store.delta import DataFile, files
from lakehouse.store.parquet import LakeFile
from lakehouse.store.place import Place
from lakehouse.store.records import Mirrored, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.underway import Work

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone

SILVER = "silver"

OpenMirror = Callable[[str], Mirror]
"""Gives the mirror of a name; called from several threads."""


@dataclass(frozen=True)
class Cell:
    """What one store has of one hour. `verdict` is one of

    `same`, `missing` (the ledger says it is there), `extra` (it is there, and may not be), `different`,
    `due` (not mirrored yet, and not there), or `error` (no answer).
    """

    topic: str
    hour: Hour
    store: str
    verdict: str
    rows: int | None
    id_checksum: str | None
    expected_rows: int
    expected_id_checksum: str
    where: str
    error: str | None = None
    repaired: bool = False
    differing: tuple[str, ...] = ()
    """Files whose bytes are not the seal's, each with what was found; of stores that keep rows, the columns."""

    @property
    def is_right(self) -> bool:
        return self.verdict in ("same", "due") or self.repaired

    @property
    def next_step(self) -> str | None:
        """What a person can do about the cell; None when it is right."""
        if self.is_right:
            return None
        if self.verdict == "extra":
            return (
                f"Extra at {self.store}: no such hour may be there; --repair leaves it. If an erasure left it invalid,"
                " the next run of mirror removes it; else remove it there by hand if nobody needs it."
            )
        if self.store == SILVER:
            return "Wrong in silver: it is what mirrors are made of. See `lakehouse verify` for the topic."
        if self.verdict == "error":
            return f"No answer from {self.store}: see its error, and run reconcile again."
        return f"Missing or different at {self.store}: --repair publishes it again."


@dataclass(frozen=True)
class Reconciliation:
    """What each hour came to in each store, one cell for each."""

    cells: Sequence[Cell] = field(default_factory=tuple)

    @property
    def wrong(self) -> list[Cell]:
        """Cells of hours that are missing, different, extra, or could not be counted."""
        return [cell for cell in self.cells if not cell.is_right]


def reconcile(
    config: Config,
    topics: Iterable[Topic],
    open_mirror: OpenMirror,
    *,
    first: Hour | None = None,
    last: Hour | None = None,
    repair: bool = False,
    work: Work | None = None,
) -> Reconciliation:
    """Every hour from `first` to `last` in silver and every mirror of its topic, as the stores count it now.

    These are the hours of the ledger and those that a store has beside them. Mirrors are read at the same time. With
    `repair`, what is missing or different at a mirror and cleared to be there is published again and counted again;
    what is extra stays, and silver is never touched. `work` counts each topic's hours in each of its stores.
    """
    cells: list[Cell] = []
    chosen = list(topics)
    for number, topic in enumerate(chosen, 1):
        comparison = TopicComparison(TopicTables(topic, config.settings), first, last, work)
        place = f", topic {number:,} of {len(chosen):,}" if len(chosen) > 1 else ""
        cells += comparison.cells(open_mirror, repair, f"{topic.name}{place}")
    return Reconciliation(tuple(cells))


def mirrors_of(config: Config, spark: SparkOrNone, given: Mapping[str, Mirror] | None = None) -> OpenMirror:
    """Mirrors as the configuration describes them, each opened once; `given` take precedence."""
    mirrors: dict[str, Mirror] = dict(given or {})

    def open_mirror(name: str) -> Mirror:
        if name not in mirrors:
            mirrors[name] = mirror_named(name, config.settings, config.path, spark)
        return mirrors[name]

    return open_mirror


def needs_spark(config: Config, topics: Iterable[Topic]) -> bool:
    """Whether a mirror of these topics is reached by Hadoop only."""
    names = {name for topic in topics for name in topic.mirrors}
    settings = [config.settings.mirrors.get(name, {}) for name in names]
    addresses = [str(each.get("path", "")) for each in settings]
    return any("://" in address and not address.startswith("gs://") for address in addresses)


class TopicComparison:
    """One topic's ledger as it was when the comparison began, against what its stores have."""

    def __init__(
        self, tables: TopicTables, first: Hour | None = None, last: Hour | None = None, work: Work | None = None
    ) -> None:
        self._tables, self._topic, self._work = tables, tables.topic, work or Work()
        self._first, self._last = first, last
        self._history = tables.history()

    def cells(self, open_mirror: OpenMirror, repair: bool, step: str = "") -> list[Cell]:
        """By hour, then silver before the mirrors in the topic's order. `step` is what this is called in the work."""
        stores = [SILVER, *self._topic.mirrors]
        self._work.begin(step, len(stores) * len(self._in_bounds(self._history.hours())), "hours in its stores")

        def cells_of(store: str) -> list[Cell]:
            return self._silver() if store == SILVER else self._mirror(store, open_mirror, repair)

        with ThreadPoolExecutor(len(stores)) as pool:
            found = [cell for cells in pool.map(cells_of, stores) for cell in cells]
        return sorted(found, key=lambda cell: (cell.hour, stores.index(cell.store)))

    # --- silver

    def _silver(self) -> list[Cell]:
        """Silver's files of each sealed hour, by their ids alone, and hours in its log that the ledger never closed."""
        silver = self._tables.sealed.below("silver")
        extra = _files_by_hour(silver)
        for hour in self._history.hours():
            extra.pop(hour, None)
        sealed = filter(self._history.revision, self._history.hours())
        return [self._of_silver(silver, hour, extra.get(hour)) for hour in self._in_bounds({*sealed, *extra})]

    def _of_silver(self, silver: Place, hour: Hour, extra: Sequence[DataFile] | None) -> Cell:
        where = f"{silver.uri} hour={hour}"
        try:
            parts = sealed_hour(self._tables, self._history, hour).files if extra is None else extra
            count = _count(parts, silver)
            seal = self._history.seal_of(hour)
            digests = digests_of(seal, hour) if seal and extra is None else None
            differing = _differing(parts, silver, digests or {})
            verdict = "extra" if extra is not None else None
            return self._cell(hour, SILVER, where, count, verdict=verdict, differing=differing)
        except LakeError as error:
            is_gone = isinstance(error.__cause__, FileNotFoundError)
            return self._cell(hour, SILVER, where, error=error, verdict="missing" if is_gone else "different")
        except (OSError, LakehouseError) as error:
            return self._cell(hour, SILVER, where, error=error, verdict="error")

    # --- mirrors

    def _mirror(self, name: str, open_mirror: OpenMirror, repair: bool) -> list[Cell]:
        in_ledger = set(self._in_bounds(self._history.hours()))
        try:
            mirror = open_mirror(name)
            beside = mirror.hours(self._topic) - set(self._history.hours())
        except LakehouseError as error:
            return [self._cell(hour, name, name, error=error, verdict="error") for hour in in_ledger]
        with ThreadPoolExecutor(mirror.hours_at_once) as pool:
            cells = pool.map(lambda hour: self._of_mirror(mirror, hour, repair), self._in_bounds({*in_ledger, *beside}))
            return [cell for cell in cells if cell.hour in in_ledger or cell.verdict != "due"]

    def _of_mirror(self, mirror: Mirror, hour: Hour, repair: bool) -> Cell:
        found = self._counted(mirror, hour)
        is_ours = self._history.is_cleared(hour) and mirror.name in self._history.targets_done(hour)
        if repair and is_ours and not found.is_right:
            return self._repair(mirror, found)
        return found

    def _counted(self, mirror: Mirror, hour: Hour) -> Cell:
        where = mirror.where(self._topic, hour)
        try:
            count = mirror.read_back(self._topic, hour)
            return self._cell(hour, mirror.name, where, count, differing=self._differing(mirror, hour, count))
        except MirrorError as error:
            return self._cell(hour, mirror.name, where, error=error, verdict="error")

    def _repair(self, mirror: Mirror, found: Cell) -> Cell:
        """The cell after the hour was published again; with its former verdict and the error when that failed."""
        try:
            mirror.publish(sealed_hour(self._tables, self._history, found.hour), force=True)
            count = mirror.read_back(self._topic, found.hour)
            differing = self._differing(mirror, found.hour, count)
        except (LakehouseError, OSError) as error:
            return self._cell(found.hour, mirror.name, found.where, error=error, verdict=found.verdict)
        again = self._cell(found.hour, mirror.name, found.where, count, differing=differing)
        return replace(found, repaired=True, error=None) if again.verdict == "same" else again

    def _differing(self, mirror: Mirror, hour: Hour, count: Count | None) -> list[str]:
        """Files there that are not the seal's, or else columns with other values; none where ids differ already."""
        seal = self._history.seal_of(hour)
        if seal is None or count != Count(seal.rows, seal.id_checksum):
            return []
        digests = digests_of(seal, hour)
        if digests is not None and (differing := mirror.differing(self._topic, hour, digests)):
            return differing
        if not mirror.keeps_rows:
            return []
        try:
            return differing_values(mirror, sealed_hour(self._tables, self._history, hour))
        except LakeError:  # of silver, whose own cell says it
            return []

    # --- verdicts

    def _cell(
        self,
        hour: Hour,
        store: str,
        where: str,
        count: Count | None = None,
        *,
        error: Exception | None = None,
        verdict: str | None = None,
        differing: Sequence[str] = (),
    ) -> Cell:
        self._work.add()
        seal = self._history.seal_of(hour)
        expected = Count(seal.rows, seal.id_checksum) if seal else Count(0, 0)
        return Cell(
            topic=self._topic.name,
            hour=hour,
            store=store,
            verdict=verdict or self._verdict(hour, store, count, expected, are_files_same=not differing),
            rows=count.rows if count else None,
            id_checksum=str(count.id_checksum) if count else None,
            expected_rows=expected.rows,
            expected_id_checksum=str(expected.id_checksum),
            where=where,
            error=str(error) if error else "; ".join(differing) or None,
            differing=tuple(differing),
        )

    def _verdict(self, hour: Hour, store: str, count: Count | None, expected: Count, *, are_files_same: bool) -> str:
        is_recorded = store == SILVER or store in self._history.targets_done(hour)
        if count is None:
            return "missing" if is_recorded else "due"
        if store != SILVER and self._history.must_be_nowhere(hour):
            return "extra"
        if not is_recorded:
            # A publish that died before it was recorded, or an older revision: the next run replaces it.
            was_there = any(
                entry.of(Mirrored).target == store
                for entry in self._history.of_hour(hour)
                if entry.state == State.MIRRORED
            )
            return "due" if was_there or self._history.is_cleared(hour) else "extra"
        return "same" if count == expected and are_files_same else "different"

    def _in_bounds(self, hours: Iterable[Hour]) -> list[Hour]:
        first, last = self._first, self._last
        return sorted({hour for hour in hours if (first or hour) <= hour <= (last or hour)})


def _files_by_hour(silver: Place) -> dict[Hour, list[DataFile]]:
    """Silver's files in its newest version; none when it cannot be read, which every sealed hour then says."""
    found: dict[Hour, list[DataFile]] = {}
    with suppress(LakeError):
        for file in files(silver.table()):
            found.setdefault(file.hour or "", []).append(file)
    return found


def _differing(parts: Iterable[DataFile], silver: Place, digests: Mapping[str, Contents]) -> list[str]:
    """Files of silver whose bytes are not the seal's; OSError when one cannot be read."""
    storage, found = silver.files(), []
    for file in parts if digests else ():
        expected = digests.get(file.path)
        contents = sha256_of(storage, file.path)
        if expected is None:
            found.append(f"{file.path}: no file of the hour's seal")
        elif contents.differs_from(expected):
            found.append(f"{file.path}: {contents}, expected {expected}, as sealed")
    return found


def _count(parts: Iterable[DataFile], silver: Place) -> Count:
    """From the ids alone; LakeError when a file is missing or damaged."""
    rows = checksum = 0
    storage = silver.files()
    for file in parts:
        with LakeFile(storage, file.path) as opened:
            for batch in opened.iter_batches(1_000_000, columns=["event_id"]):
                rows += batch.num_rows
                checksum += id_checksum(batch.column(0))
    return Count(rows, checksum)
