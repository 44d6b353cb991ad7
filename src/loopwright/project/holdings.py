"""What the project's table holds of a subject: nothing; its code is its author's, and named where it quotes a value."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts("project", ("projects",))
