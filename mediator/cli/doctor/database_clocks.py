"""Database clocks: how far the clocks of this machine and of the PostgreSQL servers are apart."""

from collections.abc import AsyncIterator

from sqlalchemy import text

from mediator.cli.doctor.broker_clocks import compared
from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding
from mediator.cli.doctor.installation import Installation
from mediator.sqlalchemy.engine import database_of


class DatabaseClocks(Check):
    """The clock of each server; SQLite has none of its own."""

    name = "database-clocks"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        clock = installation.options.clock
        for part in installation.databases:
            if database_of(part.value).dialect == "postgresql":
                async with database_of(part.value).reader.connect() as connection:
                    await connection.execute(text("SELECT 1"))  # the connection and BEGIN take their time
                    before = clock()
                    asked = await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))
                    now = float(asked.scalar_one())
                    yield compared(part.label, "the database", now - (before + clock()) / 2)
