"""The command that checks whether all is there that an application needs, here or on a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import typer
from rich.text import Text

from lakehouse.cli.arguments import AsJson
from lakehouse.cli.dataproc import Cluster, Folder, Project, Region, section_of
from lakehouse.cli.fleet import FleetPath
from lakehouse.cli.output import Column, print_fields, print_heading, print_json, print_table
from lakehouse.cli.progress_line import working
from lakehouse.config import Config, load_usable
from lakehouse.doctor.examination import as_document, examined, from_document
from lakehouse.doctor.findings import Finding
from lakehouse.errors import CheckError, LakehouseError, UsageError
from lakehouse.fleet.dataproc.artifacts import store_errors
from lakehouse.fleet.dataproc.client import JobsClient
from lakehouse.fleet.dataproc.one_job import one_job, wait_for
from lakehouse.fleet.wanted import Dataproc
from lakehouse.store.files import storage_for

_STYLES = {"ok": "green", "fails": "red", "not tried": "dim"}
_COLUMNS = (
    Column("check", lambda each: each.check, is_name=True, least=20),
    Column("", lambda each: Text(each.outcome, _STYLES[each.outcome])),
    Column("found", lambda each: each.found, least=20),
)


def doctor(
    context: typer.Context,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All topics when none is given.")
    ] = None,
    on: Annotated[
        Literal["here", "dataproc"],
        typer.Option(help="`dataproc`: as a job, where applications will run, with the rights that they will have."),
    ] = "here",
    with_spark: Annotated[
        bool, typer.Option("--spark", help="Start Spark here, for what only executors show; on a cluster it always is.")
    ] = False,
    project: Project = None,
    region: Region = None,
    cluster: Cluster = None,
    folder: Folder = None,
    fleet: FleetPath = None,
    as_json: AsJson = False,
) -> None:
    """Check whether all is there that an application needs: packages, rights, stores, brokers, mirrors and clocks.

    A line for each check, and what to do for each that fails; exit code 1 when one does. What is written for a check is
    removed at once. No message is taken from a subscription.
    """
    config = load_usable(context.obj)
    given = {"project": project, "region": region, "cluster": cluster, "folder": folder}
    if on == "dataproc":
        section = section_of(config, fleet, needs=tuple(given), **given)
        found = _on_dataproc(config, section, topics or [])
    else:
        _check_only_of_here({**given, "fleet": fleet})
        found = _here(config, topics or sorted(config.topics), with_spark=with_spark)
    if as_json:
        print_json(as_document(found))
    else:
        show(found)
    if any(each.outcome == "fails" for each in found):
        raise typer.Exit(1)


def show(found: Sequence[Finding]) -> None:
    print_table(_COLUMNS, found)
    for each in (each for each in found if each.outcome == "fails"):
        print_heading(each.check)
        print_fields([("found", each.found), ("what to do", each.what_to_do)])


def _check_only_of_here(given: Mapping[str, object]) -> None:
    """UsageError for what says where a job of Dataproc is to run."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"--{name}",
                found="a check on this machine",
                expected="it beside --on dataproc only",
                next_step=f"Add --on dataproc, or leave --{name} out.",
            )


def _here(config: Config, names: Sequence[str], *, with_spark: bool) -> list[Finding]:
    topics = [config.topic(name) for name in names]
    with working("checks"):
        if not with_spark:
            return examined(config, topics)
        from lakehouse.spark.session import spark_session

        return examined(config, topics, lambda: spark_session(config.settings, "lakehouse doctor"))


def _on_dataproc(config: Config, section: Dataproc, names: Sequence[str]) -> list[Finding]:
    """As the job left them; what ended the job where it left none."""
    for name in names:
        config.topic(name)
    name = f"doctor/{uuid.uuid4().hex[:12]}.json"
    storage = storage_for(section.folder, config.settings.storage_options)
    job = one_job(config, section, "doctor", names, {"LAKEHOUSE_DOCTOR_TO": storage.address(name)})
    client = JobsClient(section.project, section.region)
    job.submit(client)
    state, ended = ["is submitted"], None
    with working(f"job {job.id}", lambda: state[-1]):
        try:
            wait_for(job, client, state.append)
        except CheckError as error:
            ended = error
    with store_errors(section.folder, "`dataproc.folder`"):
        content = storage.read(name)
        storage.delete([name])
    if content is None:
        raise ended or _silent(job.id, section)
    return from_document(content)


def _silent(job: str, section: Dataproc) -> LakehouseError:
    return CheckError(
        f"job {job}",
        found="no findings where it was to leave them",
        expected="a job of this release",
        next_step=f"Its log: gcloud dataproc jobs wait {job} --project {section.project} --region {section.region}",
    )
