"""What the audit holds of a subject: keyed hashes and counts."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts("audit", ("seals", "audit_keys"))
