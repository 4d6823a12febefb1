"""Intake: one event that is taken in, with its handlers in a scope and a transaction of their own."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from mediator.distributed import failpoints
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent
from mediator.distributed.handler import CurrentDelivery
from mediator.distributed.inbox import Admission
from mediator.distributed.propagation import incoming
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.distributed.upcasting import decode_event
from mediator.errors import HandlerTimeoutError
from mediator.mediator import Mediator
from mediator.transactions import Outcome, TransactionMode
from mediator.watching import check_awaited

Admit = Callable[[UnitOfWork], Awaitable[Admission]]
"""The first statements of the transaction; the handlers run when it says `NEW`."""


@dataclass(frozen=True, slots=True)
class IntakeParts:
    """What every intake of one consumer works with.

    Attributes:
        mediator: Whose handlers and behaviors are used.
        unit_of_work: Gives the unit of work of the current scope.
        timeout: How long the handlers of one event may take, in seconds.
        log: Where it is said what went wrong after a commit.
    """

    mediator: Mediator
    unit_of_work: Callable[[], UnitOfWork]
    timeout: float
    log: structlog.stdlib.BoundLogger


class Intake:
    """Runs the handlers of one event once; a new object for each start.

    Attributes:
        outcome: What became of its transaction, also when `run` raises.
    """

    def __init__(
        self,
        parts: IntakeParts,
        envelope: CloudEvent,
        event_class: type[DistributedEvent],
        attempt: int,
        admit: Admit,
    ) -> None:
        self.outcome: Outcome = Outcome.NONE
        self._parts = parts
        self._envelope = envelope
        self._event_class = event_class
        self._attempt = attempt
        self._admit = admit
        self._context, self._dropped = incoming(envelope)

    async def run(self) -> Admission:
        """Begin, admit, run the handlers, commit. What fails after the commit is logged: the event has taken effect.

        Raises:
            HandlerTimeoutError: It took too long, and was rolled back.
            Exception: What a handler, a behavior or the database raised; rolled back.
        """
        admission = Admission.NEW
        if self._dropped:
            self._parts.log.warning("attributes dropped", attributes=self._dropped, **self._context.log_fields())
        try:
            async with self._in_time():
                admission = await self._run()
        except Exception as error:
            if self.outcome is not Outcome.COMMITTED:
                raise
            # It has taken effect, and having it again would change nothing: what failed came after the commit.
            flow = self._context.log_fields()
            self._parts.log.exception("delivery failed after the commit", error=type(error).__name__, **flow)
        return admission

    @asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None, None]:
        limit = asyncio.timeout(self._parts.timeout)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HandlerTimeoutError(self._envelope.type, self._parts.timeout) from error

    async def _run(self) -> Admission:
        parts, envelope = self._parts, self._envelope
        async with parts.mediator.scope(TransactionMode.NEW, message=envelope.type, context=self._context) as scope:
            scope.instances[CurrentDelivery] = CurrentDelivery(envelope, self._attempt)
            try:
                return await self._handle(parts.unit_of_work())
            finally:
                self.outcome = scope.outcome

    async def _handle(self, unit_of_work: UnitOfWork) -> Admission:
        event = decode_event(unit_of_work.codec, self._envelope.type, self._envelope.data, self._event_class)
        async with unit_of_work:
            await failpoints.reach("consumer.before_insert")
            admission = await self._admit(unit_of_work)
            if admission is Admission.NEW:
                await failpoints.reach("consumer.after_insert")
                check_awaited(await self._parts.mediator.registry.pipeline(self._event_class).call(event), event)
                await failpoints.reach("consumer.after_handlers")
        if admission is not Admission.DUPLICATE:
            await failpoints.reach("consumer.after_commit")
        return admission
