"""RecordedEventQueue: the domain events of one transaction, published before its commit until there are none."""

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from mediator.aggregates import RecordedEvent
from mediator.errors import DomainEventDepthError, TooManyDomainEventsError
from mediator.sender import Origin

_STRIDE = 20
"""After how many events the event loop gets its turn, since handlers that never wait would not let a timeout act."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    recorded: RecordedEvent
    cause: "_Waiting | None"
    depth: int

    def __lt__(self, other: "_Waiting") -> bool:
        return self.recorded.number < other.recorded.number

    def path(self) -> list[object]:
        """The events that led to this one, the first one first."""
        found: list[object] = []
        each: _Waiting | None = self
        while each is not None:
            found.append(each.recorded.event)
            each = each.cause
        return found[::-1]


@dataclass(slots=True)
class RecordedEventQueue:
    """In the order in which they were recorded, over all aggregates.

    Attributes:
        origin: The mediator that publishes them. Its `max_depth` is also how long a chain may be of events whose handlers
            record the next one.
        limit: How many there may be in all, since a circle whose events cause several each is wide before it is long; `None`
            for any number.
    """

    origin: Origin
    limit: int | None
    _waiting: list[_Waiting] = field(default_factory=list[_Waiting])
    _published: _Waiting | None = None
    _count: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, recorded: Iterable[RecordedEvent]) -> None:
        """Let events wait.

        Raises:
            DomainEventDepthError: The handlers of events record events, and so on without end.
        """
        cause, limit = self._published, self.origin.max_depth
        depth = 1 if cause is None else cause.depth + 1
        for each in recorded:
            waiting = _Waiting(each, cause, depth)
            if depth > limit:
                raise DomainEventDepthError(limit, waiting.path())
            self._waiting.append(waiting)

    def drop(self, mark: int) -> None:
        """Forget what was added since there were `mark` events."""
        del self._waiting[mark:]

    async def publish(self) -> None:
        """Publish them in turn, also those that are recorded meanwhile; the first error stops.

        Raises:
            TooManyDomainEventsError: Those that were published and those that wait are more than `limit`.
        """
        heap: list[_Waiting] = []
        try:
            while self._waiting or heap:
                for each in self._waiting:
                    heapq.heappush(heap, each)
                self._waiting.clear()
                self._check_number(heap)
                self._published = heapq.heappop(heap)
                recorded = self._published.recorded
                await self.origin.publish(recorded.event, context=recorded.context)
                self._count += 1
                if self._count % _STRIDE == 0:
                    await asyncio.sleep(0)
        finally:
            self._published = None

    def _check_number(self, heap: list[_Waiting]) -> None:
        if self.limit is not None and self._count + len(heap) > self.limit:
            deepest = max(heap, key=lambda waiting: waiting.depth)
            raise TooManyDomainEventsError(self.limit, deepest.path())
