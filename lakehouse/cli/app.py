"""The door for people: the list of commands, and how a run of one ends."""

from __future__ import annotations

import errno
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse import __version__
from lakehouse.cli import dataproc, decide, doctor, drafts, examine, fleet, fleet_health, look
from lakehouse.cli.arguments import AsJson
from lakehouse.cli.output import instant_text, make_encodable, print_error, print_json, print_line
from lakehouse.clock import Replayed, replayed_clock
from lakehouse.concealed import conceal_in_logs
from lakehouse.config import DEFAULT_CONF, load_usable
from lakehouse.errors import ConfigError, LakehouseError, UsageError, extras_named, in_one_line, unexpected

if TYPE_CHECKING:
    from lakehouse.sandbox.broker import Broker

CODE = Path(__file__).parent.parent

app = typer.Typer(
    help="Inspect topics and hours, and take the decisions that need a person.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
topics_app = typer.Typer(help="The topics' configuration.", no_args_is_help=True)
dataproc_app = typer.Typer(help="Packages, clusters and single jobs on Dataproc.", no_args_is_help=True)
fleet_app = typer.Typer(help="All applications of an environment.", no_args_is_help=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process: an operator's error is one message and the error's exit code."""
    make_encodable()
    conceal_in_logs()
    given = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in given
    try:
        _refuse_undecoded(given)
        with extras_named():  # a mistake of the command line is printed by typer, except as JSON
            code = app(args=given, prog_name="lakehouse", standalone_mode=not as_json)
    except Exception as error:
        ours = _as_ours(error)
        print_error(ours, as_json=as_json)
        raise SystemExit(ours.exit_code) from error
    raise SystemExit(code or 0)


def _as_ours(error: Exception) -> LakehouseError:
    """What ended the command, in an operator's words."""
    if isinstance(error, typer.TyperException):
        return _misuse(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered is not tried again at the end
        return ConfigError(
            "the output", found=in_one_line(error), expected="a file or terminal with room", next_step="Make room."
        )
    return unexpected("lakehouse", error, f"It was raised at {_place_of(error)}: report it with this line.")


def _misuse(error: typer.TyperException) -> UsageError:
    """A command line that cannot be parsed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lakehouse"
    said = " ".join(error.format_message().removeprefix("Got ").split()).rstrip(".")
    return UsageError(
        command,
        found=said[:1].lower() + said[1:],
        expected=f"what `{command} --help` lists",
        next_step="Correct the command line.",
    )


def _place_of(error: Exception) -> str:
    """The innermost line of our own code that it went through."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).is_relative_to(CODE)]
    return f"{Path(frames[-1].filename).relative_to(CODE.parent)}, line {frames[-1].lineno}"


def _refuse_undecoded(arguments: Sequence[str]) -> None:
    """UsageError for bytes that are no text in the locale's encoding: Python keeps each as half of a surrogate pair."""
    for each in arguments:
        try:
            each.encode()
        except UnicodeEncodeError:
            raise UsageError(
                "the command line",
                found=f"{each!a}, which is no text in {sys.getfilesystemencoding()}",
                expected="arguments in the encoding of the locale",
                next_step="Use a locale with UTF-8, such as LC_ALL=C.UTF-8, or correct the argument.",
            ) from None


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print_line(f"lakehouse {__version__}")
        raise typer.Exit


Conf = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="The environment's configuration.", show_default=f"$LAKEHOUSE_CONF, else {DEFAULT_CONF}"
    ),
]
Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)]


@app.callback()
def _door(context: typer.Context, conf: Conf = None, version: Version = False) -> None:
    context.obj = conf


def _with_conf(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option --conf, which takes precedence over the one before the command's name."""

    @wraps(command)
    def configured(context: typer.Context, conf: Path | None = None, **given: Any) -> None:
        context.obj = conf or context.obj
        command(context, **given)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("conf", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Conf)
    parameters = [*signature.parameters.values(), option]
    configured.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    configured.__annotations__ = {each.name: each.annotation for each in parameters}
    return configured


def sandbox(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8085,
    today: Annotated[
        bool, typer.Option("--today", help="End the day that the lake replays: its clock is this machine's again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A Pub/Sub on this machine, in memory, until it is stopped, with the topics that the configuration has by then.

    In the lake of the demo the replayed day goes on.
    """
    if find_spec("lakehouse.sandbox") is None:
        raise UsageError(
            "lakehouse sandbox",
            found="code without the package lakehouse.sandbox, as it is packed for clusters",
            expected="the project's folder",
            next_step="Run it there.",
        )
    from lakehouse.sandbox.broker import serve

    config = load_usable(context.obj)
    subscriptions = [topic.subscription for topic in config.topics.values() if topic.subscription]
    day = replayed_clock(config.settings.raw_root)
    if day is not None and today:
        day.end()
        day = None

    def ready(broker: Broker) -> None:
        if day is not None:
            day.set(day(), broker.address)
        _print_sandbox(broker, subscriptions, day, as_json)

    serve(host, port, ready, day.seconds if day else None)


def _print_sandbox(broker: Broker, subscriptions: Sequence[str], day: Replayed | None, as_json: bool) -> None:
    topics = {subscription: broker.create(subscription) for subscription in subscriptions}
    if as_json:
        created = [{"topic": topic, "subscription": subscription} for subscription, topic in topics.items()]
        replayed = day().isoformat() if day else None
        print_json({"PUBSUB_EMULATOR_HOST": broker.address, "replayed_time": replayed, "created": created})
    else:
        print_line(f"export PUBSUB_EMULATOR_HOST={broker.address}")
        for subscription, topic in topics.items():
            print_line(f"created {topic}, read by {subscription}")
        if day is not None:
            print_line(f"it is {instant_text(day())} in this lake, and events of today are of the future;")
            print_line("--today ends that day")
    sys.stdout.flush()


app.command()(_with_conf(look.status))
app.command(name="hours")(_with_conf(look.topic_hours))
app.command()(_with_conf(look.explain))
app.command()(_with_conf(look.report))
app.command()(_with_conf(look.lateness))
app.command()(_with_conf(examine.verify))
app.command()(_with_conf(examine.audit))
app.command()(_with_conf(examine.trace))
app.command()(_with_conf(examine.failing))
app.command()(_with_conf(examine.reconcile))
app.command()(_with_conf(decide.close))
app.command()(_with_conf(decide.stop))
app.command(name="accept-loss")(_with_conf(decide.accept_loss))
app.command()(_with_conf(decide.release))
app.command(name="replay-rejected")(_with_conf(decide.replay_rejected))
app.command()(_with_conf(decide.maintain))
app.command()(_with_conf(decide.erase))
app.command()(_with_conf(doctor.doctor))
app.command()(_with_conf(sandbox))
app.add_typer(fleet_app, name="fleet")
fleet_app.command()(_with_conf(fleet.plan))
fleet_app.command()(_with_conf(fleet_health.status))
fleet_app.command()(_with_conf(fleet_health.watch))
fleet_app.command()(_with_conf(fleet_health.pack))
fleet_app.command()(_with_conf(fleet.deploy))
fleet_app.command()(_with_conf(fleet.restart))
fleet_app.command()(_with_conf(fleet.rollback))
fleet_app.command()(_with_conf(fleet.stop))
fleet_app.command()(_with_conf(fleet.history))
app.add_typer(dataproc_app, name="dataproc")
dataproc_app.command()(_with_conf(dataproc.package))
dataproc_app.command()(_with_conf(dataproc.create_command))
dataproc_app.command(context_settings={"ignore_unknown_options": True})(_with_conf(dataproc.submit))
app.add_typer(topics_app, name="topics")
topics_app.command()(_with_conf(look.check))
topics_app.command()(_with_conf(drafts.new))
topics_app.command(name="try")(_with_conf(drafts.try_messages))
