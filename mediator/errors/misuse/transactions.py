"""Functions that return the errors for misuse of units of work, of their databases and of idempotency keys."""

from mediator.errors.misuse.classes import (
    MisuseError,
    NoUnitOfWorkError,
    SchemaError,
    StaleObjectError,
)
from mediator.errors.root import name_of
from mediator.printable import shown_reason


def no_unit_of_work(subject: object, running: str = "") -> NoUnitOfWorkError:
    """An operation needs a unit of work, and none is running or a different one is running.

    Args:
        subject: The name of the operation, or the object of it.
        running: A description of the different unit of work that is running; empty when none is running.
    """
    if running:
        return NoUnitOfWorkError(
            subject,
            f"{name_of(subject)} needs its own unit of work, but a different one is running in this scope: "
            f"{running}. A command writes through one unit of work, in one database. Use the session of the running one, or "
            "send a command for the other database with `mode=TransactionMode.NEW`.",
        )
    return NoUnitOfWorkError(
        subject,
        f"{name_of(subject)} needs a unit of work, and none is running. Do it in the handler of a command "
        "whose pipeline has a DistributedUnitOfWorkBehavior, or inside `async with unit_of_work:`.",
    )


def read_only(subject: object, query: object) -> NoUnitOfWorkError:
    """An operation that needs a unit of work was used in the read-only transaction of a query."""
    return NoUnitOfWorkError(
        subject,
        f"{name_of(subject)} needs a unit of work, but {name_of(query)} is answered in a read-only "
        "transaction. Make the query a command, or send a command for the change with `mode=TransactionMode.NEW`.",
    )


def already_running(transaction_id: str) -> MisuseError:
    """A unit of work was begun that is already running in this scope."""
    return MisuseError(
        transaction_id,
        f"Unit of work {transaction_id} is already running in this scope. Join it, or open another scope with "
        "`mediator.scope(TransactionMode.NEW)`.",
    )


def another_running(running: str) -> MisuseError:
    """A unit of work was begun while another one is running in the same scope."""
    return MisuseError(
        running,
        f"Another unit of work is running in this scope: {running}. A scope has one at a time, and a command writes to one "
        "database. End that unit of work first, or open another scope with `mediator.scope(TransactionMode.NEW)`.",
    )


def shared_by_dispatches(transaction_id: str, name: str) -> MisuseError:
    """Two dispatches use the same unit of work object. `name` is the name of its class."""
    return MisuseError(
        transaction_id,
        f"Unit of work {transaction_id} is running in another dispatch, and this dispatch was given the same object. Each "
        f"dispatch needs its own object: declare it as `Scoped({name}, ...)`, not as a Singleton.",
    )


def other_unit_of_work(part: object, unit_of_work: object) -> MisuseError:
    """Two parts that must share a unit of work, or a database, were given different ones."""
    return MisuseError(
        part,
        f"{name_of(part)} was given a different unit of work than the {name_of(unit_of_work)} that it is used with. "
        "Both must come from one `Scoped` provider, and outbox, inbox and unit of work from one database.",
    )


def isolation_not_supported(database: str, isolation: str) -> MisuseError:
    """A database does not support the requested isolation level."""
    return MisuseError(database, f"{database} cannot run a transaction at isolation level {isolation!r}.")


def session_ended(operation: str, transaction_id: str) -> MisuseError:
    """A handler committed or rolled back a session, which only the unit of work may do."""
    return MisuseError(
        f"session.{operation}()",
        f"`session.{operation}()` was called inside unit of work {transaction_id}. The unit of work commits "
        "when the command succeeds and rolls back when it raises; the handler does neither. For a part that may "
        "fail, use `session.begin_nested()` or `TransactionMode.NESTED`.",
    )


def stale_object(entity: type, reason: str) -> StaleObjectError:
    """An object that an earlier transaction loaded was changed, and writing it could overwrite newer values."""
    return StaleObjectError(
        entity,
        f"An object of {name_of(entity)} was loaded before this transaction began, and was changed or added in it: "
        f"{reason}. Load it in the transaction that changes it: `await session.get(...)`, or "
        "`await session.refresh(...)` before the change.",
        reason,
    )


def nested_writer(database: str) -> MisuseError:
    """An inner unit of work would write to an SQLite file to which an outer one is already writing."""
    return MisuseError(
        database,
        f"This unit of work would wait forever: an outer one is already writing to {database}, and SQLite allows one "
        "writer. Join it (TransactionMode.DEFAULT or NESTED), or send the inner command before the outer one's "
        "first statement.",
    )


def nested_lock(database: str, seconds: float) -> MisuseError:
    """An inner unit of work waited for a PostgreSQL lock, which an outer one may hold until the inner one has ended."""
    return MisuseError(
        database,
        f"This unit of work runs inside another one and waited {seconds:g} s for a lock in {database}. If the "
        "outer one holds the lock, both would wait forever. Join the outer one (TransactionMode.DEFAULT or NESTED), write "
        "other rows, or raise `lock_timeout` if another process held the lock.",
    )


def pool_too_small(pool: object, size: int) -> MisuseError:
    """More dispatches are nested than the pool has connections, so the innermost one would wait forever."""
    return MisuseError(
        pool,
        f"All {size} connections of the pool are held by the dispatches around this one, which wait for it to end. "
        "Nest fewer of them with TransactionMode.NEW or SUPPRESS, or raise `pool_size` or `max_overflow` of the engine.",
    )


def no_table(database: str, table: str) -> SchemaError:
    """A table of this library is missing in the database."""
    return SchemaError(
        database,
        f"The database {database} has no table {table}. Create the tables with "
        "`mediator schema create module:container`, or with `await create_schema(engine)`.",
    )


def no_rows(database: str, table: str, rows: int, needed: int) -> SchemaError:
    """A table of this library lacks some of its initial rows."""
    return SchemaError(
        database,
        f"The table {table} in the database {database} has {rows} of the {needed} rows that relays "
        "need, so nothing is published, and the events wait. Add the missing rows with `mediator schema create "
        "module:container`, with `await create_schema(engine)`, or in a migration of your own with `schema_rows`.",
    )


def schema_outdated(database: str, version: int, needed: int) -> SchemaError:
    """The tables in the database belong to an older version of the library."""
    return SchemaError(
        database,
        f"The tables in the database {database} are of version {version}, and this library needs version "
        f"{needed}. Upgrade them with `mediator schema upgrade module:container`, or with "
        "`await upgrade_schema(engine)`.",
        version,
    )


def schema_newer(database: str, version: int, known: int) -> SchemaError:
    """The tables in the database belong to a newer version of the library."""
    return SchemaError(
        database,
        f"The tables in the database {database} are of version {version}, and this library knows them up to "
        f"version {known}. Nothing was changed. Install the version of the library that upgraded them, or a later "
        "one.",
        version,
    )


def not_repeatable(command: object, part: str, reason: str) -> MisuseError:
    """A command with an idempotency key cannot be stored, because its payload or its response cannot be encoded.

    Args:
        command: The command.
        part: The part that cannot be encoded: the payload or the response.
        reason: Why it cannot be encoded. It must not contain values of the command.
    """
    return MisuseError(
        command,
        f"{name_of(command)} has an idempotency key, but {part} cannot be encoded or decoded: {shown_reason(reason)}. "
        "Use types that the codec supports, or give the Idempotency another `codec`.",
    )
