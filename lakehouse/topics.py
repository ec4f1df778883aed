"""A topic: one kind of event, what its messages hold and the rules by which its hours close."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from lakehouse import hours
from lakehouse.durations import Duration

DELIVERY_COLUMNS = ("event_id", "event_time", "event_hour", "publish_time", "message_id", "hour")
"""Silver's columns after the declared fields; no declared field may take such a name."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SUBSCRIPTION = re.compile(r"projects/[^/]+/subscriptions/[^/]+")


_CHECKED = {"fields": "checked"}


def _arrow_type(spark_type: str) -> pa.DataType:
    # The parser of types takes 25 MiB, which a process that only plans need not have: there is one for each topic.
    from lakehouse.types import arrow_type

    return arrow_type(spark_type)


def _location(text: str) -> str:
    where, _, rest = text.partition(".")
    if text == "publish_time" or (where in ("payload", "attributes") and rest and not rest.startswith(".")):
        return text
    raise ValueError("payload.<dotted path>, attributes.<name> or, for the time only, publish_time")


def _first_hour(text: str) -> str:
    return text if text in ("now", "earliest") else hours.parsed(text)


def _subscription(text: str) -> str:
    if not _SUBSCRIPTION.fullmatch(text):
        raise ValueError("projects/<project>/subscriptions/<subscription>")
    return text


Location = Annotated[str, AfterValidator(_location)]


class Frozen(BaseModel):
    """Configuration never changes while a process runs; a key that nothing reads is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Slots(Frozen):
    """How many slots pull one epoch: the load moves it between the two bounds."""

    min: int = Field(1, ge=1, le=1024)
    max: int = Field(2, ge=1, le=1024)

    @model_validator(mode="after")
    def _ordered(self) -> Slots:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) no greater than max ({self.max})")
        return self


class Topic(Frozen):
    """One `conf/topics/<name>.yaml`; the meaning of each key stands in `conf/topics/README.md`."""

    name: str
    subscription: Annotated[str, AfterValidator(_subscription)]
    format: Literal["json"] = "json"
    event_id: Location
    event_time: Location
    event_time_unit: Literal["iso8601", "s", "ms", "us"] = "iso8601"
    fields: dict[str, str] = Field(min_length=1)
    lateness: Duration = timedelta(hours=1)
    quiet_period: Duration = timedelta(minutes=1)
    future_tolerance: Duration = timedelta(minutes=10)
    dedup_horizon: Duration = timedelta(hours=24)
    first_hour: Annotated[str, AfterValidator(_first_hour)] = "now"
    empty_hours: Literal["close", "skip"] = "close"
    audit_window: Duration = timedelta(days=400)
    bronze_retention: Duration = timedelta(days=30)
    slots: Slots = Slots()
    mirrors: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("lower-case letters, digits and _, beginning with a letter")
        return name

    @field_validator("event_id")
    @classmethod
    def _identified(cls, location: str) -> str:
        if location == "publish_time":
            raise ValueError("payload.<dotted path> or attributes.<name>")
        return location

    @field_validator("fields")
    @classmethod
    def _declared(cls, fields: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.context is _CHECKED:
            return fields
        for name, spark_type in fields.items():
            if name in DELIVERY_COLUMNS:
                raise ValueError(f"a name other than {name!r}, which every sealed hour has anyway")
            try:
                _arrow_type(spark_type)
            except ValueError as unknown:
                raise ValueError(f"for {name!r} {unknown}; {spark_type!r} is none") from unknown
        lowered = [name.lower() for name in fields]
        if len(set(lowered)) < len(lowered):
            raise ValueError("names that differ in more than case: Spark does not tell them apart")
        return fields

    @model_validator(mode="after")
    def _located(self, info: ValidationInfo) -> Topic:
        """An id or a time that is a declared field too must be declared as something that can be one."""
        if info.context is _CHECKED:
            return self
        for key, location, is_fit, expected in (
            ("event_id", self.event_id, _is_an_id, "a string or an integer"),
            ("event_time", self.event_time, *self._fit_for_a_time()),
        ):
            declared = _declared_at(self.event_type, location)
            if declared is not None and not is_fit(declared):
                raise ValueError(f"{key}, where {location} is declared as {declared}, to be declared as {expected}")
        return self

    def _fit_for_a_time(self) -> tuple[Callable[[pa.DataType], bool], str]:
        if self.event_time_unit == "iso8601":
            return _is_an_instant, "a string or a timestamp"
        return _is_a_number, "a number or a timestamp"

    @cached_property
    def event_type(self) -> pa.StructType:
        """The declared fields as one Arrow struct, in the order of the file."""
        return pa.struct([(name, _arrow_type(spark_type)) for name, spark_type in self.fields.items()])

    def as_json(self) -> str:
        """The whole topic, for the processes that read its subscription."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Topic:
        """What `as_json` gave; its fields were checked when it was read from its file."""
        return cls.model_validate_json(text, context=_CHECKED)


def _is_an_id(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind))


def _is_an_instant(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_timestamp(kind))


def _is_a_number(kind: pa.DataType) -> bool:
    """Or an instant, which needs no unit."""
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(numeric or _is_an_instant(kind))


def _declared_at(event_type: pa.StructType, location: str) -> pa.DataType | None:
    """The declared type at a location of the payload; None where nothing is declared, or not so deep."""
    where, _, path = location.partition(".")
    kind: pa.DataType = event_type if where == "payload" else None
    for name in path.split(".") if kind is not None else []:
        if not pa.types.is_struct(kind):
            raise ValueError(f"{location} to lead through structs only; what holds {name!r} is declared as {kind}")
        place = kind.get_field_index(name)
        if place < 0:
            return None
        kind = kind.field(place).type
    return kind


def topic_from(name: str, values: dict[str, Any]) -> Topic:
    return Topic.model_validate({"name": name, **values})
