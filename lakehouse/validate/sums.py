"""Exact sums of a column's numbers and of their squares: the same in whatever order, and in whatever files, they come.

A sum in doubles depends on who adds first, and on bigints and decimals it loses digits that a bound may name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pyarrow as pa

_PART_BITS = 21
_MASK = (1 << _PART_BITS) - 1
_ROWS = 1 << 16
"""At a time: so many products of two parts stay within 64 bits."""
_MANTISSA_BITS = 53

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass
class Sums:
    """Of all values that are there. `special` is NaN or infinite where one of the values is."""

    count: int = 0
    special: float = 0.0
    _totals: dict[int, int] = field(default_factory=dict)
    _squares: dict[int, int] = field(default_factory=dict)
    """By the power of two that they are multiples of."""
    _scale: int = 0

    def add(self, values: pa.Array) -> None:
        """Integers, floats or decimals; null is no value."""
        for first in range(0, len(values), _ROWS):
            self._add(values.slice(first, _ROWS).drop_null())

    @property
    def total(self) -> Fraction:
        return _together(self._totals) / Fraction(10) ** self._scale

    @property
    def mean(self) -> Fraction | None:
        return self.total / self.count if self.count else None

    @property
    def variance(self) -> Fraction | None:
        """Of a sample, so of two values at least."""
        if self.count < 2:
            return None
        squares = _together(self._squares) / Fraction(10) ** (2 * self._scale)
        return (squares - self.total * self.total / self.count) / (self.count - 1)

    def _add(self, values: pa.Array) -> None:
        self.count += len(values)
        if pa.types.is_decimal(values.type):
            self._scale = values.type.scale
            self._add_parts(list(_parts_of_decimals(values)))
        elif pa.types.is_integer(values.type):
            self._add_parts(_parts(values.cast(pa.int64()).to_numpy(), 0))
        else:
            self._add_floats(values.cast(pa.float64()).to_numpy())

    def _add_floats(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        is_finite = np.isfinite(values)
        if not is_finite.all():
            self.special += float(values[~is_finite].sum())
            values = values[is_finite]
        mantissas, exponents = np.frexp(values)
        whole = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64)
        for exponent in np.unique(exponents):
            of_exponent = whole[exponents == exponent]
            self._add_parts(_parts(of_exponent, 0), int(exponent) - _MANTISSA_BITS)

    def _add_parts(self, parts: list[tuple[Ints, int]], power: int = 0) -> None:
        for place, (one, shift) in enumerate(parts):
            _put(self._totals, shift + power, int(one.sum()))
            for other, other_shift in parts[place:]:
                twice = 1 if other is one else 2
                _put(self._squares, shift + other_shift + 2 * power, twice * int((one * other).sum()))


def _put(totals: dict[int, int], power: int, value: int) -> None:
    totals[power] = totals.get(power, 0) + value


def _together(totals: dict[int, int]) -> Fraction:
    least = min(totals, default=0)
    whole = sum(value << (power - least) for power, value in totals.items())
    return Fraction(whole) * Fraction(2) ** least


def _parts(values: Ints, shift: int) -> list[tuple[Ints, int]]:
    """Numbers of few bits, of which the values are sums: the last has the sign."""
    return [
        (values & _MASK, shift),
        (values >> _PART_BITS & _MASK, shift + _PART_BITS),
        (values >> 2 * _PART_BITS, shift + 2 * _PART_BITS),
    ]


def _parts_of_decimals(values: pa.Array) -> Iterator[tuple[Ints, int]]:
    wide = values.cast(pa.decimal128(38, values.type.scale))
    data = wide.buffers()[1]
    if data is None or not len(wide):
        return
    words = np.frombuffer(data, np.int64, 2 * len(wide), 16 * wide.offset)
    low, high = words[0::2], words[1::2]
    yield low & _MASK, 0
    yield low >> _PART_BITS & _MASK, _PART_BITS
    yield low >> 2 * _PART_BITS & _MASK, 2 * _PART_BITS
    yield low >> 3 * _PART_BITS & 1, 3 * _PART_BITS  # the 64th bit of what has no sign
    yield from _parts(high, 64)


def square_root(value: Fraction) -> Fraction:
    """To 36 digits."""
    shift = 120 - (value.numerator.bit_length() - value.denominator.bit_length()) // 2
    return Fraction(math.isqrt(int(value * Fraction(4) ** shift))) / Fraction(2) ** shift
