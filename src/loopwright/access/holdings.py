"""What access holds of a subject: nothing. Accounts are people who work here, and leave by `lw users disable`."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts(
    "access",
    ("access", "users", "invitations", "grants", "tokens", "sessions", "login_failures", "permits"),
)
