"""The heart of an application: a thread that writes its heartbeat, whatever its batches and stages do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from lakehouse import hours
from lakehouse.clock import Clock, now
from lakehouse.errors import ConfigError, in_one_line
from lakehouse.store.heartbeats import BEAT_EVERY, Heartbeat, Heartbeats, Pulse

log = logging.getLogger(__name__)

LAST_WRITE = timedelta(seconds=5)
"""How long the end of an application waits for its last heartbeat."""


NEWS_AFTER = timedelta(seconds=5)
"""From one heartbeat to one that is early because a topic has changed. Google Cloud Storage takes one write of an
object per second (cloud.google.com/storage/quotas)."""

_LONGEST_WAIT = timedelta(seconds=1)
"""Between two looks at the topics, and at the clock, which leaps where a day is replayed."""


class Heart:
    """Writes the heartbeat of one run from `start` to `end`. What the store refuses is logged once, and no error.

    It is early when a topic has its first batch, fails or recovers: whoever deploys or watches waits for that.
    """

    def __init__(
        self,
        heartbeats: Heartbeats,
        heartbeat: Heartbeat,
        pulses: Callable[[], Mapping[str, Pulse]],
        clock: Clock = now,
    ) -> None:
        self._heartbeats, self._heartbeat, self._pulses, self._clock = heartbeats, heartbeat, pulses, clock
        self._ending = threading.Event()
        self._is_refused = self._has_written = False
        self._warned_of: set[str] = set()
        self._said: Mapping[str, object] = {}
        self._thread: threading.Thread | None = None

    def start(self, every: timedelta = BEAT_EVERY, news_after: timedelta = NEWS_AFTER) -> None:
        """The first heartbeat at once, in a thread that keeps nobody from ending."""

        def beat() -> None:
            self.beat()
            wait = min(every, news_after, _LONGEST_WAIT).total_seconds()
            last, written = self._clock(), time.monotonic()
            while not self._ending.wait(wait):
                since = timedelta(seconds=time.monotonic() - written)
                has_news = since >= news_after and _news(self._pulses()) != self._said
                if since >= every or self._clock() - last >= every or has_news:
                    self.beat()
                    last, written = self._clock(), time.monotonic()

        self._thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        self._thread.start()

    def end(self, why: str, patience: timedelta = LAST_WRITE) -> None:
        """The last heartbeat, as far as it is written within `patience`; nothing where there was no `start`."""
        if self._thread is None:
            return
        self._ending.set()
        self._heartbeat = replace(self._heartbeat, ended_at=self._clock(), why_ended=why)
        last = threading.Thread(target=self.beat, name="last-heartbeat", daemon=True)
        last.start()
        last.join(patience.total_seconds())

    def beat(self) -> None:
        """Write it once, unless this is the end and another run has the name by now."""
        try:
            newest = self._heartbeats.of(self._heartbeat.application)
            other = newest if newest is not None and newest.run != self._heartbeat.run else None
            is_alive = other is not None and self._has_written and other.ended_at is None
            is_newer = other is not None and other.started_at > self._heartbeat.started_at
            if self._heartbeat.ended_at is not None and (is_alive or is_newer):
                return
            self._heartbeats.write(self._present(other if is_alive else None))
        except Exception as refused:  # nothing that an application does may depend on it
            if not self._is_refused:
                log.warning("heartbeat: application=%s error=%s", self._heartbeat.application, in_one_line(refused))
            self._is_refused = True
            return
        self._is_refused, self._has_written = False, True

    def _present(self, other: Heartbeat | None) -> Heartbeat:
        """What is to be written, with another run of the name that has written since this one did."""
        if other is not None and other.run not in self._warned_of:
            self._warned_of.add(other.run)
            log.error("heartbeat: application=%s error=%s", other.application, two_of_one_name(self._heartbeat, other))
        other_run = f"{other.run} on {other.host}" if other is not None else None
        pulses = dict(self._pulses())
        self._said = _news(pulses)
        return replace(self._heartbeat, topics=pulses, written_at=self._clock(), other_run=other_run)


def _news(pulses: Mapping[str, Pulse]) -> dict[str, object]:
    """What of each topic is worth an early heartbeat when it changes."""
    return {name: (each.state, each.last_trigger is not None, each.failures > 0) for name, each in pulses.items()}


def two_of_one_name(ours: Heartbeat, other: Heartbeat) -> ConfigError:
    """What is wrong where two applications that run have one name."""
    return ConfigError(
        f"application {ours.application}: run {ours.run} on {ours.host}",
        found=f"run {other.run} on {other.host}, started at {hours.instant_text(other.started_at)}, of the same name",
        expected="a name of its own for each application that runs",
        next_step="Stop one of them, or set `application` (or $LAKEHOUSE_APPLICATION) for one.",
    )
