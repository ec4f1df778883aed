"""Of which incidents people are notified, and of their end: each once, with a key that stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from lakehouse.fleet.incidents import Incident

RESOLVED_AFTER = 2
"""Checks without it, and an incident is over: one may miss what comes back."""

Status = Literal["firing", "resolved"]


LOG = "log"
"""The receiver where there are no webhooks."""


@dataclass(frozen=True)
class Alert:
    """An incident, as people are notified of it. `receivers` are those to whom it is due, by their names."""

    status: Status
    incident: Incident
    starts_at: datetime
    ends_at: datetime | None = None
    receivers: tuple[str, ...] = (LOG,)


@dataclass(frozen=True)
class Open:
    """An incident that is seen: since when it is, and since when it is known here. `taken_by` are the receivers that
    have been notified of it and not yet of its end; `missed` counts checks without it."""

    incident: Incident
    since: datetime
    seen_at: datetime
    taken_by: tuple[str, ...] = ()
    missed: int = 0


@dataclass(frozen=True)
class WatchState:
    """What a watch must remember to go on where another one ended.

    `late` are, for each five minutes, (when they began, share of topics that were overdue, how many checks that is of).
    """

    run: str = ""
    written_at: datetime | None = None
    open: Mapping[str, Open] = field(default_factory=dict)
    late: tuple[tuple[datetime, float, int], ...] = ()


def seen(state: WatchState, found: Iterable[Incident], now: datetime) -> WatchState:
    """After one check: what is new, what is there still, what is missed."""
    by_key = {each.key: each for each in found}
    known = {
        key: replace(each, incident=by_key[key], missed=0) if key in by_key else replace(each, missed=each.missed + 1)
        for key, each in state.open.items()
    }
    new = {key: Open(each, each.since or now, now) for key, each in by_key.items() if key not in known}
    return replace(state, open={**known, **new})


def due(
    state: WatchState,
    now: datetime,
    notify_after: timedelta,
    silent: Iterable[str] = (),
    receivers: Sequence[str] = (LOG,),
) -> list[Alert]:
    """Of what each receiver is to be notified now: what has lasted for `notify_after`, and the end of what it knows of.

    `silent` are applications that are being replaced: what concerns only these waits until they are there again.
    """
    quiet = set(silent)
    alerts = []
    for each in state.open.values():
        know = tuple(name for name in receivers if name in each.taken_by)
        lack = tuple(name for name in receivers if name not in each.taken_by)
        is_lasting = not each.missed and abs(now - each.seen_at) >= notify_after  # the clock may have been set back
        is_silent = bool(quiet) and set(each.incident.applications) <= quiet
        if know and each.missed >= RESOLVED_AFTER:
            alerts.append(Alert("resolved", each.incident, each.since, now, know))
        elif lack and is_lasting and not is_silent:
            alerts.append(Alert("firing", each.incident, each.since, receivers=lack))
    return alerts


def due_in(state: WatchState, at: datetime, notify_after: timedelta) -> timedelta | None:
    """From a check at that time until the next incident has lasted for `notify_after`; None where none waits for that.

    Whether its time comes while that check goes on does not matter: the check has seen it before.
    """
    waiting = [each.seen_at + notify_after - at for each in state.open.values() if not each.taken_by]
    return min((each for each in waiting if each > timedelta(0)), default=None)


def notified(state: WatchState, alert: Alert, receiver: str = LOG) -> WatchState:
    """After a receiver has taken an alert."""
    key, known = alert.incident.key, dict(state.open)
    others = tuple(name for name in known[key].taken_by if name != receiver)
    known[key] = replace(known[key], taken_by=others if alert.status == "resolved" else (*others, receiver))
    return replace(state, open=known)


def forgotten(state: WatchState, receivers: Sequence[str] = (LOG,)) -> WatchState:
    """Without what is over, and of whose end nobody is to be notified any more."""
    kept = {
        key: each
        for key, each in state.open.items()
        if each.missed < RESOLVED_AFTER or any(name in each.taken_by for name in receivers)
    }
    return replace(state, open=kept)


# --- the error budget ----------------------------------------------------------------------------------------------

_SPAN = timedelta(minutes=5)
_KEPT = timedelta(days=3)


def with_late(state: WatchState, share: float, now: datetime) -> WatchState:
    """After a check at which that share of the topics was overdue."""
    late = [each for each in state.late if now - each[0] <= _KEPT]
    if late and now - late[-1][0] < _SPAN:
        began, mean, looks = late[-1]
        late[-1] = began, (mean * looks + share) / (looks + 1), looks + 1
    else:
        late.append((now, share, 1))
    return replace(state, late=tuple(late))


def burn(state: WatchState, window: timedelta, objective: float, now: datetime) -> float | None:
    """How many times faster than `objective` allows the budget was used in the window; None where nothing is known."""
    shares = [share for began, share, _ in state.late if now - began <= window]
    return sum(shares) / len(shares) / (1 - objective) if shares else None


# --- what webhooks get ---------------------------------------------------------------------------------------------


def alertmanager(alerts: Sequence[Alert], address: str) -> dict[str, Any]:
    """The body of a webhook as Alertmanager sends it (version 4), with one alert for each incident."""
    is_firing = any(alert.status == "firing" for alert in alerts)
    return {
        "version": "4",
        "groupKey": '{}:{alertname="LakehouseFleet"}',
        "truncatedAlerts": 0,
        "status": "firing" if is_firing else "resolved",
        "receiver": "lakehouse",
        "groupLabels": {"alertname": "LakehouseFleet"},
        "commonLabels": {"alertname": "LakehouseFleet"},
        "commonAnnotations": {},
        "externalURL": address,
        "alerts": [_alert(alert, address) for alert in alerts],
    }


def pagerduty(alert: Alert, address: str, routing_key: str) -> dict[str, Any]:
    """The body of an event of PagerDuty's API version 2."""
    incident = alert.incident
    body: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "trigger" if alert.status == "firing" else "resolve",
        "dedup_key": incident.key,
    }
    if alert.status == "firing":
        body["payload"] = {
            "summary": _summary(incident)[:1024],
            "source": "lakehouse fleet",
            "severity": incident.severity,
            "timestamp": alert.starts_at.isoformat(),
            "class": incident.cause,
            "component": incident.subject,
            "custom_details": {"topics": list(incident.topics[:50]), "next_step": incident.next_step},
        }
        body["client_url"] = address
    return body


def _alert(alert: Alert, address: str) -> dict[str, Any]:
    incident = alert.incident
    return {
        "status": alert.status,
        "labels": {
            "alertname": "LakehouseFleet",
            "cause": incident.cause,
            "severity": incident.severity,
            "incident": incident.key,
        },
        "annotations": {
            "summary": _summary(incident),
            "subject": incident.subject,
            "topics": ", ".join(incident.topics[:50]),
            "applications": ", ".join(incident.applications),
            "next_step": incident.next_step,
        },
        "startsAt": alert.starts_at.isoformat(),
        "endsAt": (alert.ends_at.isoformat() if alert.ends_at else "0001-01-01T00:00:00Z"),
        "generatorURL": address,
        "fingerprint": incident.key,
    }


def _summary(incident: Incident) -> str:
    return f"{incident.cause}: {incident.subject}: {incident.words}"
