"""Republishing: archived events go to the broker again, under the same ids and subjects, in order per key."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from mediator.distributed.outbox_contents import OutboxContents, OutboxFilter, OutboxRecord
from mediator.distributed.pace import Pace
from mediator.distributed.publisher import EventPublisher, PublishResult
from mediator.errors import (
    DuplicateDroppedError,
    EventHeldBackError,
    EventRefusedError,
    PublisherUnavailableError,
    StreamMismatchError,
    StreamNotFoundError,
)

_RECOVERY_SECONDS = 1.0
_UNSENT = (PublisherUnavailableError, EventHeldBackError)
_LASTING = (StreamMismatchError, StreamNotFoundError)
"""Errors that waiting does not mend."""


@dataclass(frozen=True, slots=True)
class Republished:
    """What became of one batch.

    Attributes:
        last: The sequence of its last event: `after` of a run that goes on from here.
        stored: How many events the broker has stored now.
        duplicates: How many it said that it knows. It does not say whether it still holds them.
        refused: Those that it refuses for what they are.
        gone: How many the archive had deleted before they could be read.
    """

    last: int
    stored: int
    duplicates: int
    refused: Sequence[EventRefusedError]
    gone: int


class Republishing:
    """Publishes what one archive holds. The archive is left as it is.

    Events go out in the order of their sequences, which is the order of each key. A batch is done before the next one
    begins, so that a run which was interrupted can go on behind the last batch; going back further does no harm, because
    the ids are the same: the stream drops those that it knows, and the inbox of a subscriber those that took effect.

    Relays may run meanwhile. What they publish is younger than what is republished, and may come before it.

    Args:
        contents: The archive.
        publisher: Where its events go.
        pace: How fast.
        patience: How long the broker may be away, in seconds, before the run gives up.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        contents: OutboxContents,
        publisher: EventPublisher,
        *,
        pace: Pace | None = None,
        patience: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._contents = contents
        self._publisher = publisher
        self._pace = pace or Pace(None)
        self._patience = patience
        self._clock = clock
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator")

    @property
    def batch(self) -> int:
        """How many events to publish at a time."""
        return self._pace.batch

    async def run(self, which: OutboxFilter, /, *, after: int = 0) -> AsyncGenerator[Republished]:
        """Publish what fits and has a higher sequence than `after`, and tell of each batch as it is done.

        Raises:
            PublisherUnavailableError: The broker was away for longer than the patience. The batches told of are done.
        """
        wanted = replace(which, place="archived")
        while page := await self._contents.find(wanted, after=after, limit=self.batch):
            after = page[-1].sequence
            yield await self.publish(page)

    async def publish(self, page: Sequence[OutboxRecord], /, *, mark: str = "") -> Republished:
        """Publish one batch of archived events.

        Args:
            page: In the order of their sequences.
            mark: Says that the broker was read not to hold them. Those that it nevertheless knows are published so that
                it takes them, with this text in what it knows them by (see `EventPublisher.refill`).

        Raises:
            PublisherUnavailableError: The broker was away for longer than the patience.
        """
        await self._pace.wait(len(page))
        events = await self._contents.archived([record.sequence for record in page])
        gone = len(page) - len(events)
        open_events, results, used, deadline = events, list[PublishResult](), "", self._clock() + self._patience
        while open_events:
            if mark:
                outcome = await self._publisher.refill(open_events, mark=used)
                used = mark
            else:
                outcome = await self._publisher.publish(open_events)
            failed = [result for result in outcome if isinstance(result.error, _UNSENT)]
            results += [result for result in outcome if not isinstance(result.error, _UNSENT)]
            open_events = [result.event for result in failed]
            await self._check(failed, deadline)
        refused = [result.error for result in results if isinstance(result.error, EventRefusedError)]
        for error in refused:
            self._log.error("event refused", event_id=error.event_id, event_type=error.event_type, reason=error.reason)
        duplicates = sum(result.duplicate and result.error is None for result in results)
        return Republished(page[-1].sequence, len(results) - len(refused) - duplicates, duplicates, refused, gone)

    async def _check(self, failed: Sequence[PublishResult], deadline: float) -> None:
        """Wait for the broker, if something failed for any other reason than that it remembers or refuses an event."""
        errors = [result.error for result in failed if not isinstance(result.error, EventHeldBackError)]
        if not errors or any(isinstance(error, DuplicateDroppedError) for error in errors):
            return
        for error in errors:
            if error is not None and (self._clock() >= deadline or isinstance(error, _LASTING)):
                raise error
        await self._publisher.wait_for_recovery(_RECOVERY_SECONDS)
