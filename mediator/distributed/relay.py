"""OutboxRelay: carries committed events from the outbox to the broker, for as long as it runs."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

import structlog

from mediator.distributed import failpoints
from mediator.distributed.bounds import check_counts, check_not_negative, check_positive
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outages import Outages
from mediator.distributed.outbox import Outbox, OutboxBatch
from mediator.distributed.parking import ParkReason
from mediator.distributed.propagation import incoming
from mediator.distributed.publisher import EventPublisher, PublishResult
from mediator.distributed.retries import Backoff
from mediator.distributed.shield import drain, is_own_cancellation
from mediator.errors import EventHeldBackError, EventRefusedError, PublisherUnavailableError

_CLEAN_BATCH = 5000
"""How many archived events one transaction deletes."""
_SHORTEST_PAUSE = 0.05
"""How long a relay that could do nothing waits, at least, unless it is woken: what is due may be locked, for instance."""


class OutboxRelay:
    """Publishes what is in the outbox, oldest first, and moves it to the archive once the broker has stored it.

    Any number of relays may run on one database, in one process or in many, and one process may run the relays of several
    databases. An outage of the broker or of the database loses nothing and is held against no event: the relay says so
    once, tries again with growing pauses (0.1 to 15 s), and catches up. When only the stream of one context is away, the
    other contexts go on. An event that the broker refuses for what it is, is set aside at once; what follows it under its
    partition key waits until it is replayed or discarded.

    Args:
        outbox: Where events wait.
        publisher: Where they go.
        batch_size: How many events are published at a time.
        poll_interval: How often to look for events of other processes, in seconds. Those of this process wake it.
        batch_timeout: How long the publisher may take for a batch, in seconds, if it knows no bound of its own. Another
            relay can have the events of a process that is frozen after 10 s.
        drain_timeout: How long a batch may take to end when the relay is stopped, in seconds.
        clean_interval: How often old events are deleted from the archive, in seconds.
        rng: For the jitter of pauses.
        clock: Monotonic time in seconds.

    Raises:
        SettingError: A number cannot work.
    """

    def __init__(
        self,
        outbox: Outbox,
        publisher: EventPublisher,
        *,
        batch_size: int = 500,
        poll_interval: float = 1.0,
        batch_timeout: float = 8.0,
        drain_timeout: float = 10.0,
        clean_interval: float = 60.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_counts(batch_size=batch_size)
        check_positive(poll_interval=poll_interval, batch_timeout=batch_timeout)
        check_not_negative(drain_timeout=drain_timeout, clean_interval=clean_interval)
        self._outbox = outbox
        self._publisher = publisher
        self._batch_size = batch_size
        self._poll_interval = poll_interval
        self._drain_timeout = drain_timeout
        self._clean_interval = clean_interval
        self._batch_timeout = batch_timeout
        rng = rng or random.Random()  # noqa: S311  (jitter, no secret)
        self._backoff = Backoff(0.1, 15.0, rng)
        self._outages = Outages(rng, clock)
        self._clock = clock
        self._cleaned = clock()
        self._trouble = ""
        self._broker_is_away = False
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(worker="relay")

    async def run(self) -> None:
        """Relay until cancelled; the batch at hand is then ended, within `drain_timeout`."""
        self._log.info("relay started")
        try:
            while True:
                pause = await self._drained_step()
                if self._trouble:
                    await self._wait_for_recovery()
                elif pause > 0:
                    await self._outbox.wait(pause)
        finally:
            self._log.info("relay stopped")

    async def _drained_step(self) -> float:
        try:
            return await drain(self._step(), self._drain_timeout)
        except asyncio.CancelledError as error:
            if is_own_cancellation(error):
                raise
            self._in_trouble(error)  # a publisher has cancelled its own task
            return self._poll_interval

    async def _wait_for_recovery(self) -> None:
        """Pause before the next try. What is committed meanwhile does not make the broker come back."""
        pause = self._backoff.next()
        if not self._broker_is_away:
            await asyncio.sleep(pause)
        elif await self._publisher.wait_for_recovery(pause):
            self._backoff.reset()

    async def _step(self) -> float:
        """Publish one batch, and return in how many seconds to look again, at the latest."""
        try:
            results, look_again = await self._relay_batch()
            await self._clean()
            pause = min(await self._timers()) if look_again is None else look_again
            return pause if _tells_something(results) else max(pause, min(_SHORTEST_PAUSE, self._poll_interval))
        except (Exception, asyncio.CancelledError) as error:  # settled: whatever happened, the events are still there
            if is_own_cancellation(error):
                raise
            self._in_trouble(error)
            return self._poll_interval

    async def _timers(self) -> list[float]:
        """When delayed events and contexts that were away have to be looked at, in seconds from now."""
        timers = [await self._outbox.due_in(), self._outages.next_try()]
        return [self._poll_interval, *(timer for timer in timers if timer is not None)]

    async def _relay_batch(self) -> tuple[Sequence[PublishResult], float | None]:
        """Publish one batch, and return in how many seconds there may be more; `None` when there is no more.

        While another relay has everything, what is due is that one's too: to look for it before would be in vain.
        """
        left_out = self._outages.contexts()
        async with self._outbox.claim(self._batch_size, without=left_out) as batch:
            results = await self._publish_batch(batch) if batch.events else ()
        trouble = self._outages.note(results)
        if trouble is not None:
            self._in_trouble(trouble)
        else:
            self._recovered(sum(result.error is None for result in results))
        if batch.look_again is None:
            self._outages.forget(left_out=left_out, results=results)
        return results, batch.look_again

    async def _publish_batch(self, batch: OutboxBatch) -> Sequence[PublishResult]:
        await failpoints.reach("relay.after_select")
        results = await self._publish(batch.events)
        await failpoints.reach("relay.after_publish")
        stored = [result.event.id for result in results if result.error is None]
        if stored:
            await failpoints.reach("relay.before_delete")
            await batch.settle(stored)
            await failpoints.reach("relay.after_delete")
        for result in results:
            if isinstance(result.error, EventRefusedError):
                await batch.park(result.event, ParkReason.REFUSED, result.error.reason)
                self._log_refusal(result.event, result.error)
        return results

    async def _publish(self, events: Sequence[CloudEvent]) -> Sequence[PublishResult]:
        try:
            async with asyncio.timeout(self._batch_timeout):
                return await self._publisher.publish(events)
        except TimeoutError as error:
            reason = f"the publisher did not end within {self._batch_timeout:g} s"
            raise PublisherUnavailableError(type(self._publisher).__name__, reason) from error

    def _log_refusal(self, event: CloudEvent, error: EventRefusedError) -> None:
        flow = incoming(event)[0].log_fields()
        flow["message_id"] = flow.pop("causation_id")  # of the message in whose handling it was added
        self._log.error("event refused", event_id=event.id, event_type=event.type, reason=error.reason, **flow)

    def _in_trouble(self, error: BaseException) -> None:
        kind = type(error).__name__
        if kind != self._trouble:
            self._log.error("relay waits", error=kind, reason=str(error))
        self._trouble = kind
        self._broker_is_away = isinstance(error, PublisherUnavailableError)

    def _recovered(self, stored: int) -> None:
        """Also without an event: the database answers again, and nothing is needed of the broker."""
        if self._trouble:
            self._log.info("relay goes on", after=self._trouble, events=stored)
        self._trouble = ""
        self._backoff.reset()

    async def _clean(self) -> None:
        if self._clock() - self._cleaned >= self._clean_interval:
            deleted = await self._outbox.clean(_CLEAN_BATCH)
            if deleted < _CLEAN_BATCH:  # else there is more, and the next step goes on with it
                self._cleaned = self._clock()


def _tells_something(results: Sequence[PublishResult]) -> bool:
    """Whether the broker has said something of an event, so that the next claim gives others."""
    return any(not isinstance(result.error, EventHeldBackError) for result in results)
