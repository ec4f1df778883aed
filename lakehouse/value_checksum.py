"""The value checksum: a sum over the rows' columns that is the same in every engine that keeps rows of an hour.

Each row is spelled as one text, of its columns and of the members of its structs at any depth, and counts as an id does
in the id checksum. All types but two are spelled exactly. Of a float or double count its sign, and the bits from 2^-62
to 2^61; what is 2^62 and more, infinities and NaN are spelled by their sign alone. Arrays and maps are left out, with
all that is in them: Hive has no expression over their elements. A struct that is null is one whose members all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakehouse.checksum import Engine, one_core, sql_for

_LARGE = "4.611686018427387904e18"
"""2^62: with it a double's fraction becomes a whole number without a rounding, which every engine's longs hold."""

ROWS = "rows_of_hour"
"""What a query calls the rows: by the name of their table a column of that name would not be found."""


@dataclass(frozen=True)
class Leaf:
    """A column, or a member of a struct, that has a value and no members; `path` leads to it."""

    path: tuple[str, ...]
    type: pa.DataType

    def __str__(self) -> str:
        return ".".join(self.path)


def leaves_of(schema: Iterable[pa.Field], above: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """What the checksum is of: everything but arrays and maps."""
    for field in schema:
        path = (*above, field.name)
        if pa.types.is_struct(field.type):
            yield from leaves_of(field.type, path)
        elif not pa.types.is_nested(field.type):
            yield Leaf(path, field.type)


def value_sql(engine: Engine, leaves: Sequence[Leaf]) -> str:
    """The checksum as an aggregate over rows with these leaves: an exact number, 0 without rows."""
    return sql_for(engine, _text_of_row(engine, leaves))


def value_checksum(rows: Iterable[pa.RecordBatch], leaves: Sequence[Leaf]) -> int:
    """The checksum of rows that have these leaves, on one core."""
    question = f"select {value_sql('duckdb', leaves)} from {ROWS}"
    total = 0
    with one_core() as connection:
        for batch in rows:
            connection.register(ROWS, pa.Table.from_batches([batch]))
            total += int(connection.execute(question).fetchall()[0][0])
    return total


def _text_of_row(engine: Engine, leaves: Sequence[Leaf]) -> str:
    """A `-` stands for null. Nothing but a text has a comma in it, and a text begins with its length."""
    texts = [f"coalesce({_text(engine, leaf)}, '-')" for leaf in leaves]
    return "concat(" + ", ',', ".join(texts) + ")"


def _text(engine: Engine, leaf: Leaf) -> str:
    quote = _QUOTES.get(engine, "`")
    column = ".".join(f"{quote}{name.replace(quote, 2 * quote)}{quote}" for name in leaf.path)
    return _template(engine, leaf.type).replace("{}", column)


def _template(engine: Engine, kind: pa.DataType) -> str:
    """SQL of a text that tells values of the type apart, null for null; `{}` is the column."""
    if pa.types.is_decimal(kind):
        return _DECIMAL.replace("{number}", _NUMBER.get(engine, _WHOLE)) if kind.scale else _WHOLE
    if pa.types.is_floating(kind):
        return _FLOATING
    if pa.types.is_timestamp(kind):
        return f"cast({_MICROSECONDS[engine]} as string)"
    if pa.types.is_date(kind):
        return f"cast({_DAYS[engine]} as string)"
    if pa.types.is_binary(kind):
        return _HEX[engine]
    return {pa.string(): _TEXT, pa.bool_(): _BOOLEAN}.get(kind, _WHOLE)


_QUOTES: dict[Engine, str] = {"duckdb": '"'}

_TEXT = "case when {} is not null then concat(cast(length({}) as string), ':', {}) end"
_BOOLEAN = "case when {} then '1' when not {} then '0' end"
_WHOLE = "cast({} as string)"
_DECIMAL = (  # some engines leave out zeros at its end
    "case when {number} like '%.%' then regexp_replace(regexp_replace({number}, '0+$', ''), '[.]$', '')"
    " else {number} end"
)
_NUMBER: dict[Engine, str] = {"duckdb": r"regexp_replace(cast({} as string), '^(-?)[.]', '\10.')"}
"""DuckDB leaves out the zero before the point where the type has no digit there."""

_FLOATING = (  # only sums and products that are exact in every engine
    f"case when abs({{}}) < {_LARGE} then concat(case when {{}} < 0 then '-' else '' end,"
    f" cast(cast(floor(abs({{}})) as bigint) as string), '.',"
    f" cast(cast(floor((abs({{}}) - floor(abs({{}}))) * {_LARGE}) as bigint) as string))"
    f" when {{}} < 0 then '-large' when {{}} is not null then 'large' end"
)

_HADOOP_DAYS = "datediff({}, cast('1970-01-01' as date))"
_DAYS: dict[Engine, str] = {
    "spark": _HADOOP_DAYS,
    "hive": _HADOOP_DAYS,
    "bigquery": "unix_date({})",
    "duckdb": "({} - cast('1970-01-01' as date))",
}
_MICROSECONDS: dict[Engine, str] = {
    "spark": "unix_micros({})",
    # Hive knows whole seconds only: the rest is read from the text, where zeros at the end are left out.
    "hive": "unix_timestamp(cast(substr(cast({} as string), 1, 19) as timestamp)) * 1000000"
    " + cast(rpad(substr(cast({} as string), 21), 6, '0') as bigint)",
    "bigquery": "unix_micros({})",
    "duckdb": "epoch_us({})",
}
_HADOOP_HEX = "lower(hex({}))"
_HEX: dict[Engine, str] = {
    "spark": _HADOOP_HEX,
    "hive": _HADOOP_HEX,
    "bigquery": "to_hex({})",
    "duckdb": _HADOOP_HEX,
}
