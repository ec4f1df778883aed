"""What new jobs are made of: this tree's code and its configuration, kept with the launcher unless they are there."""

from __future__ import annotations

from collections.abc import Iterable

from lakehouse.config import Config
from lakehouse.fleet import releases
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.releases import Brought, Parts
from lakehouse.fleet.versions import Artifact, Launch


def check_launches(config: Config, launcher: Launcher, launches: Iterable[Launch]) -> None:
    """The launcher's error for the first that could not be started after `publish`. Changes nothing."""
    brought = _brought(config)
    for launch in launches:
        launcher.check(launch, brought)


def publish(config: Config, launcher: Launcher, launches: Iterable[Launch]) -> None:
    """Have there what they are made of; the launcher's error, before anything is started, where some is missing."""
    brought, wanted = _brought(config), list(launches)
    for kind, name in dict.fromkeys(each for launch in wanted for each in launch.version.artifacts):
        if (kind, name) in brought:
            launcher.keep(kind, name, brought[kind, name])
    for launch in wanted:
        launcher.check(launch)


def _brought(config: Config) -> Brought:
    """The configuration as it is now, and this tree's code where there is a tree."""
    brought: dict[Artifact, Parts] = {("snapshots", releases.snapshot_of(config)): releases.configuration(config)}
    if releases.has_tree():
        tree = releases.tree()
        brought["releases", releases.release_of(tree)] = releases.code(tree)
    return brought
