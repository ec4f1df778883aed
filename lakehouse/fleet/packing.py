"""Which topics should share an application, by what they brought: a proposal, for a person to put into fleet.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LARGE_SHARE = 0.5
"""A topic that brings so much of what an application may, has one of its own: its neighbours would wait for it."""


@dataclass(frozen=True)
class Load:
    """What a topic brings: rows a second, over its newest hours, and how many slots it has at most."""

    topic: str
    rows_per_second: float
    slots: int = 1


@dataclass(frozen=True)
class Group:
    """Topics that should share an application."""

    topics: tuple[str, ...]
    rows_per_second: float
    slots: int


def packed(
    loads: Iterable[Load], classes: Mapping[str, str], *, rows_per_second: float, most_topics: int
) -> list[Group]:
    """As few applications as there can be without one that brings more than `rows_per_second`, or has too many topics.

    A topic that alone brings half of that or more is alone. Topics of different `classes` (those of none are one) never
    share an application: what is critical does not wait for what is not. The same loads give the same groups, and the
    largest topics are placed first, each where the least room is left for it.
    """
    by_class: dict[str, list[Load]] = {}
    for load in sorted(loads, key=lambda each: (-each.rows_per_second, each.topic)):
        by_class.setdefault(classes.get(load.topic, ""), []).append(load)
    groups = [
        group for _, of_class in sorted(by_class.items()) for group in _of_class(of_class, rows_per_second, most_topics)
    ]
    return sorted(groups, key=lambda group: (-group.rows_per_second, group.topics))


def _of_class(loads: list[Load], rows_per_second: float, most_topics: int) -> list[Group]:
    alone = [[load] for load in loads if load.rows_per_second >= LARGE_SHARE * rows_per_second]
    shared: list[list[Load]] = []
    for load in loads[len(alone) :]:
        with_room = [
            each for each in shared if len(each) < most_topics and _rows(each) + load.rows_per_second <= rows_per_second
        ]
        if with_room:
            max(with_room, key=_rows).append(load)
        else:
            shared.append([load])
    return [_group(each) for each in [*alone, *shared]]


def _rows(loads: Iterable[Load]) -> float:
    return sum(load.rows_per_second for load in loads)


def _group(loads: list[Load]) -> Group:
    return Group(tuple(sorted(load.topic for load in loads)), _rows(loads), max(load.slots for load in loads))
