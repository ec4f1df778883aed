"""Commands for all applications of an environment at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from lakehouse.cli import fleet_columns
from lakehouse.cli.arguments import AsJson, By, Wide, person_of
from lakehouse.cli.output import print_json, print_line, print_table
from lakehouse.config import load_usable
from lakehouse.fleet import files
from lakehouse.fleet.deploy import (
    check_deployable,
    check_done,
    check_startable,
    restart_plan,
    rollback_plan,
    running,
    stop_plan,
)
from lakehouse.fleet.deploy import deploy as deploy_fleet
from lakehouse.fleet.deployments import Deployments, Kind
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.plan import Plan
from lakehouse.fleet.plan import plan as difference
from lakehouse.printable import printable

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

Applications = Annotated[
    list[str] | None, typer.Argument(metavar="[APPLICATION]...", help="All of the fleet's file when none is given.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stays in the history.")]


def plan(context: typer.Context, release: Release = None, fleet: FleetPath = None, as_json: AsJson = False) -> None:
    """What `fleet deploy` would do: the difference between the fleet's file and what runs. Changes nothing."""
    loaded = load(context, fleet)
    launcher = files.launcher_of(loaded)
    found = plan_of(loaded, launcher, release or "")
    check_startable(loaded, launcher, found)
    show_plan(found, as_json=as_json)


def show_plan(found: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json(plan_document(found))
        return
    print_table(fleet_columns.CHANGE, found.changes)
    print_line(Text(plan_totals(found), "bold"))


def load(context: typer.Context, path: Path | None) -> Fleet:
    return files.load_fleet(load_usable(context.obj), path)


def plan_of(fleet: Fleet, launcher: Launcher, release: str) -> Plan:
    """ConfigError, or the store's own error, where it cannot be said what runs: then nothing must be touched."""
    return difference(files.wanted_versions(fleet, release), running(fleet, launcher))


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


# --- what changes the fleet ----------------------------------------------------------------------------------------


class Act:
    """What a command that changes the fleet does, or with `dry_run` only says: `kind` is its name in the history."""

    def __init__(self, fleet: Fleet, kind: Kind, reason: str, by: str, *, dry_run: bool, as_json: bool) -> None:
        self.fleet, self.launcher = fleet, files.launcher_of(fleet)
        self._kind, self._reason, self._by = kind, reason, by
        self._dry_run, self._as_json = dry_run, as_json

    def do(self, wanted: Callable[[], Plan], *, has_canary: bool = True) -> None:
        """CheckError when it did not end well."""
        if self._dry_run:
            found = wanted()
            check_deployable(self.fleet, self.launcher, found)
            show_plan(found, as_json=self._as_json)
            return
        ended = deploy_fleet(
            self.fleet, self.launcher, wanted, kind=self._kind, report=self._report, reason=self._reason, by=self._by,
            has_canary=has_canary,
        )  # fmt: skip
        if self._as_json:
            print_json({"deployment": asdict(ended) if ended else None})
        elif ended is None:
            print_line(Text(plan_totals(wanted()), "bold"))
        else:
            print_line(Text(f"deployment {ended.number}: {ended.outcome}", "bold"))
        if ended is not None:
            check_done(ended)

    def _report(self, line: str) -> None:
        typer.echo(f"{datetime.now(UTC):%H:%M:%S} {printable(line)}", err=self._as_json)


def deploy(
    context: typer.Context,
    release: Release = None,
    dry_run: DryRun = False,
    reason: Why = "",
    by: By = None,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Make what runs what the fleet's file wants: the canary first, then the rest. Touches only what differs.

    Exit code 1 when it was not well and was rolled back. A deployment that died is gone on with.
    """
    act = Act(load(context, fleet), "deploy", reason, person_of(by), dry_run=dry_run, as_json=as_json)
    act.do(lambda: plan_of(act.fleet, act.launcher, release or ""))


def restart(
    context: typer.Context,
    applications: Applications = None,
    dry_run: DryRun = False,
    reason: Why = "",
    by: By = None,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Start applications again with what they run, each taking over from itself; without a canary."""
    act = Act(load(context, fleet), "restart", reason, person_of(by), dry_run=dry_run, as_json=as_json)
    names = chosen_of(act.fleet, applications)
    act.do(lambda: restart_plan(act.fleet, act.launcher, names), has_canary=False)


def rollback(
    context: typer.Context,
    applications: Applications = None,
    to: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="What ran after that deployment.",
            show_default="the last one that was done before the newest",
        ),
    ] = None,
    dry_run: DryRun = False,
    reason: Why = "",
    by: By = None,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the releases, topics and configuration of an earlier deployment; all at once, without a canary."""
    act = Act(load(context, fleet), "rollback", reason, person_of(by), dry_run=dry_run, as_json=as_json)
    names = chosen_of(act.fleet, applications) if applications else []
    act.do(lambda: rollback_plan(act.fleet, act.launcher, to, names), has_canary=False)


def stop(
    context: typer.Context,
    applications: Applications = None,
    dry_run: DryRun = False,
    reason: Why = "",
    by: By = None,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """End applications after the batch under way; they stay ended until they are deployed again."""
    act = Act(load(context, fleet), "stop", reason, person_of(by), dry_run=dry_run, as_json=as_json)
    names = chosen_of(act.fleet, applications)
    act.do(lambda: stop_plan(act.fleet, act.launcher, names))


def history(
    context: typer.Context,
    last: Annotated[int, typer.Option(min=1, help="How many deployments, counted from the newest.")] = 20,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Who deployed what when, and how it went."""
    found = Deployments(load_usable(context.obj).settings).all()[-last:]
    if as_json:
        print_json({"deployments": [asdict(each) for each in found]})
    else:
        print_table(fleet_columns.DEPLOYMENT, found, wide=wide)


def chosen_of(fleet: Fleet, applications: list[str] | None) -> list[str]:
    """Those that are named, or all; ConfigError for a name that the fleet has not."""
    return files.with_applications(fleet, applications or fleet.names).names
