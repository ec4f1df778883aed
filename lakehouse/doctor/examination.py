"""All checks of an application, and their findings as a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from lakehouse.config import Config
from lakehouse.doctor import google, machine, stores, targets
from lakehouse.doctor.findings import Check, Finding, findings
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def checks_of(
    config: Config, topics: Sequence[Topic], session: Callable[[], SparkSession] | None = None
) -> list[Check]:
    """In the order in which they are shown; `session` starts Spark, where checks may need it."""
    return [
        *machine.checks(config, topics, session),
        *stores.checks(config),
        *google.checks(config, topics),
        *targets.checks(config, topics, session),
    ]


def examined(
    config: Config, topics: Sequence[Topic], session: Callable[[], SparkSession] | None = None
) -> list[Finding]:
    return findings(checks_of(config, topics, session))


def as_document(found: Sequence[Finding]) -> dict[str, Any]:
    return {"checks": [asdict(each) for each in found], "failing": sum(each.outcome == "fails" for each in found)}


def from_document(text: bytes) -> list[Finding]:
    """What a job has left; ValueError for what is no such document."""
    return TypeAdapter(dict[str, list[Finding] | int]).validate_json(text)["checks"]  # type: ignore[return-value]
