"""`mediator schema`: creates the library's tables, or prints their SQL."""

import asyncio
import json
import sqlite3

import asyncpg
from click.testing import CliRunner

from mediator.cli.commands import cli
from tests.adapters.sqlalchemy import version_1

SAMPLE = "tests.adapters.cli.samples.sample"
TABLES = [
    "mediator_attempts",
    "mediator_idempotency",
    "mediator_inbox",
    "mediator_outbox",
    "mediator_outbox_archive",
    "mediator_parked",
    "mediator_relay_buckets",
    "mediator_schema",
]


def tables(path):
    connection = sqlite3.connect(path)
    try:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'mediator%' ORDER BY name"
        return [name for (name,) in connection.execute(query)]
    finally:
        connection.close()


async def tables_of(url):
    connection = await asyncpg.connect(url)
    query = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'mediator%' ORDER BY 1"
    found = [row["tablename"] for row in await connection.fetch(query)]
    await connection.close()
    return found


def test_create_can_be_called_repeatedly_and_creates_the_tables_in_the_containers_database(tmp_path, monkeypatch):
    file = tmp_path / "app.db"
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{file}")

    results = [CliRunner().invoke(cli, ["schema", "create", f"{SAMPLE}:create"]) for _ in range(2)]

    assert [result.exit_code for result in results] == [0, 0]
    assert str(file) in results[0].stdout
    assert tables(file) == TABLES


async def test_create_creates_the_tables_in_postgresql_and_prints_no_password(postgres_url, monkeypatch):
    monkeypatch.setenv("SAMPLE_DATABASE", f"{postgres_url.replace('postgres@', 'postgres:secret@')}?password=secret")

    result = await asyncio.to_thread(CliRunner().invoke, cli, ["schema", "create", f"{SAMPLE}:create"])

    assert result.exit_code == 0, result.output
    assert "postgresql" in result.stdout
    assert "secret" not in result.output
    assert await tables_of(postgres_url) == TABLES


def test_create_reports_a_database_that_cannot_be_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{tmp_path}/missing/app.db")

    result = CliRunner().invoke(cli, ["schema", "create", f"{SAMPLE}:create"])

    assert result.exit_code == 1
    assert "cannot be opened" in result.stderr


def test_create_needs_a_database():
    result = CliRunner().invoke(cli, ["schema", "create", f"{SAMPLE}:IdleContainer"])

    assert result.exit_code == 2
    assert "has no database" in result.stderr


def test_the_text_of_sql_creates_the_same_tables(tmp_path):
    result = CliRunner().invoke(cli, ["schema", "sql", "--dialect", "sqlite"])
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.executescript(result.stdout)
    connection.close()

    assert tables(tmp_path / "app.db") == TABLES


async def test_the_text_of_sql_creates_the_same_tables_in_postgresql(postgres_url):
    result = CliRunner().invoke(cli, ["schema", "sql", "--dialect", "postgresql"])
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(result.stdout)
    await connection.close()

    assert await tables_of(postgres_url) == TABLES


def test_an_unknown_dialect_is_refused():
    assert CliRunner().invoke(cli, ["schema", "sql", "--dialect", "klingon"]).exit_code == 2


def test_check_names_the_differences_until_there_are_none(tmp_path, monkeypatch):
    file = tmp_path / "app.db"
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{file}")
    missing = CliRunner().invoke(cli, ["schema", "check", f"{SAMPLE}:create"])
    assert (missing.exit_code, "the table mediator_outbox is missing" in missing.stdout) == (1, True)

    CliRunner().invoke(cli, ["schema", "create", f"{SAMPLE}:create"])
    connection = sqlite3.connect(file)
    connection.execute("DROP INDEX mediator_inbox_by_time")
    connection.close()
    result = CliRunner().invoke(cli, ["schema", "check", f"{SAMPLE}:create", "--json"])
    (database,) = json.loads(result.stdout)
    assert result.exit_code == 1
    assert database["differences"] == ["the index mediator_inbox_by_time of mediator_inbox is missing"]

    connection = sqlite3.connect(file)
    connection.execute("CREATE INDEX mediator_inbox_by_time ON mediator_inbox (received_at)")
    connection.close()
    result = CliRunner().invoke(cli, ["schema", "check", f"{SAMPLE}:create"])
    assert (result.exit_code, "the tables are as they should be" in result.stdout) == (0, True)


def test_upgrade_creates_the_tables_and_a_second_upgrade_changes_nothing(tmp_path, monkeypatch):
    file = tmp_path / "app.db"
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{file}")
    first, second = (CliRunner().invoke(cli, ["schema", "upgrade", f"{SAMPLE}:create"]) for _ in range(2))
    assert (first.exit_code, "applied version 1, 2, 3" in first.stdout) == (0, True)
    assert (second.exit_code, "nothing to do" in second.stdout) == (0, True)
    assert tables(file) == TABLES


def test_upgrade_refuses_tables_that_are_newer_than_the_library(tmp_path, monkeypatch):
    file = tmp_path / "app.db"
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{file}")
    CliRunner().invoke(cli, ["schema", "create", f"{SAMPLE}:create"])
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("INSERT INTO mediator_schema VALUES (99, 0)")
    connection.close()
    upgraded = CliRunner().invoke(cli, ["schema", "upgrade", f"{SAMPLE}:create"])
    checked = CliRunner().invoke(cli, ["schema", "check", f"{SAMPLE}:create"])
    assert (upgraded.exit_code, "are of version 99" in upgraded.stderr) == (1, True)
    assert (checked.exit_code, "are of version 99" in checked.stdout) == (1, True)


def test_sql_from_a_version_contains_the_later_changes_and_an_unknown_version_is_a_wrong_call():
    nothing = CliRunner().invoke(cli, ["schema", "sql", "--from-version", "3"])
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert nothing.stderr == "Tables of version 3 are up to date.\n"
    named = CliRunner().invoke(cli, ["schema", "sql", "--from-version", "1", "--application", "sales"])
    assert (named.exit_code, "DEFAULT 'sales'" in named.stdout) == (0, True)
    unnamed = CliRunner().invoke(cli, ["schema", "sql", "--from-version", "1"])
    assert (unnamed.exit_code, "under which the existing events" in unnamed.stderr) == (2, True)
    assert CliRunner().invoke(cli, ["schema", "sql", "--from-version", "77"]).exit_code == 2


OUTBOX_SAMPLE = "tests.adapters.cli.samples.outbox_sample"


def version_1_in(file):
    connection = sqlite3.connect(file)
    connection.executescript(";\n".join(version_1.statements("sqlite")) + ";")
    connection.close()


def sources(file):
    connection = sqlite3.connect(file)
    try:
        return {source for (source,) in connection.execute("SELECT source FROM mediator_outbox")}
    finally:
        connection.close()


def test_upgrade_names_the_events_after_the_application_of_the_container(tmp_path, monkeypatch):
    file = tmp_path / "app.db"
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{file}")
    version_1_in(file)
    result = CliRunner().invoke(cli, ["schema", "upgrade", f"{OUTBOX_SAMPLE}:create"])
    assert (result.exit_code, "applied version 2, 3" in result.stdout) == (0, True), result.stderr
    assert sources(file) == {"sales"}


def test_upgrade_names_the_events_after_its_application_option(tmp_path, monkeypatch):
    file = tmp_path / "app.db"
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{file}")
    version_1_in(file)
    unknown = CliRunner().invoke(cli, ["schema", "upgrade", f"{OUTBOX_SAMPLE}:create_silent"])
    assert (unknown.exit_code, "under which they were published" in unknown.stderr) == (1, True)
    several = CliRunner().invoke(cli, ["schema", "upgrade", f"{OUTBOX_SAMPLE}:create_two"])
    assert several.exit_code != 0
    told = CliRunner().invoke(cli, ["schema", "upgrade", f"{OUTBOX_SAMPLE}:create", "--application", "old name"])
    assert told.exit_code == 0, told.stderr
    assert sources(file) == {"old name"}
