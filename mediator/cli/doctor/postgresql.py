"""PostgreSQL: settings of the server that the promise relies on."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import text

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, found_or, ok, warning
from mediator.cli.doctor.installation import Installation, Part
from mediator.sqlalchemy.engine import database_of

_OLDEST = 120_000
_LOST = "committed commands and their events can be lost in a crash"
_WEAK = {
    "fsync": f"the server does not write through to its disk: {_LOST}, and the whole database with them",
    "full_page_writes": "a page that was half written in a crash cannot be restored: the database can be lost",
    "synchronous_commit": f"COMMIT does not wait for the disk: {_LOST}",
}


class PostgresqlSettings(Check):
    """Durability, isolation, and what ends the transactions of frozen processes."""

    name = "postgresql-settings"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for part in installation.databases:
            if database_of(part.value).dialect == "postgresql":
                settings = await _settings(part)
                fine = ok("postgresql-settings", part.label, f"PostgreSQL {settings['server_version']} is durable")
                for finding in found_or(_faults(part.label, settings), fine):
                    yield finding


async def _settings(part: Part[Any]) -> dict[str, str]:
    names = [*_WEAK, "idle_in_transaction_session_timeout", "server_version", "server_version_num"]
    statement = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
    async with database_of(part.value).writer.connect() as connection:
        found = {row.name: row.setting for row in await connection.execute(statement, {"names": names})}
        isolation = await connection.execute(text("SELECT current_setting('transaction_isolation')"))
        return {**found, "isolation": isolation.scalar_one()}


def _faults(label: str, settings: dict[str, str]) -> Iterator[Finding]:
    for name, consequence in _WEAK.items():
        if settings.get(name) == "off":
            yield fault(name.replace("_", "-"), label, f"{name} is off: {consequence}", f"Set {name} = on.")
    if settings["isolation"] != "read committed":
        problem = f"transactions are {settings['isolation'].upper()} unless told otherwise"
        remedy = "Set default_transaction_isolation = 'read committed', and isolation= at the behaviors that need more."
        text = f"{problem}: inbox and outbox rely on READ COMMITTED, and others meet serialization failures"
        yield warning("isolation-level", label, text, remedy)
    if settings.get("idle_in_transaction_session_timeout") == "0":
        text = "nothing ends an idle transaction: a process that is frozen keeps its locks for ever"
        remedy = "Set idle_in_transaction_session_timeout for the role, or open the engine with open_engine."
        yield warning("idle-timeout", label, text, remedy)
    if int(settings["server_version_num"]) < _OLDEST:
        text = f"PostgreSQL {settings['server_version']} is older than 12"
        yield fault("postgresql-version", label, text, "Upgrade the server.")
