"""Tables: the commands about the library's tables, `mediator schema`."""

import asyncio
import json
import sys
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

import click

from mediator.cli.errors import CommandError
from mediator.cli.reporting import TARGET, reporting
from mediator.cli.target import load_container
from mediator.printable import printable

_tables: ModuleType | None
try:
    from mediator.cli import schema as _schema

    _tables = _schema
except ModuleNotFoundError as _missing:
    if _missing.name not in {"sqlalchemy", "aiosqlite", "filelock"}:
        raise
    _tables = None


@click.group()
def schema() -> None:
    """Create, check and upgrade the tables of outbox and inbox, or show their SQL."""
    with reporting():
        _required_tables()


def _required_tables() -> ModuleType:
    if _tables is None:
        raise CommandError("This needs SQLAlchemy. Install it with: pip install 'mediator[sqlalchemy]'")
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
@click.option("--from-version", default=0, show_default=True, help="Of the tables that are there; 0: there are none.")
def schema_sql(dialect: str, from_version: int) -> None:
    """Print the statements that create the tables, or bring those of an older version to today's."""
    with reporting():
        statements = _required_tables().tables_as_text(dialect, from_version)
        click.echo(statements, nl=False)
        if not statements:
            click.echo(f"Tables of version {from_version} are up to date.", err=True)


@schema.command("check")
@TARGET
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def schema_check(target: str, *, as_json: bool) -> None:
    """Compare the tables in every database of a container with those of the library.

    Exits with status 1 when they differ.
    """
    with reporting():
        with redirect_stdout(sys.stderr):  # what the application logs is no part of the report
            found: list[tuple[str, list[str]]] = asyncio.run(_required_tables().check_tables(load_container(target)))
        click.echo(json.dumps([_as_dict(*each) for each in found], indent=2) if as_json else _as_text(found))
        sys.exit(1 if any(differences for _, differences in found) else 0)


@schema.command("upgrade")
@TARGET
def schema_upgrade(target: str) -> None:
    """Bring the tables in every database of a container to the version of the library."""
    with reporting():
        with redirect_stdout(sys.stderr):
            found: list[tuple[str, list[int]]] = asyncio.run(_required_tables().upgrade_tables(load_container(target)))
        for url, applied in found:
            done = f"applied version {', '.join(map(str, applied))}" if applied else "nothing to do"
            click.echo(printable(f"{url}: {done}"))


def _as_dict(url: str, differences: list[str]) -> dict[str, Any]:
    return {"database": url, "differences": differences}


def _as_text(found: list[tuple[str, list[str]]]) -> str:
    lines: list[str] = []
    for url, differences in found:
        lines.append(f"{url}: {'the tables are as they should be' if not differences else ''}".rstrip())
        lines += [f"  {each}" for each in differences]
    return printable("\n".join(lines))
