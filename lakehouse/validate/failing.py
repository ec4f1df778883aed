"""The rows of a sealed hour that violate an expectation, looked up in silver again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.schemas import silver_schema
from lakehouse.store.records import Sealed
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import gx
from lakehouse.validate.findings import Finding
from lakehouse.validate.hour_rows import as_lake_errors, sealed_hour
from lakehouse.validate.results import result_name
from lakehouse.validate.suites import Expectation


def failing(topic: Topic, config: Config, hour: Hour, wanted: str, limit: int = gx.EXAMPLES) -> Finding:
    """What violates one of the hour's expectations: the count, and up to `limit` rows.

    `wanted` is its type, with or without `expect_`, and `<type>.<column>` where a type comes more than once. The
    expectation is the one that the hour was judged by. LakeError when there is none.
    """
    seal, result = _last_result(topic, config, hour)
    expectation = _named(wanted, result, f"{topic.name} {hour}")
    sealed = sealed_hour(topic, config, hour, seal)
    columns = sorted({"event_id", *expectation.columns_read})
    if expectation.type.startswith("expect_table_column"):
        columns = list(silver_schema(topic).names)
    with as_lake_errors(topic, hour):
        (finding,), _ = gx.findings_in_scan(
            [expectation],
            sealed.schema(columns),
            sealed.scan,
            examples=limit,
            examples_bytes=sys.maxsize,
            table_columns=silver_schema(topic).names,
        )
    return finding


def _last_result(topic: Topic, config: Config, hour: Hour) -> tuple[Sealed, Mapping[str, Any]]:
    """(newest seal, result of its validation); LakeError when the hour has no verdict."""
    tables = TopicTables(topic, config.settings)
    history = tables.history()
    seal = history.seal_of(hour)
    reports, path = tables.reports.files(), f"{result_name(hour, seal.revision)}.json" if seal else ""
    try:
        text = reports.read(path) if seal else None
    except OSError as unreadable:
        raise _damaged(reports.address(path), unreadable) from unreadable
    if seal is None or text is None:
        raise LakeError(
            f"{topic.name} {hour}",
            found=f"the hour {history.state_of(hour)}, without a verdict",
            expected="a validated hour",
            next_step="Run validate first.",
        )
    try:
        result = json.loads(text)
        _ = [(row["expectation"], row["column"], row["success"], row["kwargs"]) for row in result["expectations"]]
    except (ValueError, KeyError, TypeError, RecursionError) as damaged:
        raise _damaged(reports.address(path), damaged) from damaged
    return seal, result


def _damaged(address: str, cause: Exception) -> LakeError:
    return LakeError(
        address,
        found=f"a result that cannot be read ({type(cause).__name__})",
        expected="what the hour was judged by, as the stage wrote it",
        next_step="The verdict is in the ledger; restore the file from a copy to look up rows by it.",
    )


def _named(wanted: str, result: Mapping[str, Any], subject: str) -> Expectation:
    """The expectation of a result that `wanted` names; where several have that name, the one that failed."""
    names: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["expectations"]:
        for name in (row["expectation"], f"{row['expectation']}.{row['column']}"):
            names.setdefault(name, []).append(row)
    found = names.get(wanted) or names.get(f"expect_{wanted}") or []
    failed = [row for row in found if not row["success"]]
    if len(found) > 1 and len(failed) == 1:
        found = failed
    if len(found) != 1:
        known = {_full_name(row): row["success"] for row in found or result["expectations"]}
        raise LakeError(
            f"{subject}: {wanted!r}",
            found=f"{len(found)} expectations of that name",
            expected="one of " + ", ".join(sorted(known, key=lambda name: (known[name], name))),
            next_step="Give one of these; those that failed come first.",
        )
    (row,) = found
    return Expectation(row["expectation"], row["kwargs"], row["severity"], row["notes"], subject)


def _full_name(row: Mapping[str, Any]) -> str:
    return f"{row['expectation']}.{row['column']}" if row["column"] else str(row["expectation"])
