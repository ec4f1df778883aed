"""What is missing without the extra `quality`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lakehouse.errors import LakehouseError


class MissingExtraError(LakehouseError):
    """A package is needed that the extra `quality` installs."""


@contextmanager
def needs_quality(name: str) -> Iterator[None]:
    """MissingExtraError where the imports of the block fail because the package `name` is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise MissingExtraError(
            name,
            found=f"no Python package {missing.name}",
            expected="the extra that judges hours",
            next_step="Install it: pip install 'lakehouse[quality]'.",
        ) from missing
