"""Assumptions of the unit of work about SQLAlchemy's pool, events and session, on PostgreSQL through asyncpg."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, Integer, MetaData, QueuePool, Table, create_engine, event, inspect, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.attributes import NO_VALUE

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")

ROWS = Table("rows", MetaData(), Column("n", Integer, primary_key=True, autoincrement=False))


def opened(database: str, schema: str, pool_timeout: float) -> AsyncEngine:
    """Open an engine with one connection."""
    return create_async_engine(
        database.replace("postgresql:", "postgresql+asyncpg:"),
        pool_size=1,
        max_overflow=0,
        pool_timeout=pool_timeout,
        connect_args={"server_settings": {"search_path": schema}},
    )


@pytest.fixture
async def engine(database: str, schema: str) -> AsyncIterator[AsyncEngine]:
    engine = opened(database, schema, 0.05)
    async with engine.begin() as connection:
        await connection.run_sync(ROWS.metadata.create_all)
    yield engine
    await engine.dispose()


async def backend(engine: AsyncEngine) -> int:
    """Return the id of the server process behind the only connection of the pool."""
    async with engine.connect() as connection:
        pid: int = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        return pid


def calls(engine: AsyncEngine, *names: str) -> list[str]:
    """Return a list to which the names of the engine's events are appended as they occur."""
    seen: list[str] = []

    def listen(name: str) -> None:
        @event.listens_for(engine.sync_engine, name)
        def note(*_: Any) -> None:
            seen.append(name)

    for name in names:
        listen(name)
    return seen


async def test_a_pool_that_has_no_connection_in_time_raises_its_own_timeout_error(engine: AsyncEngine):
    """`ConnectionPool.connect` translates it to `PoolExhaustedError`. It does not derive from the built-in error."""
    async with engine.connect():
        with pytest.raises(PoolTimeoutError) as caught:
            async with engine.connect():
                pass
    assert not isinstance(caught.value, TimeoutError)


async def test_waiting_for_the_pool_can_be_cancelled_and_loses_no_connection(database: str, schema: str):
    """A dispatch cancelled while it waits for a connection must not lose a connection."""
    engine = opened(database, schema, 30)
    async with engine.connect():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await backend(engine)
    async with asyncio.timeout(10):
        await backend(engine)
    await engine.dispose()


async def test_a_cancelled_statement_invalidates_or_returns_its_connection_and_never_leaks_it(engine: AsyncEngine):
    """A dispatch cancelled during a statement must not shrink the pool."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), engine.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(60)"))
    async with asyncio.timeout(10):
        await backend(engine)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_checkout_that_raises_a_disconnection_error_gets_another_connection(engine: AsyncEngine):
    """`_check` raises it to replace a lost connection."""
    before = await backend(engine)
    refused: list[object] = []

    @event.listens_for(engine.sync_engine, "checkout")
    def check(_connection: object, entry: Any, _proxy: object) -> None:
        if not refused:
            refused.append(entry)
            raise DisconnectionError("lost")

    assert await backend(engine) != before


async def test_a_connection_invalidated_at_its_checkin_is_replaced(engine: AsyncEngine):
    """`_leave` invalidates a connection that is still in use or in a transaction."""
    before = await backend(engine)

    @event.listens_for(engine.sync_engine, "checkin")
    def leave(_connection: object, entry: Any) -> None:
        entry.invalidate()

    await backend(engine)
    assert await backend(engine) != before


async def test_a_connection_that_the_server_closed_is_invalidated(engine: AsyncEngine):
    """`commit_transaction` treats `connection_invalidated` as an unknown outcome."""
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert caught.value.connection_invalidated
        assert caught.value.orig is not None
    assert await backend(engine)


async def test_a_transaction_begins_implicitly_with_the_first_statement(engine: AsyncEngine):
    """`Database.begun` is called before the first statement of each transaction, and not when connecting."""
    seen = calls(engine, "begin", "before_cursor_execute", "commit", "rollback")
    async with engine.connect() as connection:
        assert seen == []
        await connection.execute(text("SELECT 1"))
        await connection.execute(text("SELECT 1"))
        await connection.commit()
        await connection.execute(text("SELECT 1"))
    once = ["begin", "before_cursor_execute"]
    assert seen == [*once, "before_cursor_execute", "commit", *once, "rollback"]


async def test_a_commit_that_an_event_listener_refuses_leaves_the_transaction_open_until_the_checkin(
    engine: AsyncEngine,
):
    """`_check_commit` refuses the commit and `_leave` discards the connection with its open transaction."""
    left: list[bool] = []

    @event.listens_for(engine.sync_engine, "commit")
    def refuse(_connection: object) -> None:
        raise LookupError

    @event.listens_for(engine.sync_engine, "checkin")
    def leave(_connection: object, entry: Any) -> None:
        left.append(entry.driver_connection.is_in_transaction())
        entry.invalidate()

    async with engine.connect() as connection:
        await connection.execute(ROWS.insert().values(n=1))
        with pytest.raises(LookupError):
            await connection.commit()
    assert left == [True]
    async with engine.connect() as connection:
        assert (await connection.execute(ROWS.select())).all() == []


async def test_an_error_returned_by_the_error_event_replaces_the_error_of_the_driver(engine: AsyncEngine):
    """`Database._on_error` reads the statement, the connection and both errors from the context."""
    contexts: list[Any] = []

    @event.listens_for(engine.sync_engine, "handle_error")
    def translate(context: Any) -> BaseException:
        contexts.append(context)
        return LookupError("translated")

    async with engine.connect() as connection:
        with pytest.raises(LookupError, match="translated"):
            await connection.execute(text("SELECT 1 / 0"))
    (context,) = contexts
    assert context.statement == "SELECT 1 / 0"
    assert context.connection is not None
    assert context.original_exception.sqlstate == "22012"
    assert not context.is_disconnect


async def test_options_of_an_engine_apply_to_its_connections_and_the_pool_is_shared(engine: AsyncEngine):
    """`Database.reader` and `.writer` share one pool; `mode_of` reads the option."""
    reader = engine.execution_options(mediator_mode="read", postgresql_readonly=True)
    assert reader.pool is engine.pool
    async with reader.connect() as connection:
        sync: Any = connection.sync_connection
        assert sync.get_execution_options()["mediator_mode"] == "read"
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(ROWS.insert().values(n=1))
    assert getattr(caught.value.orig, "sqlstate", None) == "25006"
    async with engine.begin() as connection:
        await connection.execute(ROWS.insert().values(n=1))


async def test_listeners_of_an_engine_apply_to_its_copies_with_options(engine: AsyncEngine):
    """`Database` registers its listeners once, on the engine of the application."""
    seen = calls(engine, "begin")
    async with engine.execution_options(mediator_mode="write").connect() as connection:
        await connection.execute(text("SELECT 1"))
    assert seen == ["begin"]


async def test_the_rowcount_of_an_insert_that_inserts_nothing_is_zero(engine: AsyncEngine):
    """`SqlAlchemyInbox.insert` without a key treats a `rowcount` of 1 as a new event."""
    async with engine.begin() as connection:
        statement = insert(ROWS).values(n=1).on_conflict_do_nothing()
        assert [(await connection.execute(statement)).rowcount for _ in range(2)] == [1, 0]


async def test_a_session_looks_up_its_bind_at_the_first_statement_of_each_transaction(engine: AsyncEngine):
    """`OwnedSession.get_bind` waits for the writer's turn, and relies on being called this late."""
    asked: list[int] = []

    class Asking(Session):
        def get_bind(self, *_args: Any, **_kwargs: Any) -> Any:
            asked.append(1)
            return engine.sync_engine

    async with AsyncSession(engine, sync_session_class=Asking) as session:
        assert asked == []
        await session.execute(text("SELECT 1"))
        first = len(asked)
        await session.commit()
        await session.execute(text("SELECT 1"))
        assert 0 < first < len(asked)


async def test_before_commit_is_emitted_for_savepoints_too_and_identifies_them(engine: AsyncEngine):
    """`SqlAlchemyUnitOfWork.check_commit` allows a handler to commit only its own savepoint."""
    nested: list[bool] = []

    class Listening(Session):
        pass

    @event.listens_for(Listening, "before_commit")
    def note(session: Session) -> None:
        nested.append(session.get_nested_transaction() is not None)

    async with AsyncSession(engine, sync_session_class=Listening) as session:
        await session.execute(text("SELECT 1"))
        async with session.begin_nested():
            await session.execute(text("SELECT 1"))
        await session.commit()
    assert nested == [True, False]


async def test_a_session_used_by_two_tasks_at_once_raises_an_error_with_a_code(engine: AsyncEngine):
    """`when_idle` recognizes the code `isce` and waits while a forgotten task connects."""
    await engine.dispose()  # so that the next statement must connect
    async with AsyncSession(engine) as session:
        outcomes = await asyncio.gather(
            session.execute(text("SELECT 1")), session.execute(text("SELECT 1")), return_exceptions=True
        )
    errors = [each for each in outcomes if isinstance(each, InvalidRequestError)]
    assert [error.code for error in errors] == ["isce"]


async def test_the_driver_connection_and_its_mutex_are_found_under_private_names(engine: AsyncEngine):
    """`_leave` and `_check_running` read them, because SQLAlchemy has no public access."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        pooled: Any = await connection.get_raw_connection()
        assert pooled.driver_connection.is_in_transaction()
        assert pooled.dbapi_connection._execute_mutex.locked() is False


async def test_a_pool_stores_its_overflow_limit_under_a_private_name(database: str):
    """`doctor.pools` reads it, because no public name has it. A negative number means no limit."""
    for overflow in (0, 7, -1):
        engine = create_async_engine(database.replace("postgresql:", "postgresql+asyncpg:"), max_overflow=overflow)
        assert isinstance(engine.pool, QueuePool)
        assert engine.pool._max_overflow == overflow
        await engine.dispose()


class Declared(DeclarativeBase):
    pass


class Thing(Declared):
    __tablename__ = "things"
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]


class RecordingSession(Session):
    """Records the calls to the private methods that `mediator.sqlalchemy.session` overrides."""

    called: ClassVar[list[str]] = []

    def _merge(self, state: Any, *args: Any, **options: Any) -> Any:
        self.called.append(f"merge {state.obj().text}")
        return super()._merge(state, *args, **options)

    def _identity_lookup(self, *args: Any, lazy_loaded_from: Any = None, **options: Any) -> Any:
        self.called.append("identity_lookup")
        return super()._identity_lookup(*args, lazy_loaded_from=lazy_loaded_from, **options)


@pytest.fixture
def session() -> Iterator[RecordingSession]:
    engine = create_engine("sqlite://")
    Declared.metadata.create_all(engine)
    with RecordingSession(engine) as session:
        session.add(Thing(n=1, text="old"))
        session.commit()
        RecordingSession.called.clear()
        yield session
    engine.dispose()


def test_merging_any_object_calls_a_private_method(session: RecordingSession):
    """`UnitOfWorkSession._merge` overrides it to attach an object of an earlier transaction again."""
    session.merge(Thing(n=1, text="new"))
    assert "merge new" in RecordingSession.called
    assert session.get_one(Thing, 1).text == "new"


def test_every_lookup_by_identity_calls_a_private_method(session: RecordingSession):
    """`UnitOfWorkSession._identity_lookup` overrides it to prepare the read."""
    session.get(Thing, 1)
    assert RecordingSession.called == ["identity_lookup"]


def test_a_private_method_marks_a_value_as_changed_without_calling_listeners(session: RecordingSession):
    """`earlier.Change._set` uses it: the next flush writes the value as if it had been assigned."""
    thing = session.get_one(Thing, 1)
    state: Any = inspect(thing)
    state._modified_event(state.dict, state.manager["text"].impl, state.dict.get("text", NO_VALUE))
    state.dict["text"] = "noted"
    assert thing in session.dirty
    session.flush()
    assert session.execute(select(Thing.text)).scalar_one() == "noted"
