"""What `SqliteDatabase` and the tables rely on in SQLite, and in Python's module for it."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assumptions.process import holding

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def connection(file: Path) -> Iterator[sqlite3.Connection]:
    yield from opened(file)


@pytest.fixture
def other(file: Path, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    yield from opened(file)


def opened(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(file, isolation_level=None, timeout=0, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS outbox (sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE)")
    yield connection
    connection.close()


def insert(connection: sqlite3.Connection, event: str = "x") -> int:
    return int(connection.execute("INSERT INTO outbox (id) VALUES (?) RETURNING sequence", (event,)).fetchone()[0])


def test_wal_stays_with_the_file_and_the_other_settings_with_the_connection(file: Path, connection: sqlite3.Connection):
    """`_PRAGMAS` are set on each new connection. FULL is 2: a commit survives a loss of power also in WAL mode."""
    connection.execute("PRAGMA synchronous=FULL")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    fresh = sqlite3.connect(file)
    assert fresh.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert fresh.execute("PRAGMA foreign_keys").fetchone() == (0,)
    fresh.close()


def test_begin_immediate_takes_the_writers_lock_and_begin_does_not(
    connection: sqlite3.Connection, other: sqlite3.Connection
):
    """`SqliteDatabase.begun`: a writer is a writer from its first statement, and readers are none."""
    other.execute("BEGIN")
    connection.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        other.execute("BEGIN IMMEDIATE")


def test_a_reader_that_has_read_what_is_old_cannot_become_a_writer(
    connection: sqlite3.Connection, other: sqlite3.Connection
):
    """Why writers say so at once: no waiting helps a reader whose snapshot is behind."""
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM outbox").fetchall()
    insert(other)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        insert(connection)


def test_readers_go_on_beside_a_writer_and_see_what_was_committed(
    connection: sqlite3.Connection, other: sqlite3.Connection
):
    """Relays, queries and `mediator outbox` read while commands write (WAL)."""
    connection.execute("BEGIN IMMEDIATE")
    insert(connection)
    assert other.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    connection.execute("COMMIT")
    assert other.execute("SELECT count(*) FROM outbox").fetchone() == (1,)


def test_a_transaction_that_reads_sees_one_state(connection: sqlite3.Connection, other: sqlite3.Connection):
    """Queries read at one snapshot."""
    connection.execute("BEGIN")
    assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    insert(other)
    assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    connection.execute("COMMIT")


def test_a_busy_timeout_waits_for_the_lock(file: Path, connection: sqlite3.Connection, other: sqlite3.Connection):
    """`busy_timeout=5000`: who writes to the file beside the library is waited for."""
    connection.execute("BEGIN IMMEDIATE")
    other.execute("PRAGMA busy_timeout=30000")
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        other.execute("BEGIN IMMEDIATE")

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(10)
    connection.execute("COMMIT")
    waiting.join(30)
    assert other.in_transaction


def test_a_connection_that_may_only_query_refuses_to_write(connection: sqlite3.Connection):
    """`SqliteDatabase.translated` knows it by its text: `NoUnitOfWorkError`."""
    connection.execute("PRAGMA query_only=1")
    with pytest.raises(sqlite3.OperationalError, match="readonly database"):
        insert(connection)
    connection.execute("PRAGMA query_only=0")
    insert(connection)


def test_a_table_that_is_missing_is_told_by_text(connection: sqlite3.Connection):
    """`SqliteDatabase.is_missing_table`: `SchemaError`."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.execute("SELECT 1 FROM mediator_outbox")


def test_a_number_is_not_given_again_after_a_deletion(connection: sqlite3.Connection):
    """`sqlite_autoincrement`: the sequence of an event that was archived never means another one."""
    assert insert(connection) == 1
    connection.execute("DELETE FROM outbox")
    assert insert(connection) == 2


def test_a_number_of_a_transaction_that_was_rolled_back_was_never_seen_and_is_given_again(
    connection: sqlite3.Connection, other: sqlite3.Connection
):
    """With one writer at a time the order of numbers is that of commits, and no other connection knew the number."""
    connection.execute("BEGIN IMMEDIATE")
    assert insert(connection) == 1
    assert other.execute("SELECT * FROM outbox").fetchall() == []
    connection.execute("ROLLBACK")
    assert insert(other) == 1


def test_rows_of_one_insert_are_numbered_in_their_order(connection: sqlite3.Connection):
    """`stage_events` inserts up to 1,000 events in one statement."""
    places = ", ".join(["(?)"] * 1000)
    ids = [f"{n:04}" for n in reversed(range(1000))]
    connection.execute(f"INSERT INTO outbox (id) VALUES {places}", ids)
    assert [row[0] for row in connection.execute("SELECT id FROM outbox ORDER BY sequence")] == ids


def test_returning_gives_the_rows_of_an_insert_in_their_order(connection: sqlite3.Connection):
    """SQLite does not promise it (https://www.sqlite.org/lang_returning.html); nothing here needs more than one row."""
    rows = connection.execute("INSERT INTO outbox (id) VALUES ('b'), ('a'), ('c') RETURNING id").fetchall()
    assert sorted(rows) == [("a",), ("b",), ("c",)]


def test_on_conflict_do_nothing_counts_no_row_and_returns_none(connection: sqlite3.Connection):
    """`SqlAlchemyInbox.insert`: a duplicate."""
    statement = "INSERT INTO outbox (id) VALUES ('x') ON CONFLICT DO NOTHING"
    assert [connection.execute(statement).rowcount for _ in range(2)] == [1, 0]
    assert connection.execute(f"{statement} RETURNING 1").fetchone() is None


def test_a_transaction_ends_by_itself_where_a_statement_says_so(connection: sqlite3.Connection):
    """`_refuse_ended_transaction`, and `GuardedCursor`: later statements would each be committed at once."""
    insert(connection)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO outbox (id) VALUES ('x')")
    assert not connection.in_transaction


def test_an_error_leaves_the_transaction_as_it_was_before_the_statement(connection: sqlite3.Connection):
    """Other than PostgreSQL, SQLite goes on: it is the unit of work that is doomed."""
    insert(connection)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.IntegrityError):
        insert(connection)
    assert connection.in_transaction
    insert(connection, "y")
    connection.execute("COMMIT")


def test_a_connection_that_rolls_back_before_it_is_closed_frees_its_lock_whatever_is_open(
    file: Path, other: sqlite3.Connection
):
    """`SqliteDatabase._roll_back`: closing alone leaves the lock with whoever still has a cursor."""
    writing = sqlite3.connect(file, isolation_level=None)
    writing.execute("BEGIN IMMEDIATE")
    cursor = writing.execute("SELECT 1 UNION SELECT 2")
    cursor.fetchone()
    writing.rollback()
    writing.close()
    other.execute("BEGIN IMMEDIATE")
    other.execute("ROLLBACK")
    del cursor


HOLD = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO outbox (id) VALUES ('lost')")
"""


def test_the_lock_and_the_rows_of_a_process_that_is_killed_are_gone(file: Path, connection: sqlite3.Connection):
    """A process that dies before COMMIT leaves neither rows behind nor anybody waiting."""
    with holding(HOLD, str(file)), pytest.raises(sqlite3.OperationalError, match="database is locked"):
        connection.execute("BEGIN IMMEDIATE")
    connection.execute("BEGIN IMMEDIATE")
    assert connection.execute("SELECT * FROM outbox").fetchall() == []


def test_what_was_committed_outlives_the_death_of_its_process(file: Path, connection: sqlite3.Connection):
    """The WAL is read by whoever opens the file next."""
    with holding(f"{HOLD}\nconnection.execute('COMMIT')", str(file)):
        pass
    assert connection.execute("SELECT id FROM outbox").fetchall() == [("lost",)]


def test_a_subclass_of_connection_and_its_cursor_are_used(file: Path):
    """`GuardedConnection` is the `factory` of the driver."""

    class Own(sqlite3.Connection):
        pass

    connection = sqlite3.connect(file, factory=Own)
    assert type(connection) is Own
    connection.close()
