"""How many examples of a property are tried."""

from __future__ import annotations

from hypothesis import settings


def examples(number: int) -> int:
    """`number` in `make test`, a fifth in `make test-fast`: as the profile's are to Hypothesis' own 100."""
    return number * settings().max_examples // 100
