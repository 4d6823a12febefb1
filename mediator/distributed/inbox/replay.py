"""Replay: handles or publishes parked events again, in order per key. A failed event stops the replay of its key."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mediator.distributed.inbox.consumer import EventConsumer
from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, ParkReason
from mediator.distributed.shield import is_own_cancellation
from mediator.distributed.throttle import Throttle
from mediator.errors import ParkedEventBlockedError, ParkedEventNotFoundError, not_found
from mediator.logger import Logger
from mediator.printable import traceback_of

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of replaying one parked event.

    Attributes:
        event: The event as it was parked, without its body.
        outcome: `replayed`; `failed` (the event stays parked); `blocked` (an earlier event of its key is parked); or
            `ready` (in a dry run: the event would be tried).
        error: Why the replay failed, or what blocks the event.
    """

    event: ParkedEvent
    outcome: Literal["replayed", "failed", "blocked", "ready"]
    error: BaseException | None = None


class ParkedReplay:
    """Replays the events in one parking (the dead letter queue).

    An event of direction `in` is handled by the handlers and behaviors of its consumer, in a transaction that also
    removes the event from the parking. An event of direction `out` is put back into the outbox, under its old sequence.
    When the first event of a key succeeds, the events that were parked only because of that event are replayed too,
    even if the filter does not select them. When an event fails, no other event of its key is tried.

    Args:
        parking: Keeps the parked events.
        consumers: The consumers whose parked events can be replayed.
        rate: The largest number of events that are tried per second; `None` for no limit.
        clock: Returns the monotonic time in seconds.
        sleep: Waits for the given number of seconds.

    Raises:
        SettingError: The rate is not positive.
    """

    def __init__(
        self,
        parking: Parking,
        consumers: Sequence[EventConsumer],
        *,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._parking = parking
        self._consumers = {consumer.group: consumer for consumer in consumers}
        self._throttle = Throttle(rate, clock=clock, sleep=sleep)
        self._log: Logger = Logger()

    async def run(self, which: ParkedFilter, /, *, dry_run: bool = False) -> AsyncIterator[Replayed]:
        """Replay the matching events in the order of their numbers, and yield each result at once.

        If the iterator is closed or cancelled while an event is being handled, the handling of that event is rolled
        back.
        """
        run = _Run()
        last = 0
        while page := await self._parking.find(which, after=last, limit=_PAGE, bodies=False):
            for event in page:
                last = event.number
                steps = self._preview(event, run) if dry_run else self._in_order(event, run)
                async for result in steps:
                    run.done.add(result.event.number)
                    yield result

    async def _in_order(self, event: ParkedEvent, run: "_Run") -> AsyncIterator[Replayed]:
        """Replay an event and, if it succeeds, the events that were parked only because of that event."""
        following: ParkedEvent | None = event if event.number not in run.done else None
        while following is not None:
            blocker = run.stopped.get(event.ordering_key)
            if blocker is not None:
                yield Replayed(following, "blocked", ParkedEventBlockedError(following.number, blocker))
                return
            result = await self._one(following)
            if result is None:
                return
            yield result
            if result.outcome != "replayed":
                error = result.error
                blocker = error.head if isinstance(error, ParkedEventBlockedError) else following.number
                run.stopped[event.ordering_key] = blocker
                return
            head = await self._parking.head(following)
            following = head if head is not None and head.reason == ParkReason.KEY_PARKED else None

    async def _preview(self, event: ParkedEvent, run: "_Run") -> AsyncIterator[Replayed]:
        """Yield the results that `_in_order` would yield if every event succeeded."""
        if event.number in run.done:
            return
        head = await self._parking.head(event)
        if head is not None and head.number < event.number and event.ordering_key not in run.ready:
            yield Replayed(event, "blocked", ParkedEventBlockedError(event.number, head.number))
            return
        run.ready.add(event.ordering_key)
        yield Replayed(event, "ready")
        last = event.number
        direction, consumer, key = event.direction, event.consumer, event.partition_key if event.ordered else None
        same_key = ParkedFilter(direction=direction, consumer=consumer, key=key)
        while key is not None and (page := await self._parking.find(same_key, after=last, limit=_PAGE, bodies=False)):
            for follower in page:
                if follower.reason != ParkReason.KEY_PARKED:
                    return
                last = follower.number
                yield Replayed(follower, "ready")

    async def _one(self, event: ParkedEvent) -> Replayed | None:
        await self._throttle.wait(1)
        try:
            await self._replay(event)
        except ParkedEventNotFoundError:  # replayed or discarded by another process
            return None
        except ParkedEventBlockedError as error:
            return Replayed(event, "blocked", error)
        except (Exception, asyncio.CancelledError) as error:  # given to the caller, and stored with the event
            if is_own_cancellation(error):
                raise
            await self._parking.note_failure(event.number, error)
            self._log.error("replay failed", error=type(error).__name__, stack=traceback_of(error), **_fields(event))
            return Replayed(event, "failed", error)
        self._log.info("event replayed", **_fields(event))
        return Replayed(event, "replayed")

    async def _replay(self, event: ParkedEvent) -> None:
        if event.direction == "out":
            await self._parking.release(event.number)
            return
        consumer = self._consumers.get(event.consumer)
        if consumer is None:
            raise not_found.no_consumer_group(event.consumer, sorted(self._consumers))
        await consumer.replay(await self._parking.get(event.number))


@dataclass(slots=True)
class _Run:
    """The state of one run.

    Attributes:
        done: The numbers of the events that were yielded.
        stopped: For each ordering key whose replay has stopped, the number of the event that stopped the replay.
        ready: In a dry run, the ordering keys whose events would be tried.
    """

    done: set[int] = field(default_factory=set[int])
    stopped: dict[tuple[str, str, str | int], int] = field(default_factory=dict[tuple[str, str, str | int], int])
    ready: set[tuple[str, str, str | int]] = field(default_factory=set[tuple[str, str, str | int]])


def _fields(event: ParkedEvent) -> dict[str, object]:
    return {"number": event.number, "direction": event.direction, **event.log_fields()}
