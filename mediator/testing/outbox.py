"""InMemoryOutbox: the events that wait in an `InMemoryDatabase`."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import Outbox, OutboxBatch
from mediator.testing.database import InMemoryDatabase


class InMemoryOutbox(Outbox):
    """`outbox = providers.Singleton(InMemoryOutbox, database)`. One relay at a time is given events."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database
        self._claimed = False

    @property
    def pending(self) -> Sequence[CloudEvent]:
        """The events that wait, in the order of their commits."""
        return tuple(self._database.outbox)

    def wake(self) -> None:
        """See `Outbox.wake`."""
        self._database.woken.set()

    async def wait(self, seconds: float, /) -> None:
        """See `Outbox.wait`."""
        try:
            async with asyncio.timeout(seconds):
                await self._database.woken.wait()
        except TimeoutError:
            return
        self._database.woken.clear()

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncGenerator[OutboxBatch, None]:
        """See `Outbox.claim`."""
        self._database.woken.clear()
        if self._claimed:
            yield _Batch(self._database, ())
            return
        self._claimed = True
        try:
            free = [e for e in self._database.outbox if e.id not in without and e.partitionkey not in without]
            yield _Batch(self._database, free[:limit])
        finally:
            self._claimed = False

    async def clean(self, _limit: int, /) -> int:
        """The archive in memory is kept; see `Outbox.clean`."""
        return 0


class _Batch(OutboxBatch):
    def __init__(self, database: InMemoryDatabase, events: Sequence[CloudEvent]) -> None:
        self._database = database
        self.events = events

    async def settle(self, ids: Collection[str], /) -> None:
        settled = [event for event in self.events if event.id in ids]
        self._database.archive += settled
        self._database.outbox = [event for event in self._database.outbox if event not in settled]
