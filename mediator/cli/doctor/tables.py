"""Tables: whether each database has the tables that the library needs, in its version."""

from collections.abc import AsyncIterator
from typing import Any

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, found_or, ok
from mediator.cli.doctor.installation import Installation, Part
from mediator.sqlalchemy.differences import table_differences, version_differences
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.migrations import HISTORY, SchemaHistory
from mediator.sqlalchemy.upgrade import schema_version

_CREATE = "Run `mediator schema create MODULE:NAME`."
_UPGRADE = "Run `mediator schema upgrade MODULE:NAME`; a database that is newer needs a newer library."
_MEND = "Mend it: `mediator schema sql` shows how the tables are created."


class Tables(Check):
    """What `mediator schema check` says.

    Args:
        history: The versions of the tables.
    """

    name = "schema"

    def __init__(self, history: SchemaHistory = HISTORY) -> None:
        self._history = history

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for part in installation.databases:
            for finding in found_or(
                await self._faults(part), ok("schema", part.label, "the tables are as they should be")
            ):
                yield finding

    async def _faults(self, part: Part[Any]) -> list[Finding]:
        async with database_of(part.value).reader.connect() as connection:
            if await schema_version(connection) == 0:
                return [fault("schema-missing", part.label, "the tables of the library are missing", _CREATE)]
            different = await version_differences(connection, self._history)
            if different:  # the tables cannot be compared with those of another version
                return [fault("schema-version", part.label, each, _UPGRADE) for each in different]
            differences = await table_differences(connection, self._history)
            return [fault("schema-differs", part.label, each, _MEND) for each in differences]
