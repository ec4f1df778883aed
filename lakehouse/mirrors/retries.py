"""Asking a target again, a few times and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

PAUSES_SECONDS = (1.0, 4.0)
"""Between the tries: what passes by itself passes in seconds, for the rest the next run asks again."""


def retried(
    work: Callable[[], Result],
    passing: type[Exception] | tuple[type[Exception], ...],
    pauses: tuple[float, ...] | None = None,
) -> Result:
    """What `work` gives; after `passing` errors it is asked again, and the last one is raised."""
    for pause in PAUSES_SECONDS if pauses is None else pauses:
        try:
            return work()
        except passing:
            time.sleep(pause)
    return work()
