"""Avro data read a field at a time over all messages of a page: exact for the rows that it does not mark as odd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.avro_types import Node
from lakehouse.decode.avro_leaves import leaves
from lakehouse.decode.avro_messages import NANOS_PER_MICRO, UNITS_US

_PADDING = 16
"""Bytes after the data, so that a value that is cut off ends somewhere."""
_MOST_ITEMS = 256
"""In one array or map: each is a step of its own, and pages with longer ones are read by message."""
_YEAR_ONE_US, _YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000
_DAY_US = 86_400_000_000

Ints = np.ndarray


class OddPageError(Exception):
    """The page has what is not read in this way."""


class Columns:
    """The data of a page; `is_odd` says of which rows nothing is known but that another way has to read them."""

    def __init__(self, payloads: pa.BinaryArray) -> None:
        filled = pc.fill_null(payloads, b"")
        _, ends, content = filled.buffers()
        offsets = np.frombuffer(ends, np.int32)[filled.offset : filled.offset + len(filled) + 1].astype(np.int64)
        used = np.frombuffer(content, np.uint8)[: offsets[-1]] if content else np.zeros(0, np.uint8)
        self._data = np.concatenate([used, np.zeros(_PADDING, np.uint8)])
        self._last = len(used)
        self.starts, self._ends = offsets[:-1], offsets[1:]
        self.is_odd = np.zeros(len(payloads), bool)

    def record(self, node: Node, wanted: pa.StructType, starts: Ints) -> pa.StructArray:
        """The record that each row is from its start to its end. OddPageError where none can be read so."""
        rows = np.arange(len(starts))
        values, ends = self._record(node, wanted, rows, starts.copy())
        self.is_odd |= ends != self._ends
        return values

    def begins_with(self, beginning: bytes) -> np.ndarray:
        """Which rows do."""
        is_same = self._window(self.starts, len(beginning)) == np.frombuffer(beginning, np.uint8)
        begins: np.ndarray = is_same.all(axis=1) & (self._ends - self.starts >= len(beginning))
        return begins

    def _window(self, at: Ints, size: int) -> np.ndarray:
        window: np.ndarray = self._data[np.minimum(at[:, None] + np.arange(size), self._last)]
        return window

    def _mark(self, rows: Ints, are_odd: np.ndarray) -> None:
        if are_odd.any():
            self.is_odd[rows[are_odd]] = True

    def _longs(self, rows: Ints, at: Ints) -> tuple[Ints, Ints]:
        """Numbers in Avro's variable length, and where the next value begins."""
        byte = self._data[np.minimum(at, self._last)].astype(np.uint64)
        value, at = byte & np.uint64(127), at + 1
        more = np.flatnonzero(byte > 127)
        shift = 7
        while len(more):
            if shift > 63:
                self.is_odd[rows[more]] = True
                break
            byte = self._data[np.minimum(at[more], self._last)].astype(np.uint64)
            value[more] |= (byte & np.uint64(127)) << np.uint64(shift)
            at[more] += 1
            if shift == 63:
                self._mark(rows[more], byte > 1)
            more, shift = more[byte > 127], shift + 7
        return (value >> np.uint64(1)).astype(np.int64) ^ -(value & np.uint64(1)).astype(np.int64), at

    def _sized(self, rows: Ints, at: Ints) -> tuple[Ints, Ints]:
        """Lengths of what follows, none beyond its row, and where it begins."""
        sizes, at = self._longs(rows, at)
        are_odd = (sizes < 0) | (sizes > self._ends[rows] - at)
        self._mark(rows, are_odd)
        return np.where(are_odd, 0, sizes), at

    def _value(self, node: Node, wanted: pa.DataType | None, rows: Ints, at: Ints) -> tuple[Any, Ints]:
        """The values (None where none is wanted), and where the next ones begin."""
        if not node.branches:
            return self._plain(node, wanted, rows, at)
        branch, at = self._longs(rows, at)
        self._mark(rows, (branch < 0) | (branch >= node.branches))
        here = np.flatnonzero((branch != node.null_at) & ~self.is_odd[rows])
        if len(here) == len(rows):
            return self._plain(node, wanted, rows, at)
        values, at[here] = self._plain(node, wanted, rows[here], at[here])
        if wanted is None:
            return None, at
        places = np.zeros(len(rows), np.int64)
        places[here] = np.arange(len(here))
        is_null = np.ones(len(rows), bool)
        is_null[here] = False
        return values.take(pa.array(places, mask=is_null)), at

    def _plain(self, node: Node, wanted: pa.DataType | None, rows: Ints, at: Ints) -> tuple[Any, Ints]:
        if node.kind == "record":
            return self._record(node, wanted, rows, at)
        if node.item is not None:
            return self._items(node, wanted, rows, at)
        if node.kind in ("string", "bytes"):
            sizes, at = self._sized(rows, at)
            return None if wanted is None else self._texts(node, wanted, at, sizes), at + sizes
        if node.kind in ("fixed", "float", "double", "boolean"):
            return self._fixed(node, wanted, rows, at)
        if node.kind not in ("int", "long", "enum"):
            raise OddPageError
        numbers, at = self._longs(rows, at)
        return self._numbers(node, wanted, rows, numbers), at

    def _record(self, node: Node, wanted: pa.StructType | None, rows: Ints, at: Ints) -> tuple[Any, Ints]:
        types = {} if wanted is None else {member.name: member.type for member in wanted}
        columns = {}
        for name, member in node.members:
            columns[name], at = self._value(member, types.get(name), rows, at)
        if wanted is None:
            return None, at
        return pa.StructArray.from_arrays([columns[member.name] for member in wanted], fields=list(wanted)), at

    def _fixed(self, node: Node, wanted: pa.DataType | None, rows: Ints, at: Ints) -> tuple[Any, Ints]:
        size = {"float": 4, "double": 8, "boolean": 1}.get(node.kind, node.size)
        if node.kind == "boolean":
            self._mark(rows, self._window(at, 1)[:, 0] > 1)
        if wanted is None:
            return None, at + size
        if node.kind == "fixed":
            self._mark(rows, at + size > self._ends[rows])
            inside = np.minimum(at, max(self._last - size, 0))
            return self._texts(node, wanted, inside, np.full(len(rows), min(size, self._last))), at + size
        window = np.ascontiguousarray(self._window(at, size))
        if node.kind == "boolean":
            return pa.array(window[:, 0] == 1), at + size
        return pa.array(window.view("<f4" if size == 4 else "<f8")[:, 0]).cast(wanted), at + size

    def _numbers(self, node: Node, wanted: pa.DataType | None, rows: Ints, numbers: Ints) -> pa.Array | None:
        least, bound = _bounds(node)
        are_odd = (numbers < least) | (numbers >= bound) if bound is not None else np.zeros(len(numbers), bool)
        self._mark(rows, are_odd)
        if wanted is None:
            return None
        if are_odd.any():
            numbers = np.where(are_odd, 0, numbers)
        if node.kind == "enum":
            return pa.array(node.symbols).take(pa.array(numbers))
        if node.logical == "timestamp-nanos":
            return pa.array(numbers // NANOS_PER_MICRO).cast(wanted)
        if node.logical in UNITS_US:
            return pa.array(numbers * UNITS_US[node.logical]).cast(wanted)
        if node.kind == "int":
            return pa.array(numbers.astype(np.int32)).cast(wanted)
        return pa.array(numbers)

    def _texts(self, node: Node, wanted: pa.DataType, at: Ints, sizes: Ints) -> pa.Array:
        """What is at these places, as it is or as the logical type has it."""
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        places = np.repeat(at - offsets[:-1], sizes) + np.arange(offsets[-1])
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(self._data[places])]
        if node.logical in ("decimal", "uuid") and node.kind != "string":
            return leaves(pa.Array.from_buffers(pa.binary(), len(at), buffers).to_pylist(), node, wanted)
        texts = pa.Array.from_buffers(wanted, len(at), buffers)
        texts.validate(full=True)
        return texts

    def _items(self, node: Node, wanted: pa.DataType | None, rows: Ints, at: Ints) -> tuple[Any, Ints]:
        """Arrays and maps: the n-th item of all rows that have one, then the next."""
        assert node.item is not None
        is_map, inner = node.kind == "map", None
        if wanted is not None:
            inner = wanted.item_type if is_map else wanted.value_type
        owners: list[Ints] = []
        names: list[pa.Array] = []
        items: list[pa.Array] = []
        left = np.zeros(len(rows), np.int64)
        active = np.arange(len(rows))
        for step in range(_MOST_ITEMS + 2):
            ended = active[left[active] == 0]
            if len(ended):
                counts, at[ended] = self._longs(rows[ended], at[ended])
                sized = ended[counts < 0]
                if len(sized):
                    at[sized] = self._longs(rows[sized], at[sized])[1]
                left[ended] = np.abs(counts)
            active = active[(left[active] > 0) & ~self.is_odd[rows[active]]]
            if not len(active):
                break
            if step > _MOST_ITEMS:
                raise OddPageError
            left[active] -= 1
            if is_map:
                sizes, at[active] = self._sized(rows[active], at[active])
                names.append(self._texts(Node("string"), pa.string(), at[active], sizes))
                at[active] += sizes
            values, at[active] = self._value(node.item, inner, rows[active], at[active])
            owners.append(active)
            items.append(values)
        if wanted is None:
            return None, at
        return _nested(wanted, len(rows), owners, names, items), at


def _nested(wanted: pa.DataType, count: int, owners: list[Ints], names: list[Any], items: list[Any]) -> pa.Array:
    """Lists or maps of items that were read step by step; `owners` has whose they are."""
    rows = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    order = pa.array(np.argsort(rows, kind="stable"))
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int32))
    is_map = pa.types.is_map(wanted)
    inner = wanted.item_type if is_map else wanted.value_type
    values = pa.concat_arrays(items).take(order) if items else pa.array([], inner)
    if not is_map:
        return pa.ListArray.from_arrays(offsets, values, type=wanted)
    keys = pa.concat_arrays(names) if names else pa.array([], pa.string())
    codes = keys.dictionary_encode().indices.to_numpy().astype(np.int64)
    if len(np.unique(rows * (len(codes) + 1) + codes)) < len(codes):
        raise OddPageError  # of a name that a map has twice, the last counts
    return pa.MapArray.from_arrays(offsets, keys.take(order), values, type=wanted)


def _bounds(node: Node) -> tuple[int, int | None]:
    """The least number that the type holds, and the one after the last; (0, None) for those that hold all."""
    if node.kind == "enum":
        return 0, len(node.symbols)
    if node.logical in UNITS_US:
        unit = UNITS_US[node.logical]
        return _YEAR_ONE_US // unit, _YEAR_10000_US // unit
    if node.logical == "date":
        return _YEAR_ONE_US // _DAY_US, _YEAR_10000_US // _DAY_US
    return (-(2**31), 2**31) if node.kind == "int" else (0, None)
