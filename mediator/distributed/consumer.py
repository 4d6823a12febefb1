"""EventConsumer: takes events of other applications in, each exactly once in effect, for as long as it runs."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

import structlog

from mediator.distributed import failpoints
from mediator.distributed.bounds import check_counts, check_not_negative, check_positive
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.downtime import Downtime
from mediator.distributed.events import DistributedEvent, split_wire_type
from mediator.distributed.exclusion import Turn, exclusion_here
from mediator.distributed.handler import DistributedEventHandler
from mediator.distributed.identity import is_storable
from mediator.distributed.inbox import Admission, Inbox, needed_retention
from mediator.distributed.intake import Intake, IntakeParts
from mediator.distributed.parking import ParkedEvent, Parking, ParkReason
from mediator.distributed.retries import Backoff, retry_schedule
from mediator.distributed.settlement import Settlement, SettlementParts
from mediator.distributed.shield import drain, is_own_cancellation
from mediator.distributed.subscription import Deliveries, Delivery, EventSubscription, Ordering
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.distributed.upcasting import readable_types
from mediator.errors import EventNotDecodableError, FatalEventError, SettingError, ValidationFailedError
from mediator.mediator import Mediator

_FATAL = (EventNotDecodableError, FatalEventError, ValidationFailedError)
_ORDERED_CONCURRENCY = 16
_CLEAN_BATCH = 5000
_LONGEST_GROUP = 64
_SOON = 1.0
_CANCELLED_PAUSE = 1.0
"""Seconds. A delivery whose handler cancelled its own task is told from a stop only here, when it has gone back."""


class EventConsumer:
    """Runs the container's `DistributedEventHandler`s for the events that a subscription delivers.

    Each delivery has a scope and a transaction of its own: the inbox row first, then the handlers, then the events they
    raise, then the commit, then the acknowledgement. When a handler fails, the event comes again after a pause; after
    `max_attempts` starts of its handlers, also of such that ended the process, it is parked. What can never be handled is
    parked at once: see `fatal_errors`. Nothing is ever dropped. While the database is away, or its outbox has no room for
    the events that handlers raise, the consumer waits; a start that was broken off by that, or by stopping the consumer,
    does not count. After its process died, an event is handled alone in the next one, so that only what kills a process
    is parked for it.

    With `ordering="key"` the events of one key are handled strictly one after the other, and those of other partitions
    beside them. Once an event is parked, the later ones of its key are parked behind it, to be replayed in order.

    Args:
        subscription: Where events come from.
        inbox: What this application has taken in, in the database of its unit of work.
        unit_of_work: Gives the unit of work of the current scope: `unit_of_work.provider` in a container.
        mediator: Whose handlers and behaviors are used.
        parking: Where events are set aside, in the same database. Without it a failing event comes again for ever.
        ordering: `"none"`, or `"key"` for strict order per key, which needs parking.
        concurrency: How many events are handled at a time: 1, or 16 with `ordering="key"`, unless given.
        prefetch: How many may wait here, unacknowledged, in all.
        max_attempts: How often the handlers of an event are started: once more than there are `retry_delays`.
        retry_delays: The pauses after the failures of an event, in seconds; the last one is repeated. From 0 s to 10 min,
            or 0 s, 1 s and 3 s with `ordering="key"`, where they may be 5 s in all.
        fatal_errors: Further errors after which no other try would help. Always among them are `FatalEventError`,
            `ValidationFailedError` and `EventNotDecodableError`.
        handler_timeout: How long the handlers of one event may take, in seconds; then they are cancelled.
        unknown_type_grace: How long after it was stored an event that nothing here handles comes again, in seconds, until
            it is parked: a newer version of this application may be about to start.
        drain_timeout: How long the running handlers have when the consumer is stopped, in seconds.
        clean_interval: How often old inbox rows are deleted, in seconds.
        rng: For the jitter of pauses.
        now: The time in seconds since the epoch.

    Raises:
        SettingError: A setting cannot work, or the inbox forgets events that the stream still has.
    """

    def __init__(
        self,
        subscription: EventSubscription,
        inbox: Inbox,
        unit_of_work: Callable[[], UnitOfWork],
        mediator: Mediator,
        *,
        parking: Parking | None = None,
        ordering: Ordering = "none",
        concurrency: int | None = None,
        prefetch: int = 64,
        max_attempts: int | None = None,
        retry_delays: tuple[float, ...] | list[float] | None = None,
        fatal_errors: tuple[type[Exception], ...] = (),
        handler_timeout: float = 300.0,
        unknown_type_grace: float = 300.0,
        drain_timeout: float = 25.0,
        clean_interval: float = 60.0,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.parking: Parking | None = parking
        self._subscription = subscription
        self._inbox = inbox
        self._mediator = mediator
        self._ordering: Ordering = _checked_ordering(ordering, parking)
        self._retries = retry_schedule(ordering, max_attempts, retry_delays)
        self._fatal_errors = _checked_errors(fatal_errors)
        self._concurrency = (
            concurrency if concurrency is not None else (_ORDERED_CONCURRENCY if ordering == "key" else 1)
        )
        self._prefetch = prefetch
        self._unknown_type_grace = unknown_type_grace
        self._drain_timeout = drain_timeout
        self._clean_interval = clean_interval
        self._rng = rng or random.Random()  # noqa: S311  (jitter, no secret)
        self._now = now
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(consumer=subscription.group)
        self._intake = IntakeParts(mediator, unit_of_work, handler_timeout, self._log)
        self._check(handler_timeout)

    def _check(self, handler_timeout: float) -> None:
        check_counts(concurrency=self._concurrency, prefetch=self._prefetch)
        check_positive(handler_timeout=handler_timeout, clean_interval=self._clean_interval)
        check_not_negative(unknown_type_grace=self._unknown_type_grace, drain_timeout=self._drain_timeout)
        if not is_storable(self.group, _LONGEST_GROUP):
            raise SettingError("group", self.group, f"use at most {_LONGEST_GROUP} characters, and no NUL")
        max_age, keep = self._subscription.max_age, self._inbox.keep_seconds
        if max_age is not None and keep < needed_retention(stream=max_age):
            problem = f"the stream keeps events for {max_age:g} s: use at least {needed_retention(stream=max_age):g} s"
            raise SettingError("keep_seconds", keep, problem)

    @property
    def group(self) -> str:
        """The name of its group, in the broker, in the inbox and among the parked events."""
        return self._subscription.group

    async def run(self) -> None:
        """Consume until cancelled; the handlers that run are then given `drain_timeout` to end."""
        parts, prefetch = self._parts(), max(self._prefetch, self._concurrency)
        event_types = sorted({split_wire_type(wire)[0] for wire in parts.classes})
        self._log.info("consumer started", event_types=event_types)
        try:
            async with (
                self._subscription.open(event_types, prefetch=prefetch, ordering=self._ordering) as deliveries,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self._clean())
                for _ in range(self._concurrency):
                    group.create_task(self._work(deliveries, parts))
        finally:
            self._log.info("consumer stopped")

    async def replay(self, parked: ParkedEvent) -> None:
        """Run the handlers of a parked event, and remove it from the parking in their transaction.

        Raises:
            ParkedEventNotFoundError: It is no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
            EventNotDecodableError: It can still not be read, or nothing here handles its type.
            Exception: What a handler or the database raised. It is parked as before.
        """
        parking = self.parking
        if parking is None:
            raise SettingError("parking", None, "a consumer without parking has nothing to replay")
        envelope = self._read(parked)
        event_class = self._event_classes().get(envelope.type)
        if event_class is None:
            raise EventNotDecodableError(envelope.type, "no handler in this application handles this type and version")

        async def admit(unit_of_work: UnitOfWork) -> Admission:
            await parking.take(unit_of_work, parked.number)
            await failpoints.reach("replay.after_take")
            return Admission.NEW

        intake = Intake(self._intake, envelope, event_class, parked.attempts + 1, admit)
        with Turn(exclusion_here(), asyncio.Event()) as turn:
            deadly = parked.reason == ParkReason.PROCESS_DIED
            await (turn.alone(parked.attempts) if deadly else turn.beside_others())
            await intake.run()

    def _read(self, parked: ParkedEvent) -> CloudEvent:
        stored_at = datetime.fromisoformat(parked.time)
        return self._subscription.read(parked.headers, parked.data, fallback_id=parked.event_id, stored_at=stored_at)

    def _parts(self) -> SettlementParts:
        return SettlementParts(
            group=self._subscription.group,
            classes=self._event_classes(),
            ordered=self._ordering == "key",
            intake=self._intake,
            exclusion=exclusion_here(),
            inbox=self._inbox,
            parking=self.parking,
            retries=self._retries,
            fatal_errors=(*_FATAL, *self._fatal_errors),
            unknown_type_grace=self._unknown_type_grace,
            downtime=Downtime(
                self._inbox.answers, Backoff(0.1, 5.0, self._rng), Backoff(0.1, 5.0, self._rng), self._log
            ),
            rng=self._rng,
            now=self._now,
            log=self._log,
        )

    def _event_classes(self) -> Mapping[str, type[DistributedEvent]]:
        bindings = self._mediator.registry.handlers_of(DistributedEventHandler)
        return readable_types(cls for binding in bindings for cls in binding.messages)

    async def _work(self, deliveries: Deliveries, parts: SettlementParts) -> None:
        stopping = asyncio.Event()
        while True:
            delivery = await deliveries.next()
            try:
                await drain(self._settle(parts, delivery, stopping), self._drain_timeout, stopping)
            except asyncio.CancelledError as error:
                if is_own_cancellation(error):
                    raise
                self._log.error("handler cancelled its own task", sequence=delivery.sequence, retry_in=_CANCELLED_PAUSE)
                await asyncio.sleep(_CANCELLED_PAUSE)

    async def _settle(self, parts: SettlementParts, delivery: Delivery, stopping: asyncio.Event) -> None:
        async with self._heartbeat(delivery):
            await Settlement(parts, delivery, stopping).settle()

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
        pause = self._clean_interval
        while True:
            await asyncio.sleep(pause)
            try:
                full = await self._inbox.clean(_CLEAN_BATCH) >= _CLEAN_BATCH
            except Exception as error:  # settled: cleaning can wait, consuming goes on
                self._log.warning("inbox not cleaned", error=type(error).__name__, reason=str(error))
                full = False
            pause = min(_SOON, self._clean_interval) if full else self._clean_interval


def _checked_ordering(ordering: Ordering, parking: Parking | None) -> Ordering:
    if ordering not in ("none", "key"):
        raise SettingError("ordering", ordering, "use 'none' or 'key'")
    if ordering == "key" and parking is None:
        raise SettingError("parking", None, "with ordering='key' an event that fails would keep its partition for ever")
    return ordering


def _checked_errors(errors: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    given: tuple[object, ...] = tuple(errors)
    if not all(isinstance(error, type) and issubclass(error, Exception) for error in given):
        raise SettingError("fatal_errors", given, "give classes of exceptions")
    return tuple(errors)
