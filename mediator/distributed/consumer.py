"""EventConsumer: takes events of other applications in, each exactly once in effect, for as long as it runs."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from mediator.distributed import failpoints
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent, split_wire_type, wire_type
from mediator.distributed.inbox import Inbox
from mediator.distributed.propagation import incoming
from mediator.distributed.retries import Backoff
from mediator.distributed.shield import drain, is_being_cancelled
from mediator.distributed.subscription import Deliveries, Delivery, EventSubscription
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import EventNotDecodableError, NoScopeError
from mediator.mediator import Mediator
from mediator.pipeline import check_awaited
from mediator.scope import current_frame
from mediator.transactions import Outcome, TransactionMode

E_contra = TypeVar("E_contra", bound=DistributedEvent, contravariant=True)


class DistributedEventHandler(ABC, Generic[E_contra]):
    """Handles one type and version of event when the broker delivers it, in a transaction that also records it."""

    @abstractmethod
    async def handle(self, event: E_contra, /) -> None:
        """Take the event in. What is written through the unit of work takes effect once, however often this runs."""


@dataclass(frozen=True, slots=True)
class CurrentDelivery:
    """The delivery that is being handled.

    Attributes:
        event: The envelope: id, source, time, extensions. Its id makes effects outside the database idempotent.
        attempt: How often the broker has delivered it, from 1.
    """

    event: CloudEvent
    attempt: int

    @property
    def id(self) -> str:
        """The id of the event, unique within its source."""
        return self.event.id


def current_delivery() -> CurrentDelivery:
    """The delivery that is being handled, also from dispatches inside its handlers.

    Raises:
        NoScopeError: No delivery is being handled.
    """
    frame = current_frame()
    while frame is not None:
        delivery = frame.scope.instances.get(CurrentDelivery)
        if isinstance(delivery, CurrentDelivery):
            return delivery
        frame = frame.parent
    raise NoScopeError("the current delivery")


class EventConsumer:
    """Runs the container's `DistributedEventHandler`s for the events that a subscription delivers.

    Each delivery has a scope and a transaction of its own: the inbox row first, then the handlers, then the events they
    raise, then the commit, then the acknowledgement. An event that cannot be handled yet (its handler fails, its type is
    unknown, it cannot be decoded) comes again, with growing pauses, and is logged each time; none is ever dropped. What is
    delivered again may be overtaken by later events, also by those of its partition key.

    Args:
        subscription: Where events come from.
        inbox: What this application has taken in, in the database of its unit of work.
        unit_of_work: Gives the unit of work of the current scope: `unit_of_work.provider` in a container.
        mediator: Whose handlers and behaviors are used.
        concurrency: How many events are handled at a time. More than 1 gives up their order.
        prefetch: How many may wait here, unacknowledged, in all.
        first_retry: The pause after the first failure, in seconds; it doubles from there.
        last_retry: The longest pause, in seconds.
        drain_timeout: How long the running handlers have when the consumer is stopped, in seconds.
        clean_interval: How often old inbox rows are deleted, in seconds.
        rng: For the jitter of pauses.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        subscription: EventSubscription,
        inbox: Inbox,
        unit_of_work: Callable[[], UnitOfWork],
        mediator: Mediator,
        *,
        concurrency: int = 1,
        prefetch: int = 64,
        first_retry: float = 0.5,
        last_retry: float = 60.0,
        drain_timeout: float = 25.0,
        clean_interval: float = 60.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subscription = subscription
        self._inbox = inbox
        self._unit_of_work = unit_of_work
        self._mediator = mediator
        self._concurrency = concurrency
        self._prefetch = max(prefetch, concurrency)
        self._retries = Backoff(first_retry, last_retry, rng or random.Random())  # noqa: S311  (jitter, no secret)
        self._drain_timeout = drain_timeout
        self._clean_interval = clean_interval
        self._clock = clock
        self._cleaned = clock()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(consumer=subscription.group)

    async def run(self) -> None:
        """Consume until cancelled; the handlers that run are then given `drain_timeout` to end."""
        classes = self._event_classes()
        event_types = sorted({split_wire_type(wire)[0] for wire in classes})
        self._log.info("consumer started", event_types=event_types)
        try:
            async with (
                self._subscription.open(event_types, prefetch=self._prefetch) as deliveries,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(self._concurrency):
                    group.create_task(self._work(deliveries, classes))
        finally:
            self._log.info("consumer stopped")

    def _event_classes(self) -> dict[str, type[DistributedEvent]]:
        bindings = self._mediator.registry.handlers_of(DistributedEventHandler)
        return {wire_type(cls): cls for binding in bindings for cls in binding.messages}

    async def _work(self, deliveries: Deliveries, classes: dict[str, type[DistributedEvent]]) -> None:
        while True:
            delivery = await deliveries.next()
            await drain(self._settle(delivery, classes), self._drain_timeout)
            await self._clean()

    async def _settle(self, delivery: Delivery, classes: dict[str, type[DistributedEvent]]) -> None:
        try:
            async with self._heartbeat(delivery):
                await self._take_in(delivery, classes)
        except asyncio.CancelledError as error:
            if not is_being_cancelled():  # a handler waited for something that was cancelled, and failed like any other
                await self._put_back(delivery, error)
                return
            await delivery.nak(0)  # the consumer is stopping: another one may have it at once
            raise
        except Exception as error:  # settled: the broker delivers it again
            await self._put_back(delivery, error)
        else:
            await delivery.ack()
            await failpoints.reach("consumer.after_ack")

    async def _put_back(self, delivery: Delivery, error: BaseException) -> None:
        pause = self._retries.at(delivery.attempt - 1)
        event = delivery.event
        self._log.error(
            "delivery failed",
            error=type(error).__name__,
            reason=str(error) if isinstance(error, EventNotDecodableError) else None,
            attempt=delivery.attempt,
            retry_in=round(pause, 3),
            subject=delivery.subject,
            sequence=delivery.sequence,
            event_id=event.id if event else None,
            exc_info=None if isinstance(error, EventNotDecodableError) else error,
            **({} if event is None else incoming(event)[0].log_fields()),
        )
        await delivery.nak(pause)

    async def _take_in(self, delivery: Delivery, classes: dict[str, type[DistributedEvent]]) -> None:
        envelope = delivery.event
        if envelope is None:
            raise EventNotDecodableError("unknown", delivery.problem)
        event_class = classes.get(envelope.type)
        if event_class is None:
            raise EventNotDecodableError(envelope.type, "no handler in this application handles this type and version")
        group = self._subscription.group
        if delivery.attempt > 1 and await self._inbox.contains(group, envelope.source, envelope.id):
            return
        context, dropped = incoming(envelope)
        if dropped:
            self._log.warning("attributes dropped", attributes=dropped, **context.log_fields())
        async with self._mediator.scope(TransactionMode.NEW, message=envelope.type, context=context) as scope:
            scope.instances[CurrentDelivery] = CurrentDelivery(envelope, delivery.attempt)
            try:
                await self._handle(self._unit_of_work(), envelope, event_class)
            except Exception as error:
                if scope.outcome is not Outcome.COMMITTED:
                    raise
                # It has taken effect, and having it again would change nothing: what failed came after the commit.
                self._log.error(
                    "delivery failed after the commit",
                    error=type(error).__name__,
                    exc_info=error,
                    **context.log_fields(),
                )

    async def _handle(
        self, unit_of_work: UnitOfWork, envelope: CloudEvent, event_class: type[DistributedEvent]
    ) -> None:
        event = unit_of_work.codec.decode(envelope.data, event_class)
        async with unit_of_work:
            await failpoints.reach("consumer.before_insert")
            if not await self._inbox.insert(unit_of_work, self._subscription.group, envelope.source, envelope.id):
                return
            await failpoints.reach("consumer.after_insert")
            check_awaited(await self._mediator.registry.pipeline(event_class).call(event), event)
            await failpoints.reach("consumer.after_handlers")
        await failpoints.reach("consumer.after_commit")

    @asynccontextmanager
    async def _heartbeat(self, delivery: Delivery) -> AsyncGenerator[None, None]:
        """Keep the broker from delivering the event elsewhere while it is being handled."""
        loop = asyncio.get_running_loop()
        beat = loop.create_task(self._beat(delivery))
        try:
            yield
        finally:
            beat.cancel()
            await asyncio.wait((beat,))

    async def _beat(self, delivery: Delivery) -> None:
        while True:
            await asyncio.sleep(self._subscription.ack_wait / 3)
            await delivery.in_progress()

    async def _clean(self) -> None:
        if self._clock() - self._cleaned >= self._clean_interval:
            self._cleaned = self._clock()
            try:
                await self._inbox.clean(5000)
            except Exception as error:  # settled: cleaning can wait, consuming goes on
                self._log.warning("inbox not cleaned", error=type(error).__name__, reason=str(error))
