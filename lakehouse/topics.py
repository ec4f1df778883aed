"""A topic: one kind of event, what its messages hold and the rules by which its hours close."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from pydantic import (
    AfterValidator,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lakehouse import hours
from lakehouse.durations import Duration
from lakehouse.keys import Frozen, key
from lakehouse.sources import (
    Registry,
    Source,
    SubscriptionOrNone,
    SubscriptionSource,
)

if TYPE_CHECKING:
    from lakehouse.payload_types import Node

DELIVERY_COLUMNS = ("event_id", "event_time", "event_hour", "publish_time", "message_id", "hour")
"""Silver's columns after the declared fields; no declared field may take such a name."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


_CHECKED = {"fields": "checked"}


def _arrow_type(spark_type: str) -> pa.DataType:
    # The parser of types takes 25 MiB, which a process that only plans need not have: there is one for each topic.
    from lakehouse.types import arrow_type

    return arrow_type(spark_type)


def _without_case(name: str) -> str:
    from lakehouse.types import without_case

    return without_case(name)


def _location(text: str) -> str:
    where, _, rest = text.partition(".")
    if text == "publish_time" or (where in ("payload", "attributes") and rest and not rest.startswith(".")):
        return text
    raise ValueError("payload.<dotted path>, attributes.<name> or, for the time only, publish_time")


def _first_hour(text: str) -> str:
    return text if text in ("now", "earliest") else hours.parse_hour(text)


Location = Annotated[str, AfterValidator(_location)]


class Slots(Frozen):
    """How many slots pull one epoch: the load moves it between the two bounds."""

    min: int = key(
        1,
        ge=1,
        le=1024,
        unit="slots, 1 to 1024",
        doc="How many tasks pull an epoch at least. More when a burst must not wait for the next epochs to widen.",
    )
    max: int = key(
        2,
        ge=1,
        le=1024,
        unit="slots, 1 to 1024",
        doc=(
            "How many at most; more than the application's cores only queue. Raise it when the frontier falls "
            "behind and slots are at their bound (`lakehouse status`)."
        ),
    )

    @model_validator(mode="after")
    def _ordered(self) -> Slots:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) no greater than max ({self.max})")
        return self


_ODD_IN_NAMES = re.compile(r"[\x00-\x1f\x7f]")
"""Databases end a name at some of them, and terminals do as others say."""


def _member_names(kind: pa.DataType) -> Iterator[str]:
    """Of structs within the type, at any depth."""
    if pa.types.is_struct(kind):
        for member in kind:
            yield member.name
            yield from _member_names(member.type)
    elif pa.types.is_list(kind):
        yield from _member_names(kind.value_type)
    elif pa.types.is_map(kind):
        yield from _member_names(kind.item_type)


class Topic(Frozen):
    """One `conf/topics/<name>.yaml`."""

    # Over 200 lines: a list of keys, each with the text that the manual shows for it. What they decide is elsewhere.

    name: str
    source: Source | None = key(
        None,
        discriminator="kind",
        unit="kind and its own keys",
        shown="the subscription",
        doc="What is read, with the kind of its broker: `{kind: pubsub, subscription: …}`, a topic of "
        "[Kafka](kafka.md), or a subscription of [Pub/Sub Lite](lite.md).",
    )
    subscription: SubscriptionOrNone = key(
        "",
        validate_default=True,
        unit="projects/<project>/subscriptions/<subscription>",
        shown="that of source",
        doc="What is read: short for `source: {kind: pubsub, subscription: …}`. No two topics may name the same one: "
        "each would get half of the events.",
    )
    format: Literal["json", "avro", "protobuf"] = key(
        "json",
        unit="json, avro, protobuf",
        doc="How payloads are written: JSON, or [Avro](avro.md) or [Protobuf](protobuf.md) in their binary encodings, "
        "which need `schemas` and the extra `avro` or `protobuf`.",
    )
    schemas: dict[str, str] = key(
        default_factory=dict,
        validate_default=True,
        unit="list of files",
        doc="In the folder `schemas` beside that of the topics. Of Avro's, the last one is what messages are read by, "
        "and those before it are what older messages may be written by. Of Protobuf's there is one: a `.proto`, or a "
        "`FileDescriptorSet` as `protoc --include_imports --descriptor_set_out` writes it.",
    )
    message: str = key(
        "",
        unit="name",
        shown="the only one of the file",
        doc="Which message of Protobuf's schema the payloads are, with or without its package.",
    )
    registry: Registry | None = key(
        None,
        discriminator="kind",
        unit="kind and its own keys",
        shown="none",
        doc="Who has the schemas that messages say they were written by: `{kind: pubsub}`, or `{kind: confluent, "
        "url: …}`. They are read as the last of `schemas`, by the format's own rules. See "
        "[Schema registries](registries.md).",
    )
    compression: Literal["none", "gzip", "zstd"] = key(
        "none",
        unit="none, gzip, zstd",
        doc="How payloads are compressed. A message's own attribute or header `content-encoding` (`gzip`, `zstd`, "
        "`identity`) takes precedence. What cannot be decompressed is rejected; bronze keeps payloads as they came.",
    )
    max_decompressed_bytes: int = key(
        16 * 1024**2,
        ge=1024,
        le=1024**3,
        unit="bytes",
        doc="How large a compressed payload may become; a larger one is rejected, as it may be made to fill the "
        "memory. Larger only where single events are.",
    )
    event_id: Location = key(
        unit="location",
        doc=(
            "`payload.<dotted path>` or `attributes.<name>`: what is the same in every delivery of one event. "
            "Where the publisher sets none, fix the publisher: without it no duplicate can be recognised."
        ),
    )
    event_time: Location = key(
        unit="location",
        doc=(
            "As above, or `publish_time`: when the event happened, which decides its hour. `publish_time` only "
            "where events carry no time of their own."
        ),
    )
    event_time_unit: Literal["iso8601", "s", "ms", "us", "ns"] = key(
        "iso8601",
        unit="iso8601, s, ms, us, ns",
        doc=(
            "How that time is written: as text (RFC 3339), or as a number of seconds, milliseconds, microseconds or "
            "nanoseconds since 1970. What is finer than a microsecond is cut off."
        ),
    )
    int64_as_text: bool = key(
        False,
        unit="true, false",
        doc=(
            'Whether a `bigint` (and an event time in ms, us or ns) may also be written as text, `"123"`, as '
            "Protobuf's JSON form writes 64-bit integers. Without it such text is a wrong type."
        ),
    )
    fields: dict[str, str] = key(
        default_factory=dict,
        validate_default=True,
        unit="name: Spark type",
        shown="all of the schema; required for JSON",
        doc=(
            "The payload's members that become columns. Types are `string`, `tinyint`, `smallint`, `int`, "
            "`bigint`, `float`, `double`, `boolean`, `timestamp`, `date`, `binary`, `decimal(p,s)`, and "
            "`array<…>`, `map<string, …>`, `struct<name: …>` of them; quote those with a colon. A value "
            "of another type rejects its event; a missing one is null. Add fields at any time; what changes its "
            "type takes a new name. `event_id`, `event_time`, `event_hour`, `publish_time`, `message_id` and "
            "`hour` are columns of every topic, and no field's name."
        ),
    )
    deliver_within: Duration | None = key(
        None,
        unit="duration",
        doc="How long after its end an hour should be everywhere it goes: what the topic's page is measured by. "
        "At least `lateness`, plus some minutes for the stages.",
    )
    lateness: Duration = key(
        timedelta(hours=1),
        unit="duration",
        doc=(
            "How far the watermark trails the newest event: how long an hour waits for late events after its end. "
            "Longer when many rows are skewed (`lakehouse hours`), shorter when hours must be there sooner. Late "
            "events are never lost: they go to the first open hour."
        ),
    )
    quiet_period: Duration = key(
        timedelta(minutes=1),
        unit="duration",
        doc=(
            "How long nothing of its own time may have been written to an hour before it closes; what was published "
            "after its end and lateness does not count. Waited for five times as long at most. Shorter only for "
            "replays, which write hours in seconds."
        ),
    )
    future_tolerance: Duration = key(
        timedelta(minutes=10),
        unit="duration",
        doc=(
            "How far an event may be dated after its publish time; beyond, it is rejected. As wide as publishers' "
            "clocks may be wrong, and no wider: such an event moves the watermark for all."
        ),
    )
    past_tolerance: Duration = key(
        timedelta(days=7300),
        unit="duration",
        doc=(
            "How far an event may be dated before its publish time; beyond, it is rejected. Twenty years leave room "
            "for replays and refuse what clocks that were never set say: 1970, and Go's zero time, the year 1."
        ),
    )
    dedup_horizon: Duration = key(
        timedelta(hours=24),
        unit="duration",
        doc=(
            "How far back sealed hours are searched for the events of skewed rows. Longer when a publisher "
            "repeats itself after days; each hour costs a read of its ids."
        ),
    )
    first_hour: Annotated[str, AfterValidator(_first_hour)] = key(
        "now",
        unit="now, earliest or an hour",
        doc=(
            "The first hour to be delivered, set once, at the topic's first start: the running one, that of the "
            "first batch's oldest event, or one such as `2026-11-23T05`, at most 31 days ahead. What is older is "
            "skewed into it."
        ),
    )
    empty_hours: Literal["close", "skip"] = key(
        "close",
        unit="close, skip",
        doc=(
            "Whether an hour without events closes too, so that those who wait for it can go on. A thousand empty "
            "hours in a row, or more, close as one range, which is not sealed. `skip` for replays of old data."
        ),
    )
    max_rejected_share: float = key(
        0.1,
        ge=0,
        le=1,
        unit="share, 0 to 1",
        doc="The share of the messages since the close before last that may be rejected before `lakehouse status` says "
        "`rejecting`. Nothing stops because of it. Lower where every message should be good, 1 to hear nothing of it.",
    )
    audit_window: Duration = key(
        timedelta(days=400),
        unit="duration",
        doc="How long silver can be read as it was, and the ledger's log: entries and, of silver, the files of older "
        "versions stay this long. Bronze's log stays 7 days longer than `bronze_retention`.",
    )
    bronze_retention: Duration = key(
        timedelta(days=30),
        unit="duration",
        doc=(
            "How long deliveries stay as they came. Longer when hours may have to be sealed again; it is the "
            "largest part of the lake's storage."
        ),
    )
    slots: Slots = Slots()
    mirrors: tuple[str, ...] = key(
        (),
        unit="list of names",
        doc=(
            "Where valid hours are copied to, by the names under `mirrors` in `conf/<environment>.yaml`. A target "
            "that is added later gets all hours that were ever sealed and cleared."
        ),
    )

    _writers: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("lower-case letters, digits and _, beginning with a letter")
        return name

    @field_validator("subscription")
    @classmethod
    def _sourced(cls, subscription: str, info: ValidationInfo) -> str:
        """One of the two keys says what is read; this one is filled where the other names a subscription."""
        source = info.data.get("source")
        if source is None and not subscription and "source" in info.data:
            raise PydanticCustomError("missing", "a subscription or a source")
        named = source.subscription if isinstance(source, SubscriptionSource) else ""
        if source is not None and subscription not in ("", named):
            raise ValueError("either a subscription or a source, not both")
        return subscription or named

    @field_validator("event_id")
    @classmethod
    def _identified(cls, location: str) -> str:
        if location == "publish_time":
            raise ValueError("payload.<dotted path> or attributes.<name>")
        return location

    @field_validator("schemas")
    @classmethod
    def _schemed(cls, schemas: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.context is _CHECKED or "format" not in info.data:
            return schemas
        kind = info.data["format"]
        if (kind != "json") != bool(schemas):
            raise ValueError("schemas for the formats avro and protobuf, and for no other")
        if kind == "protobuf" and len(schemas) > 1:
            raise ValueError("one schema for the format protobuf: newer ones read what older ones have written")
        for name, text in schemas.items() if kind == "avro" else ():
            try:
                _record(kind, text, "")
            except ValueError as unreadable:
                raise ValueError(f"schemas of records; in {name} was {unreadable}") from unreadable
        return schemas

    @field_validator("message")
    @classmethod
    def _messaged(cls, message: str, info: ValidationInfo) -> str:
        if info.context is _CHECKED or not info.data.get("schemas") or "format" not in info.data:
            return message
        if info.data["format"] == "protobuf":
            for name, text in info.data["schemas"].items():
                try:
                    _record("protobuf", text, message)
                except ValueError as unreadable:
                    raise ValueError(f"a message of {name}; found {unreadable}") from unreadable
        elif message:
            raise ValueError("message for the format protobuf only")
        return message

    @field_validator("registry")
    @classmethod
    def _registered(cls, registry: Registry | None, info: ValidationInfo) -> Registry | None:
        if registry is not None and not info.data.get("schemas") and "schemas" in info.data:
            raise ValueError("a registry for the formats avro and protobuf, beside `schemas`")
        return registry

    @field_validator("fields")
    @classmethod
    def _declared(cls, fields: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.context is _CHECKED:
            return fields
        if "format" not in info.data:
            return fields
        schemas = info.data.get("schemas") or {}
        if not fields and schemas and "message" in info.data:
            fields = _derived_fields(_record(info.data["format"], list(schemas.values())[-1], info.data["message"]))
        if not fields and "message" in info.data and "schemas" in info.data:
            raise PydanticCustomError("missing", "at least one field")
        for name, spark_type in fields.items():
            if _without_case(name) in DELIVERY_COLUMNS:
                raise ValueError(f"a name other than {name!r}, which every sealed hour has anyway, in any case")
            try:
                kind = _arrow_type(spark_type)
            except ValueError as unknown:
                raise ValueError(f"for {name!r} {unknown}; {spark_type!r} is none") from unknown
            for each in (name, *_member_names(kind)):
                if not each or _ODD_IN_NAMES.search(each):
                    raise ValueError(f"names without control characters, and none that is empty: {each!r} is none")
        if len(set(map(_without_case, fields))) < len(fields):
            raise ValueError("names that differ in more than case: Spark does not distinguish them")
        return fields

    @model_validator(mode="after")
    def _located(self, info: ValidationInfo) -> Topic:
        """An id or a time that is a declared field too must be declared as something that can be one."""
        if info.context is _CHECKED:
            return self
        self._check_schema()
        for name, location, is_fit, expected in (
            ("event_id", self.event_id, _is_an_id, "a string or an integer"),
            ("event_time", self.event_time, *self._fit_for_a_time()),
        ):
            declared = self.type_by_schema(location) or _declared_at(self.event_type, location)
            if declared is not None and not is_fit(declared):
                raise ValueError(f"{name}, where {location} is declared as {declared}, to be declared as {expected}")
        return self

    def _check_schema(self) -> None:
        """What is declared, and where id and time are, must be in the schema."""
        if not self.schemas:
            return
        for name, kind in zip(self.event_type.names, self.event_type.fields, strict=True):
            given = self.type_by_schema(f"payload.{name}")
            if given is None or not _reads_as(given, kind.type):
                raise ValueError(f"fields of the schema only: {name!r} is {given or 'not in it'}, not {kind.type}")
        for location in (self.event_id, self.event_time):
            if location.startswith("payload.") and self.type_by_schema(location) is None:
                raise ValueError(f"a location in the schema: {location} is none, or of a type that cannot be read")

    def schema_fields(self) -> dict[str, str]:
        """Name and Spark type of each field of the last schema that can be a column, whatever its name."""
        record = _record(self.format, list(self.schemas.values())[-1], self.message)
        return {name: node.spark_type for name, node in record.members if not node.why_not}

    def type_by_schema(self, location: str) -> pa.DataType | None:
        """What the last schema says of a location of the payload; None where there is no schema or nothing there."""
        where, _, path = location.partition(".")
        if where != "payload" or not self.schemas:
            return None
        from lakehouse.payload_types import node_at

        node = node_at(_record(self.format, list(self.schemas.values())[-1], self.message), path)
        return None if node is None or node.why_not else _arrow_type(node.spark_type)

    def _fit_for_a_time(self) -> tuple[Callable[[pa.DataType], bool], str]:
        if self.event_time_unit == "iso8601":
            return _is_an_instant, "a string or a timestamp"
        return _is_a_number, "an integer, a double, a decimal, a string or a timestamp (a float has too few digits)"

    @cached_property
    def reads(self) -> Source:
        """Where its messages come from."""
        return self.source or SubscriptionSource(subscription=self.subscription)

    @cached_property
    def event_type(self) -> pa.StructType:
        """The declared fields as one Arrow struct, in the order of the file."""
        return pa.struct([(name, _arrow_type(spark_type)) for name, spark_type in self.fields.items()])

    @property
    def writers(self) -> Mapping[str, str]:
        """The registry's schemas that are known, by their ids, as texts like those of `schemas`."""
        return self._writers

    def with_writers(self, writers: Mapping[str, str]) -> Topic:
        """The topic, for a page of messages that name these schemas."""
        topic = self.model_copy()
        topic._writers = writers
        return topic

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that are the same in every delivery of one event, and in no two events: its id and its time.

        Where the time is `publish_time` it is not the event's own: one that is published again has another, and only
        the id decides.
        """
        return ("event_id",) if self.event_time == "publish_time" else ("event_id", "event_time")

    def as_json(self) -> str:
        """The whole topic, for the processes that read its subscription."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Topic:
        """What `as_json` gave; its fields were checked when it was read from its file."""
        return cls.model_validate_json(text, context=_CHECKED)


@lru_cache(maxsize=256)
def _record(kind: str, text: str, message: str) -> Node:
    """What a schema declares; `UnreadableSchemaError`, a ValueError, where no topic can have it."""
    if kind == "avro":
        from lakehouse import avro_types

        return avro_types.node_of(text)
    from lakehouse import protobuf_types

    return protobuf_types.node_of(text, message)


def _derived_fields(record: Node) -> dict[str, str]:
    from lakehouse.payload_types import derived_fields

    return derived_fields(record, DELIVERY_COLUMNS)


def _reads_as(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether the schema's type can be read as the declared type."""
    if pa.types.is_struct(given) and pa.types.is_struct(wanted):
        places = [given.get_field_index(member.name) for member in wanted]
        return all(
            place >= 0 and _reads_as(given.field(place).type, member.type)
            for place, member in zip(places, wanted, strict=True)
        )
    if pa.types.is_list(given) and pa.types.is_list(wanted):
        return _reads_as(given.value_type, wanted.value_type)
    if pa.types.is_map(given) and pa.types.is_map(wanted):
        return _reads_as(given.item_type, wanted.item_type)
    return bool(given == wanted or (given, wanted) in _WIDENINGS)


_WIDENINGS = {
    (pa.int32(), pa.int64()),
    (pa.int32(), pa.float64()),
    (pa.float32(), pa.float64()),
    (pa.decimal128(20, 0), pa.int64()),  # Protobuf's uint64: one that is larger is a wrong type
}


def _is_an_id(kind: pa.DataType) -> bool:
    is_whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    return bool(pa.types.is_string(kind) or is_whole)


def _is_an_instant(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_timestamp(kind))


def _is_a_number(kind: pa.DataType) -> bool:
    """Or an instant, which needs no unit. A 32-bit float holds today's seconds in steps of 128: in the wrong hour."""
    is_exact = pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_decimal(kind)
    return bool(is_exact or _is_an_instant(kind))


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
