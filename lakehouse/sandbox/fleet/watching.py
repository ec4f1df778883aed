"""The fleet's watch and its page beside the story; in the terminal, how the fleet is now."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lakehouse.fleet.health import FleetHealth
from lakehouse.fleet.serving import server
from lakehouse.fleet.watch import Watch
from lakehouse.sandbox.fleet.site import Site

WIDTH = 80
console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


@contextmanager
def watched(site: Site) -> Iterator[Watch]:
    """What `lakehouse fleet watch` runs, in a thread; its files, which nobody changes, are read once."""
    watch, stop = Watch(lambda: (site.fleet, site.launcher)), threading.Event()
    with server(watch, "127.0.0.1", 0) as pages:
        watch.address = f"http://127.0.0.1:{pages.server_port}/"
        watch.begin()
        looking = threading.Thread(target=watch.run, args=(stop,), name="watch", daemon=True)
        serving = threading.Thread(target=pages.serve_forever, name="pages", daemon=True)
        looking.start()
        serving.start()
        try:
            yield watch
        finally:
            stop.set()
            looking.join()
            pages.shutdown()
            watch.end()


@contextmanager
def shown(watch: Watch) -> Iterator[None]:
    """The fleet below whatever else is printed, as the watch saw it last; nothing where there is no terminal."""
    if not console.is_terminal:
        yield
        return

    class Picture:
        def __rich__(self) -> RenderableType:
            return "" if watch.health is None else picture(watch.health)

    with Live(Picture(), console=console, refresh_per_second=2, transient=True):
        yield


def picture(found: FleetHealth) -> RenderableType:
    """What `lakehouse fleet status` shows, in fewer columns."""
    table = Table(box=SIMPLE_HEAD)
    for name, justify in (("application", "left"), ("state", "left"), ("release", "left"), ("topics", "right"),
                          ("not ok", "right"), ("heartbeat", "right")):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for each in found.applications:
        age = "–" if each.heartbeat_age_seconds is None else f"{each.heartbeat_age_seconds:.0f} s"
        state = Text(each.state, "green" if each.state == "running" else "bold yellow")
        table.add_row(each.application, state, each.release or "–", str(each.topics), str(each.ill), age)
    lines = [Text(f"! {each.cause}: {each.subject}: {each.words}", "bold red", no_wrap=True, overflow="ellipsis")
             for each in found.incidents[:3]]  # fmt: skip
    return Group(table, *lines)
