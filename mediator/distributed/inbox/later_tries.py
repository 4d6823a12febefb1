"""LaterTries: tries set-aside events again when they are due. Until then the events wait in the consumer's database.

The consumer sets an event aside after its quick tries, when the circuit of a handler is open, and when a handler asks
to be called later. The broker does not redeliver the event. With key ordering, later events of the key are parked
behind the event. They follow one after the other once the event has succeeded.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mediator.distributed import failpoints
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox.circuits import HandlerCircuit, Passage
from mediator.distributed.inbox.handling import Handling
from mediator.distributed.inbox.outage import is_backlog, is_outage, most_losses, pause_unless
from mediator.distributed.inbox.port import Admission
from mediator.distributed.inbox.processing import (
    ALONE_SECONDS,
    DIED_TEXT,
    SHORTEST_WAIT,
    TAKE_BACK_SECONDS,
    ProcessingParts,
)
from mediator.distributed.inbox.shared_lock import Guard
from mediator.distributed.parking import CLAIM_SECONDS, ParkedEvent, Parking, ParkReason, error_text
from mediator.distributed.requests import FairQueue
from mediator.distributed.shield import alongside, drain, finish, is_own_cancellation
from mediator.distributed.starts import Start
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import (
    ClaimLostError,
    EventNotDecodableError,
    ParkedEventBlockedError,
    ParkedEventNotFoundError,
    RetryLater,
)
from mediator.printable import shown_error, text_of, traceback_of
from mediator.transactions import Outcome

_POLL_SECONDS = 5.0
"""Seconds after which a worker looks for due events again, in case another process has set one aside."""
_LOOK_SECONDS = 1.0
"""Seconds after which a worker asks the database again which circuits hold events.

If a closed circuit may still hold events, the worker asks at once.
"""
_LONGEST_WAIT = CLAIM_SECONDS / 2
"""The longest wait of a claimed event for the lock of this process, in seconds. The claim must not end meanwhile."""
_MOST_INTERRUPTED = 10_000
_SHORTEST_PAUSE = 1.0
"""Seconds to wait when an event is due, but another process has reserved it."""
_REFUSED_PAUSE = 0.02
"""Seconds to pause after a circuit has held an event again.

A process whose circuit is closed may let many events become due, which a process with an open circuit holds again.
"""
_CANCELLED_PAUSE = 1.0
"""Seconds to pause after a handler cancelled its own task, because the event is due again at once."""

Read = Callable[[ParkedEvent], tuple[CloudEvent, type[DistributedEvent]]]
"""Returns the envelope and the class of a parked event, or raises `EventNotDecodableError`."""


class LaterTries:
    """Tries the due events of one consumer. Any number of workers and processes may do this at the same time.

    Args:
        parts: The objects that all processings of the consumer share.
        parking: Keeps the events that were set aside.
        read: Reads a parked event.
        places: The queue of the deliveries. Each later try borrows a place from this queue.
        drain_timeout: The time in which running handlers must end when the consumer is stopped, in seconds.
    """

    def __init__(
        self, parts: ProcessingParts, parking: Parking, read: Read, places: FairQueue[Any], drain_timeout: float
    ) -> None:
        self._parts = parts
        self._parking = parking
        self._read = read
        self._places = places
        self._drain_timeout = drain_timeout
        self._turn = asyncio.Lock()
        self._next_look = 0.0
        self._interrupted: dict[int, Interruptions] = {}

    async def run(self) -> None:
        """Try due events, one at a time, until cancelled. A running handler then has `drain_timeout` seconds to end."""
        stopping = asyncio.Event()
        while True:
            async with self._turn:  # one worker looks into the database, and the others wait
                await self._wait_for_work()
                await self._places.borrow()
            try:
                pause = await self._in_place(stopping)
            except Exception as error:  # the event is claimed again when its claim ends
                await self._after_failure("later try not finished", error)
            else:
                self._parts.due.set()
                await asyncio.sleep(pause)

    async def _wait_for_work(self) -> None:
        """Wait until an event is due, or until a circuit that holds events can begin a probe."""
        parts = self._parts
        while True:
            parts.due.clear()
            try:
                await self._look_for_held()
                due_in = await self._parking.due_in(parts.group)
            except Exception as error:
                await self._after_failure("due events not found", error)
                continue
            pauses = [each for each in (due_in, parts.circuits.probe_in) if each is not None]
            if min(pauses, default=_POLL_SECONDS) <= 0:
                return
            # the end of a try in this process sets `due`, because the next event of the key may be due at once
            await pause_unless(parts.due, min([*pauses, _POLL_SECONDS]))

    async def _look_for_held(self) -> None:
        """For each circuit that is not open, let a batch of the held events become due.

        Do nothing if the last look was less than `_LOOK_SECONDS` ago, unless a closed circuit may still hold events.
        """
        circuits, group, now = self._parts.circuits, self._parts.group, asyncio.get_running_loop().time()
        if now < self._next_look and not circuits.may_let_go:
            return
        self._next_look = now + _LOOK_SECONDS
        for handler in circuits.note_holders(await self._parking.holders(group)):
            count = await self._parking.let_go(group, handler)
            await failpoints.reach("circuit.after_let_go")
            self._parts.limited_log.info("held events are due", handler=handler, count=count)

    async def _in_place(self, stopping: asyncio.Event) -> float:
        """Try the next due event, free the place, and return the seconds to pause after it."""
        try:
            return await drain(self._try_next(stopping), self._drain_timeout, stopping)
        except asyncio.CancelledError as error:
            if is_own_cancellation(error):
                raise
            self._parts.log.error("handler cancelled its own task", retry_in=_CANCELLED_PAUSE)  # noqa: TRY400
            return _CANCELLED_PAUSE
        finally:
            self._places.give_back()

    async def _after_failure(self, event: str, error: Exception) -> None:
        """Wait until the database is available, and then pause.

        During the pause, the tries that the outage interrupted give their events back.
        """
        if is_backlog(error) or is_outage(error) or not await self._parts.outage.is_over(error):
            await self._parts.outage.wait_until_over(error, asyncio.Event())
        else:
            self._parts.limited_log.warning(event, error=shown_error(error), reason=text_of(error))
        await asyncio.sleep(_POLL_SECONDS)

    async def _try_next(self, stopping: asyncio.Event) -> float:
        """Claim and try the next probe or due event. Return the seconds to pause after it."""
        event = await self._claim()
        if event is None:
            return _SHORTEST_PAUSE
        interruptions = self._interrupted.pop(event.number, Interruptions())
        later = LaterTry(self._parts, self._parking, self._read, event, stopping=stopping, interruptions=interruptions)
        await later.run()
        if interruptions != Interruptions():
            if len(self._interrupted) >= _MOST_INTERRUPTED:  # most of these events were handled by other processes
                self._interrupted.clear()
            self._interrupted[event.number] = interruptions
        return _REFUSED_PAUSE if later.is_refused else 0.0

    async def _claim(self) -> ParkedEvent | None:
        for circuit in self._parts.circuits.due_probes():
            event = await self._parking.claim(self._parts.group, held_by=circuit.name)
            if event is not None:
                await failpoints.reach("circuit.before_probe")
                return event
        event = await self._parking.claim(self._parts.group)
        if event is not None:
            await failpoints.reach("later.after_claim")
            if event.reason == ParkReason.CIRCUIT_OPEN:
                self._parts.circuits.note_let_go(self._parts.classes.get(event.type))
        return event


@dataclass(slots=True)
class Interruptions:
    """Counts the interruptions of an event's tries since a try last ended.

    Attributes:
        losses: How often the handlers of the event have lost the connection while the database answered.
        met_full_outbox: Whether the outbox was full.
    """

    losses: int = 0
    met_full_outbox: bool = False


class LaterTry:
    """Handles one claimed event, and removes it from the parking, postpones it or leaves it to a person."""

    def __init__(
        self,
        parts: ProcessingParts,
        parking: Parking,
        read: Read,
        event: ParkedEvent,
        *,
        stopping: asyncio.Event,
        interruptions: Interruptions,
    ) -> None:
        self._parts = parts
        self._parking = parking
        self._read = read
        self._event = event
        self._guard = Guard(parts.lock, stopping)
        self._stopping = stopping
        self._interruptions = interruptions
        self._not_reserved: Exception | None = None
        self._passage: Passage = parts.circuits.enter(parts.classes.get(event.type))

    @property
    def is_refused(self) -> bool:
        """Whether the circuit of a handler holds the event again."""
        return self._passage.refused_by is not None

    async def run(self) -> None:
        """Count the start and run the handlers.

        If a circuit refuses the event, hold the event again. If the process died in the last allowed start, leave the
        event to a person.

        Raises:
            asyncio.CancelledError: The consumer is stopped. The event was given back, and its start does not count.
        """
        with self._guard, suppress(ClaimLostError), self._passage:  # a lost claim: somebody else has the event
            if self._passage.refused_by is not None:
                self._passage.put_off_probes()
                await self._hold(self._passage.refused_by, has_begun=False)
            else:
                await self._run()

    async def _run(self) -> None:
        try:
            start = await self._start()
        except ClaimLostError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            try:
                if not is_own_cancellation(error) and await self._is_outage(error):
                    await self._wait_until_over(error)
            finally:
                await self._give_back(begun=await self._is_counted())
            raise
        if start is None:  # the consumer is stopped, or other events take too long here
            await self._give_back(begun=False)
            return
        self._event = replace(self._event, attempts=start.attempt)
        if start.exhausted:
            await self._park(ParkReason.PROCESS_DIED, None)
        else:
            await failpoints.reach("later.after_count")
            async with alongside(self._let_others_join(start.attempt)):
                await self._handle(start.attempt)

    async def _start(self) -> Start | None:
        """Count the start. If the process may have died in the last start, wait until nothing else is handled here."""
        if not await self._in_time(self._guard.shared()):
            return None
        lasting = self._parts.handling.timeout
        start = await self._parking.start(self._event, self._limit, lasting=lasting)
        if not start.suspect:
            return start
        if not await self._in_time(self._guard.exclusive(start.attempt)):
            return None
        return await self._parking.start(self._event, self._limit, alone=True, lasting=lasting)

    async def _is_counted(self) -> bool:
        """Return whether the database has counted the start. An outage or a stop may have hidden its answer."""
        getting = await finish(self._parking.get(self._event.number), TAKE_BACK_SECONDS)
        is_known = getting.task.done() and getting.failure is None
        return is_known and getting.task.result().attempts > self._event.attempts

    async def _in_time(self, waiting: Coroutine[Any, Any, bool]) -> bool:
        """Wait for the lock, but not until the claim ends. Return false also when the consumer is stopped."""
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                return await waiting
        except TimeoutError:
            return False

    @property
    def _limit(self) -> int:
        return int(self._parts.retries.attempts)

    async def _let_others_join(self, attempt: int) -> None:
        """Let other events begin after `ALONE_SECONDS`. In its last allowed start, a suspect stays alone.

        If the process dies in that start, the suspect is the cause, and is parked.
        """
        if self._guard.is_exclusive and attempt < self._limit:
            await asyncio.sleep(ALONE_SECONDS)
            self._guard.downgrade()

    async def _handle(self, attempt: int) -> None:
        parking, number, claim = self._parking, self._event.number, self._event.claim

        async def admit(unit_of_work: UnitOfWork) -> Admission:
            try:
                await parking.reserve(unit_of_work, number, claim=claim)
            except Exception as error:
                self._not_reserved = error
                raise
            return Admission.NEW

        async def conclude(unit_of_work: UnitOfWork) -> None:
            """Remove the event and lock its key, but only after the handlers.

            While the handlers run, arriving events of the key are parked at once, and need not wait for a lock.
            """
            try:
                await parking.take(unit_of_work, number, release_next=True)
            except Exception as error:
                self._not_reserved = error
                raise
            await failpoints.reach("replay.after_take")

        handling: Handling | None = None
        try:
            envelope, event_class = self._read(self._event)
            handling = Handling(self._parts.handling, envelope, event_class, attempt, admit, conclude=conclude)
            await handling.run()
        except (Exception, asyncio.CancelledError) as error:
            if is_own_cancellation(error):
                if handling is None or handling.outcome is not Outcome.COMMITTED:
                    await self._give_back()
                raise
            await self._failed(error, None if handling is None else handling.last_called)
        else:
            self._has_ended()
            self._parts.log.info("later try succeeded", attempt=attempt, **_fields(self._event))
            if self._passage.succeeded():
                await failpoints.reach("circuit.after_probe")

    async def _hold(self, circuit: HandlerCircuit, *, has_begun: bool) -> None:
        """Set the event aside again until the circuit of a handler closes. A start that has begun does not count."""
        await self._postpone(
            None,
            ParkReason.CIRCUIT_OPEN,
            circuit.error,
            started=not has_begun,
            failed=False,
            ended=has_begun,
            held_by=circuit.name,
        )
        self._parts.circuits.note_hold(circuit)
        await failpoints.reach("circuit.after_hold")

    async def _failed(self, error: BaseException, handler: type | None) -> None:
        if error is self._not_reserved and isinstance(error, ParkedEventBlockedError):
            await self._postpone(CLAIM_SECONDS, ParkReason.KEY_PARKED, started=False, failed=False)
        elif error is self._not_reserved and isinstance(error, ParkedEventNotFoundError | ClaimLostError):
            return  # another process or a person has handled the event
        elif await self._is_outage(error):
            try:
                await self._wait_until_over(error)
            finally:
                await self._give_back()  # also when the consumer is stopped meanwhile, the start does not count
        elif isinstance(error, EventNotDecodableError) and self._event.type not in self._parts.classes:
            await self._try_later(error, ParkReason.UNKNOWN_TYPE, started=False)  # another version may know the type
        elif isinstance(error, EventNotDecodableError):
            await self._park(ParkReason.UNDECODABLE, error)
        elif isinstance(error, RetryLater):
            await self._wait_longer(error)
        elif isinstance(error, self._parts.fatal_errors):
            await self._park(ParkReason.FATAL_ERROR, error)
        else:
            await self._handler_failed(error, handler)

    async def _handler_failed(self, error: BaseException, handler: type | None) -> None:
        """Hold the event if the circuit of the handler was open before the failure. Otherwise the failure counts.

        The failure that opens the circuit counts too. Else, with `circuit_failures=1`, an event that always fails would
        open the circuit each time, and would be tried forever.
        """
        circuit = self._passage.failed(handler, self._event.event_id, error)
        if circuit is None or self._passage.has_opened:
            await self._try_later(error, ParkReason.HANDLER_FAILED)
        else:
            await self._hold(circuit, has_begun=True)

    async def _is_outage(self, error: BaseException) -> bool:
        """Return whether an error was caused by the database or its outbox, and not by the handlers."""
        if is_backlog(error):
            self._interruptions.met_full_outbox = True
            return True
        if not await self._parts.outage.is_over(error):
            return True
        self._interruptions.losses += is_outage(error)
        return is_outage(error) and self._interruptions.losses < most_losses(error)

    async def _wait_until_over(self, error: BaseException) -> bool:
        """Wait until the outage is over. Return false if the consumer is stopped.

        The lock is released, so that consumers of other databases go on.
        """
        self._guard.release()
        return await self._parts.outage.wait_until_over(error, self._stopping, losses=self._interruptions.losses)

    async def _try_later(self, error: BaseException, last_reason: ParkReason, *, started: bool = True) -> None:
        due_in = self._parts.retries.later_delay(self._event.tries, self._parts.rng)
        if due_in is None:
            await self._park(last_reason, error, started=started)
            return
        await self._postpone(due_in, ParkReason.WAITING, error, started=started)
        self._log_failure("later try failed", error, retry_in=round(due_in, 3))

    async def _wait_longer(self, error: RetryLater) -> None:
        """Postpone an event as its handler asked, unless the event has waited for too long already."""
        seconds = max(error.seconds, SHORTEST_WAIT)
        claimed_at = (self._event.due_at or 0.0) - CLAIM_SECONDS  # by the clock of the database, as `asked_at`
        waited = 0.0 if self._event.asked_at is None else claimed_at - self._event.asked_at
        if waited + seconds > self._parts.longest_wait:
            await self._park(ParkReason.HANDLER_FAILED, error, started=False)
            return
        reason = ParkReason(self._event.reason)
        await self._postpone(seconds, reason, error, started=False, failed=False, asked=True)
        self._parts.log.info("event waits as its handler asked", retry_in=seconds, **_fields(self._event))

    async def _park(self, reason: ParkReason, error: BaseException | None, *, started: bool = True) -> None:
        """Leave an event to a person, who repairs the cause and replays the event."""
        await self._postpone(None, reason, DIED_TEXT if error is None else error, started=started, failed=False)
        self._log_failure("event parked", error, reason=str(reason))

    async def _postpone(
        self,
        due_in: float | None,
        reason: ParkReason,
        error: BaseException | str | None = None,
        *,
        started: bool = True,
        failed: bool = True,
        ended: bool = True,
        held_by: str | None = None,
        asked: bool = False,
    ) -> None:
        text = None if error is None else error_text(error)
        while True:
            try:
                await self._parking.postpone(
                    self._event,
                    due_in=due_in,
                    reason=reason,
                    error=text,
                    started=started,
                    failed=failed,
                    ended=ended,
                    held_by=held_by,
                    asked=asked,
                )
                break
            except Exception as failure:
                if not await self._is_outage(failure) or not await self._wait_until_over(failure):
                    raise
        self._has_ended()
        await failpoints.reach("later.after_failure")

    def _has_ended(self) -> None:
        if self._interruptions.met_full_outbox:
            self._parts.outage.note_outbox_space()
        self._interruptions.losses, self._interruptions.met_full_outbox = 0, False

    async def _give_back(self, *, begun: bool = True) -> None:
        """Let the event be due at once, for another process. A start that has begun does not count."""
        event, reason = self._event, ParkReason(self._event.reason)
        giving = self._parking.postpone(event, due_in=0.0, reason=reason, started=not begun, failed=False, ended=begun)
        done = await finish(giving, TAKE_BACK_SECONDS)
        if done.failure is not None or not done.task.done():
            self._parts.log.warning("attempt counted", event_id=event.event_id, error=shown_error(done.failure))

    def _log_failure(self, text: str, error: BaseException | None, **more: object) -> None:
        stack = None if error is None or isinstance(error, EventNotDecodableError) else traceback_of(error)
        kind = None if error is None else type(error).__name__
        self._parts.log.error(text, **{**_fields(self._event), **more}, error=kind, stack=stack)


def _fields(event: ParkedEvent) -> dict[str, object]:
    return {"number": event.number, "sequence": event.sequence, **event.log_fields()}
