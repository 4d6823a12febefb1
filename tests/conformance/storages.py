"""The storages of the library, opened for conformance suites."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text

from mediator import current_scope, current_unit_of_work
from mediator.sqlalchemy import (
    SqlAlchemyInbox,
    SqlAlchemyOutbox,
    SqlAlchemyParking,
    SqlAlchemyUnitOfWork,
    create_schema,
    open_engine,
)
from mediator.testing import InMemoryDatabase, InMemoryInbox, InMemoryOutbox, InMemoryParking, InMemoryUnitOfWork
from mediator.testing.conformance import StorageUnderTest


@asynccontextmanager
async def in_memory(database: InMemoryDatabase | None = None) -> AsyncIterator[StorageUnderTest]:
    database = database or InMemoryDatabase()

    async def write(row: str) -> None:
        unit_of_work = current_unit_of_work()
        assert isinstance(unit_of_work, InMemoryUnitOfWork)
        unit_of_work.table("entries")[row] = row

    async def read() -> list[str]:
        return sorted(database.tables.get("entries", {}))

    yield StorageUnderTest(
        make=lambda **options: InMemoryUnitOfWork(database, **options),
        outbox=InMemoryOutbox(database),
        inbox=InMemoryInbox(database),
        parking=InMemoryParking(database),
        write=write,
        read=read,
    )


@asynccontextmanager
async def in_database(url: str) -> AsyncIterator[StorageUnderTest]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS entries (text TEXT)"))

        def make(*, max_pending: int | None = None) -> SqlAlchemyUnitOfWork:
            unit_of_work = SqlAlchemyUnitOfWork(engine, max_pending=max_pending)
            current_scope().on_exit(lambda _: unit_of_work.aclose())
            return unit_of_work

        async def write(row: str) -> None:
            unit_of_work = current_unit_of_work()
            assert isinstance(unit_of_work, SqlAlchemyUnitOfWork)
            await unit_of_work.session.execute(text("INSERT INTO entries VALUES (:text)"), {"text": row})

        async def read() -> list[str]:
            async with engine.connect() as connection:
                return sorted(row.text for row in await connection.execute(text("SELECT text FROM entries")))

        yield StorageUnderTest(
            make=make,
            outbox=SqlAlchemyOutbox(engine),
            inbox=SqlAlchemyInbox(engine),
            parking=SqlAlchemyParking(engine),
            write=write,
            read=read,
            reopened=lambda: in_database(url),
        )
