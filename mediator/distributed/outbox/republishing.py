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
"""Errors that stay, however long the run waits."""


@dataclass(frozen=True, slots=True)
class Republished:
    """The result of one batch.

    Attributes:
        last: The sequence of the batch's last event. A later run with `after=last` continues behind this event.
        stored: The number of events that the broker has stored now.
        duplicates: The number of events whose ids the broker already knew. The streams may no longer hold these events.
        refused: The errors of the events that the broker refuses for their content.
        gone: The number of events that were deleted from the archive before they could be read.
    """

    last: int
    stored: int
    duplicates: int
    refused: Sequence[EventRefusedError]
    gone: int


class Republishing:
    """Publishes the events of one archive again. The archive is not changed.

    Events are published in the order of their sequences, so the events of each key stay in order. A batch ends before
    the next batch begins, so an interrupted run can continue after its last batch. Publishing events twice is safe,
    because the events keep their ids: the stream drops events whose ids it knows, and the inbox of a subscriber ignores
    events that have taken effect.

    Relays may run at the same time. They publish newer events, which may arrive before the republished events.

    Args:
        contents: The archive.
        publisher: Sends the events to the broker.
        throttle: Limits the rate; `None` for no limit.
        patience: How long a batch may wait for an unavailable broker before the run fails, in seconds.
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
        """The number of events to publish at a time."""
        return self._throttle.batch

    async def run(self, which: OutboxFilter, /, *, after: int = 0) -> AsyncGenerator[Republished]:
        """Publish the matching events with sequences above `after`, and yield a result after each batch.

        Raises:
            PublisherUnavailableError: The broker was unavailable for longer than `patience`. The yielded batches are
                complete.
        """
        wanted = replace(which, place="archived")
        while page := await self._contents.find(wanted, after=after, limit=self.batch):
            after = page[-1].sequence
            yield await self.publish(page)

    async def publish(self, page: Sequence[OutboxRecord], /, *, mark: str = "") -> Republished:
        """Publish one batch of archived events.

        Args:
            page: The events, in the order of their sequences.
            mark: Give a text only if the caller has read the streams and the events are missing there. If the broker
                still knows the id of an event, the event is sent again with this mark (see `EventPublisher.refill`).

        Raises:
            PublisherUnavailableError: The broker was unavailable for longer than `patience`.
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
        """Wait until the broker may be available again, unless `publish` can send the failed events again at once.

        There is nothing to wait for if all failed events were only held back behind refused events. There is nothing to
        wait for either if the broker dropped an event as a duplicate: `publish` then sends the events with the mark.

        Raises:
            PublisherUnavailableError: The deadline is over, or the error would stay however long the run waits.
        """
        errors = [result.error for result in failed if not isinstance(result.error, EventHeldBackError)]
        if not errors or any(isinstance(error, DuplicateDroppedError) for error in errors):
            return
        for error in errors:
            if error is not None and (self._clock() >= deadline or isinstance(error, _LASTING)):
                raise error
        await self._publisher.wait_for_recovery(_RECOVERY_SECONDS)
