"""Commands that say how the fleet is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from lakehouse.cli import fleet_columns
from lakehouse.cli.arguments import AsJson, Wide
from lakehouse.cli.fleet import FleetPath, load
from lakehouse.cli.output import age_text, print_heading, print_json, print_line, print_table
from lakehouse.durations import seconds_since
from lakehouse.fleet import files
from lakehouse.fleet.causes import CAUSES
from lakehouse.fleet.health import FleetHealth, fleet_health
from lakehouse.fleet.incidents import Incident, TopicHealth, counts


def status(
    context: typer.Context,
    of_topics: Annotated[
        bool, typer.Option("--topics", help="Also a line for each topic, what is wrong first.")
    ] = False,
    fleet: FleetPath = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """How the fleet is: its applications, their releases, and one incident for all topics of a common cause.

    Exit code 1 when hours will be missing until somebody does something.
    """
    loaded = load(context, fleet)
    found = fleet_health(loaded, files.launcher_of(loaded))
    if as_json:
        print_json(document(found))
    else:
        show(found, of_topics=of_topics, wide=wide)
    if not found.is_well:
        raise typer.Exit(1)


def document(found: FleetHealth) -> dict[str, Any]:
    """For programs; what else is known of a topic, `lakehouse status --json` has."""
    return {
        "at": found.at,
        "releases": found.releases,
        "applications": [asdict(each) for each in found.applications],
        "incidents": [asdict(each) for each in found.incidents],
        "topics": [asdict(each) for each in found.topics],
        "deployment": _deployment(found),
    }


def show(found: FleetHealth, *, of_topics: bool, wide: bool) -> None:
    print_table(fleet_columns.APPLICATION, found.applications, wide=wide)
    if found.incidents:
        print_heading("Incidents")
        for each in found.incidents:
            _show_incident(found, each)
    if of_topics:
        print_heading("Topics")
        print_table(fleet_columns.TOPIC, worst_first(found.topics), wide=wide)
    print_line()
    print_line(Text(totals(found), "bold"))


def worst_first(topics: Sequence[TopicHealth]) -> list[TopicHealth]:
    order = list(CAUSES)
    return sorted(topics, key=lambda each: (order.index(each.cause.name), each.topic))


def totals(found: FleetHealth) -> str:
    """One line: topics by their causes, the releases that run, and what is late."""
    causes = ", ".join(f"{count:,} {name}" for name, count in counts(found.topics).items())
    releases = ", ".join(f"{release} ×{count}" for release, count in found.releases.items()) or "none runs"
    late = sum(each.overdue is not None for each in found.topics)
    words = [f"{len(found.topics):,} topics: {causes}", f"releases: {releases}"]
    words += [f"{late:,} overdue"] if late else []
    if (last := found.deployment) is not None:
        words.append(f"deployment {last.number}: {last.outcome or 'under way'}")
    return " · ".join(words)


def _show_incident(found: FleetHealth, each: Incident) -> None:
    style = "bold red" if each.severity == "critical" else "bold yellow"
    age = f" for {age_text(max(seconds_since(each.since, found.at), 0.0))}" if each.since else ""
    print_line(Text.assemble((f"{each.cause}{age}", style), f": {each.subject}: {each.words}"))
    names = ", ".join(each.topics[:5]) + (f" and {len(each.topics) - 5:,} more" if len(each.topics) > 5 else "")
    print_line(Text(f"{names} · {each.next_step}", "dim"), indent=2)


def _deployment(found: FleetHealth) -> dict[str, Any] | None:
    last = found.deployment
    if last is None:
        return None
    return {"number": last.number, "kind": last.kind, "outcome": last.outcome, "began_at": last.began_at}
