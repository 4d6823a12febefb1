"""Opening a database: errors are raised at once, and nothing is left open."""

import asyncio
import gc
import time
import traceback
import weakref
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from mediator.errors import DatabaseUnavailableError, WriterTimeoutError
from mediator.sqlalchemy import create_schema, open_engine, schema_sql
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.migrations import HISTORY
from mediator.sqlalchemy.writer import WriterLock
from tests.adapters.sqlalchemy.ledger import sqlite_only


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////nowhere/at/all/app.db", "the folder /nowhere/at/all does not exist"),
        ("sqlite://", "outlives the process"),
        ("sqlite:///:memory:", "outlives the process"),
        ("mysql://user:secret@host/db", "only SQLite files"),
        ("no url at all", "not a database URL"),
        ("postgresql://user@host:secret/db", "port is no number"),
    ],
)
async def test_a_database_that_cannot_be_opened_is_a_clear_error(url: str, reason: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match=reason) as caught:
        async with open_engine(url):
            pass
    assert "secret" not in str(caught.value)


AT = "postgresql://u:secret@127.0.0.1:1/db"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (AT, "127.0.0.1:1/db"),
        (f"{AT}?sslmode=bogus", "sslmode"),
        (f"{AT}?foo=secret", "foo"),
        (f"{AT}?timeout=abc", "127.0.0.1:1/db"),
        (f"{AT}?host=a&host=b&port=1", r"\?host=a&host=b&port=1 cannot.*host=a,b&port=1,2"),
        (f"{AT}?host=a,b&port=1,2,3", "host=a,b&port=1,2,3 cannot"),
        (f"{AT}?host=a:1&host=b", "host=a:1&host=b cannot"),
        (f"{AT}?host=a:1&host=b:x", "host=a:1&host=b:x cannot"),
        (f"{AT}?host=::1&host=::2", "host=::1&host=::2 cannot"),
        (f"{AT}?host=u:secret@a&host=b", "host=a&host=b cannot"),
        (f"{AT}?prepared_statement_cache_size=abc&x=secret", "127.0.0.1:1/db cannot.* one of its options"),
        (f"{AT}?prepared_statement_cache_size=secret", "127.0.0.1:1/db cannot.* one of its options"),
        ("postgresql://u@127.0.0.1:1/db?password=secret", "127.0.0.1:1/db"),
        ("postgresql://u:secret@/db?host=127.0.0.1:1", r"db\?host=127\.0\.0\.1:1 cannot"),
        ("postgresql://u:secret@/db?host=/nowhere/at/all", r"db\?host=/nowhere/at/all cannot"),
        ("postgresql://u:p@secret@127.0.0.1:1/db", "127.0.0.1:1/db"),
        ("postgresql://u:p@ss/secret@127.0.0.1:1/db", r"\*\*\*@127.0.0.1:1/db cannot"),
        ("postgresql://u:p@secret/ss@127.0.0.1:1/db", r"\*\*\*@127.0.0.1:1/db cannot"),
        ("postgresql+psycopg://u:secret@h/db", "h/db.* through asyncpg"),
        ("mysql://u:secret@/db?host=h", r"db\?host=h.* only SQLite files"),
        ("sqlite:///app.db?timeout=secret", r"app\.db cannot.* one of its options"),
    ],
)
async def test_an_error_names_the_host_of_a_database_that_cannot_be_opened_and_never_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatabaseUnavailableError, match=named) as caught:
        async with open_engine(url):
            pass
    assert "secret" not in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value)).replace(url, "")


async def test_the_error_for_a_wrong_engine_option_does_not_blame_the_url(file: Path) -> None:
    with pytest.raises(ArgumentError, match="asyncio"):
        async with open_engine(f"sqlite:///{file}", poolclass=QueuePool):
            pass


async def test_a_file_that_is_not_a_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "app.db").write_bytes(b"this is a text, and not a short one, so that it cannot be a database header")
    with pytest.raises(DatabaseUnavailableError, match="not a database"):
        async with open_engine(f"sqlite:///{tmp_path / 'app.db'}"):
            pass


async def test_a_folder_instead_of_a_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError, match="unable to open"):
        async with open_engine(f"sqlite:///{tmp_path}"):
            pass


async def test_a_closed_engine_is_garbage_collected(url: str) -> None:
    async def used() -> list[weakref.ref[object]]:
        async with open_engine(url) as engine:
            await create_schema(engine)
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            return [weakref.ref(each) for each in (engine, engine.sync_engine, database_of(engine))]

    references = await used()
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


async def test_the_known_state_of_a_database_lives_as_long_as_its_engine(file: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    known = weakref.ref(database_of(engine))
    gc.collect()
    assert known() is database_of(engine)


@sqlite_only
async def test_an_open_database_is_safe_against_a_loss_of_power(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        settings = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 2, 1]


async def test_the_tables_can_be_created_twice_and_at_once(engine: AsyncEngine) -> None:
    await asyncio.gather(create_schema(engine), create_schema(engine))
    async with engine.connect() as connection:
        buckets = await connection.execute(text("SELECT bucket FROM mediator_relay_buckets ORDER BY bucket"))
        assert [row.bucket for row in buckets] == list(range(64))
        versions = await connection.execute(text("SELECT version, applied_at FROM mediator_schema ORDER BY version"))
        numbers = range(1, HISTORY.version + 1)
        assert [(row.version, abs(time.time() - row.applied_at) < 3600) for row in versions] == [
            (number, True) for number in numbers
        ]


@sqlite_only
async def test_the_sql_text_creates_the_same_tables(tmp_path: Path, engine: AsyncEngine) -> None:
    async def tables(of: AsyncEngine) -> list[str]:
        async with of.connect() as connection:
            found = await connection.execute(
                text("SELECT name FROM sqlite_master WHERE name LIKE 'mediator%' ORDER BY name")
            )
            return [row.name for row in found]

    async with open_engine(f"sqlite:///{tmp_path / 'other.db'}") as other:
        async with other.begin() as connection:
            for statement in schema_sql(other.dialect).split(";\n"):
                await connection.execute(text(statement))
        assert await tables(other) == await tables(engine) != []


@sqlite_only
async def test_a_writer_waits_no_longer_than_allowed(file: Path, engine: AsyncEngine) -> None:
    async with database_of(engine).writing():
        with pytest.raises(WriterTimeoutError, match=r"0\.05 s"):
            await WriterLock(file, timeout=0.05).acquire(object())


@sqlite_only
async def test_a_cancelled_wait_for_the_writers_lock_leaves_it_to_the_others(file: Path, engine: AsyncEngine) -> None:
    lock = database_of(engine).lock
    await lock.acquire("first")
    waiting = [asyncio.create_task(lock.acquire(number)) for number in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    lock.release()
    await waiting[1]
    lock.release()
    await waiting[2]
    lock.release()
    assert waiting[0].cancelled()
