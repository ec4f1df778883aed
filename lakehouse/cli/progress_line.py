"""How far a command is: one line on the terminal, gone when it ends, and nothing where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lakehouse.cli.output import terminal
from lakehouse.operations.tracking import T, Track
from lakehouse.printable import printable


def progress(what: str) -> Track:
    """For the work of one command; on stderr, so that what is printed stays whole. `what` says what is counted."""

    def tracked(items: Iterable[T], total: int, /) -> Iterator[T]:
        console = terminal(is_error=True)
        if not console.is_terminal:
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total, description=what)

    return tracked


@contextmanager
def working(what: str, how_far: Callable[[], str] = str) -> Iterator[None]:
    """While this lasts: work of which `how_far` says what is done by now, and how long it has taken so far."""
    console = terminal(is_error=True)
    if not console.is_terminal:
        yield
        return

    class HowFar(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(how_far()), "dim")

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), HowFar(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield
