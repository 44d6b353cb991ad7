"""Times and durations: integers of microseconds inside, RFC 3339 at the edges."""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from loopwright.kernel.errors import Invalid

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": 1000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")


def parse_time(text: str, field: str = "time") -> int:
    """Read an RFC 3339 time (a date alone, or no offset, is UTC) as microseconds since the epoch.

    Raises:
        Invalid: the text is not such a time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise Invalid(
            f"{field} must be a time such as 2013-04-01T04:00:00Z, not {text!r}", code="time.form", field=field
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def format_time(at_us: int) -> str:
    """Write microseconds since the epoch as RFC 3339 in UTC; a fraction only where there is one."""
    text = (_EPOCH + timedelta(microseconds=at_us)).isoformat()
    return text.removesuffix("+00:00") + "Z"


def parse_duration(text: str, field: str = "duration") -> int:
    """Read `7d`, `3h`, `1h30m`, `90s` or `50ms` as microseconds.

    Raises:
        Invalid: the text is not such a duration.
    """
    parts = _DURATION.findall(text) if isinstance(text, str) else []
    if not parts or "".join(n + u for n, u in parts) != text:
        raise Invalid(
            f"{field} must be a duration such as 7d, 3h or 90s, not {text!r}", code="duration.form", field=field
        )
    return round(sum(float(n) * _UNITS[u] for n, u in parts))


def format_duration(span_us: int) -> str:
    """Write a span in its largest whole units, such as `1d4h` or `90s`."""
    if span_us == 0:
        return "0s"
    rest, out = abs(span_us), ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            out += f"{count}{unit}"
    return ("-" if span_us < 0 else "") + (out or "0s")


def zone(name: str, field: str = "timezone") -> ZoneInfo:
    """The IANA time zone of that name.

    Raises:
        Invalid: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(f"{field} must be an IANA time zone such as Europe/Berlin, not {name!r}", field=field) from None


def day_of(at_us: int, tz: str = "UTC") -> str:
    """The calendar day, `YYYY-MM-DD`, that a moment belongs to in a time zone."""
    return (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone(tz)).date().isoformat()


def day_start(day: str, tz: str = "UTC") -> int:
    """The first moment of a calendar day in a time zone."""
    return local_moment(day, 0, tz)


def local_moment(day: str, minutes: int, tz: str = "UTC") -> int:
    """The moment at which a wall clock in `tz` shows `minutes` past midnight of a day."""
    at = datetime.fromisoformat(day).replace(tzinfo=zone(tz)) + timedelta(minutes=minutes)
    return (at.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def add_days(day: str, count: int) -> str:
    """The calendar day `count` days after a day."""
    return (date.fromisoformat(day) + timedelta(days=count)).isoformat()
