"""How long work says how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Gives the items on, one for each step that is done; `total` is how many there will be."""

    def __call__(self, items: Iterable[T], total: int, /) -> Iterator[T]: ...


def no_tracking(items: Iterable[T], total: int, /) -> Iterator[T]:
    """Nobody listens."""
    return iter(items)
