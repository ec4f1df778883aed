"""Commands for all applications of an environment at once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from lakehouse.cli import fleet_columns
from lakehouse.cli.arguments import AsJson
from lakehouse.cli.output import print_json, print_line, print_table
from lakehouse.config import load_usable
from lakehouse.fleet import files
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.plan import Plan
from lakehouse.fleet.plan import plan as difference
from lakehouse.fleet.running import running_applications
from lakehouse.store.heartbeats import Heartbeats

FleetPath = Annotated[
    Path | None,
    typer.Option(
        "--fleet",
        metavar="PATH",
        help="The fleet's file.",
        show_default="fleet.yaml beside the environment's configuration",
    ),
]
Release = Annotated[
    str | None,
    typer.Option(
        metavar="RELEASE",
        help="A release that was deployed before, for all applications.",
        show_default="that of the fleet's file, else this tree's code",
    ),
]


def plan(context: typer.Context, release: Release = None, fleet: FleetPath = None, as_json: AsJson = False) -> None:
    """What `fleet deploy` would do: the difference between the fleet's file and what runs. Changes nothing."""
    loaded = load(context, fleet)
    found = plan_of(loaded, files.launcher_of(loaded), release or "")
    if as_json:
        print_json(plan_document(found))
        return
    print_table(fleet_columns.CHANGE, found.changes)
    print_line(Text(plan_totals(found), "bold"))


def load(context: typer.Context, path: Path | None) -> Fleet:
    return files.load_fleet(load_usable(context.obj), path)


def plan_of(fleet: Fleet, launcher: Launcher, release: str) -> Plan:
    """ConfigError, or the store's own error, where it cannot be said what runs: then nothing must be touched."""
    config = fleet.config
    running = running_applications(Heartbeats(config.settings).all(), launcher.jobs(), config.now())
    return difference(files.wanted_versions(fleet, release), running)


def plan_document(found: Plan) -> dict[str, Any]:
    """For programs: what an application has of topics is a number and its differences."""
    changes = [
        {
            "application": change.application,
            "action": change.action,
            "topics": change.topics,
            "differences": [asdict(each) for each in change.differences],
            "release": change.wanted.release if change.wanted else None,
            "configuration": change.wanted.configuration if change.wanted else None,
        }
        for change in found.changes
    ]
    return {"applications": changes, "touched": len(found.touched), "releases": found.releases}


def plan_totals(found: Plan) -> str:
    counts = {
        action: sum(change.action == action for change in found.changes) for action in ("start", "replace", "stop")
    }
    parts = [f"{count:,} to {action}" for action, count in counts.items() if count]
    kept = len(found.changes) - len(found.touched)
    if not parts:
        return f"Nothing to do: {kept:,} of {kept:,} applications are as they are wanted."
    return f"{', '.join(parts)}; {kept:,} stay as they are."
