"""Nothing is written, committed or sent by a command whose transaction ended before the command did."""

import contextlib

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, make_transient_to_detached, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from mediator.errors import MisuseError, NoUnitOfWorkError, RolledBackError
from tests.adapters.sqlalchemy.ledger import Ledger, Write, sqlite_only


class _Base(DeclarativeBase):
    pass


class _Parent(_Base):
    __tablename__ = "parents"
    id: Mapped[int] = mapped_column(primary_key=True)


async def _roll_back_in_sqlite(ledger: Ledger) -> None:
    session = ledger.unit_of_work.session
    await session.execute(text("CREATE TABLE once (id INTEGER PRIMARY KEY ON CONFLICT ROLLBACK)"))
    await session.execute(text("INSERT INTO once VALUES (1)"))
    await session.execute(text("INSERT INTO once VALUES (1)"))


@sqlite_only
async def test_no_statement_runs_after_an_error_that_ended_the_sqlite_transaction(ledger: Ledger) -> None:
    async def go_on(ledger: Ledger) -> None:
        with pytest.raises(IntegrityError):
            await _roll_back_in_sqlite(ledger)
        with contextlib.suppress(NoUnitOfWorkError):
            await ledger.write("went on")

    with pytest.raises(RolledBackError):
        await ledger.send(Write("a", then=go_on))
    assert await ledger.entries() == await ledger.staged() == []


@sqlite_only
async def test_an_error_that_ends_the_sqlite_transaction_ends_it_even_inside_a_savepoint(ledger: Ledger) -> None:
    async def confine(ledger: Ledger) -> None:
        with contextlib.suppress(IntegrityError, NoUnitOfWorkError):
            async with ledger.unit_of_work.session.begin_nested():
                await _roll_back_in_sqlite(ledger)

    with pytest.raises(NoUnitOfWorkError):
        await ledger.send(Write("a", then=confine))
    assert await ledger.entries() == await ledger.staged() == []
    await ledger.send(Write("b"))
    assert await ledger.entries() == await ledger.staged() == ["b"]


async def test_a_session_used_as_a_context_manager_does_not_lose_rows_and_keep_events(ledger: Ledger) -> None:
    async def close(ledger: Ledger) -> None:
        async with ledger.unit_of_work.session:
            await ledger.write("b")

    with pytest.raises(MisuseError, match=r"session\.close"):
        await ledger.send(Write("a", then=close))
    assert await ledger.entries() == await ledger.staged() == []


@pytest.mark.parametrize("operation", ["commit", "rollback"])
async def test_a_handler_cannot_end_the_transaction_from_inside_its_own_savepoint(
    ledger: Ledger, operation: str
) -> None:
    async def end(ledger: Ledger) -> None:
        session = ledger.unit_of_work.session
        async with session.begin_nested():
            await getattr(session, operation)()

    with pytest.raises(MisuseError, match=operation):
        await ledger.send(Write("a", then=end))
    assert await ledger.entries() == await ledger.staged() == []


async def test_an_error_of_the_session_itself_reaches_the_caller_unchanged(ledger: Ledger) -> None:
    async def change_what_is_gone(ledger: Ledger) -> None:
        gone = _Parent(id=1)
        make_transient_to_detached(gone)
        ledger.unit_of_work.session.add(gone)
        gone.id = 2

    with pytest.raises(StaleDataError):
        await ledger.send(Write("a", then=change_what_is_gone))
    assert await ledger.entries() == await ledger.staged() == []
