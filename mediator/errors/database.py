"""Errors of a database that cannot be reached, refuses writes or is busy."""

from dataclasses import dataclass

from mediator.errors.transient import TransientError


@dataclass(eq=False, repr=False)
class DatabaseUnavailableError(TransientError, OSError):
    """The database cannot be opened."""

    database: str
    reason: str

    def __str__(self) -> str:
        return f"The database {self.database} cannot be opened: {self.reason}"


@dataclass(eq=False, repr=False)
class DatabaseConnectionError(DatabaseUnavailableError):
    """The connection to the database was lost in the middle of a transaction."""

    def __str__(self) -> str:
        return (
            f"The connection to the database {self.database} was lost: {self.reason}. The transaction is rolled back; the "
            "next transaction opens a new connection."
        )


@dataclass(eq=False, repr=False)
class DatabaseWriteError(DatabaseUnavailableError):
    """The database answers but refuses writes: its disk is full, its file is read-only, or the server is a standby.

    Attributes:
        read_only: Whether the server is read-only, because it is a standby or was configured as read-only.
    """

    read_only: bool = False

    def __str__(self) -> str:
        if self.read_only:
            return (
                f"The database {self.database} is read-only: the server is a standby, or `default_transaction_read_only` is "
                "on. The pool opens new connections. If the URL has several hosts, add `?target_session_attrs=read-write`."
            )
        return (
            f"The database {self.database} stores nothing at present: {self.reason}. The transaction is rolled back. Check "
            "whether the disk is full, what limits the size of the database, and who may write to it."
        )


@dataclass(eq=False, repr=False)
class WriterTimeoutError(TransientError, RuntimeError):
    """Other writers kept the SQLite file busy for longer than `writer_timeout`."""

    database: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.database} was busy with other writers for {self.seconds:g} s. Look for a long transaction, or raise "
            "`writer_timeout`."
        )


@dataclass(eq=False, repr=False)
class PoolExhaustedError(TransientError, RuntimeError):
    """No connection was returned to the pool in time."""

    size: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"All {self.size} connections of the pool were in use for {self.seconds:g} s. Look for long "
            "transactions, or raise `pool_size`, `max_overflow` or `pool_timeout` of the engine."
        )
