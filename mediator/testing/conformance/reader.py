"""Reader: takes deliveries in a conformance case, each wait bounded."""

import asyncio
from collections.abc import Iterable

from mediator.distributed.subscription import Deliveries, Delivery


class Reader:
    """Reads from an open subscription.

    Args:
        deliveries: The subscription.
        patience: How long deliveries may take in all, in seconds, before the case fails.
    """

    def __init__(self, deliveries: Deliveries, patience: float) -> None:
        self._deliveries = deliveries
        self._patience = patience

    async def hold(self, count: int = 1) -> list[Delivery]:
        """Take deliveries without acknowledging them."""
        taken: list[Delivery] = []
        try:
            async with asyncio.timeout(self._patience):
                while len(taken) < count:
                    taken.append(await self._deliveries.next())
        except TimeoutError:
            raise AssertionError(f"{count} deliveries expected, and after {ids(taken)} none came") from None
        return taken

    async def hold_one(self) -> Delivery:
        """Take one delivery without acknowledging it."""
        return (await self.hold())[0]

    async def take(self, count: int = 1) -> list[Delivery]:
        """Take deliveries and acknowledge each before the next."""
        taken: list[Delivery] = []
        for _ in range(count):
            try:
                taken.append(await self.hold_one())
            except AssertionError as error:
                raise AssertionError(f"{count} deliveries expected, and after {ids(taken)} none came") from error
            await taken[-1].ack()
        return taken

    async def take_ids(self, count: int = 1) -> list[str]:
        """Take deliveries, acknowledge each before the next, and return the ids of their events."""
        return ids(await self.take(count))

    async def nothing(self, seconds: float = 0.2) -> None:
        """Make sure that nothing is delivered for so long; a wait that is given up then loses nothing."""
        waiting = asyncio.ensure_future(self._deliveries.next())
        try:
            await asyncio.wait({waiting}, timeout=seconds)
            assert not waiting.done(), f"delivered, and should not be: {ids([waiting.result()])}"
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """The ids of their events; an empty one for what is no event."""
    return [delivery.event.id if delivery.event else "" for delivery in deliveries]
