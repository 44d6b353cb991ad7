"""An endpoint as it lives: day, requests, quality against a frozen model, alarms, and what the loop decides and why.

On a terminal one screen that changes; elsewhere plain lines. It reads; it decides nothing.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import click
import msgspec

from loopwright.access import service as access
from loopwright.faces import output, text
from loopwright.kernel.ids import valid_name
from loopwright.serving import routes
from loopwright.store import space as spaces

if TYPE_CHECKING:
    from loopwright.faces.rooms import House
    from loopwright.store.space import Space

ALL_DAYS, WINDOW, SHOWN_DAYS, SHOWN_EVENTS = 400, 7, 60, 8
LOOK_S = 1.0
_BARS = "▁▂▃▄▅▆▇█"
_FIRST_PAGE, _PAGE = 100_000, 1000
# besides decisions, what a person who watches wants to read
_TOLD = ("alarm.", "contract.broken@", "run.failed@", "block.failed@")


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One closed day: the loss of what was served and of the frozen model, on the same rows."""

    day: str
    requests: int
    labelled: int
    served: float | None
    frozen: float | None
    champion: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """All closed days together."""

    days: int
    requests: int
    joined: int
    served: float | None
    frozen: float | None


class Feed:
    """What has happened to an endpoint, read from its Space as it comes."""

    def __init__(self, house: House, space: Space, endpoint: str) -> None:
        self._ops, self._kinds = house.ops(), house.events()
        self.space, self.endpoint = space, endpoint
        self.actor = access.local_actor()
        kept = routes.endpoint(space, endpoint).keep
        self.frozen = kept[0] if kept else 1
        self.days: list[Day] = []
        self.alarms: list[Any] = []
        self.seq = 0
        self.now = ""
        self.news: deque[Any] = deque(maxlen=SHOWN_EVENTS)

    def _call(self, name: str, /, **args: Any) -> Any:
        op = self._ops[name]
        access.require(self.space, self.actor, op.action)
        return op.fn(self.space, self.actor, **args)

    def read(self) -> list[Any]:
        """Take in what is new and return the events that are worth a line."""
        first = self.seq == 0
        found = self._call("lineage.events", after=self.seq, limit=_FIRST_PAGE if first else _PAGE)
        if not found:
            return []
        self.seq = found[-1].seq
        closed = sum(event.kind.startswith("block.closed@") for event in found)
        if closed or first:
            self._read_quality(ALL_DAYS if first else closed)
        told = [event for event in found if self._is_told(event)]
        self.now = found[-1].at
        self.news.extend(told)
        return told

    def _is_told(self, event: Any) -> bool:
        kind = self._kinds.get(event.kind)
        return (kind is not None and kind.decision) or event.kind.startswith(_TOLD)

    def _read_quality(self, days: int) -> None:
        found = self._call("monitors.quality", endpoint=self.endpoint, days=min(days, ALL_DAYS))
        self.alarms = list(found.open_alarms)
        seen = {day.day for day in self.days}
        for day in found.days:
            if day.day not in seen:
                frozen = day.versions.get(str(self.frozen))
                self.days.append(
                    Day(
                        day=day.day,
                        requests=day.requests,
                        labelled=day.labelled,
                        served=day.served.loss,
                        frozen=None if frozen is None else frozen.loss,
                        champion=day.champion,
                    )
                )

    def decisions(self) -> list[Any]:
        """Every decision so far."""
        found: list[Any] = self._call("lineage.events", kind="decision", limit=0)
        return found

    def totals(self) -> Totals:
        """All days so far."""
        return Totals(
            days=len(self.days),
            requests=sum(day.requests for day in self.days),
            joined=sum(day.labelled for day in self.days),
            served=pooled(self.days, "served"),
            frozen=pooled(self.days, "frozen"),
        )


def pooled(days: list[Day], who: str) -> float | None:
    """The mean loss a row over some days."""
    pairs = [(getattr(day, who), day.labelled) for day in days if getattr(day, who) is not None and day.labelled]
    rows = sum(n for _, n in pairs)
    return sum(loss * n for loss, n in pairs) / rows if rows else None


def spark(values: list[float | None], low: float, high: float) -> str:
    """Values as a row of small bars between two bounds; a gap where there is none."""
    span = (high - low) or 1.0
    top = len(_BARS) - 1
    return "".join(" " if v is None else _BARS[max(0, min(top, round((v - low) / span * top)))] for v in values)


def gain_text(served: float | None, frozen: float | None) -> str:
    """How much less was lost than by the frozen model."""
    if served is None or frozen is None or frozen == 0:
        return "-"
    return f"{(served - frozen) / frozen:+.1%}"


class View(Protocol):
    """Shows a feed; a context manager."""

    def __enter__(self) -> View:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def show(self, status: str = "") -> None:
        """Take in what is new and show it."""

    def say(self, line: str) -> None:
        """Tell what somebody does on the way."""


class Lines:
    """Plain lines: one a closed day, one a decision."""

    def __init__(self, feed: Feed, out: Callable[[str], None]) -> None:
        self.feed, self._out, self._days = feed, out, 0

    def __enter__(self) -> Lines:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, status: str = "") -> None:
        """Print the days and decisions that are new."""
        told = self.feed.read()
        for day in self.feed.days[self._days :]:
            if day.requests:
                self._out(day_line(day, self.feed.endpoint))
        self._days = len(self.feed.days)
        for event in told:
            self._out(text.tame(f"{event.at[:16].replace('T', ' ')}  {event.sentence}"))

    def say(self, line: str) -> None:
        """Print it."""
        self._out(text.tame(line))


def day_line(day: Day, endpoint: str) -> str:
    """One closed day as a line."""
    served = "-" if day.served is None else f"{day.served:.4f}"
    frozen = "-" if day.frozen is None else f"{day.frozen:.4f}"
    return (
        f"{day.day}  {day.requests:>6,} requests  {day.labelled:>6,} labels  loss {served}  frozen {frozen}"
        f"  {gain_text(day.served, day.frozen):>7}  {endpoint}@{day.champion}"
    )


class Screen:
    """One screen that changes, on a terminal."""

    def __init__(self, feed: Feed) -> None:
        from rich.console import Console
        from rich.live import Live

        self.feed = feed
        console = Console(no_color=not text.coloured(sys.stderr), stderr=True)
        self._live = Live(console=console, refresh_per_second=4)

    def __enter__(self) -> Screen:
        """Begin."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; the last screen stays."""
        self._live.stop()

    def show(self, status: str = "") -> None:
        """Draw anew."""
        self.feed.read()
        self._live.update(self._draw(status))

    def say(self, line: str) -> None:
        """Print it above the screen, where it stays."""
        self._live.console.print(text.tame(line), markup=False, highlight=False)

    def _draw(self, status: str) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        feed = self.feed
        totals, last = feed.totals(), feed.days[-1] if feed.days else None
        champion = f"{feed.endpoint}@{last.champion}" if last else feed.endpoint
        lines: list[Any] = [Text(f"{feed.now[:16].replace('T', ' ')}   {champion} answers   {status}", style="bold")]
        if last is not None:
            lines += [*self._chart(), Text(_totals_text(totals))]
        for alarm in feed.alarms:
            lines.append(Text(text.tame(f"ALARM {alarm.reason}"), style="bold red"))
        lines.append(Text())
        for event in feed.news:
            lines.append(Text(text.tame(f"{event.at[5:16].replace('T', ' ')}  {event.sentence}"), overflow="fold"))
        return Panel(Group(*lines), title=f"{feed.endpoint}, live", title_align="left")

    def _chart(self) -> list[Any]:
        from rich.text import Text

        days = self.feed.days
        means = [
            [pooled(days[max(0, i + 1 - WINDOW) : i + 1], who) for i in range(len(days))][-SHOWN_DAYS:]
            for who in ("frozen", "served")
        ]
        known = [value for line in means for value in line if value is not None]
        if not known:
            return []
        low, high = min(known), max(known)
        names = (f"frozen {self.feed.endpoint}@{self.feed.frozen}", "as served")
        out = [Text(f"mean loss of {WINDOW} days, {low:.3f} to {high:.3f}", style="dim")]
        for name, line, style in zip(names, means, ("yellow", "green"), strict=True):
            now = "-" if line[-1] is None else f"{line[-1]:.4f}"
            out.append(Text.assemble((f"{name:<18} ", ""), (spark(line, low, high), style), f" {now}"))
        return out


def _totals_text(totals: Totals) -> str:
    served = "-" if totals.served is None else f"{totals.served:.4f}"
    frozen = "-" if totals.frozen is None else f"{totals.frozen:.4f}"
    return (
        f"{totals.days} days, {totals.requests:,} requests, {totals.joined:,} labels in time; loss {served},"
        f" frozen {frozen} ({gain_text(totals.served, totals.frozen)})"
    )


def view(feed: Feed, *, to_stderr: bool = False) -> View:
    """The view that fits where it is shown; `to_stderr` keeps standard output for a document."""
    if to_stderr or not sys.stderr.isatty() or not sys.stdout.isatty():
        return Lines(feed, lambda line: click.echo(line, err=to_stderr))
    return Screen(feed)


def command(house: Callable[[], House]) -> click.Command:
    """`lw watch`."""

    @click.command("watch")
    @click.argument("endpoint")
    @click.option("--once", is_flag=True, help="Show what has happened so far and end.")
    @output.root
    @output.as_json
    def watch(endpoint: str, once: bool, root: str | None, as_json: bool) -> None:
        """Watch an endpoint: day, requests, quality against the frozen model, alarms, decisions."""
        space = house().open(spaces.find_root(Path(root or ".")))
        feed = Feed(house(), space, valid_name(endpoint, "endpoint"))
        if as_json:
            feed.read()
            document = {"endpoint": endpoint, "totals": feed.totals(), "days": feed.days, "alarms": feed.alarms}
            output.say(document, schema="lw.watch/1", as_json=True)
            return
        with view(feed) as shown:
            shown.show()
            while not once:
                time.sleep(LOOK_S)
                shown.show()

    return watch
