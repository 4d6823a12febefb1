"""Republishing: sends archived events to the broker again, under the same ids and subjects, in order per key."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from mediator.distributed.outbox.contents import OutboxContents, OutboxFilter, OutboxRecord
from mediator.distributed.outbox.publisher import EventPublisher, PublishResult
from mediator.distributed.throttle import Throttle
from mediator.errors import (
    DuplicateDroppedError,
    EventHeldBackError,
    EventRefusedError,
    PublisherUnavailableError,
    StreamMismatchError,
    StreamNotFoundError,
)
from mediator.logger import Logger
from mediator.settings import check_not_negative

_RECOVERY_SECONDS = 1.0
_UNSENT = (PublisherUnavailableError, EventHeldBackError)
_LASTING = (StreamMismatchError, StreamNotFoundError)
"""Errors that do not go away by waiting."""


@dataclass(frozen=True, slots=True)
class Republished:
    """The result of one batch.

    Attributes:
        last: The sequence of its last event. A run that goes on from here takes it as `after`.
        stored: How many events of the batch were new to the broker, which has stored them.
        duplicates: How many events the broker knows by their ids. It does not say whether it still holds them.
        refused: The errors of the events that the broker refuses for their content.
        gone: How many events the archive had deleted before they could be read.
    """

    last: int
    stored: int
    duplicates: int
    refused: Sequence[EventRefusedError]
    gone: int


class Republishing:
    """Publishes the events of one archive again. The archive is not changed.

    Events go out in the order of their sequences, so that the events of each key stay in order. A batch is done before
    the next one begins, so that an interrupted run can go on after its last batch. Starting further back does no harm,
    because the ids are the same: the stream drops events that it knows, and the inbox of a subscriber drops events that
    took effect.

    Relays may run meanwhile. The events that they publish are younger than the republished ones, and may come before
    them.

    Args:
        contents: The archive.
        publisher: Sends its events.
        throttle: Limits the rate; `None` for no limit.
        patience: How long the broker may be away, in seconds, before the run gives up.
        clock: Returns the monotonic time in seconds.
    """

    def __init__(
        self,
        contents: OutboxContents,
        publisher: EventPublisher,
        *,
        throttle: Throttle | None = None,
        patience: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_not_negative(patience=patience)
        self._contents = contents
        self._publisher = publisher
        self._throttle = throttle or Throttle(None)
        self._patience = patience
        self._clock = clock
        self._log: Logger = Logger()

    @property
    def batch(self) -> int:
        """How many events to publish at a time."""
        return self._throttle.batch

    async def run(self, which: OutboxFilter, /, *, after: int = 0) -> AsyncGenerator[Republished]:
        """Publish the matching events with sequences above `after`, and yield the result of each batch once it is done.

        Raises:
            PublisherUnavailableError: The broker was away for longer than the patience. The yielded batches are done.
        """
        wanted = replace(which, place="archived")
        while page := await self._contents.find(wanted, after=after, limit=self.batch):
            after = page[-1].sequence
            yield await self.publish(page)

    async def publish(self, page: Sequence[OutboxRecord], /, *, mark: str = "") -> Republished:
        """Publish one batch of archived events.

        Args:
            page: The events, in the order of their sequences.
            mark: A text to give only when the streams were read and do not hold these events. An event whose id the
                broker nevertheless knows is then published with this text in its deduplication id, so that the broker
                takes it (see `EventPublisher.refill`).

        Raises:
            PublisherUnavailableError: The broker was away for longer than the patience.
        """
        await self._throttle.wait(len(page))
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
        """Wait for the broker to recover, if the failed events can be sent only then.

        They can be sent at once when all of them were only held back behind other events, or when the broker dropped
        one of them as a duplicate.
        """
        errors = [result.error for result in failed if not isinstance(result.error, EventHeldBackError)]
        if not errors or any(isinstance(error, DuplicateDroppedError) for error in errors):
            return
        for error in errors:
            if error is not None and (self._clock() >= deadline or isinstance(error, _LASTING)):
                raise error
        await self._publisher.wait_for_recovery(_RECOVERY_SECONDS)
