"""A page of JSON payloads at once: by Arrow's reader where it is exact, else from parsed documents.

`page` gives what `json_messages.by_message` gives, value by value; a property test and the fuzzer hold that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from lakehouse.decode.columns import (
    Parsed,
    as_type_or_wrong,
    first_reason,
    has_decimal,
    has_floating,
    has_int64,
    has_map,
    is_sound,
    largest_scale,
    spelled_type,
)
from lakehouse.decode.documents import Place, Wrong, column
from lakehouse.decode.json_messages import (
    MAX_DEPTH,
    Names,
    by_message,
    is_too_deep,
    may_hold_large_number,
    names_of,
    reason_of_no_object,
)
from lakehouse.decode.one_by_one import WRONG_TYPE

_JSON_SPACE = " \t\r\n"
_SAFE_SCALE = 18
"""Decimals of a larger scale are not given to Arrow's reader of JSON: scaled up, they may wrap around 128 bits."""
_ESCAPED_NAME = r"\\u00(3[0-9]|[46][0-9a-fA-F]|5[0-9aAfF]|7[0-9aA])"
"""A letter, digit or underscore that is written as an escape: a field's name, or a number as text, may be hidden."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
_LONG_NUMBER = (
    r"([0-9]{12,}\.[0-9]|[0-9]{7,}\.[0-9]{4,}|[0-9]+\.[0-9]{9,}|[0-9]{19,}|[0-9]{16,}[eE]|[0-9.]+[eE][+-]?[0-9]{3,})"
)
"""What may have more than 15 digits, or be beyond a double: with fewer, a double's shortest text is the number."""
_FEW_NAMES = 6
"""So many are counted one after another, more of them all together with the declared ones."""
_BRACKET_BIT, _OPENING = 0x20, 0x7B
"""`[` and `{` differ in one bit; with it, both are `{`."""
_MINUS_ZERO = r"-0[\s,\]}]"
_FEW_SUSPECTS = 0.5
"""The share of a page's messages up to which the others are worth a way of their own."""


@dataclass(frozen=True)
class PageReader:
    """Chooses for each page by which way it is read; what is read is the same."""

    by_arrow: Callable[[pa.StringArray, pa.StructType, bool, bool], Parsed | None]
    by_documents: Callable[[pa.BinaryArray, pa.StructType, bool, np.ndarray], Parsed]

    def page(self, payloads: pa.BinaryArray, wanted: pa.StructType, int64_as_text: bool = False) -> Parsed:
        """All messages of a page at once; the few that are not of usual form one by one."""
        texts, habit = _without_white_space(payloads), _habit_of(wanted)
        is_suspect = _is_suspect(texts, wanted)
        is_tried = not has_map(wanted) and not habit.is_odd
        parsed = self._by_arrow_or_alone(payloads, texts, is_suspect, wanted, int64_as_text) if is_tried else None
        if parsed is None:
            parsed = self.by_documents(payloads, wanted, int64_as_text, is_suspect)
            is_odd = parsed.reasons.is_valid().to_numpy(zero_copy_only=False) & ~is_suspect
            habit.is_odd = bool(parsed.undeclared) or bool(is_odd.any())
        return parsed

    def _by_arrow_or_alone(
        self,
        payloads: pa.BinaryArray,
        texts: pa.StringArray,
        is_suspect: np.ndarray,
        wanted: pa.StructType,
        int64_as_text: bool,
    ) -> Parsed | None:
        """By Arrow's reader but for the suspects, if they are few; None where that refuses another message.

        Where most are suspect, it is as decimals that are written as text: these it does not read as numbers.
        """
        suspects = np.flatnonzero(is_suspect)
        if not len(suspects):
            return self.by_arrow(texts, wanted, int64_as_text, False)
        if len(suspects) > _FEW_SUSPECTS * len(texts):
            is_as_text = has_decimal(wanted) and _are_delimited(texts)
            return self.by_arrow(texts, wanted, int64_as_text, True) if is_as_text else None
        usual = self.by_arrow(texts.filter(pa.array(~is_suspect)), wanted, int64_as_text, False)
        if usual is None:
            return None
        alone = payloads.take(pa.array(suspects))
        others = self.by_documents(alone, wanted, int64_as_text, np.ones(len(alone), bool))
        order = np.where(is_suspect, np.cumsum(is_suspect) + len(usual.values), np.cumsum(~is_suspect)) - 1
        return _rows_of(usual, others, order)


@dataclass
class _Habit:
    """Whether the last page of a type had what Arrow's reader refuses: then the next one has, too, mostly.

    Decides only by which way a page is read first, not what is read.
    """

    is_odd: bool = False


@lru_cache(maxsize=1024)
def _habit_of(wanted: pa.StructType) -> _Habit:
    return _Habit()


def _rows_of(first: Parsed, second: Parsed, order: np.ndarray) -> Parsed:
    """The rows at these places of both, one after the other; what is undeclared in either is counted."""
    values = pa.concat_arrays([first.values, second.values]).take(pa.array(order))
    reasons = pa.concat_arrays([first.reasons, second.reasons]).take(pa.array(order))
    return Parsed(values, reasons, first.undeclared + second.undeclared)


# --- by Arrow's reader ---------------------------------------------------------------------------------------------


def by_arrow(texts: pa.StringArray, wanted: pa.StructType, int64_as_text: bool, decimal_as_text: bool) -> Parsed | None:
    """None unless all messages, which are delimited, are objects with declared fields and values of their types."""
    joined = _lines(texts)
    if joined is None:
        return None
    as_text = [True, False] if int64_as_text and has_int64(wanted) else [False]
    for spelled in (spelled_type(wanted, each, decimal_as_text) for each in as_text):
        values = _read_lines(joined, len(texts), spelled)
        parsed = None if values is None else _values_of_texts(values, wanted)
        if parsed is not None:
            return parsed
    return None


def _without_white_space(payloads: pa.BinaryArray) -> pa.StringArray:
    """Without JSON's white space around them; not checked to be UTF-8."""
    texts = payloads.cast(pa.string(), safe=False)
    return texts if _are_delimited(texts) else pc.ascii_trim(texts, characters=_JSON_SPACE)


def _are_delimited(texts: pa.StringArray) -> bool:
    return bool(pc.all(_is_delimited(texts), min_count=0).as_py())


def _is_delimited(texts: pa.StringArray) -> pa.BooleanArray:
    """Whether each begins and ends as a JSON object does; what does not is none."""
    return pc.fill_null(pc.and_(pc.starts_with(texts, "{"), pc.ends_with(texts, "}")), False)


def _is_suspect(texts: pa.StringArray, wanted: pa.StructType) -> np.ndarray:
    """Which messages Arrow's reader must not or can not read, as far as their form says."""
    is_usual = _is_delimited(texts)
    if has_decimal(wanted):
        is_usual = pc.and_not(is_usual, _is_unsafe(texts, wanted))
    is_suspect: np.ndarray = ~is_usual.to_numpy(zero_copy_only=False)
    return is_suspect


def _is_unsafe(texts: pa.StringArray, wanted: pa.StructType) -> pa.BooleanArray:
    """Where Arrow's reader may meet a decimal that it cannot read, or of more digits than it takes.

    It looks up powers of ten by the exponent without a check (`1e-999999999` ends the process, `1e-41` is 0), and a
    number that it scales up may wrap around 128 bits. Neither can happen without exponent and with so few digits: a
    double holds them all, too.
    """
    names, others = _decimal_names(wanted)
    if others or largest_scale(wanted) > _SAFE_SCALE or not all(map(_PLAIN_NAME.fullmatch, names)):
        return pa.array(np.ones(len(texts), bool))
    scale = largest_scale(wanted)
    unsafe = rf'"({"|".join(sorted(names))})"\s*:\s*"?[+-]?([0-9.]{{16}}|[0-9.]*[\\eE]|[0-9]*\.[0-9]{{{scale + 1}}})'
    is_unsafe = pc.or_(pc.match_substring_regex(texts, unsafe), _has_escaped_name(texts))
    return pc.fill_null(is_unsafe, False)


@lru_cache(maxsize=1024)
def _decimal_names(wanted: pa.DataType) -> tuple[frozenset[str], bool]:
    """The names in objects of all decimals; and whether there are decimals in lists or maps, without a name."""
    if pa.types.is_struct(wanted):
        inner = [_decimal_names(member.type) for member in wanted]
        own = {member.name for member in wanted if pa.types.is_decimal(member.type)}
        return frozenset(own).union(*(names for names, _ in inner)), any(others for _, others in inner)
    if not pa.types.is_list(wanted) and not pa.types.is_map(wanted):
        return frozenset(), False
    item = wanted.value_type if pa.types.is_list(wanted) else wanted.item_type
    names, others = _decimal_names(item)
    return names, others or pa.types.is_decimal(item)


def _values_of_texts(read: pa.StructArray, wanted: pa.StructType) -> Parsed | None:
    """Texts as the values that they spell; a message with another text is rejected. None where Arrow is not exact."""
    try:
        if not is_sound(read):
            return None
        values, wrong = as_type_or_wrong(read, wanted)
        if not is_sound(values):
            return None
    except pa.ArrowException:
        return None
    if not wrong:
        return Parsed(values, pa.nulls(len(values), pa.string()))
    reasons = first_reason([(is_wrong, pa.scalar(f"{WRONG_TYPE}: {path}")) for path, is_wrong in wrong])
    return Parsed(values, reasons)


def _lines(payloads: pa.StringArray) -> pa.Buffer | None:
    """The payloads, one after another, if as many objects as payloads in them means one object in each.

    Each payload begins with { and ends with }. Where two meet, no object can go on: between a } and a { is a comma
    or it is another object, and no text of JSON holds a line break. So each payload is some whole objects, or an error.
    """
    try:
        payloads.validate(full=True)
        whole = pa.ListArray.from_arrays(pa.array([0, len(payloads)], pa.int32()), payloads)
        return pc.binary_join(whole, "\n")[0].as_buffer()
    except pa.ArrowException:
        return None


def _read_lines(joined: pa.Buffer, rows: int, spelled: pa.StructType) -> pa.StructArray | None:
    """None when a message is no object of these types, or has a field that nobody declared."""
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(joined),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=joined.size + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(list(spelled)), unexpected_field_behavior="error"
            ),
        )
        values = pa.concat_arrays(table.to_struct_array().chunks)
    except pa.ArrowException:
        return None
    return values if len(values) == rows else None


# --- from parsed documents -----------------------------------------------------------------------------------------


def by_documents(
    payloads: pa.BinaryArray, wanted: pa.StructType, int64_as_text: bool, is_suspect: np.ndarray
) -> Parsed:
    """From Python's objects, a column at a time; a message that these do not hold exactly is read on its own.

    Arrow could infer undeclared fields too, but makes a column of each name, which fills the memory when names are ids,
    and goes down into nested values until the stack ends.
    """
    texts = payloads.to_pylist()
    inexact, wrong = _inexact(payloads, texts, wanted, is_suspect), Wrong()
    documents = _documents(texts, inexact)
    values = column(documents, wanted, wrong, int64_as_text, Place())
    large = {row for row, document in enumerate(documents) if document is None and _may_be_large(texts[row])}
    unclear = sorted(inexact | wrong.unclear | large)
    for row in unclear:
        documents[row] = None
    reasons = [
        reason_of_no_object(text) if document is None else None for text, document in zip(texts, documents, strict=True)
    ]
    for row, path in wrong.paths.items():
        reasons[row] = f"{WRONG_TYPE}: {path}"
    read = pa.array(reasons, pa.string())
    parsed = Parsed(values, read, _undeclared_counts(list(filter(None, documents)), names_of(wanted)))
    if not unclear:
        return parsed
    order = np.arange(len(payloads))
    order[unclear] = len(payloads) + np.arange(len(unclear))
    return _rows_of(parsed, by_message(payloads.take(pa.array(unclear)), wanted, int64_as_text), order)


def _may_be_large(text: bytes | None) -> bool:
    """Whether a number beyond a double may be all that makes it no document."""
    return text is not None and may_hold_large_number(text)


def _documents(texts: list[bytes | None], left_out: set[int]) -> list[dict[str, Any] | None]:
    """The object in each, None where there is none."""
    try:
        if not left_out:
            read = [orjson.loads(text) for text in texts]  # type: ignore[arg-type]
            return read if set(map(type, read)) <= {dict} else [each if type(each) is dict else None for each in read]
    except orjson.JSONDecodeError:
        pass
    return [None if row in left_out else _document(text) for row, text in enumerate(texts)]


def _document(text: bytes | None) -> dict[str, Any] | None:
    try:
        read = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        return None
    return read if type(read) is dict else None


def _inexact(
    payloads: pa.BinaryArray, texts: list[bytes | None], wanted: pa.StructType, is_suspect: np.ndarray
) -> set[int]:
    """The rows whose objects may differ from what is written: a double for a decimal, 0 for -0, too many levels."""
    rows = {row for row in _rows_that_nest(payloads) if is_too_deep(texts[row] or b"")}
    if has_floating(wanted):
        has_minus_zero = pc.fill_null(pc.match_substring_regex(payloads, _MINUS_ZERO), False)
        rows.update(np.flatnonzero(has_minus_zero).tolist())
    suspects = np.flatnonzero(is_suspect)
    if has_decimal(wanted) and len(suspects):
        alone = payloads if len(suspects) == len(payloads) else payloads.take(pa.array(suspects))
        is_inexact = pc.or_(pc.match_substring_regex(alone, _inexact_decimal(wanted)), _has_escaped_name(alone))
        rows.update(suspects[np.flatnonzero(pc.fill_null(is_inexact, False))].tolist())
    return rows


def _rows_that_nest(payloads: pa.BinaryArray) -> list[int]:
    """The rows with so many opening brackets that they may nest too deep."""
    _, ends, data = payloads.buffers()
    if data is None:
        return []
    offsets = np.frombuffer(ends, np.int32)[payloads.offset : payloads.offset + len(payloads) + 1]
    characters = np.frombuffer(data, np.uint8, offsets[-1])
    openings = np.flatnonzero((characters | _BRACKET_BIT) == _OPENING)
    return np.flatnonzero(np.diff(np.searchsorted(openings, offsets)) > MAX_DEPTH).tolist()


def _has_escaped_name(texts: pa.Array) -> pa.BooleanArray:
    """Where a letter, digit or underscore is written as an escape, so that the pattern of a name may not find it."""
    data = texts.buffers()[2]
    if data is None or b"\\" not in data.to_pybytes():
        return pa.array(np.zeros(len(texts), bool))
    return pc.match_substring_regex(texts, _ESCAPED_NAME)


@lru_cache(maxsize=64)
def _inexact_decimal(wanted: pa.StructType) -> str:
    """A pattern of the documents in which a declared decimal may be a number that a double does not hold."""
    names, others = _decimal_names(wanted)
    if others or not all(map(_PLAIN_NAME.fullmatch, names)):
        return rf"[:,\[\s]-?{_LONG_NUMBER}"
    return rf'"({"|".join(sorted(names))})"\s*:\s*-?{_LONG_NUMBER}'


def _undeclared_counts(documents: list[dict[str, Any]], declared: Names, prefix: str = "") -> Counter[str]:
    """The undeclared fields by name, in how many documents each has a value."""
    names: set[str] = set().union(*documents) - declared.names
    if len(names) <= _FEW_NAMES:
        counts = Counter({name: sum(each.get(name) is not None for each in documents) for name in names})
    else:
        counts = Counter(chain.from_iterable(documents))
        with_nulls = [document for document in documents if None in document.values()]
        counts.subtract(name for document in with_nulls for name, value in document.items() if value is None)
    undeclared = Counter({prefix + name: counts[name] for name in names if counts[name]})
    for name, members in declared.objects.items():
        objects = [member for document in documents if type(member := document.get(name)) is dict]
        undeclared.update(_undeclared_counts(objects, members, f"{prefix}{name}."))
    return undeclared


page = PageReader(by_arrow, by_documents).page
