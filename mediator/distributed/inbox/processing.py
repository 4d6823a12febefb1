"""Processing: handles one delivery, and then acknowledges it, puts it back for another attempt, or parks it.

A start is one run of all handlers of an event. An event is a suspect when it is not known how its last start ended: the
process may have died because of this event, or because of an event that was being handled at the same time.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mediator.blocks import asynccontextmanager
from mediator.distributed import failpoints
from mediator.distributed.backoff import Backoff
from mediator.distributed.cloudevents import CloudEvent, incoming
from mediator.distributed.events import DistributedEvent, split_wire_type
from mediator.distributed.inbox.circuits import Circuits, HandlerCircuit, Passage
from mediator.distributed.inbox.handling import Handling, HandlingParts
from mediator.distributed.inbox.identity import EventIdentity, identity_of, key_of, parked_delivery
from mediator.distributed.inbox.outage import DatabaseOutage, is_backlog, is_outage, most_losses
from mediator.distributed.inbox.port import Admission, Inbox
from mediator.distributed.inbox.retries import RetrySchedule
from mediator.distributed.inbox.shared_lock import Guard, SharedLock
from mediator.distributed.inbox.subscription import Delivery
from mediator.distributed.parking import BEHIND_TEXT, ParkedEvent, Parking, ParkReason
from mediator.distributed.shield import alongside, finish, is_own_cancellation
from mediator.distributed.starts import Start
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import EventNotDecodableError, RetryLater
from mediator.logger import Logger, RateLimitedLogger
from mediator.printable import shown, shown_error, text_of, traceback_of
from mediator.transactions import Outcome

TAKE_BACK_SECONDS: float = 0.9
"""Longest time that a stopping consumer waits for the database to remove a start from the count, in seconds."""
ALONE_SECONDS: float = 10.0
"""A suspect is handled alone for at most this many seconds. In the last allowed start, the suspect stays alone.

An event that kills its process usually does so within this time.
"""

DIED_TEXT: str = "the process ended in the last start of the event's handlers, while no other event was being handled"
_MANY = (ParkReason.UNDECODABLE, ParkReason.UNKNOWN_TYPE, ParkReason.KEY_PARKED, ParkReason.CIRCUIT_OPEN)
"""Reasons for which many events may be parked at once. Their log lines are rate-limited, but every event is parked."""

SHORTEST_WAIT: float = 1.0
"""The shortest pause after a `RetryLater`, in seconds. A handler may ask for a time that has passed."""
_WITHOUT_LIMIT = 2**31 - 2


@dataclass(frozen=True, slots=True)
class ProcessingParts:
    """The objects that all processings of one consumer share.

    Attributes:
        group: The consumer's name in the inbox.
        classes: The event class of each wire type that is handled.
        ordered: `True` if later events of a key wait for earlier events.
        parking: Keeps parked events; without parking, failing events are tried again without end.
        fatal_errors: Errors after which an event is parked at once, because another attempt would raise them again.
        unknown_type_grace: How long an event of an unknown type may wait for a handler, in seconds since the event was
            stored.
        longest_wait: How long an event may wait because its handlers ask for it, in seconds.
        circuits: The circuits of the handler classes.
        due: Set when a later try or a probe may be due.
        now: Returns the time in seconds since the epoch.
        limited_log: A rate-limited form of `log`, for lines that may be many.
    """

    group: str
    classes: Mapping[str, type[DistributedEvent]]
    ordered: bool
    handling: HandlingParts
    lock: SharedLock
    inbox: Inbox
    parking: Parking | None
    retries: RetrySchedule
    fatal_errors: tuple[type[Exception], ...]
    unknown_type_grace: float
    longest_wait: float
    circuits: Circuits
    due: asyncio.Event
    outage: DatabaseOutage
    rng: random.Random
    now: Callable[[], float]
    log: Logger
    limited_log: RateLimitedLogger


class Attempt:
    """Counts one start of a redelivered event. The start at a first delivery is not counted, to save a transaction.

    A suspect is handled alone, and its start is counted only when no other event is being handled. If the process dies
    in that start, no other event can be the cause.

    Attributes:
        guard: Acquires the lock of this process for the event, and releases the lock when the delivery is settled.
        start: The counted start; `None` before the start is counted.
    """

    def __init__(self, parts: ProcessingParts, identity: EventIdentity, stopping: asyncio.Event) -> None:
        self.guard: Guard = Guard(parts.lock, stopping)
        self.start: Start | None = None
        self._log = parts.log
        self._inbox = parts.inbox
        self._row = (identity.consumer, identity.source, identity.event_id)
        self._limit = int(min(parts.retries.quick_attempts, _WITHOUT_LIMIT))
        self._uncertain: int | None = None

    @property
    def number(self) -> int:
        """The number of this start, from 1; 0 before the start is counted."""
        return self.start.attempt if self.start is not None else 0

    async def begin(self, *, first: bool) -> Start | None:
        """Wait for the lock, count the start once, and return the start; `None` if the consumer stops meanwhile."""
        if self.start is not None:
            return self.start if await self.guard.reacquire(self.number) else None
        if await self.guard.shared():
            self.start = Start(1) if first else await self._counted()
        return self.start

    @asynccontextmanager
    async def joined(self) -> AsyncGenerator[None, None]:
        """Run the body. If the event is a suspect, let other events begin only after `ALONE_SECONDS`.

        Just before other events begin, the inbox records the start of the suspect as ended. So if the process dies
        later, the suspect is not taken for the cause. In its last allowed start a suspect stays alone. If the process
        dies in that start, the suspect is the cause.
        """
        if not self.guard.is_exclusive or self.number >= self._limit:
            yield
            return
        async with alongside(self._let_others_join()):
            yield

    async def _let_others_join(self) -> None:
        await asyncio.sleep(ALONE_SECONDS)
        try:
            await self._inbox.end(*self._row, self.number)
        except Exception as error:  # other events wait until the suspect has been handled
            self._log.warning("a suspect stays alone", event_id=self._row[2], error=type(error).__name__)
        else:
            self.guard.downgrade()

    async def _counted(self) -> Start | None:
        start = await self._count()
        if start.attempt == self._uncertain:  # an outage hid that the database had counted this start
            return Start(start.attempt) if await self.guard.exclusive(start.attempt) else None
        if not start.suspect:
            return start
        if not await self.guard.exclusive(start.attempt):
            return None
        self._uncertain = start.attempt + 1
        return await self._count()

    async def _count(self) -> Start:
        start = await self._inbox.start(*self._row, self._limit, alone=self.guard.is_exclusive)
        if not start.suspect:
            await failpoints.reach("consumer.after_count")
        return start

    async def end(self) -> None:
        """Record that the handlers failed, so that the event is not a suspect when it is redelivered."""
        if self._has_begun():
            await self._inbox.end(*self._row, self.number)
            await failpoints.reach("consumer.after_failure")

    async def take_back(self) -> None:
        """Remove the start from the count, if the database answers in time."""
        if self._has_begun():
            done = await finish(self._inbox.take_back(*self._row), TAKE_BACK_SECONDS)
            if done.failure is not None or not done.task.done():
                self._log.warning("attempt counted", event_id=self._row[2], error=shown_error(done.failure))
            await failpoints.reach("consumer.after_take_back")

    def _has_begun(self) -> bool:
        return self.start is not None and not self.start.taken and not self.start.exhausted


class _OutageError(Exception):
    """Tells `_decide_despite_outages` that `error` shows an outage."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


Settlement = Callable[[], Awaitable[None]]
"""Reports to the broker what was decided about a delivery."""


class Processing:
    """Handles and settles one delivery."""

    def __init__(self, parts: ProcessingParts, delivery: Delivery, stopping: asyncio.Event) -> None:
        self._parts = parts
        self._delivery = delivery
        self._stopping = stopping
        self._identity: EventIdentity = identity_of(parts.group, delivery)
        self._attempt = Attempt(parts, self._identity, stopping)
        self._decided: Callable[[], Awaitable[Settlement]] | None = None
        self._losses = 0
        self._unlogged: BaseException | None = None
        self._met_full_outbox = False
        self._handling: Handling | None = None
        self._passage: Passage | None = None

    async def settle(self) -> None:
        """Handle the delivery, wait while the database is unavailable, and report the result to the broker.

        Raises:
            asyncio.CancelledError: The consumer is stopped. The delivery was handed back, and its start does not count.
        """
        with self._attempt.guard:
            await self._settle()

    async def _settle(self) -> None:
        try:
            ending = await self._decide_despite_outages()
        except (Exception, asyncio.CancelledError) as error:  # `_put_back` logs the error, and the event is redelivered
            if is_own_cancellation(error):
                await self._give_up()
                raise
            ending = self._put_back(error, self._pause())
        try:
            await ending()
        except Exception as error:  # the event is redelivered, and the inbox knows whether the event took effect
            self._parts.log.warning("delivery not settled", error=shown_error(error), sequence=self._delivery.sequence)

    async def _decide_despite_outages(self) -> Settlement:
        while True:
            try:
                return await self._decide()
            except _OutageError as outage:
                error = outage.error
            except Exception as failure:
                if not await self._is_outage(failure):
                    raise
                error = failure
            self._attempt.guard.release()  # lets consumers of other databases go on during the wait
            self._log_failure()
            if not await self._parts.outage.wait_until_over(error, self._stopping, losses=self._losses):
                return self._give_up

    async def _decide(self) -> Settlement:
        if self._decided is not None:  # an outage interrupted the recording of an earlier decision
            return await self._decided()
        if await self._is_known_by_its_former_id():
            return self._delivery.ack
        envelope = self._delivery.event
        if envelope is None:
            self._parts.circuits.note_delivery(None)
            wire = shown(self._delivery.unreadable.type) or "unknown"
            return await self._set_aside(ParkReason.UNDECODABLE, EventNotDecodableError(wire, self._delivery.problem))
        event_class = self._parts.classes.get(envelope.type)
        self._parts.circuits.note_delivery(event_class)
        if event_class is None:
            return await self._unknown_type(envelope)
        return await self._start(envelope, event_class)

    async def _is_known_by_its_former_id(self) -> bool:
        """Return whether the event was recorded under the id that the event had before version 2 of the tables.

        A record that is older than this event does not count, because the record belongs to an earlier, deleted stream.
        """
        known, delivery = self._identity, self._delivery
        if known.former_id is None:
            return False
        row = (known.consumer, known.source, known.former_id)
        return await self._parts.inbox.contains(*row, since=delivery.stored_at)

    async def _start(self, envelope: CloudEvent, event_class: type[DistributedEvent]) -> Settlement:
        start = await self._attempt.begin(first=self._delivery.attempt == 1)
        if start is None:
            return self._give_up
        if start.taken:
            return self._delivery.ack
        if start.exhausted:
            return await self._set_aside(ParkReason.PROCESS_DIED, None)
        with self._parts.circuits.enter(event_class) as passage:
            self._passage = passage
            if passage.refused_by is not None:
                return await self._hold(passage.refused_by, start.attempt - 1)
            async with self._attempt.joined():
                return await self._handle(envelope, event_class, start.attempt)

    async def _unknown_type(self, envelope: CloudEvent) -> Settlement:
        error = EventNotDecodableError(envelope.type, "no handler in this application handles this type and version")
        left = self._delivery.stored_at.timestamp() + self._parts.unknown_type_grace - self._parts.now()
        if left <= 0 or not self._is_of_its_subject(envelope.type):
            return await self._set_aside(ParkReason.UNKNOWN_TYPE, error)
        pause = min(left, Backoff(1.0, 30.0, self._parts.rng).at(self._delivery.attempt - 1))
        return self._put_back(error, pause, log=self._parts.limited_log.warning)

    def _is_of_its_subject(self, wire: str) -> bool:
        """Return whether the type fits the subject: `orders.placed.v2` fits the subject `events.orders.placed.7`."""
        try:
            event_type, _ = split_wire_type(wire)
        except ValueError:
            return False
        return f".{event_type}." in self._delivery.subject

    async def _handle(self, envelope: CloudEvent, event_class: type[DistributedEvent], attempt: int) -> Settlement:
        handling = self._handling = Handling(self._parts.handling, envelope, event_class, attempt, self._admit)
        try:
            admission = await handling.run()
        except (Exception, asyncio.CancelledError) as error:
            if is_own_cancellation(error):
                if handling.outcome is not Outcome.COMMITTED:
                    raise
                admission = Admission.NEW  # cancelled after the commit
            else:
                return await self._failed(error, attempt)
        self._leave_full_outbox()
        if admission is Admission.NEW and self._passage is not None and self._passage.succeeded():
            await failpoints.reach("circuit.after_probe")
        if admission is Admission.KEY_PARKED:
            self._log_parked(self._parked(ParkReason.KEY_PARKED, None), None)
            return self._terminate
        return self._acknowledge

    async def _admit(self, unit_of_work: UnitOfWork) -> Admission:
        parts, identity = self._parts, self._identity
        key = key_of(self._delivery) if parts.ordered else None
        row = (identity.consumer, identity.source, identity.event_id)
        admission = await parts.inbox.insert(unit_of_work, *row, key=key)
        if self._delivery.attempt > 1:  # a redelivery has counted a start, even if the event is a duplicate
            await parts.inbox.forget_starts(unit_of_work, *row)
        if admission is Admission.KEY_PARKED and parts.parking is not None:
            await parts.parking.append(unit_of_work, self._parked(ParkReason.KEY_PARKED, None))
            await failpoints.reach("consumer.after_append")
        return admission

    async def _failed(self, error: BaseException, attempt: int) -> Settlement:
        if await self._is_outage(error):
            raise _OutageError(error)
        self._leave_full_outbox()
        self._unlogged = error
        if isinstance(error, EventNotDecodableError):
            return await self._set_aside(ParkReason.UNDECODABLE, error)
        if isinstance(error, RetryLater):
            return await self._wait_as_asked(error, attempt - 1)
        if isinstance(error, self._parts.fatal_errors):
            return await self._set_aside(ParkReason.FATAL_ERROR, error)
        circuit = self._note_failure(error)
        if circuit is not None:
            return await self._hold(circuit, attempt - 1)
        retries, rng = self._parts.retries, self._parts.rng
        if attempt < retries.quick_attempts:
            return await self._try_again(error, retries.quick_delay(attempt, rng))
        due_in = retries.later_delay(0, rng)
        return await self._set_aside(ParkReason.HANDLER_FAILED if due_in is None else ParkReason.WAITING, error, due_in)

    def _note_failure(self, error: BaseException) -> HandlerCircuit | None:
        """Record that a handler failed. If the circuit of the handler is open now, return the circuit."""
        if self._passage is None or self._handling is None:
            return None
        return self._passage.failed(self._handling.last_called, self._identity.event_id, error)

    async def _hold(self, circuit: HandlerCircuit, attempts: int) -> Settlement:
        """Set an event aside until the circuit of a handler closes. The start does not count."""
        event = self._parked(ParkReason.CIRCUIT_OPEN, None)
        event = replace(event, attempts=attempts, error=circuit.error, held_by=circuit.name)
        settlement = await self._park(event, None, None)
        self._parts.circuits.note_hold(circuit)
        await failpoints.reach("circuit.after_hold")
        return settlement

    async def _wait_as_asked(self, error: RetryLater, attempts: int) -> Settlement:
        """Set an event aside as its handler asked. The start does not count."""
        seconds = max(error.seconds, SHORTEST_WAIT)
        if self._parts.parking is None:
            await self._attempt.take_back()
            return self._put_back(error, seconds, log=self._parts.log.info)
        due_in = seconds if seconds <= self._parts.longest_wait else None
        reason = ParkReason.HANDLER_FAILED if due_in is None else ParkReason.WAITING
        return await self._park(replace(self._parked(reason, error), attempts=attempts, tries=0), error, due_in)

    def _leave_full_outbox(self) -> None:
        """If the outbox was full at an earlier try of the event, record that the outbox has room again."""
        if self._met_full_outbox:
            self._met_full_outbox = False
            self._parts.outage.note_outbox_space()

    async def _try_again(self, error: BaseException | None, pause: float) -> Settlement:
        self._decided = partial(self._try_again, error, pause)
        try:
            await self._attempt.end()
        except Exception as failure:  # without the record, the process seems to have died in this start
            await self._refuse_outage(failure)
            self._parts.log.warning("failure not recorded", **self._of_failure(failure))
        return self._put_back(error, pause)

    async def _is_outage(self, error: BaseException) -> bool:
        """Return whether an error was caused by the database or its outbox, and not by the handlers.

        When the database answers, but the handlers have lost the connection several times, the handlers are the cause.
        """
        if is_backlog(error):
            self._met_full_outbox = True
            return True
        if not await self._parts.outage.is_over(error):
            return True
        self._losses += is_outage(error)
        return is_outage(error) and self._losses < most_losses(error)

    async def _refuse_outage(self, failure: Exception) -> None:
        if await self._is_outage(failure):
            raise _OutageError(failure) from failure

    def _of_failure(self, failure: Exception) -> dict[str, Any]:
        """Return the log fields of an error in recording a failure or in parking an event."""
        return {"error": type(failure).__name__, "reason": text_of(failure), "event_id": self._identity.event_id}

    def _log_failure(self) -> None:
        """Log the error of the handlers now, because the process may end during the wait for the database."""
        error, self._unlogged = self._unlogged, None
        if error is not None:
            self._parts.log.error(
                "handler failed",
                error=type(error).__name__,
                attempt=self._attempt.number,
                event_id=self._identity.event_id,
                stack=traceback_of(error),
            )

    # Parking.

    async def _set_aside(
        self, reason: ParkReason, error: BaseException | None, due_in: float | None = None
    ) -> Settlement:
        if self._parts.parking is None:
            return await self._try_again(error, self._pause())
        return await self._park(self._parked(reason, error), error, due_in)

    def _parked(self, reason: ParkReason, error: BaseException | None) -> ParkedEvent:
        attempts = self._attempt.number
        text: BaseException | str = "" if error is None else error
        if reason is ParkReason.KEY_PARKED:
            attempts, text = 0, BEHIND_TEXT
        elif reason is ParkReason.PROCESS_DIED:
            text = DIED_TEXT
        ordered, tries = self._parts.ordered, int(reason is ParkReason.WAITING)
        parked = parked_delivery(self._parts.group, self._delivery, reason, text, attempts=attempts, ordered=ordered)
        return replace(parked, tries=tries)

    async def _park(self, event: ParkedEvent, error: BaseException | None, due_in: float | None) -> Settlement:
        """Park an event. With `due_in`, its first later try is due after this many seconds.

        Without `due_in`, the event waits for a circuit if it has a `held_by`, and for a person otherwise.
        """
        self._decided = partial(self._park, event, error, due_in)
        if self._parts.parking is not None:
            await failpoints.reach("consumer.before_park")
            try:
                parked = await self._parts.parking.park(event, due_in=due_in, asked=isinstance(error, RetryLater))
            except Exception as failure:  # instead of being parked, the event is tried again
                await self._refuse_outage(failure)
                self._parts.log.warning("event not parked", **self._of_failure(failure))
                return await self._try_again(error or failure, self._pause())
            if parked:
                self._log_parked(event, error, due_in)
            await failpoints.reach("consumer.after_park")
        return self._terminate

    def _log_parked(self, event: ParkedEvent, error: BaseException | None, due_in: float | None = None) -> None:
        if isinstance(error, RetryLater):
            self._parts.log.info("event waits as its handler asked", retry_in=due_in, **event.log_fields())
            return
        has_not_failed = event.reason in (ParkReason.KEY_PARKED, ParkReason.CIRCUIT_OPEN)
        log = self._parts.limited_log if event.reason in _MANY else self._parts.log
        (log.warning if has_not_failed else log.error)(
            "event parked" if due_in is None and event.held_by is None else "event set aside",
            **event.log_fields(),
            retry_in=None if due_in is None else round(due_in, 3),
            error=type(error).__name__ if error is not None else None,
            subject=event.subject,
            sequence=event.sequence,
            stack=None if isinstance(error, EventNotDecodableError) else traceback_of(error),
            **self._flow(),
        )

    def _flow(self) -> dict[str, str | None]:
        """Return the ids of the event for log lines, with the principal and the tenant if these are verified."""
        if self._handling is not None:
            return self._handling.context.log_fields()
        event = self._delivery.event
        return {} if event is None else incoming(event)[0].log_fields()

    # Answers to the broker.

    async def _acknowledge(self) -> None:
        await self._delivery.ack()
        await failpoints.reach("consumer.after_ack")

    async def _terminate(self) -> None:
        await self._delivery.term("parked")
        await failpoints.reach("consumer.after_term")

    def _put_back(self, error: BaseException | None, pause: float, log: Callable[..., Any] | None = None) -> Settlement:
        (log or self._parts.log.error)(
            "delivery failed",
            error=type(error).__name__,
            reason=str(error) if isinstance(error, EventNotDecodableError) else None,
            attempt=self._attempt.number or self._delivery.attempt,
            retry_in=round(pause, 3),
            subject=self._delivery.subject,
            sequence=self._delivery.sequence,
            event_id=self._identity.event_id,
            stack=None if isinstance(error, EventNotDecodableError) else traceback_of(error),
            **self._flow(),
        )
        return lambda: self._delivery.nak(pause)

    def _pause(self) -> float:
        return self._parts.retries.quick_delay(self._delivery.attempt, self._parts.rng)

    async def _give_up(self) -> None:
        """Hand the delivery back at once, for another process. The start of the event does not count."""
        await self._attempt.take_back()
        await self._delivery.nak(0)
