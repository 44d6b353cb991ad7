"""Who may what: roles on scopes, tokens that are never more than their maker, and the reason that each answer gives."""

import os

import msgspec
import pytest

from loopwright import house
from loopwright.access import ops, roles, service, sessions, tokens, users
from loopwright.access.published import covers, within
from loopwright.kernel.errors import Forbidden, Invalid, NotFound
from loopwright.store import ledger
from loopwright.store.space import Space

pytestmark = pytest.mark.usefixtures("cheap_passwords")
ME = service.local_actor()
PASSWORD = "a quiet morning in may"


def person(space: Space, name: str, role: str, scope: str = "*") -> str:
    """A user who has chosen a password; returns the actor."""
    handed = users.invite(space, ME, name, role=role, scope=scope, hours=1)
    return sessions.accept(space, handed.secret, PASSWORD, "10.0.0.1").actor


def may(space: Space, actor: str, action: str, subject: str = "") -> bool:
    return service.authorize(space, actor, action, subject).passed


def test_every_action_of_every_row_stands_in_the_table_and_none_stands_there_for_nothing() -> None:
    asked = {op.action for op in house.ops().values()}
    by_wires = {"control.read", "clock.advance", "endpoints.predict", "sessions.close", *roles.OPEN}
    by_wires |= {"endpoints.override", "approvals.approver", "approvals.operator", "approvals.steward"}  # asked within
    assert asked <= set(roles.ACTIONS)
    assert set(roles.ACTIONS) | roles.OPEN == asked | by_wires
    assert {role for names in roles.ACTIONS.values() for role in names} == set(roles.ROLES)


def test_every_subject_names_arguments_of_its_row() -> None:
    from loopwright.faces import bind

    for op in house.ops().values():
        field = op.subject.partition(":")[2].strip("{}")
        assert not field or field in {param.name for param in bind.params(op)}, op.name


def test_an_auditor_changes_nothing_and_an_admin_only_people() -> None:
    writing = {op.action for op in house.ops().values() if op.http and not op.http.startswith("GET")}
    own = {"tokens.create", "tokens.revoke", "sessions.close"}
    reads_by_post = {"predictions.export"}
    held = {role: {action for action, names in roles.ACTIONS.items() if role in names} for role in roles.ROLES}
    assert held["auditor"] & writing <= own | reads_by_post
    assert held["viewer"] & writing <= own
    assert held["admin"] == own | {
        "control.read", "me.read", "tokens.read", "users.read", "users.invite", "users.grant", "users.disable"
    }  # fmt: skip


def test_a_role_holds_on_its_scope_and_the_reason_says_so(space: Space) -> None:
    ana = person(space, "ana", "operator", "endpoint:delay")
    verdict = service.authorize(space, ana, "endpoints.rollback", "endpoint:delay")
    assert verdict.passed
    assert "operator on endpoint:delay" in verdict.reason
    refused = service.authorize(space, ana, "endpoints.rollback", "endpoint:delays")
    assert not refused.passed
    assert "endpoint:delays" in refused.reason
    assert "operator" in refused.reason
    assert not may(space, ana, "endpoints.rollback")
    assert not may(space, ana, "data.add", "name:delay")
    assert not may(space, ana, "no.such", "endpoint:delay")


def test_a_scope_that_ends_in_a_star_holds_all_that_begin_alike(space: Space) -> None:
    bob = person(space, "bob", "viewer", "endpoint:del*")
    assert may(space, bob, "endpoints.read", "endpoint:delay")
    assert may(space, bob, "endpoints.read", "endpoint:del")
    assert not may(space, bob, "endpoints.read", "endpoint:de")
    assert not may(space, bob, "endpoints.read", "name:delay")


@pytest.mark.parametrize(
    ("scope", "subject", "holds"),
    [
        ("*", "", True), ("*", "endpoint:a", True), ("endpoint:a", "endpoint:a", True), ("endpoint:*", "", False),
        ("endpoint:a", "endpoint:ab", False), ("endpoint:a*", "endpoint:ab", True), ("endpoint:a*", "name:ab", False),
    ],
)  # fmt: skip
def test_scopes(scope: str, subject: str, holds: bool) -> None:
    assert covers(scope, subject) is holds


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("*", "*", "*"), ("*", "endpoint:a", "endpoint:a"), ("endpoint:a*", "endpoint:ab", "endpoint:ab"),
        ("endpoint:ab*", "endpoint:a*", "endpoint:ab*"), ("endpoint:a", "endpoint:b", None),
        ("name:*", "endpoint:a", None),
    ],
)  # fmt: skip
def test_what_two_scopes_both_hold(one: str, other: str, both: str | None) -> None:
    assert within(one, other) == within(other, one) == both


def test_a_token_is_never_more_than_its_maker(space: Space) -> None:
    dev = person(space, "dev", "developer", "endpoint:del*")
    with pytest.raises(Forbidden):
        tokens.create(space, dev, role="operator", scope="endpoint:delay", days=1)
    with pytest.raises(Forbidden):
        tokens.create(space, dev, role="developer", scope="*", days=1)
    made = tokens.create(space, dev, role="developer", scope="endpoint:delay", days=1)
    token = f"token:{made.id}"
    assert may(space, token, "endpoints.predict", "endpoint:delay")
    assert not may(space, token, "endpoints.predict", "endpoint:delta")
    users.revoke(space, ME, "dev", role="developer", scope="endpoint:del*")
    assert not may(space, token, "endpoints.predict", "endpoint:delay")


def test_a_token_makes_no_token_and_ends_with_its_maker(space: Space) -> None:
    ops_person = person(space, "kim", "operator")
    made = tokens.create(space, ops_person, role="operator", scope="*", days=1)
    token = f"token:{made.id}"
    with pytest.raises(Forbidden):
        tokens.create(space, token, role="operator", scope="*", days=1)
    assert may(space, token, "endpoints.rollback", "endpoint:x")
    users.disable(space, ME, "kim")
    assert not may(space, token, "endpoints.rollback", "endpoint:x")
    assert not may(space, ops_person, "endpoints.read")
    users.enable(space, ME, "kim")
    assert may(space, token, "endpoints.rollback", "endpoint:x")
    tokens.revoke(space, ops_person, made.id)
    assert not may(space, token, "endpoints.rollback", "endpoint:x")


def test_tokens_are_seen_and_revoked_by_their_maker_and_by_who_keeps_people(space: Space) -> None:
    one, two = person(space, "one", "developer"), person(space, "two", "developer")
    made = tokens.create(space, one, role="developer", scope="*", days=1)
    assert [token.id for token in tokens.listed(space, one)] == [made.id]
    assert tokens.listed(space, two) == []
    with pytest.raises(NotFound):
        tokens.revoke(space, two, made.id)
    assert [token.id for token in tokens.listed(space, ME)] == [made.id]
    assert tokens.revoke(space, person(space, "boss", "admin"), made.id).revoked_us is not None


def test_the_owner_and_the_parts_of_the_space_may_all(space: Space) -> None:
    assert f"local:{os.getuid()}" == ME
    for actor in (ME, *service.SYSTEM_ACTORS):
        assert may(space, actor, "endpoints.deploy", "endpoint:x")
        assert not may(space, actor, "nonsense")
    for actor in ("", "anonymous", "user:", "token:", "user:nobody", "Local:0", "root"):
        assert not may(space, actor, "names.read")


def test_an_admin_may_nothing_but_people(space: Space) -> None:
    admin = person(space, "root", "admin")
    assert may(space, admin, "users.grant")
    assert not may(space, admin, "endpoints.deploy", "endpoint:x")
    assert not may(space, admin, "names.read", "name:x")


@pytest.mark.parametrize(
    ("template", "args", "subject"),
    [
        ("endpoint:{endpoint}", {"endpoint": "delay"}, "endpoint:delay"),
        ("endpoint:{ref}", {"ref": "delay@3"}, "endpoint:delay"),
        ("endpoint:{ref}", {"ref": "delay~1"}, "endpoint:delay"),
        ("name:{as_}", {"as_": None}, ""),
        ("name:{as_}", {}, ""),
        ("", {"endpoint": "delay"}, ""),
        ("endpoint:{endpoint}", {"endpoint": "{name}"}, "endpoint:{name}"),
    ],
)
def test_subjects_come_from_the_arguments(template: str, args: dict[str, object], subject: str) -> None:
    assert service.subject_of(template, args) == subject


def test_what_concerns_oneself_takes_no_grant_on_everything(space: Space) -> None:
    ana = person(space, "ana", "viewer", "endpoint:x")
    made = tokens.create(space, ana, role="viewer", scope="endpoint:x", days=1)
    for action in roles.OWN:
        assert may(space, ana, action) and may(space, f"token:{made.id}", action)
        assert not may(space, "anonymous", action) and not may(space, "user:nobody", action)
    with pytest.raises(Forbidden):
        tokens.create(space, ana, role="viewer", scope="*", days=1)
    users.revoke(space, ME, "ana", role="viewer", scope="endpoint:x")
    assert may(space, ana, "sessions.close") and not may(space, ana, "endpoints.read", "endpoint:x")
    users.disable(space, ME, "ana")
    for who in (ana, f"token:{made.id}"):
        assert not any(may(space, who, action) for action in roles.OWN)


def test_what_is_no_scope_is_refused(space: Space) -> None:
    for scope in ("", "endpoint", "endpoint:", "endpoint:A", "all", "endpoint:a/../b", "*a", "endpoint:a**"):
        with pytest.raises(Invalid) as caught:
            users.invite(space, ME, "x", role="viewer", scope=scope, hours=1)
        assert caught.value.field == "scope"
    assert users.listed(space) == []


def test_what_is_no_role_name_or_span_is_refused(space: Space) -> None:
    for change in ({"role": "root"}, {"name": "A B"}, {"hours": 0}, {"role": None}):
        given = {"name": "x", "role": "viewer", "scope": "*", "hours": 1, **change}
        with pytest.raises(Invalid) as caught:
            users.invite(space, ME, str(given.pop("name")), **given)  # type: ignore[arg-type]
        assert caught.value.field == next(iter(change))
    assert users.listed(space) == []
    with pytest.raises(Invalid):
        tokens.create(space, ME, role="viewer", scope="*", days=4000)


def test_events_name_nobody_and_sentences_do(space: Space) -> None:
    who = person(space, "ana@example.org", "viewer")
    users.grant(space, ME, "ana@example.org", role="auditor", scope="name:x")
    with space.read() as tx:
        rows = ledger.read(tx)
    told = [event for event in rows if event.subject == who]
    assert [event.kind for event in told] == [
        "user.invited@1", "grant.given@1", "user.enabled@1", "session.opened@1", "grant.given@1",
    ]  # fmt: skip
    assert b"ana@example" not in msgspec.json.encode(rows)
    from loopwright.lineage.events import events

    lines = events(space, ME, subject=who)
    assert [getattr(line, "sentence", "") for line in lines][:2] == [
        "ana@example.org was invited as viewer on *", "ana@example.org became viewer on *",
    ]  # fmt: skip


def test_who_has_access_is_not_told_to_who_sees_only_what_happens(space: Space) -> None:
    from loopwright.lineage.events import events
    from loopwright.lineage.show import log, show

    who = person(space, "ana@example.org", "developer")
    tokens.create(space, ME, role="viewer", scope="*", days=1)
    last = len(events(space, ME))
    assert last >= 3
    kim = person(space, "kim", "auditor")
    assert len(events(space, kim)) == len(log(space, kim)) > last
    assert show(space, kim, ref="event:1")[0].facts["kind"] == "user.invited@1"
    for role in ("viewer", "developer", "operator", "steward", "approver"):
        other = person(space, f"a-{role}", role)
        assert events(space, other) == events(space, other, subject=who) == log(space, other) == []
        with pytest.raises(NotFound):
            show(space, other, ref="event:1")


def test_one_is_told_who_one_is(space: Space) -> None:
    who = person(space, "ana", "viewer", "endpoint:x")
    assert ops.me(space, who).name == "ana"
    assert [(grant.role, grant.scope) for grant in ops.me(space, who).grants] == [("viewer", "endpoint:x")]
    assert ops.me(space, ME) == ops.Me(actor=ME, name=None, grants=[])
