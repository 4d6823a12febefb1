"""A database whose encoding cannot store every text is refused when it is opened."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from sqlalchemy import text

from mediator.errors import DatabaseUnavailableError
from mediator.sqlalchemy import open_engine
from tests.postgres import PostgresServer


@asynccontextmanager
async def encoded_database(postgres: PostgresServer, encoding: str) -> AsyncIterator[str]:
    """Return the URL of a database with this encoding."""
    name = f"encoded_{encoding.lower()}"
    await postgres.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        yield postgres.url(name)
    finally:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "WIN1252"])
async def test_a_postgresql_database_in_another_encoding_is_refused(postgres: PostgresServer, encoding: str):
    async with encoded_database(postgres, encoding) as url:
        with pytest.raises(
            DatabaseUnavailableError, match=f"the database has the encoding {encoding}.*ENCODING 'UTF8'"
        ):
            async with open_engine(url):
                pass


async def test_a_postgresql_database_in_utf_8_is_opened(postgres: PostgresServer):
    async with encoded_database(postgres, "UTF8") as url, open_engine(url) as engine, engine.connect() as connection:
        found = await connection.execute(text("SELECT :given ::text"), {"given": "\ufffe\uffff\U0001f600"})
        assert found.scalar_one() == "\ufffe\uffff\U0001f600"


async def test_a_connection_in_another_encoding_is_refused(postgres_url: str):
    given = {"server_settings": {"client_encoding": "LATIN1"}}
    with pytest.raises(DatabaseUnavailableError, match="the connection has the encoding LATIN1"):
        async with open_engine(postgres_url, connect_args=given):
            pass


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
async def test_an_sqlite_file_in_utf_16_is_refused_because_it_confuses_some_characters(file: Path, encoding: str):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute("CREATE TABLE texts (text TEXT)")
        connection.execute("INSERT INTO texts VALUES ('\uffff')")
        connection.commit()
        assert connection.execute("SELECT text FROM texts").fetchone() == ("\ufffd",)
    with pytest.raises(DatabaseUnavailableError, match=f"has the encoding {encoding}.*new file"):
        async with open_engine(f"sqlite:///{file}"):
            pass
