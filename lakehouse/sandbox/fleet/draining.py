"""The end of the day: every message in bronze, every hour closed on request and at its mirrors."""

from __future__ import annotations

import pyarrow.parquet as pq

from lakehouse.errors import LakeError
from lakehouse.operations.snapshot import read_topic
from lakehouse.sandbox.broker import Broker, topic_path
from lakehouse.sandbox.fleet.site import Site
from lakehouse.store.delta import files
from lakehouse.store.notes import leave_note
from lakehouse.store.records import CloseRequested
from lakehouse.store.tables import TopicTables


def request_close(site: Site) -> None:
    """As `lakehouse close` for every topic, through its newest hour: without newer events none would be over."""
    config = site.fleet.config
    for name in site.names:
        batch = read_topic(config.topics[name], config).batch
        if batch is not None and batch.state.hours:
            ledger = TopicTables(config.topics[name], config.settings).ledger("close/sandbox")
            ledger.record(CloseRequested(by="sandbox", reason="the day is over"), max(batch.state.hours))
    for application, topics in site.applications.items():  # all of them after the requests: each wakes its topic
        for name in topics:
            leave_note(config.settings, application, name)


def is_in_bronze(site: Site, broker: Broker, name: str) -> bool:
    """Whether bronze has all messages of the topic."""
    config = site.fleet.config
    topic = config.topics[name]
    if broker.unacked(topic.subscription):
        return False
    tables = TopicTables(topic, config.settings)
    published = set(broker.published(topic_path(topic.subscription)))
    try:
        found = files(tables.bronze())
    except LakeError:  # there is none yet
        return not published
    if sum(file.rows for file in found) < len(published):
        return False
    landed: set[str] = set()
    for file in found:
        with tables.raw.open(f"bronze/{file.path}") as source:
            landed.update(pq.read_table(source, columns=["message_id"])["message_id"].to_pylist())
    return landed >= published


def is_delivered(site: Site, name: str) -> bool:
    """Whether every hour of the topic that has events has closed and is at every mirror."""
    topic = site.fleet.config.topics[name]
    snapshot = read_topic(topic, site.fleet.config)
    hours = snapshot.history.hours()
    is_open = snapshot.batch is not None and bool(snapshot.batch.state.hours)
    return not is_open and all(snapshot.history.targets_done(hour) >= set(topic.mirrors) for hour in hours)
