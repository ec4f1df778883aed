"""Counts what became of published messages, from the files of silver and of the mirrors, without Spark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse.checksum import checksum_of
from lakehouse.config import Config
from lakehouse.sandbox.flights import Message
from lakehouse.store.delta import files, files_of_hour
from lakehouse.store.records import State
from lakehouse.store.tables import TopicTables
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


FIGURES: Mapping[str, Callable[[Outcome], int]] = {
    "published": lambda each: each.published,
    "distinct": lambda each: each.distinct,
    "delivered": lambda each: each.delivered,
    "duplicates removed": lambda each: each.duplicates,
    "skewed": lambda each: each.skewed,
    "rejected": lambda each: each.rejected,
    "hours sealed": lambda each: each.sealed,
    "hours valid": lambda each: each.valid,
    "hours mirrored": lambda each: each.mirrored,
}
"""What is shown of outcomes: a row each."""


def outcome_of(topic: Topic, config: Config, messages: Sequence[Message]) -> Outcome:
    """Published against delivered: ids in silver and in every mirrored folder, read with pyarrow from their files."""
    mine = [message for message in messages if message.topic == topic.name]
    wanted = {message.event_id for message in mine if message.event_id}
    outcome = Outcome(len(mine), len(wanted))
    tables = TopicTables(topic, config.settings)
    history = tables.history()
    counts = {place: Counter[str]() for place in ("silver", *topic.mirrors)}
    silver = tables.silver() if history.hours() else None
    for hour in history.hours():
        seal = history.seal_of(hour)
        outcome.sealed += seal is not None
        outcome.valid += history.last(State.VALID, hour) is not None
        outcome.mirrored += history.targets_done(hour) >= set(topic.mirrors)
        if seal is not None:
            outcome.duplicates += seal.duplicates + seal.late_duplicates
            outcome.skewed += seal.skewed
        for place, counted in counts.items():
            is_silver = place == "silver"
            ids = list(_silver_ids(tables, silver, hour) if is_silver else _mirror_ids(topic, config, place, hour))
            counted.update(ids)
            if seal is not None and (len(ids), checksum_of(ids)) != (seal.rows, seal.id_checksum):
                outcome.changed.append(f"{hour} in {place if is_silver else f'mirror {place}'}")
    outcome.delivered = len(counts["silver"])
    outcome.rejected = _rejected(tables)
    for counted in counts.values():
        outcome.lost |= wanted - set(counted)
        outcome.doubled |= {event_id for event_id, count in counted.items() if count > 1}
        outcome.unexpected += sorted(set(counted) - wanted)
    flawed = sum(1 for message in mine if message.event_id is None)
    if outcome.rejected != flawed:
        outcome.unexpected.append(f"{outcome.rejected} rejected, {flawed} were bad")
    return outcome


def _silver_ids(tables: TopicTables, silver: DeltaTable | None, hour: str) -> Iterator[str]:
    for file in files_of_hour(silver, hour) if silver is not None else []:
        with tables.sealed.open(f"silver/{file.path}") as source:
            yield from pq.read_table(source, columns=["event_id"])["event_id"].to_pylist()


def _mirror_ids(topic: Topic, config: Config, mirror: str, hour: str) -> Iterator[str]:
    folder = Path(config.settings.mirrors[mirror]["path"]) / topic.name / hour
    for file in sorted(folder.glob("part-*.parquet")) if (folder / "_SUCCESS").exists() else []:
        yield from pq.read_table(file, columns=["event_id"], partitioning=None)["event_id"].to_pylist()


def _rejected(tables: TopicTables) -> int:
    if not tables.has_bronze():
        return 0
    return sum(file.rows for file in files(tables.bronze()) if file.hour is None)
