"""DatabaseOutage: lets the workers of a consumer wait until the database is back, or its outbox has room."""

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

_AWAY = (
    CommitOutcomeUnknownError,
    DatabaseUnavailableError,
    PoolExhaustedError,
    WriterTimeoutError,
)
_DEEPEST = 10


def is_outage(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, says that the database went away, and nothing about the work."""
    return _is_caused_by(error, _AWAY)


def is_unwritable(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, says that the database answers but stores nothing."""
    return _is_caused_by(error, (DatabaseWriteError,))


def is_backlog(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, says that the outbox is full at present."""
    return _is_caused_by(error, (OutboxFullError,))


def _is_caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    for _ in range(_DEEPEST):
        if error is None or isinstance(error, kinds):
            return error is not None
        error = error.__cause__
    return False


class DatabaseOutage:
    """Waits for the database or for room in its outbox, and logs once that the wait begins and ends.

    It logs once however many workers wait.

    Args:
        inbox: Tells whether its database can be reached, or written to.
        backoff: The pauses between these checks.
        room: The pauses until a full outbox is tried again.
        log: Where the waiting is logged.
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
        """Return whether the database can do what the error says it cannot: answer, or store something."""
        return await (self._inbox.takes_writes() if is_unwritable(error) else self._inbox.answers())

    async def wait_until_over(self, error: BaseException, stopping: asyncio.Event, *, losses: int = 0) -> bool:
        """Wait until the database is back, or until it is time to try a full outbox again.

        Return false when the consumer is stopped.

        Args:
            error: The error that showed the outage.
            stopping: Set when the consumer is told to stop.
            losses: How often the database has come back and gone away again for the same event. That event may need
                more room than there is, and other events make some.
        """
        if is_backlog(error):
            if not self._is_full:
                self._log.error("consumer waits", error=OutboxFullError.__name__, reason=text_of(error))
            self._is_full = True
            return await _pause(self._room.next(), stopping)
        if losses > 1 and is_unwritable(error) and not await _pause(self._room.at(losses), stopping):
            return False
        before = self._ended
        async with self._turn:
            if stopping.is_set() or self._ended != before:  # another worker has waited for it meanwhile
                return not stopping.is_set()
            self._log.error("consumer waits", error=type(error).__name__, reason=text_of(error))
            while await _pause(self._backoff.next(), stopping):
                if await self.is_over(error):
                    self._ended += 1
                    self._backoff.reset()
                    self._log.info("consumer goes on", after=type(error).__name__)
                    return True
        return False

    def note_outbox_space(self) -> None:
        """End the wait for room: an event that did not fit waits no longer. There is no other sign of room."""
        if self._is_full:
            self._is_full = False
            self._room.reset()
            self._log.info("consumer goes on", after=OutboxFullError.__name__)


async def _pause(seconds: float, stopping: asyncio.Event) -> bool:
    """Sleep, and return true; return false when told to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return True
    return False
