"""A page of JSON payloads at once, by Arrow's reader where the page is clean, else message by message.

`page` accepts only what `by_message` accepts, with the same values; a property test holds that.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from lakehouse.decode.columns import Parsed, has_map, is_sound, spelled_type, typed
from lakehouse.decode.json_messages import (
    Names,
    by_message,
    may_be_deep,
    names_of,
    quick_document,
    undeclared_names,
)

_PART_SIZE = 300
"""A page that cannot be read at once is read in parts of so many messages."""


def page(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    """All messages of a page in one pass of Arrow's reader, which has no maps; in parts, if one of them is odd."""
    if not len(payloads) or has_map(wanted):
        return by_message(payloads, wanted)
    parts = (payloads[start : start + _PART_SIZE] for start in range(0, len(payloads), _PART_SIZE))
    return _at_once(payloads, wanted) or _joined([_part(part, wanted) for part in parts])


def _part(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    return _at_once(payloads, wanted) or by_message(payloads, wanted)


def _joined(parts: list[Parsed]) -> Parsed:
    undeclared: Counter[str] = Counter()
    for part in parts:
        undeclared.update(part.undeclared)
    values = pa.concat_arrays([part.values for part in parts])
    return Parsed(values, pa.concat_arrays([part.reasons for part in parts]), undeclared)


def _at_once(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed | None:
    """None unless all messages are events, which is the usual page."""
    return _as_declared(payloads, wanted) or _with_more(payloads, wanted)


def _as_declared(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed | None:
    """None unless all messages are events that have declared fields only."""
    values = _values(payloads, wanted, "error")
    return None if values is None else Parsed(values, pa.nulls(len(values), pa.string()))


def _with_more(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed | None:
    """None unless all messages are events; Arrow reads the declared fields, the others are only counted.

    Arrow could infer them too, but makes a column of each name, which fills the memory when names are ids, and goes
    down into nested values until the stack ends.
    """
    values = _values(payloads, wanted, "ignore")
    if values is None:
        return None
    undeclared = _counted(payloads, names_of(wanted))
    return None if undeclared is None else Parsed(values, pa.nulls(len(values), pa.string()), undeclared)


def _counted(payloads: pa.BinaryArray, declared: Names) -> Counter[str] | None:
    """The undeclared fields by name; None if one may hold what is no JSON to us, since Arrow passes over it."""
    names: list[str] = []
    for payload in payloads.to_pylist():
        document = None if may_be_deep(payload) else quick_document(payload)
        if document is None:
            return None
        names += undeclared_names(document, declared)
    return Counter(names)


def _values(payloads: pa.BinaryArray, wanted: pa.StructType, undeclared_fields: str) -> pa.StructArray | None:
    """None when a message is no event, or has a field that nobody declared and `undeclared_fields` is "error"."""
    joined = _lines(payloads)
    if joined is None:
        return None
    try:
        values = typed(_read_lines(joined, spelled_type(wanted), undeclared_fields), wanted)
        is_one_each = len(values) == len(payloads)
        return values if is_one_each and is_sound(values) else None
    except pa.ArrowException:
        return None


def _lines(payloads: pa.BinaryArray) -> pa.Buffer | None:
    """The payloads, one after another, if as many objects as payloads in them means one object in each.

    Each payload begins with { and ends with }. Where two meet, no object can go on: between a } and a { stands a comma
    or it is another object, and no text of JSON holds a line break. So each payload is some whole objects, or an error.
    """
    delimited = pc.and_(pc.starts_with(payloads, b"{"), pc.ends_with(payloads, b"}"))
    if not pc.all(delimited, skip_nulls=False).as_py():
        return None
    try:
        payloads.cast(pa.string())
        whole = pa.ListArray.from_arrays(pa.array([0, len(payloads)], pa.int32()), payloads)
        return pc.binary_join(whole, b"\n")[0].as_buffer()
    except pa.ArrowException:
        return None


def _read_lines(joined: pa.Buffer, spelled_type: pa.StructType, undeclared_fields: str) -> pa.StructArray:
    table = pyarrow.json.read_json(
        pa.BufferReader(joined),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=joined.size + 1),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pa.schema(list(spelled_type)), unexpected_field_behavior=undeclared_fields
        ),
    )
    return pa.concat_arrays(table.to_struct_array().chunks)
