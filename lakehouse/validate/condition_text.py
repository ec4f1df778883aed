"""A `row_condition` as text, such as `col("country") == "SE" and col("n") > 1`: parsed whole, or refused.

Great Expectations' own parser stops at what it does not know, and leaves the rest out in silence: of
`col("n") == 1 or col("n") == 5` only the beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lakehouse.validate.literals import NotExpressibleInSql

Condition = Mapping[str, Any]
"""As JSON has it: `type` is `comparison`, `nullity`, `and` or `or`."""

_FORM = (
    'col("name") with ==, !=, <, <=, >, >= and a text in quotes, a number, true or false; with `in [...]`; with '
    ".isNull() or .notNull(); and several of these joined by `and` and `or`"
)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>"[^"\\\n]*"|'[^'\\\n]*')
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<sign>==|!=|<=|>=|<|>|&&|&|\|\||\||[()\[\],.])
    | (?P<word>[A-Za-z_]\w*)
    )""",
    re.VERBOSE,
)
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_ANDS, _ORS = ("and", "&", "&&"), ("or", "|", "||")
_IS_NULL = {"isnull": True, "is_null": True, "isna": True,
            "notnull": False, "not_null": False, "isnotnull": False, "is_not_null": False, "notna": False}  # fmt: skip


def parsed(text: str) -> Condition:
    """The condition that the text says; NotExpressibleInSql with what is not understood, and where."""
    reader = _Reader(text, list(_tokens(text)))
    ways = reader.either()
    if reader.token is not None:
        raise reader.refusal()
    joined = [_joined("and", members) for members in ways]
    return _joined("or", joined)


def _joined(kind: str, members: list[Condition]) -> Condition:
    return members[0] if len(members) == 1 else {"type": kind, "conditions": members}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> Iterator[_Token]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise _refused(text, at)
        yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
        at = found.end()


def _refused(text: str, at: int) -> NotExpressibleInSql:
    rest = text[at:].strip()
    found = f"{rest[:40]!r} is not understood" if rest else "it ends too soon"
    return NotExpressibleInSql(f"the row_condition {text!r}: {found} (expected {_FORM})")


@dataclass
class _Reader:
    """Reads from the first token on. What is joined is a list of ways to hold, each a list of comparisons."""

    text: str
    tokens: list[_Token]
    place: int = 0

    @property
    def token(self) -> _Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def refusal(self) -> NotExpressibleInSql:
        return _refused(self.text, self.token.at if self.token else len(self.text))

    def either(self) -> list[list[Condition]]:
        ways = self._both()
        while self._takes(*_ORS):
            ways = ways + self._both()
        return ways

    def _both(self) -> list[list[Condition]]:
        ways = self._one()
        while self._takes(*_ANDS):
            others = self._one()
            ways = [one + other for one in ways for other in others]
        return ways

    def _one(self) -> list[list[Condition]]:
        if self._takes("("):
            ways = self.either()
            self._need(")")
            return ways
        return [[self._comparison()]]

    def _comparison(self) -> Condition:
        self._need("col")
        self._need("(")
        column = {"name": self._text()}
        self._need(")")
        if self._takes("."):
            return {"type": "nullity", "column": column, "is_null": self._nullity()}
        for operator in _COMPARISONS:
            if self._takes(operator):
                return {
                    "type": "comparison",
                    "column": column,
                    "operator": operator,
                    "parameter": self._value(),
                }
        operator = "NOT_IN" if self._takes("not") else "IN"
        self._need("in")
        return {"type": "comparison", "column": column, "operator": operator, "parameter": self._list()}

    def _nullity(self) -> bool:
        word = self.token.text.lower() if self.token else ""
        if word not in _IS_NULL:
            raise self.refusal()
        self.place += 1
        self._need("(")
        self._need(")")
        return _IS_NULL[word]

    def _list(self) -> list[Any]:
        ends = ")" if self._takes("(") else "]"
        if ends == "]":
            self._need("[")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        self._need(ends)
        return values

    def _value(self) -> Any:
        token = self.token
        if token is not None and token.kind == "number":
            self.place += 1
            return number_of(token.text)
        for word, value in (("true", True), ("True", True), ("false", False), ("False", False)):
            if self._takes(word):
                return value
        if self._takes("date", "datetime"):
            self._need("(")
            text = self._text()
            self._need(")")
            return text
        return self._text()

    def _text(self) -> str:
        token = self.token
        if token is None or token.kind != "text":
            raise self.refusal()
        self.place += 1
        return token.text[1:-1]

    def _need(self, text: str) -> None:
        if not self._takes(text):
            raise self.refusal()

    def _takes(self, *texts: str) -> bool:
        """Whether the next token is one of these, which it then has read; words may be in capitals."""
        token = self.token
        if token is None or token.kind in ("text", "number"):
            return False
        is_one = token.text in texts or (
            token.text.lower() in texts and token.text.lower() in ("and", "or", "in", "not")
        )
        self.place += is_one
        return is_one


def number_of(text: str) -> int | float | Decimal:
    """The number as it is spelled: as a Decimal where no float has these digits."""
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    nearest = float(text)
    return nearest if Decimal(repr(nearest)) == Decimal(text) else Decimal(text)
