"""A new topic's files from a schema alone: its columns are known, its id and its time are proposed by their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from lakehouse.config import Config, config_error
from lakehouse.errors import UsageError
from lakehouse.operations.drafting.draft import NAMED, Draft, source_keys
from lakehouse.operations.drafting.files import suite_json, topic_yaml
from lakehouse.operations.drafting.id_and_time import id_rank, time_rank
from lakehouse.operations.drafting.inference import Doubt
from lakehouse.operations.drafting.schema_sources import FoundSchema
from lakehouse.topics import Topic, topic_from
from lakehouse.types import arrow_type

_UNITS = {"ms": "ms", "millis": "ms", "us": "us", "micros": "us", "ns": "ns", "nanos": "ns", "s": "s", "seconds": "s"}
"""Of a number, by how its name ends."""


def schema_draft(
    name: str,
    schema: FoundSchema,
    config: Config,
    *,
    source: str | None = None,
    message: str = "",
    event_id: str | None = None,
    event_time: str | None = None,
) -> Draft:
    """A topic with the columns of a schema; UsageError where it has no field that can be the id."""
    doubts: list[Doubt] = []
    keys = source_keys(name, "", config, source, doubts)
    given: dict[str, Any] = {
        "format": schema.format,
        "schemas": {next(iter(schema.files)): schema.text},
        "message": message,
    }
    if schema.registry is not None:
        given["registry"] = schema.registry
    probe = _topic(name, {**keys, **given, "event_id": "attributes.id", "event_time": "publish_time"}, schema)
    leaves = list(_leaves(probe))
    found_id = event_id or _first("event_id", [at for _, at in sorted(_ids(leaves))], doubts)
    if not found_id:
        raise UsageError(
            schema.source,
            found="no field that is called an id and is a text or an integer",
            expected="an id in each message",
            next_step="Name its place with --event-id; `attributes.<name>` is one, too.",
        )
    ranked = [at for _, at in sorted(_times(leaves, name))]
    found_time = event_time or _first("event_time", ranked, doubts) or "publish_time"
    if found_time == "publish_time" and event_time is None:
        doubts.append(Doubt("event_time", "no field is called a time: an event counts when it is published"))
    values = {**keys, **given, "event_id": found_id, "event_time": found_time}
    kind = dict(leaves).get(found_time)
    if kind is not None and not pa.types.is_timestamp(kind) and not pa.types.is_string(kind):
        values["event_time_unit"] = _UNITS.get(found_time.rpartition("_")[2].rpartition(".")[2].lower(), "ms")
        doubts.append(Doubt("event_time_unit", "a number, which the schema gives no unit"))
    doubts.append(Doubt("lateness", "no samples say how late events come, so this is the default"))
    topic = _topic(name, values, schema)
    yaml = topic_yaml(topic, f"the schema {schema.source}", doubts, tuple(config.settings.mirrors))
    return Draft(topic, yaml, suite_json(topic, ()), 0, {}, tuple(doubts), schema.files)


def _topic(name: str, values: dict[str, Any], schema: FoundSchema) -> Topic:
    try:
        return topic_from(name, values)
    except ValidationError as error:
        raise UsageError(
            schema.source,
            found=str(config_error(Path(f"{name}.yaml"), error)),
            expected="a schema all of whose fields can be columns, and an id and a time in it",
            next_step="Write the topic's file by hand, with the `fields` that are wanted; --message names Protobuf's.",
        ) from error


def _leaves(topic: Topic) -> Iterator[tuple[str, pa.DataType]]:
    """Locations of the payload's fields, also within structs, and their types."""

    def below(where: str, kind: pa.StructType) -> Iterator[tuple[str, pa.DataType]]:
        for member in kind:
            if pa.types.is_struct(member.type):
                yield from below(f"{where}.{member.name}", member.type)
            else:
                yield f"{where}.{member.name}", member.type

    known = {name: arrow_type(spark_type) for name, spark_type in topic.schema_fields().items()}
    yield from below("payload", pa.struct(list(known.items())))


def _ids(leaves: list[tuple[str, pa.DataType]]) -> Iterator[tuple[tuple[int, ...], str]]:
    for location, kind in leaves:
        rank = id_rank(location)
        if rank is not None and (pa.types.is_string(kind) or pa.types.is_integer(kind)):
            yield (rank, location.count(".")), location


def _times(leaves: list[tuple[str, pa.DataType]], topic: str) -> Iterator[tuple[tuple[int, ...], str]]:
    """Instants first; of texts and numbers those that are called a time."""
    for location, kind in leaves:
        is_one = pa.types.is_timestamp(kind)
        rank, sounds = time_rank(location, topic)
        if is_one or (sounds and (pa.types.is_int64(kind) or pa.types.is_string(kind))):
            yield (not is_one, *rank), location


def _first(key: str, locations: list[str], doubts: list[Doubt]) -> str:
    if len(locations) > 1:
        doubts.append(Doubt(key, f"by its name; {', '.join(locations[1 : 1 + NAMED])} could be it, too"))
    return next(iter(locations), "")
