"""What monitors hold of a subject: values that flags and explanations quote."""

from loopwright.store.erasure import Texts

HOLDINGS = Texts(
    "monitors",
    (
        *("closed_days", "blocks", "block_pairs", "contract_flags", "alarms", "quality_references", "guard_windows"),
        *("feed_looks", "feed_states", "feed_episodes", "drift_schemes", "drift_profiles", "drift_reports"),
    ),
    {
        "contract_flags": ("endpoint, day, column_name, what", ("examples",)),
        "alarms": ("id", ("reason", "explanation")),
        "feed_states": ("endpoint, source", ("state",)),
        "drift_reports": ("endpoint, day", ("body",)),
        "drift_schemes": ("endpoint, scheme", ("body",)),
        "feed_episodes": ("id", ("reason", "detail")),
    },
)
