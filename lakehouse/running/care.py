"""Care within a run: each topic is maintained now and then, by one worker that no hour waits for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from lakehouse.clock import Clock
from lakehouse.config import Config
from lakehouse.errors import LakehouseError, unexpected
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.removal import Removal
from lakehouse.running.pool import MakesRoom, Pool
from lakehouse.running.schedule import Outcome, Pauses, Schedule
from lakehouse.spark.shutdown import concerns_all
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

AFTER_START = timedelta(minutes=5)
"""What an application has to do at its start comes first, and one that is started again and again does no care."""
_PAUSES = Pauses(first_seconds=60.0, longest_seconds=3600.0)
_LAST_WAIT = timedelta(seconds=30)
"""How long the end of a run waits for the topic under way: what is cut off there is done by the next."""

Note = Callable[[str, datetime, LakehouseError | None], None]
"""Called with a topic that was maintained, when, and the error where that failed."""


class Care:
    """Maintains each topic `maintain.every`, the first time by when that was last done; nothing with `never`.

    What fails is the topic's, is tried again with growing pauses, and ends no run; what concerns all sets `stop`.
    """

    def __init__(
        self,
        topics: Sequence[Topic],
        config: Config,
        stop: threading.Event,
        note: Note,
        clock: Clock | None = None,
        after_start: timedelta = AFTER_START,
    ) -> None:
        """`after_start` is the shortest wait for the first care."""
        self._after_start = after_start
        self._topics = {topic.name: topic for topic in topics}
        self._config, self._stop_of_all, self._note = config, stop, note
        self._clock = clock or config.settings.clock
        self._stop = threading.Event()
        self._errors: dict[str, str] = {}
        self._pool: Pool | None = None

    def start(self, last_done: Mapping[str, datetime]) -> None:
        """`last_done` says when topics were last maintained, by whomever."""
        every = self._config.settings.maintain.every
        if every is None:
            return
        at = self._clock()
        waits = {name: first_wait(last_done.get(name), at, every, self._after_start) for name in self._topics}
        schedule = Schedule(
            self._topics, time.monotonic(), look_every=every.total_seconds(), first_looks=waits, pauses=_PAUSES
        )
        self._pool = Pool(schedule, list(self._topics), self._turn, self._stop, size=1)
        self._pool.start()

    def end(self) -> None:
        """Begin nothing more, and wait a little for what is under way; raises what concerns all."""
        self._stop.set()
        if self._pool is not None:
            self._pool.finish(last_turns=False, patience=_LAST_WAIT)

    def _is_stopping(self) -> bool:
        return self._stop.is_set() or self._stop_of_all.is_set()

    def _turn(self, name: str, makes_room: MakesRoom) -> Outcome:
        began = time.monotonic()
        try:
            removals = maintain_topic(self._topics[name], self._config, self._clock(), is_stopping=self._is_stopping)
        except BaseException as error:
            if concerns_all(error):
                self._stop_of_all.set()
                raise
            self._fail(name, error)
            return Outcome.FAILED
        self._errors.pop(name, None)
        if not self._is_stopping():  # else it may be cut off, and is due again at the next start
            self._note(name, self._clock(), None)
        _log_removals(name, removals, time.monotonic() - began)
        return Outcome.DONE

    def _fail(self, name: str, error: BaseException) -> None:
        ours = unexpected(f"maintain of {name}", error)
        if self._errors.get(name) != str(ours):
            trace = None if ours is error else error
            log.error("maintain: topic=%s state=parked error=%s", name, ours, exc_info=trace)
        self._errors[name] = str(ours)
        self._note(name, self._clock(), ours)


def first_wait(
    last_done: datetime | None, now: datetime, every: timedelta, after_start: timedelta = AFTER_START
) -> float:
    """Seconds from the start of a run to a topic's first care: when it is due, but not at once."""
    due_in = timedelta(0) if last_done is None else every - max(now - last_done, timedelta(0))
    return max(due_in, min(after_start, every)).total_seconds()


def _log_removals(topic: str, removals: Sequence[Removal], seconds: float) -> None:
    size = sum(removal.size_bytes for removal in removals)
    log.info("maintain: topic=%s removed=%d bytes=%d seconds=%.2f", topic, len(removals), size, seconds)
