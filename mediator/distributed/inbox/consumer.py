"""EventConsumer: handles events of other applications, so that each event takes effect exactly once."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from mediator.distributed import failpoints
from mediator.distributed.backoff import Backoff
from mediator.distributed.callers import EventAuthenticator, trust_stream
from mediator.distributed.cleaning import keep_clean
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent, readable_types, split_wire_type
from mediator.distributed.inbox.circuits import CIRCUIT_FAILURES, Circuits
from mediator.distributed.inbox.handler import DistributedEventHandler
from mediator.distributed.inbox.handling import Handling, HandlingParts
from mediator.distributed.inbox.identity import identity_of
from mediator.distributed.inbox.later_tries import LaterTries
from mediator.distributed.inbox.outage import DatabaseOutage
from mediator.distributed.inbox.port import Admission, Inbox, needed_retention
from mediator.distributed.inbox.processing import Processing, ProcessingParts
from mediator.distributed.inbox.retries import retry_schedule
from mediator.distributed.inbox.shared_lock import Guard, shared_lock_here
from mediator.distributed.inbox.subscription import Deliveries, Delivery, EventSubscription, Ordering
from mediator.distributed.parking import ParkedEvent, Parking, ParkReason
from mediator.distributed.requests import FairQueue
from mediator.distributed.shield import alongside, drain, is_own_cancellation
from mediator.distributed.storable import LONGEST_GROUP, is_storable
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import EventNotDecodableError, FatalEventError, SettingError, ValidationFailedError
from mediator.logger import Logger, RateLimitedLogger
from mediator.mediator import Mediator
from mediator.printable import text_of
from mediator.settings import check_counts, check_not_negative, check_positive

_FATAL = (EventNotDecodableError, FatalEventError, ValidationFailedError)
_ORDERED_CONCURRENCY = 16
_STUCK_CHECK_SECONDS = 1.0
_MOST_HANDED_BACK = 10_000
_STUCK_SECONDS = 2.0
"""If no handler of an event type begins or ends for this many seconds, waiting events of the type are handed back."""
_BACK_SECONDS = (30.0, 300.0)
"""The first and the longest pause until an event that was handed back is redelivered, in seconds."""
_CANCELLED_PAUSE = 1.0
"""Seconds to pause after a handler cancelled its own task.

The delivery of that handler is handed back at once. Without the pause, the event would be started again and again.
"""


class EventConsumer:
    """Runs the container's `DistributedEventHandler`s for the events that a subscription delivers.

    Each delivery has its own scope and transaction. The transaction first records the event in the inbox, then runs the
    handlers, then stores the events that the handlers raise, and commits. After the commit the delivery is
    acknowledged. When a handler fails, the broker redelivers the event for a quick try after a short pause
    (`retry_delays`). When all quick tries have failed, the consumer sets the event aside in the database, and makes
    later tries by itself (`later_delays`). After the last later try the event is parked (dead-lettered). Starts in
    which the process died count too. An event that can never be handled is parked at once: see `fatal_errors`. No event
    is ever dropped.

    While the database is unavailable, or its outbox is full, the consumer waits. A start does not count if an outage, a
    full outbox or a stop of the consumer interrupted the start. When a process dies, each event that the process was
    handling is handled alone the next time. So an event is parked as the cause of a death only if no other event can be
    the cause.

    With `ordering="key"` the events of one partition are handled strictly one after the other, and all events of a key
    are in one partition. Events of different partitions are handled concurrently. Once an event is set aside or parked,
    the later events of its key are parked behind that event. When that event has succeeded, they are handled in order.

    Args:
        subscription: Delivers the events.
        inbox: Records the events that took effect, in the database of the unit of work.
        unit_of_work: Returns the unit of work of the current scope: `unit_of_work.provider` in a container.
        mediator: The mediator whose handlers and behaviors handle the events.
        parking: Keeps parked events (the dead letter queue), in the database of the inbox. Without parking, a failing
            event is redelivered without end.
        authenticate: Verifies the sender of an event, and returns a `Caller` for the message context. It may return
            `None`, for example for an event without a signature; the event then has an unverified context. If it raises
            `NotAuthorizedError`, the event is parked at once. `trust_stream` accepts the tenant that the event states.
        ordering: `"none"`, or `"key"` for strict order per key. `"key"` needs parking.
        concurrency: The number of events that are handled at a time; by default 1, or 16 with `ordering="key"`. Each of
            these events takes one place. If there are several places, an eighth of them (at least one) is kept free for
            event types of which no handler is running. So no event type takes all places.
        prefetch: The largest number of unacknowledged events in this process.
        retry_delays: The pauses before the quick tries of an event, in seconds; by default 0 s, 1 s and 3 s. During a pause
            the event keeps its place at the broker, so all pauses of an event together may last 5 s at most. Without
            parking, pauses may be longer, the last pause is repeated, and the default goes from 0 s to 10 min.
        later_delays: The pauses before the later tries of an event, in seconds; by default 30 s, 2 min, 10 min, 1 h and
            6 h, and none without parking. During a pause the event waits in the database. Later tries use at most a
            quarter of the places, but at least one.
        longest_wait: How long an event may wait because its handlers raise `RetryLater`, in seconds since the first
            `RetryLater`; by default 7 days. After that the event is parked.
        circuit_failures: When this many different events in a row have failed in a handler class, the circuit of the
            class opens; `None` for no circuits. While a circuit is open, the consumer sets the events of the handler
            aside without trying them. From time to time, one event is tried as a probe. A probe that succeeds closes
            the circuit. Circuits need parking.
        fatal_errors: Further errors after which an event is parked at once, because another attempt would fail again.
            `FatalEventError`, `ValidationFailedError` and `EventNotDecodableError` are always fatal.
        handler_timeout: How long the handlers of one event may take, in seconds, before they are cancelled.
        unknown_type_grace: How long an event without a handler is redelivered before it is parked, in seconds since the
            event was stored. During this time a newer version of this application may start and handle the event.
        drain_timeout: The time in which running handlers must end when the consumer is stopped, in seconds.
        clean_interval: The interval at which old inbox rows are deleted, in seconds.
        rng: The random number generator for the jitter of pauses.
        now: Returns the time in seconds since the epoch.

    Raises:
        SettingError: A setting is invalid, or the inbox would forget events that the stream still holds.
    """

    def __init__(
        self,
        subscription: EventSubscription,
        inbox: Inbox,
        unit_of_work: Callable[[], UnitOfWork],
        mediator: Mediator,
        *,
        parking: Parking | None = None,
        authenticate: EventAuthenticator = trust_stream,
        ordering: Ordering = "none",
        concurrency: int | None = None,
        prefetch: int = 64,
        retry_delays: tuple[float, ...] | list[float] | None = None,
        later_delays: tuple[float, ...] | list[float] | None = None,
        longest_wait: float = 604_800.0,
        circuit_failures: int | None = CIRCUIT_FAILURES,
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
        self._retries = retry_schedule(parks=parking is not None, retry_delays=retry_delays, later_delays=later_delays)
        self._fatal_errors = _checked_errors(fatal_errors)
        self._concurrency = usual_concurrency(ordering) if concurrency is None else concurrency
        self._prefetch = prefetch
        self._unknown_type_grace = unknown_type_grace
        self._longest_wait = longest_wait
        self._circuit_failures = circuit_failures
        self._drain_timeout = drain_timeout
        self._clean_interval = clean_interval
        self._handed_back: dict[tuple[str, int], int] = {}
        self._rng = rng or random.Random()  # noqa: S311  (jitter, no secret)
        self._now = now
        self._log: Logger = Logger(consumer=subscription.group)
        self._handling = HandlingParts(mediator, unit_of_work, handler_timeout, self._log, authenticate)
        self._check(handler_timeout)

    def _check(self, handler_timeout: float) -> None:
        check_counts(concurrency=self._concurrency, prefetch=self._prefetch, circuit_failures=self._circuit_failures)
        check_positive(
            handler_timeout=handler_timeout, clean_interval=self._clean_interval, longest_wait=self._longest_wait
        )
        check_not_negative(unknown_type_grace=self._unknown_type_grace, drain_timeout=self._drain_timeout)
        if not is_storable(self.group, LONGEST_GROUP):
            raise SettingError("group", self.group, f"use at most {LONGEST_GROUP} characters, and no NUL")
        max_age, keep = self._subscription.max_age, self._inbox.keep_seconds
        if max_age is not None and keep < needed_retention(stream=max_age):
            problem = f"the stream keeps events for {max_age:g} s: use at least {needed_retention(stream=max_age):g} s"
            raise SettingError("keep_seconds", keep, problem)

    @property
    def group(self) -> str:
        """The name of the consumer's group, in the broker, in the inbox and among the parked events."""
        return self._subscription.group

    async def run(self) -> None:
        """Consume until cancelled. Running handlers get `drain_timeout` seconds to end."""
        self._subscription.use_application(self._inbox.application)
        parts, prefetch = self._parts(), max(self._prefetch, self._concurrency)
        event_types = sorted({split_wire_type(wire)[0] for wire in parts.classes})
        self._log.info("consumer started", event_types=event_types)
        try:
            queue = FairQueue[Delivery](event_types, self._concurrency)
            async with (
                self._subscription.open(event_types, prefetch=prefetch, ordering=self._ordering) as deliveries,
                asyncio.TaskGroup() as group,
            ):
                parts.circuits.pause_when_held(deliveries, parts.classes.values())
                group.create_task(keep_clean(self._inbox.clean, self._clean_interval, self._log, "inbox not cleaned"))
                group.create_task(self._receive(deliveries, queue, parts))
                group.create_task(self._keep_here(queue))
                if len(event_types) > 1 and self._ordering == "none":
                    streams = len({event_type.partition(".")[0] for event_type in event_types})
                    group.create_task(
                        self._hand_back_stuck(queue, min(self._concurrency, max(1, prefetch // (2 * streams))))
                    )
                for _ in range(self._concurrency):
                    group.create_task(self._work(queue, parts))
                if self.parking is not None:
                    later = LaterTries(parts, self.parking, self._read, queue, self._drain_timeout)
                    for _ in range(max(1, self._concurrency // 4)):
                        group.create_task(later.run())
        finally:
            self._log.info("consumer stopped")

    async def replay(self, parked: ParkedEvent) -> None:
        """Run the handlers of a parked event, in a transaction that also removes the event from the parking.

        Raises:
            ParkedEventNotFoundError: The event is no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
            EventNotDecodableError: The event still cannot be read, or no handler in this application handles its type.
            Exception: A handler or the database failed. The event stays parked.
        """
        parking = self.parking
        if parking is None:
            raise SettingError("parking", None, "a consumer without parking has nothing to replay")
        envelope, event_class = self._read(parked)

        async def admit(unit_of_work: UnitOfWork) -> Admission:
            await parking.reserve(unit_of_work, parked.number)
            return Admission.NEW

        async def conclude(unit_of_work: UnitOfWork) -> None:
            """After the handlers, remove the event and lock its key. New events of the key wait only from here on."""
            await parking.take(unit_of_work, parked.number, release_next=True)
            await failpoints.reach("replay.after_take")

        handling = Handling(self._handling, envelope, event_class, parked.attempts + 1, admit, conclude=conclude)
        with Guard(shared_lock_here(), asyncio.Event()) as guard:
            suspect = parked.reason == ParkReason.PROCESS_DIED
            await (guard.exclusive(parked.attempts) if suspect else guard.shared())
            await handling.run()

    def _read(self, parked: ParkedEvent) -> tuple[CloudEvent, type[DistributedEvent]]:
        stored_at = datetime.fromisoformat(parked.time)
        envelope = self._subscription.read(
            parked.headers, parked.data, fallback_id=parked.event_id, stored_at=stored_at
        )
        event_class = self._event_classes().get(envelope.type)
        if event_class is None:
            raise EventNotDecodableError(envelope.type, "no handler in this application handles this type and version")
        return envelope, event_class

    def _parts(self) -> ProcessingParts:
        due = asyncio.Event()
        failures = self._circuit_failures if self.parking is not None else None
        circuits = Circuits(self._mediator, failures, self._rng, self._log, changed=due.set)
        return ProcessingParts(
            group=self._subscription.group,
            classes=self._event_classes(),
            ordered=self._ordering == "key",
            handling=self._handling,
            lock=shared_lock_here(),
            inbox=self._inbox,
            parking=self.parking,
            retries=self._retries,
            fatal_errors=(*_FATAL, *self._fatal_errors),
            unknown_type_grace=self._unknown_type_grace,
            longest_wait=self._longest_wait,
            circuits=circuits,
            due=due,
            outage=DatabaseOutage(self._inbox, Backoff(0.1, 5.0, self._rng), Backoff(0.1, 5.0, self._rng), self._log),
            rng=self._rng,
            now=self._now,
            log=self._log,
            limited_log=RateLimitedLogger(self._log),
        )

    def _event_classes(self) -> Mapping[str, type[DistributedEvent]]:
        bindings = self._mediator.registry.handlers_of(DistributedEventHandler)
        return readable_types(cls for binding in bindings for cls in binding.messages)

    async def _receive(self, deliveries: Deliveries, queue: FairQueue[Delivery], parts: ProcessingParts) -> None:
        """Queue deliveries by their event types. When the consumer is stopped, hand back the waiting deliveries."""
        types = {wire: split_wire_type(wire)[0] for wire in parts.classes}
        try:
            while True:
                delivery = await deliveries.next()
                queue.put(types.get(delivery.event.type if delivery.event else "", ""), delivery)
        finally:
            for delivery in queue.clear():
                await delivery.nak(0)

    async def _hand_back_stuck(self, queue: FairQueue[Delivery], longest: int) -> None:
        """Hand back deliveries that wait behind hanging handlers, so that events of other types are delivered here.

        Before a delivery goes back, the inbox records that its event was not started. Without this record, the
        redelivered event would look like an event that killed this process. An event stays
        here if its handlers may have been started in an earlier delivery.
        """
        while True:
            await asyncio.sleep(_STUCK_CHECK_SECONDS)
            if len(self._handed_back) > _MOST_HANDED_BACK:  # most of these events have gone to other processes
                self._handed_back.clear()
            for event_type in queue.stuck(_STUCK_SECONDS):
                while (delivery := queue.remove_newest(event_type, longest, self._may_go_back)) is not None:
                    if not await self._hand_back(delivery):
                        queue.put(event_type, delivery)
                        break

    async def _hand_back(self, delivery: Delivery) -> bool:
        """Hand back a delivery that was not started. If the inbox cannot record this, return false."""
        identity = identity_of(self.group, delivery)
        try:
            await self._inbox.take_back(identity.consumer, identity.source, identity.event_id)
        except asyncio.CancelledError:  # the consumer is stopped, and only this task knows of the delivery
            await delivery.nak(0)
            raise
        except Exception as error:  # the delivery continues to wait here
            self._log.warning("delivery not handed back", error=type(error).__name__, reason=text_of(error))
            return False
        self._handed_back[delivery.subject, delivery.sequence] = delivery.attempt
        await delivery.nak(Backoff(*_BACK_SECONDS, self._rng).at(delivery.attempt - 1))
        return True

    def _may_go_back(self, delivery: Delivery) -> bool:
        """Return whether it is certain that the event was never started.

        This is certain in the first delivery, and when this process has handed back every earlier delivery.
        """
        before = self._handed_back.get((delivery.subject, delivery.sequence), 0)
        return delivery.attempt == before + 1

    async def _keep_here(self, deliveries: Iterable[Delivery]) -> None:
        """Keep the broker from redelivering events elsewhere while the events wait or are handled here."""
        while True:
            await asyncio.sleep(self._subscription.ack_wait / 3)
            for delivery in [*deliveries]:
                await delivery.in_progress()

    async def _work(self, queue: FairQueue[Delivery], parts: ProcessingParts) -> None:
        stopping = asyncio.Event()
        while True:
            event_type, delivery = await queue.take()
            self._handed_back.pop((delivery.subject, delivery.sequence), None)
            try:
                await drain(self._settle(parts, delivery, stopping), self._drain_timeout, stopping)
            except asyncio.CancelledError as error:
                if is_own_cancellation(error):
                    raise
                self._log.error("handler cancelled its own task", sequence=delivery.sequence, retry_in=_CANCELLED_PAUSE)
                await asyncio.sleep(_CANCELLED_PAUSE)
            finally:
                queue.done(event_type)

    async def _settle(self, parts: ProcessingParts, delivery: Delivery, stopping: asyncio.Event) -> None:
        async with alongside(self._keep_here([delivery])):
            await Processing(parts, delivery, stopping).settle()


def usual_concurrency(ordering: Ordering) -> int:
    """Return how many events a consumer handles at a time by default."""
    return _ORDERED_CONCURRENCY if ordering == "key" else 1


def _checked_ordering(ordering: Ordering, parking: Parking | None) -> Ordering:
    if ordering not in ("none", "key"):
        raise SettingError("ordering", ordering, "use 'none' or 'key'")
    if ordering == "key" and parking is None:
        raise SettingError("parking", None, "with ordering='key' a failing event would block its partition without end")
    return ordering


def _checked_errors(errors: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    given: tuple[object, ...] = tuple(errors)
    if not all(isinstance(error, type) and issubclass(error, Exception) for error in given):
        raise SettingError("fatal_errors", given, "give classes of exceptions")
    return tuple(errors)
