"""What the loop holds of a subject: nothing."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts("loop", ("cycles", "outbox", "outbox_cursor"), {"outbox": ("id", ("error",))})
