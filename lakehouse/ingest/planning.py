"""What an application's next epoch is to be: who is polled, who has tasks of its own, who is not waited for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta

from lakehouse.config import Ingest
from lakehouse.ingest.parking import Parking
from lakehouse.landing.plan import Plan, TopicPlan

LEAST_PATIENCE = timedelta(seconds=5)
"""For a store to take what one topic has of an epoch; longer where the trigger is: it holds up no other within one."""
SLOW_PATIENCE = timedelta(seconds=2)
"""For the segment of a topic whose store has not answered before."""
SUSPECT_FOR = timedelta(minutes=10)
"""How long topics are pulled apart after a task died, and decoded with care, or after their store was late: what it
was has to come again."""


def patience(trigger: timedelta) -> timedelta:
    """How long an epoch waits for one topic's segment to become durable, and then for its commit."""
    return max(trigger, LEAST_PATIENCE)


class Planning:
    """The plans of one run, by what topics are parked, what has died and what came late. Instants are of the steady
    clock."""

    def __init__(self, settings: Ingest, parking: Parking) -> None:
        self._settings, self._parking = settings, parking
        self._apart: dict[str, float] = {}
        self._late: dict[str, float] = {}
        self._suspect_until = 0.0
        self._after = 0

    def suspect(self, now: float, apart: Collection[str] = ()) -> None:
        """A process or an attempt died: messages are decoded with care, and these topics have tasks of their own."""
        self._suspect_until = now + SUSPECT_FOR.total_seconds()
        self._apart |= dict.fromkeys(apart, self._suspect_until)

    def is_apart(self, name: str, now: float) -> bool:
        """Whether a task has died lately that had the topic."""
        return now < self._apart.get(name, 0.0)

    def note_late(self, name: str, now: float) -> None:
        """A task that had others, too, has not waited for the topic's store: from now on it has tasks of its own."""
        self._late[name] = now + SUSPECT_FOR.total_seconds()

    def is_late(self, name: str, now: float) -> bool:
        """Whether that was so lately."""
        return now < self._late.get(name, 0.0)

    def next(self, topics: Mapping[str, TopicPlan], among: int, now: float) -> Plan:
        """The plan for these topics of `among` so many; after the last epoch that any topic of a plan has used."""
        self._after = max([self._after, *(topic.after for topic in topics.values())])
        planned = {name: self._planned(name, topic, among, now) for name, topic in topics.items()}
        return Plan(planned, self._after, now < self._suspect_until)

    def _planned(self, name: str, topic: TopicPlan, among: int, now: float) -> TopicPlan:
        """Apart from the others where it has to be, and waited for as long as these can wait; alone, without an end."""
        is_slow = self._parking.is_slow(name)
        seconds = (
            (SLOW_PATIENCE if is_slow else patience(self._settings.trigger)).total_seconds() if among > 1 else None
        )
        is_apart = is_slow or self.is_apart(name, now) or self.is_late(name, now)
        return replace(topic, is_apart=is_apart, patience_seconds=seconds)
