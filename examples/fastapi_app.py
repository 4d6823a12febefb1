"""FastAPI: an application whose requests send commands. Start it with `uvicorn examples.fastapi_app:app`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dependency_injector import containers, providers
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import (
    Command,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    LoggingBehavior,
    Query,
    RequestHandler,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.fastapi import RequestMediator, container_lifespan
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema, open_engine


@dataclass(frozen=True, slots=True)
class EnrollStudent(Command[int]):
    name: str


@dataclass(frozen=True, slots=True)
class ListStudents(Query[list[str]]):
    pass


class EnrollStudentHandler(RequestHandler[EnrollStudent, int]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._session = unit_of_work.session

    async def handle(self, command: EnrollStudent) -> int:
        await self._session.execute(text("INSERT INTO students (name) VALUES (:name)"), {"name": command.name})
        return int(await self._session.scalar(text("SELECT last_insert_rowid()")) or 0)


class ListStudentsHandler(RequestHandler[ListStudents, list[str]]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._session = unit_of_work.session

    async def handle(self, _query: ListStudents) -> list[str]:
        return list(await self._session.scalars(text("SELECT name FROM students ORDER BY id")))


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[AsyncEngine, None]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            table = "CREATE TABLE IF NOT EXISTS students (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)"
            await connection.execute(text(table))
        yield engine


class AppContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_database, config.database_url)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine, application="university")

    logging = providers.Factory(LoggingBehavior)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(logging, transaction))

    enroll_student = providers.Factory(EnrollStudentHandler, unit_of_work)
    list_students = providers.Factory(ListStudentsHandler, unit_of_work)


class Student(BaseModel):
    name: str


def create(database_url: str = "sqlite:///students.db") -> FastAPI:
    """The application; nothing is opened before it is served."""
    container = AppContainer(config={"database_url": database_url})
    # The outbox stays empty: nothing here raises distributed events, so no relay runs.
    app = FastAPI(lifespan=container_lifespan(container, relay_elsewhere=True))

    @app.post("/students")
    async def enroll(student: Student, mediator: RequestMediator) -> int:
        return await mediator.send(EnrollStudent(student.name))

    @app.post("/classes")
    async def enroll_all(students: list[Student], mediator: RequestMediator) -> list[int]:
        return [await mediator.send(EnrollStudent(student.name)) for student in students]  # a transaction each

    @app.get("/students")
    async def students(mediator: RequestMediator) -> list[str]:
        return await mediator.send(ListStudents())

    return app


app = create()
