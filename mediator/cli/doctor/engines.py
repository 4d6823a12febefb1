"""Engines: the databases of a container, those that answer and those that do not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, ok
from mediator.cli.doctor.installation import Failure, Installation, Part
from mediator.errors import DatabaseUnavailableError, ReadOnlyDatabaseError, WriterTimeoutError
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.engine import database_of

cls = AsyncEngine
"""The class of what is looked for."""

_SHARE = 0.8
"""How much of its bound the check waits for a writer's turn, so that it can say itself what it waited for."""


async def answering(installation: Installation, engines: Sequence[tuple[str, Any, Any]]) -> list[Part[Any]]:
    """The engines that answer; the others become failures.

    Args:
        installation: Where failures are noted.
        engines: Label, provider and engine of each.
    """
    errors = await asyncio.gather(*(_error(engine, installation.options.timeout) for _, _, engine in engines))
    parts: list[Part[Any]] = []
    for (label, provider, engine), error in zip(engines, errors, strict=True):
        if error is None:
            parts.append(Part(label, provider, engine))
        else:
            installation.failures.append(Failure(label, "database", error))
    return parts


async def _error(engine: AsyncEngine, seconds: float) -> Exception | None:
    try:
        async with asyncio.timeout(seconds), database_of(engine).reader.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except TimeoutError:
        return TimeoutError(f"no answer within {seconds:g} s")
    except Exception as error:  # told in the report; connecting runs code of the application, too
        return error
    return None


class Writable(Check):
    """Whether each database lets itself be written to, the lock files of SQLite included."""

    name = "database-writable"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for part in installation.databases:
            yield await _writable(part, _SHARE * installation.options.timeout)


async def _writable(part: Part[Any], seconds: float) -> Finding:
    database = database_of(part.value)
    try:
        async with asyncio.timeout(seconds):
            await _try_writing(database)
    except (TimeoutError, WriterTimeoutError):
        text = f"{database.name} could not be written to within {seconds:g} s"
        return fault("database-busy", part.label, text, "See which process keeps writing to it.")
    except DatabaseUnavailableError as error:
        if database.dialect == "postgresql":
            return fault("database-unreachable", part.label, str(error), "See whether it has connections left.")
        remedy = "Let the user of the application create and open files beside the database."
        return fault("lock-file", part.label, str(error), remedy)
    except (DBAPIError, ReadOnlyDatabaseError) as error:
        reason = str(error.orig) if isinstance(error, DBAPIError) else f"{database.name} refuses to write"
        remedy = "Connect to the server that writes (target_session_attrs=read-write), or allow writing to the file."
        return fault("database-read-only", part.label, reason, remedy)
    return ok("database", part.label, f"{database.name} answers and can be written to")


async def _try_writing(database: Database) -> None:
    """Take what writers need, and write nothing."""
    async with database.writing() as connection:
        if database.dialect == "postgresql":
            only = "SELECT current_setting('transaction_read_only') = 'on' OR pg_is_in_recovery()"
            if (await connection.execute(text(only))).scalar_one():
                raise ReadOnlyDatabaseError(database.name)
