"""A relay without events claims again when it has a reason, and not more often."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import OutboxRelay
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, OutboxBatch, PublishResult
from mediator.errors import StreamNotFoundError
from mediator.sqlalchemy import SqlAlchemyOutbox, create_schema, open_engine
from tests.adapters.sqlalchemy.ledger import Do, Ledger
from tests.adapters.sqlalchemy.test_staging import Moved, add


class WatchedOutbox(SqlAlchemyOutbox):
    """Counts the claims, and records the wait before each next claim."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.claims = 0
        self.waits: list[float] = []
        self.progress = asyncio.Condition()

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncGenerator[OutboxBatch, None]:
        self.claims += 1
        async with super().claim(limit, without=without) as batch:
            yield batch

    async def wait(self, seconds: float, /) -> None:
        async with self.progress:
            self.waits.append(seconds)
            self.progress.notify_all()
        await super().wait(seconds)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.progress:
            await self.progress.wait_for(condition)


class Broker(EventPublisher):
    """Stores everything, or has no stream."""

    def __init__(self, *, has_stream: bool = True) -> None:
        self.error = None if has_stream else StreamNotFoundError("broker", "not found", "events-stock")
        self.stored = asyncio.Event()

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        if self.error is None:
            self.stored.set()
        return [PublishResult(event, self.error) for event in events]


@asynccontextmanager
async def running(relay: OutboxRelay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_relay_looks_at_its_usual_pace_after_another_one_has_sent_the_backlog_of_an_outage(
    ledger: Ledger, url: str
) -> None:
    now = 0.0
    await add(ledger, Moved("k", 1))
    async with open_engine(url) as engine:
        outbox = WatchedOutbox(engine)
        async with running(OutboxRelay(outbox, Broker(has_stream=False), poll_interval=60, clock=lambda: now)):
            await outbox.until(lambda: bool(outbox.waits))
            while await ledger.outbox.pending():
                async with ledger.outbox.claim(10) as batch:
                    await batch.settle([event.id for event in batch.events])
            now += 20
            before = outbox.claims
            await outbox.until(lambda: outbox.waits[-1] == 60)
            assert outbox.claims <= before + 2


async def test_a_due_event_that_an_open_transaction_has_cancelled_makes_no_relay_spin(postgres_url: str) -> None:
    async with open_engine(postgres_url) as engine:
        await create_schema(engine)
        ledger, outbox, broker = Ledger(engine), WatchedOutbox(engine), Broker()
        cancelled, looked = asyncio.Event(), asyncio.Event()

        async def delay(ledger: Ledger) -> str:
            return ledger.events.add(Moved("k", 1), deliver_at=datetime.now(UTC))

        async def cancel_and_fail(ledger: Ledger) -> None:
            assert await ledger.outbox.cancel(event_id, unit_of_work=ledger.unit_of_work)
            cancelled.set()
            await looked.wait()
            raise KeyError("never mind")

        event_id = await ledger.send(Do(delay))
        cancelling = asyncio.create_task(ledger.send(Do(cancel_and_fail)))
        await cancelled.wait()
        async with running(OutboxRelay(outbox, broker, poll_interval=60)):
            await outbox.until(lambda: len(outbox.waits) >= 3)
            assert (outbox.claims, outbox.waits[:3]) == (3, [0.05] * 3)
            looked.set()
            with pytest.raises(KeyError):
                await cancelling
            async with asyncio.timeout(10):
                await broker.stored.wait()
