"""How many examples of a property, or seeds of a schedule, are tried."""

from __future__ import annotations

from hypothesis import settings


def examples(number: int) -> int:
    """`number` in `make test`, a fifth in `make test-fast`, as of the 100 that Hypothesis has by itself."""
    return number * settings().max_examples // 100
