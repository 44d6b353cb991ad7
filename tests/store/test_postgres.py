"""What only PostgreSQL can do to a Space: lose its answer, put a connection out, keep a secret, tell of a commit."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Invalid, NotFound, Unavailable
from loopwright.kernel.event import EventKind
from loopwright.store import dialect, ledger, postgres
from loopwright.store.postgres import PostgresDatabase
from loopwright.store.space import Space, open_space

pytestmark = pytest.mark.parametrize("ground", ["postgres"], indirect=True)
MADE = EventKind("thing.made@1", "{subject} was made")


def put(space: Space, subject: str) -> int:
    return space.write(lambda tx: ledger.append(tx, "local:me", MADE, subject, {}))


def subjects(space: Space) -> list[str]:
    with space.read() as tx:
        return [
            row["subject"] for row in tx.query("SELECT subject FROM events WHERE kind = ? ORDER BY seq", (MADE.name,))
        ]


def put_out(space: Space) -> None:
    """End every other connection to the server's database, as an administrator would."""
    assert space.settings.database is not None
    with psycopg.connect(space.settings.database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND application_name = 'loopwright'"
        )


@pytest.mark.parametrize("kept", [True, False])
def test_a_commit_whose_answer_was_lost_is_told_as_what_became_of_it(
    space: Space, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    real = psycopg.Connection.execute

    def lose(self: Any, sql: Any, *args: Any, **more: Any) -> Any:
        if sql == "COMMIT":
            monkeypatch.undo()
            if kept:
                real(self, sql)
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return real(self, sql, *args, **more)

    monkeypatch.setattr(psycopg.Connection, "execute", lose)
    if kept:
        put(space, "once")
    else:
        with pytest.raises(Unavailable):
            put(space, "never")
    put(space, "after")
    assert subjects(space) == (["once", "after"] if kept else ["after"])


def test_connections_that_were_put_out_are_made_anew(space: Space) -> None:
    put(space, "before")
    space.database.version()
    put_out(space)
    put(space, "after")
    put_out(space)
    assert subjects(space) == ["before", "after"]
    before = space.database.version()
    put_out(space)
    assert space.database.version() != before, "what was told meanwhile may have been missed"


def test_a_write_that_is_put_out_half_way_is_undone_and_told(space: Space) -> None:
    def half(tx: Any) -> None:
        ledger.append(tx, "local:me", MADE, "half", {})
        put_out(space)
        ledger.append(tx, "local:me", MADE, "other half", {})

    with pytest.raises(Unavailable) as caught:
        space.write(half)
    assert caught.value.hint == "lw status"
    put(space, "whole")
    assert subjects(space) == ["whole"]


def test_a_server_that_is_gone_is_told_without_the_password(ground: str, tmp_path: Path) -> None:
    database = PostgresDatabase(f"postgresql://lw@127.0.0.1:{servers.free_port()}/lw", "s", "not-to-be-seen")
    for act in (lambda: database.write(lambda tx: tx.value("SELECT 1")), lambda: database.read().__enter__()):
        with pytest.raises(Unavailable) as caught:
            act()
        assert "refused" in str(caught.value) and "not-to-be-seen" not in repr(caught.value) + str(caught.value)
    assert "not-to-be-seen" not in database.describe() + repr(database)
    database.close()


def test_a_password_is_taken_from_the_environment_and_never_from_the_file(
    ground: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loopwright.kernel import settings

    found = settings.read(tmp_path, {"LOOPWRIGHT_DATABASE": "postgresql://me:p%40ss@db:5433/x?sslmode=require"})
    assert found.database == "postgresql://me@db:5433/x?sslmode=require" and "p@ss" not in repr(found)
    assert settings.database_password({"LOOPWRIGHT_DATABASE": "postgresql://me:p%40ss@db/x"}) == "p@ss"
    (tmp_path / settings.FILE).write_text('database = "postgresql://me:secret@db/x"\n')
    with pytest.raises(Invalid) as caught:
        settings.read_file(tmp_path)
    assert caught.value.code == "settings.password" and "PGPASSWORD" in str(caught.value.hint)
    assert "secret" not in str(caught.value)
    for bad in ("mysql://a/b", "postgresql://a", "postgresql://a:x/b", "postgresql://u:secret@h/b?bad=1"):
        with pytest.raises(Invalid) as caught:
            settings.read(tmp_path / "none", {"LOOPWRIGHT_DATABASE": bad})
        assert "secret" not in str(caught.value)


def test_a_commit_of_another_is_heard(space: Space) -> None:
    quiet = space.database.version()
    thread = threading.Thread(target=put, args=(space, "news"))
    thread.start()
    thread.join()
    until = monotonic_s() + 30
    while (before := space.database.version()) == quiet:
        assert monotonic_s() < until
    space.write(lambda tx: tx.value("SELECT 1"))
    assert space.database.version() == before, "a write that changes nothing is no news"


@pytest.fixture
def other(space: Space) -> Iterator[PostgresDatabase]:
    """The same schema, opened by another process's hand."""
    assert space.settings.database is not None
    made = PostgresDatabase(space.settings.database, space.settings.schema)
    made.replay = True
    yield made
    made.close()


def test_events_become_visible_in_the_order_of_their_numbers(space: Space, other: PostgresDatabase) -> None:
    seen: list[int] = []
    done = threading.Event()

    def write(database: Any) -> None:
        for number in range(40):
            database.write(lambda tx, n=number: ledger.append(tx, "local:me", MADE, str(n), {}))

    def follow() -> None:
        while True:
            last = done.is_set()
            with space.read() as tx:
                seen.extend(event.seq for event in ledger.read(tx, after=seen[-1] if seen else 0, kinds=[MADE.name]))
            if last:
                return

    threads = [threading.Thread(target=write, args=(each,)) for each in (space.database, other)]
    reader = threading.Thread(target=follow)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert len(seen) == 80 and seen == list(range(seen[0], seen[0] + 80)), "none is missed, none is missing"


def test_a_reader_does_not_hold_up_a_writer_and_sees_one_moment(space: Space, other: PostgresDatabase) -> None:
    put(space, "a")
    with space.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM events WHERE kind = ?", (MADE.name,)) == 1
        other.write(lambda theirs: ledger.append(theirs, "local:me", MADE, "b", {}))
        assert tx.value("SELECT COUNT(*) FROM events WHERE kind = ?", (MADE.name,)) == 1
    assert subjects(space) == ["a", "b"]


def test_a_writer_that_stands_still_is_put_out_and_the_others_go_on(
    space: Space, other: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SESSION, "idle_in_transaction_session_timeout", "200ms")
    begun, went_on, told = threading.Event(), threading.Event(), []

    def still(tx: Any) -> None:
        ledger.append(tx, "local:me", MADE, "still", {})
        begun.set()
        assert went_on.wait(60)
        ledger.append(tx, "local:me", MADE, "more", {})

    def write() -> None:
        with pytest.raises(Unavailable) as caught:
            other.write(still)
        told.append(caught.value.code)

    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(60)
    put(space, "after")
    went_on.set()
    thread.join()
    assert told == ["store.write"] and subjects(space) == ["after"]
    other.write(lambda tx: ledger.append(tx, "local:me", MADE, "again", {}))
    assert subjects(space) == ["after", "again"]


def test_values_come_back_as_sqlite_gives_them(space: Space) -> None:
    def look(tx: Any) -> list[Any]:
        tx.execute("CREATE TABLE odd(a INTEGER PRIMARY KEY, b BLOB, c REAL, d TEXT, text TEXT)")
        row = tx.one("INSERT INTO odd(b, c, d, text) VALUES (?, ?, ?, '?%s $1') RETURNING *", (b"\x00\xff", 0.1, "é"))
        tx.executemany("INSERT INTO odd(c, d) VALUES (?, ?)", [(1.5, "B"), (True, "a")])
        whole = tx.value("SELECT SUM(a) FROM odd")
        assert isinstance(whole, int) and tx.value("SELECT 1 = 1") == 1
        assert [r["d"] for r in tx.query("SELECT d FROM odd ORDER BY d")] == ["B", "a", "é"], "by code point"
        assert tx.value("SELECT COUNT(*) FROM odd WHERE COALESCE(?, d) = d", (None,)) == 3
        assert tx.execute("UPDATE odd SET c = c + ? WHERE a > ?", (1, 1)) == 2
        assert "odd" in tx.tables() and not tx.has_table("even")
        return [*row, dict(row)["text"], whole]

    assert space.write(look) == [1, b"\x00\xff", 0.1, "é", "?%s $1", "?%s $1", 6]
    with pytest.raises(Invalid):
        space.write(lambda tx: tx.execute("INSERT INTO odd(d) VALUES (?)", ("nul \x00",)))
    with pytest.raises(OverflowError):
        space.write(lambda tx: tx.execute("INSERT INTO odd(c) VALUES (?)", (1 << 70,)))


def test_marks_in_quotes_are_no_arguments(ground: str) -> None:
    sql = """SELECT '?', "a?", 'it''s ?' -- why?\n FROM t WHERE x = ? AND y = ?"""
    assert dialect.translate(sql) == (sql.replace("x = ?", "x = $1").replace("y = ?", "y = $2"), False)
    assert dialect.translate("WITH a AS (DELETE FROM t) SELECT 1")[1] and dialect.translate("UPDATE t SET a = ?")[1]


def test_a_schema_that_is_not_there_is_no_space_unless_it_is_made(ground: str, tmp_path: Path) -> None:
    (tmp_path / "project" / ".loopwright").mkdir(parents=True)
    with pytest.raises(NotFound) as caught:
        open_space(tmp_path / "project", migrations=dict)
    assert "schema" in str(caught.value) and "lw restore" in str(caught.value.hint)
    made = open_space(tmp_path / "project", migrations=dict, create=True)
    again = open_space(tmp_path / "project", migrations=dict)
    assert made.database.describe() == again.database.describe()
    made.close()
    again.close()


def test_a_number_that_a_crashed_server_gave_to_another_is_not_taken_for_ones_own(
    ground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = psycopg.Connection.execute
    life = "SELECT stats_reset FROM pg_stat_bgwriter"

    def another(url: str, before: Any) -> None:
        """Commit as soon as the server is there again."""
        until = monotonic_s() + 60
        while True:
            try:
                with psycopg.connect(url, autocommit=True) as connection:
                    if connection.execute(life).fetchone() != before:
                        connection.execute("INSERT INTO loopwright.facts VALUES ('theirs')")
                        return
            except psycopg.OperationalError:
                pass
            assert monotonic_s() < until
            time.sleep(0.05)

    with servers.postgres() as url:

        def crash(self: Any, sql: Any, *args: Any, **more: Any) -> Any:
            if sql == "COMMIT":
                monkeypatch.undo()
                before = real(self, life).fetchone()
                os.kill(self.info.backend_pid, signal.SIGKILL)
                another(url, before)
            return real(self, sql, *args, **more)

        database = PostgresDatabase(url, "loopwright")
        database.make(create=True)
        database.write(lambda tx: tx.execute("CREATE TABLE facts(fact TEXT)"))
        monkeypatch.setattr(psycopg.Connection, "execute", crash)
        with pytest.raises(Unavailable):
            database.write(lambda tx: tx.execute("INSERT INTO facts VALUES ('ours')"))
        with database.read() as tx:
            assert [row["fact"] for row in tx.query("SELECT fact FROM facts")] == ["theirs"]
        database.write(lambda tx: tx.execute("INSERT INTO facts VALUES ('later')"))
        database.close()
