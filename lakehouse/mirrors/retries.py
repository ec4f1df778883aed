"""Asking a target again while its trouble may pass."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from google.api_core.retry import exponential_sleep_generator, if_exception_type, retry_target

Result = TypeVar("Result")

PATIENCE = timedelta(seconds=8)
"""What passes by itself passes in seconds; for the rest the next run asks again."""


def with_retries(
    work: Callable[[], Result], passing: tuple[type[Exception], ...], patience: timedelta = PATIENCE
) -> Result:
    """What `work` gives; after `passing` errors it is called again while there is patience, and the last one is raised.

    A call that itself takes longer than the patience, such as one that times out, is not repeated.
    """
    result: Result = retry_target(
        work,
        if_exception_type(*passing),
        exponential_sleep_generator(initial=0.5, maximum=4.0),
        timeout=patience / timedelta(seconds=1),
        exception_factory=last_error,
    )
    return result


def last_error(errors: list[Exception], *_: object) -> tuple[Exception, Exception | None]:
    """What `retry_target` raises in the end: the last error with its own cause."""
    cause = errors[-1].__cause__
    return errors[-1], cause if isinstance(cause, Exception) else None
