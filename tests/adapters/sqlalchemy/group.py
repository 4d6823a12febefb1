"""A group of consumers on a real database, fed by a broker in memory."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import DistributedEventHandler, EventConsumer, Mediator, current_delivery, current_scope
from mediator.binding import Binding
from mediator.distributed.parking import ParkedEvent, ParkedFilter
from mediator.registry import Registry
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, create_schema
from mediator.testing import InMemoryBroker, InMemoryEventSubscription
from tests.unit.distributed.inbox.application import OrderPlaced

FAILS = 13
"""The number of the orders whose handler fails."""
_numbers: "itertools.count[int]" = itertools.count()


async def prepare(engine: AsyncEngine) -> None:
    """Create the tables of the library, and the table of the handler."""
    await create_schema(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE orders (taker TEXT, number INTEGER, attempt INTEGER, filler TEXT)"))


class Group:
    """A group whose handler stores orders, each with some filler."""

    def __init__(self, engine: AsyncEngine, *, filler: int = 0, **options: Any) -> None:
        self.name = f"group-{next(_numbers)}"
        self.broker = InMemoryBroker()
        self.inbox = SqlAlchemyInbox(engine)
        self.parking = SqlAlchemyParking(engine)
        self._engine = engine
        self._filler = "x" * filler
        self.on_failure: Callable[[], None] = lambda: None
        binding = Binding(lambda: _Handler(self), _Handler, "reserve", DistributedEventHandler)
        self.consumer = EventConsumer(
            InMemoryEventSubscription(self.broker, self.name),
            self.inbox,
            self._unit_of_work,
            Mediator(Registry([binding], [])),
            **{
                "parking": self.parking,
                "unknown_type_grace": 0.0,
                "retry_delays": (),
                "later_delays": (),
                "circuit_failures": None,
                **options,
            },
        )

    def _unit_of_work(self) -> SqlAlchemyUnitOfWork:
        scope = current_scope()
        if self not in scope.instances:
            made = scope.instances[self] = SqlAlchemyUnitOfWork(self._engine)
            scope.on_exit(lambda _: made.aclose())
        found: SqlAlchemyUnitOfWork = scope.instances[self]
        return found

    async def handle(self, event: OrderPlaced) -> None:
        delivery = current_delivery()
        row = {"taker": self.name, "number": event.number, "attempt": delivery.attempt, "filler": self._filler}
        statement = text("INSERT INTO orders VALUES (:taker, :number, :attempt, :filler)")
        await self._unit_of_work().session.execute(statement, row)
        if event.number == FAILS:
            self.on_failure()
            raise ValueError(f"{delivery.id} cannot be reserved")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.consumer.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait({running})

    async def settled(self, count: int) -> None:
        """Wait until the group has settled that many events."""
        async with asyncio.timeout(20):
            await self.broker.wait_until_acknowledged(self.name, count)

    async def effects(self) -> list[tuple[int, int]]:
        """Return the number and the attempt of each stored order, in order."""
        async with self._engine.connect() as connection:
            statement = text("SELECT number, attempt FROM orders WHERE taker = :taker ORDER BY number")
            rows = await connection.execute(statement, {"taker": self.name})
            return [(row.number, row.attempt) for row in rows]

    async def parked(self) -> list[ParkedEvent]:
        return [*await self.parking.find(ParkedFilter(consumer=self.name), limit=1000)]


class _Handler(DistributedEventHandler[OrderPlaced]):
    def __init__(self, group: Group) -> None:
        self._group = group

    async def handle(self, event: OrderPlaced) -> None:
        await self._group.handle(event)
