"""What lineage answers, as the text that a person reads."""

from typing import Any

from loopwright.lineage.model import Bytes, Line, Trace
from loopwright.lineage.show import Shown

LONG = 12
_TAINTED = ", made from data of which rows were erased since"


def of_trace(found: Trace) -> str:
    """A trace from the answer back to the bytes."""
    label = "not known" if found.label is None else f"{found.label:g}, known at {found.label_known_at}"
    lines = [
        f"{found.id}  request {found.request_id}",
        f"  asked     {found.at} of endpoint {found.endpoint}",
        f"  answered  {_number(found.score)} by {found.version}"
        + (f" in place of {found.picked}, which failed" if found.picked != found.version else ""),
        f"  label     {label}",
        "  others    " + (", ".join(f"{v}: {s:.4f}" for v, s in sorted(found.scores.items())) or "none"),
        "  inputs    " + ", ".join(f"{name}={value}" for name, value in found.inputs.items()),
        f"  model     {_bytes(found.model)}" + (_TAINTED if found.tainted else ""),
    ]
    if found.run is not None:
        code = found.run.commit[:12] if found.run.commit else "no commit"
        changed = " with uncommitted changes" if found.run.dirty else ""
        params = ", ".join(f"{key}={value}" for key, value in found.run.params.items())
        lines.append(f"  run       {found.run.id} {found.run.name}({params}) at {found.run.started}")
        lines.append(f"  code      {code}{changed}" + (f", diff {found.run.diff[:12]}" if found.run.diff else ""))
    lines += [f"  data      {_bytes(item)}" for item in found.data]
    if found.trained_on:
        lines.append("  trained   " + ", ".join(f"{key}={value}" for key, value in found.trained_on.items()))
    lines += [f"  decided   {item.at}  {item.sentence}" for item in found.decisions]
    return "\n".join(lines)


def _bytes(item: Bytes) -> str:
    state = "rows of it were erased since" if item.erased else "bytes are as stored"
    if not item.bytes_ok:
        state = "BYTES DIFFER from what was stored: lw fsck"
    return f"{item.ref} {item.digest[:12]} ({state})"


def _number(value: float | None) -> str:
    return "an error" if value is None else f"{value:.4f}"


def of_lines(found: list[Any]) -> str:
    """Events, one a line."""
    if not found:
        return "nothing has happened yet"
    return "\n".join(
        f"{item.seq:>6}  {item.at}  {item.sentence}"
        if isinstance(item, Line)
        else f"{item.at}  {item.kind}  {item.data}"
        for item in found
    )


def of_shown(found: list[Shown]) -> str:
    """What addresses name, as indented facts."""
    if not found:
        return "nothing here yet; next: lw add PATH, or lw run"
    out = []
    for item in found:
        out.append(f"{item.kind}  {item.ref}")
        out += _facts(item.facts, 1)
    return "\n".join(out)


def _facts(facts: dict[str, Any], depth: int) -> list[str]:
    out, pad = [], "  " * depth
    for key, value in facts.items():
        if isinstance(value, dict) and value and depth < 4:
            out.append(f"{pad}{key}")
            out += _facts(value, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            out.append(f"{pad}{key}")
            for inner in value[:LONG]:
                out.append(f"{pad}  - " + ", ".join(f"{k}={v}" for k, v in inner.items() if v not in (None, [], {})))
            if len(value) > LONG:
                out.append(f"{pad}  ... {len(value) - LONG} more: --json")
        elif value not in (None, [], {}, ""):
            out.append(f"{pad}{key}: {value}")
    return out
