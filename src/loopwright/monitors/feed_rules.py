"""The rules that a feed is held against, as one pass over its rows in the order in which they became known. Pure.

Every limit comes from what the feed did while it was sound; docs/guides/feeds.md says which, and what was measured.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any
from zlib import crc32

import msgspec

from loopwright.kernel.times import DAY, HOUR, format_duration, format_time

SLOT_US = 4 * HOUR
CLEAN_US = 12 * HOUR
WARM_US = 14 * DAY  # before that much was seen, a feed is learnt and nothing is said
MOST, LEAST = 1.5, 2.0  # times the greatest rate of labels, and a share of the least
SIDE = 3  # buckets on each side of a jump
_DAY, _WEEK, _WEEKS = DAY // SLOT_US, 7 * DAY // SLOT_US, 4
_VALUES, _LEVELS, _KEYS = 200, 200, 20_000


class Row(msgspec.Struct, frozen=True):
    """One row of a feed: when it became known, which group and thing it is about, and its watched columns."""

    known_us: int
    group: str
    key: str
    values: Mapping[str, Any]


class Number(msgspec.Struct, kw_only=True):
    """What is known of a column of numbers: its range, longest clean run, and the last day's levels."""

    low: float | None = None
    high: float | None = None
    run: int = 0
    runs: dict[str, tuple[float, int, int]] = {}
    days: list[float] = []


class Text(msgspec.Struct, kw_only=True):
    """The levels that a column of texts has had; None when it has too many. `fresh` are those of the last day."""

    levels: list[str] | None = []
    fresh: dict[str, int] = {}


class Slot(msgspec.Struct, kw_only=True):
    """Some hours of a feed in counts; `total` sums the target of labels."""

    at: int
    n: int = 0
    twice: int = 0
    total: float = 0.0
    nulls: dict[str, int] = {}
    unseen: dict[str, int] = {}


class Fault(msgspec.Struct, kw_only=True):
    """One rule of one column that does not hold.

    Args:
        good_us: since when it holds again.
        holds: whether training and promotion wait for its end.
        size, level: of a jump, and what the column was like before it.
        groups: whose last value is out of range.
    """

    column: str
    what: str
    since_us: int
    until_us: int | None = None
    good_us: int | None = None
    holds: bool = True
    reason: str = ""
    figures: dict[str, float] = {}
    size: float = 0.0
    level: float | None = None
    groups: list[str] = []

    @property
    def key(self) -> str:
        """What tells it from other faults of its feed."""
        return f"{self.column}:{self.what}"


class State(msgspec.Struct, kw_only=True):
    """All that is kept of a feed between two looks.

    Args:
        fresh_us: a gap longer than this is silence; None = 1.5 x the longest while it was sound.
        target: the column whose rate is watched; that of labels.
        until_us: what was known before that was taken.
        counted: whether fewer or more rows than usual spoil what is made of them.
        seen: rows that came in while it was watched; without any it is no feed.
        quiet: the slot in which the last silence ended; a day with one in it has its rows missing already.
        most: by column and rule the greatest that was seen while it was sound; what is younger than a week waits in
            `late`, so that a fault that grows slowly does not become what is usual.
    """

    bucket_us: int = HOUR
    fresh_us: int | None = None
    target: str = ""
    counted: bool = True
    until_us: int = 0
    first_us: int | None = None
    last_us: int | None = None
    seen: int = 0
    gap_us: int = 0
    numbers: dict[str, Number] = {}
    texts: dict[str, Text] = {}
    slots: list[Slot] = []
    buckets: dict[int, dict[str, dict[str, list[float]]]] = {}
    done: int | None = None
    judged: int | None = None
    quiet: int = 0
    keys: dict[str, int] = {}
    most: dict[str, float] = {}
    late: dict[str, dict[int, float]] = {}
    open: dict[str, Fault] = {}


def start(numbers: Mapping[str, tuple[float | None, float | None]], texts: Iterable[str], **given: Any) -> State:
    """A feed of which nothing was seen; numbers by column with their range."""
    return State(
        numbers={name: Number(low=low, high=high) for name, (low, high) in numbers.items()},
        texts={name: Text() for name in texts},
        **given,
    )


class Pass:
    """One pass over rows that follow those seen before."""

    def __init__(self, name: str, state: State, *, live: bool) -> None:
        self.name, self.state, self.live = name, state, live
        self._before = {key: msgspec.json.encode(fault) for key, fault in state.open.items()}

    def go(self, rows: Iterable[Row], until_us: int) -> list[Fault]:
        """Take the rows known before a moment; returns the faults that began, changed or ended."""
        state = self.state
        state.until_us = until_us
        for row in rows:
            self._close(row.known_us)
            self._gap(row.known_us)
            self._row(row)
        self._close(until_us)
        if self.live:
            self._silence(until_us)
        ended = []
        for key, fault in list(state.open.items()):
            if fault.good_us is not None and until_us - fault.good_us >= CLEAN_US:
                if fault.until_us is None:
                    fault.until_us = fault.good_us
                ended.append(state.open.pop(key))
        changed = [f for k, f in state.open.items() if msgspec.json.encode(f) != self._before.get(k)]
        return sorted([*changed, *ended], key=lambda fault: (fault.since_us, fault.key))

    @property
    def _warm(self) -> bool:
        first, last = self.state.first_us, self.state.last_us
        return self.live and first is not None and last is not None and last - first >= WARM_US

    def _row(self, row: Row) -> None:
        state = self.state
        state.first_us = row.known_us if state.first_us is None else state.first_us
        state.last_us = max(row.known_us, state.last_us or 0)
        state.seen += self.live
        at = row.known_us // SLOT_US
        if not state.slots or state.slots[-1].at < at:
            state.slots += [Slot(at=each) for each in range(state.slots[-1].at + 1 if state.slots else at, at + 1)]
            del state.slots[: -(_WEEKS * _WEEK + _DAY + 1)]
        slot = state.slots[-1]
        slot.n += 1
        if row.key:
            key = f"{crc32(row.key.encode()):x}"  # whose rows they are is not kept
            slot.twice += key in state.keys
            if len(state.keys) < _KEYS:
                state.keys[key] = at
        for name, number in state.numbers.items():
            self._number(row, name, number, slot)
        for name, text in state.texts.items():
            self._text(row, name, text, slot)

    def _number(self, row: Row, name: str, number: Number, slot: Slot) -> None:
        value = row.values.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            slot.nulls[name] = slot.nulls.get(name, 0) + 1
            return
        value = float(value)
        if name == self.state.target:
            slot.total += value
        odd = (number.low is not None and value < number.low) or (number.high is not None and value > number.high)
        self._odd(row, name, number, odd)
        last, ended, since_us = number.runs.get(row.group, (math.nan, 0, row.known_us))
        run, since_us = (ended + 1, since_us) if value == last else (1, row.known_us)
        if len(number.runs) < _LEVELS or row.group in number.runs:
            number.runs[row.group] = (value, run, since_us)
            self._stuck(row, name, number, (run, 0 if run > 1 else ended, since_us))
        held = self.state.buckets.setdefault(row.known_us // self.state.bucket_us, {})
        values = held.setdefault(name, {}).setdefault(row.group, [])
        if len(values) < _VALUES and not odd:
            values.append(value)

    def _odd(self, row: Row, name: str, number: Number, odd: bool) -> None:
        fault = self.state.open.get(f"{name}:range")
        if odd and self.live:
            limits = f"{_short(number.low)} to {_short(number.high)}"
            count = fault.figures["rows"] + 1 if fault else 1
            since_us = fault.since_us if fault else row.known_us
            reason = f"{count:.0f} row{'s' * (count > 1)} of {self.name} had {name} outside {limits}"
            figures = {"rows": count}
            self.state.open[f"{name}:range"] = Fault(
                column=name, what="range", since_us=since_us, holds=count > SIDE, reason=reason,
                figures=figures, groups=sorted({row.group, *(fault.groups if fault else ())}),
            )  # fmt: skip
        elif fault is not None and row.group in fault.groups:
            fault.groups.remove(row.group)
            if not fault.groups:
                fault.good_us = fault.until_us = row.known_us
                fault.holds = False

    def _stuck(self, row: Row, name: str, number: Number, seen: tuple[int, int, int]) -> None:
        run, ended, since_us = seen
        limit = max(3 * number.run // 2, 2 * SIDE)
        if self._warm and run > limit:
            reason = (
                f"{name} of {self.name} has not changed for {run} rows; the most while it was sound was {number.run}"
            )
            self.bad(Fault(column=name, what="stuck", since_us=since_us, reason=reason, figures={"rows": run}))
        else:
            if f"{name}:stuck" not in self.state.open:
                number.run = max(number.run, ended)
            elif run == 1:
                self.good(name, "stuck", row.known_us)

    def _text(self, row: Row, name: str, text: Text, slot: Slot) -> None:
        value = row.values.get(name)
        if value is None:
            slot.nulls[name] = slot.nulls.get(name, 0) + 1
        elif text.levels is not None and value not in text.levels:
            slot.unseen[name] = slot.unseen.get(name, 0) + 1
            text.fresh.setdefault(str(value), slot.at)
            if len(text.levels) + len(text.fresh) > _LEVELS:
                text.levels, text.fresh = None, {}
            elif not self._warm:
                text.levels.append(text.fresh.popitem()[0])

    def _gap(self, known_us: int) -> None:
        state = self.state
        if state.last_us is None or (self.live and not state.seen):
            return
        gap_us, limit_us = known_us - state.last_us, self._limit_us()
        fault = state.open.get(":silence")
        if fault is not None and fault.until_us is None:
            fault.until_us = fault.good_us = known_us
            fault.holds = False
            state.quiet = known_us // SLOT_US
        elif self._warm and gap_us > limit_us:
            self._silent(state.last_us, known_us)
            state.quiet = known_us // SLOT_US
        else:
            state.gap_us = max(state.gap_us, gap_us)

    def _limit_us(self) -> int:
        state = self.state
        return max(state.fresh_us or 0, 3 * state.gap_us // 2) if state.fresh_us is None else state.fresh_us

    def _silence(self, until_us: int) -> None:
        state = self.state
        if self._warm and state.seen and state.last_us is not None and until_us - state.last_us > self._limit_us():
            fault = state.open.get(":silence")
            if fault is None or fault.until_us is not None:
                self._silent(state.last_us, None)

    def _silent(self, last_us: int, until_us: int | None) -> None:
        limit_us = self._limit_us()
        reason = (
            f"nothing came from {self.name} after {format_time(last_us)}; at most {format_duration(limit_us)} may pass"
        )
        known = self.state.open.get(":silence")
        self.state.open[":silence"] = Fault(
            column="", what="silence", since_us=known.since_us if known else last_us + limit_us, until_us=until_us,
            good_us=until_us, holds=until_us is None, reason=known.reason if known else reason,
            figures={"limit_h": round(limit_us / HOUR, 3)},
        )  # fmt: skip

    def _close(self, until_us: int) -> None:
        """Judge the buckets and slots that ended before a moment."""
        state = self.state
        if not state.slots:
            return
        last = until_us // state.bucket_us
        if state.done is None:
            state.done = min(state.buckets, default=last) - 1
        for bucket in range(max(state.done + 1, last - 4 * SIDE), last):
            for name, number in state.numbers.items():
                self._jump(bucket, name, number)
            state.done = bucket
        for old in [bucket for bucket in state.buckets if bucket < last - 2 * SIDE]:
            del state.buckets[old]
        now = until_us // SLOT_US
        first = max(state.slots[0].at if state.judged is None else state.judged, now - _WEEK)
        for at in range(first, now):
            self._shares(at)
        if first < now:
            state.judged = now
            state.keys = {key: at for key, at in state.keys.items() if at >= now - _DAY}

    def _jump(self, bucket: int, name: str, number: Number) -> None:
        sides: list[dict[str, float]] = []
        for first in (bucket - 2 * SIDE + 1, bucket - SIDE + 1):
            groups: dict[str, list[float]] = {}
            for at in range(first, first + SIDE):
                for group, values in self.state.buckets.get(at, {}).get(name, {}).items():
                    groups.setdefault(group, []).extend(values)
            sides.append({group: median(values) for group, values in groups.items() if len(values) > 1})
        both = [group for group in sides[0] if group in sides[1]]
        if not both:
            return
        moved = median([sides[1][group] - sides[0][group] for group in both])
        at_us, past = (bucket - SIDE + 1) * self.state.bucket_us, self.state.most.get(f"{name}:jump", 0.0)
        limit = 1.5 * past
        days = number.days
        now = self.state.buckets.get(bucket, {}).get(name, {})
        if now:
            number.days = [*days[-23:], median([median(values) for values in now.values() if values] or [0.0])]
        fault = self.state.open.get(f"{name}:jump")
        if fault is not None and fault.until_us is None:
            back = moved * fault.size < 0 and abs(moved) >= max(abs(fault.size) / 2, past)
            near = (
                fault.level is not None and len(number.days) == 24 and abs(median(number.days) - fault.level) <= limit
            )
            if back or near:
                fault.until_us = fault.good_us = at_us + SIDE * self.state.bucket_us
        elif self._warm and past and abs(moved) > limit and fault is None:
            reason = (
                f"{name} of {self.name} moved by {moved:+.4g} at once at {format_time(at_us)};"
                f" the most while it was sound was {past:.4g}"
            )
            figures = {"moved": round(moved, 6), "limit": round(limit, 6)}
            level, number.days = median(days) if days else None, []
            self.bad(
                Fault(
                    column=name, what="jump", since_us=at_us, reason=reason, figures=figures, size=moved, level=level
                )
            )  # fmt: skip
        elif fault is None:
            self._learn(f"{name}:jump", abs(moved), at_us)

    def _shares(self, at: int) -> None:
        """Judge the day that ended with a slot."""
        state, by = self.state, {slot.at: slot for slot in self.state.slots}
        day = [by[each] for each in range(at - _DAY + 1, at + 1) if each in by]
        n = sum(slot.n for slot in day)
        if n >= 20 and len(day) == _DAY:
            for name in [*state.numbers, *state.texts]:
                self._share((name, "null"), day, [slot.nulls.get(name, 0) for slot in day], 0.03)
            for name in state.texts:
                self._share((name, "level"), day, [slot.unseen.get(name, 0) for slot in day], 0.015)
            self._share(("", "duplicate"), day, [slot.twice for slot in day], 0.02)
        for text in state.texts.values():
            old = [level for level, first in text.fresh.items() if first < at - _DAY]
            if text.levels is not None and not any(key.endswith(":level") for key in state.open):
                text.levels += old
                text.fresh = {level: first for level, first in text.fresh.items() if level not in old}
        if ":silence" not in state.open and at - state.quiet > _DAY:
            self._volume(at, by, n)
        if state.target:
            self._rate(at, by)

    def _share(self, what: tuple[str, str], day: list[Slot], counts: list[int], margin: float) -> None:
        name, rule = what
        n = sum(slot.n for slot in day)
        share, past = sum(counts) / n, self.state.most.get(f"{name}:{rule}", 0.0)
        limit = max(2 * past, past + margin)
        key = f"{name}:{rule}"
        if self._warm and share > limit and sum(counts) > SIDE:
            bad = [slot.at for slot, count in zip(day, counts, strict=True) if slot.n and count / slot.n > limit]
            words = {"null": f"no value in {name}", "level": f"a level of {name} never seen before"}.get(
                rule, "a key that was there already"
            )
            reason = f"{share:.1%} of the rows of {self.name} had {words}; at most {past:.1%} while it was sound"
            figures = {"share": round(share, 6), "limit": round(limit, 6)}
            since_us = min(bad, default=day[-1].at) * SLOT_US
            self.bad(Fault(column=name, what=rule, since_us=since_us, reason=reason, figures=figures))
        elif key in self.state.open:
            if not day[-1].n or counts[-1] / day[-1].n <= limit:
                self.good(name, rule, day[-1].at * SLOT_US)
        else:
            self._learn(key, share, day[-1].at * SLOT_US)

    def _volume(self, at: int, by: dict[int, Slot], n: int) -> None:
        weeks = [
            sum(by[each].n for each in range(end - _DAY + 1, end + 1) if each in by)
            for end in range(at - _WEEK, at - _WEEKS * _WEEK - 1, -_WEEK)
            if end - _DAY + 1 in by
        ]
        if len(weeks) < 2 or (self.live and self.state.seen < max(n, 1)):
            return
        usual = median(weeks)
        if usual < 20:
            return
        moved = math.log(max(n, 0.5) / usual)
        side = "high" if moved > 0 else "low"
        past = self.state.most.get(side, 0.0)
        limit = max(1.5 * past, math.log(1.35))
        if self._warm and abs(moved) > limit:
            reason = f"{n} rows of {self.name} came in a day; {usual:.0f} are usual on such a day"
            figures = {"rows": n, "usual": usual, "limit": round(math.exp(limit), 6)}
            since_us = (at - _DAY + 1) * SLOT_US
            fault = Fault(column="", what="volume", since_us=since_us, reason=reason, figures=figures)
            fault.holds = self.state.counted
            self.bad(fault)
        elif ":volume" in self.state.open:
            self.good("", "volume", at * SLOT_US)
        else:
            self._learn(side, abs(moved), at * SLOT_US)

    def _rate(self, at: int, by: dict[int, Slot]) -> None:
        week = [by[each] for each in range(at - _WEEK + 1, at + 1) if each in by]
        n = sum(slot.n for slot in week)
        if len(week) < _WEEK or n < 100:
            return
        rate = math.fsum(slot.total for slot in week) / n
        most, least = self.state.most.get("rate", rate), -self.state.most.get("least", -rate)
        if self._warm and (rate > MOST * most or rate < least / LEAST):
            reason = f"the labels of 7 days are {rate:.4g} on average; while they were sound {least:.4g} to {most:.4g}"
            past = (most + least) / 2
            days = [week[first : first + _DAY] for first in range(0, _WEEK, _DAY)]
            far = [d[0].at for d in days if (m := sum(s.n for s in d)) and
                   abs(math.fsum(s.total for s in d) / m - past) > abs(rate - past)]  # fmt: skip
            since_us = min(far, default=week[-_DAY].at) * SLOT_US
            figures = {"rate": round(rate, 6), "most": round(MOST * most, 6), "least": round(least / LEAST, 6)}
            self.bad(Fault(column=self.state.target, what="rate", since_us=since_us, reason=reason, figures=figures))
        elif f"{self.state.target}:rate" in self.state.open:
            self.good(self.state.target, "rate", at * SLOT_US)
        else:
            self._learn("rate", rate, at * SLOT_US)
            self._learn("least", -rate, at * SLOT_US)

    def _learn(self, key: str, value: float, at_us: int) -> None:
        """Take what a sound feed did as usual: at once from the history, after a week while it is watched."""
        if key.endswith(":level") and (at_us - (self.state.first_us or 0)) < WARM_US:
            return  # at first all levels are new
        most, late, day = self.state.most, self.state.late.setdefault(key, {}), at_us // DAY
        late[day] = max(late.get(day, value), value)
        for old in [each for each in late if not self.live or each < day - 7]:
            most[key] = max(most.get(key, late[old]), late.pop(old))

    def bad(self, fault: Fault) -> None:
        """Take a rule as broken, or as broken still."""
        self.state.late.pop(fault.key, None)
        known = self.state.open.get(fault.key)
        if known is None:
            self.state.open[fault.key] = fault
        else:
            known.good_us = known.until_us = None

    def good(self, column: str, what: str, at_us: int) -> None:
        """Take a rule that was broken as kept from a moment on."""
        known = self.state.open.get(f"{column}:{what}")
        if known is not None and known.good_us is None:
            known.good_us = known.until_us = at_us


def _short(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"
