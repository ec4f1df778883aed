"""One process that checks the fleet again and again, notifies people of incidents, and keeps in the lake of which."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from pydantic import TypeAdapter, ValidationError

from lakehouse.config import Settings
from lakehouse.durations import brief
from lakehouse.errors import LakeError, LakehouseError, in_one_line
from lakehouse.fleet import alerts, webhooks
from lakehouse.fleet.alerts import Alert, Open, WatchState
from lakehouse.fleet.deployments import STALE_AFTER
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.health import FleetHealth, fleet_health
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.metrics import WINDOWS, Sample, exposition, samples
from lakehouse.fleet.wanted import Webhook
from lakehouse.store.place import Place

log = logging.getLogger(__name__)

_FILE = "watch.json"
WELL_WITHIN = 3
"""Checks that may be missing before the watch itself is not well."""


class WatchStore:
    """What a watch remembers, in the lake."""

    def __init__(self, settings: Settings) -> None:
        self._storage = Place(f"{settings.raw_root}/_fleet", settings.storage_options).files()

    def read(self) -> WatchState:
        """Empty before the first watch, and where it cannot be understood."""
        content = self._storage.read(_FILE)
        try:
            return _adapter().validate_json(content) if content else WatchState()
        except ValidationError:
            return WatchState()

    def write(self, state: WatchState) -> None:
        self._storage.write(_FILE, _adapter().dump_json(replace(state, written_at=datetime.now(UTC))))


@dataclass
class Counts:
    """Since the watch started."""

    looks: int = 0
    failed_looks: int = 0
    sent: int = 0
    failed: int = 0


class Watch:
    """Checks, and notifies. `address` is where people find the page. One at a time for a lake."""

    def __init__(self, load: Callable[[], tuple[Fleet, Launcher]], address: str = "") -> None:
        """The files are loaded again with each check: what is wanted may change."""
        self._load, self.address = load, address
        self._fleet, _ = load()
        self._store, self._run = WatchStore(self._fleet.config.settings), uuid.uuid4().hex[:8]
        self._state = WatchState()
        self._noting = threading.Lock()
        self._metrics: dict[str, list[Sample]] = {}
        self.counts = Counts()
        self.health: FleetHealth | None = None
        self._looked_at: tuple[datetime, float] | None = None
        self._looked_since = time.monotonic()

    def begin(self) -> None:
        """Go on where the last watch ended; LakeError while another one is at it."""
        for webhook in self._fleet.file.watch.webhooks:
            webhooks.check(webhook)
        self._state = self._store.read()
        every, written = self._fleet.file.watch.look_every, self._state.written_at
        age = datetime.now(UTC) - written if written else None
        if age is not None and self._state.run and abs(age) < every * WELL_WITHIN:
            raise self._another(self._state.run, f"which checked {brief(age.total_seconds())} ago")
        self._keep(replace(self._state, run=self._run))

    def end(self) -> None:
        """So that the next one need not wait; nothing where it has begun already."""
        if self._other_run() is None:
            self._keep(replace(self._state, run=""))

    def run(self, stop: threading.Event) -> None:
        """Check until `stop` is set. A check that fails is logged and counted, and holds up no later one.

        LakeError once another watch has begun, as one that began at the same moment, or took this one for dead.
        """
        while not stop.is_set():
            began = time.monotonic()
            if (other := self._other_run()) is not None:
                raise self._another(other, "which has begun since this one")
            self.look_or_log()
            stop.wait(max(0.0, self._pause(timedelta(seconds=time.monotonic() - began)).total_seconds()))

    def _other_run(self) -> str | None:
        """Of a watch that has begun since; None, too, where the store does not say: the next check asks again."""
        try:
            run = self._store.read().run
        except Exception:
            return None
        return run if run and run != self._run else None

    def _another(self, run: str, what: str) -> LakeError:
        over_after = brief((self._fleet.file.watch.look_every * WELL_WITHIN).total_seconds())
        return LakeError(
            "fleet watch",
            found=f"another watch, run {run}, {what}",
            expected="one at a time: two would notify of everything twice",
            next_step=f"End the other one; one that has died is over after {over_after}.",
        )

    def _pause(self, took: timedelta) -> timedelta:
        """Until the next check, after one that took so long: sooner where an incident is to be told of by then."""
        keys = self._fleet.file.watch
        due_in = alerts.due_in(self._state, self.health.at, keys.notify_after) if self.health else None
        return min(keys.look_every, due_in or keys.look_every) - took

    def look_or_log(self) -> None:
        try:
            self.look()
        except Exception as failure:  # whatever it is, the next one may succeed; /healthz says when none does
            self.counts.failed_looks += 1
            log.error("watch: error=%s", in_one_line(failure))

    def look(self) -> FleetHealth:
        """One check; people are notified of what is due, and what a webhook has taken is noted at once."""
        began = time.monotonic()
        self._fleet, launcher = self._load()
        found = self.health = fleet_health(self._fleet, launcher)
        late = sum(each.overdue is not None for each in found.topics) / max(1, len(found.topics))
        state = alerts.with_late(alerts.seen(self._state, found.incidents, found.at), late, found.at)
        self._keep(state)
        hooks = self._receivers()
        after, silent = self._fleet.file.watch.notify_after, _being_replaced(found)
        self._notify(alerts.due(state, found.at, after, silent, list(hooks)), hooks)
        self._keep(alerts.forgotten(self._state, list(hooks)))
        self.counts.looks += 1
        self._looked_at = datetime.now(UTC), time.monotonic() - began
        self._looked_since = time.monotonic()
        self._metrics = samples(found, self._fleet)
        return found

    # --- what others ask -------------------------------------------------------------------------------------------

    def is_well(self) -> bool:
        """Whether a check succeeded lately."""
        every = self._fleet.file.watch.look_every.total_seconds()
        return self.counts.looks > 0 and time.monotonic() - self._looked_since < WELL_WITHIN * every + 1

    def metrics(self) -> str:
        """In Prometheus' text format."""
        made, counted = dict(self._metrics), self.counts
        now, objective = datetime.now(UTC), self._fleet.file.watch.objective
        burns = {window: alerts.burn(self._state, span, objective, now) for window, span in WINDOWS.items()}
        made["budget_burn_ratio"] = [({"window": each}, burn) for each, burn in burns.items() if burn is not None]
        made["incident_start_timestamp_seconds"] = [
            (_labels(each), each.since.timestamp())
            for each in self._state.open.values()
            if each.missed < alerts.RESOLVED_AFTER
        ]
        if self._looked_at is not None:
            made["watch_look_timestamp_seconds"] = [({}, self._looked_at[0].timestamp())]
            made["watch_look_duration_seconds"] = [({}, self._looked_at[1])]
        made["watch_looks_total"] = [({}, counted.looks)]
        made["watch_failed_looks_total"] = [({}, counted.failed_looks)]
        outcomes = {"sent": counted.sent, "failed": counted.failed}
        made["watch_notifications_total"] = [({"outcome": each}, count) for each, count in outcomes.items()]
        return exposition(made)

    # --- notifying -------------------------------------------------------------------------------------------------

    def _receivers(self) -> dict[str, Webhook | None]:
        """By their names; the log where there are no webhooks."""
        hooks = self._fleet.file.watch.webhooks
        return {webhooks.receiver(each): each for each in hooks} or {alerts.LOG: None}

    def _notify(self, due: Sequence[Alert], receivers: Mapping[str, Webhook | None]) -> None:
        """All receivers side by side: one that hangs holds up no other."""
        alerts_of = {name: [alert for alert in due if name in alert.receivers] for name in receivers}
        with ThreadPoolExecutor(len(receivers), "notify") as callers:
            for _ in callers.map(self._notify_one, receivers, receivers.values(), alerts_of.values()):
                pass

    def _notify_one(self, name: str, webhook: Webhook | None, due: Sequence[Alert]) -> None:
        """One alert at a time. Who refuses one gets it again with the next check; who has taken it does not.

        Who has taken all its patience for refusals gets no more with this check: it must not hold up the next one.
        """
        refusing_seconds = 0.0
        for alert in due:
            if refusing_seconds >= webhooks.PATIENCE_SECONDS:
                return
            began = time.monotonic()
            if self._is_taken(alert, webhook):
                self._note_taken(alert, name)
            else:
                refusing_seconds += time.monotonic() - began

    def _is_taken(self, alert: Alert, webhook: Webhook | None) -> bool:
        if webhook is None:
            return True
        try:
            webhooks.call(webhook, [alert], self.address)
        except LakehouseError as refused:
            log.error("watch: webhook=%s error=%s", webhooks.shown_name(webhook), refused)
            self._count(failed=1)
            return False
        self._count(sent=1)
        return True

    def _count(self, *, sent: int = 0, failed: int = 0) -> None:
        with self._noting:
            self.counts.sent += sent
            self.counts.failed += failed

    def _note_taken(self, alert: Alert, name: str) -> None:
        with self._noting:
            self._keep(alerts.notified(self._state, alert, name))
        log.info("watch: state=%s key=%s cause=%s subject=%s", alert.status, *_names(alert))

    def _keep(self, state: WatchState) -> None:
        if state != self._state:
            self._state = state
            self._store.write(state)


def _labels(known: Open) -> dict[str, str]:
    incident = known.incident
    return {
        "key": incident.key,
        "cause": incident.cause,
        "severity": incident.severity,
        "subject": incident.subject,
    }


def _names(alert: Alert) -> tuple[str, str, str]:
    return alert.incident.key, alert.incident.cause, alert.incident.subject


def _being_replaced(found: FleetHealth) -> list[str]:
    """Applications of a deployment that is under way: that they come and go is planned."""
    last = found.deployment
    if last is None or last.ended_at is not None or datetime.now(UTC) - last.began_at > STALE_AFTER * 40:
        return []
    return [step.application for step in last.steps]


@cache
def _adapter() -> TypeAdapter[WatchState]:
    return TypeAdapter(WatchState)
