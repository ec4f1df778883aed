"""What Google bills for a lake's requests, and what is kept of a topic beside its data."""

from __future__ import annotations

import statistics

from bench.bill import GIGABYTE_MONTH, Bill, a_month
from bench.played import BETWEEN, TRIGGERS_A_DAY, PlayedTopics, played
from bench.report import Report
from lakehouse.store.place import Place
from lakehouse.store.table_log import CHECKPOINT_EVERY, KEPT_CHECKPOINTS, RECENT_CHECKPOINTS
from tests.servers.object_store import ObjectStoreServer, Request

_TRIGGERS, _FILES = 100, 360
_DAYS, _LOG_DAYS, _HOURS_OF_BRONZE = 400, 37, 720


def measure(report: Report) -> None:
    """Requests of 100 triggers, checkpoints and clearing included, and of the delivery of an hour of 360 files."""
    with played() as (topic, store):
        for _ in range(20):
            topic.trigger(events=2)
        store.requests()
        busy, idle = (Bill.of(_asked(topic, store, events), _TRIGGERS) for events in (2, 0))
        topic.close_hour(_FILES)
        store.requests()
        topic.deliver()
        hour = Bill.of(store.requests())
        for name, bill in (
            ("a trigger with rows", busy),
            ("an idle trigger", idle),
            (f"delivering an hour of {_FILES} files", hour),
        ):
            report.shown(f"class A requests of {name}", bill.a, "requests")
            report.shown(f"class B requests of {name}", bill.b, "requests")
        for topics, bound in ((10, 50), (300, 1_500), (1_800, 9_000)):
            dollars = a_month(topics, busy, idle, hour).dollars
            name = f"requests billed for {topics:,} topics at 10 s, half of them idle"
            report.at_most(name, dollars, bound, "$ a month")
        _kept(report, topic)


def _asked(topic: PlayedTopics, store: ObjectStoreServer, events: int) -> list[Request]:
    for _ in range(_TRIGGERS):
        topic.publish(events)
        topic.driver.batch()
        topic.world.now += BETWEEN
    return store.requests()


def _kept(report: Report, topic: PlayedTopics) -> None:
    """Of a topic with a trigger every 10 s, at 400 days, beside the data files of bronze and silver.

    bronze: entries of 37 days, and (32 + checkpoints / 64) checkpoints, of the files that a table of 30 days has: two
    for each delivered hour, and 24 × 360 until maintain has put them together.
    silver, ledger: an entry for each commit of 400 days, and as many checkpoints by the same rule, each of half the
    files that there are in the end; of the ledger its rows twice, in large files and in those that are replaced.
    """
    hours = 24 * _DAYS
    raw, sealed = topic.world.tables.raw, topic.world.tables.sealed
    entries = _LOG_DAYS * TRIGGERS_A_DAY
    kept = {
        "bronze": _log_bytes(raw.below("bronze"), entries, 2 * _HOURS_OF_BRONZE + 24 * _FILES),
        "silver": _log_bytes(sealed.below("silver"), hours, hours // 2),
        "ledger": _log_bytes(sealed.below("ledger"), 10 * hours, 12),
    }
    row = statistics.median(
        stored.size_bytes
        for stored in sealed.below("ledger").files().listing("")
        if stored.path.endswith(".parquet") and "/" not in stored.path
    )
    kept["ledger"] = kept["ledger"][0] + 2 * 10 * hours * row / 4, kept["ledger"][1] + 24
    reports = list(sealed.files().listing("reports"))
    delivered = max(1, len({stored.path.split("/")[1] for stored in reports}))
    kept["reports"] = (
        sum(stored.size_bytes for stored in reports) / delivered * hours,
        len(reports) / delivered * hours,
    )
    for name, (size, objects) in kept.items():
        report.shown(f"kept of a busy topic at {_DAYS} days: {name}", size / 1e9, "GB")
        report.shown(f"kept of a busy topic at {_DAYS} days: {name}, objects", objects, "objects")
    total = sum(size for size, _ in kept.values())
    report.at_most(f"kept of a busy topic at {_DAYS} days beside its data", total / 1e9, 5, "GB")
    report.shown(f"objects kept of a busy topic at {_DAYS} days", sum(n for _, n in kept.values()), "objects")
    report.shown("storage of that, list price", total / 1e9 * GIGABYTE_MONTH, "$ a month")


def _log_bytes(table: Place, entries: int, files: int) -> tuple[float, float]:
    """(bytes, objects) of so many entries and their checkpoints, each of so many files, by the sizes that are there."""
    listed = list(table.files().walk("_delta_log"))
    sizes = [each.size_bytes for each in listed if each.path.endswith(".json")]
    entry = statistics.median(sizes)
    checkpoints = [each.size_bytes for each in listed if each.path.endswith(".checkpoint.parquet")]
    of_a_file = max(checkpoints) / len(sizes) if checkpoints else 0.4 * entry
    kept = RECENT_CHECKPOINTS + entries / CHECKPOINT_EVERY / KEPT_CHECKPOINTS
    return entries * entry + kept * of_a_file * files, entries + kept
