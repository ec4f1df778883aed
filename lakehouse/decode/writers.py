"""By which schema of a registry each message of a page was written, as the message itself says.

Pub/Sub says it in attributes, serializers of Confluent's kind in the payload's first bytes: 0 and the schema's id in
four bytes, and for Protobuf the place of the message in its file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.decode.columns import Parsed
from lakehouse.topics import Topic

UNKNOWN_SCHEMA = "unknown schema"
NO_SCHEMA_ID = "no schema id"

_NAME, _REVISION, _ENCODING = "googclient_schemaname", "googclient_schemarevisionid", "googclient_schemaencoding"
_DELETED = ("_deleted-schema_", "_deleted-schema-revision_")
"""What Pub/Sub writes in the place of the name, and of the revision, of a schema that was deleted meanwhile."""
_MAGIC = 0
_ID_BYTES = 4
_MOST_INDEXES = 64
"""Of a message within messages: more are no place in a file that protoc takes."""


@dataclass(frozen=True)
class Writer:
    """What is known of how some messages were written.

    `schema` is a text as `Topic.schemas` has it, "" for the topic's own last one; `is_json` says that they are in the
    JSON form of the format. `indexes` is where Protobuf's message is in its file: among those of the file, then within
    that message, and so on; empty where nothing says it.
    """

    schema: str = ""
    is_json: bool = False
    indexes: tuple[int, ...] = ()


class _Said(NamedTuple):
    """What a message says of its writer; `schema_id` is None where it names no schema."""

    schema_id: str | None
    is_json: bool = False
    indexes: tuple[int, ...] = ()


Read = Callable[[pa.BinaryArray, Writer], Parsed]


def schema_ids(messages: pa.RecordBatch, topic: Topic) -> Counter[str]:
    """The ids of the schemas that a page (columns `DELIVERED`, payloads as decompressed) names, and how often.

    Of Pub/Sub's `projects/…/schemas/…@<revision>`; of others a number. Those of deleted ones are not among them.
    """
    said = _said_of(messages, topic)
    named: Counter[str] = Counter()
    for each, count in zip(said.distinct, np.bincount(said.codes, minlength=len(said.distinct)), strict=True):
        if each is not None and each.schema_id and not any(part in each.schema_id for part in _DELETED):
            named[each.schema_id] += int(count)
    return named


def parsed(messages: pa.RecordBatch, topic: Topic, wanted: pa.StructType, read: Read) -> Parsed:
    """All messages of the page, those of each writer read together."""
    said = _said_of(messages, topic)
    each_of_distinct = [_writer_or_reason(each, topic) for each in said.distinct]
    places_of = {each: place for place, each in enumerate(dict.fromkeys(each_of_distinct))}
    distinct = list(places_of)
    if len(distinct) == 1:
        return _part(distinct[0], said.bodies, wanted, read)
    codes = np.array([places_of[each] for each in each_of_distinct], np.int64)[said.codes]
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(distinct) + 1))
    parts = [
        _part(each, said.bodies.take(pa.array(order[start:end])), wanted, read)
        for each, start, end in zip(distinct, bounds, bounds[1:], strict=False)
    ]
    places = pa.array(np.argsort(order))
    values = pa.concat_arrays([pa.array([], wanted), *(part.values for part in parts)])
    reasons = pa.concat_arrays([pa.array([], pa.string()), *(part.reasons for part in parts)])
    return Parsed(values.take(places), reasons.take(places))


def _writer_or_reason(said: _Said | None, topic: Topic) -> Writer | str:
    """A reason is why messages that say so are rejected: garbage may name as many schemas as there are messages."""
    if said is None:
        return NO_SCHEMA_ID
    if said.schema_id is None:
        return Writer(is_json=said.is_json)
    schema = topic.writers.get(said.schema_id)
    return UNKNOWN_SCHEMA if schema is None else Writer(schema, said.is_json, said.indexes)


def _part(writer: Writer | str, bodies: pa.BinaryArray, wanted: pa.StructType, read: Read) -> Parsed:
    if isinstance(writer, Writer):
        return read(bodies, writer)
    return Parsed(pa.nulls(len(bodies), wanted), pa.array([writer] * len(bodies), pa.string()))


class _SaidOfPage(NamedTuple):
    """What the messages of a page say: `codes` has the place of each in `distinct`; `bodies` are without it."""

    distinct: list[_Said | None]
    codes: np.ndarray
    bodies: pa.BinaryArray


def _said_of(messages: pa.RecordBatch, topic: Topic) -> _SaidOfPage:
    if topic.registry is not None and topic.registry.kind == "pubsub":
        return _by_attributes(messages)
    payloads = [payload or b"" for payload in messages.column("payload").to_pylist()]
    has_indexes = topic.format == "protobuf"
    end = 1 + _ID_BYTES + has_indexes
    heads = pa.array([payload[:end] for payload in payloads], pa.binary()).dictionary_encode()
    firsts = heads.dictionary.to_pylist()
    if all(len(first) == end and first[0] == _MAGIC and not (has_indexes and first[-1]) for first in firsts):
        distinct = [_by_first_bytes(first, has_indexes)[0] for first in firsts]
        bodies = pa.array([payload[end:] for payload in payloads], pa.binary())
        return _SaidOfPage(distinct, heads.indices.to_numpy(), bodies)
    each = [_by_first_bytes(payload, has_indexes) for payload in payloads]
    places = {said: place for place, said in enumerate(dict.fromkeys(said for said, _ in each))}
    codes = np.array([places[said] for said, _ in each], np.int64)
    return _SaidOfPage(list(places), codes, pa.array([body for _, body in each], pa.binary()))


def _by_attributes(messages: pa.RecordBatch) -> _SaidOfPage:
    columns = [
        pc.map_lookup(messages.column("attributes"), query_key=name, occurrence="first")
        for name in (_NAME, _REVISION, _ENCODING)
    ]
    joined = pc.binary_join_element_wise(*columns, "\n", null_handling="replace", null_replacement="")
    heads = joined.dictionary_encode()
    distinct: list[_Said | None] = []
    for head in heads.dictionary.to_pylist():
        name, revision, encoding = (*head.split("\n"), "", "")[:3]
        distinct.append(_Said(f"{name}@{revision}" if name and revision else None, encoding == "JSON"))
    return _SaidOfPage(distinct, heads.indices.to_numpy(), messages.column("payload"))


def _by_first_bytes(payload: bytes, has_indexes: bool) -> tuple[_Said | None, bytes]:
    end = 1 + _ID_BYTES
    if len(payload) < end or payload[0] != _MAGIC:
        return None, payload
    schema_id = str(int.from_bytes(payload[1:end], "big"))
    if not has_indexes:
        return _Said(schema_id), payload[end:]
    indexes, end = _indexes(payload, end)
    return (_Said(schema_id, indexes=indexes), payload[end:]) if indexes else (None, payload)


def _indexes(payload: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Zigzag numbers with their count before them, a single 0 for the first message; none where it is no such list."""
    count, at = _zigzag(payload, at)
    if count == 0:
        return (0,), at
    if count is None or not 0 < count <= _MOST_INDEXES:
        return (), at
    found: list[int] = []
    for _ in range(count):
        index, at = _zigzag(payload, at)
        if index is None or index < 0:
            return (), at
        found.append(index)
    return tuple(found), at


def _zigzag(payload: bytes, at: int) -> tuple[int | None, int]:
    """A number of up to five bytes; None where there is none."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(payload):
            break
        byte, at = payload[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value >> 1 ^ -(value & 1), at
    return None, at
