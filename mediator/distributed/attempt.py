"""Attempt: a start of the handlers of one delivery: when it may happen, its number, and how it ended."""

import asyncio

import structlog

from mediator.distributed import failpoints
from mediator.distributed.exclusion import Exclusion, Turn
from mediator.distributed.identity import EventIdentity
from mediator.distributed.inbox import Inbox, Start
from mediator.distributed.shield import finish

_TAKE_BACK_SECONDS = 0.9
"""How long a stopping consumer waits for the database to take a start back."""


class Attempt:
    """Counts one start of an event that was delivered before; a first delivery costs no transaction.

    An event is a suspect when its last start left no trace of how it ended: the process may have died of it, or of what ran
    beside it. So it is started alone, and counted no sooner than that: what dies with it then is nobody else.

    Attributes:
        turn: Its place among the handlers of this process; to be left when the delivery is settled.
        start: What was counted, once it was.
    """

    def __init__(
        self, inbox: Inbox, identity: EventIdentity, exclusion: Exclusion, stopping: asyncio.Event, limit: int
    ) -> None:
        self.turn: Turn = Turn(exclusion, stopping)
        self.start: Start | None = None
        self._inbox = inbox
        self._row = (identity.consumer, identity.source, identity.event_id)
        self._limit = limit

    @property
    def number(self) -> int:
        """Which start it is, from 1; 0 before it is counted."""
        return self.start.attempt if self.start is not None else 0

    async def begin(self, *, first: bool) -> Start | None:
        """Wait for its turn and count it, unless that is done; `None` when the consumer is stopped before.

        Args:
            first: The event was never delivered before.
        """
        if self.start is None and await self.turn.beside_others():
            self.start = Start(1) if first else await self._counted()
        return self.start

    async def _counted(self) -> Start | None:
        start = await self._count()
        if not start.suspect:
            return start
        return await self._count() if await self.turn.alone(start.attempt) else None

    async def _count(self) -> Start:
        start = await self._inbox.start(*self._row, self._limit, alone=self.turn.is_alone)
        if not start.suspect:
            await failpoints.reach("consumer.after_count")
        return start

    async def end(self) -> None:
        """Write down that its handlers failed, so that the event is no suspect when it comes again."""
        if self._has_begun():
            await self._inbox.end(*self._row, self.number)
            await failpoints.reach("consumer.after_failure")

    async def take_back(self, log: structlog.stdlib.BoundLogger) -> None:
        """Do not count it, if the database says so in time."""
        if self._has_begun():
            done = await finish(self._inbox.take_back(*self._row), _TAKE_BACK_SECONDS)
            if done.failure is not None or not done.task.done():
                log.warning("attempt counted", event_id=self._row[2], error=repr(done.failure))
            await failpoints.reach("consumer.after_take_back")

    def _has_begun(self) -> bool:
        return self.start is not None and not self.start.taken and not self.start.exhausted
