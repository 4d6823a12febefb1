"""GuardedConnection: an SQLite connection on which nothing is written after the end of the transaction it was meant for.

The driver runs what it is given in a thread, one after the other. A statement of a task that was forgotten can lie behind
the ROLLBACK there, and SQLite would commit it at once: only there, when its turn has come, can that be seen.
"""

import sqlite3
from typing import Any

ENDED = "the transaction of this statement has ended"
"""What the error says, to be recognized."""


class GuardedConnection(sqlite3.Connection):
    """Made by `sqlite3.connect(..., factory=GuardedConnection)`; transactions are begun by an explicit BEGIN.

    Attributes:
        writing: Whether the last transaction was begun to write.
    """

    writing: bool = False

    def cursor(self, factory: Any = None) -> Any:
        """A cursor that refuses statements outside a transaction."""
        make: Any = super().cursor
        return make(factory or GuardedCursor)


class GuardedCursor(sqlite3.Cursor):
    """Refuses to run a statement when the writing transaction that was begun last has ended."""

    def __init__(self, connection: GuardedConnection, /) -> None:
        super().__init__(connection)
        self._guarded = connection

    def execute(self, sql: str, parameters: Any = (), /) -> "GuardedCursor":
        """See `sqlite3.Cursor.execute`."""
        self._check(sql)
        super().execute(sql, parameters)
        return self

    def executemany(self, sql: str, seq_of_parameters: Any, /) -> "GuardedCursor":
        """See `sqlite3.Cursor.executemany`."""
        self._check(sql)
        super().executemany(sql, seq_of_parameters)
        return self

    def _check(self, sql: str) -> None:
        if sql.startswith("BEGIN"):
            self._guarded.writing = sql.startswith("BEGIN IMMEDIATE")
        elif self._guarded.writing and not self._guarded.in_transaction and not sql.startswith("PRAGMA"):
            raise sqlite3.OperationalError(ENDED)
