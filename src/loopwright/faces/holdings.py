"""What the faces hold of a subject: answers that are kept for repeats."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts("faces", ("repeats",), {"repeats": ("actor, request_key", ("answer",))})
