"""Downtime: waiting, for all workers of a consumer, until the database is back, or its outbox has room again."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from mediator.distributed.retries import Backoff
from mediator.errors import (
    CommitOutcomeUnknownError,
    DatabaseUnavailableError,
    OutboxFullError,
    PoolExhaustedError,
    ReadOnlyDatabaseError,
    WriterTimeoutError,
)

_AWAY = (
    CommitOutcomeUnknownError,
    DatabaseUnavailableError,
    PoolExhaustedError,
    ReadOnlyDatabaseError,
    WriterTimeoutError,
)
_DEEPEST = 10


def is_outage(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that the database went away, and nothing of what was being done."""
    return _is_caused_by(error, _AWAY)


def is_backlog(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that the outbox takes no more at present."""
    return _is_caused_by(error, (OutboxFullError,))


def _is_caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    for _ in range(_DEEPEST):
        if error is None or isinstance(error, kinds):
            return error is not None
        error = error.__cause__
    return False


class Downtime:
    """Says once that the database is away, or its outbox full, and once that it is over, however many wait for it.

    Args:
        answers: Whether the database can be reached.
        backoff: The pauses between asking.
        room: The pauses until a full outbox is tried again.
        log: Where it is said.
    """

    def __init__(
        self, answers: Callable[[], Awaitable[bool]], backoff: Backoff, room: Backoff, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._answers = answers
        self._backoff = backoff
        self._room = room
        self._is_full = False
        self._log = log
        self._turn = asyncio.Lock()
        self._ridden_out = 0

    async def ride_out(self, error: BaseException, stopping: asyncio.Event) -> bool:
        """Wait until the database answers, or before a full outbox is tried again; False when the consumer is stopped."""
        if is_backlog(error):
            if not self._is_full:
                self._log.error("consumer waits", error=OutboxFullError.__name__, reason=str(error))
            self._is_full = True
            return await _pause(self._room.next(), stopping)
        before = self._ridden_out
        async with self._turn:
            if stopping.is_set() or self._ridden_out != before:  # somebody else has waited for it meanwhile
                return not stopping.is_set()
            self._log.error("consumer waits", error=type(error).__name__, reason=str(error))
            while await _pause(self._backoff.next(), stopping):
                if await self._answers():
                    self._ridden_out += 1
                    self._backoff.reset()
                    self._log.info("consumer goes on", after=type(error).__name__)
                    return True
        return False

    def note_room(self) -> None:
        """Learn that what did not fit into the outbox has been committed: there is no other sign that there is room."""
        if self._is_full:
            self._is_full = False
            self._room.reset()
            self._log.info("consumer goes on", after=OutboxFullError.__name__)


async def _pause(seconds: float, stopping: asyncio.Event) -> bool:
    """Sleep, unless told to stop, which is False."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return True
    return False
