"""How the fleet is: every topic's cause, the incidents, and which releases run; read from outside the applications."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse.errors import LakehouseError
from lakehouse.fleet.causes import cause
from lakehouse.fleet.deployments import Deployment, Deployments
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.freshness import overdue
from lakehouse.fleet.incidents import Incident, TopicHealth, by_application, counts, incidents
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.plan import releases
from lakehouse.fleet.running import running_applications
from lakehouse.fleet.versions import Job, Running
from lakehouse.operations.status import TopicStatus, statuses
from lakehouse.operations.topic_life import signs_of
from lakehouse.running.identity import configuration_hash
from lakehouse.store.heartbeats import Sign

log = logging.getLogger(__name__)

LAUNCHER_PATIENCE = timedelta(seconds=5)


@dataclass(frozen=True)
class ApplicationHealth:
    """An application that is wanted. `has_wanted_configuration` is None where nothing runs."""

    application: str
    state: str
    release: str | None
    has_wanted_configuration: bool | None
    topics: int
    ill: int
    overdue: int
    heartbeat_age_seconds: float | None
    host: str | None
    job: str | None
    failures: int
    log: str | None


@dataclass(frozen=True)
class FleetHealth:
    """The fleet at one moment. `releases`: how many applications that run have each."""

    at: datetime
    topics: tuple[TopicHealth, ...]
    applications: tuple[ApplicationHealth, ...]
    incidents: tuple[Incident, ...]
    releases: Mapping[str, int]
    deployment: Deployment | None
    statuses: Mapping[str, TopicStatus]
    knows_jobs: bool = True
    """Whether the launcher has answered; else all is by heartbeats."""

    @property
    def is_well(self) -> bool:
        """Whether no hour will be missing without somebody's doing."""
        return not any(each.severity == "critical" for each in self.incidents)

    @property
    def totals(self) -> str:
        """One line: topics by their causes, the releases that run, and what is late."""
        causes = ", ".join(f"{count:,} {name}" for name, count in counts(self.topics).items())
        releases = ", ".join(f"{release} ×{count}" for release, count in self.releases.items()) or "none runs"
        late = sum(each.overdue is not None for each in self.topics)
        words = [f"{len(self.topics):,} topics: {causes}", f"releases: {releases}"]
        words += [f"{late:,} overdue"] if late else []
        if (last := self.deployment) is not None:
            words.append(f"deployment {last.number}: {last.outcome or 'under way'}")
        words += [] if self.knows_jobs else ["the launcher does not answer"]
        return " · ".join(words)


def _jobs(launcher: Launcher) -> list[Job] | None:
    """None where the launcher does not say: heartbeats still tell most, and an outage is when they are asked for."""
    try:
        return launcher.jobs(LAUNCHER_PATIENCE)
    except LakehouseError as silent:
        log.warning("fleet: launcher=%s error=%s", launcher.kind, silent)
        return None


def fleet_health(fleet: Fleet, launcher: Launcher) -> FleetHealth:
    """What heartbeats, ledgers and the launcher say. A topic whose lake cannot be read is one that cannot be read."""
    config = fleet.config
    now, signs = config.now(), signs_of(config.settings)
    jobs = _jobs(launcher)
    running = running_applications(signs, jobs or [], now)
    owners = {topic: name for name, each in fleet.applications.items() for topic in each.topics}
    rows = {row.topic: row for row in statuses(config, owners, now)}
    topics = [_topic(fleet, rows[topic], name, running, now) for topic, name in owners.items()]
    by_name = {sign.heartbeat.application: sign for sign in signs}
    return FleetHealth(
        now,
        tuple(topics),
        tuple(_applications(fleet, topics, running, by_name, now)),
        tuple(incidents(topics, fleet.applications)),
        releases(each for each in running.values() if each.is_alive),
        Deployments(config.settings).newest(),
        rows,
        knows_jobs=jobs is not None,
    )


def _topic(
    fleet: Fleet, status: TopicStatus, application: str, running: Mapping[str, Running], now: datetime
) -> TopicHealth:
    topic = fleet.config.topics[status.topic]
    within = fleet.applications[application].deliver_within[topic.name]
    late = overdue(status, within, now, skips_empty_hours=topic.empty_hours == "skip")
    found = cause(status, topic, running.get(application), late, now)
    release = status.life.release if status.life else status.release
    return TopicHealth(topic.name, application, found, late, release, status.behind_seconds)


def _applications(
    fleet: Fleet,
    topics: list[TopicHealth],
    running: Mapping[str, Running],
    signs: Mapping[str, Sign],
    now: datetime,
) -> list[ApplicationHealth]:
    grouped = by_application(topics)
    made = []
    for name, wanted in sorted(fleet.applications.items()):
        found, sign, of_it = running.get(name, Running(name, False)), signs.get(name), grouped[name]
        configuration = configuration_hash(fleet.config, [fleet.config.topics[topic] for topic in wanted.topics])
        made.append(
            ApplicationHealth(
                name,
                _state(found),
                found.release if found.is_alive else None,
                found.configuration == configuration if found.is_alive else None,
                len(of_it),
                sum(each.cause.name != "ok" for each in of_it),
                sum(each.overdue is not None for each in of_it),
                sign.age(now).total_seconds() if sign else None,
                found.host,
                found.job.launch.id if found.job else None,
                found.job.failures if found.job else 0,
                found.job.log if found.job else None,
            )
        )
    return made


def _state(found: Running) -> str:
    if found.job is not None and found.job.state == "waiting":
        return "dying"
    if found.is_alive:
        return "running"
    if found.job is not None:
        return {"running": "starting", "pending": "starting"}.get(found.job.state, found.job.state)
    return "not running"
