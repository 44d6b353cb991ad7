"""What releases hold of a subject: texts that verdicts quote."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts(
    "releases",
    (
        "verdicts",
        "reigns",
        "trainings",
        "rollouts",
        "holds",
        "shadows",
        "decisions",
        "measured",
        "guard_looks",
        "quarantine",
    ),
    {"verdicts": ("seq", ("reason", "evidence"))},
)
