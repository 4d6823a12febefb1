"""Errors of a unit of work and of its database: used wrongly, rolled back, or ended in an unknown way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator.errors.root import MediatorError, name_of


class UnitOfWorkError(MediatorError, RuntimeError):
    """Something is wrong with how a unit of work is used, or with how it ended."""


@dataclass(eq=False, repr=False)
class NoUnitOfWorkError(UnitOfWorkError):
    """Something that belongs to a unit of work was done outside one."""

    subject: object

    def __str__(self) -> str:
        return (
            f"{name_of(self.subject)} needs a running unit of work, and there is none. Do it in the handler of a command "
            "whose pipeline has a DistributedUnitOfWorkBehavior, or inside `async with unit_of_work:`."
        )


@dataclass(eq=False, repr=False)
class ReadOnlyTransactionError(NoUnitOfWorkError):
    """Something that needs a unit of work was done in the read-only transaction of a query."""

    query: object

    def __str__(self) -> str:
        return (
            f"{name_of(self.subject)} needs a unit of work, but {name_of(self.query)} is answered in a read-only "
            "transaction. Make that a command, or send what changes something with `mode=TransactionMode.NEW`."
        )


@dataclass(eq=False, repr=False)
class UnitOfWorkRunningError(UnitOfWorkError):
    """A unit of work was begun while it runs already."""

    transaction_id: str

    def __str__(self) -> str:
        return (
            f"Unit of work {self.transaction_id} runs already in this scope. Join it, or open another scope with "
            "`mediator.scope(TransactionMode.NEW)`."
        )


@dataclass(eq=False, repr=False)
class UnitOfWorkMismatchError(UnitOfWorkError, TypeError):
    """Two parts that must share one unit of work, or one kind of database, do not."""

    part: object
    unit_of_work: object

    def __str__(self) -> str:
        return (
            f"{name_of(self.part)} was given another unit of work than the {name_of(self.unit_of_work)} it is used with. "
            "Both must come from one `Scoped` provider, and outbox, inbox and unit of work from one database."
        )


@dataclass(eq=False, repr=False)
class IsolationNotSupportedError(UnitOfWorkError, ValueError):
    """A database cannot give the isolation level that was asked for."""

    database: str
    isolation: str

    def __str__(self) -> str:
        return f"{self.database} cannot run a transaction at isolation level {self.isolation!r}."


@dataclass(eq=False, repr=False)
class UnitOfWorkRolledBackError(UnitOfWorkError):
    """Something in the transaction failed although its caller went on; the whole was rolled back."""

    transaction_id: str
    message: object
    cause: BaseException

    def __str__(self) -> str:
        return (
            f"Unit of work {self.transaction_id} was rolled back, because {name_of(self.message)} failed in it: "
            f"{self.cause!r}. Swallowing an error does not undo half of a transaction. To try something that may fail, "
            "send it with `mode=TransactionMode.NESTED`."
        )


@dataclass(eq=False, repr=False)
class TransactionOwnershipError(UnitOfWorkError):
    """A handler committed or rolled back the session, which belongs to the unit of work."""

    operation: str
    transaction_id: str

    def __str__(self) -> str:
        return (
            f"`session.{self.operation}()` was called inside unit of work {self.transaction_id}. The unit of work commits "
            "when the command succeeds and rolls back when it raises; the handler does neither. For a part that may "
            "fail use `session.begin_nested()` or `TransactionMode.NESTED`."
        )


@dataclass(eq=False, repr=False)
class CommitOutcomeUnknownError(UnitOfWorkError):
    """The answer to COMMIT was lost or late: the transaction may have happened, and is not run again."""

    transaction_id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"Whether unit of work {self.transaction_id} committed is unknown: {self.reason}. It is not repeated, "
            "because that could double its effect. Look for what it should have written, or repeat it with a command "
            "that can be repeated safely."
        )


@dataclass(eq=False, repr=False)
class CommittedError(UnitOfWorkError):
    """The command committed; something after the commit failed. Never repeat the command.

    Attributes:
        transaction_id: The unit of work.
        response: What the command's handler returned.
    """

    transaction_id: str
    response: Any

    def __str__(self) -> str:
        return (
            f"Unit of work {self.transaction_id} committed, but something after it failed. Do not repeat the command."
        )


@dataclass(eq=False, repr=False)
class EventsNotPublishedError(CommittedError):
    """The command committed, and some of its events did not reach the broker (direct delivery only)."""

    events: Sequence[Any] = ()
    errors: Sequence[Exception] = field(default_factory=tuple[Exception, ...])

    def __str__(self) -> str:
        first = f": {self.errors[0]}" if self.errors else ""
        return (
            f"Unit of work {self.transaction_id} committed, but {len(self.events)} of its events were not published"
            f'{first}. Do not repeat the command. With `delivery="direct"` such events are lost unless you send the '
            "`events` of this error yourself; outbox delivery cannot lose them."
        )


@dataclass(eq=False, repr=False)
class AfterCommitError(CommittedError):
    """The command committed; some of the notifications that were to follow it failed.

    Attributes:
        notifications: Those that failed, or that there was no time for.
        errors: What failed; with direct delivery, its error too.
    """

    notifications: Sequence[Any] = ()
    errors: Sequence[BaseException] = field(default_factory=tuple[BaseException, ...])

    def __str__(self) -> str:
        names = ", ".join(name_of(each) for each in self.notifications) or "what was to follow"
        reasons = "; ".join(repr(error) for error in self.errors)
        return (
            f"Unit of work {self.transaction_id} committed, but after the commit this failed: {names}: {reasons}. Do not "
            "repeat the command; publish the `notifications` of this error again, if they matter."
        )


@dataclass(eq=False, repr=False)
class NestedWriterError(UnitOfWorkError):
    """An inner unit of work would write to the SQLite file in which an enclosing one writes already."""

    database: str

    def __str__(self) -> str:
        return (
            f"This unit of work would wait for ever: an enclosing one already writes to {self.database}, and SQLite has "
            "one writer. Join it (TransactionMode.DEFAULT or NESTED), or send the inner command before the outer one's "
            "first statement."
        )


@dataclass(eq=False, repr=False)
class NestedLockError(NestedWriterError):
    """An inner unit of work waited for a lock on PostgreSQL, which an enclosing one may hold until it ends itself."""

    seconds: float

    def __str__(self) -> str:
        return (
            f"This unit of work runs inside another one and waited {self.seconds:g} s for a lock in {self.database}. If the "
            "enclosing one holds it, both would wait for ever. Join it (TransactionMode.DEFAULT or NESTED), write other "
            "rows, or raise `lock_timeout` if the lock was somebody else's."
        )


@dataclass(eq=False, repr=False)
class WriterTimeoutError(UnitOfWorkError):
    """Other writers kept the SQLite file busy for too long."""

    database: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.database} was busy with other writers for {self.seconds:g} s. Look for a long transaction, or raise "
            "`writer_timeout`."
        )


@dataclass(eq=False, repr=False)
class DatabaseUnavailableError(MediatorError, OSError):
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
class ReadOnlyDatabaseError(MediatorError, OSError):
    """The server takes no writes: it is a standby, or has been set so."""

    database: str

    def __str__(self) -> str:
        return (
            f"The database {self.database} is read-only: the server is a standby, or `default_transaction_read_only` is on. "
            "The pool connects anew. With several hosts in the URL add `?target_session_attrs=read-write`."
        )


@dataclass(eq=False, repr=False)
class PoolExhaustedError(UnitOfWorkError):
    """No connection was given back to the pool in time."""

    size: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"All {self.size} connections of the pool were in use for {self.seconds:g} s. Look for transactions that last "
            "long, or raise `pool_size`, `max_overflow` or `pool_timeout` of the engine."
        )


@dataclass(eq=False, repr=False)
class PoolTooSmallError(UnitOfWorkError):
    """Dispatches are nested deeper than the pool has connections; the innermost would wait for ever."""

    size: int

    def __str__(self) -> str:
        return (
            f"All {self.size} connections of the pool are held by the dispatches around this one, which wait for it to end. "
            "Nest fewer of them with TransactionMode.NEW or SUPPRESS, or raise `pool_size` or `max_overflow` of the engine."
        )
