"""Which role may do which action: one table, data and not code.

A grant or token binds a role to a scope; docs/reference/roles.md is this table against the routes.
"""

ROLES = {
    "viewer": "sees everything but single predictions, which hold rows of people, and who has access",
    "developer": "adds data, runs, logs and registers; asks predictions and sends labels",
    "approver": "holds versions against gates and promotes them",
    "operator": "deploys, rolls back, stops, seals and keeps the server",
    "steward": "keeps data: adds it, exports it, erases subjects, checks and cleans the store",
    "auditor": "reads everything and verifies the audit chain; changes nothing",
    "admin": "invites people and gives roles; may nothing else by it",
}
_READERS = "viewer developer approver operator steward auditor"
_ALL = f"{_READERS} admin"

# action -> roles; what stands in no row is for nobody but the local owner
ACTIONS: dict[str, frozenset[str]] = {
    action: frozenset(roles.split())
    for action, roles in {
        "names.read": _READERS,
        "data.read": _READERS,
        "features.read": _READERS,
        "runs.read": _READERS,
        "endpoints.read": _READERS,
        "jobs.read": _READERS,
        "notifications.read": _READERS,
        "notifications.test": "operator",
        "events.read": _READERS,
        "control.read": _ALL,
        "predictions.read": "developer approver operator steward auditor",
        "predictions.export": "developer steward auditor",
        "data.add": "developer steward",
        "features.rows": "developer steward",
        "features.check": "developer operator steward auditor",
        "runs.start": "developer",
        "endpoints.predict": "developer operator",
        "labels.add": "developer operator steward",
        "endpoints.check": "developer approver operator",
        "endpoints.deploy": "approver operator",
        "endpoints.rollback": "operator",
        "endpoints.override": "approver operator",
        "endpoints.pause": "approver operator",
        "approvals.read": _READERS,
        "approvals.answer": "approver operator steward",
        "approvals.approver": "approver",
        "approvals.operator": "operator",
        "approvals.steward": "steward",
        "clock.advance": "developer operator",
        "store.check": "operator steward auditor",
        "store.clean": "operator steward",
        "store.backup": "operator steward",
        "store.transfer": "developer operator steward",
        "subjects.erase": "steward",
        "audit.read": "operator steward auditor",
        "audit.seal": "operator steward",
        "audit.sign": "operator steward",
        "users.read": "auditor admin",
        "users.invite": "admin",
        "users.grant": "admin",
        "users.disable": "admin",
        "tokens.read": _ALL,
        "tokens.create": _ALL,
        "tokens.revoke": _ALL,
        "me.read": _ALL,
        "sessions.close": _ALL,
    }.items()
}

# What concerns nobody but oneself: whoever has come in may it, whatever the scope of their grants.
OWN = frozenset({"me.read", "sessions.close", "tokens.read", "tokens.create", "tokens.revoke"})

# What somebody who is not known may do: find out that the server lives, and become known.
OPEN = frozenset({"health.live", "login.show", "login.open", "login.accept"})


def known(action: str) -> bool:
    """Whether an action stands in the table."""
    return action in ACTIONS or action in OPEN
