"""What an expectation found in an hour, as a value and as JSON has it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from lakehouse.validate.suites import Expectation


@dataclass(frozen=True)
class Finding:
    """What one expectation found in one hour.

    `unexpected` counts the rows that violate it; None where it is not about rows. `examples` are the first of them by
    event id: `event_id` and the columns it is about. `remark` is what else should be known. An expectation that could
    not be answered is not met: `is_answered` is False, and `remark` says why.
    """

    expectation: Expectation
    success: bool
    unexpected: int | None = None
    observed: Any = None
    examples: tuple[Mapping[str, Any], ...] = ()
    remark: str = ""
    is_answered: bool = True

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
            "is_answered": self.is_answered,
        }


def plain(value: Any) -> Any:
    """The value as JSON has it: instants in UTC as ISO 8601, decimals as text, bytes as hex; NaN is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(member) for member in value] if isinstance(value, Iterable) else str(value)


# --- bounds: a result, its page and MLflow's artifacts must stay small whatever an event holds ------------------------

EXAMPLES_BYTES = 64 * 1024
"""Of all examples of one finding, as JSON."""
OBSERVED_BYTES = 4 * 1024
_TEXT_BYTES = 256
_MEMBERS = 50


def bounded_value(value: Any, text_bytes: int = _TEXT_BYTES) -> Any:
    """A plain value whose texts and lists are cut, each with a word of how much there was."""
    if isinstance(value, str):
        encoded = value.encode(errors="replace")
        if len(encoded) <= text_bytes:
            return value
        return f"{encoded[:text_bytes].decode(errors='ignore')}… ({len(encoded):,} bytes, cut)"
    if isinstance(value, Mapping):
        kept = {
            bounded_value(key, text_bytes): bounded_value(each, text_bytes)
            for key, each in islice(value.items(), _MEMBERS)
        }
        return kept if len(value) <= _MEMBERS else {**kept, "…": f"({len(value):,} members, cut)"}
    if isinstance(value, list):
        members = [bounded_value(each, text_bytes) for each in value[:_MEMBERS]]
        return members if len(value) <= _MEMBERS else [*members, f"… ({len(value):,} members, cut)"]
    return value


def observed_value(value: Any) -> Any:
    """`bounded_value`, and as JSON at most OBSERVED_BYTES and some: a larger one becomes the beginning of its text."""
    kept = bounded_value(plain(value))
    text = json.dumps(kept)
    return kept if len(text) <= OBSERVED_BYTES else bounded_value(text, OBSERVED_BYTES)


def example_rows(rows: Sequence[Mapping[str, Any]], limit_bytes: int = EXAMPLES_BYTES) -> tuple[dict[str, Any], ...]:
    """The first rows, each value as `observed_value` and event id first, as far as they are `limit_bytes` as JSON."""
    kept: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        example = {key: observed_value(row[key]) for key in sorted(row, key=lambda key: key != "event_id")}
        size += len(json.dumps(example))
        if kept and size > limit_bytes:
            break
        kept.append(example)
    return tuple(kept)
