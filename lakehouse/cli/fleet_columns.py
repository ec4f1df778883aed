"""The columns of the tables of `lakehouse fleet`."""

from __future__ import annotations

from rich.text import Text

from lakehouse.cli.output import NOTHING, Column, age_text, instant_text, number_text
from lakehouse.durations import seconds_since
from lakehouse.fleet.deployments import Deployment
from lakehouse.fleet.health import ApplicationHealth
from lakehouse.fleet.incidents import TopicHealth
from lakehouse.fleet.plan import Change

_ACTIONS = {
    "start": Text("+ start", "green"),
    "replace": Text("~ replace", "yellow"),
    "stop": Text("- stop", "red"),
    "keep": Text("= keep", "dim"),
    "leave": Text("? leave", "bold yellow"),
}


def differences_text(change: Change) -> str:
    """What differs, in a few words."""
    if change.action == "start":
        return "nothing runs it"
    if change.action == "stop":
        return "fleet.yaml does not name it"
    if change.action == "leave":
        return "started by a person, and fleet.yaml does not name it"
    words = []
    for each in change.differences:
        if each.what == "topics":
            parts = [("gains", each.wanted), ("loses", each.found)]
            words += [f"{verb} {names}" for verb, names in parts if names != "none of these"]
        else:
            words.append(f"{each.what} {each.found} → {each.wanted}")
    return "; ".join(words) or NOTHING


CHANGE = [
    Column("application", lambda change: change.application, least=12, is_name=True),
    Column("", lambda change: _ACTIONS[change.action]),
    Column("topics", lambda change: number_text(change.topics), is_number=True),
    Column("what differs", differences_text, least=20),
]


def _outcome(row: Deployment) -> Text:
    styles = {"done": "green", "rolled back": "bold yellow", "interrupted": "bold yellow", "failed": "bold red"}
    return Text(row.outcome or "under way", styles.get(row.outcome or "", "bold"))


def _steps(row: Deployment) -> str:
    return ", ".join(f"{step.application} {step.state}" for step in row.steps) or NOTHING


DEPLOYMENT = [
    Column("number", lambda row: number_text(row.number), is_number=True),
    Column("began", lambda row: instant_text(row.began_at)),
    Column(
        "took", lambda row: age_text(seconds_since(row.began_at, row.ended_at)) if row.ended_at else NOTHING, rank=2
    ),
    Column("what", lambda row: row.kind),
    Column("outcome", _outcome),
    Column("releases", lambda row: ", ".join(row.releases) or NOTHING, least=8, is_name=True),
    Column("applications", _steps, least=12, rank=1),
    Column("by", lambda row: row.by, least=6),
    Column("why", lambda row: row.why or row.reason or NOTHING, least=8),
]


def _state(row: ApplicationHealth) -> Text:
    style = {"running": "green", "starting": "yellow", "ended": "dim"}.get(row.state, "bold red")
    return Text(row.state + (f", {row.failures} deaths" if row.failures else ""), style)


def _release(row: ApplicationHealth) -> str:
    return (row.release or NOTHING) + (", another configuration" if row.has_wanted_configuration is False else "")


APPLICATION = [
    Column("application", lambda row: row.application, least=12, is_name=True),
    Column("state", _state),
    Column("release", _release, least=10, is_name=True),
    Column("topics", lambda row: number_text(row.topics), is_number=True),
    Column("not ok", lambda row: number_text(row.ill), is_number=True),
    Column("overdue", lambda row: number_text(row.overdue), is_number=True),
    Column("heartbeat", lambda row: age_text(row.heartbeat_age_seconds), is_number=True),
    Column("job", lambda row: row.job or NOTHING, rank=1),
    Column("host", lambda row: row.host or NOTHING, rank=2),
]


def _cause(row: TopicHealth) -> Text:
    if row.cause.name == "ok":
        return Text("ok", "green")
    return Text(f"{row.cause.name}: {row.cause.words}", "bold red" if row.cause.is_critical else "bold yellow")


TOPIC = [
    Column("topic", lambda row: row.topic, least=12, is_name=True),
    Column("application", lambda row: row.application, least=8, is_name=True),
    Column("behind", lambda row: age_text(row.behind_seconds), is_number=True),
    Column("overdue", lambda row: age_text(row.overdue.seconds) if row.overdue else NOTHING, is_number=True),
    Column("hours", lambda row: number_text(row.overdue.hours) if row.overdue else NOTHING, is_number=True, rank=1),
    Column("release", lambda row: row.release or NOTHING, rank=2),
    Column("cause", _cause, least=20),
]
