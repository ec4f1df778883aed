"""Counts what became of published messages, from the files of silver and of the mirrors, without Spark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from lakehouse.checksum import checksum_of
from lakehouse.config import Config
from lakehouse.sandbox.flights import Message
from lakehouse.store.delta import files, files_of_hour, open_table, table_exists
from lakehouse.store.ledger import History, Ledger
from lakehouse.store.tables import folders_of
from lakehouse.topics import Topic


@dataclass
class Outcome:
    """What became of one topic's messages, counted from the tables' own files by something other than Spark."""

    published: int
    distinct: int
    delivered: int = 0
    duplicates: int = 0
    skewed: int = 0
    rejected: int = 0
    sealed: int = 0
    valid: int = 0
    mirrored: int = 0
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    changed: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.changed or self.unexpected)


def outcome_of(topic: Topic, config: Config, messages: Sequence[Message]) -> Outcome:
    """Published against delivered: ids in silver and in every mirrored folder, read with pyarrow from their files."""
    mine = [message for message in messages if message.topic == topic.name]
    wanted = {message.event_id for message in mine if message.event_id}
    outcome = Outcome(len(mine), len(wanted))
    history = history_of(topic, config)
    in_silver, in_mirror = Counter[str](), Counter[str]()
    for hour in history.hours():
        sealed = history.last("sealed", hour)
        outcome.sealed += sealed is not None
        outcome.valid += history.last("valid", hour) is not None
        outcome.mirrored += history.targets_done(hour) >= set(topic.mirrors)
        silver_ids = list(_silver_ids(topic, config, hour))
        mirror_ids = list(_mirror_ids(topic, config, hour))
        in_silver.update(silver_ids)
        in_mirror.update(mirror_ids)
        if sealed is not None:
            outcome.duplicates += sealed.details["duplicates"] + sealed.details["late_duplicates"]
            outcome.skewed += sealed.details["skewed"]
            manifest = sealed.details["rows"], int(sealed.details["id_checksum"])
            for place, ids in (("silver", silver_ids), ("mirror", mirror_ids)):
                if (len(ids), checksum_of(ids)) != manifest:
                    outcome.changed.append(f"{hour} in {place}")
    outcome.delivered = len(in_silver)
    outcome.rejected = _rejected(topic, config)
    for counts in (in_silver, in_mirror):
        outcome.lost |= wanted - set(counts)
        outcome.doubled |= {event_id for event_id, count in counts.items() if count > 1}
        outcome.unexpected += sorted(set(counts) - wanted)
    flawed = sum(1 for message in mine if message.event_id is None)
    if outcome.rejected != flawed:
        outcome.unexpected.append(f"{outcome.rejected} rejected, {flawed} were bad")
    return outcome


def _silver_ids(topic: Topic, config: Config, hour: str) -> Iterator[str]:
    uri = folders_of(config.settings, topic.name).silver
    for file in files_of_hour(open_table(uri, {}), hour):
        yield from pq.read_table(f"{uri}/{file.path}", columns=["event_id"], partitioning=None)["event_id"].to_pylist()


def _mirror_ids(topic: Topic, config: Config, hour: str) -> Iterator[str]:
    for name in topic.mirrors:
        folder = Path(config.settings.mirrors[name]["path"]) / topic.name / hour
        for file in sorted(folder.glob("part-*.parquet")) if (folder / "_SUCCESS").exists() else []:
            yield from pq.read_table(file, columns=["event_id"], partitioning=None)["event_id"].to_pylist()


def _rejected(topic: Topic, config: Config) -> int:
    bronze = open_table(folders_of(config.settings, topic.name).bronze, {})
    return sum(file.rows for file in files(bronze) if file.hour is None)


def history_of(topic: Topic, config: Config) -> History:
    """The topic's ledger as of now; an empty one before ingest has made it."""
    uri = folders_of(config.settings, topic.name).ledger
    return Ledger(open_table(uri, {}), "demo").history() if table_exists(uri, {}) else History()
