"""What an operator can meet: every error says subject, found, expected and the next step."""

from __future__ import annotations


class LakehouseError(Exception):
    """An error with an operator for a reader; `str()` is the whole message, in one or two lines."""

    exit_code = 1

    def __init__(self, subject: str, *, found: str, expected: str, next_step: str) -> None:
        super().__init__(subject, found, expected, next_step)
        self.subject, self.found, self.expected, self.next_step = subject, found, expected, next_step

    def __str__(self) -> str:
        return f"{self.subject}: found {self.found}; expected {self.expected}. {self.next_step}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (type(self), self.subject, self.found, self.expected, self.next_step)


def _rebuilt(kind: type[LakehouseError], subject: str, found: str, expected: str, next_step: str) -> LakehouseError:
    """Keyword arguments do not survive pickling between Spark's processes by themselves."""
    return kind(subject, found=found, expected=expected, next_step=next_step)


class ConfigError(LakehouseError):
    """A configuration that cannot be used; names file and key."""


class NoJavaError(LakehouseError):
    """Spark cannot be started."""


class SourceError(LakehouseError):
    """The subscription cannot be read: unreachable, missing or refused."""


class LakeError(LakehouseError):
    """The lake's folders or tables cannot be read or written."""


class StaleDriverError(LakehouseError):
    """A newer ingest run of the same topic has started; this one must stop."""


class SealError(LakehouseError):
    """An hour cannot be sealed as its tables stand."""


class SuiteError(LakehouseError):
    """An expectation suite is missing, malformed or names what does not exist."""


class MirrorError(LakehouseError):
    """A target refused an hour, or counts it differently from the seal."""


class UnknownOutcomeError(LakehouseError):
    """Something was asked of a store and no answer came: it may or may not have happened."""
