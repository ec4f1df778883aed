"""An application's sign of life: one small object that says what the application runs, replaced again and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Annotated, Literal

from pydantic import TypeAdapter, ValidationError

from lakehouse.clock import replayed_clock
from lakehouse.concealed import without_secrets
from lakehouse.config import Settings
from lakehouse.store.place import Place

BEAT_EVERY = timedelta(seconds=30)
"""How often it is written at most: one request for all topics of an application."""
SILENT_AFTER = timedelta(minutes=2)
"""After so long without one its application counts as dead: a few of them may be late, or lost."""

_FILE = "heartbeat.json"
_READERS = 16

TopicState = Literal["starting", "running", "parked", "failed at start", "taken over", "ended"]


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """How one topic of an application is."""

    subscription: Annotated[str, "what it reads"]
    state: Annotated[TopicState, "`starting`, `running`, `parked`, `failed at start`, `taken over` or `ended`"]
    since: Annotated[datetime, "when that began"]
    last_trigger: Annotated[datetime | None, "when its last batch was done, also one that brought nothing"] = None
    epoch: Annotated[int | None, "the epoch of that batch"] = None
    frontier: Annotated[datetime | None, "publish time before which everything was consumed then"] = None
    commit: Annotated[int | None, "version of bronze that it knew then"] = None
    error: Annotated[str | None, "why it is parked, failed or taken over"] = None
    failures: Annotated[int, "how often it has failed since its last batch"] = 0
    next_try_at: Annotated[datetime | None, "when it is tried again"] = None
    maintained_at: Annotated[datetime | None, "when it was last maintained"] = None
    maintain_error: Annotated[str | None, "why that fails since"] = None

    def after_change(self, state: TopicState, at: datetime) -> Pulse:
        """In that state, since it began; what was known of it stays."""
        return replace(self, state=state, since=self.since if state == self.state else at)

    def after_trigger(self, at: datetime, epoch: int, frontier: datetime | None, commit: int | None = None) -> Pulse:
        """After a batch: whatever failed before it is over."""
        known = replace(self, last_trigger=at, epoch=epoch, frontier=frontier, commit=commit)
        return replace(known, error=None, failures=0, next_try_at=None).after_change("running", at)

    def after_failure(self, state: TopicState, at: datetime, error: str, next_try_at: datetime | None) -> Pulse:
        """After one more failure in a row."""
        ill = replace(self, error=error, failures=self.failures + 1, next_try_at=next_try_at)
        return ill.after_change(state, at)


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What an application says of itself."""

    application: Annotated[str, "its name"]
    run: Annotated[str, "id of the run"]
    job: Annotated[str | None, "the launcher's job that it is a run of"] = None
    host: Annotated[str, "host it runs on"]
    release: Annotated[str, "release it runs"]
    configuration: Annotated[str, "hash of its settings and topics, the same on every machine"]
    started_at: Annotated[datetime, "when the run started"]
    written_at: Annotated[datetime, "when this was written, by the clock of that host, as all times here"]
    ended_at: Annotated[datetime | None, "when it ended in order"] = None
    why_ended: Annotated[str | None, "`asked to`, `drained`, or the error that ended it"] = None
    other_run: Annotated[str | None, "another run of the same name that was alive beside it"] = None
    topics: Annotated[Mapping[str, Pulse], "each of its topics"] = field(default_factory=dict)

    def as_json(self) -> bytes:
        """Without secrets, which an error might quote."""
        return without_secrets(_adapter().dump_json(self, exclude_none=True).decode()).encode()


@dataclass(frozen=True)
class Sign:
    """A heartbeat as it was found; `written_at` is by the store's clock, or by that of the day that is replayed."""

    heartbeat: Heartbeat
    written_at: datetime

    def age(self, now: datetime) -> timedelta:
        """How long ago it was written; never negative, also where the reader's clock is behind."""
        return max(now - self.written_at, timedelta(0))

    def is_alive(self, now: datetime) -> bool:
        return self.heartbeat.ended_at is None and self.age(now) <= SILENT_AFTER

    def age_of(self, instant: datetime, now: datetime) -> timedelta:
        """How long ago something in it was: by the writer's clock up to the writing, by ours from then on."""
        return max(self.heartbeat.written_at - instant, timedelta(0)) + self.age(now)


class Heartbeats:
    """The heartbeats of all applications that write to a lake's `raw_root`."""

    def __init__(self, settings: Settings) -> None:
        self._storage = Place(f"{settings.raw_root}/_applications", settings.storage_options).files()
        self._is_replayed = replayed_clock(settings.raw_root) is not None

    def write(self, heartbeat: Heartbeat) -> None:
        """Replace the application's, in one request; OSError or Google's own errors when the store refuses."""
        self._storage.write(f"{heartbeat.application}/{_FILE}", heartbeat.as_json())

    def of(self, application: str) -> Heartbeat | None:
        """The newest of that name; None when there is none, or none that can be read."""
        return _heartbeat_in(self._storage.read(f"{application}/{_FILE}"))

    def all(self) -> list[Sign]:
        """One for each application there ever was, but those that cannot be read: one request for each, and one."""
        listed = [stored for stored in self._storage.listing("") if stored.path.endswith(f"/{_FILE}")]
        with ThreadPoolExecutor(_READERS) as readers:
            read = list(readers.map(lambda stored: _heartbeat_in(self._storage.read(stored.path)), listed))
        by_store = [None if self._is_replayed else stored.modified_at for stored in listed]
        return list(_signs(zip(read, by_store, strict=True)))


def _signs(found: Iterator[tuple[Heartbeat | None, datetime | None]]) -> Iterator[Sign]:
    for heartbeat, written_at in found:
        if heartbeat is not None:
            yield Sign(heartbeat, written_at or heartbeat.written_at)


def _heartbeat_in(content: bytes | None) -> Heartbeat | None:
    try:
        return _adapter().validate_json(content) if content else None
    except ValidationError:  # another release's, or nobody's we know: no reason to say nothing of the topics
        return None


@cache
def _adapter() -> TypeAdapter[Heartbeat]:
    return TypeAdapter(Heartbeat)
