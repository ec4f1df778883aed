"""Reconcile: the ledger, silver and every mirror, compared hour by hour and cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pyarrow.parquet as pq

from lakehouse.checksum import id_checksum
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError, MirrorError
from lakehouse.hours import Hour
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.contract import Count, Mirror
from lakehouse.mirrors.files import open_file
from lakehouse.mirrors.stage import sealed_hour
from lakehouse.store.delta import DataFile, files, open_table
from lakehouse.store.ledger import History, Ledger
from lakehouse.store.tables import folders_of
from lakehouse.topics import Topic

SILVER = "silver"

Opened = Callable[[str], Mirror]
"""The mirror of a name; it may be asked from several threads."""

Chosen = Callable[[Iterable[Hour]], list[Hour]]
"""Those of the hours that were asked for, in their order."""


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

    @property
    def next_step(self) -> str | None:
        """What a person can do about the cell; None when it is right."""
        if self.is_right:
            return None
        if self.verdict == "extra":
            return (
                f"Extra at {self.store}: the ledger says nothing of it, so --repair leaves it."
                " See who wrote it, and remove it there by hand if nobody needs it."
            )
        if self.store == SILVER:
            return "Wrong in silver: it is what mirrors are made of. See `lakehouse verify` for the topic."
        if self.verdict == "error":
            return f"No answer from {self.store}: see what it says, and ask again."
        return f"Missing or different at {self.store}: --repair publishes it again."


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

    These are the hours of the ledger and those that a store has beside them. Mirrors are asked side by side. With
    `repair`, what is missing or different at a mirror and cleared to be there is published anew and counted again;
    what is extra stays, and silver is never touched.
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
    def chosen(known: Iterable[Hour]) -> list[Hour]:
        first, last = bounds
        return sorted({hour for hour in known if (first or hour) <= hour <= (last or hour)})

    def cells_of(store: str) -> list[Cell]:
        if store == SILVER:
            return _silver(topic, history, chosen, config)
        return _mirror(store, topic, history, chosen, config, opened, repair)

    stores = [SILVER, *topic.mirrors]
    with ThreadPoolExecutor(len(stores)) as pool:
        found = [cell for cells in pool.map(cells_of, stores) for cell in cells]
    return sorted(found, key=lambda cell: (cell.hour, stores.index(cell.store)))


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


def _silver(topic: Topic, history: History, chosen: Chosen, config: Config) -> list[Cell]:
    """Silver's files of each sealed hour, by their ids alone, and hours in its log that the ledger never closed."""
    folders, options = folders_of(config.settings, topic.name), config.settings.storage_options
    unknown = _hours_in_log(folders.silver, options)
    for hour in history.hours():
        unknown.pop(hour, None)

    def cell(hour: Hour) -> Cell:
        where = f"{folders.silver} hour={hour}"
        try:
            is_extra = hour in unknown
            ours = unknown[hour] if is_extra else sealed_hour(history, topic, hour, folders, options).files
            count = _counted(ours, folders.silver, options)
            return _cell(topic, history, hour, SILVER, count, where, verdict="extra" if is_extra else None)
        except LakeError as error:
            return _cell(topic, history, hour, SILVER, None, where, error, verdict="different")
        except (OSError, LakehouseError) as error:
            missing = isinstance(error, FileNotFoundError)
            return _cell(topic, history, hour, SILVER, None, where, error, verdict="missing" if missing else "error")

    return [cell(hour) for hour in chosen({*filter(history.revision, history.hours()), *unknown})]


def _hours_in_log(silver: str, options: Mapping[str, str]) -> dict[Hour, list[DataFile]]:
    """None when the table cannot be read, which every sealed hour then says by itself."""
    found: dict[Hour, list[DataFile]] = {}
    with suppress(LakeError):
        for file in files(open_table(silver, options)):
            found.setdefault(file.hour or "", []).append(file)
    return found


def _counted(parts: Iterable[DataFile], silver_uri: str, options: Mapping[str, str]) -> Count:
    rows = checksum = 0
    for file in parts:
        with open_file(silver_uri, file.path, options) as source, pq.ParquetFile(source) as parquet:
            for batch in parquet.iter_batches(1_000_000, columns=["event_id"]):
                rows += batch.num_rows
                checksum += id_checksum(batch.column(0))
    return Count(rows, checksum)


def _mirror(
    name: str,
    topic: Topic,
    history: History,
    chosen: Chosen,
    config: Config,
    opened: Opened,
    repair: bool,
) -> list[Cell]:
    known = set(chosen(history.hours()))
    try:
        mirror = opened(name)
        beside = mirror.hours(topic) - set(history.hours())
    except LakehouseError as error:
        return [_cell(topic, history, hour, name, None, name, error, verdict="error") for hour in known]
    with ThreadPoolExecutor(mirror.hours_at_once) as pool:
        cells = pool.map(
            lambda hour: _compared(mirror, topic, history, hour, config, repair), chosen({*known, *beside})
        )
        return [cell for cell in cells if cell.hour in known or cell.verdict != "due"]


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
    return replace(found, repaired=True, error=None)


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
