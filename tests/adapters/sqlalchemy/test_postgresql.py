"""PostgreSQL only: concurrent writers, isolation levels, lock timeouts, settings, clear errors."""

import asyncio
import contextlib
import re
import uuid
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mediator import TransactionMode
from mediator.errors import DatabaseUnavailableError, MisuseError, NoUnitOfWorkError, RolledBackError, SchemaError
from mediator.sqlalchemy import (
    SqlAlchemyInbox,
    SqlAlchemyOutbox,
    SqlAlchemyUnitOfWork,
    create_schema,
    open_engine,
    schema_sql,
)
from mediator.sqlalchemy.migrations import HISTORY
from tests.adapters.sqlalchemy.ledger import Count, Do, EntryWritten, Ledger, Write, create_tables, pool_of
from tests.postgres import PostgresServer

pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


async def setting(ledger: Ledger, name: str) -> str:
    found = await ledger.unit_of_work.session.execute(text(f"SHOW {name}"))
    return str(found.scalar_one())


async def test_commands_write_concurrently(ledger: Ledger) -> None:
    both = asyncio.Barrier(2)

    async def meet(_ledger: Ledger) -> None:
        async with asyncio.timeout(10):
            await both.wait()

    await asyncio.gather(ledger.send(Write("a", then=meet)), ledger.send(Write("b", then=meet)))
    assert sorted(await ledger.entries()) == sorted(await ledger.staged()) == ["a", "b"]


@pytest.mark.parametrize("isolation", [None, "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_each_command_runs_at_the_isolation_level_of_its_behavior(ledger: Ledger, isolation: str | None) -> None:
    async def level(ledger: Ledger) -> str:
        return await setting(ledger, "transaction_isolation")

    async with ledger.mediator.scope():
        for given in (isolation, None, isolation):
            ledger.behavior_options["isolation"] = given
            assert await ledger.send(Do(level)) == (given or "READ COMMITTED").lower()


@pytest.mark.parametrize("isolation", ["READ UNCOMMITTED", "AUTOCOMMIT", "SNAPSHOT", ""])
async def test_an_unsupported_isolation_level_is_refused(ledger: Ledger, isolation: str) -> None:
    wrong = Ledger(ledger.engine, behavior_options={"isolation": isolation})
    with pytest.raises(MisuseError, match="isolation level"):
        await wrong.send(Write("a"))


async def test_a_repeatable_read_sees_one_state(ledger: Ledger) -> None:
    async def counts(strict: Ledger) -> list[int]:
        statement = text("SELECT count(*) FROM entries")
        before = (await strict.unit_of_work.session.execute(statement)).scalar_one()
        await ledger.send(Write("meanwhile"), mode=TransactionMode.NEW)
        return [before, (await strict.unit_of_work.session.execute(statement)).scalar_one()]

    strict = Ledger(ledger.engine, behavior_options={"isolation": "REPEATABLE READ"})
    assert await strict.send(Do(counts)) == [0, 0]
    assert await ledger.send(Do(counts)) == [1, 2]


async def test_a_query_runs_in_a_read_only_transaction(ledger: Ledger) -> None:
    async with ledger.mediator.scope():
        assert await ledger.send(Count()) == 0
        assert await setting(ledger, "transaction_read_only") == "on"
        with pytest.raises(NoUnitOfWorkError, match="Writing to the database"):
            await ledger.write("a")
    await ledger.send(Write("b"))
    assert await ledger.entries() == ["b"]


async def test_an_inner_command_commits_on_its_own(ledger: Ledger) -> None:
    async def inner(ledger: Ledger) -> None:
        await ledger.send(Write("inner"), mode=TransactionMode.NEW)
        assert await ledger.entries() == await ledger.staged() == ["inner"]
        raise LookupError

    with pytest.raises(LookupError):
        await ledger.send(Write("outer", then=inner))
    assert await ledger.entries() == await ledger.staged() == ["inner"]


async def update(ledger: Ledger) -> None:
    await ledger.unit_of_work.session.execute(text("UPDATE entries SET text = text || '!'"))


async def test_an_inner_command_that_needs_a_row_of_its_outer_one_fails_within_the_lock_timeout(url: str) -> None:
    async def inner(ledger: Ledger) -> None:
        await update(ledger)
        await ledger.send(Do(update), mode=TransactionMode.NEW)

    async with open_engine(url, lock_timeout=0.1) as engine:
        await create_tables(engine)
        ledger = Ledger(engine)
        await ledger.send(Write("a"))
        async with asyncio.timeout(5):
            with pytest.raises(MisuseError, match=r"waited 0\.1 s for a lock"):
                await ledger.send(Do(inner))
        assert await ledger.entries() == ["a"]
        assert pool_of(engine).checkedout() == 0


async def test_a_connection_opened_by_a_handler_does_not_wait_forever_for_its_transaction(url: str) -> None:
    async def beside(ledger: Ledger) -> None:
        await update(ledger)
        async with ledger.engine.begin() as other:
            await other.execute(text("UPDATE entries SET text = 'beside'"))

    async with open_engine(url, lock_timeout=0.1) as engine:
        await create_tables(engine)
        ledger = Ledger(engine)
        await ledger.send(Write("a"))
        async with asyncio.timeout(5):
            with pytest.raises(MisuseError, match="runs inside another one"):
                await ledger.send(Do(beside))
        assert await ledger.entries() == ["a"]


async def test_a_command_sends_only_its_own_statements_between_begin_and_commit(dialect: str) -> None:
    async with PostgresServer({"log_statement": "all"}) as server, open_engine(server.url()) as engine:
        await create_tables(engine)
        ledger = Ledger(engine)
        await ledger.send(Do(lambda ledger: ledger.write("a")))
        before = len(server.log())
        await ledger.send(Do(lambda ledger: ledger.write("b")))
        sent = re.findall(r"LOG:  (?:statement|execute [^:]*): (\w+)", server.log()[before:])
    assert sent == ["BEGIN", "INSERT", "COMMIT"]


async def test_only_inner_commands_have_a_lock_timeout(ledger: Ledger) -> None:
    async def outer(ledger: Ledger) -> list[str]:
        return [
            await setting(ledger, "lock_timeout"),
            await ledger.send(Do(lambda ledger: setting(ledger, "lock_timeout")), mode=TransactionMode.NEW),
            await ledger.send(Do(lambda ledger: setting(ledger, "lock_timeout"))),
        ]

    for _ in range(3):  # over the same connections
        assert await ledger.send(Do(outer)) == ["0", "5s", "0"]


async def test_a_lock_error_of_a_nowait_statement_reaches_the_handler_unchanged(ledger: Ledger) -> None:
    async def try_it(ledger: Ledger) -> None:
        with pytest.raises(DBAPIError, match="could not obtain lock"):
            async with ledger.unit_of_work.session.begin_nested():
                await ledger.unit_of_work.session.execute(text("SELECT * FROM entries FOR UPDATE NOWAIT"))

    async def outer(ledger: Ledger) -> None:
        await update(ledger)
        await ledger.send(Do(try_it), mode=TransactionMode.NEW)

    await ledger.send(Write("a"))
    await ledger.send(Do(outer))
    assert await ledger.entries() == ["a!"]


async def test_a_swallowed_error_dooms_the_command_although_the_database_would_accept_the_commit(
    ledger: Ledger,
) -> None:
    async def swallow(ledger: Ledger) -> None:
        with contextlib.suppress(DBAPIError):
            await ledger.write("a" + "\0")
        with contextlib.suppress(DBAPIError):
            await ledger.unit_of_work.session.execute(text("SELECT 1"))

    with pytest.raises(RolledBackError):
        await ledger.send(Do(swallow))
    assert await ledger.entries() == await ledger.staged() == []


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_a_handler_that_ends_the_transaction_with_its_own_statement_cannot_continue(
    ledger: Ledger, ending: str
) -> None:
    async def end(ledger: Ledger) -> None:
        await ledger.unit_of_work.session.execute(text(ending))
        await ledger.write("after the end")

    with pytest.raises(NoUnitOfWorkError):
        await ledger.send(Write("a", then=end))
    assert "after the end" not in await ledger.entries()
    assert await ledger.staged() == []


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_transaction_that_is_idle_for_too_long_ends_without_harm_to_the_next_one(url: str) -> None:
    async def idle(ledger: Ledger) -> None:
        connection = await ledger.unit_of_work.connection()
        raw: Any = await connection.get_raw_connection()
        async with asyncio.timeout(10):
            while not raw.driver_connection.is_closed():
                await asyncio.sleep(0.02)

    async with open_engine(url, idle_timeout=1.0) as engine:  # if it were shorter, the second one would be idle too
        await create_tables(engine)
        ledger = Ledger(engine)
        with pytest.raises(OSError, match="was lost"):
            await ledger.send(Write("a", then=idle))
        await ledger.send(Write("b"))
        assert await ledger.entries() == await ledger.staged() == ["b"]
        assert pool_of(engine).checkedout() == 0


async def test_an_engine_created_by_the_application_can_be_used(url: str, engine: AsyncEngine) -> None:
    own = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    try:
        ledger = Ledger(own)
        await ledger.send(Write("a"))
        assert await ledger.entries() == await ledger.staged() == ["a"]
    finally:
        await own.dispose()


async def test_settings_of_a_connection_come_from_options_or_from_the_url(url: str) -> None:
    given = {
        "server_settings": {
            "idle_in_transaction_session_timeout": "7000",
            "work_mem": "8MB",
            "tcp_keepalives_idle": None,
        }
    }
    names = ("idle_in_transaction_session_timeout", "work_mem", "application_name", "tcp_keepalives_idle")
    configured = open_engine(f"{url}?application_name=shop&sslmode=prefer", connect_args=given)
    async with configured as engine, engine.connect() as connection:
        found = [(await connection.execute(text(f"SHOW {name}"))).scalar_one() for name in names]
    assert found[:3] == ["7s", "8MB", "shop"]
    assert found[3] != "30"  # left out for poolers that do not know it


async def test_named_prepared_statements_and_connection_settings_can_be_switched_off(url: str) -> None:
    given = {
        "server_settings": {"idle_in_transaction_session_timeout": None},
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"__{uuid.uuid4().hex}__",
    }
    async with open_engine(url, connect_args=given) as engine:
        await create_tables(engine)
        ledger = Ledger(engine)
        for entry in "ab":
            await ledger.send(Write(entry))
        assert await ledger.entries() == await ledger.staged() == ["a", "b"]


@pytest.mark.parametrize(
    ("pattern", "replacement", "reason"),
    [
        ("/test_", "/no_such_", "does not exist"),
        (r":\d+/", ":1/", r"127\.0\.0\.1"),
        (r":\d+/", ":99999/", "65535"),
        ("//postgres@", "//nobody:secret@", "nobody"),
        ("$", "?no_such_option=1&password=secret", "no_such_option"),
    ],
)
async def test_a_server_that_cannot_be_reached_is_a_clear_error_at_the_opening(
    url: str, pattern: str, replacement: str, reason: str
) -> None:
    changed = re.sub(pattern, replacement, url)
    with pytest.raises(DatabaseUnavailableError, match=reason) as caught:
        async with open_engine(changed):
            pass
    assert "secret" not in str(caught.value)


async def test_missing_tables_are_a_clear_error(url: str) -> None:
    async with open_engine(url) as engine:
        ledger, inbox = Ledger(engine), SqlAlchemyInbox(engine)

        async def add(ledger: Ledger) -> None:
            ledger.events.add(EntryWritten("a"))

        async def insert(ledger: Ledger) -> None:
            await inbox.insert(ledger.unit_of_work, "group", "source", "1")

        for action, table in ((add, "mediator_outbox"), (insert, "mediator_inbox")):
            with pytest.raises(SchemaError, match=table):
                await ledger.send(Do(action))


async def columns(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    statement = (
        "SELECT table_name, column_name, data_type, is_nullable, is_identity FROM information_schema.columns "
        "WHERE table_name LIKE 'mediator%' ORDER BY 1, 2"
    )
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def test_many_processes_may_create_the_tables_at_once_and_again(url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(open_engine(url)) for _ in range(5)]
        await asyncio.gather(*(create_schema(engine) for engine in engines))
        await create_schema(engines[0])
        async with engines[0].connect() as connection:
            buckets = await connection.execute(text("SELECT bucket FROM mediator_relay_buckets ORDER BY 1"))
            assert [row[0] for row in buckets] == list(range(64))
            versions = await connection.execute(
                text("SELECT version FROM mediator_schema WHERE applied_at > 1e9 ORDER BY 1")
            )
            assert [row[0] for row in versions] == list(range(1, HISTORY.version + 1))
            sequences = await connection.execute(text("SELECT cache_size FROM pg_sequences"))
            assert {row[0] for row in sequences} == {1}


async def test_the_sql_text_creates_the_same_tables(url: str, postgres: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        other = await stack.enter_async_context(open_engine(await stack.enter_async_context(postgres.database())))
        engine = await stack.enter_async_context(open_engine(url))
        await create_schema(engine)
        async with other.begin() as connection:
            for statement in schema_sql("postgresql").strip().split(";\n"):
                await connection.exec_driver_sql(statement)
        await create_schema(other)
        assert await columns(other) == await columns(engine) != []
        unit_of_work, outbox = SqlAlchemyUnitOfWork(other), SqlAlchemyOutbox(other)
        assert (await outbox.pending(), unit_of_work.pending_events) == (0, ())
