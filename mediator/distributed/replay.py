"""Replay: runs parked events again, those of one key in order, until one of that key fails."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from mediator.distributed.consumer import EventConsumer
from mediator.distributed.pace import Pace
from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, ParkReason
from mediator.distributed.shield import is_own_cancellation
from mediator.errors import (
    ConsumerGroupNotFoundError,
    ParkedEventBlockedError,
    ParkedEventNotFoundError,
)
from mediator.tracebacks import traceback_of

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one parked event.

    Attributes:
        event: As it was parked.
        outcome: `replayed`; `failed`, and parked as before; `blocked` by an earlier event of its key; or `ready`, in a dry
            run: it would be tried.
        error: Why it failed, or what blocks it.
    """

    event: ParkedEvent
    outcome: Literal["replayed", "failed", "blocked", "ready"]
    error: BaseException | None = None


class ParkedReplay:
    """Replays what is in one parking.

    An event that came in goes through the handlers and behaviors of its consumer, in a transaction that also removes it
    from the parking. One that was to go out goes back into the outbox, at its old place. When the first event of a key
    succeeds, those that were parked only because they came behind it follow, whether the filter names them or not. When
    one fails, no other of its key is tried.

    Args:
        parking: Where they are.
        consumers: Those that may have parked there.
        rate: How many events are tried in a second, at most; `None` for no limit.
        clock: Monotonic time in seconds.
        sleep: Waits for some seconds.

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
        self._pace = Pace(rate, clock=clock, sleep=sleep)
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator")

    async def run(self, which: ParkedFilter, /, *, dry_run: bool = False) -> AsyncIterator[Replayed]:
        """Replay what fits, in the order of the numbers, and tell of each event as it is done.

        Closing the iterator, or cancelling it, ends the run between two events, or rolls the current one back.
        """
        run = _Run()
        last = 0
        while page := await self._parking.find(which, after=last, limit=_PAGE):
            for event in page:
                last = event.number
                steps = self._preview(event, run) if dry_run else self._lane(event, run)
                async for result in steps:
                    run.done.add(result.event.number)
                    yield result

    async def _lane(self, event: ParkedEvent, run: "_Run") -> AsyncIterator[Replayed]:
        """One event, and when it goes well those that were parked only for coming behind it."""
        following: ParkedEvent | None = event if event.number not in run.done else None
        while following is not None:
            blocker = run.stopped.get(event.lane)
            if blocker is not None:
                yield Replayed(following, "blocked", ParkedEventBlockedError(following.number, blocker))
                return
            result = await self._one(following)
            if result is not None:
                yield result
            if result is None or result.outcome != "replayed":
                run.stop(event.lane, result)
                return
            head = await self._parking.head(following)
            following = head if head is not None and head.reason == ParkReason.KEY_PARKED else None

    async def _preview(self, event: ParkedEvent, run: "_Run") -> AsyncIterator[Replayed]:
        """What `_lane` would do, if everything went well."""
        if event.number in run.done:
            return
        head = await self._parking.head(event)
        if head is not None and head.number < event.number and event.lane not in run.ready:
            yield Replayed(event, "blocked", ParkedEventBlockedError(event.number, head.number))
            return
        run.ready.add(event.lane)
        yield Replayed(event, "ready")
        last = event.number
        direction, consumer, key = event.direction, event.consumer, event.partition_key
        lane = ParkedFilter(direction=direction, consumer=consumer, key=key)
        while key is not None and (page := await self._parking.find(lane, after=last, limit=_PAGE)):
            for follower in page:
                if follower.reason != ParkReason.KEY_PARKED:
                    return
                last = follower.number
                yield Replayed(follower, "ready")

    async def _one(self, event: ParkedEvent) -> Replayed | None:
        await self._pace.wait(1)
        try:
            await self._replay(event)
        except ParkedEventNotFoundError:  # somebody else has replayed or discarded it
            return None
        except ParkedEventBlockedError as error:
            return Replayed(event, "blocked", error)
        except (Exception, asyncio.CancelledError) as error:  # told to the caller, and kept with the event
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
            raise ConsumerGroupNotFoundError(event.consumer, sorted(self._consumers))
        await consumer.replay(event)


class _Run:
    """What one run has done: the events it told of, the lanes that stopped and by which event, those that are free."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.stopped: dict[tuple[str, str, str], int] = {}
        self.ready: set[tuple[str, str, str]] = set()

    def stop(self, lane: tuple[str, str, str], result: Replayed | None) -> None:
        if result is None:
            return
        error = result.error
        self.stopped[lane] = error.head if isinstance(error, ParkedEventBlockedError) else result.event.number


def _fields(event: ParkedEvent) -> dict[str, object]:
    return {"number": event.number, "direction": event.direction, **event.log_fields()}
