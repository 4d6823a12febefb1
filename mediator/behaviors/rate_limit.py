"""RateLimitBehavior: how many messages are let through in a period of time."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from math import isfinite
from typing import Any, ClassVar, TypeVar, overload

from mediator.behaviors.limiting import LimitBehavior
from mediator.context import MessageContext
from mediator.errors import RateLimitedError, SettingError
from mediator.messages import Request

Message = TypeVar("Message", bound=Request[Any])
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

_LOOKED_AT = 2
"""How many keys are looked at for each message: more than one may add, so that idle ones do not pile up."""


class _Bucket:
    """The room of one key. Only the time at which it is full again is known; the rest follows from that."""

    __slots__ = ("full_at", "turn", "waiting")

    def __init__(self) -> None:
        self.full_at = float("-inf")
        self.waiting = 0
        self.turn = asyncio.Lock()  # hands over to the one that came first, past those that gave up


class RateLimitBehavior(LimitBehavior[Message]):
    """Lets through `limit` messages in so many seconds, and a burst at once: a token bucket.

    In any t seconds, no more than `burst + t * limit / seconds` are let through. Who waits is let through in the order of
    arrival, and who gives up takes nothing. Refused at once is what would have to wait for longer than `max_wait`. What a
    message dispatches while it is handled counts with it.

    Make it a `Singleton`: it knows what it has let through. Without a type argument it applies to requests; derive a class
    for others, `class MailLimit(RateLimitBehavior[SendMail])`. Where several apply to a message, all of them hold. Place
    it inside authorization, so that strangers use nothing up, and outside the unit of work. Outside retry a message counts
    once, inside it each attempt does.

    Args:
        limit: How many, on average.
        seconds: In how many seconds.
        burst: How many at once after a quiet time; `limit` when not given. With 1 they are spread evenly.
        key: Messages with different keys have limits of their own: `lambda message, context: context.tenant`. A key is
            forgotten once it has all of its room again.
        max_wait: How long a message may wait, in seconds; 0 refuses at once.
        clock: Monotonic time in seconds.
        sleep: Waits for a number of seconds.
    """

    role: ClassVar[str | None] = "rate limit"

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(
        self: "RateLimitBehavior[Request[Any]]",
        *,
        limit: int,
        seconds: float = ...,
        burst: int | None = ...,
        key: Callable[[Request[Any], MessageContext], Hashable] | None = ...,
        max_wait: float = ...,
        clock: Clock = ...,
        sleep: Sleep = ...,
    ) -> None: ...

    @overload
    def __init__(  # classes that narrow the message use it
        self,
        *,
        limit: int,
        seconds: float = ...,
        burst: int | None = ...,
        key: Callable[[Message, MessageContext], Hashable] | None = ...,  # pyright: ignore[reportInvalidTypeVarUse]
        max_wait: float = ...,
        clock: Clock = ...,
        sleep: Sleep = ...,
    ) -> None: ...

    def __init__(
        self,
        *,
        limit: int,
        seconds: float = 1.0,
        burst: int | None = None,
        key: Callable[[Any, MessageContext], Hashable] | None = None,
        max_wait: float = 0.0,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(key, max_wait)
        if limit < 1:
            raise SettingError("limit", limit, "it lets at least one through.")
        if not (isfinite(seconds) and seconds > 0):
            raise SettingError("seconds", seconds, "a period is longer than nothing, and has an end.")
        if burst is not None and burst < 1:
            raise SettingError("burst", burst, "at least one comes at once.")
        self._limit = limit
        self._seconds = seconds
        self._interval = seconds / limit
        self._burst = limit if burst is None else burst
        self._clock = clock
        self._sleep = sleep
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    @property
    def remembered(self) -> int:
        """How many keys are known at the moment."""
        return len(self._buckets)

    async def _enter(self, message: Message, key: Hashable, max_wait: float, /) -> None:
        """Take one.

        Raises:
            RateLimitedError: It would have to wait for longer than it may.
        """
        self._forget_idle()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket()
        wait = self._wait(bucket, bucket.waiting + 1)
        if wait > max_wait:
            raise RateLimitedError(message, self._limit, self._seconds, wait, key)
        if wait > 0 or bucket.waiting:
            await self._wait_in_turn(bucket)
        else:
            self._take(bucket)

    async def _wait_in_turn(self, bucket: _Bucket) -> None:
        bucket.waiting += 1
        try:
            async with bucket.turn:
                while (wait := self._wait(bucket, 1)) > 0:
                    await self._sleep(wait)
                self._take(bucket)
        finally:
            bucket.waiting -= 1

    def _wait(self, bucket: _Bucket, place: int) -> float:
        """The seconds until so many can be taken; 0 or less when they can be taken now."""
        now = self._clock()
        wait = max(bucket.full_at, now) - now + (place - self._burst) * self._interval
        return round(wait, 9)  # what is left by rounding is no reason to refuse whoever comes back in time

    def _take(self, bucket: _Bucket) -> None:
        bucket.full_at = max(bucket.full_at, self._clock()) + self._interval

    def _forget_idle(self) -> None:
        """Look at the keys that were not looked at for longest: a full bucket is as good as none."""
        now = self._clock()
        for key in [key for _, key in zip(range(_LOOKED_AT), self._buckets, strict=False)]:
            bucket = self._buckets[key]
            if bucket.waiting or bucket.full_at > now:
                self._buckets.move_to_end(key)
            else:
                del self._buckets[key]
