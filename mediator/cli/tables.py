"""Tables: the subcommands of `mediator schema`."""

import asyncio
import sys
from functools import partial
from types import ModuleType

import click

from mediator.cli.container import load_container, report_of
from mediator.cli.options import COUNT_OR_NONE
from mediator.cli.rows import to_json
from mediator.cli.work import JSON, TARGET, CommandError, reporting
from mediator.errors import MissingExtraError
from mediator.printable import printable

_tables: ModuleType | None
try:
    from mediator.cli import schema as _schema

    _tables = _schema
except ModuleNotFoundError as _missing:
    if _missing.name not in {"sqlalchemy", "aiosqlite", "filelock"}:
        raise
    _tables = None


APPLICATION = click.option(
    "--application", help="Name of the application that published the events in tables older than version 2."
)


@click.group()
def schema() -> None:
    """Create, check and upgrade the tables of outbox and inbox, or show their SQL."""
    with reporting():
        _required_tables()


def _required_tables() -> ModuleType:
    if _tables is None:
        raise CommandError(str(MissingExtraError("sqlalchemy", "sqlalchemy")))
    return _tables


@schema.command("create")
@TARGET
def schema_create(target: str) -> None:
    """Create the missing tables in every database of a container."""
    with reporting():
        for url in asyncio.run(_required_tables().create_tables(load_container(target))):
            click.echo(printable(f"The tables are in {url}"))


@schema.command("sql")
@click.option("--dialect", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True)
@click.option(
    "--from-version",
    type=COUNT_OR_NONE,
    default=0,
    show_default=True,
    help="Version of the existing tables; 0 when there are none.",
)
@APPLICATION
def schema_sql(dialect: str, from_version: int, application: str | None) -> None:
    """Print the statements that create the tables, or that upgrade the tables of an older version."""
    with reporting():
        statements = _required_tables().tables_as_text(dialect, from_version, application)
        click.echo(statements, nl=False)
        if not statements:
            click.echo(f"Tables of version {from_version} are up to date.", err=True)


@schema.command("check")
@TARGET
@JSON
def schema_check(target: str, *, machine: bool) -> None:
    """Compare the tables in every database of a container with the tables that the library needs.

    Exits with status 1 when the tables differ.
    """
    with reporting():
        found: list[tuple[str, list[str]]] = report_of(target, _required_tables().check_tables)
        rows = [{"database": url, "differences": differences} for url, differences in found]
        click.echo(to_json(rows) if machine else _as_text(found))
        sys.exit(1 if any(differences for _, differences in found) else 0)


@schema.command("upgrade")
@TARGET
@APPLICATION
def schema_upgrade(target: str, application: str | None) -> None:
    """Upgrade the tables in every database of a container to the version of the library.

    Version 2 stores the name of the application with each event. Existing events get the name given with --application.
    Without this option, these events get the name that the container's outbox has.
    """
    with reporting():
        upgrade = partial(_required_tables().upgrade_tables, application=application)
        found: list[tuple[str, list[int]]] = report_of(target, upgrade)
        for url, applied in found:
            done = f"applied version {', '.join(map(str, applied))}" if applied else "nothing to do"
            click.echo(printable(f"{url}: {done}"))


def _as_text(found: list[tuple[str, list[str]]]) -> str:
    lines: list[str] = []
    for url, differences in found:
        lines.append(f"{url}: {'the tables are as they should be' if not differences else ''}".rstrip())
        lines += [f"  {each}" for each in differences]
    return printable("\n".join(lines))
