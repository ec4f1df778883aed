"""What is expected of a topic's sealed hours: Great Expectations suites as text in, checked expectations out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import pyarrow as pa

from lakehouse.errors import SuiteError
from lakehouse.hours import Hour, end_of, start_of
from lakehouse.schemas import silver_schema
from lakehouse.topics import Topic
from lakehouse.validate.condition_text import number_of
from lakehouse.validate.conditions import columns_of

EVERY_TOPIC = "_every_topic"
"""The suite that comes before each topic's own."""

Severity = Literal["critical", "warning"]

PARAMETERS = ("hour", "hour_start", "hour_end", "sealed_rows", "volume_model")
"""What a suite can leave to each hour, as Great Expectations writes it: `"max_value": {"$PARAMETER": "hour_end"}`."""

_PARAMETER = "$PARAMETER"
_COLUMN_KEYS = ("column", "column_A", "column_B", "distinct")
_LIST_KEYS = ("column_list", "null_shares")
_OF_THE_HOUR = ("expect_table_", "expect_volume_")
_REFUSED = {
    "expect_column_values_to_be_of_type": "types are declared in conf/topics",
    "expect_column_values_to_be_in_type_list": "types are declared in conf/topics",
    "unexpected_rows_expectation": "a suite is no program: it cannot bring its own SQL",
}
_EITHER_MISSING = "either_value_is_missing"


@dataclass(frozen=True)
class Expectation:
    """One sentence about an hour. `critical` holds back an hour that breaks it, `warning` only reports."""

    type: str
    kwargs: Mapping[str, Any]
    severity: Severity = "critical"
    notes: str = ""
    origin: str = ""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns it names, a member of a struct as `route.origin`."""
        single = [self.kwargs[key] for key in _COLUMN_KEYS if self.kwargs.get(key) is not None]
        listed = [column for key in _LIST_KEYS for column in self.kwargs.get(key) or ()]
        return tuple(map(str, [*single, *listed]))

    @cached_property
    def columns_read(self) -> tuple[str, ...]:
        """`columns`, and those that its `row_condition` names."""
        return tuple(dict.fromkeys([*self.columns, *columns_of(self.kwargs.get("row_condition"))]))

    @property
    def subject(self) -> str:
        """What it is about, for people: its columns, or the hour as a whole."""
        return "the hour" if self.is_about_the_hour else ", ".join(self.columns) or "the hour"

    @property
    def is_about_the_hour(self) -> bool:
        """Whether it speaks of the hour as a whole, and so means something in an hour without rows."""
        return self.type.startswith(_OF_THE_HOUR)

    def with_parameters(self, parameters: Mapping[str, Any]) -> Expectation:
        """With what it left to the hour filled in, at any depth."""
        return self.with_kwargs(_filled(self.kwargs, parameters))

    def with_kwargs(self, kwargs: Mapping[str, Any]) -> Expectation:
        return replace(self, kwargs=kwargs)


def parameters_of(hour: Hour, sealed_rows: int, volume_model: str = "") -> dict[str, Any]:
    """PARAMETERS as they are for one hour; `volume_model` is the address of the topic's model."""
    return {
        "hour": hour,
        "hour_start": start_of(hour).isoformat(),
        "hour_end": end_of(hour).isoformat(),
        "sealed_rows": sealed_rows,
        "volume_model": volume_model,
    }


def _left_open(value: object) -> str | None:
    return str(value[_PARAMETER]) if isinstance(value, Mapping) and _PARAMETER in value else None


def _all_left_open(value: object) -> Iterator[str]:
    name = _left_open(value)
    if name is not None:
        yield name
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _all_left_open(member)
    elif isinstance(value, list):
        for member in value:
            yield from _all_left_open(member)


def _filled(value: Any, parameters: Mapping[str, Any]) -> Any:
    name = _left_open(value)
    if name is not None:
        return parameters.get(name)
    if isinstance(value, Mapping):
        return {key: _filled(member, parameters) for key, member in value.items()}
    return [_filled(member, parameters) for member in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Suite:
    """All that is expected of one topic's hours; `hash` changes when any of it does."""

    topic: str
    expectations: tuple[Expectation, ...]
    hash: str

    def of_hour(self, parameters: Mapping[str, Any]) -> list[Expectation]:
        """What is expected of one hour: the suite's, and before all that the seal's row count is right."""
        given = [expectation.with_parameters(parameters) for expectation in self.expectations]
        counted = row_count(parameters["sealed_rows"])
        is_counted = any((each.type, dict(each.kwargs)) == (counted.type, dict(counted.kwargs)) for each in given)
        return given if is_counted else [counted, *given]

    def columns_read(self, schema: pa.Schema) -> list[str]:
        """The silver columns and members of structs that must be read to judge it, `event_id` always, in a fixed order.

        An expectation about the table's shape is about all columns.
        """
        named = {column for expectation in self.expectations for column in expectation.columns_read} | {"event_id"}
        if any(expectation.type.startswith("expect_table_column") for expectation in self.expectations):
            named.update(schema.names)
        return sorted(named)


def row_count(rows: int) -> Expectation:
    """What the seal says of every hour: as many rows as its manifest counted."""
    return Expectation(
        "expect_table_row_count_to_equal", {"value": rows}, "critical", "As many rows as were sealed.", "the seal"
    )


def suite_from(topic: Topic, texts: Mapping[str, str]) -> Suite:
    """The suites of `texts` (by file name, in this order) as one; SuiteError when one cannot be used for this topic."""
    documents = {name: _document(name, text) for name, text in texts.items()}
    expectations = [
        expectation for name, document in documents.items() for expectation in _expectations(name, document, topic)
    ]
    canonical = json.dumps([_essence(expectation) for expectation in expectations], sort_keys=True, default=str)
    return Suite(topic.name, tuple(expectations), hashlib.sha256(canonical.encode()).hexdigest()[:16])


def _essence(expectation: Expectation) -> list[Any]:
    return [expectation.type, dict(expectation.kwargs), expectation.severity]


def _document(name: str, text: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text, parse_float=number_of)
    except ValueError as error:
        raise SuiteError(
            name, found=f"no JSON: {error}", expected="a Great Expectations suite", next_step="Fix the place it names."
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("expectations"), list):
        raise SuiteError(
            name,
            found="JSON without a list `expectations`",
            expected='a Great Expectations suite: {"name": …, "expectations": [{"type": …, "kwargs": …}]}',
            next_step="See the examples in expectations/.",
        )
    return document


def _expectations(name: str, document: Mapping[str, Any], topic: Topic) -> Iterator[Expectation]:
    schema = silver_schema(topic)
    for number, item in enumerate(document["expectations"], start=1):
        origin = f"{name}, expectation {number}"
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise SuiteError(
                origin, found=json.dumps(item, default=str)[:200], expected="an object with a `type`", next_step=_FIX
            )
        if not isinstance(item.get("kwargs", {}), dict):
            found = json.dumps(item["kwargs"], default=str)[:200]
            raise SuiteError(origin, found=found, expected="`kwargs` as an object", next_step=_FIX)
        kwargs = _with_one_meaning(item["type"], dict(item.get("kwargs", {})), origin)
        expectation = Expectation(item["type"], kwargs, _severity(item, origin), _text(item.get("notes")), origin)
        _check_columns(expectation, schema)
        _check_parameters(expectation)
        yield expectation


_FIX = "Fix it, then run `lakehouse topics check`."


def _severity(item: Mapping[str, Any], origin: str) -> Severity:
    meta = item.get("meta") or {}
    found = {value for value in (meta.get("severity"), item.get("severity")) if value is not None}
    if not found <= {"critical", "warning"} or len(found) > 1:
        raise SuiteError(
            origin,
            found="the severity " + " and ".join(sorted(map(repr, found))),
            expected="critical (holds the hour back) or warning (only reports)",
            next_step=_FIX,
        )
    return cast(Severity, found.pop() if found else "critical")


def _text(notes: object) -> str:
    return " ".join(map(str, notes)) if isinstance(notes, list) else str(notes or "")


def _with_one_meaning(kind: str, kwargs: dict[str, Any], origin: str) -> dict[str, Any]:
    """What Great Expectations' engines answer differently is settled or refused: a pair with one null, conditions."""
    if kind in _REFUSED:
        raise SuiteError(
            origin, found=kind, expected=f"an expectation of an hour's rows: {_REFUSED[kind]}", next_step=_FIX
        )
    if "column_pair" in kind and kwargs.setdefault("ignore_row_if", _EITHER_MISSING) != _EITHER_MISSING:
        raise SuiteError(
            origin,
            found=f"ignore_row_if {kwargs['ignore_row_if']!r}, on which Great Expectations' engines differ",
            expected=f"{_EITHER_MISSING!r}, with a second expectation that the columns are not null",
            next_step=_FIX,
        )
    if "condition_parser" in kwargs and kwargs["condition_parser"] not in ("great_expectations", None):
        raise SuiteError(
            origin,
            found=f"the condition_parser {kwargs['condition_parser']!r}",
            expected="'great_expectations', which every engine understands",
            next_step=_FIX,
        )
    return kwargs


def _check_columns(expectation: Expectation, schema: pa.Schema) -> None:
    for column in expectation.columns_read:
        found = paths_of(column, schema)
        if not found:
            raise SuiteError(
                expectation.origin,
                found=f"the column {column!r}",
                expected="one of " + ", ".join(schema.names),
                next_step=_FIX,
            )
        if len(found) > 1:
            raise SuiteError(
                expectation.origin,
                found=f"the column {column!r}, which is both {' and '.join(map(_described, found))}",
                expected="a name that is one of them",
                next_step="Rename one of the two fields.",
            )


def _described(path: Sequence[str]) -> str:
    *above, name = path
    return f"the member {name!r} of {'.'.join(above)!r}" if above else f"the field {name!r}"


def _check_parameters(expectation: Expectation) -> None:
    for name in _all_left_open(expectation.kwargs):
        if name not in PARAMETERS:
            raise SuiteError(
                expectation.origin,
                found=f"the parameter {name!r}",
                expected="one of " + ", ".join(PARAMETERS),
                next_step=_FIX,
            )


def is_there(column: str, schema: pa.Schema) -> bool:
    """Whether the schema has the column, or the member of a struct that `route.origin` is."""
    return bool(paths_of(column, schema))


def path_of(column: str, schema: pa.Schema) -> tuple[str, ...]:
    """The column and members that `route.origin` names; KeyError when there are none."""
    found = paths_of(column, schema)
    if not found:
        raise KeyError(column)
    return found[0]


def paths_of(column: str, schema: pa.Schema) -> list[tuple[str, ...]]:
    """All that the name can mean, the whole name first: a field may have a dot in its own."""
    return sorted(_paths(column, pa.struct(list(schema))), key=len)


def _paths(name: str, kind: pa.DataType) -> Iterator[tuple[str, ...]]:
    if not pa.types.is_struct(kind):
        return
    for member in kind:
        if member.name == name:
            yield (member.name,)
        elif name.startswith(f"{member.name}."):
            for path in _paths(name[len(member.name) + 1 :], member.type):
                yield (member.name, *path)
