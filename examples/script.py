"""Script: units of work by hand, on the same commit path as a command's. It prints:

committed: Ada, Blaise
outbox: 1 event
rolled back: ValueError
students: Ada, Blaise
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import structlog
from dependency_injector import containers, providers
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import DistributedEvent, DistributedEventBroker
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema, open_engine


@dataclass(frozen=True, slots=True)
class StudentsImported(DistributedEvent):
    event_type: ClassVar[str] = "university.students-imported"
    count: int


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[AsyncEngine, None]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS students (name TEXT NOT NULL)"))
        yield engine


class ScriptContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_database, config.database_url)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine, application="university")
    mediator = MediatorProvider()


async def add(container: ScriptContainer, *names: str) -> None:
    """Add all of these students, or none."""
    async with container.mediator().scope(), container.unit_of_work() as unit_of_work:
        for name in names:
            if not name:
                raise ValueError("a student has a name")
            await unit_of_work.session.execute(text("INSERT INTO students VALUES (:name)"), {"name": name})
        container.distributed_events().add(StudentsImported(len(names)))


async def students(container: ScriptContainer) -> str:
    async with container.mediator().scope():
        names = await container.unit_of_work().session.scalars(text("SELECT name FROM students"))
        return ", ".join(names)


async def main(database_url: str) -> None:
    container = ScriptContainer()
    container.config.from_dict({"database_url": database_url})
    async with lifespan(container):
        await add(container, "Ada", "Blaise")
        print("committed:", await students(container))
        print("outbox:", await container.outbox().pending(), "event")
        try:
            await add(container, "Carl", "")
        except ValueError as error:
            print("rolled back:", type(error).__name__)
        print("students:", await students(container))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(f"sqlite:///{Path(folder) / 'university.db'}"))
