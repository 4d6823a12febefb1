"""OutboxRelay: publishes committed events from the outbox to the broker."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from mediator.distributed import failpoints
from mediator.distributed.backoff import Backoff
from mediator.distributed.callers import stated_by, trust_stream, vouched_context
from mediator.distributed.cleaning import SHORTEST_PAUSE, keep_clean
from mediator.distributed.cloudevents import CloudEvent, incoming
from mediator.distributed.outbox.outages import Outages
from mediator.distributed.outbox.port import Outbox, OutboxBatch
from mediator.distributed.outbox.publisher import EventPublisher, PublishResult
from mediator.distributed.parking import ParkReason
from mediator.distributed.shield import drain, is_own_cancellation
from mediator.errors import EventHeldBackError, EventRefusedError, PublisherUnavailableError
from mediator.logger import Logger
from mediator.printable import text_of
from mediator.settings import check_counts, check_not_negative, check_positive


class OutboxRelay:
    """Publishes the events in the outbox, oldest first, and archives each event once the broker has stored it.

    Any number of relays may run on one database, in one process or in many, and one process may run the relays of
    several databases. An outage of the broker or of the database loses no event, and is not counted as a failure of an
    event. The relay logs the outage once, and tries again with growing pauses (0.1 to 15 s). When only the stream of
    one domain is unavailable, the events of other domains are still published.

    An event that the broker refuses for its content is parked at once (see `Parking`). Later events of its partition
    key wait until the parked event is replayed or discarded. A separate task deletes old events, so a deletion that
    fails or hangs delays no event.

    Args:
        outbox: The outbox in which the events wait.
        publisher: Sends the events to the broker.
        batch_size: The number of events that are published at a time.
        poll_interval: How often the relay looks for events of other processes, in seconds. Events of this process wake
            the relay.
        batch_timeout: The longest time that the publisher may take for a batch, in seconds; less than 10 s. After 10 s,
            another relay can claim the events of a process that hangs.
        drain_timeout: How long the current batch may take after the relay is stopped, in seconds. After the batch, a
            running deletion of old events gets another `drain_timeout` seconds.
        clean_interval: The interval at which old events are deleted from the archive, in seconds.
        rng: The random number generator for the jitter of pauses.
        clock: Returns the monotonic time in seconds, for the pauses of single domains.

    Raises:
        SettingError: A number is out of range, or publisher and outbox have different application names.
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
        outbox.use_application(publisher.application)
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
        self._trouble = ""
        self._broker_unavailable = False
        self._log: Logger = Logger(worker="relay")

    async def run(self) -> None:
        """Publish events until cancelled. A cancellation gives the current batch `drain_timeout` seconds to end."""
        self._log.info("relay started")
        # A separate task deletes old events, so that a deletion can neither delay nor stop the relay.
        clean = keep_clean(self._outbox.clean, self._clean_interval, self._log, "archive not cleaned")
        cleaning = asyncio.create_task(clean, name="mediator outbox cleaning")
        try:
            while True:
                pause = await self._drained_step()
                if self._trouble:
                    await self._wait_for_recovery()
                elif pause > 0:
                    await self._outbox.wait(pause)
        finally:
            await self._stop(cleaning)
            self._log.info("relay stopped")

    async def _stop(self, cleaning: asyncio.Task[None]) -> None:
        """Cancel the deletion of old events. The relay stops even if the deletion does not react."""
        cleaning.cancel()
        _, unended = await asyncio.wait((cleaning,), timeout=self._drain_timeout)
        if unended:
            self._log.warning("cleaning not ended", seconds=self._drain_timeout)

    async def _drained_step(self) -> float:
        try:
            return await drain(self._step(), self._drain_timeout)
        except asyncio.CancelledError as error:
            if is_own_cancellation(error):
                raise
            self._in_trouble(error)  # a publisher has cancelled its own task
            return self._poll_interval

    async def _wait_for_recovery(self) -> None:
        """Pause before the next try. New events do not shorten the pause, because they do not end the outage."""
        pause = self._backoff.next()
        if not self._broker_unavailable:
            await asyncio.sleep(pause)
        elif await self._publisher.wait_for_recovery(pause):
            self._backoff.reset()
            self._outages.retry_suspects()

    async def _step(self) -> float:
        """Publish one batch, and return the longest time to wait before the next batch, in seconds."""
        try:
            results, look_again = await self._relay_batch()
            # `None` means that no event can be claimed now: the relay sleeps until the first timer.
            pause = min(await self._timers()) if look_again is None else look_again
            return pause if _may_differ(results) else max(pause, min(SHORTEST_PAUSE, self._poll_interval))
        except (Exception, asyncio.CancelledError) as error:  # `_in_trouble` logs the error; no event is lost
            if is_own_cancellation(error):
                raise
            self._in_trouble(error)
            return self._poll_interval

    async def _timers(self) -> list[float]:
        """Return the seconds until the next poll, the next delayed event and the next try of a domain."""
        timers = [await self._outbox.due_in(), self._outages.next_try()]
        return [self._poll_interval, *(timer for timer in timers if timer is not None)]

    async def _relay_batch(self) -> tuple[Sequence[PublishResult], float | None]:
        """Publish one batch. Return its results and its `look_again`: the seconds until the next claim, or `None`."""
        left_out = self._outages.domains()
        async with self._outbox.claim(self._batch_size, without=left_out) as batch:
            results = await self._publish_batch(batch) if batch.events else ()
        if not results and self._outages.retry_suspects():
            # Only suspected domains (see `Outages`) have events: try them, to learn whether the broker answers.
            return await self._relay_batch()
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
        except TimeoutError:
            reason = f"the publisher did not end within {self._batch_timeout:g} s"
            error = PublisherUnavailableError(type(self._publisher).__name__, reason)
            return [PublishResult(event, error) for event in events]

    def _log_refusal(self, event: CloudEvent, error: EventRefusedError) -> None:
        flow = vouched_context(incoming(event)[0], stated_by(event), trust_stream).log_fields()
        flow["message_id"] = flow.pop("causation_id")  # the message whose handling added the event
        self._log.error("event refused", event_id=event.id, event_type=event.type, reason=error.reason, **flow)

    def _in_trouble(self, error: BaseException) -> None:
        kind = type(error).__name__
        if kind != self._trouble:
            self._log.error("relay waits", error=kind, reason=text_of(error))
        self._trouble = kind
        self._broker_unavailable = isinstance(error, PublisherUnavailableError)

    def _recovered(self, stored: int) -> None:
        """Log the end of an outage. If no event waits, the outage counts as ended once the database answers."""
        if self._trouble:
            self._log.info("relay goes on", after=self._trouble, events=stored)
        self._trouble = ""
        self._backoff.reset()


def _may_differ(results: Sequence[PublishResult]) -> bool:
    """Return false if every event was held back, because the next claim would return the same events."""
    return any(not isinstance(result.error, EventHeldBackError) for result in results)
