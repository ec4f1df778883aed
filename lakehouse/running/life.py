"""One run of an application as others see it: its heartbeat, and what it sees of the other applications."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from lakehouse.config import Config
from lakehouse.errors import LakehouseError, in_one_line
from lakehouse.ingest.topic import TopicIngest
from lakehouse.running.heart import Heart
from lakehouse.running.identity import configuration_hash
from lakehouse.running.neighbours import check_subscription
from lakehouse.store.heartbeats import BEAT_EVERY, Heartbeat, Heartbeats, Pulse, Sign
from lakehouse.store.retired_jobs import own_job
from lakehouse.topics import Topic

log = logging.getLogger(__name__)


class Life:
    """From the first topic that is claimed, the application's heartbeat is written; `end` says why it ended."""

    def __init__(self, config: Config, topics: Sequence[Topic], run: str) -> None:
        self._heartbeats, self._clock = Heartbeats(config.settings), config.settings.clock
        self._ours = Heartbeat(
            application=config.settings.application,
            run=run,
            job=own_job() or None,
            host=socket.gethostname(),
            release=config.settings.release,
            configuration=configuration_hash(config, topics),
            started_at=self._clock(),
            written_at=self._clock(),
        )
        self._ingests: Sequence[TopicIngest] = ()
        self._heart = Heart(self._heartbeats, self._ours, self._pulses, self._clock)
        self._seen: tuple[datetime, list[Sign]] | None = None
        self.maintained: dict[str, datetime] = {}
        """When each topic was last maintained by a run of this or of another application."""
        self._maintain_errors: dict[str, str | None] = {}

    def follow(self, ingests: Sequence[TopicIngest]) -> None:
        """The topics whose pulses the heartbeat has."""
        self._ingests = ingests
        for sign in self._signs(self._clock()):
            for name, pulse in sign.heartbeat.topics.items():
                before = self.maintained.get(name)
                if pulse.maintained_at is not None and (before is None or pulse.maintained_at > before):
                    self.maintained[name] = pulse.maintained_at

    def note_maintained(self, topic: str, at: datetime, error: LakehouseError | None) -> None:
        """What the heartbeat says of a topic's care from now on."""
        if error is None:
            self.maintained[topic] = at
        self._maintain_errors[topic] = str(error) if error is not None else None

    def start(self, *, has_topics: bool) -> None:
        """Let the heart beat. A run that could claim no topic makes no heartbeat where there was none before."""
        if has_topics or any(
            sign.heartbeat.application == self._ours.application for sign in self._signs(self._clock())
        ):
            self._heart.start()

    def check(self, ingest: TopicIngest) -> None:
        """ConfigError when another application reads the topic's subscription."""
        at = self._clock()
        check_subscription(ingest.topic, self._ours, self._signs(at), at)

    def end(self, why: str) -> None:
        self._heart.end(why)

    def _pulses(self) -> dict[str, Pulse]:
        return {
            ingest.name: replace(
                ingest.pulse,
                maintained_at=self.maintained.get(ingest.name),
                maintain_error=self._maintain_errors.get(ingest.name),
            )
            for ingest in self._ingests
        }

    def _signs(self, at: datetime) -> list[Sign]:
        """Of all applications, at most `BEAT_EVERY` old; none where the store does not say, which holds up nobody."""
        if self._seen is None or at - self._seen[0] > BEAT_EVERY:
            try:
                self._seen = at, self._heartbeats.all()
            except Exception as refused:
                log.warning("heartbeat: application=%s error=%s", self._ours.application, in_one_line(refused))
                self._seen = at, []
        return self._seen[1]
