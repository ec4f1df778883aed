"""The stages behind ingest, for all topics of an application: in a pool of workers, fed by what became due."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from lakehouse.config import Settings
from lakehouse.errors import LakehouseError, unexpected
from lakehouse.operations.stage_failures import record_stage_failure
from lakehouse.running.pool import MakesRoom, Pool
from lakehouse.running.schedule import Outcome, Schedule
from lakehouse.spark.shutdown import concerns_all
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

log = logging.getLogger("lakehouse")

Stage = Callable[[Topic, Callable[[], bool]], object]
"""What is due of one topic, as long as its second argument does not say that nothing more shall begin."""


class Stages:
    """Runs the stages, by their names, of each topic in turn; a topic waits for no other but for a worker.

    A stage that fails leaves its hour due and is tried again, with growing pauses; what fails at the last run is
    raised. What nobody foresaw parks its topic alone; what concerns all (`concerns_all`) stops the application.
    """

    def __init__(
        self,
        topics: Sequence[Topic],
        stages: Mapping[str, Stage],
        settings: Settings,
        *,
        run: str,
        stop: threading.Event,
        look_every: timedelta,
    ) -> None:
        self._topics = {topic.name: topic for topic in topics}
        self._stages, self._settings, self._run_id, self._stop = stages, settings, run, stop
        self._errors: dict[tuple[str, str], LakehouseError] = {}
        schedule = Schedule(self._topics, time.monotonic(), look_every=look_every.total_seconds())
        self._pool = Pool(schedule, list(self._topics), self._turn, stop, settings.stages.workers)

    def start(self) -> None:
        self._pool.start()

    def tell(self, topic: str, due_since: datetime, now: datetime) -> None:
        """An hour of the topic closed, which is due since its end."""
        self._pool.tell(topic, due_since, now)

    def finish(self) -> None:
        """Run what is due once more for every topic, unless asked to stop; raises what still fails."""
        self._pool.finish(last_turns=True)
        for error in self._errors.values():
            raise error

    def abandon(self) -> None:
        """Of a run that failed: let the hours under way end, begin no other, and log what fails instead of raising."""
        self._stop.set()
        try:
            self.finish()
        except Exception as error:
            log.error("stages: error=%s", unexpected("stages", error))

    def _turn(self, name: str, makes_room: MakesRoom) -> Outcome:
        topic = self._topics[name]
        outcomes = [self._run(stage, topic, makes_room) for stage in self._stages if not self._stop.is_set()]
        for outcome in (Outcome.FAILED, Outcome.MORE):
            if outcome in outcomes:
                return outcome
        return Outcome.DONE

    def _run(self, name: str, topic: Topic, makes_room: MakesRoom) -> Outcome:
        """How the stage ended; what failed is kept, and logged when it is new."""
        began, has_made_room = time.monotonic(), False

        def is_stopping() -> bool:
            nonlocal has_made_room
            has_made_room = has_made_room or makes_room(began)  # asked by several threads, it stays so
            return has_made_room

        before = self._errors.pop((topic.name, name), None)
        try:
            self._stages[name](topic, is_stopping)
        except BaseException as error:
            if concerns_all(error):
                raise
            ours = self._errors[topic.name, name] = unexpected(f"{name} of {topic.name}", error)
            if str(ours) != str(before):
                trace = None if ours is error else error
                log.error("%s: topic=%s state=parked error=%s", name, topic.name, ours, exc_info=trace)
            record_stage_failure(TopicTables(topic, self._settings), name, ours, self._run_id)
            return Outcome.FAILED
        return Outcome.MORE if has_made_room else Outcome.DONE
