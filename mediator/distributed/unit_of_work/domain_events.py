"""RecordedEventQueue: publishes the domain events of a transaction before its commit, until none is left."""

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mediator.aggregates import RecordedEvent
from mediator.errors import misuse
from mediator.errors.root import name_of
from mediator.messages import Origin

_STRIDE = 20
"""After this many events, other tasks get a turn. Handlers that never wait would otherwise delay all timeouts."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    recorded: RecordedEvent
    cause: "_Waiting | None"
    depth: int

    def __lt__(self, other: "_Waiting") -> bool:
        return self.recorded.number < other.recorded.number

    def path(self) -> list[object]:
        """Return the chain of events that led to this event. This event is the last of the chain."""
        found: list[object] = []
        each: _Waiting | None = self
        while each is not None:
            found.append(each.recorded.event)
            each = each.cause
        return found[::-1]


@dataclass(slots=True)
class RecordedEventQueue:
    """The domain events of all aggregates, published in the order in which they were recorded.

    Attributes:
        origin: The mediator that publishes the events. Its `max_depth` limits chains in which the handler of one event
            records the next event.
        limit: The largest number of events; `None` for no limit. If each event causes several events, `limit` is
            reached long before `max_depth`.
    """

    origin: Origin
    limit: int | None
    _waiting: list[_Waiting] = field(default_factory=list[_Waiting])
    _published: _Waiting | None = None
    _count: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def names(self) -> Sequence[str]:
        """The classes of the waiting events, as texts for errors."""
        return list(dict.fromkeys(f"{name_of(each.recorded.event)} (recorded)" for each in self._waiting))

    def add(self, recorded: Iterable[RecordedEvent]) -> None:
        """Add recorded events. If a chain of events is longer than `max_depth`, raise a `DispatchDepthError`."""
        cause, limit = self._published, self.origin.max_depth
        depth = 1 if cause is None else cause.depth + 1
        for each in recorded:
            waiting = _Waiting(each, cause, depth)
            if depth > limit:
                raise misuse.domain_event_depth(limit, waiting.path())
            self._waiting.append(waiting)

    def drop(self, mark: int) -> None:
        """Drop all events after the first `mark` events."""
        del self._waiting[mark:]

    async def publish(self) -> None:
        """Publish all events in order, including the events that handlers record. Stop at the first error.

        If the published and the waiting events together are more than `limit`, a `DispatchDepthError` is raised.
        """
        heap: list[_Waiting] = []
        try:
            while self._waiting or heap:
                for each in self._waiting:
                    heapq.heappush(heap, each)
                self._waiting.clear()
                if self.limit is not None and self._count + len(heap) > self.limit:
                    deepest = max(heap, key=lambda waiting: waiting.depth)
                    raise misuse.too_many_domain_events(self.limit, deepest.path())
                self._published = heapq.heappop(heap)
                recorded = self._published.recorded
                await self.origin.publish(recorded.event, context=recorded.context)
                self._count += 1
                if self._count % _STRIDE == 0:
                    await asyncio.sleep(0)
        finally:
            self._published = None
