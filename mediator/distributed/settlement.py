"""Settlement: what becomes of one delivery: acknowledged, put back for another try, or parked."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from mediator.distributed import failpoints
from mediator.distributed.attempt import Attempt
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.downtime import Downtime, is_backlog, is_outage
from mediator.distributed.events import DistributedEvent
from mediator.distributed.exclusion import Exclusion
from mediator.distributed.identity import EventIdentity, identity_of, shown
from mediator.distributed.inbox import Admission, Inbox
from mediator.distributed.intake import Intake, IntakeParts
from mediator.distributed.parking import ParkedEvent, Parking, ParkReason, key_of, parked_delivery
from mediator.distributed.propagation import incoming
from mediator.distributed.retries import Backoff, RetrySchedule
from mediator.distributed.shield import is_own_cancellation
from mediator.distributed.subscription import Delivery
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import EventNotDecodableError
from mediator.tracebacks import traceback_of
from mediator.transactions import Outcome

_WITHOUT_LIMIT = 2**31 - 2
_LOSSES = 3
"""So often may the connection be lost in one event's handlers, while the database answers, until that is their failure."""


@dataclass(frozen=True, slots=True)
class SettlementParts:
    """What every settlement of one consumer works with.

    Attributes:
        group: The consumer's name in the inbox.
        classes: The event class of each type on the wire that is handled.
        ordered: Whether later events of a key wait for earlier ones.
        intake: What intakes work with.
        exclusion: Who of this process may run now.
        inbox: What was taken in.
        parking: Where events are set aside; without it they are tried for ever.
        retries: How often and when failures are tried again.
        fatal_errors: Errors after which no further try helps.
        unknown_type_grace: How long after it was stored an event of an unknown type may find a handler, in seconds.
        downtime: Waits for the database.
        rng: For the jitter of pauses.
        now: The time in seconds since the epoch.
        log: Where it is said what became of it.
    """

    group: str
    classes: Mapping[str, type[DistributedEvent]]
    ordered: bool
    intake: IntakeParts
    exclusion: Exclusion
    inbox: Inbox
    parking: Parking | None
    retries: RetrySchedule
    fatal_errors: tuple[type[Exception], ...]
    unknown_type_grace: float
    downtime: Downtime
    rng: random.Random
    now: Callable[[], float]
    log: structlog.stdlib.BoundLogger


class _DatabaseAwayError(Exception):
    """Carries the error that showed it, from the handlers to whoever waits for the database."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


Ending = Callable[[], Awaitable[None]]


class Settlement:
    """Settles one delivery.

    Args:
        parts: What it works with.
        delivery: What was delivered.
        stopping: Set when the consumer is told to stop.
    """

    def __init__(self, parts: SettlementParts, delivery: Delivery, stopping: asyncio.Event) -> None:
        self._parts = parts
        self._delivery = delivery
        self._stopping = stopping
        self._identity: EventIdentity = identity_of(parts.group, delivery)
        limit = parts.retries.max_attempts if parts.parking is not None else _WITHOUT_LIMIT
        self._attempt = Attempt(parts.inbox, self._identity, parts.exclusion, stopping, limit)
        self._decided: Callable[[], Awaitable[Ending]] | None = None
        self._losses = 0
        self._met_full_outbox = False

    async def settle(self) -> None:
        """Decide, through outages of the database, and tell the broker.

        Raises:
            asyncio.CancelledError: The consumer is stopping; the delivery went back without costing an attempt.
        """
        with self._attempt.turn:
            await self._settle()

    async def _settle(self) -> None:
        try:
            ending = await self._through_outages()
        except (Exception, asyncio.CancelledError) as error:  # settled: it is logged, and comes again
            if is_own_cancellation(error):
                await self._give_up()
                raise
            ending = self._put_back(error, self._pause())
        try:
            await ending()
        except Exception as error:  # the broker delivers it again, and what is in the database decides
            self._parts.log.warning("delivery not settled", error=repr(error), sequence=self._delivery.sequence)

    async def _through_outages(self) -> Ending:
        while True:
            try:
                return await self._decide()
            except _DatabaseAwayError as away:
                error = away.error
            except Exception as failure:
                if not await self._is_outage(failure):
                    raise
                error = failure
            if not await self._parts.downtime.ride_out(error, self._stopping):
                return self._give_up

    async def _decide(self) -> Ending:
        if self._decided is not None:  # the database went away before that was written down
            return await self._decided()
        envelope = self._delivery.event
        if envelope is None:
            wire = shown(self._delivery.remnant.type) or "unknown"
            return await self._set_aside(ParkReason.UNDECODABLE, EventNotDecodableError(wire, self._delivery.problem))
        event_class = self._parts.classes.get(envelope.type)
        if event_class is None:
            return await self._unknown_type(envelope)
        return await self._start(envelope, event_class)

    async def _start(self, envelope: CloudEvent, event_class: type[DistributedEvent]) -> Ending:
        start = await self._attempt.begin(first=self._delivery.attempt == 1)
        if start is None:
            return self._give_up
        if start.taken:
            return self._delivery.ack
        if start.exhausted:
            return await self._set_aside(ParkReason.PROCESS_DIED, None)
        return await self._take_in(envelope, event_class, start.attempt)

    async def _unknown_type(self, envelope: CloudEvent) -> Ending:
        error = EventNotDecodableError(envelope.type, "no handler in this application handles this type and version")
        left = self._delivery.stored_at.timestamp() + self._parts.unknown_type_grace - self._parts.now()
        if left <= 0:
            return await self._set_aside(ParkReason.UNKNOWN_TYPE, error)
        pause = min(left, Backoff(1.0, 30.0, self._parts.rng).at(self._delivery.attempt - 1))
        return self._put_back(error, pause, log=self._parts.log.warning)

    async def _take_in(self, envelope: CloudEvent, event_class: type[DistributedEvent], attempt: int) -> Ending:
        intake = Intake(self._parts.intake, envelope, event_class, attempt, self._admit)
        try:
            admission = await intake.run()
        except (Exception, asyncio.CancelledError) as error:
            if is_own_cancellation(error):
                if intake.outcome is not Outcome.COMMITTED:
                    raise
                admission = Admission.NEW  # cancelled after its commit, which was not torn apart
            else:
                return await self._failed(error, attempt)
        if self._met_full_outbox:
            self._parts.downtime.note_room()
        if admission is Admission.KEY_PARKED:
            self._log_parked(self._parked(ParkReason.KEY_PARKED, None), None)
            return self._terminate
        return self._acknowledge

    async def _admit(self, unit_of_work: UnitOfWork) -> Admission:
        parts, identity = self._parts, self._identity
        key = key_of(self._delivery) if parts.ordered else None
        row = (identity.consumer, identity.source, identity.event_id)
        admission = await parts.inbox.insert(unit_of_work, *row, key=key)
        if self._delivery.attempt > 1:  # a duplicate counted a start of its own while the first delivery committed
            await parts.inbox.forget_starts(unit_of_work, *row)
        if admission is Admission.KEY_PARKED and parts.parking is not None:
            await parts.parking.append(unit_of_work, self._parked(ParkReason.KEY_PARKED, None))
            await failpoints.reach("consumer.after_append")
        return admission

    async def _failed(self, error: BaseException, attempt: int) -> Ending:
        if await self._is_outage(error):
            raise _DatabaseAwayError(error)
        if isinstance(error, EventNotDecodableError):
            return await self._set_aside(ParkReason.UNDECODABLE, error)
        if isinstance(error, self._parts.fatal_errors):
            return await self._set_aside(ParkReason.FATAL_ERROR, error)
        if attempt >= self._parts.retries.max_attempts:
            return await self._set_aside(ParkReason.HANDLER_FAILED, error)
        return await self._try_again(error, self._parts.retries.delay(attempt, self._parts.rng))

    async def _try_again(self, error: BaseException | None, pause: float) -> Ending:
        self._decided = partial(self._try_again, error, pause)
        await self._attempt.end()
        return self._put_back(error, pause)

    async def _is_outage(self, error: BaseException) -> bool:
        """Whether the database, or its outbox, is at fault. Handlers that lose the connection each time are themselves."""
        if is_backlog(error):
            self._met_full_outbox = True
            return True
        if not await self._parts.inbox.answers():
            return True
        self._losses += is_outage(error)
        return is_outage(error) and self._losses < _LOSSES

    # Parking.

    async def _set_aside(self, reason: ParkReason, error: BaseException | None) -> Ending:
        if self._parts.parking is None:
            return await self._try_again(error, self._pause())
        return await self._park(self._parked(reason, error), error)

    def _parked(self, reason: ParkReason, error: BaseException | None) -> ParkedEvent:
        attempts = self._attempt.number
        text: BaseException | str = "" if error is None else error
        if reason is ParkReason.KEY_PARKED:
            attempts, text = 0, "an earlier event of its key is parked"
        elif reason is ParkReason.PROCESS_DIED:
            text = "its handlers were started that often; in the last one the process ended, with nothing else being handled"
        return parked_delivery(
            self._parts.group, self._delivery, reason, text, attempts=attempts, now=self._parts.now()
        )

    async def _park(self, event: ParkedEvent, error: BaseException | None) -> Ending:
        self._decided = partial(self._park, event, error)
        if self._parts.parking is not None:
            await failpoints.reach("consumer.before_park")
            if await self._parts.parking.park(event):
                self._log_parked(event, error)
            await failpoints.reach("consumer.after_park")
        return self._terminate

    def _log_parked(self, event: ParkedEvent, error: BaseException | None) -> None:
        decodable = self._delivery.event
        flow = incoming(decodable)[0].log_fields() if decodable is not None else {}
        follows = event.reason == ParkReason.KEY_PARKED
        (self._parts.log.warning if follows else self._parts.log.error)(
            "event parked",
            **event.log_fields(),
            error=type(error).__name__ if error is not None else None,
            subject=event.subject,
            sequence=event.sequence,
            stack=None if isinstance(error, EventNotDecodableError) else traceback_of(error),
            **flow,
        )

    # What the broker is told.

    async def _acknowledge(self) -> None:
        await self._delivery.ack()
        await failpoints.reach("consumer.after_ack")

    async def _terminate(self) -> None:
        await self._delivery.term("parked")
        await failpoints.reach("consumer.after_term")

    def _put_back(self, error: BaseException | None, pause: float, log: Callable[..., Any] | None = None) -> Ending:
        event = self._delivery.event
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
            **({} if event is None else incoming(event)[0].log_fields()),
        )
        return lambda: self._delivery.nak(pause)

    def _pause(self) -> float:
        return self._parts.retries.delay(self._delivery.attempt, self._parts.rng)

    async def _give_up(self) -> None:
        """Hand the delivery back at once, for another process; what was started does not count."""
        await self._attempt.take_back(self._parts.log)
        await self._delivery.nak(0)
