"""Reconcile: the ledger, silver and every mirror, compared hour by hour and cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from lakehouse.checksum import id_checksum
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError, MirrorError
from lakehouse.hours import Hour, after, hours_between
from lakehouse.ledger import History, Ledger
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.contract import Count, Mirror, SealedHour
from lakehouse.mirrors.filesystems import open_file
from lakehouse.mirrors.stage import sealed_hour
from lakehouse.tables import folders_of, open_table
from lakehouse.topics import Topic

SILVER = "silver"

Opened = Callable[[str], Mirror]
"""The mirror of a name; it may be asked from several threads."""


@dataclass(frozen=True)
class Cell:
    """What one store has of one hour. `verdict` is one of

    `same`, `missing` (the ledger says it is there), `extra` (it is there, the ledger says nothing of it), `different`,
    `due` (not mirrored yet, and not there), or `error`.
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

    @property
    def is_right(self) -> bool:
        return self.verdict in ("same", "due") or self.repaired


@dataclass(frozen=True)
class Reconciliation:
    cells: Sequence[Cell] = field(default_factory=tuple)

    @property
    def wrong(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.is_right]


def reconciled(
    config: Config,
    topics: Iterable[Topic],
    opened: Opened,
    *,
    first: Hour | None = None,
    last: Hour | None = None,
    repair: bool = False,
) -> Reconciliation:
    """Every hour from `first` to `last` in silver and every mirror of its topic, as the stores count it now.

    Mirrors are asked side by side, each hour after hour. With `repair`, what is missing or different at a mirror and
    cleared to be there is published anew and counted again; silver is never touched.
    """
    cells = [
        cell
        for topic in topics
        for cell in _of_topic(topic, _history(topic, config), config, opened, (first, last), repair)
    ]
    return Reconciliation(tuple(cells))


def _of_topic(
    topic: Topic,
    history: History,
    config: Config,
    opened: Opened,
    bounds: tuple[Hour | None, Hour | None],
    repair: bool,
) -> list[Cell]:
    chosen = _chosen(history, *bounds)

    def cells_of(store: str) -> list[Cell]:
        if store == SILVER:
            return _silver(topic, history, [hour for hour in chosen if history.revision(hour)], config)
        return _mirror(store, topic, history, chosen, config, opened, repair)

    stores = [SILVER, *topic.mirrors]
    with ThreadPoolExecutor(len(stores)) as pool:
        found = [cell for cells in pool.map(cells_of, stores) for cell in cells]
    return sorted(found, key=lambda cell: (cell.hour, stores.index(cell.store)))


def _chosen(history: History, first: Hour | None, last: Hour | None) -> list[Hour]:
    """Hours that the ledger knows; between two given bounds all: a store may have what the ledger has not."""
    known = [hour for hour in history.hours() if (first or hour) <= hour <= (last or hour)]
    between = hours_between(first, after(last)) if first and last else ()
    return sorted({*known, *between})


def mirrors_of(config: Config, spark: object, given: Mapping[str, Mirror] | None = None) -> Opened:
    """Mirrors as the configuration describes them, each opened once."""
    mirrors: dict[str, Mirror] = dict(given or {})

    def opened(name: str) -> Mirror:
        if name not in mirrors:
            mirrors[name] = mirror_named(name, config.settings, config.path, spark)  # type: ignore[arg-type]
        return mirrors[name]

    return opened


def needs_spark(config: Config, topics: Iterable[Topic]) -> bool:
    """Whether a mirror of these topics is reached by Hadoop only."""
    named = {name for topic in topics for name in topic.mirrors}
    settings = [config.settings.mirrors.get(name, {}) for name in named]
    return any("://" in str(each.get("path", "")) for each in settings)


def _history(topic: Topic, config: Config) -> History:
    table = open_table(folders_of(config.settings, topic.name).ledger, config.settings.storage_options)
    return Ledger(table, by="").history()


def _silver(topic: Topic, history: History, chosen: Sequence[Hour], config: Config) -> list[Cell]:
    """Silver's files of each hour, by their ids alone."""
    folders, options = folders_of(config.settings, topic.name), config.settings.storage_options

    def cell(hour: Hour) -> Cell:
        where = f"{folders.silver} hour={hour}"
        try:
            return _cell(
                topic, history, hour, SILVER, _counted(sealed_hour(history, topic, hour, folders, options)), where
            )
        except LakeError as error:
            return _cell(topic, history, hour, SILVER, None, where, error, verdict="different")
        except (OSError, LakehouseError) as error:
            missing = isinstance(error, FileNotFoundError)
            return _cell(topic, history, hour, SILVER, None, where, error, verdict="missing" if missing else "error")

    return [cell(hour) for hour in chosen]


def _counted(hour: SealedHour) -> Count:
    rows = checksum = 0
    for file in hour.files:
        with (
            open_file(hour.silver_uri, file.path, hour.storage_options) as source,
            pq.ParquetFile(source) as parquet,
        ):
            for batch in parquet.iter_batches(1_000_000, columns=["event_id"]):
                rows += batch.num_rows
                checksum += id_checksum(batch.column(0))
    return Count(rows, checksum)


def _mirror(
    name: str,
    topic: Topic,
    history: History,
    chosen: Sequence[Hour],
    config: Config,
    opened: Opened,
    repair: bool,
) -> list[Cell]:
    try:
        mirror = opened(name)
    except LakehouseError as error:
        return [_cell(topic, history, hour, name, None, name, error, verdict="error") for hour in chosen]
    return [_compared(mirror, topic, history, hour, config, repair) for hour in chosen]


def _compared(mirror: Mirror, topic: Topic, history: History, hour: Hour, config: Config, repair: bool) -> Cell:
    where = mirror.where(topic, hour)
    try:
        found = _cell(topic, history, hour, mirror.name, mirror.read_back(topic, hour), where)
    except MirrorError as error:
        found = _cell(topic, history, hour, mirror.name, None, where, error, verdict="error")
    is_ours = history.is_cleared(hour) and mirror.name in history.targets_done(hour)
    if not repair or found.is_right or not is_ours:
        return found
    try:
        folders, options = folders_of(config.settings, topic.name), config.settings.storage_options
        mirror.publish(sealed_hour(history, topic, hour, folders, options), anew=True)
        again = _cell(topic, history, hour, mirror.name, mirror.read_back(topic, hour), where)
    except (LakehouseError, OSError) as error:
        return _cell(topic, history, hour, mirror.name, None, where, error, verdict=found.verdict)
    if again.verdict != "same":
        return again
    return Cell(**{**vars(found), "repaired": True, "error": None})


def _cell(
    topic: Topic,
    history: History,
    hour: Hour,
    store: str,
    count: Count | None,
    where: str,
    error: Exception | None = None,
    *,
    verdict: str | None = None,
) -> Cell:
    seal = history.last("sealed", hour)
    expected = Count(int(seal.details["rows"]), int(seal.details["id_checksum"])) if seal else Count(0, 0)
    return Cell(
        topic.name,
        hour,
        store,
        verdict or _verdict(history, hour, store, count, expected),
        count.rows if count else None,
        str(count.id_checksum) if count else None,
        expected.rows,
        str(expected.id_checksum),
        where,
        str(error) if error else None,
    )


def _verdict(history: History, hour: Hour, store: str, count: Count | None, expected: Count) -> str:
    is_recorded = store == SILVER or store in history.targets_done(hour)
    if count is None:
        return "missing" if is_recorded else "due"
    if not is_recorded:
        # A publish that died before it was recorded, or an older revision that is about to be replaced: the next run's.
        is_expected = history.is_cleared(hour) or any(
            entry.state == "mirrored" and entry.details["target"] == store for entry in history.of_hour(hour)
        )
        return "due" if is_expected else "extra"
    return "same" if count == expected else "different"
