"""What became of every message, incident and deployment, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lakehouse.fleet.deployments import Deployment
from lakehouse.sandbox.fleet.alerts import Notified
from lakehouse.sandbox.fleet.breaking import Breakage
from lakehouse.sandbox.fleet.day import of_topics
from lakehouse.sandbox.fleet.site import Site
from lakehouse.sandbox.flights import Message
from lakehouse.sandbox.tally import FIGURES, Outcome, outcome_of


@dataclass(frozen=True)
class Result:
    """`outcomes` by topic; `wanted` is how each deployment was to end, in their order."""

    applications: Mapping[str, Sequence[str]]
    outcomes: Mapping[str, Outcome]
    breakages: Sequence[Breakage]
    notified: Sequence[Notified]
    deployments: Sequence[Deployment]
    wanted: Sequence[str]

    def differences(self) -> list[str]:
        """What is not as it should be, a line each."""
        return [*self._of_events(), *self._of_incidents(), *self._of_deployments()]

    def _of_events(self) -> Iterator[str]:
        for name, each in self.outcomes.items():
            for what in ("lost", "doubled", "changed", "unexpected"):
                yield from (f"{name}: {what}: {value}" for value in sorted(getattr(each, what)))
            if each.sealed != each.mirrored:
                yield f"{name}: {each.sealed} hours sealed, {each.mirrored} at every mirror"

    def _of_incidents(self) -> Iterator[str]:
        expected = [each.incident(self.notified) for each in self.breakages]
        for breakage, incident in zip(self.breakages, expected, strict=True):
            if incident is None:
                yield f"{breakage.words}: nobody was notified of it"
            elif incident.over_at is None:
                yield f"{breakage.words}: nobody was notified of its end"
        for each in self.notified:
            if each not in expected:
                yield f"an incident of nothing that was broken: {each.cause}: {each.subject}"

    def _of_deployments(self) -> Iterator[str]:
        found = [str(each.outcome) for each in self.deployments]
        if found != list(self.wanted):
            yield f"deployments ended as {', '.join(found)}; expected {', '.join(self.wanted)}"


def outcomes(site: Site, messages: Sequence[Message]) -> dict[str, Outcome]:
    """Of each topic, from the files of silver and of its mirrors."""
    config, published = site.fleet.config, of_topics(messages)
    with ThreadPoolExecutor(4) as readers:
        counted = readers.map(lambda name: outcome_of(config.topics[name], config, published[name]), site.names)
        return dict(zip(site.names, counted, strict=True))


def tables(result: Result) -> Iterator[Table]:
    """Events, incidents and deployments; each fits 80 columns."""
    yield _events(result)
    yield _incidents(result)
    yield _deployments(result)


def _events(result: Result) -> Table:
    table = Table(title="What became of every message", box=SIMPLE_HEAD)
    table.add_column()
    groups = {**result.applications, "all": list(result.outcomes)}
    for name in groups:
        table.add_column(name, justify="right")
    table.add_row("topics", *(f"{len(topics):,}" for topics in groups.values()))
    for figure, of in FIGURES.items():
        table.add_row(figure, *(f"{sum(of(result.outcomes[name]) for name in names):,}" for names in groups.values()))
    for what in ("lost", "doubled", "changed"):
        sums = [sum(len(getattr(result.outcomes[name], what)) for name in names) for names in groups.values()]
        label = "hours changed" if what == "changed" else what
        table.add_row(label, *(f"[{'red' if each else 'green'}]{each}[/]" for each in sums))
    return table


def _incidents(result: Result) -> Table:
    table = Table(title="What was broken", box=SIMPLE_HEAD)
    for name in ("", "the watch says", "topics"):
        table.add_column(name, justify="right" if name == "topics" else "left")
    table.add_column("notified after", justify="right")
    table.add_column("over after", justify="right")
    for each in result.breakages:
        incident = each.incident(result.notified)
        if incident is None or each.broken_at is None:
            table.add_row(each.words, "[red]nothing[/]", "", "", "")
            continue
        over = f"{incident.over_at - incident.at:.0f} s" if incident.over_at is not None else "[red]never[/]"
        table.add_row(
            each.words, each.cause, f"{len(incident.topics):,}", f"{incident.at - each.broken_at:.1f} s", over
        )
    return table


def _deployments(result: Result) -> Table:
    table = Table(title="What was deployed", box=SIMPLE_HEAD)
    for name in ("", "release", "outcome", "took", "applications"):
        table.add_column(name, justify="right" if name == "took" else "left")
    for each in result.deployments:
        took = (each.ended_at - each.began_at).total_seconds() if each.ended_at else 0.0
        steps = ", ".join(f"{step.application} {step.state}" for step in each.steps if step.state != "planned")
        table.add_row(f"{each.number}", ", ".join(each.releases), str(each.outcome), f"{took:.0f} s", steps)
    return table
