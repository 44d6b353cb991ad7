"""What notes hold of a subject: texts that quote its value."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts("notes", ("notes", "approvals"), {"notes": ("digest", ("text",))})
