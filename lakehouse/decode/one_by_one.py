"""Payloads read one at a time, each to a value or to the reason why its message is rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

WRONG_TYPE = "wrong type"
"""What the reason of a field with such a value has before its colon."""


class RejectedError(Exception):
    """Its text is the reason."""


class WrongTypeError(RejectedError):
    """`path` is the dotted name of the field."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{WRONG_TYPE}: {path}")


class UndecodableError(RejectedError):
    """A payload that is none of its format, or of another message."""


def each_read(payloads: Iterable[bytes | None], read: Callable[[bytes], T]) -> tuple[list[T | None], list[str | None]]:
    """What `read` gives of each, and the reason where it raises a RejectedError: one of both is None."""
    values: list[T | None] = []
    reasons: list[str | None] = []
    for payload in payloads:
        value = reason = None
        try:
            value = read(payload or b"")
        except RejectedError as why:
            reason = str(why)
        values.append(value)
        reasons.append(reason)
    return values, reasons
