"""The door for people: the list of commands, and how a run of one ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lakehouse.cli import decide, drafts, examine, look
from lakehouse.cli.arguments import AsJson
from lakehouse.cli.output import confirm, make_encodable, print_error
from lakehouse.concealed import conceal_in_logs
from lakehouse.config import DEFAULT_CONF
from lakehouse.errors import ConfigError, LakehouseError, UsageError, extras_named, in_one_line

app = typer.Typer(
    help="Inspect topics and hours, and take the decisions that need a person.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
topics_app = typer.Typer(help="The topics' configuration.", no_args_is_help=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process: an operator's error is one message and the error's exit code."""
    make_encodable()
    conceal_in_logs()
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _refuse_undecoded(given)
        with extras_named():
            app(args=given, prog_name="lakehouse")
    except LakehouseError as error:
        print_error(error, as_json="--json" in given)
        raise SystemExit(error.exit_code) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        where_to_write = ConfigError(
            "the output", found=in_one_line(error), expected="a file or terminal with room", next_step="Make room."
        )
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered is not tried again at the end
        print_error(where_to_write, as_json=False)
        raise SystemExit(where_to_write.exit_code) from error


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


@app.callback()
def _door(
    context: typer.Context,
    conf: Annotated[
        Path | None,
        typer.Option(envvar="LAKEHOUSE_CONF", help="The environment's configuration.", show_default=DEFAULT_CONF),
    ] = None,
) -> None:
    context.obj = conf


def sandbox(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8085,
    as_json: AsJson = False,
) -> None:
    """A Pub/Sub on this machine, in memory, until it is stopped."""
    from lakehouse.sandbox.broker import serve

    def ready(address: str) -> None:
        confirm(f"export PUBSUB_EMULATOR_HOST={address}", {"PUBSUB_EMULATOR_HOST": address}, as_json)
        sys.stdout.flush()

    serve(host, port, ready)


app.command()(look.status)
app.command(name="hours")(look.topic_hours)
app.command()(look.explain)
app.command()(look.report)
app.command()(look.lateness)
app.command()(examine.verify)
app.command()(examine.audit)
app.command()(examine.trace)
app.command()(examine.failing)
app.command()(examine.reconcile)
app.command()(decide.close)
app.command()(decide.release)
app.command(name="replay-rejected")(decide.replay_rejected)
app.command()(decide.maintain)
app.command()(decide.erase)
app.command()(sandbox)
app.add_typer(topics_app, name="topics")
topics_app.command()(look.check)
topics_app.command()(drafts.new)
topics_app.command(name="try")(drafts.try_messages)
