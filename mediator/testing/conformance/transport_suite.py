"""TransportSuite: what the conformance suites of publishers and subscriptions have in common."""

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

from mediator.distributed.subscription import Ordering
from mediator.testing.conformance.reader import Reader
from mediator.testing.conformance.sample_events import TYPE
from mediator.testing.conformance.suite import ConformanceSuite
from mediator.testing.conformance.transport import Start, TransportUnderTest


class TransportSuite(ConformanceSuite):
    """Cases that begin with a broker without events.

    Attributes:
        ordering: How the cases subscribe that are not about the ordering. An adapter that can do both runs its suite
            twice, with one subclass for each.
        patience: How long awaited deliveries may take, in seconds, before a case fails.
    """

    ordering: ClassVar[Ordering] = "none"
    patience: ClassVar[float] = 15.0

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[TransportUnderTest]:
        """Open a broker without events, or a part of one that nobody else uses, for one case."""

    @asynccontextmanager
    async def reading(
        self,
        transport: TransportUnderTest,
        group: str = "group",
        *,
        types: tuple[str, ...] = (TYPE,),
        prefetch: int = 10,
        ordering: Ordering | None = None,
        ack_wait: float = 30.0,
        start: Start = "all",
    ) -> AsyncGenerator[Reader, None]:
        """Subscribe as one process of a group does."""
        subscription = transport.subscribe(group, ack_wait=ack_wait, start=start)
        opening = subscription.open(types, prefetch=prefetch, ordering=ordering or self.ordering)
        async with opening as deliveries:
            yield Reader(deliveries, self.patience)
