"""Slots: the shares of an epoch, as Spark hands them to tasks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

from pyspark.sql.datasource import InputPartition

from lakehouse.hours import Hour
from lakehouse.landing.manifests import PART_STRIDE
from lakehouse.progress import ReadFrom


@dataclass
class Slot(InputPartition):
    """One share of an epoch: pulled by one task, in one part or several.

    A part is a slot of its own to the protocol, with a number of its own. `is_suspect` says that an attempt before this
    one may have died of what it decoded. `of` is how many slots the topic has in the epoch; `read_from` is where it
    begins in a source that is a log.
    """

    epoch: int
    slot: int
    open_hour: Hour | None
    is_suspect: bool = field(default=False, compare=False)
    ack_deadline: timedelta | None = field(default=None, compare=False)
    of: int = field(default=1, compare=False)
    read_from: ReadFrom | None = field(default=None, compare=False)

    @property
    def part(self) -> int:
        return self.slot // PART_STRIDE

    def next_part(self) -> Slot:
        return replace(self, slot=self.slot + PART_STRIDE)
