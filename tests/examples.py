"""How many examples of a property, or seeds of a schedule, are tried."""

from __future__ import annotations

from hypothesis import settings


def examples(number: int) -> int:
    """`number` in `make test-all`, two fifths in `make test`, one in `make test-fast`, as of Hypothesis' own 100."""
    return number * settings().max_examples // 100
