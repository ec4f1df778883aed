"""What an application's next epochs are to be: which topics, in how many slots, in which tasks.

Spark's planner is a process of its own that the driver cannot call: the driver leaves it a file on this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

from lakehouse.hours import Hour
from lakehouse.landing.bundles import Bundle
from lakehouse.landing.slots import Slot
from lakehouse.progress import ReadFrom
from lakehouse.topics import Slots

_IDLE, _ACTIVE = 0.0005, 0.02
"""What a topic of which nothing or little comes takes of a task, measured in full slots."""
_QUIET = 0.1
"""What a topic brings at most, in full slots, that shares its tasks with idle ones: it does not wait for busy ones."""
_MOST_TOPICS = 1_000
"""Of a task."""


@dataclass(frozen=True)
class TopicPlan:
    """How a topic is polled. `load` is what each of its slots brought lately, 1 for what a slot may bring at most.

    `after` is the last epoch that it has used, maybe in another application. A topic that `is_apart` has tasks of its
    own, which wait for it `patience_seconds`: it may be what killed one, or what a store does not answer. `read_from`
    is where it begins in a source that is a log, as JSON (`lakehouse.progress.ReadFrom`).
    """

    slots: int = 1
    load: float = 0.0
    open_hour: Hour | None = None
    ack_deadline_seconds: float | None = None
    after: int = 0
    is_apart: bool = False
    patience_seconds: float | None = None
    read_from: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """The topics that are polled from the next epoch on. `is_suspect`: messages may be what killed a process lately."""

    topics: Mapping[str, TopicPlan] = field(default_factory=dict)
    after: int = 0
    is_suspect: bool = False

    @property
    def last_epoch(self) -> int:
        """That any topic of the application has used, those that are not polled now included."""
        return max([self.after, *(topic.after for topic in self.topics.values())])

    def write(self, path: Path) -> None:
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(asdict(self)))
        os.replace(aside, path)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """OSError when there is none."""
        values: dict[str, Any] = json.loads(path.read_text())
        topics = {name: TopicPlan(**each) for name, each in values.pop("topics").items()}
        return cls(topics, **values)


@dataclass(frozen=True)
class Offset:
    """An epoch of the application, and what a replay of it must plan alike.

    `slots` are those of the topics that do not have one; `left_out` are the topics that are not polled.
    """

    epoch: int
    slots: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, epoch: int, plan: Plan, names: Iterable[str]) -> Offset:
        slots = {name: each.slots for name, each in sorted(plan.topics.items()) if each.slots != 1}
        return cls(epoch, slots, tuple(sorted(name for name in names if name not in plan.topics)))

    def as_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "slots": dict(self.slots), "left_out": list(self.left_out)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Offset:
        return cls(values["epoch"], values["slots"], tuple(values["left_out"]))


def bundles(offset: Offset, plan: Plan, names: Collection[str], *, is_fresh: bool, is_suspect: bool) -> list[Bundle]:
    """The tasks of an epoch: each topic's slots, in bundles that have about a full slot's work to do.

    Those of quiet topics come first, and have no busy one: what a topic brought is committed when its bundle has ended.
    Topics that the plan does not have any more are left out, and those that were elsewhere up to a later epoch: what
    was pulled for them before is adopted. Deterministic.
    """
    bins: list[_Bin] = []
    quiet: list[tuple[float, str, Slot]] = []
    busy: list[tuple[float, str, Slot]] = []
    for name in sorted(names):
        topic = plan.topics.get(name)
        if topic is None or name in offset.left_out or offset.epoch < topic.after:
            continue
        deadline = timedelta(seconds=topic.ack_deadline_seconds) if topic.ack_deadline_seconds else None
        count = offset.slots.get(name, 1)
        read_from = ReadFrom.from_json(topic.read_from) if topic.read_from else None
        for number in range(count):
            slot = Slot(offset.epoch, number, topic.open_hour, is_suspect, deadline, count, read_from)
            if topic.is_apart or count > 1:
                bins.append(_Bin(topic.load, [(name, slot)], topic.patience_seconds))
            else:
                (quiet if topic.load <= _QUIET else busy).append((_cost(topic.load), name, slot))
    bins = [*_packed(quiet, plan), *_packed(busy, plan), *bins]
    return [Bundle(tuple(each.slots), is_fresh, _patience(each.patience)) for each in bins]


def next_slots(slots: int, bounds: Slots, ends: Sequence[tuple[bool, bool]]) -> int:
    """More when every slot of the last epoch stopped at its bound, fewer when every one was drained.

    `ends` are (full, drained) of the slots that are known.
    """
    if len(ends) >= slots and slots:
        if all(is_full for is_full, _ in ends):
            slots *= 2
        elif all(is_drained for _, is_drained in ends):
            slots -= 1
    return max(bounds.min, min(bounds.max, slots))


@dataclass
class _Bin:
    load: float
    slots: list[tuple[str, Slot]]
    patience: float | None


def _cost(load: float) -> float:
    return load + _ACTIVE if load else _IDLE


def _packed(small: list[tuple[float, str, Slot]], plan: Plan) -> list[_Bin]:
    """The largest first, each to the bundle that has least to do."""
    if not small:
        return []
    count = max(ceil(sum(cost for cost, *_ in small)), ceil(len(small) / _MOST_TOPICS))
    bins = [_Bin(0.0, [], None) for _ in range(min(count, len(small)))]
    for cost, name, slot in sorted(small, key=lambda each: (-each[0], each[1])):
        least = min(bins, key=lambda each: each.load)
        least.load += cost
        least.slots.append((name, slot))
        least.patience = _longer(least.patience, plan.topics[name].patience_seconds, is_first=len(least.slots) == 1)
    return bins


def _longer(known: float | None, more: float | None, *, is_first: bool) -> float | None:
    if is_first:
        return more
    return None if known is None or more is None else max(known, more)


def _patience(seconds: float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds is not None else None
