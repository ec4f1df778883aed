"""`fleet.yaml` read, checked and put together with the environment: what each application is to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lakehouse.config import Config, model_of, values_of
from lakehouse.errors import ConfigError, UsageError
from lakehouse.fleet import releases
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.launchers.local import LocalLauncher
from lakehouse.fleet.versions import Version
from lakehouse.fleet.wanted import RELEASE, Dataproc, FleetFile, WantedApplication, release_name, wanted_applications
from lakehouse.running.identity import configuration_hash

FILE = "fleet.yaml"


@dataclass(frozen=True)
class Fleet:
    """An environment and its applications as the files want them."""

    path: Path
    config: Config
    file: FleetFile
    applications: Mapping[str, WantedApplication]

    @property
    def names(self) -> list[str]:
        return sorted(self.applications)


def load_fleet(config: Config, path: Path | None = None) -> Fleet:
    """The fleet at `path`, else in `fleet.yaml` beside the environment's file.

    ConfigError for what is wrong in it, and for a topic whose own file is wrong: which application it belongs to could
    not be said.
    """
    config.refuse_unusable()
    file = path or config.path.parent / FILE
    if not file.exists():
        raise ConfigError(
            str(file),
            found="no such file",
            expected="the applications of the environment and their topics",
            next_step='Begin with `applications: {all: {topics: ["*"]}}`, or give the path with --fleet.',
        )
    model = fleet_file(file)
    canary = model.roll_out.canary
    if canary and canary not in model.applications:
        raise ConfigError(
            f"{file}: roll_out.canary",
            found=repr(canary),
            expected="one of the applications: " + ", ".join(model.applications),
            next_step="Check the spelling.",
        )
    return Fleet(file, config, model, wanted_applications(model, config.topics, str(file)))


def fleet_file(file: Path) -> FleetFile:
    """The file alone; ConfigError for what is wrong in it."""
    return model_of(FleetFile, file, values_of(file, given_by="--fleet"))


def launcher_of(fleet: Fleet) -> Launcher:
    """The launcher that the file names; ConfigError where the file does not say what it needs."""
    if fleet.file.launcher == "local":
        return LocalLauncher(fleet.path.parent / Path(fleet.file.local.folder).expanduser())
    from lakehouse.fleet.dataproc.reach import check_reachable
    from lakehouse.fleet.launchers.dataproc import DataprocLauncher

    section = dataproc_of(fleet)
    check_reachable(fleet.config)
    return DataprocLauncher(section, fleet.config.settings)


def dataproc_of(fleet: Fleet) -> Dataproc:
    """The section `dataproc`; ConfigError for the first of its keys without which nothing runs there."""
    for name in ("project", "region", "cluster", "folder"):
        if not getattr(fleet.file.dataproc, name):
            raise ConfigError(
                f"{fleet.path}: dataproc.{name}",
                found="nothing",
                expected=f"a {name}, as applications are to run on Dataproc",
                next_step="Add it; docs/dataproc.md goes through all that is needed.",
            )
    return fleet.file.dataproc


def wanted_versions(fleet: Fleet, release: str = "") -> dict[str, Version]:
    """What each application is to run: `release`, else the one that the file names, else the code of this tree."""
    _check_release(release)
    config, own = fleet.config, ""
    snapshot, conf = releases.snapshot_of(config), releases.file_in_snapshot(config)
    versions = {}
    for name, each in fleet.applications.items():
        chosen = release or each.release
        if not chosen:
            own = own or releases.release_of(releases.tree())
        topics = [config.topics[topic] for topic in each.topics]
        versions[name] = Version(
            release=chosen or own,
            configuration=configuration_hash(config, topics),
            suites=releases.suites_hash(config, each.topics),
            snapshot=snapshot,
            conf=conf,
            topics=each.topics,
            size=each.size,
        )
    return versions


def _check_release(name: str) -> None:
    try:
        release_name(name)
    except ValueError:
        raise UsageError(
            "--release",
            found=repr(name),
            expected=RELEASE,
            next_step="`lakehouse fleet history` has those that were deployed.",
        ) from None


def with_applications(fleet: Fleet, names: list[str]) -> Fleet:
    """The same fleet with only these applications; ConfigError for a name that it has not."""
    for name in names:
        if name not in fleet.applications:
            raise ConfigError(
                f"application {name!r}",
                found=f"no such application in {fleet.path}",
                expected="one of " + ", ".join(fleet.names),
                next_step="Check the spelling.",
            )
    chosen = {name: each for name, each in fleet.applications.items() if name in names}
    return replace(fleet, applications=chosen)
