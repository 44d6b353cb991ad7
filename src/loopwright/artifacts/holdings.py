"""What the tables of artifacts hold of a subject: nothing. What lies in artifacts the rooms above answer for."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts("artifacts", ("artifacts", "names", "versions", "label_moves", "label_guards", "condemned", "taints"))
