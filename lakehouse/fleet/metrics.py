"""The fleet's health in Prometheus' text format: a catalogue of what is measured, and its values at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from lakehouse import hours
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.health import FleetHealth
from lakehouse.fleet.incidents import counts

PREFIX = "lakehouse_fleet_"
Kind = Literal["gauge", "counter"]
Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True)
class Metric:
    """One metric; a unit is in its name. Times are instants, so that an age is right however old the sample is."""

    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    reaction: str


METRICS: Mapping[str, Metric] = {
    "application_info": Metric(
        "gauge",
        ("application", "release", "host", "state"),
        "always 1: which release an application runs, where, and its state",
        "More than one release outside a deployment: `lakehouse fleet plan`.",
    ),
    "application_running": Metric(
        "gauge",
        ("application",),
        "1 while its heartbeat is alive, else 0",
        "0: `lakehouse fleet status`, and its job's log.",
    ),
    "application_configuration_wanted": Metric(
        "gauge",
        ("application",),
        "1 while it runs the configuration of `conf/`, else 0",
        "0 outside a deployment: `lakehouse fleet deploy`.",
    ),
    "application_heartbeat_timestamp_seconds": Metric(
        "gauge",
        ("application",),
        "when its heartbeat was written",
        "Older than 2 minutes: it counts as dead.",
    ),
    "application_deaths": Metric(
        "gauge",
        ("application",),
        "how often its job has died in a row",
        "Above 1: its job's log.",
    ),
    "topic_cause": Metric(
        "gauge",
        ("topic", "application", "cause"),
        "1 for the cause of a topic that is not ok",
        "See the cause.",
    ),
    "topic_delivered_timestamp_seconds": Metric(
        "gauge",
        ("topic", "application"),
        "end of the newest hour that is everywhere it goes",
        "Its age above `deliver_within` and an hour: the topic is late.",
    ),
    "topic_frontier_timestamp_seconds": Metric(
        "gauge",
        ("topic", "application"),
        "publish time before which everything was consumed",
        "Falls behind: raise `slots.max`, or give the application more.",
    ),
    "topic_overdue": Metric(
        "gauge",
        ("topic", "application"),
        "how many hours are missing though their `deliver_within` is over",
        "Above 0: see the topic's cause.",
    ),
    "topic_deliver_within_seconds": Metric(
        "gauge",
        ("topic", "application"),
        "`deliver_within` of the topic",
        "None: to compare with.",
    ),
    "topics": Metric("gauge", ("cause",), "how many topics have each cause", "See the incidents."),
    "incident_start_timestamp_seconds": Metric(
        "gauge",
        ("key", "cause", "severity", "subject"),
        "when an incident began; one sample for each that is open",
        "As the incident says.",
    ),
    "budget_burn_ratio": Metric(
        "gauge",
        ("window",),
        "share of topics that were overdue in the window (1h, 6h, 3d), over the share that `watch.objective` allows",
        "Above 14 in 1h, or above 6 in 6h: a month's budget is gone in days. Above 1 in 3d: it does not last.",
    ),
    "deployment_info": Metric(
        "gauge",
        ("number", "kind", "outcome"),
        "always 1: the newest deployment",
        "`lakehouse fleet history`.",
    ),
    "watch_look_timestamp_seconds": Metric(
        "gauge",
        (),
        "when the fleet was last checked with success",
        "Older than 3 minutes: the watch's log.",
    ),
    "watch_look_duration_seconds": Metric(
        "gauge",
        (),
        "how long that look took",
        "Near `watch.look_every`: look less often.",
    ),
    "watch_looks_total": Metric("counter", (), "looks since the watch started", "Stands still: the watch's log."),
    "watch_failed_looks_total": Metric(
        "counter",
        (),
        "looks that failed since the watch started",
        "Grows: the watch's log; the store may refuse.",
    ),
    "watch_notifications_total": Metric(
        "counter",
        ("outcome",),
        "calls of webhooks since the watch started: `sent` or `failed`",
        "`failed` grows: see the receiver.",
    ),
}
"""Each metric by its name without `lakehouse_fleet_`."""

WINDOWS: Mapping[str, timedelta] = {"1h": timedelta(hours=1), "6h": timedelta(hours=6), "3d": timedelta(days=3)}


def samples(found: FleetHealth, fleet: Fleet) -> dict[str, list[Sample]]:
    """What is known of the fleet at one moment, by metric."""
    made: dict[str, list[Sample]] = {name: [] for name in METRICS}
    for each in found.applications:
        of_it = {"application": each.application}
        info = {**of_it, "release": each.release or "", "host": each.host or "", "state": each.state}
        made["application_info"].append((info, 1))
        made["application_running"].append((of_it, each.state == "running"))
        made["application_configuration_wanted"].append((of_it, each.has_wanted_configuration is True))
        made["application_deaths"].append((of_it, each.failures))
        if each.heartbeat_age_seconds is not None:
            written = found.at.timestamp() - each.heartbeat_age_seconds
            made["application_heartbeat_timestamp_seconds"].append((of_it, written))
    for topic in found.topics:
        status, labels = found.statuses[topic.topic], {"topic": topic.topic, "application": topic.application}
        within = fleet.applications[topic.application].deliver_within[topic.topic]
        frontier = status.life.frontier if status.life else None
        delivered = hours.end_of(status.delivered_hour) if status.delivered_hour else None
        if topic.cause.name != "ok":
            made["topic_cause"].append(({**labels, "cause": topic.cause.name}, 1))
        made["topic_overdue"].append((labels, topic.overdue.hours if topic.overdue else 0))
        made["topic_deliver_within_seconds"].append((labels, within.total_seconds()))
        made["topic_frontier_timestamp_seconds"] += _instants(labels, frontier)
        made["topic_delivered_timestamp_seconds"] += _instants(labels, delivered)
    made["topics"] = [({"cause": cause}, number) for cause, number in counts(found.topics).items()]
    if found.deployment is not None:
        last = found.deployment
        labels = {"number": str(last.number), "kind": last.kind, "outcome": last.outcome or "under way"}
        made["deployment_info"].append((labels, 1))
    return made


def exposition(made: Mapping[str, Iterable[Sample]]) -> str:
    """The samples in Prometheus' text format 0.0.4. ValueError for a metric or label that the catalogue has not."""
    return "\n".join([*_lines(made), ""])


def _lines(made: Mapping[str, Iterable[Sample]]) -> Iterator[str]:
    for name, found in made.items():
        metric = METRICS[name]
        yield f"# HELP {PREFIX}{name} {_escaped(metric.meaning, quotes=False)}"
        yield f"# TYPE {PREFIX}{name} {metric.kind}"
        for labels, value in found:
            if set(labels) != set(metric.labels):
                raise ValueError(f"{name} has the labels {metric.labels}, not {tuple(labels)}")
            pairs = ",".join(f'{label}="{_escaped(labels[label])}"' for label in metric.labels)
            yield f"{PREFIX}{name}{{{pairs}}} {float(value)!r}" if pairs else f"{PREFIX}{name} {float(value)!r}"


def _instants(labels: Mapping[str, str], instant: datetime | None) -> list[Sample]:
    """None where it is not known: no sample is better than 1970."""
    return [] if instant is None else [(labels, instant.timestamp())]


def _escaped(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
