"""Calendar days of an endpoint: when a day's block is closed, in the endpoint's time zone."""

import msgspec

from loopwright.kernel.times import add_days, day_of, local_moment


class Calendar(msgspec.Struct, frozen=True):
    """Days in a time zone whose blocks are closed some minutes into the next day."""

    timezone: str
    close_minutes: int

    def day(self, at_us: int) -> str:
        """The day that a moment belongs to."""
        return day_of(at_us, self.timezone)

    def start(self, day: str) -> int:
        """The first moment of a day."""
        return local_moment(day, 0, self.timezone)

    def close(self, day: str) -> int:
        """When the block of a day is closed."""
        return local_moment(add_days(day, 1), self.close_minutes, self.timezone)

    def next_close(self, after_us: int) -> int:
        """The first closing of a block later than a moment."""
        day = add_days(self.day(after_us), -1 - self.close_minutes // (24 * 60))
        while self.close(day) <= after_us:
            day = add_days(day, 1)
        return self.close(day)

    def closed_by(self, at_us: int) -> str:
        """The last day whose block is closed at a moment."""
        day = self.day(at_us)
        while self.close(day) > at_us:
            day = add_days(day, -1)
        return day
