"""Passwords, invitations and sessions: each secret works for whom and as long as it should, and guessing is slow."""

import time

import pytest

from loopwright.access import passwords, queries, service, sessions, users
from loopwright.access.model import Unauthenticated
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Conflict, Invalid
from loopwright.store.space import Space

ME = service.local_actor()
PASSWORD = "a quiet morning in may"
HERE = "10.0.0.1"


def invited(space: Space, name: str = "ana") -> str:
    return users.invite(space, ME, name, role="viewer", scope="*", hours=1).secret


def later(space: Space, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = machine_us() + int(seconds * 1e6)
    for module in (sessions, users):
        monkeypatch.setattr(module, "machine_us", lambda: now)


def test_scrypt_has_its_salt_and_its_cost() -> None:
    one, two = passwords.hashed(PASSWORD), passwords.hashed(PASSWORD)
    assert one != two
    assert one.split("$")[:4] == ["scrypt", "32768", "8", "3"]
    assert passwords.matches(PASSWORD, one)
    assert not passwords.matches(PASSWORD + "x", one)
    assert not passwords.matches("", None)


def test_a_name_that_nobody_has_costs_as_much_as_a_wrong_password() -> None:
    kept = passwords.hashed(PASSWORD)
    spent = []
    for held in (kept, None):
        began = time.process_time()
        passwords.matches("wrong", held)
        spent.append(time.process_time() - began)
    assert max(spent) < 3 * min(spent)


@pytest.mark.usefixtures("cheap_passwords")
def test_what_is_no_password_is_refused_without_being_said(space: Space) -> None:
    token = invited(space)
    for password in ("", "short", "x" * 2000, "aaaaaaaaaaaaaaaa", "i am ana and this is long"):
        with pytest.raises(Invalid) as caught:
            sessions.accept(space, token, password, HERE)
        assert caught.value.field == "password"
        assert not password or password not in caught.value.message
    assert sessions.accept(space, token, PASSWORD, HERE).actor.startswith("user:")


@pytest.mark.usefixtures("cheap_passwords")
def test_an_invitation_works_once(space: Space) -> None:
    token = invited(space)
    opened = sessions.accept(space, token, PASSWORD, HERE)
    assert sessions.user_of(space, opened.cookie) == opened.actor
    with pytest.raises(Unauthenticated):
        sessions.accept(space, token, "another good password", HERE)
    assert sessions.log_in(space, "ana", PASSWORD, HERE).actor == opened.actor


@pytest.mark.usefixtures("cheap_passwords")
def test_a_new_invitation_voids_the_one_before_and_sets_the_password_anew(space: Space) -> None:
    first = invited(space)
    second = invited(space)
    with pytest.raises(Unauthenticated):
        sessions.accept(space, first, PASSWORD, HERE)
    cookie = sessions.accept(space, second, PASSWORD, HERE).cookie
    third = users.invite(space, ME, "ana", role=None, scope="*", hours=1).secret
    sessions.accept(space, third, "an evening by the sea", HERE)
    assert sessions.user_of(space, cookie) is None
    with pytest.raises(Unauthenticated):
        sessions.log_in(space, "ana", PASSWORD, HERE)


@pytest.mark.usefixtures("cheap_passwords")
def test_an_invitation_ends(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    token = invited(space)
    later(space, monkeypatch, 3601)
    with pytest.raises(Unauthenticated):
        sessions.accept(space, token, PASSWORD, HERE)


@pytest.mark.usefixtures("cheap_passwords")
def test_a_session_ends_after_twelve_idle_hours_and_after_a_week(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = sessions.accept(space, invited(space), PASSWORD, HERE)
    began = machine_us()
    for hours in range(11, 168, 11):
        monkeypatch.setattr(sessions, "machine_us", lambda hours=hours: began + hours * 3_600_000_000)
        assert sessions.user_of(space, opened.cookie) == opened.actor, hours
    monkeypatch.setattr(sessions, "machine_us", lambda: began + 170 * 3_600_000_000)
    assert sessions.user_of(space, opened.cookie) is None
    monkeypatch.undo()
    other = sessions.log_in(space, "ana", PASSWORD, HERE)
    later(space, monkeypatch, 12 * 3600 + 5)
    assert sessions.user_of(space, other.cookie) is None


@pytest.mark.usefixtures("cheap_passwords")
def test_logging_out_and_being_disabled_end_a_session(space: Space) -> None:
    opened = sessions.accept(space, invited(space), PASSWORD, HERE)
    sessions.log_out(space, opened.cookie)
    assert sessions.user_of(space, opened.cookie) is None
    before = service.refreshed(space).generation
    for cookie in (opened.cookie, "made up"):
        sessions.log_out(space, cookie)
    assert service.refreshed(space).generation == before
    again = sessions.log_in(space, "ana", PASSWORD, HERE)
    assert sessions.user_of(space, again.cookie) == opened.actor
    users.disable(space, ME, "ana")
    assert sessions.user_of(space, again.cookie) is None
    with pytest.raises(Unauthenticated):
        sessions.log_in(space, "ana", PASSWORD, HERE)
    with pytest.raises(Conflict):
        users.invite(space, ME, "ana", role=None, scope="*", hours=1)


@pytest.mark.usefixtures("cheap_passwords")
def test_a_known_and_an_unknown_name_are_answered_alike_and_slowed_alike(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.accept(space, invited(space), PASSWORD, HERE)
    monkeypatch.setattr(passwords, "_scrypt", lambda password, salt, n, r, p: b"\1" * 32)  # its time is not the matter
    said: dict[str, list[tuple[str, str]]] = {}
    for place, name in (("1.1.1.1", "ana"), ("2.2.2.2", "nobody")):
        for _ in range(7):
            with pytest.raises((Unauthenticated, sessions.SlowDown)) as caught:
                sessions.log_in(space, name, "wrong", place)
            said.setdefault(name, []).append((type(caught.value).__name__, caught.value.message))
    assert said["ana"] == said["nobody"]
    assert [kind for kind, _ in said["ana"]] == ["Unauthenticated"] * 5 + ["SlowDown"] * 2


@pytest.mark.usefixtures("cheap_passwords")
def test_a_guesser_waits_longer_each_time_and_a_right_password_ends_it(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.accept(space, invited(space), PASSWORD, HERE)
    real = passwords._scrypt
    monkeypatch.setattr(passwords, "_scrypt", lambda password, salt, n, r, p: b"\1" * 32)
    now = [machine_us()]
    monkeypatch.setattr(sessions, "machine_us", lambda: now[0])
    waits = []
    for _ in range(14):
        with pytest.raises(Unauthenticated):
            sessions.log_in(space, "ana", "wrong", "3.3.3.3")
        with space.read() as tx:
            until = int(tx.value("SELECT MAX(until_us) FROM login_failures WHERE key LIKE 'account:%'"))
        waits.append(max(0, until - now[0]) / 1e6)
        now[0] = max(now[0], until) + 1
    assert waits[:5] == [0, 0, 0, 0, 1]
    assert waits[5:9] == [2, 4, 8, 16]
    assert max(waits) == 60
    monkeypatch.setattr(passwords, "_scrypt", real)
    sessions.log_in(space, "ana", PASSWORD, "3.3.3.3")
    with space.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM login_failures WHERE key LIKE 'account:%'") == 0


@pytest.mark.usefixtures("cheap_passwords")
def test_what_is_kept_of_a_secret_is_a_digest(space: Space) -> None:
    token = invited(space)
    opened = sessions.accept(space, token, PASSWORD, HERE)
    with space.read() as tx:
        kept = [
            str(tuple(row))
            for table in ("users", "invitations", "sessions")
            for row in tx.query(f"SELECT * FROM {table}")
        ]
        assert len(queries.sessions(tx)) == 1
    for secret in (token, opened.cookie, PASSWORD):
        assert not any(secret in row for row in kept)
    assert opened.cookie not in repr(opened)
