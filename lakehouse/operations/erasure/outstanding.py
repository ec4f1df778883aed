"""What of erased events is still somewhere: an erasure is finished when no store that we write has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from lakehouse.config import Config
from lakehouse.errors import LakehouseError, in_one_line
from lakehouse.hours import Hour
from lakehouse.mirrors.contract import Mirror
from lakehouse.mirrors.sealed import sealed_hour
from lakehouse.operations import report_sites
from lakehouse.operations.erasure.leftovers import (
    bronze_leftovers,
    older_reports,
    silver_leftovers,
    unnamed_deliveries,
    unrecorded_revisions,
)
from lakehouse.operations.erasure.verdicts import JUDGED, without_observed_values
from lakehouse.store.history import History
from lakehouse.store.records import Mirrored, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import mlflow_runs

_AGAIN = "Run erase again, with any condition: it finishes what was interrupted."
_UNNAMED = "An attempt or a compaction that died left it: maintain removes it, a day after it was written."
_BY_MAINTAIN = "Run maintain, which takes them out of the ledger, or erase again with any condition."


@dataclass(frozen=True)
class OpenItem:
    """Something that may still hold the erased: in which store, of which hour, where, and what ends it."""

    store: str
    hour: Hour | None
    found: str
    next_step: str


def outstanding(topic: Topic, config: Config, open_mirror: Callable[[str], Mirror]) -> list[OpenItem]:
    """By store; none when every erasure of the topic is finished. What cannot be asked is an item, too.

    Deliveries that ingest has not committed yet, and rejected ones, are not known to be anybody's.
    """
    tables = TopicTables(topic, config.settings)
    history = tables.history()
    items = [*_in_tables(tables, history), *_in_ledger(tables, history), *_in_mlflow(tables)]
    for site in report_sites.outdated_sites(tables, history):
        where = site.address if "://" in site.address else f"{site.address} on {site.host}"
        items.append(OpenItem("report pages", None, where, "Run `lakehouse report --out` for it again, or remove it."))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(partial(_in_mirror, tables, history, config, open_mirror), _mirrors(topic, history))
        return [*items, *(item for of_mirror in found for item in of_mirror)]


def _in_tables(tables: TopicTables, history: History) -> Iterator[OpenItem]:
    sealed = tables.sealed.files()
    if tables.has_bronze():
        for path in bronze_leftovers(tables.bronze(), tables.raw.files()):
            yield OpenItem("bronze", None, tables.raw.files().address(path), _AGAIN)
        for path in unnamed_deliveries(tables):
            yield OpenItem("bronze", None, tables.raw.files().address(path), _UNNAMED)
    if tables.has_silver():
        silver = tables.silver()
        for hour in unrecorded_revisions(silver, history):
            yield OpenItem("ledger", hour, "a revision that is not recorded", _AGAIN)
        for path in silver_leftovers(silver, sealed, history.erased_hours()):
            yield OpenItem("silver", None, sealed.address(path), _AGAIN)
    for path in older_reports(sealed, history):
        yield OpenItem("reports", None, sealed.address(path), _AGAIN)


def _in_ledger(tables: TopicTables, history: History) -> Iterator[OpenItem]:
    """Release 0.1 wrote what it observed of columns, which can be a row's value, into the verdict's row."""
    if erased := history.erased_hours():
        for address in tables.ledger_files_to_change(without_observed_values(erased), JUDGED):
            yield OpenItem("ledger", None, f"observed values of older revisions in {address}", _BY_MAINTAIN)


def _in_mlflow(tables: TopicTables) -> Iterator[OpenItem]:
    try:
        for address in mlflow_runs.erased_artifacts(tables):
            yield OpenItem("MLflow", None, address, _AGAIN)
    except Exception as error:  # whatever a server can answer
        yield OpenItem("MLflow", None, f"no answer: {in_one_line(error)}", "Check the server, and ask again.")


def _mirrors(topic: Topic, history: History) -> list[str]:
    """Those of the topic, and those that once had an hour which was erased since."""
    rows = [entry for hour in history.erased_hours() for entry in history.of_hour(hour)]
    once = [entry.of(Mirrored).target for entry in rows if entry.state == State.MIRRORED]
    return list(dict.fromkeys([*topic.mirrors, *once]))


def _in_mirror(
    tables: TopicTables, history: History, config: Config, open_mirror: Callable[[str], Mirror], name: str
) -> list[OpenItem]:
    store, erased = f"mirror {name}", list(history.erased_hours())
    if not erased:
        return []
    if name not in config.settings.mirrors:
        return [OpenItem(store, None, "a mirror that is no longer configured", "Remove the hours there by hand.")]
    try:
        mirror = open_mirror(name)
    except Exception as error:
        return [OpenItem(store, None, f"no answer: {_error_text(error)}", "Check the target, and ask again.")]

    def of_hour(hour: Hour) -> list[OpenItem]:
        try:
            kept = mirror.remains(sealed_hour(tables, history, hour))
        except Exception as error:
            return [OpenItem(store, hour, f"no answer: {_error_text(error)}", "Check the target, and ask again.")]
        return [OpenItem(store, hour, where, _next_step(tables.topic, history, hour, name)) for where in kept]

    with ThreadPoolExecutor(mirror.hours_at_once) as pool:
        return [item for items in pool.map(of_hour, erased) for item in items]


def _next_step(topic: Topic, history: History, hour: Hour, name: str) -> str:
    if name not in topic.mirrors:
        return "Not a mirror of the topic any more: remove the hour there by hand."
    if hour in history.due_to_validate():
        return "The new revision goes there once it is judged: run validate, then mirror."
    return "Run mirror: it publishes the new revision, or withdraws the hour where that is invalid."


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, LakehouseError) else in_one_line(error)
