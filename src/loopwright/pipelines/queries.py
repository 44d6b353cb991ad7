"""The tables of the step cache: keys and actions, and the runs that they led to."""

from loopwright.store.database import Tx


def run_of_key(tx: Tx, key: str) -> str | None:
    """The run whose result a key stands for."""
    found = tx.value("SELECT run FROM step_cache WHERE run_key = ?", (key,))
    return None if found is None else str(found)


def keep_key(tx: Tx, key: str, run_id: str) -> bool:
    """Say that a run's result is a key's; False when another's was first."""
    sql = "INSERT INTO step_cache(run_key, run) VALUES (?, ?) ON CONFLICT (run_key) DO NOTHING"
    return tx.execute(sql, (key, run_id)) == 1


def drop_key(tx: Tx, key: str, run_id: str) -> None:
    """Forget a key whose result is not there any more."""
    tx.execute("DELETE FROM step_cache WHERE run_key = ? AND run = ?", (key, run_id))


def run_of_action(tx: Tx, action_id: str) -> str | None:
    """The run that an action led to."""
    found = tx.value("SELECT run FROM step_actions WHERE action_id = ?", (action_id,))
    return None if found is None else str(found)


def keep_action(tx: Tx, action_id: str, run_id: str) -> None:
    """Say which run an action led to."""
    tx.execute(
        "INSERT INTO step_actions(action_id, run) VALUES (?, ?) ON CONFLICT (action_id) DO NOTHING", (action_id, run_id)
    )
