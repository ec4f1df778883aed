"""The crash kit's world with a log in the place of Pub/Sub: what outlives every driver, and whether it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from lakehouse import failpoints
from lakehouse.config import Config
from lakehouse.crash.playing import Outcome, outcome_of
from lakehouse.crash.schedules import Schedule
from lakehouse.crash.small_lake import PLAYS
from lakehouse.crash.world import World
from lakehouse.ingest.frontier import ClockCheck, FrontierSource, PositionFrontier
from lakehouse.sources import LogSource
from lakehouse.store.bronze_log import newest_state

PARTITIONS = 2
STEPS = [step for step in failpoints.STEPS if step.startswith(("ingest.", "pull."))]
"""Those after them have no part in what is read."""


class LogWorld(World):
    """Messages of a topic go to its partitions in turn. The faults of the sandbox's broker are played on answers."""

    def __init__(self, config: Config) -> None:
        self._names = {name: f"{name}-{uuid4().hex[:8]}" for name in config.topics}
        self._ids: dict[str, list[str]] = {name: [] for name in config.topics}
        topics = {
            name: topic.model_copy(update={"subscription": "", "source": self.source(self._names[name])})
            for name, topic in config.topics.items()
        }
        super().__init__(replace(config, topics=topics))

    def source(self, log: str) -> LogSource:
        """A new log of that name."""
        raise NotImplementedError

    def send(self, log: str, partition: int, payload: bytes) -> None:
        """Published now."""
        raise NotImplementedError

    def publish(self, payload: bytes, name: str = PLAYS) -> None:
        partition = len(self._ids[name]) % PARTITIONS
        self._ids[name].append(f"{partition}:{len(self._ids[name]) // PARTITIONS}")
        self.send(self._names[name], partition, payload)

    def published(self, name: str = PLAYS) -> list[str]:
        return list(self._ids[name])

    def unacked(self, name: str = PLAYS) -> list[str]:
        """What bronze has not read up to."""
        tables = self.tables_of(name)
        state = newest_state(tables.bronze()) if tables.raw.below("bronze").has_table() else None
        reached = state.positions.offsets if state and state.positions else {}
        return [each for each in self._ids[name] if not _is_before(each, reached)]

    def frontier(self, name: str = PLAYS, reached: Callable[[], Mapping[int, int]] = dict) -> FrontierSource:
        return PositionFrontier(reached, timedelta(minutes=5), ClockCheck(lambda: self.now.timestamp()))


def _is_before(message_id: str, reached: Mapping[int, int]) -> bool:
    partition, _, offset = message_id.partition(":")
    return int(offset) < reached.get(int(partition), 0)


class Worlds:
    """Of one test: plays a schedule in a world that is made for it, and looks at bronze."""

    def __init__(self, make: Callable[[Config], LogWorld], folder: Path) -> None:
        self._make, self._folder = make, folder
        self.made: list[LogWorld] = []

    def sound_outcome(self, schedule: Schedule) -> Outcome:
        """Asserts that nothing is violated, and that no offset is in bronze twice."""
        outcome = outcome_of(schedule, self._folder, world=self._new)
        assert (outcome.violations, self._repeated()) == ([], []), "\n".join(outcome.trace)
        return outcome

    def _repeated(self) -> list[str]:
        """Offsets that bronze has more than once."""
        found = []
        for world in self.made:
            for name in world.config.topics:
                ids = world.tables_of(name).bronze().to_pyarrow_table(columns=["message_id"]).column(0).to_pylist()
                found += [f"{name} {each}" for each, count in Counter(ids).items() if count > 1]
        return found

    def _new(self, config: Config) -> LogWorld:
        self.made.append(self._make(config))
        return self.made[-1]
