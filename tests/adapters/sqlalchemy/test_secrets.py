"""No error or log line shows the password of a database, even with local variables."""

import asyncio
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

import mediator
from mediator.errors import DatabaseUnavailableError
from mediator.sqlalchemy import open_engine
from mediator.sqlalchemy.engine import database_of
from tests.postgres import PostgresServer
from tests.seen import errors_of, seen

PASSWORD = "hunter2-7f3a9c"
PACKAGE = str(Path(mediator.__file__).parent)
AWAY = "127.0.0.1:1/db"


async def opened(url: str, **options: Any) -> BaseException:
    with pytest.raises(Exception) as caught:
        async with open_engine(url, **options) as engine, engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@{AWAY}",
        f"postgresql://u@{AWAY}?password={PASSWORD}",
        f"postgresql://u:x@{AWAY}?password={PASSWORD}",
        f"postgresql://u:{PASSWORD}@{AWAY}?no_such_option={PASSWORD}",
        f"postgresql://u:{PASSWORD}@{AWAY}?timeout={PASSWORD}",
        f"postgresql://u:{PASSWORD}@{AWAY}?target_session_attrs={PASSWORD}",
        f"postgresql://u:{PASSWORD}@{AWAY}?statement_cache_size={PASSWORD}",
        f"postgresql://u:{PASSWORD}@{AWAY}?prepared_statement_cache_size={PASSWORD}",
        f"postgresql://u:{PASSWORD}@{AWAY}?host=a&host=b&port=1",
        f"postgresql://u:{PASSWORD}@{AWAY}?host=u:{PASSWORD}@127.0.0.1:1",
        f"postgresql://u:{PASSWORD}@{AWAY}?sslmode=wrong",
        f"postgresql://u:{PASSWORD}@{AWAY}?dsn=postgresql://u:{PASSWORD}@h",
        f"postgresql://u:{PASSWORD}@no.such.host.invalid/db",
        f"postgresql://u:{PASSWORD}@h:port/db",
        f"postgresql://u:{PASSWORD}@h:99999/db",
        f"postgresql://u:{PASSWORD}@h:{'9' * 5000}/db",
        f"postgresql://u:p@{PASSWORD}@{AWAY}",
        f"postgresql://u:p@{PASSWORD}/x@{AWAY}",
        f"postgresql://u:p@x/{PASSWORD}@{AWAY}",
        f"postgresql://u:p@{PASSWORD}?x=y@{AWAY}",
        f"postgresql://u:p@x/{PASSWORD}?x=y@{AWAY}",
        f"postgresql://u:p@x?{PASSWORD}=y@{AWAY}",
        f"postgresql://u:p@{PASSWORD}?x@{AWAY}",
        f"postgresql://u:p@{PASSWORD}?x=y&z@{AWAY}",
        f"postgresql://u:p@{PASSWORD}/x?z@{AWAY}",
        f"postgresql://u:{PASSWORD}@/db?host=/nowhere/at/all",
        f"postgresql+psycopg://u:{PASSWORD}@h/db",
        f"mysql://u:{PASSWORD}@h/db",
        f"nothing://u:{PASSWORD}@h/db",
        f"u:{PASSWORD}@h/db",
        f"sqlite:///app.db?timeout={PASSWORD}",
        f"sqlite:////nowhere/at/all.db?password={PASSWORD}",
        f"sqlite://u:{PASSWORD}@h",
    ],
)
async def test_no_error_of_opening_a_database_shows_its_password(
    url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert PASSWORD not in seen(await opened(url, connect_timeout=2.0))


@pytest.mark.parametrize(
    "options",
    [
        {"connect_args": {"password": PASSWORD}},
        {"connect_args": {"server_settings": PASSWORD}},
        {"connect_args": {"password": PASSWORD, "no_such_argument": PASSWORD}},
        {"connect_args": {"password": PASSWORD}, "no_such_option": 1},
        {"connect_args": {"password": PASSWORD}, "connect_timeout": -1},
        {"connect_args": {"password": PASSWORD}, "lock_timeout": "soon"},
        {"connect_args": {"password": PASSWORD}, "poolclass": object},
    ],
)
async def test_no_error_of_its_options_shows_a_password_in_the_arguments_of_the_driver(options: dict[str, Any]) -> None:
    assert PASSWORD not in seen(await opened(f"postgresql://u:{PASSWORD}@{AWAY}", **options))


async def test_no_error_shows_a_password_that_the_driver_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert PASSWORD not in seen(await opened(f"postgresql://u@{AWAY}"))


@pytest.fixture(scope="module")
def strict() -> Iterator[PostgresServer]:
    """A server that asks the user `u` for a password."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        rules = Path(folder, "hba.conf")
        rules.write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        Path(folder).chmod(0o755)
        server = PostgresServer({"hba_file": rules})
        runner.run(server.start())
        runner.run(allow(server, PASSWORD))
        yield server
        runner.run(server.close())


async def allow(server: PostgresServer, password: str) -> None:
    async with open_engine(server.url()) as engine, engine.begin() as connection:
        if (await connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = 'u'"))).first() is None:
            await connection.exec_driver_sql("CREATE ROLE u LOGIN")
        await connection.exec_driver_sql(f"ALTER ROLE u PASSWORD '{password}'")


def with_password(server: PostgresServer, password: str) -> str:
    return server.url().replace("postgres@", f"u:{password}@")


async def test_a_wrong_password_is_an_error_that_does_not_show_it(strict: PostgresServer) -> None:
    error = await opened(with_password(strict, f"{PASSWORD}x"))
    assert isinstance(error, DatabaseUnavailableError)
    assert 'password authentication failed for user "u"' in str(error)
    assert PASSWORD not in seen(error)


async def test_a_connection_opened_later_shows_no_password(strict: PostgresServer) -> None:
    url = with_password(strict, PASSWORD)
    async with open_engine(url, pool_size=1) as engine:
        async with engine.connect() as connection:
            assert PASSWORD not in repr((engine, tuple(engine.url), vars(engine.pool)))
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(text("SELECT 1/0"))
            await allow(strict, "another")
            with pytest.raises(DatabaseUnavailableError) as refused:
                await engine.connect()
            await allow(strict, PASSWORD)
        assert PASSWORD not in seen(caught.value)
        assert PASSWORD not in seen(refused.value)
        async with engine.connect() as connection, engine.connect():
            assert (await connection.execute(text("SELECT current_user"))).scalar_one() == "u"


async def test_an_abandoned_or_cancelled_connect_shows_no_password(strict: PostgresServer) -> None:
    url = with_password(strict, PASSWORD)
    strict.suspend()
    try:
        assert PASSWORD not in seen(await opened(url, connect_timeout=0.2))
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2), open_engine(url):
                pass
    finally:
        strict.resume()
    assert PASSWORD not in seen(caught.value)


async def test_a_password_may_come_from_a_function_at_each_connect(strict: PostgresServer) -> None:
    await allow(strict, PASSWORD)
    arguments = {"password": lambda: PASSWORD}
    async with (
        open_engine(with_password(strict, "outdated"), connect_args=arguments) as engine,
        engine.connect() as connection,
    ):
        assert (await connection.execute(text("SELECT current_user"))).scalar_one() == "u"


async def test_the_library_shows_no_password_of_an_engine_opened_elsewhere() -> None:
    """SQLAlchemy's own `connect` does: documented with `open_engine`."""
    engine = create_async_engine(f"postgresql+asyncpg://u:{PASSWORD}@{AWAY}")
    database = database_of(engine)
    with pytest.raises(DatabaseUnavailableError) as caught:
        await database.probe()
    for error in errors_of(caught.value):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith((PACKAGE, asyncpg.__path__[0])):
                assert PASSWORD not in repr(frame.f_locals)
