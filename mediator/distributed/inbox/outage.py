"""DatabaseOutage: lets the workers of a consumer wait until the database is available and its outbox has room."""

import asyncio

from mediator.distributed.backoff import Backoff
from mediator.distributed.inbox.port import Inbox
from mediator.errors import (
    CommitOutcomeUnknownError,
    DatabaseUnavailableError,
    DatabaseWriteError,
    OutboxFullError,
    PoolExhaustedError,
    WriterTimeoutError,
)
from mediator.logger import Logger
from mediator.printable import text_of

_UNAVAILABLE = (CommitOutcomeUnknownError, DatabaseUnavailableError, PoolExhaustedError, WriterTimeoutError)
_DEEPEST = 10
_LOSSES = 3
"""If the handlers of an event lose the connection this often while the database answers, they count as failed."""
_FULL_LOSSES = 10
"""After this many tries without enough space in the database, the handlers of an event count as failed.

All these tries together take half a minute.
"""


def is_outage(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that the database is unavailable."""
    return _is_caused_by(error, _UNAVAILABLE)


def is_unwritable(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that the database answers but cannot store anything."""
    return _is_caused_by(error, (DatabaseWriteError,))


def most_losses(error: BaseException) -> int:
    """Return how often the handlers of an event may fail with such an error before they count as the cause."""
    return _FULL_LOSSES if is_unwritable(error) else _LOSSES


def is_backlog(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that the outbox is full at present."""
    return _is_caused_by(error, (OutboxFullError,))


def _is_caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    for _ in range(_DEEPEST):
        if error is None or isinstance(error, kinds):
            return error is not None
        error = error.__cause__
    return False


class DatabaseOutage:
    """Waits until the database is available and its outbox has room.

    The pauses between two checks of the database come from `backoff`. The pauses until a full outbox is tried again
    come from `room`. The start and the end of an outage are logged once, not for each waiting worker.
    """

    def __init__(self, inbox: Inbox, backoff: Backoff, room: Backoff, log: Logger) -> None:
        self._inbox = inbox
        self._backoff = backoff
        self._room = room
        self._is_full = False
        self._log = log
        self._turn = asyncio.Lock()
        self._ended = 0

    async def is_over(self, error: BaseException) -> bool:
        """Return whether the database answers again or, after a `DatabaseWriteError`, stores data again."""
        return await (self._inbox.takes_writes() if is_unwritable(error) else self._inbox.answers())

    async def wait_until_over(self, error: BaseException, stopping: asyncio.Event, *, losses: int = 0) -> bool:
        """Wait until the database is available again, or until it is time to try a full outbox again.

        Return true when the event may be tried again, and false when the consumer is stopped.

        `losses` says how often the event has met an outage. If `losses` is above 1 and the database cannot store data,
        there is a pause before the first check. During the pause, other events may free disk space.
        """
        if is_backlog(error):
            if not self._is_full:
                self._log.error("consumer waits", error=OutboxFullError.__name__, reason=text_of(error))
            self._is_full = True
            return await pause_unless(stopping, self._room.next())
        if losses > 1 and is_unwritable(error) and not await pause_unless(stopping, self._room.at(losses)):
            return False
        before = self._ended
        async with self._turn:
            if stopping.is_set() or self._ended != before:  # another worker has seen the end of the outage
                return not stopping.is_set()
            self._log.error("consumer waits", error=type(error).__name__, reason=text_of(error))
            while await pause_unless(stopping, self._backoff.next()):
                if await self.is_over(error):
                    self._ended += 1
                    self._backoff.reset()
                    self._log.info("consumer goes on", after=type(error).__name__)
                    return True
        return False

    def note_outbox_space(self) -> None:
        """Record that the outbox has room again."""
        if self._is_full:
            self._is_full = False
            self._room.reset()
            self._log.info("consumer goes on", after=OutboxFullError.__name__)


async def pause_unless(event: asyncio.Event, seconds: float) -> bool:
    """Sleep and return true; return false as soon as the event is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return True
    return False
