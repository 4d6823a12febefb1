"""Downtime: waiting, once for all workers of a consumer, until the database is back."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from mediator.distributed.retries import Backoff
from mediator.errors import (
    CommitOutcomeUnknownError,
    DatabaseUnavailableError,
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
    for _ in range(_DEEPEST):
        if error is None or isinstance(error, _AWAY):
            return error is not None
        error = error.__cause__
    return False


class Downtime:
    """Says once that the database is away and once that it is back, however many wait for it.

    Args:
        answers: Whether the database can be reached.
        backoff: The pauses between asking.
        log: Where it is said.
    """

    def __init__(
        self, answers: Callable[[], Awaitable[bool]], backoff: Backoff, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._answers = answers
        self._backoff = backoff
        self._log = log
        self._turn = asyncio.Lock()
        self._ridden_out = 0

    async def ride_out(self, error: BaseException, stopping: asyncio.Event) -> bool:
        """Wait until the database answers; False when the consumer is stopped before."""
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


async def _pause(seconds: float, stopping: asyncio.Event) -> bool:
    """Sleep, unless told to stop, which is False."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return True
    return False
