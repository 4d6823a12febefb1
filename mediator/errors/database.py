"""Errors of a database that cannot be reached, stores nothing or is busy."""

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
            "next one connects anew."
        )


@dataclass(eq=False, repr=False)
class DatabaseWriteError(DatabaseUnavailableError):
    """The database answers and stores nothing: no room, a file that cannot be written, no memory, a standby server.

    Attributes:
        read_only: Whether the server takes no writes because it is a standby, or has been set so.
    """

    read_only: bool = False

    def __str__(self) -> str:
        if self.read_only:
            return (
                f"The database {self.database} is read-only: the server is a standby, or `default_transaction_read_only` is "
                "on. The pool connects anew. With several hosts in the URL add `?target_session_attrs=read-write`."
            )
        return (
            f"The database {self.database} stores nothing at present: {self.reason}. The transaction is rolled back. See "
            "whether its disk is full, what limits its size, and who may write to it."
        )


@dataclass(eq=False, repr=False)
class WriterTimeoutError(TransientError, RuntimeError):
    """Other writers kept the SQLite file busy for too long."""

    database: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.database} was busy with other writers for {self.seconds:g} s. Look for a long transaction, or raise "
            "`writer_timeout`."
        )


@dataclass(eq=False, repr=False)
class PoolExhaustedError(TransientError, RuntimeError):
    """No connection was given back to the pool in time."""

    size: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"All {self.size} connections of the pool were in use for {self.seconds:g} s. Look for transactions that last "
            "long, or raise `pool_size`, `max_overflow` or `pool_timeout` of the engine."
        )
