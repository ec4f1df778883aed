"""A topic's folders as addresses, and its tables as Delta tables: what tests look at beside the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deltalake import DeltaTable

from lakehouse.config import Settings
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic


@dataclass(frozen=True)
class Folders:
    """Where a topic's things are."""

    settings: Settings
    name: str

    raw = property(lambda self: f"{self.settings.raw_root}/{self.name}")
    sealed = property(lambda self: f"{self.settings.sealed_root}/{self.name}")
    checkpoint = property(lambda self: f"{self.raw}/checkpoint")
    segments = property(lambda self: f"{self.raw}/segments")
    bronze = property(lambda self: f"{self.raw}/bronze")
    silver = property(lambda self: f"{self.sealed}/silver")
    ledger = property(lambda self: f"{self.sealed}/ledger")
    reports = property(lambda self: f"{self.sealed}/reports")


def folders_of(settings: Settings, topic_name: str) -> Folders:
    return Folders(settings, topic_name)


def bronze_table(folders: Folders, topic: Topic, options: Mapping[str, str]) -> DeltaTable:
    """The topic's bronze table, created or given new declared fields where that is due."""
    return _tables(folders, topic, options).ensure_bronze()


def silver_table(folders: Folders, topic: Topic, options: Mapping[str, str]) -> DeltaTable:
    """The topic's silver table, created or given new declared fields where that is due."""
    return _tables(folders, topic, options).ensure_silver()


def ledger_table(folders: Folders, topic: Topic, options: Mapping[str, str]) -> DeltaTable:
    """The topic's ledger, created where there is none."""
    tables = _tables(folders, topic, options)
    tables.ledger("test")
    return tables.sealed.below("ledger").table()


def _tables(folders: Folders, topic: Topic, options: Mapping[str, str]) -> TopicTables:
    settings = folders.settings.model_copy(update={"storage_options": dict(options)})
    return TopicTables(topic.model_copy(update={"name": folders.name}), settings)
