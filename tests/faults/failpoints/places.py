"""Place: the database and the stream of one test, and their contents."""

import asyncio
import uuid
from dataclasses import dataclass, replace
from typing import Any

import nats
from nats.js.errors import NotFoundError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.dependency_injector import lifespan
from mediator.distributed.inbox import ParkedReplay
from mediator.distributed.parking import ParkedFilter
from tests.faults.failpoints.application import Place, configured
from tests.faults.failpoints.situations import SITUATIONS

_TABLES = {
    "orders": "orders",
    "outbox": "mediator_outbox",
    "archive": "mediator_outbox_archive",
    "inbox": "mediator_inbox",
    "attempts": "mediator_attempts",
    "parked": "mediator_parked",
    "waiting": "mediator_parked WHERE due_at IS NOT NULL",
    "held": "mediator_parked WHERE held_by IS NOT NULL",
    "effects": "reservations",
    "notes": "notes",
}


@dataclass(frozen=True, slots=True)
class Left:
    """The numbers of rows and messages.

    Attributes:
        orders: Rows of the application that the command wrote.
        outbox: Events that wait for the relay.
        archive: Events that the relay has sent and archived.
        stream: Messages of the command's events in the stream.
        inbox: Events that the inbox has recorded.
        attempts: Events with counted attempts.
        parked: Parked events.
        waiting: Parked events that the consumer tries again by itself.
        held: Parked events that the circuit of their handler holds.
        effects: Rows of the application that the handler wrote.
        notes: Rows of notifications published after the commit.
    """

    orders: int = 0
    outbox: int = 0
    archive: int = 0
    stream: int = 0
    inbox: int = 0
    attempts: int = 0
    parked: int = 0
    waiting: int = 0
    held: int = 0
    effects: int = 0
    notes: int = 0

    def __str__(self) -> str:
        """List the numbers that are not zero."""
        named = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return ", ".join(f"{name} {number}" for name, number in named if number) or "nothing"


class TestPlace:
    """The database and the stream of one test.

    Args:
        engine: The engine with which the test reads the database.
        database: The URL of the database.
        broker: The URL of the broker.
    """

    __test__ = False

    def __init__(self, engine: AsyncEngine, database: str, broker: str) -> None:
        self._engine = engine
        self.address: tuple[str, str, str] = (database, broker, f"p{uuid.uuid4().hex[:10]}")

    async def prepare(self, name: str) -> None:
        """Do everything that precedes a situation."""
        situation = SITUATIONS[name]
        container = configured(
            *self.address, later_delays=situation.later_delays, circuit_failures=situation.circuit_failures
        )
        async with lifespan(container, relay_elsewhere=True):
            for number in situation.orders:
                await container.mediator().send(Place(number, customer=situation.customers.get(number, "ada")))
            if situation.streamed and situation.orders:
                await self._work(container.relay(), outbox=0)
            if situation.consumed:
                await self._work(container.consumer(), parked=len(situation.orders))
                while (await self.left()).held < situation.held:  # the stop of the consumer has interrupted a probe
                    await self._work(container.consumer(), held=situation.held)

    async def finish(self, name: str) -> None:
        """Finish the remaining work in an application that can handle everything; a failed command is sent again."""
        container = configured(*self.address, repaired=True)
        async with lifespan(container, relay_elsewhere=True):
            if (await self.left()).orders == 0:
                await container.mediator().send(Place(SITUATIONS[name].sent))
            await self._work(container.relay(), outbox=0)
            await self._consume_all(container, (await self.left()).stream)
            await self._work(container.relay(), outbox=0)

    async def _consume_all(self, container: Any, events: int) -> None:
        consumer = container.consumer()
        replay = ParkedReplay(container.parking(), [consumer])
        running = asyncio.ensure_future(consumer.run())
        try:
            async with asyncio.timeout(30):
                while (await self.left()).effects < events:
                    async for _ in replay.run(ParkedFilter()):
                        pass
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.wait((running,))

    async def _work(self, worker: Any, **wanted: int) -> None:
        running = asyncio.ensure_future(worker.run())
        try:
            await self.until(**wanted)
        finally:
            running.cancel()
            await asyncio.wait((running,))

    async def until(self, **wanted: int) -> None:
        """Wait until these numbers of rows and messages are left.

        Raises:
            AssertionError: The numbers did not become true in time.
        """
        left = await self.left()
        try:
            async with asyncio.timeout(30):
                while replace(left, **wanted) != left:
                    await asyncio.sleep(0.01)
                    left = await self.left()
        except TimeoutError:
            raise AssertionError(f"{left} instead of {wanted}") from None

    async def left(self) -> Left:
        """Return the current numbers of rows and messages."""
        counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in _TABLES.values())
        async with self._engine.connect() as connection:
            row = (await connection.execute(text(f"SELECT {counts}"))).one()
        return Left(**dict(zip(_TABLES, row, strict=True)), stream=await self.stored("shop"))

    async def stored(self, context: str) -> int:
        """Return the number of events of a context in the stream."""
        _, broker, prefix = self.address
        client = await nats.connect(broker)
        try:
            return (await client.jetstream().stream_info(f"{prefix}-{context}")).state.messages
        except NotFoundError:
            return 0
        finally:
            await client.close()
