"""SQLite: settings of the connections and lock files that the promise relies on."""

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import text

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, found_or, ok
from mediator.cli.doctor.installation import Installation, Part
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.sqlite import SqliteDatabase

_FULL = 2


class SqliteSettings(Check):
    """WAL, `synchronous=FULL`, and the lock file of the relay."""

    name = "sqlite-settings"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for part in installation.databases:
            database = database_of(part.value)
            if isinstance(database, SqliteDatabase):
                found = [*await _faults(part), *await _lock_faults(part.label, database)]
                for finding in found_or(found, ok("sqlite-settings", part.label, "WAL, synchronous=FULL")):
                    yield finding


async def _faults(part: Part[Any]) -> list[Finding]:
    found: list[Finding] = []
    async with database_of(part.value).reader.connect() as connection:
        journal = (await connection.execute(text("PRAGMA journal_mode"))).scalar_one()
        synchronous = int((await connection.execute(text("PRAGMA synchronous"))).scalar_one())
    if journal != "wal":
        problem = f"journal_mode is {journal}, not wal: readers and the writer wait for each other"
        remedy = "Keep the file on a local disk, which WAL needs, and leave journal_mode alone."
        found.append(fault("sqlite-journal-mode", part.label, problem, remedy))
    if synchronous < _FULL:
        problem = f"synchronous is {synchronous}, not 2 (FULL): commits can be lost when the power fails"
        found.append(fault("sqlite-synchronous", part.label, problem, "Leave synchronous alone, or set it to FULL."))
    return found


async def _lock_faults(label: str, database: SqliteDatabase) -> list[Finding]:
    try:
        async with database.relaying():  # a relay that runs has it, which is as good
            return []
    except OSError as error:
        remedy = "Let the user of the application create and open files beside the database."
        return [fault("lock-file", label, f"the lock file of the relay cannot be used: {error}", remedy)]
