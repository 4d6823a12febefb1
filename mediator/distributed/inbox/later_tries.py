"""LaterTries: tries events again that were set aside in the consumer's database, when they are due.

An event is set aside after its quick tries. It keeps no place at the broker any more. With key ordering, later events of its
key are parked behind it, and follow one after the other once it has succeeded.
"""

import asyncio
from collections.abc import Callable

from mediator.distributed import failpoints
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox.handling import Handling
from mediator.distributed.inbox.outage import is_backlog, is_outage
from mediator.distributed.inbox.port import Admission
from mediator.distributed.inbox.processing import DIED_TEXT, TAKE_BACK_SECONDS, ProcessingParts
from mediator.distributed.inbox.shared_lock import Guard
from mediator.distributed.parking import ParkedEvent, Parking, ParkReason, error_text
from mediator.distributed.shield import drain, finish, is_own_cancellation
from mediator.distributed.starts import Start
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ClaimLostError, EventNotDecodableError, ParkedEventBlockedError, ParkedEventNotFoundError
from mediator.printable import shown_error, text_of, traceback_of
from mediator.transactions import Outcome

_POLL_SECONDS = 5.0
"""Seconds after which a worker looks for due events again, in case another process has set one aside."""
_SHORTEST_PAUSE = 0.2
"""Seconds to wait when an event is due, but another process has reserved it."""
_LOSSES = 3
"""If the handlers of an event lose the connection this often while the database answers, they count as failed."""

Read = Callable[[ParkedEvent], tuple[CloudEvent, type[DistributedEvent]]]
"""Returns the envelope and the class of a parked event, or raises `EventNotDecodableError`."""


class LaterTries:
    """Tries the due events of one consumer. Any number of workers and processes may do this at the same time.

    Args:
        parts: The objects that all processings of the consumer share.
        parking: Keeps the events that were set aside.
        read: Reads a parked event.
        places: Limits how many events are handled at a time, together with the deliveries.
        drain_timeout: The time in which running handlers must end when the consumer is stopped, in seconds.
    """

    def __init__(
        self, parts: ProcessingParts, parking: Parking, read: Read, places: asyncio.Semaphore, drain_timeout: float
    ) -> None:
        self._parts = parts
        self._parking = parking
        self._read = read
        self._places = places
        self._drain_timeout = drain_timeout
        self._turn = asyncio.Lock()
        self._losses: dict[int, int] = {}

    async def run(self) -> None:
        """Try due events, one at a time, until cancelled. A running handler then has `drain_timeout` seconds to end."""
        stopping = asyncio.Event()
        while True:
            async with self._turn:  # one worker looks into the database, and the others wait
                await self._wait_until_due()
                await self._places.acquire()
            try:
                await drain(self._try_next(stopping), self._drain_timeout, stopping)
            except asyncio.CancelledError as error:
                if is_own_cancellation(error):
                    raise
                self._parts.log.error("handler cancelled its own task")  # noqa: TRY400  # no traceback tells more
            except Exception as error:  # the event is claimed again when its claim ends
                await self._after_failure("later try not finished", error, stopping)
            finally:
                self._places.release()

    async def _wait_until_due(self) -> None:
        while True:
            try:
                due_in = await self._parking.due_in(self._parts.group)
            except Exception as error:
                await self._after_failure("due events not found", error, asyncio.Event())
                continue
            if due_in is not None and due_in <= 0:
                return
            await asyncio.sleep(_POLL_SECONDS if due_in is None else min(due_in, _POLL_SECONDS))

    async def _after_failure(self, event: str, error: Exception, stopping: asyncio.Event) -> None:
        """Wait until the database is available, or for a while if the error has another cause."""
        if await self._is_outage(error):
            await self._parts.outage.wait_until_over(error, stopping)
            return
        self._parts.limited_log.warning(event, error=shown_error(error), reason=text_of(error))
        await asyncio.sleep(_POLL_SECONDS)

    async def _try_next(self, stopping: asyncio.Event) -> None:
        event = await self._parking.claim(self._parts.group)
        if event is None:
            await asyncio.sleep(_SHORTEST_PAUSE)
            return
        await failpoints.reach("later.after_claim")
        with Guard(self._parts.lock, stopping) as guard:
            start = await self._start(event, guard)
            if start is None:  # the consumer is stopped
                await self._give_back(event)
            elif start.exhausted:
                await self._park(event, ParkReason.PROCESS_DIED, None)
            else:
                await self._handle(event, start, stopping)

    async def _start(self, event: ParkedEvent, guard: Guard) -> Start | None:
        """Count the start. If the process may have died in the last start, wait until nothing else is handled here."""
        if not await guard.shared():
            return None
        start = await self._parking.start(event, self._limit)
        if start.suspect:
            if not await guard.exclusive(start.attempt):
                return None
            start = await self._parking.start(event, self._limit, alone=True)
        if not start.exhausted:
            await failpoints.reach("later.after_count")
        return start

    @property
    def _limit(self) -> int:
        return int(self._parts.retries.attempts)

    async def _handle(self, event: ParkedEvent, start: Start, stopping: asyncio.Event) -> None:
        parking, number = self._parking, event.number

        async def admit(unit_of_work: UnitOfWork) -> Admission:
            await parking.reserve(unit_of_work, number, claim=event.claim)
            return Admission.NEW

        async def conclude(unit_of_work: UnitOfWork) -> None:
            """Lock the key after the handlers, so that events of the key that arrive meanwhile are parked at once."""
            await parking.take(unit_of_work, number, release_next=True)
            await failpoints.reach("replay.after_take")

        handling: Handling | None = None
        try:
            envelope, event_class = self._read(event)
            handling = Handling(self._parts.handling, envelope, event_class, start.attempt, admit, conclude=conclude)
            await handling.run()
        except (Exception, asyncio.CancelledError) as error:
            if is_own_cancellation(error):
                if handling is None or handling.outcome is not Outcome.COMMITTED:
                    await self._give_back(event, started=False)
                raise
            await self._failed(event, error, stopping)
        else:
            self._losses.pop(number, None)
            self._parts.log.info("later try succeeded", attempt=start.attempt, **_fields(event))

    async def _failed(self, event: ParkedEvent, error: BaseException, stopping: asyncio.Event) -> None:
        if isinstance(error, ParkedEventNotFoundError | ClaimLostError):
            return  # another process or a person has handled the event
        if isinstance(error, ParkedEventBlockedError):
            await self._postpone(event, None, ParkReason.KEY_PARKED, started=False, failed=False)
        elif await self._is_outage(error):
            self._losses[event.number] = self._losses.get(event.number, 0) + is_outage(error)
            if await self._parts.outage.wait_until_over(error, stopping):
                await self._give_back(event, started=False)
        elif isinstance(error, EventNotDecodableError):
            await self._park(event, ParkReason.UNDECODABLE, error)
        elif isinstance(error, self._parts.fatal_errors):
            await self._park(event, ParkReason.FATAL_ERROR, error)
        else:
            await self._try_later(event, error)

    async def _is_outage(self, error: BaseException) -> bool:
        """Return whether an error was caused by the database or its outbox, and not by the handlers."""
        return is_backlog(error) or not await self._parts.outage.is_over(error) or is_outage(error)

    async def _try_later(self, event: ParkedEvent, error: BaseException) -> None:
        """Postpone an event. An event that waited for its key was tried for the first time, and has all later tries."""
        is_first = event.reason == ParkReason.KEY_PARKED
        due_in = self._parts.retries.later_delay(0 if is_first else event.tries + 1, self._parts.rng)
        if due_in is None:
            await self._park(event, ParkReason.HANDLER_FAILED, error)
            return
        await self._postpone(event, due_in, ParkReason.WAITING, error, failed=not is_first)
        self._log_failure(self._parts.log.error, "later try failed", event, error, retry_in=round(due_in, 3))

    async def _park(self, event: ParkedEvent, reason: ParkReason, error: BaseException | None) -> None:
        """Leave an event to a person, who repairs the cause and replays the event."""
        await self._postpone(event, None, reason, DIED_TEXT if error is None else error)
        self._log_failure(self._parts.log.error, "event parked", event, error, reason=str(reason))

    async def _postpone(
        self,
        event: ParkedEvent,
        due_in: float | None,
        reason: ParkReason,
        error: BaseException | str | None = None,
        *,
        started: bool = True,
        failed: bool = True,
    ) -> None:
        self._losses.pop(event.number, None)
        text = None if error is None else error_text(error)
        await self._parking.postpone(event, due_in=due_in, reason=reason, error=text, started=started, failed=failed)
        await failpoints.reach("later.after_failure")

    async def _give_back(self, event: ParkedEvent, *, started: bool = True) -> None:
        """Let the event be due at once, for another process. With `started=False`, its start does not count."""
        reason = ParkReason(event.reason)
        giving = self._parking.postpone(event, due_in=0.0, reason=reason, started=started, failed=False)
        done = await finish(giving, TAKE_BACK_SECONDS)
        if done.failure is not None or not done.task.done():
            self._parts.log.warning("attempt counted", event_id=event.event_id, error=shown_error(done.failure))

    def _log_failure(
        self, log: Callable[..., None], text: str, event: ParkedEvent, error: BaseException | None, **more: object
    ) -> None:
        stack = None if error is None or isinstance(error, EventNotDecodableError) else traceback_of(error)
        log(text, **{**_fields(event), **more}, error=None if error is None else type(error).__name__, stack=stack)


def _fields(event: ParkedEvent) -> dict[str, object]:
    return {"number": event.number, "sequence": event.sequence, **event.log_fields()}
