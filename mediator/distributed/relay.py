"""OutboxRelay: carries committed events from the outbox to the broker, for as long as it runs."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

import structlog

from mediator.distributed import failpoints
from mediator.distributed.outbox import Outbox
from mediator.distributed.propagation import incoming
from mediator.distributed.publisher import EventPublisher, PublishResult
from mediator.distributed.retries import Backoff
from mediator.distributed.shield import drain, is_being_cancelled
from mediator.errors import EventRefusedError


class OutboxRelay:
    """Publishes what is in the outbox, oldest first, and moves it to the archive once the broker has stored it.

    Any number of relays may run on one database. An outage of the broker or of the database costs no attempt and loses
    nothing: the relay says so once, tries again with growing pauses, and catches up.

    Args:
        outbox: Where events wait.
        publisher: Where they go.
        batch_size: How many events are published at a time.
        poll_interval: How often to look for events of other processes, in seconds. Those of this process wake it.
        drain_timeout: How long a batch may take to end when the relay is stopped, in seconds.
        clean_interval: How often old events are deleted from the archive, in seconds.
        rng: For the jitter of pauses.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        publisher: EventPublisher,
        *,
        batch_size: int = 500,
        poll_interval: float = 1.0,
        drain_timeout: float = 10.0,
        clean_interval: float = 60.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._batch_size = batch_size
        self._poll_interval = poll_interval
        self._drain_timeout = drain_timeout
        self._clean_interval = clean_interval
        self._backoff = Backoff(0.1, 15.0, rng or random.Random())  # noqa: S311  (jitter, no secret)
        self._clock = clock
        self._cleaned = clock()
        self._refused: set[str] = set()
        self._trouble = ""
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(worker="relay")

    async def run(self) -> None:
        """Relay until cancelled; the batch at hand is then ended, within `drain_timeout`."""
        self._log.info("relay started")
        try:
            while True:
                more = await drain(self._step(), self._drain_timeout)
                if not more:
                    await self._outbox.wait(self._backoff.next() if self._trouble else self._poll_interval)
        finally:
            self._log.info("relay stopped")

    async def _step(self) -> bool:
        """Publish one batch; whether another one is likely to be waiting."""
        try:
            more = await self._relay_batch()
            await self._clean()
        except (Exception, asyncio.CancelledError) as error:  # settled: whatever happened, the events are still there
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            self._in_trouble(error)
            return False
        return more

    async def _relay_batch(self) -> bool:
        async with self._outbox.claim(self._batch_size, without=self._refused) as batch:
            if not batch.events:
                self._recovered_when_idle()
                return False
            await failpoints.reach("relay.after_select")
            results = await self._publisher.publish(batch.events)
            await failpoints.reach("relay.after_publish")
            stored = [result.event.id for result in results if result.error is None]
            if stored:
                await failpoints.reach("relay.before_delete")
                await batch.settle(stored)
                await failpoints.reach("relay.after_delete")
            self._note(results, len(stored))
            return bool(stored) and len(batch.events) == self._batch_size

    def _note(self, results: Sequence[PublishResult], stored: int) -> None:
        unavailable: Exception | None = None
        for result in results:
            if isinstance(result.error, EventRefusedError):
                self._refuse(result, result.error)
            elif result.error is not None:
                unavailable = unavailable or result.error
        if unavailable is not None:
            self._in_trouble(unavailable)
        elif stored:
            self._recovered(stored)

    def _refuse(self, result: PublishResult, error: EventRefusedError) -> None:
        """Leave a poison event, and what follows it under its key, in the outbox; everything else goes on."""
        self._refused.add(result.event.partitionkey or result.event.id)
        event = result.event
        flow = incoming(event)[0].log_fields()
        flow["message_id"] = flow.pop("causation_id")  # of the message in whose handling it was added
        self._log.error("event refused", event_id=event.id, event_type=event.type, reason=error.reason, **flow)

    def _in_trouble(self, error: BaseException) -> None:
        kind = type(error).__name__
        if kind != self._trouble:
            self._log.error("relay waits", error=kind, reason=str(error))
        self._trouble = kind

    def _recovered_when_idle(self) -> None:
        """An empty batch shows that the database answers again; of the broker it says nothing, and needs nothing."""
        if self._trouble:
            self._recovered(0)

    def _recovered(self, stored: int) -> None:
        if self._trouble:
            self._log.info("relay goes on", after=self._trouble, events=stored)
        self._trouble = ""
        self._backoff.reset()

    async def _clean(self) -> None:
        if self._clock() - self._cleaned >= self._clean_interval:
            self._cleaned = self._clock()
            await self._outbox.clean(5000)
