"""Tables of the advising application. Nothing in them is unique: a second effect of one event would show."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mediator.sqlalchemy import create_schema, open_engine


class Base(DeclarativeBase):
    pass


class StatusChange(Base):
    __tablename__ = "status_changes"
    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[str]
    student_id: Mapped[str]
    status: Mapped[str]


class Advisor(Base):
    __tablename__ = "advisors"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[str]
    name: Mapped[str]


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[AsyncEngine, None]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield engine
