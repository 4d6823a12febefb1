"""Tables of the enrollment application; the library's own stand beside them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mediator.sqlalchemy import create_schema, open_engine


class Base(DeclarativeBase):
    pass


class Programme(Base):
    __tablename__ = "programmes"
    name: Mapped[str] = mapped_column(primary_key=True)


class Student(Base):
    __tablename__ = "students"
    id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    name: Mapped[str]
    # Checked by the database at COMMIT, when handlers have long succeeded.
    programme: Mapped[str] = mapped_column(ForeignKey("programmes.name", deferrable=True, initially="DEFERRED"))


class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[str]
    text: Mapped[str]


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[AsyncEngine, None]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(Programme).values(name="mathematics").on_conflict_do_nothing())
        yield engine
