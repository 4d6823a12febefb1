"""Nothing is written on an SQLite connection after the end of the transaction that it was meant for."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mediator.sqlalchemy.sqlite import ENDED, GuardedConnection


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(tmp_path / "app.db", factory=GuardedConnection, isolation_level=None)
    with closing(opened):
        opened.cursor().execute("CREATE TABLE entries (text TEXT)")
        yield opened


def rows(connection: sqlite3.Connection) -> int:
    connection.cursor().execute("BEGIN")
    count = connection.cursor().execute("SELECT count(*) FROM entries").fetchone()[0]
    connection.rollback()
    return int(count)


@pytest.mark.parametrize("ending", ["rollback", "commit"])
def test_a_statement_after_the_end_of_its_transaction_is_refused(connection: sqlite3.Connection, ending: str) -> None:
    connection.cursor().execute("BEGIN IMMEDIATE")
    late = connection.cursor()
    getattr(connection, ending)()
    with pytest.raises(sqlite3.OperationalError, match=ENDED):
        late.execute("INSERT INTO entries VALUES ('a')")
    with pytest.raises(sqlite3.OperationalError, match=ENDED):
        late.executemany("INSERT INTO entries VALUES (?)", [("b",), ("c",)])
    assert rows(connection) == 0


def test_a_statement_in_its_transaction_runs(connection: sqlite3.Connection) -> None:
    early = connection.cursor()
    connection.cursor().execute("BEGIN IMMEDIATE")
    early.execute("SAVEPOINT s")
    early.executemany("INSERT INTO entries VALUES (?)", [("a",), ("b",)])
    early.execute("RELEASE s")
    connection.commit()
    assert rows(connection) == 2
