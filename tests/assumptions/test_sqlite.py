"""Assumptions of `SqliteDatabase` and the tables about SQLite and Python's `sqlite3`."""

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


def test_wal_mode_belongs_to_the_file_and_other_settings_to_the_connection(file: Path, connection: sqlite3.Connection):
    """`_PRAGMAS` are set on each new connection. With FULL (2) a commit survives a power loss in WAL mode too."""
    connection.execute("PRAGMA synchronous=FULL")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    fresh = sqlite3.connect(file)
    assert fresh.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert fresh.execute("PRAGMA foreign_keys").fetchone() == (0,)
    fresh.close()


def test_begin_immediate_takes_the_write_lock_and_begin_does_not(
    connection: sqlite3.Connection, other: sqlite3.Connection
):
    """`SqliteDatabase.begun` uses BEGIN IMMEDIATE for transactions that may write, and BEGIN for readers."""
    other.execute("BEGIN")
    connection.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        other.execute("BEGIN IMMEDIATE")


def test_a_reader_with_an_outdated_snapshot_cannot_become_a_writer(
    connection: sqlite3.Connection, other: sqlite3.Connection
):
    """Therefore writers take the write lock at the start: an outdated reader fails however long it waits."""
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM outbox").fetchall()
    insert(other)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        insert(connection)


def test_readers_run_concurrently_with_a_writer_and_see_committed_rows(
    connection: sqlite3.Connection, other: sqlite3.Connection
):
    """Relays, queries and `mediator outbox` read while commands write (WAL)."""
    connection.execute("BEGIN IMMEDIATE")
    insert(connection)
    assert other.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    connection.execute("COMMIT")
    assert other.execute("SELECT count(*) FROM outbox").fetchone() == (1,)


def test_a_read_transaction_sees_one_snapshot(connection: sqlite3.Connection, other: sqlite3.Connection):
    """Queries rely on one snapshot."""
    connection.execute("BEGIN")
    assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    insert(other)
    assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    connection.execute("COMMIT")


def test_a_busy_timeout_waits_for_the_lock(file: Path, connection: sqlite3.Connection, other: sqlite3.Connection):
    """`busy_timeout=5000` makes the library wait for other programs that write to the file."""
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


def test_a_query_only_connection_refuses_to_write(connection: sqlite3.Connection):
    """`SqliteDatabase.translated` recognizes the text and raises `NoUnitOfWorkError`."""
    connection.execute("PRAGMA query_only=1")
    with pytest.raises(sqlite3.OperationalError, match="readonly database"):
        insert(connection)
    connection.execute("PRAGMA query_only=0")
    insert(connection)


def test_a_missing_table_is_recognized_by_the_error_text(connection: sqlite3.Connection):
    """`SqliteDatabase.is_missing_table` recognizes the text, and the library raises `SchemaError`."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.execute("SELECT 1 FROM mediator_outbox")


def test_an_autoincrement_number_is_not_reused_after_a_deletion(connection: sqlite3.Connection):
    """`sqlite_autoincrement` is set so that the sequence of an archived event never names another event."""
    assert insert(connection) == 1
    connection.execute("DELETE FROM outbox")
    assert insert(connection) == 2


def test_an_autoincrement_number_is_reused_after_a_rollback(connection: sqlite3.Connection, other: sqlite3.Connection):
    """With one writer at a time, numbers follow the order of commits, and no other connection saw the number."""
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


def test_returning_yields_the_rows_of_an_insert_in_their_order(connection: sqlite3.Connection):
    """SQLite does not promise this order (https://www.sqlite.org/lang_returning.html); the library reads one row."""
    rows = connection.execute("INSERT INTO outbox (id) VALUES ('b'), ('a'), ('c') RETURNING id").fetchall()
    assert sorted(rows) == [("a",), ("b",), ("c",)]


def test_on_conflict_do_nothing_counts_no_row_and_returns_none(connection: sqlite3.Connection):
    """`SqlAlchemyInbox.insert` recognizes a duplicate by it."""
    statement = "INSERT INTO outbox (id) VALUES ('x') ON CONFLICT DO NOTHING"
    assert [connection.execute(statement).rowcount for _ in range(2)] == [1, 0]
    assert connection.execute(f"{statement} RETURNING 1").fetchone() is None


def test_a_statement_with_or_rollback_ends_the_transaction(connection: sqlite3.Connection):
    """`_refuse_ended_transaction` and `GuardedCursor` detect it, because later statements would be autocommitted."""
    insert(connection)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO outbox (id) VALUES ('x')")
    assert not connection.in_transaction


def test_an_error_undoes_only_its_statement_and_keeps_the_transaction(connection: sqlite3.Connection):
    """Unlike PostgreSQL, SQLite accepts further statements, so the unit of work itself must be doomed."""
    insert(connection)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.IntegrityError):
        insert(connection)
    assert connection.in_transaction
    insert(connection, "y")
    connection.execute("COMMIT")


def test_a_connection_rolled_back_before_closing_releases_its_lock_despite_open_cursors(
    file: Path, other: sqlite3.Connection
):
    """`SqliteDatabase._roll_back` rolls back first, because closing alone keeps the lock while a cursor is open."""
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


def test_the_lock_and_the_uncommitted_rows_of_a_killed_process_are_gone(file: Path, connection: sqlite3.Connection):
    """A process that dies before COMMIT leaves neither rows nor a lock behind."""
    with holding(HOLD, str(file)), pytest.raises(sqlite3.OperationalError, match="database is locked"):
        connection.execute("BEGIN IMMEDIATE")
    connection.execute("BEGIN IMMEDIATE")
    assert connection.execute("SELECT * FROM outbox").fetchall() == []


def test_committed_rows_survive_the_death_of_their_process(file: Path, connection: sqlite3.Connection):
    """The next process that opens the file reads the WAL."""
    with holding(f"{HOLD}\nconnection.execute('COMMIT')", str(file)):
        pass
    assert connection.execute("SELECT id FROM outbox").fetchall() == [("lost",)]


def test_a_subclass_of_connection_and_its_cursor_are_used(file: Path):
    """The library passes `GuardedConnection` to the driver as `factory`."""

    class Own(sqlite3.Connection):
        pass

    connection = sqlite3.connect(file, factory=Own)
    assert type(connection) is Own
    connection.close()
