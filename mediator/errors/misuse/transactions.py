"""Misuse of units of work, of their databases and of idempotency keys."""

from mediator.errors.misuse.classes import (
    MisuseError,
    NestedTransactionError,
    NoUnitOfWorkError,
    SchemaError,
    StaleObjectError,
)
from mediator.errors.root import name_of
from mediator.printable import shown_reason


def no_unit_of_work(subject: object, running: str = "") -> NoUnitOfWorkError:
    """Something that belongs to a unit of work was done outside one, or beside the one that runs.

    Args:
        subject: What was done.
        running: What is said of the unit of work that runs in the scope, and is another one; empty when none runs.
    """
    if running:
        return NoUnitOfWorkError(
            subject,
            f"{name_of(subject)} needs its own unit of work, and the one that runs in this scope is another: "
            f"{running}. A command writes through one unit of work, in one database. Use the session of that one, "
            "or send a command for the other database with `mode=TransactionMode.NEW`.",
        )
    return NoUnitOfWorkError(
        subject,
        f"{name_of(subject)} needs a running unit of work, and there is none. Do it in the handler of a command "
        "whose pipeline has a DistributedUnitOfWorkBehavior, or inside `async with unit_of_work:`.",
    )


def read_only(subject: object, query: object) -> NoUnitOfWorkError:
    """Something that needs a unit of work was done in the read-only transaction of a query."""
    return NoUnitOfWorkError(
        subject,
        f"{name_of(subject)} needs a unit of work, but {name_of(query)} is answered in a read-only "
        "transaction. Make that a command, or send what changes something with `mode=TransactionMode.NEW`.",
    )


def already_running(transaction_id: str) -> MisuseError:
    """A unit of work was begun while it runs already in this scope."""
    return MisuseError(
        transaction_id,
        f"Unit of work {transaction_id} runs already in this scope. Join it, or open another scope with "
        "`mediator.scope(TransactionMode.NEW)`.",
    )


def another_running(running: str) -> MisuseError:
    """A unit of work was begun while another one runs in the same scope."""
    return MisuseError(
        running,
        f"Another unit of work runs in this scope: {running}. A scope has one at a time, and a command one "
        "database. Let that one end first, or open another scope with `mediator.scope(TransactionMode.NEW)`.",
    )


def shared_by_dispatches(transaction_id: str, name: str) -> MisuseError:
    """Two dispatches have the same unit of work, which is of the class with this name."""
    return MisuseError(
        transaction_id,
        f"Unit of work {transaction_id} runs in another dispatch at this moment, and this one was given the "
        f"same object. Each dispatch needs one of its own: declare it as `Scoped({name}, ...)`, not as a "
        "Singleton.",
    )


def other_unit_of_work(part: object, unit_of_work: object) -> MisuseError:
    """Two parts that must share one unit of work, or one kind of database, do not."""
    return MisuseError(
        part,
        f"{name_of(part)} was given another unit of work than the {name_of(unit_of_work)} it is used with. "
        "Both must come from one `Scoped` provider, and outbox, inbox and unit of work from one database.",
    )


def isolation_not_supported(database: str, isolation: str) -> MisuseError:
    """A database cannot give the isolation level that was asked for."""
    return MisuseError(database, f"{database} cannot run a transaction at isolation level {isolation!r}.")


def session_ended(operation: str, transaction_id: str) -> MisuseError:
    """A handler committed or rolled back the session, which belongs to the unit of work."""
    return MisuseError(
        f"session.{operation}()",
        f"`session.{operation}()` was called inside unit of work {transaction_id}. The unit of work commits "
        "when the command succeeds and rolls back when it raises; the handler does neither. For a part that may "
        "fail use `session.begin_nested()` or `TransactionMode.NESTED`.",
    )


def stale_object(entity: type, reason: str) -> StaleObjectError:
    """An object that an earlier transaction loaded was changed, and cannot be written as it is."""
    return StaleObjectError(
        entity,
        f"An object of {name_of(entity)} was loaded before this transaction began, and was changed or added in it: "
        f"{reason}. Load it in the transaction that changes it: `await session.get(...)`, or "
        "`await session.refresh(...)` before the change.",
        reason,
    )


def nested_writer(database: str) -> NestedTransactionError:
    """An inner unit of work would write to the SQLite file in which an enclosing one writes already."""
    return NestedTransactionError(
        database,
        f"This unit of work would wait for ever: an enclosing one already writes to {database}, and SQLite has "
        "one writer. Join it (TransactionMode.DEFAULT or NESTED), or send the inner command before the outer one's "
        "first statement.",
    )


def nested_lock(database: str, seconds: float) -> NestedTransactionError:
    """An inner unit of work waited for a lock on PostgreSQL, which an enclosing one may hold until it ends itself."""
    return NestedTransactionError(
        database,
        f"This unit of work runs inside another one and waited {seconds:g} s for a lock in {database}. If the "
        "enclosing one holds it, both would wait for ever. Join it (TransactionMode.DEFAULT or NESTED), write other "
        "rows, or raise `lock_timeout` if the lock was somebody else's.",
    )


def pool_too_small(pool: object, size: int) -> MisuseError:
    """Dispatches are nested deeper than the pool has connections; the innermost would wait for ever."""
    return MisuseError(
        pool,
        f"All {size} connections of the pool are held by the dispatches around this one, which wait for it to end. "
        "Nest fewer of them with TransactionMode.NEW or SUPPRESS, or raise `pool_size` or `max_overflow` of the engine.",
    )


def no_table(database: str, table: str) -> SchemaError:
    """A table of this library is not in the database."""
    return SchemaError(
        database,
        f"The database {database} has no table {table}. Create the tables with "
        "`mediator schema create module:container`, or with `await create_schema(engine)`.",
    )


def no_rows(database: str, table: str, rows: int, needed: int) -> SchemaError:
    """A table of this library lacks rows that it begins with."""
    return SchemaError(
        database,
        f"The table {table} in the database {database} has {rows} of the {needed} rows that relays "
        "need, so nothing is published, and the events wait. Add the missing rows with `mediator schema create "
        "module:container`, with `await create_schema(engine)`, or in a migration of your own with `schema_rows`.",
    )


def schema_outdated(database: str, version: int, needed: int) -> SchemaError:
    """The tables of this library in the database are older than the library."""
    return SchemaError(
        database,
        f"The tables in the database {database} are of version {version}, and this library needs version "
        f"{needed}. Upgrade them with `mediator schema upgrade module:container`, or with "
        "`await upgrade_schema(engine)`.",
        version,
    )


def schema_newer(database: str, version: int, known: int) -> SchemaError:
    """The tables of this library in the database are newer than the library."""
    return SchemaError(
        database,
        f"The tables in the database {database} are of version {version}, and this library knows them up to "
        f"version {known}. Nothing was changed. Install the version of the library that upgraded them, or a later "
        "one.",
        version,
    )


def not_repeatable(command: object, part: str, reason: str) -> MisuseError:
    """A command cannot be repeated safely, because its payload or its response cannot be encoded.

    Args:
        command: The command.
        part: What cannot be encoded.
        reason: Why, without any value.
    """
    return MisuseError(
        command,
        f"{name_of(command)} has an idempotency key, but {part} cannot be encoded or decoded: {shown_reason(reason)}. "
        "Use types that the codec knows, or give the Idempotency another `codec`.",
    )
