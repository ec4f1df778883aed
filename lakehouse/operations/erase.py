"""Erase: take a person's events out of bronze and silver, as new revisions of the hours that held them.

The only way in which a sealed hour changes. The condition itself is written down nowhere, as it names the person; the
reason, who gave it, and the old revision's counts and checksum are.

One erasure at a time: each begins with a claim, an empty commit to both tables with the app transaction `erase` one
higher. Whoever lost the claim can commit nothing more, so what an interrupted erasure left can be removed at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from lakehouse.config import Config
from lakehouse.errors import in_one_line, lake_errors
from lakehouse.operations.condition import Condition
from lakehouse.operations.erasure.bronze import BronzeErasure
from lakehouse.operations.erasure.order import ERASE, Order
from lakehouse.operations.erasure.silver import ErasedHour, SilverErasure
from lakehouse.operations.erasure.verdicts import JUDGED, without_observed_values
from lakehouse.operations.tracking import Track, no_tracking
from lakehouse.store.delta import table_errors
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import mlflow_runs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Erasure:
    """`deliveries` went from bronze, those of `hours` among them; `files` are deleted for good."""

    topic: str
    hours: tuple[ErasedHour, ...]
    deliveries: int
    files: tuple[str, ...] = field(default=(), repr=False)


def erase(
    topic: Topic,
    config: Config,
    where: str,
    *,
    reason: str,
    by: str,
    dry_run: bool = False,
    track: Track = no_tracking,
) -> Erasure:
    """Erase all rows and deliveries for which `where` holds, and every delivery of a row's event.

    `where` is one condition over silver's columns, in DuckDB's SQL. It can be repeated: what is gone is gone, and an
    erasure that was interrupted, this one or another, is finished first. LakehouseError when a closed hour still waits
    for its seal. Rejected deliveries are found only by conditions over their `event_id`, `message_id` and
    `publish_time`; the others go with `bronze_retention`. What ingest has not committed yet is not searched: erase
    again once it has. `track` counts the hours that are sealed again.
    """
    order = Order(Condition(where, topic), reason, by, config.settings.release)
    with table_errors(f"topic {topic.name}"), lake_errors(f"topic {topic.name}"):
        return _erase(TopicTables(topic, config.settings), order, dry_run=dry_run, track=track)


def _erase(tables: TopicTables, order: Order, *, dry_run: bool, track: Track) -> Erasure:
    topic = tables.topic
    table = tables.bronze()
    ledger = tables.ledger(f"{ERASE}/{order.release}/{order.by}")
    silver = SilverErasure(tables, ledger, order)
    bronze = BronzeErasure(tables, ledger, order)
    bronze.check_sealed(table)
    if not dry_run:
        mlflow_runs.note_erasure(tables)
        bronze.claim()
        silver.claim()
        bronze.finish()
        silver.finish()
    found = silver.matches()
    events = {event for matches in found.values() for match in matches for event in match.events}
    if dry_run:
        would_be = tuple(silver.would_be(hour, matches) for hour, matches in sorted(found.items()))
        return Erasure(topic.name, would_be, sum(match.count for match in bronze.matches(events)))
    deliveries = bronze.rewrite(events)
    sealed_again = tuple(silver.seal_again(hour, matches) for hour, matches in track(sorted(found.items()), len(found)))
    bronze.finish()  # what a compaction replaced before, and a seal that died left, holds them, too
    silver.finish()
    ledger.erase(without_observed_values(ledger.history().erased_hours()), JUDGED)
    _end_in_mlflow(tables)
    log.info("erase: topic=%s hours=%d deliveries=%d", topic.name, len(sealed_again), deliveries)
    return Erasure(topic.name, sealed_again, deliveries, (*bronze.deleted, *silver.deleted))


def _end_in_mlflow(tables: TopicTables) -> None:
    """A server that is away holds up no erasure: the next verdict tries again, and `outstanding` says so."""
    try:
        mlflow_runs.remove_erased(tables)
    except Exception as error:  # whatever a server can answer
        log.warning("erase: topic=%s store=MLflow state=outstanding error=%s", tables.topic.name, in_one_line(error))
