"""Commands that say how the fleet is."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from typing import Annotated, Any

import typer
from rich.text import Text

from lakehouse.cli import fleet_columns
from lakehouse.cli.arguments import AsJson, Wide
from lakehouse.cli.fleet import FleetPath, load
from lakehouse.cli.output import age_text, confirm, print_heading, print_json, print_line, print_table
from lakehouse.config import load_usable
from lakehouse.durations import seconds_since
from lakehouse.fleet import files, measured
from lakehouse.fleet.causes import CAUSES
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.health import FleetHealth, fleet_health
from lakehouse.fleet.incidents import Incident, TopicHealth
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.packing import packed
from lakehouse.fleet.serving import server
from lakehouse.fleet.watch import Watch


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


def watch(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8087,
    once: Annotated[
        bool, typer.Option("--once", help="One look, for a schedule: tell what is due, serve nothing, and end.")
    ] = False,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Look at the fleet until stopped: serve its page, /metrics and /healthz, and call webhooks with its incidents.

    What it has sent is kept in the lake: it can be killed and started again, anywhere, and repeats nothing.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)

    def loaded() -> tuple[Fleet, Launcher]:
        found = load(context, fleet)
        return found, files.launcher_of(found)

    if once:
        look = Watch(loaded)
        look.begin()
        found = look.look()
        look.end()
        confirm(found.totals, document(found), as_json)
        return
    watching = Watch(loaded)
    with server(watching, host, port) as pages:
        address = f"http://{host}:{pages.server_port}/"
        watching.address = address
        watching.begin()
        confirm(address, {"address": address}, as_json)
        sys.stdout.flush()
        _serve(watching, pages)


def _serve(watching: Watch, pages: ThreadingHTTPServer) -> None:
    """Until a signal."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=pages.serve_forever, name="pages", daemon=True).start()
    try:
        watching.run(stop)
    finally:
        pages.shutdown()
        watching.end()


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
    print_line(Text(found.totals, "bold"))


def worst_first(topics: Sequence[TopicHealth]) -> list[TopicHealth]:
    order = list(CAUSES)
    return sorted(topics, key=lambda each: (order.index(each.cause.name), each.topic))


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


def pack(
    context: typer.Context,
    rows_per_second: Annotated[
        float, typer.Option(min=1, help="What an application of the usual size takes; the manual has figures.")
    ] = 20_000,
    most_topics: Annotated[int, typer.Option(min=1, help="How many topics one may have.")] = 150,
    last: Annotated[int, typer.Option(min=1, help="Hours of each topic, of which the largest counts.")] = 24,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Propose which topics share an application, by what they brought in their newest hours. Changes nothing.

    Topics of different classes never share one. What is printed is the part `applications` of a fleet's file.
    """
    config = load_usable(context.obj)
    found = packed(
        measured.loads(config, last),
        measured.classes(config, fleet),
        rows_per_second=rows_per_second,
        most_topics=most_topics,
    )
    if as_json:
        print_json({"applications": [asdict(group) for group in found]})
        return
    print_line("applications:")
    for number, group in enumerate(found, start=1):
        rows = f"{group.rows_per_second:,.1f} rows a second, {len(group.topics):,} topics"
        print_line(f"  application-{number}:  # {rows}")
        print_line(f"    topics: [{', '.join(group.topics)}]")
