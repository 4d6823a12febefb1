"""A database without the tables of the library: every operation fails with the name of the table and the remedy."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.outbox import OutboxFilter
from mediator.distributed.parking import ParkedFilter
from mediator.errors import SchemaError
from mediator.sqlalchemy import SqlAlchemyIdempotency, SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, open_engine
from mediator.testing.conformance.storage import parked_event
from tests.adapters.sqlalchemy.ledger import Do, EntryWritten, Ledger

EVENT = ("group", "source", "1")


class Parts:
    """The adapters of one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.ledger = Ledger(engine)
        self.parking = SqlAlchemyParking(engine)
        self.inbox = SqlAlchemyInbox(engine)
        self.outbox = SqlAlchemyOutbox(engine)
        self.idempotency = SqlAlchemyIdempotency(engine)

    async def claim(self) -> None:
        async with self.outbox.claim(10):
            pass

    async def add(self) -> None:
        self.ledger.events.add(EntryWritten("a"))

    async def query(self, statement: str) -> None:
        await self.ledger.unit_of_work.session.execute(text(statement))


ALONE: dict[str, tuple[str, Callable[[Parts], Awaitable[Any]]]] = {
    "parking.park": ("inbox", lambda on: on.parking.park(parked_event("1"))),
    "parking.find": ("parked", lambda on: on.parking.find(ParkedFilter())),
    "parking.count": ("parked", lambda on: on.parking.count(ParkedFilter())),
    "parking.get": ("parked", lambda on: on.parking.get(1)),
    "parking.head": ("parked", lambda on: on.parking.head(parked_event("1"))),
    "parking.edit": ("parked", lambda on: on.parking.edit(1, data=b"")),
    "parking.release": ("parked", lambda on: on.parking.release(1)),
    "parking.note_failure": ("parked", lambda on: on.parking.note_failure(1, ValueError())),
    "parking.discard": ("parked", lambda on: on.parking.discard(1)),
    "inbox.contains": ("inbox", lambda on: on.inbox.contains(*EVENT)),
    "inbox.start": ("inbox", lambda on: on.inbox.start(*EVENT, 3)),
    "inbox.end": ("attempts", lambda on: on.inbox.end(*EVENT, 1)),
    "inbox.take_back": ("attempts", lambda on: on.inbox.take_back(*EVENT)),
    "inbox.clean": ("inbox|parked", lambda on: on.inbox.clean(1)),
    "outbox.claim": ("outbox", lambda on: on.claim()),
    "outbox.due_in": ("outbox", lambda on: on.outbox.due_in()),
    "outbox.pending": ("outbox", lambda on: on.outbox.pending()),
    "outbox.clean": ("outbox_archive", lambda on: on.outbox.clean(1)),
    "outbox.cancel": ("outbox", lambda on: on.outbox.cancel("1")),
    "outbox.erase": ("outbox_archive", lambda on: on.outbox.erase("k")),
    "contents.find": ("outbox", lambda on: on.outbox.contents.find(OutboxFilter("waiting"))),
    "contents.count": ("outbox_archive", lambda on: on.outbox.contents.count(OutboxFilter("archived"))),
    "contents.get": ("outbox", lambda on: on.outbox.contents.get("1")),
    "contents.archived": ("outbox_archive", lambda on: on.outbox.contents.archived([1])),
    "idempotency.clean": ("idempotency", lambda on: on.idempotency.clean(1)),
}

IN_A_TRANSACTION: dict[str, tuple[str, Callable[[Parts], Awaitable[Any]]]] = {
    "parking.append": ("parked", lambda on: on.parking.append(on.ledger.unit_of_work, parked_event("1"))),
    "parking.take": ("parked", lambda on: on.parking.take(on.ledger.unit_of_work, 1)),
    "inbox.insert": ("inbox", lambda on: on.inbox.insert(on.ledger.unit_of_work, *EVENT, key="k")),
    "inbox.forget_starts": ("attempts", lambda on: on.inbox.forget_starts(on.ledger.unit_of_work, *EVENT)),
    "outbox.cancel": ("outbox", lambda on: on.outbox.cancel("1", unit_of_work=on.ledger.unit_of_work)),
    "idempotency.claim": ("idempotency", lambda on: on.idempotency.claim(on.ledger.unit_of_work, "k", "f")),
    "idempotency.keep": ("idempotency", lambda on: on.idempotency.keep(on.ledger.unit_of_work, "k", b"")),
    "a statement of a handler": ("outbox", lambda on: on.query("SELECT * FROM mediator_outbox")),
    "a distributed event": ("outbox", lambda on: on.add()),
}


@pytest.fixture
async def parts(url: str) -> AsyncIterator[Parts]:
    async with open_engine(url) as engine:
        yield Parts(engine)


def missing(tables: str) -> Any:
    return pytest.raises(SchemaError, match=rf"no table mediator_({tables})\. .*mediator schema create")


@pytest.mark.parametrize(("tables", "asking"), ALONE.values(), ids=ALONE.keys())
async def test_the_error_of_an_operation_names_its_missing_table(
    parts: Parts, tables: str, asking: Callable[[Parts], Awaitable[Any]]
) -> None:
    with missing(tables):
        await asking(parts)


@pytest.mark.parametrize(("tables", "asking"), IN_A_TRANSACTION.values(), ids=IN_A_TRANSACTION.keys())
async def test_the_error_of_an_operation_in_a_transaction_names_its_missing_table(
    parts: Parts, tables: str, asking: Callable[[Parts], Awaitable[Any]]
) -> None:
    with missing(tables):
        await parts.ledger.send(Do(lambda _: asking(parts)))


async def test_a_missing_table_of_the_application_stays_an_error_of_the_database(parts: Parts) -> None:
    with pytest.raises(DBAPIError, match="orders"):
        await parts.ledger.send(Do(lambda _: parts.query("SELECT * FROM orders")))
