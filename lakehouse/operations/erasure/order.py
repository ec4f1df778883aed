"""What is to be erased, and on whose word."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.operations.condition import Condition

ERASE = "erase"


@dataclass(frozen=True)
class Order:
    """An erasure as a person ordered it."""

    condition: Condition
    reason: str
    by: str
    release: str
