"""Claims: how a relay gets events that no other relay gets meanwhile."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import ColumnElement, Float, Row, literal
from sqlalchemy.ext.asyncio import AsyncConnection

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import OutboxBatch
from mediator.errors import ClaimLostError
from mediator.sqlalchemy import moves
from mediator.sqlalchemy.envelope import event_of

BUSY_PAUSE = 0.05
"""In how many seconds a relay that finds everything claimed looks again."""


class DatabaseClock:
    """What time it is: that of the database server, which all relays share, unless a clock is given.

    Args:
        dialect: "sqlite" or "postgresql".
        clock: The time in seconds since the epoch.
    """

    def __init__(self, dialect: str, clock: Callable[[], float] | None) -> None:
        self._clock = time.time if clock is None and dialect == "sqlite" else clock

    def now(self) -> ColumnElement[float]:
        """The time in seconds since the epoch, for a statement."""
        time = self.time()
        return moves.SERVER_TIME if time is None else literal(time, Float)

    def time(self) -> float | None:
        """The time in seconds since the epoch; `None` when it is the server that knows it."""
        return None if self._clock is None else self._clock()


class Claims(ABC):
    """Gives one relay events that no other relay gets."""

    @abstractmethod
    def claim(self, limit: int, without: Collection[str]) -> AbstractAsyncContextManager[OutboxBatch]:
        """See `Outbox.claim`."""


class ClaimedBatch(OutboxBatch):
    """Events that are claimed until the batch is left.

    Args:
        rows: Of the outbox.
        writing: Opens the transaction in which events are moved.
        clock: For the time of moving.
        archives: Whether events that were sent go to the archive; else they are deleted.
    """

    def __init__(
        self,
        rows: Sequence[Row[Any]],
        writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        clock: DatabaseClock,
        *,
        archives: bool,
        look_again: float | None,
    ) -> None:
        self._sequences = {row.id: row.sequence for row in rows}
        self._writing = writing
        self._clock = clock
        self._archives = archives
        self.events: Sequence[CloudEvent] = [event_of(row) for row in rows]
        self.look_again: float | None = look_again
        self._open = True

    def close(self) -> None:
        """The claim ends here."""
        self._open = False

    async def settle(self, ids: Collection[str], /) -> None:
        """See `OutboxBatch.settle`."""
        sequences = [self._sequences[event_id] for event_id in ids]
        self._check_open()
        async with self._writing() as connection:
            if self._archives:
                moved = await moves.to_archive(connection, sequences, self._clock.time())
            else:
                moved = await moves.delete_sent(connection, sequences)
            self._check_moved(moved, len(sequences))

    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        """See `OutboxBatch.park`."""
        sequence = self._sequences[event.id]
        self._check_open()
        async with self._writing() as connection:
            moved = await moves.to_parked(
                connection, event, sequence, now=self._clock.now(), reason=reason, error=error
            )
            self._check_moved(moved, 1)

    def _check_open(self) -> None:
        if not self._open:
            raise ClaimLostError("the batch was left")

    def _check_moved(self, moved: int, expected: int) -> None:
        if moved != expected:
            raise ClaimLostError(f"{expected - moved} of {expected} events are not there any more")
