"""Results of the data room as text that a person reads."""

from loopwright.data.model import Added, ColumnProfile, ColumnRule, Written
from loopwright.kernel.times import format_time

_WIDTH = 34


def render(result: Added) -> str:
    """What `lw add` prints: the version, a line a column, and the rows that break the contract."""
    told = "unchanged" if result.unchanged else "added"
    lines = [f"{result.version.ref} {told}: {result.rows:,} rows, {result.columns} columns ({result.path})", ""]
    rules = {rule.column: rule for rule in result.contract.columns}
    table = [("column", "kind", "nulls", "values", "expected from now on")]
    for column in result.profile:
        table.append(_line(column, rules[column.column], result.rows))
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines += ["  " + "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in table]
    contract = result.contract
    if contract.unique:
        told = "declared" if contract.unique_declared else "found"
        lines += ["", f"key ({told}): {', '.join(contract.unique)}"]
    lines.append("")
    if not result.findings:
        lines.append("no row breaks the contract")
        return "\n".join(lines)
    lines.append("rows that break the contract (kept as they are):")
    lines += [f"  {finding.message}" for finding in result.findings]
    return "\n".join(lines)


def brief(result: Added) -> list[str]:
    """A version in one line, and a line for each kind of rows that break its contract."""
    head = f"{result.version.ref}: {result.rows:,} rows, {result.columns} columns ({result.path})"
    return [head, *(f"  breaks its contract: {finding.message}" for finding in result.findings)]


def _line(column: ColumnProfile, rule: ColumnRule, rows: int) -> tuple[str, str, str, str, str]:
    share = column.nulls / rows
    nulls = "-" if not column.nulls else f"{share:.1%}" if share >= 0.001 else "<0.1%"
    if column.levels:
        values = f"{len(column.levels)} levels: {', '.join(column.levels)}"
    elif column.low is None:
        values = f"{column.distinct:,} different"
    else:
        values = f"{_number(column.low)} to {_number(column.high)}"
    expected = []
    if rule.low is not None or rule.high is not None:
        low = "" if rule.low is None else f"{rule.low:g}"
        expected.append(f"{low}..{'' if rule.high is None else f'{rule.high:g}'}")
    if rule.levels is not None:
        expected.append("these levels")
    if rule.declared:
        expected.append("(declared)")
    return column.column, column.kind, nulls, _cut(values), " ".join(expected) or "-"


def _number(value: float | str | None) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def written(result: Written) -> str:
    """What `lw features rows` prints."""
    span = ""
    if result.first_us is not None and result.last_us is not None:
        span = f", asked for from {format_time(result.first_us)} to {format_time(result.last_us)}"
    return f"{result.path}: {result.rows:,} rows of {result.features}{span}"
