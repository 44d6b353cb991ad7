"""Draws a year of the demo: quality by day, releases and alarms, as an SVG made of a replay's own log and decisions.

.venv/bin/python bench/pictures.py FOLDER OUT.svg      FOLDER is a demo project that was replayed
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import contract

ENDPOINT = "delay"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 1080, 450, 84, 40, 130, 20
WINDOW = 7
DAY_US = 86_400_000_000
INK, GREY, SERVED, FROZEN, PROMOTED, BACK, PAGE, HELD = (
    "#1f2933", "#7b8794", "#0b7a75", "#c77700", "#1b7f3b", "#b3261e", "#d64545", "#f3c6c6",
)  # fmt: skip


class Picture:
    """Days across, log loss upwards; marks of what was decided below."""

    def __init__(self, days: list[int], low: float, high: float) -> None:
        self.first, self.last, self.low, self.high = days[0], days[-1] + 1, low, high
        self.parts: list[str] = []

    def x(self, day: float) -> float:
        return LEFT + (day - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def text(self, x: float, y: float, words: str, colour: str = GREY, anchor: str = "middle", size: int = 12) -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def curve(self, days: list[int], values: list[float], colour: str) -> None:
        points = " ".join(f"{self.x(d + 0.5):.1f},{self.y(v):.1f}" for d, v in zip(days, values, strict=True))
        self.parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')

    def line(self, day: float, colour: str, top: float, bottom: float, dash: str = "") -> None:
        x = self.x(day)
        self.parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}"'
            f' stroke-width="1.5" stroke-dasharray="{dash}"/>'
        )

    def bar(self, since: float, until: float, row: int, colour: str) -> None:
        x, y = self.x(since), HEIGHT - BOTTOM + 34 + 24 * row
        width = max(2.0, self.x(until) - x)
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="12" rx="2" fill="{colour}"/>')

    def row(self, row: int, words: str) -> None:
        self.text(LEFT - 6, HEIGHT - BOTTOM + 44 + 24 * row, words, anchor="end", size=11)

    def svg(self, title: str) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
            f"<title>{escape(title)}</title>"
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        )
        return "\n".join([head, *self.parts, "</svg>", ""])


def day(text: str) -> float:
    """Days since the epoch of an RFC 3339 time."""
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(days=1)


def rolling(days: list[int], values: Any, rows: Any) -> list[float]:
    """The mean a row over the last seven days, at each day."""
    out = []
    for place in range(len(days)):
        part = slice(max(0, place + 1 - WINDOW), place + 1)
        out.append(float(values[part].sum() / max(1, rows[part].sum())))
    return out


def draw(judged: Any) -> str:
    """The picture of one replay; quality by what really came true, also where labels were told wrongly."""
    import numpy as np
    import scoring
    from replays import world

    log, late = judged.log, world("2013-12-31").late
    label, at = np.array([late.get(name, np.nan) for name in log["request_id"].tolist()]), log["at_us"]
    served = scoring.choose(judged.scores, log["version"])
    has = ~np.isnan(label) & ~np.isnan(served) & ~np.isnan(judged.scores[1])
    which = (at[has] // DAY_US).astype(int)
    days = sorted(set(which.tolist()))
    place = np.searchsorted(days, which)
    rows = np.bincount(place)
    lines = [
        rolling(days, np.bincount(place, scoring.row_loss(label[has], scores[has])), rows)
        for scores in (judged.scores[1], served)
    ]
    low, high = min(map(min, lines)) - 0.02, max(map(max, lines)) + 0.02
    made = Picture(days, low, high)
    frame(made)
    decided(made, judged.decisions)
    made.curve(days, lines[0], FROZEN)
    made.curve(days, lines[1], SERVED)
    made.text(LEFT + 8, TOP - 16, f"log loss, mean of {WINDOW} days", INK, "start", 13)
    made.text(WIDTH - RIGHT, TOP - 16, "as served", SERVED, "end", 13)
    made.text(WIDTH - RIGHT - 80, TOP - 16, "the first model for ever", FROZEN, "end", 13)
    return made.svg("Quality by day of the flights demo, with releases and alarms")


def frame(made: Picture) -> None:
    """Months and values."""
    month = datetime.fromtimestamp(made.first * 86_400, UTC)
    while (start := month.timestamp() / 86_400) < made.last:
        made.line(max(start, made.first), "#e4e7eb", TOP, HEIGHT - BOTTOM + 100)
        following = (month.replace(day=1) + timedelta(days=32)).replace(day=1)
        made.text((made.x(max(start, made.first)) + made.x(min(following.timestamp() / 86_400, made.last))) / 2,
                  HEIGHT - BOTTOM + 18, month.strftime("%B"))  # fmt: skip
        month = following
    step = next(step for step in (0.02, 0.05, 0.1, 0.2, 0.5) if (made.high - made.low) / step <= 10)
    value = round(made.low / step) * step
    while value <= made.high:
        if value >= made.low:
            made.text(LEFT - 6, made.y(value) + 4, f"{value:.2f}", anchor="end", size=11)
        value += step


def decided(made: Picture, events: list[dict[str, Any]]) -> None:
    """Releases as lines, pages and holds as bars."""
    for place, name in enumerate(("alarm", "broken feed", "refused")):
        made.row(place, name)
    open_at: dict[tuple[str, str], float] = {}
    for event in events:
        kind, data, at = event["kind"].partition("@")[0], event["data"], day(event["at"])
        key = (
            kind.partition(".")[0],
            str(data.get("alarm") or (data.get("source"), data.get("column"), data.get("what"))),
        )
        if kind in ("version.promoted", "version.rolled-back", "release.overridden", "rollout.aborted"):
            colour = PROMOTED if kind == "version.promoted" else BACK
            made.line(at, colour, TOP, HEIGHT - BOTTOM, "" if kind == "version.promoted" else "4 3")
            made.text(made.x(at), TOP - 3, f"@{data.get('version', data.get('candidate'))}", colour, size=10)
        elif kind in ("alarm.opened", "feed.broke"):
            open_at[key] = at
        elif kind in ("alarm.closed", "feed.mended") and key in open_at:
            made.bar(open_at.pop(key), at, 0 if key[0] == "alarm" else 1, PAGE if key[0] == "alarm" else BACK)
        elif kind in ("gate.refused", "shadow.refused"):
            made.bar(at, at, 2, GREY)
    for key, since in open_at.items():
        made.bar(since, made.last, 0 if key[0] == "alarm" else 1, PAGE if key[0] == "alarm" else BACK)


def main() -> int:
    """Draw the replay in a folder."""
    contract.use_venv()
    sys.path.insert(0, str(contract.ROOT / "bench"))
    from judged import Judged
    from replays import Replay

    class Kept:
        def keep(self, name: str, data: Any) -> None:
            return None

    folder, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.write_text(draw(Judged(Kept(), Replay(folder), "picture")), "utf-8")  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main())
