"""Texts by digest."""

from loopwright.kernel import canonical
from loopwright.kernel.errors import Invalid, NotFound
from loopwright.notes import approvals
from loopwright.store.database import Tx
from loopwright.store.space import Space

MIGRATIONS = [
    "CREATE TABLE notes(digest TEXT PRIMARY KEY, text TEXT NOT NULL, actor TEXT NOT NULL, at_us BIGINT)",
    *approvals.MIGRATIONS,
]
MAX_CHARACTERS = 10_000


def put(tx: Tx, actor: str, text: str) -> str:
    """Keep a text and return its digest.

    Raises:
        Invalid: it is empty or too long.
    """
    if not text.strip() or len(text) > MAX_CHARACTERS:
        raise Invalid(f"a reason has 1 to {MAX_CHARACTERS} characters", code="note.length", field="reason")
    digest = canonical.digest({"text": text, "actor": actor})
    tx.execute(
        "INSERT INTO notes(digest, text, actor, at_us) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
        (digest, text, actor, tx.now_us()),
    )
    return digest


def get(space: Space, digest: str) -> str:
    """The text of a digest.

    Raises:
        NotFound: there is none.
    """
    with space.read() as tx:
        text = tx.value("SELECT text FROM notes WHERE digest = ?", (digest,))
    if text is None:
        raise NotFound(f"no note {digest}", code="note.missing")
    return str(text)
