"""InMemoryStreamContents: which events an `InMemoryBroker` holds."""

from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.stream_contents import HeldStream, StreamContents

Stored = tuple[int, datetime, CloudEvent]
"""The sequence of a message, when it was stored, and the event in it."""


class InMemoryStreamContents(StreamContents):
    """Reads the one stream of a broker as if every context had its own; there is always one.

    Args:
        stored: What the broker holds now, in order. It raises what the broker does while it plays dead.
        application: The source of the events that count.
    """

    def __init__(self, stored: Callable[[], Sequence[Stored]], application: str) -> None:
        self._stored = stored
        self._application = application

    def stream(self, context: str, /) -> str:
        """See `StreamContents.stream`."""
        return f"memory-{context}"

    async def state(self, context: str, /) -> HeldStream | None:
        """See `StreamContents.state`."""
        found = self._of(context)
        oldest = found[0][1] if found else None
        last = found[-1][0] if found else 0
        return HeldStream(self.stream(context), datetime.fromtimestamp(0, UTC), last, oldest, None, drops_oldest=False)

    async def ids(
        self, context: str, /, *, since: datetime | None = None, after: int = 0
    ) -> AsyncGenerator[Sequence[str]]:
        """See `StreamContents.ids`."""
        yield [
            event.id
            for sequence, stored_at, event in self._of(context)
            if event.source == self._application and sequence > after and (since is None or stored_at >= since)
        ]

    def _of(self, context: str) -> list[Stored]:
        return [each for each in self._stored() if each[2].type.partition(".")[0] == context]
