"""Times as they come in by a wire: RFC 3339, within the years that every part of the system can write."""

from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import format_time, parse_time

_FIRST_US = 0
_LAST_US = 253_370_764_800_000_000  # the start of the year 9999
_MAX_CHARACTERS = 40


def moment(value: object, field: str) -> int:
    """A time from outside as microseconds since the epoch.

    Raises:
        Invalid: it is no time, or lies before 1970 or after 9998.
    """
    if type(value) is not str or len(value) > _MAX_CHARACTERS:
        raise Invalid(f"{field} must be RFC 3339 text", code="time.form", field=field)
    at_us = parse_time(value, field)
    if not _FIRST_US <= at_us < _LAST_US:
        limits = f"{format_time(_FIRST_US)} and {format_time(_LAST_US)}"
        raise Invalid(f"{field} must lie between {limits}", code="time.range", field=field)
    return at_us
