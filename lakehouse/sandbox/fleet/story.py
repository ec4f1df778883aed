"""What happens to the fleet, step by step: deployed, broken, replaced, poisoned, drained and counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from rich.markup import escape

from lakehouse.fleet.deploy import deploy, plan_of, stop_plan
from lakehouse.fleet.deployments import Deployment, Kind
from lakehouse.fleet.files import wanted_versions
from lakehouse.fleet.plan import Plan
from lakehouse.printable import printable
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.fleet.alerts import Receiver
from lakehouse.sandbox.fleet.breaking import Breakage, breakages, harmless, poison
from lakehouse.sandbox.fleet.draining import is_delivered, is_in_bronze, request_close
from lakehouse.sandbox.fleet.publishing import Publisher
from lakehouse.sandbox.fleet.site import Site
from lakehouse.sandbox.fleet.watching import console, shown, watched

PATIENCE_SECONDS = 120.0
"""For what takes seconds: an incident that is noticed, hours that are delivered."""
_POLL_SECONDS = 0.5
_BEFORE_IT_BREAKS_SECONDS = 5.0


class StoryError(Exception):
    """It cannot go on; the text says what did not come and where to look."""


@dataclass
class Story:
    """The site, what is published to it, and what has happened so far."""

    site: Site
    broker: Broker
    receiver: Receiver
    publisher: Publisher
    breakages: list[Breakage] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)

    def go(self) -> None:
        self._deploy("the first release, everywhere", "", "done")
        with watched(self.site) as watch, shown(watch):
            say(f"the fleet's page: {watch.address}")
            self.publisher.start()
            time.sleep(_BEFORE_IT_BREAKS_SECONDS)
            self._break()
            self._deploy("the next release, a canary first", self.site.keep_release(harmless), "done")
            self._deploy("a release that dies of its first batch", self.site.keep_release(poison), "rolled back")
            self._await(lambda: not self.receiver.open(), "the end of every incident")
            self._drain()
        self._deploy("stopped", "", "done", kind="stop")

    # --- deployments ---------------------------------------------------------------------------------------------

    def _deploy(self, what: str, release: str, outcome: str, kind: Kind = "deploy") -> None:
        """What the command `fleet deploy` does, or `fleet stop`."""
        fleet, launcher = self.site.fleet, self.site.launcher
        say(f"[bold]fleet {kind}[/]: {what}")

        def wanted() -> Plan:
            if kind == "stop":
                return stop_plan(fleet, launcher, fleet.names)
            return plan_of(fleet, launcher, wanted_versions(fleet, release))

        ended = deploy(fleet, launcher, wanted, kind=kind, reason=what, report=report)
        if ended is None:
            raise StoryError(f"nothing was to be done for {what}")
        say(f"deployment {ended.number}: {ended.outcome}")
        self.deployments.append(ended)
        self.wanted.append(outcome)
        if ended.outcome != outcome:
            raise StoryError(f"deployment {ended.number} ended as {ended.outcome}, not {outcome}: {ended.why}")

    # --- breakages -----------------------------------------------------------------------------------------------

    def _break(self) -> None:
        self.breakages = breakages(self.site, self.broker, self.publisher)
        for each in self.breakages:
            say(f"[bold]breaks[/]: {each.words} ({each.concerns})")
            each.begin()
        for each in self.breakages:
            self._await(partial(each.is_noticed, self.receiver.notified), f"an incident: {each.words}")
        for each in self.breakages:
            each.end()
        say("[bold]repaired[/]: all that does not come back by itself")

    # --- the end -------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self.publisher.finish()
        say(f"[bold]drains[/]: all {self.publisher.sent:,} messages are published")
        names = self.site.names
        self._await_all(partial(is_in_bronze, self.site, self.broker), names, "messages in bronze")
        request_close(self.site)
        self._await_all(partial(is_delivered, self.site), names, "hours at every mirror")

    # --- waiting -------------------------------------------------------------------------------------------------

    def _await_all(self, is_so: Callable[[str], bool], names: list[str], what: str) -> None:
        """Until it is so of every topic. A look ends with the first of which it is not, and the next begins with
        another: hundreds, asked again and again, would take the applications' time."""
        left = deque(names)

        def is_done() -> bool:
            while left and is_so(left[0]):
                left.popleft()
            left.rotate(-1)
            return not left

        self._await(is_done, what, lambda: len(left))

    def _await(self, is_so: Callable[[], object], what: str, left: Callable[[], int] = lambda: 0) -> None:
        """StoryError when it is not so for long, in which the number that is left has not changed either."""
        before, since = left(), time.monotonic()
        while not is_so():
            if left() != before:
                before, since = left(), time.monotonic()
            if time.monotonic() - since > PATIENCE_SECONDS:
                raise StoryError(f"{what} did not come within {PATIENCE_SECONDS:.0f} s; see {self.site.folder}")
            time.sleep(_POLL_SECONDS)


def say(line: str) -> None:
    console.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/] {line}")


def report(line: str) -> None:
    """A line of a deployment."""
    say(f"  {escape(printable(line))}")
