"""How late a column of the sources becomes known that no feature reads, such as the one a leaky model was made with."""

import contextlib
from collections.abc import Sequence

from loopwright.data import service, sources, sql
from loopwright.data.execute import FOREVER_US, Executor, Span
from loopwright.data.model import FeaturesSpec, Lateness
from loopwright.store.space import Space


def of_columns(space: Space, spec: FeaturesSpec, columns: Sequence[str]) -> list[Lateness]:
    """Of columns that a source tells of the very things that are asked about, how often and by how much they come late.

    A column that no such source holds is left out.
    """
    told = [source for source in spec.sources if source.known_column is not None and len(source.key) == 1]
    out: list[Lateness] = []
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        executor = Executor(con, space, spec)
        executor.make_base(Span())
        for number, source in enumerate(told):
            schema = {column.name for column in service.schema(space, service.current_version(space, source))}
            held = [name for name in columns if name in schema and name not in {found.column for found in out}]
            if not held:
                continue
            needs = list(dict.fromkeys([source.key[0], source.known_column or "", *held]))
            opened = executor.open(source, f"lw.late.{number}", needs, FOREVER_US)
            for name in held:
                row = con.execute(
                    f"SELECT count(*) FILTER (lag > 0), count(*), quantile_disc(lag, 0.5) FILTER (lag > 0) FROM ("
                    f'SELECT min({opened.known()}) - min(base."lw.at") AS lag FROM base JOIN {opened.table} s'
                    f' ON base."lw.id" = CAST(s.{sql.ident(source.key[0])} AS VARCHAR)'
                    f' WHERE s.{sql.ident(name)} IS NOT NULL GROUP BY base."lw.id")'
                ).fetchone()
                if row is not None and row[1]:
                    out.append(
                        Lateness(
                            column=name,
                            source=source.name,
                            rows=row[1],
                            late_share=row[0] / row[1],
                            median_lag_us=row[2],
                        )
                    )
    return out
