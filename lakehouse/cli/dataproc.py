"""Commands for running on Dataproc: packages, the cluster, and single jobs."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from lakehouse.cli.arguments import AsJson
from lakehouse.cli.fleet import FleetPath
from lakehouse.cli.output import print_fields, print_json, print_line
from lakehouse.cli.progress_line import working
from lakehouse.config import Config, config_error, load_usable
from lakehouse.errors import ConfigError, UsageError
from lakehouse.fleet import files, releases
from lakehouse.fleet.dataproc import cluster as clusters
from lakehouse.fleet.dataproc.artifacts import Artifacts, release_folder, store_errors
from lakehouse.fleet.dataproc.client import JobsClient
from lakehouse.fleet.dataproc.environment import build, distributions, recipe_of, size_text
from lakehouse.fleet.dataproc.one_job import ENDLESS, one_job, wait_for
from lakehouse.fleet.dataproc.sizing import driver_mib, driver_properties
from lakehouse.fleet.wanted import Dataproc
from lakehouse.store.files import storage_for


def _option(name: str, metavar: str, what: str) -> Any:
    return typer.Option(f"--{name}", metavar=metavar, help=what, show_default=f"`dataproc.{name}` of the fleet's file")


Project = Annotated[str | None, _option("project", "ID", "Where the cluster is.")]
Region = Annotated[str | None, _option("region", "REGION", "Of the cluster.")]
Cluster = Annotated[str | None, _option("cluster", "NAME", "The cluster.")]
_DRAINED = {"--until-drained", "--until-dry"}
Folder = Annotated[str | None, _option("folder", "ADDRESS", "What jobs are made of is there: gs://<bucket>/<path>.")]


def package(
    context: typer.Context,
    folder: Folder = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only write the packages to this file, and upload nothing.")
    ] = None,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Put this tree's code and the packages that it needs to where a cluster finds them.

    Packages are made for the image's Python, without Spark, once for each change of constraints.txt: what is there is
    not uploaded again.
    """
    config = load_usable(context.obj)
    section = section_of(config, fleet, needs=() if output else ("folder",), folder=folder)
    tree = releases.tree()
    parts = releases.code(tree)
    recipe, release = recipe_of(parts, section), releases.release_of(tree)
    if output is not None:
        with _beside(output) as keep:
            archive, seconds = _built(recipe, f"packages for Python {recipe.python}")
            keep(archive)
        _print_package(as_json, release=release, packages=str(output), packages_state="written",
                       **_facts(archive, seconds))  # fmt: skip
        return
    storage = storage_for(section.folder, config.settings.storage_options)
    artifacts = Artifacts(storage, section)
    facts: dict[str, Any] = {}
    with store_errors(section.folder, "`dataproc.folder`"):
        is_new = not artifacts.has_environment(recipe)
        if is_new:
            archive, seconds = _built(recipe, f"packages for Python {recipe.python}")
            with working(f"uploads {size_text(len(archive))}"):
                artifacts.keep_environment(recipe, archive)
            facts = _facts(archive, seconds)
        is_new_release = artifacts.keep_release(release, parts)
    _print_package(
        as_json,
        release=release,
        code=storage.address(release_folder(release)),
        code_state="uploaded" if is_new_release else "is there",
        packages=storage.address(f"environments/{recipe.digest}.tar.gz"),
        packages_state="uploaded" if is_new else "are there",
        **facts,
    )


def create_command(
    context: typer.Context,
    project: Project = None,
    region: Region = None,
    cluster: Cluster = None,
    subnet: Annotated[str, typer.Option(metavar="NAME", help="The nodes' subnet.", show_default="`default`")] = "",
    workers: Annotated[
        int, typer.Option(min=0, help="How many workers.", show_default="as many as drivers need, and 2")
    ] = 0,
    worker_machine_type: Annotated[str, typer.Option(metavar="TYPE", help="The workers' machine.")] = "n2-standard-8",
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Print the `gcloud dataproc clusters create` that fits the fleet, and what its service account needs.

    Nothing is created. Sizes are those of the applications that the fleet's file puts on the cluster.
    """
    config = load_usable(context.obj)
    given = {"project": project, "region": region, "cluster": cluster}
    section = section_of(config, fleet, needs=("project", "region", "cluster"), **given)
    drivers = _drivers_on(config, fleet, section)
    words = clusters.create_command(section, drivers, subnet=subnet, workers=workers, machine=worker_machine_type)
    kinds = {each.get("kind") for each in config.settings.mirrors.values()}
    roles = [each for each in clusters.ROLES if "bigquery" not in each.role or "bigquery" in kinds]
    if as_json:
        print_json({"command": words, "roles": [vars(each) for each in roles], "network": clusters.NETWORK})
        return
    account = section.service_account or "Compute Engine's default service account"
    print_line(f"# Roles that {account} needs:")
    for each in roles:
        print_line(f"#   {each.role} on {each.on}: {each.purpose}")
    print_line(f"# {clusters.NETWORK}")
    typer.echo(clusters.as_shell(words))


def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A file of jobs/: run, ingest, seal, …")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENTS]...", help="The job's own.")] = None,
    project: Project = None,
    region: Region = None,
    cluster: Cluster = None,
    folder: Folder = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Until it has ended; exit code 1 when it failed. For run and ingest with --until-drained only.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted, and submit nothing.")
    ] = False,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Run one of jobs/ on a cluster, with this tree's code and configuration.

    Applications that are to be watched and replaced belong in the fleet's file: `lakehouse fleet deploy`.
    """
    config = load_usable(context.obj)
    given = {"project": project, "region": region, "cluster": cluster, "folder": folder}
    section = section_of(config, fleet, needs=tuple(given), **given)
    is_endless = _known_job(job) in ENDLESS and not _DRAINED.intersection(arguments or [])
    if wait and is_endless:
        raise UsageError(
            "--wait",
            found=f"the job {job}, which goes on until it is stopped",
            expected="a job that ends by itself",
            next_step="Leave --wait out, or give the job --until-drained.",
        )
    made = one_job(config, section, job, arguments or [])
    if dry_run:
        print_json(dict(made.document))
        return
    client = JobsClient(section.project, section.region)
    made.submit(client)
    if wait:
        wait_for(made, client)
    state = "has ended" if wait else "is submitted"
    if as_json:
        print_json({"job": made.id, "state": state})
        return
    print_line(f"{made.id} {state}.")
    print_line(f"Its log: gcloud dataproc jobs wait {made.id} --project {section.project} --region {section.region}")
    if is_endless:
        print_line("It ends by `lakehouse stop`.")


def section_of(config: Config, path: Path | None, *, needs: tuple[str, ...], **given: str | None) -> Dataproc:
    """The section `dataproc` of the fleet's file, if there is one, with what is given in the place of its keys.

    ConfigError for a key of `needs` that is neither there nor given.
    """
    file = path or config.path.parent / files.FILE
    found = files.fleet_file(file).dataproc if path or file.exists() else Dataproc()
    values = {**found.model_dump(), **{name: each for name, each in given.items() if each is not None}}
    try:
        section = Dataproc.model_validate(values)
    except ValidationError as wrong:
        raise config_error(Path("the command line"), wrong) from None
    for name in needs:
        if not getattr(section, name):
            raise ConfigError(
                f"{file}: dataproc.{name}",
                found="nothing",
                expected=f"a {name}",
                next_step=f"Add it there, or give it with --{name}; docs/dataproc.md goes through all that is needed.",
            )
    return section


def _drivers_on(config: Config, path: Path | None, section: Dataproc) -> list[int]:
    """What the driver of each application takes that runs on the cluster, in MiB; one of all topics without a fleet."""
    file = path or config.path.parent / files.FILE
    if not file.exists():
        return [driver_mib(driver_properties(max(1, len(config.topics)), config.settings.spark))]
    loaded = files.load_fleet(config, path)
    on = [each for each in loaded.applications.values() if (each.size.cluster or section.cluster) == section.cluster]
    return [driver_mib(driver_properties(len(each.topics), config.settings.spark, each.size)) for each in on]


def _known_job(name: str) -> str:
    known = sorted(file.stem for file in (releases.tree() / "jobs").glob("[a-z]*.py"))
    if name not in known:
        raise UsageError(
            "JOB", found=repr(name), expected="one of " + ", ".join(known), next_step="Check the spelling."
        )
    return name


@contextmanager
def _beside(file: Path) -> Iterator[Callable[[bytes], None]]:
    """What writes a content beside the file, and puts it in its place once it is whole.

    UsageError before minutes are spent on what cannot be kept, and where no room is left for it.
    """
    aside = file.with_name(f".{file.name}.{os.getpid()}")

    def keep(content: bytes) -> None:
        with _output_errors(file):
            aside.write_bytes(content)
            aside.replace(file)

    try:
        with _output_errors(file):
            if file.exists() and not file.is_file():
                raise IsADirectoryError(errno.EISDIR, "no file")
            aside.touch()
        yield keep
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


@contextmanager
def _output_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as refused:
        raise UsageError(
            "--output",
            found=f"{file}, which cannot be written ({refused.strerror})",
            expected="a file in a folder that is there",
            next_step="Give another one, or make room.",
        ) from refused


def _built(recipe: Any, what: str) -> tuple[bytes, float]:
    began = time.monotonic()
    with working(f"makes {what}"):
        archive = build(recipe)
    return archive, time.monotonic() - began


def _facts(archive: bytes, seconds: float) -> dict[str, Any]:
    return {"bytes": len(archive), "count": len(distributions(archive)), "built_in_seconds": round(seconds, 1)}


def _print_package(as_json: bool, **facts: Any) -> None:
    if as_json:
        print_json(facts)
        return
    made = (
        f" ({size_text(facts['bytes'])}, {facts['count']} packages, made in {facts['built_in_seconds']:.0f} s)"
        if "bytes" in facts
        else ""
    )
    print_fields(
        [
            ("release", facts["release"]),
            *([("code", f"{facts['code']} {facts['code_state']}")] if "code" in facts else []),
            ("packages", f"{facts['packages']} {facts['packages_state']}{made}"),
        ]
    )
