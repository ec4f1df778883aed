"""A condition over silver's columns, as a mask over rows: one parsed expression, with only the rows in reach."""

from __future__ import annotations

from decimal import Decimal

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp

from lakehouse.errors import LakehouseError, UsageError
from lakehouse.schemas import silver_schema
from lakehouse.topics import Topic

_DIALECT = "duckdb"
_UNSTABLE = ("Current", "Local", "Rand", "Session", "Uuid", "Version")
"""How sqlglot's names of functions begin that say something of the moment or of the process."""
_FORBIDDEN: tuple[type, ...] = (
    exp.Query, exp.Subquery, exp.From, exp.Table, exp.Star, exp.Placeholder, exp.Parameter, exp.AggFunc, exp.Window,
    exp.Lambda, exp.Comprehension, exp.PositionalColumn, exp.Anonymous, exp.UDTF, exp.DDL, exp.Command,
    *(kind for kind in exp.ALL_FUNCTIONS if kind.__name__.startswith(_UNSTABLE)),
)  # fmt: skip
"""Other tables, files and settings; what is not about one row; and what says something else when it is asked again."""


_DIGITS = 38
"""Of a decimal."""


class Condition:
    """What `where` says of each row: true, or not (false and unknown alike).

    LakehouseError, without any row's data, when it is not one expression over declared columns.
    """

    def __init__(self, where: str, topic: Topic) -> None:
        self._schema = silver_schema(topic)
        tree = self._tree(where)
        self.columns = self._columns(tree)
        self._sql = tree.sql(dialect=_DIALECT, identify=True, comments=False)
        kind = self.mask(self._schema.empty_table()).type
        if not pa.types.is_boolean(kind):
            raise self._refusal(f"a value of type {kind}, which is neither true nor false")

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """A boolean for each row. A column or member that silver gained after these rows were sealed is null.

        `rows` need only have the condition's own columns.
        """
        fields = [self._schema.field(name) for name in self.columns]
        columns = [
            rows[each.name].cast(each.type) if each.name in rows.column_names else pa.nulls(len(rows), each.type)
            for each in fields
        ]
        table = pa.Table.from_arrays(columns, names=self.columns)
        with duckdb.connect(config={"enable_external_access": "false"}) as database:
            database.execute("set timezone = 'UTC'; set python_enable_replacements = false")
            database.execute("set lock_configuration = true")
            database.register("rows", table)
            try:
                return database.sql(f"select coalesce(({self._sql}), false) as m from rows").to_arrow_table()["m"]
            except duckdb.Error as error:
                found = str(error).splitlines()[0] if not len(rows) else f"a {type(error).__name__} at some row"
                raise self._refusal(found) from (error if not len(rows) else None)

    def _tree(self, where: str) -> exp.Condition:
        try:
            trees = sqlglot.parse(where, dialect=_DIALECT)
        except sqlglot.errors.SqlglotError as error:
            raise self._refusal(str(error).splitlines()[0]) from error
        except RecursionError:
            raise self._refusal("a condition that is nested too deep") from None
        tree = trees[0] if len(trees) == 1 else None
        if not isinstance(tree, exp.Condition):
            raise self._refusal("something else" if any(trees) else "nothing")
        for node in tree.walk():
            if isinstance(node, _FORBIDDEN):
                raise self._refusal(f"`{node.sql(dialect=_DIALECT)}`")
        for number in list(tree.find_all(exp.Literal)):
            if not number.is_string:
                number.replace(exp.Literal.number(self._spelled_out(number.name)))
        return tree

    def _spelled_out(self, number: str) -> str:
        """Without an exponent: with one it is a double to the database, and all that it is compared with."""
        value = Decimal(number)
        if abs(value.adjusted()) >= _DIGITS or len(value.as_tuple().digits) > _DIGITS:
            raise self._refusal(f"the number {number[:50]}, which is none of {_DIGITS} digits")
        return f"{value:f}"

    def _columns(self, tree: exp.Condition) -> list[str]:
        """The declared columns that it names, in silver's order; names differ in more than case."""
        declared = {name.lower(): name for name in self._schema.names}
        named = {column.parts[0].name for column in tree.find_all(exp.Column)}
        unknown = sorted(name for name in named if name.lower() not in declared)
        if unknown or not named:
            raise self._refusal(f"the column {unknown[0]!r}" if unknown else "no column")
        used = {declared[name.lower()] for name in named}
        return [name for name in self._schema.names if name in used]

    def _refusal(self, found: str) -> LakehouseError:
        return UsageError(
            "--where",
            found=found,
            expected=f"one condition over {', '.join(self._schema.names)}",
            next_step="Write it as after `where` in SQL, such as \"user = 'u17'\".",
        )
