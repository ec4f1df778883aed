"""A page of JSON payloads at once, by Arrow's reader where it is exact, else message by message.

`page` accepts only what `by_message` accepts, with the same values; a property test and the fuzzer hold that.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from lakehouse.decode.columns import (
    Parsed,
    first_reason,
    has_decimal,
    has_int64,
    has_map,
    is_sound,
    largest_scale,
    rows_or_null,
    spelled_type,
    typed_or_wrong,
)
from lakehouse.decode.documents import NotOfType, column
from lakehouse.decode.json_messages import (
    MAX_DEPTH,
    Names,
    by_message,
    is_too_deep,
    names_of,
    reason_of_no_object,
    undeclared_names,
)

_PART_SIZE = 300
"""A page that cannot be read at once is read in parts of so many messages."""
_FEW_NAMES = 16
_JSON_SPACE = " \t\r\n"

_SAFE_SCALE = 18
"""Decimals of a larger scale are read message by message."""
_ESCAPED_DIGIT = r"\\u00(2[BbDdEe]|3[0-9]|[46]5)"
_LARGE_EXPONENT = r"[0-9.]+[eE]([+]?0*[1-9]|-0*(19|[2-9][0-9]|[1-9][0-9][0-9]))[0-9]*"
_MINUS_ZERO = r"-0[\s,\]}]"


@lru_cache(maxsize=64)
def _unsafe_decimal(scale: int) -> str:
    """A pattern of numbers that Arrow's reader must not meet where decimals are declared, `scale` being the largest.

    It looks up powers of ten by the exponent without a check (`1e-999999999` ends the process, `1e-41` is 0), and a
    number that it scales up may wrap around 128 bits. Neither can happen with an exponent from -18 to 0 and so few
    digits that they have room in 38, the exponent and the scale included. Digits written as escapes go with these.
    """
    long = rf"[0-9]{{{39 - scale},}}[0-9.]*|[0-9]*\.[0-9]{{39,}}|[0-9.]{{21,}}[eE][+-]?[0-9]*|{_LARGE_EXPONENT}"
    return rf'[:,\[\s"][+-]?({long})[0-9eE.+-]*[\s,\]}}"]|{_ESCAPED_DIGIT}'


def page(payloads: pa.BinaryArray, wanted: pa.StructType, int64_as_text: bool = False) -> Parsed:
    """All messages of a page: those of usual form together, the others one by one."""
    texts = _trimmed(payloads)
    is_object = _is_delimited(texts)
    is_usual = _is_safe(texts, is_object, wanted)
    if pc.all(is_usual, min_count=0).as_py():
        return _usual(texts, wanted, int64_as_text)
    is_odd = pc.and_not(is_object, is_usual)
    parts = [
        _usual(texts.filter(is_usual), wanted, int64_as_text),
        by_message(payloads.filter(is_odd), wanted, int64_as_text),
        _no_objects(payloads.filter(pc.invert(is_object)), wanted),
    ]
    order = np.where(is_usual, 0, np.where(is_odd, 1, 2)).argsort(kind="stable").argsort()
    joined = _joined(parts)
    return Parsed(joined.values.take(pa.array(order)), joined.reasons.take(pa.array(order)), joined.undeclared)


def _trimmed(payloads: pa.BinaryArray) -> pa.StringArray:
    """Without JSON's white space around them; not checked to be UTF-8."""
    texts = payloads.cast(pa.string(), safe=False)
    return texts if pc.all(_is_delimited(texts)).as_py() else pc.ascii_trim(texts, characters=_JSON_SPACE)


def _is_delimited(texts: pa.StringArray) -> pa.BooleanArray:
    """Whether each begins and ends as a JSON object does; what does not is none."""
    return pc.fill_null(pc.and_(pc.starts_with(texts, "{"), pc.ends_with(texts, "}")), False)


def _is_safe(texts: pa.StringArray, is_object: pa.BooleanArray, wanted: pa.StructType) -> pa.BooleanArray:
    if not has_decimal(wanted):
        return is_object
    if largest_scale(wanted) > _SAFE_SCALE:
        return pa.array(np.zeros(len(texts), bool))
    is_unsafe = pc.fill_null(pc.match_substring_regex(texts, _unsafe_decimal(largest_scale(wanted))), False)
    return pc.and_not(is_object, is_unsafe)


def _no_objects(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    reasons = [reason_of_no_object(payload) for payload in payloads.to_pylist()]
    return Parsed(pa.nulls(len(reasons), wanted), pa.array(reasons, pa.string()))


def _usual(payloads: pa.StringArray, wanted: pa.StructType, int64_as_text: bool) -> Parsed:
    if not len(payloads):
        return Parsed(pa.nulls(0, wanted), pa.nulls(0, pa.string()))
    parts = (payloads[start : start + _PART_SIZE] for start in range(0, len(payloads), _PART_SIZE))
    whole = _at_once(payloads, wanted, int64_as_text)
    return whole or _joined([_part(part, wanted, int64_as_text) for part in parts])


def _part(payloads: pa.StringArray, wanted: pa.StructType, int64_as_text: bool) -> Parsed:
    in_bytes = payloads.cast(pa.binary())
    return _at_once(payloads, wanted, int64_as_text) or by_message(in_bytes, wanted, int64_as_text)


def _joined(parts: list[Parsed]) -> Parsed:
    undeclared: Counter[str] = Counter()
    for part in parts:
        undeclared.update(part.undeclared)
    values = pa.concat_arrays([part.values for part in parts])
    return Parsed(values, pa.concat_arrays([part.reasons for part in parts]), undeclared)


# --- a page at once ------------------------------------------------------------------------------------------------


def _at_once(payloads: pa.StringArray, wanted: pa.StructType, int64_as_text: bool) -> Parsed | None:
    """None unless all messages are objects with values of the right JSON types, which is the usual page."""
    joined = _lines(payloads)
    if joined is None:
        return None
    as_text = [True, False] if int64_as_text and has_int64(wanted) else [False]
    for spelled in (spelled_type(wanted, each) for each in as_text):
        parsed = None if has_map(wanted) else _as_declared(joined, len(payloads), wanted, spelled)
        parsed = parsed or _from_documents(payloads, joined, wanted, spelled)
        if parsed is not None:
            return parsed
    return None


def _as_declared(joined: pa.Buffer, rows: int, wanted: pa.StructType, spelled: pa.StructType) -> Parsed | None:
    """By Arrow's reader. None unless all messages have declared fields only."""
    values = _read_lines(joined, rows, spelled, "error")
    return None if values is None else _judged(values, wanted, Counter())


def _from_documents(
    payloads: pa.StringArray, joined: pa.Buffer, wanted: pa.StructType, spelled: pa.StructType
) -> Parsed | None:
    """From Python's objects, with maps and undeclared fields; only decimals, which need the digits, by Arrow's reader.

    Arrow could infer undeclared fields too, but makes a column of each name, which fills the memory when names are ids,
    and goes down into nested values until the stack ends.
    """
    exact = [member for member in spelled if has_decimal(member.type)]
    documents = None if any(has_map(member.type) for member in exact) else _documents(payloads)
    if documents is None:
        return None
    columns: dict[str, pa.Array] = {}
    if exact:
        values = _read_lines(joined, len(payloads), pa.struct(exact), "ignore")
        if values is None:
            return None
        columns = {member.name: values.field(member.name) for member in exact}
    try:
        for member in spelled:
            if member.name not in columns:
                columns[member.name] = column([document.get(member.name) for document in documents], member.type)
    except NotOfType:
        return None
    read = pa.StructArray.from_arrays([columns[member.name] for member in spelled], fields=list(spelled))
    return _judged(read, wanted, _counted(documents, names_of(wanted)))


def _judged(read: pa.StructArray, wanted: pa.StructType, undeclared: Counter[str]) -> Parsed | None:
    """Texts as what they stand for; a message with another text is rejected. None where Arrow is not exact."""
    try:
        if not is_sound(read):
            return None
        values, wrong = typed_or_wrong(read, wanted)
        if not is_sound(values):
            return None
    except pa.ArrowException:
        return None
    if not wrong:
        return Parsed(values, pa.nulls(len(values), pa.string()), undeclared)
    reasons = first_reason([(is_wrong, pa.scalar(f"wrong type: {path}")) for path, is_wrong in wrong])
    return Parsed(rows_or_null(values, pc.is_null(reasons)), reasons, undeclared)


def _documents(payloads: pa.StringArray) -> list[dict[str, Any]] | None:
    """None if one may hold what is no JSON to us, or no exact number: Arrow skips what nobody declared."""
    brackets = pc.add(pc.count_substring(payloads, "["), pc.count_substring(payloads, "{"))
    is_shallow = pc.max(brackets).as_py() <= MAX_DEPTH
    if pc.any(pc.match_substring_regex(payloads, _MINUS_ZERO)).as_py():
        return None
    texts = payloads.cast(pa.binary()).to_pylist()
    if not is_shallow and any(map(is_too_deep, texts)):
        return None
    try:
        read = [orjson.loads(text) for text in texts]
    except orjson.JSONDecodeError:
        return None
    return read if set(map(type, read)) <= {dict} else None


def _counted(documents: list[dict[str, Any]], declared: Names, prefix: str = "") -> Counter[str]:
    """The undeclared fields by name: a few names are counted one after another, many message by message."""
    names: set[str] = set().union(*documents) - declared.names
    if len(names) > _FEW_NAMES:
        found: Counter[str] = Counter()
        for document in documents:
            found.update(undeclared_names(document, declared, prefix))
        return found
    counts = {prefix + name: sum(each.get(name) is not None for each in documents) for name in names}
    undeclared = Counter({name: count for name, count in counts.items() if count})
    for name, members in declared.objects.items():
        objects = [each[name] for each in documents if type(each.get(name)) is dict]
        undeclared.update(_counted(objects, members, f"{prefix}{name}."))
    return undeclared


def _lines(payloads: pa.StringArray) -> pa.Buffer | None:
    """The payloads, one after another, if as many objects as payloads in them means one object in each.

    Each payload begins with { and ends with }. Where two meet, no object can go on: between a } and a { stands a comma
    or it is another object, and no text of JSON holds a line break. So each payload is some whole objects, or an error.
    """
    try:
        payloads.validate(full=True)
        whole = pa.ListArray.from_arrays(pa.array([0, len(payloads)], pa.int32()), payloads)
        return pc.binary_join(whole, "\n")[0].as_buffer()
    except pa.ArrowException:
        return None


def _read_lines(joined: pa.Buffer, rows: int, spelled: pa.StructType, undeclared_fields: str) -> pa.StructArray | None:
    """None when a message is no object of these types, or has a field that nobody declared and that is "error"."""
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(joined),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=joined.size + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(list(spelled)), unexpected_field_behavior=undeclared_fields
            ),
        )
        values = pa.concat_arrays(table.to_struct_array().chunks)
    except pa.ArrowException:
        return None
    return values if len(values) == rows else None
