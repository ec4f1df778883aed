"""What an expectation found in an hour, as a value and as JSON has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from lakehouse.validate.suites import Expectation


@dataclass(frozen=True)
class Finding:
    """What one expectation found in one hour.

    `unexpected` counts the rows that violate it; None where it is not about rows. `examples` are the first of them by
    event id: `event_id` and the columns it is about. `remark` is what should be known though it holds.
    """

    expectation: Expectation
    success: bool
    unexpected: int | None = None
    observed: Any = None
    examples: tuple[Mapping[str, Any], ...] = ()
    remark: str = ""

    @property
    def gates(self) -> bool:
        return not self.success and self.expectation.severity == "critical"

    @property
    def warns(self) -> bool:
        return not self.success and self.expectation.severity == "warning"

    @property
    def column(self) -> str | None:
        """The columns it names, as one text."""
        return ", ".join(self.expectation.columns) or None

    def as_json(self) -> dict[str, Any]:
        return {
            "expectation": self.expectation.type,
            "column": self.column,
            "kwargs": dict(self.expectation.kwargs),
            "severity": self.expectation.severity,
            "notes": self.expectation.notes,
            "success": self.success,
            "unexpected": self.unexpected,
            "observed": self.observed,
            "examples": [dict(example) for example in self.examples],
            "remark": self.remark,
        }


def event_id_first(example: Mapping[str, Any]) -> dict[str, Any]:
    return {key: example[key] for key in sorted(example, key=lambda key: key != "event_id")}


def plain(value: Any) -> Any:
    """The value as JSON has it: numbers of numpy, times, decimals and missing values made plain.

    Spark collects instants as times of the driver's own zone without a zone; `astimezone` takes them for that.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value == value else None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "asDict"):
        return plain(value.asDict(recursive=True))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(member) for member in value]
    return None if str(value) in ("<NA>", "NaT") else str(value)
