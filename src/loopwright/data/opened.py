"""A source as a table of a DuckDB connection, and which of its rows are wanted."""

import msgspec

from loopwright.data import sql
from loopwright.data.model import Column, DataSpec
from loopwright.kernel.errors import Invalid

FOREVER_US = 1 << 62
TOLD = '"lw.told"'  # the column of the moments from which facts count as known


class Span(msgspec.Struct, frozen=True):
    """Which rows: asked for in [since_us, until_us), from facts known before known_before_us."""

    since_us: int = -FOREVER_US
    until_us: int = FOREVER_US
    known_before_us: int = FOREVER_US

    @property
    def facts_us(self) -> int:
        """The moment from which on no fact can matter to such rows."""
        return min(self.until_us, self.known_before_us)


class Opened(msgspec.Struct, frozen=True):
    """A source as a table of the connection; `told` when rows that arrived as facts stand behind its version's."""

    spec: DataSpec
    table: str
    columns: dict[str, Column]
    told: bool = False

    def column(self, name: str) -> Column:
        """A column of the source.

        Raises:
            Invalid: it has none of that name.
        """
        if name not in self.columns:
            raise Invalid(
                f"{self.spec.name} has no column {name}",
                code="data.unknown-column",
                field=name,
                hint=f"its columns are: {', '.join(self.columns)}",
            )
        return self.columns[name]

    def moment(self, name: str) -> str:
        """A time column in microseconds."""
        return sql.moment(name, self.column(name).type, f"{self.spec.name}.{name}")

    def known(self) -> str:
        """When a row became known, in microseconds; the beginning of time when it always was."""
        column = self.spec.known_column
        if column is None:
            return str(-FOREVER_US)
        return f"coalesce({TOLD}, {self.moment(column)})" if self.told else self.moment(column)


class Asked(msgspec.Struct, frozen=True):
    """Requests that were asked, as the base of features instead of its source: a table, and the first moment."""

    base: Opened
    since_us: int
