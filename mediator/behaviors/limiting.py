"""Behaviors that limit how many messages are handled in a period of time, or at the same time (a bulkhead)."""

import asyncio
import time
from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

from mediator.context import MessageContext
from mediator.errors import ConcurrencyLimitedError, RateLimitedError, SettingError
from mediator.messages import Request
from mediator.owner import Owner
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Frame, current_context, current_frame
from mediator.settings import check_counts, is_count, is_pause, is_seconds

Message = TypeVar("Message", bound=Request[Any])


@dataclass(frozen=True, slots=True)
class StrangersKey:
    """The limit key of a message from an unverified caller. It never equals the key of a verified caller."""

    key: Hashable


class LimitBehavior(PipelineBehavior[Message, Any]):
    """Lets a message through if its limit is not reached.

    A message that is dispatched inside a message of the same limit does not count. If it counted, outer messages could
    hold all slots while their inner messages wait forever. If the limit is reached inside a running transaction, the
    message is refused at once, because the transaction would keep its database locks while the message waits.

    Args:
        key: Messages with different keys have separate limits: `lambda message, context: context.tenant`. The context
            contains only verified values. The key of an unverified caller is wrapped in a `StrangersKey`.
        max_wait: The longest time that a message may wait, in seconds; 0 refuses the message at once.

    Raises:
        SettingError: `max_wait` is not a finite number of at least 0.
    """

    made_once: ClassVar[bool] = True
    belongs_outside: ClassVar[Mapping[str, str]] = {
        "unit of work": "no message waits inside a transaction, and a refused message should not begin one"
    }

    def __init__(self, key: Callable[[Message, MessageContext], Hashable] | None, max_wait: float) -> None:
        if not is_pause(max_wait):
            raise SettingError("max_wait", max_wait, "use a finite number of seconds, or 0 to refuse at once")
        self._key = key
        self._max_wait = max_wait
        self._let_through: set[Frame] = set()

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        frame = current_frame()
        running = _chain(frame)
        if not self._let_through.isdisjoint(running):
            return await call_next()
        key = None if self._key is None else self._key_for(message, self._key)
        in_transaction = any(each.scope.transaction is not None for each in running)
        await self._enter(message, key, 0.0 if in_transaction else self._max_wait)
        try:
            self._let_through.update(running[:1])
            return await call_next()
        finally:
            self._let_through.difference_update(running[:1])
            self._leave(key)

    def _key_for(self, message: Message, key: Callable[[Message, MessageContext], Hashable]) -> Hashable:
        context = current_context()
        found = key(message, context.verified())
        return StrangersKey(found) if context.vouched_by is None else found

    @abstractmethod
    async def _enter(self, message: Message, key: Hashable, max_wait: float, /) -> None:
        """Wait until the limit allows the message. Raise an error if the wait is, or would be, too long."""

    def _leave(self, key: Hashable, /) -> None:
        """Make room for the next message of a key, after a message was handled. The default does nothing."""


def _chain(frame: Frame | None) -> list[Frame]:
    """Return the running dispatches, innermost first."""
    frames: list[Frame] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.parent
    return frames


Sleep = Callable[[float], Awaitable[None]]


class _Places:
    """The slots of one key. The message that has waited longest gets the next free slot."""

    __slots__ = ("owner", "taken", "waiting")

    def __init__(self) -> None:
        self.owner = Owner("The concurrency limit")
        self.taken = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    def hand_over(self) -> None:
        """Give the slot of an ended message to the message that has waited longest. If no message waits, free the slot."""
        if self.waiting:
            self.waiting.popleft().set_result(None)
        else:
            self.taken -= 1


class ConcurrencyLimitBehavior(LimitBehavior[Message]):
    """Lets at most `limit` messages be handled at the same time (a bulkhead).

    The limit protects a service from overload. Waiting messages are let through in the order of arrival. When the wait
    of a message times out, a `ConcurrencyLimitedError` is raised. A message that is dispatched inside another message
    shares the slot of the outer message.

    Make this behavior a `Singleton`, because it counts the messages in progress. Without a type argument it applies to
    all requests. To limit only some messages, derive a class: `class
    ReportLimit(ConcurrencyLimitBehavior[MakeReport])`. A message to which several limits apply must pass all of them.
    Place this behavior outside the unit of work, so that the slot is also held during the commit. If the behavior is
    inside retry, the slot is free during the pauses between attempts.

    Args:
        limit: The maximum number of messages that are handled at the same time.
        key: Messages with different keys have separate limits: `lambda message, context: context.tenant`.
        max_wait: The longest time that a message may wait, in seconds; 0 refuses the message at once.
        sleep: Waits for a number of seconds.

    Raises:
        SettingError: `limit` is not a whole number of at least 1, or `max_wait` is not a finite number of at least 0.
    """

    role: ClassVar[str | None] = "concurrency limit"

    @overload  # for the class itself, without a type argument
    def __init__(
        self: "ConcurrencyLimitBehavior[Request[Any]]",
        *,
        limit: int,
        key: Callable[[Request[Any], MessageContext], Hashable] | None = ...,
        max_wait: float = ...,
        sleep: Sleep = ...,
    ) -> None: ...

    @overload
    def __init__(  # for subclasses that narrow the message
        self,
        *,
        limit: int,
        key: Callable[[Message, MessageContext], Hashable] | None = ...,  # pyright: ignore[reportInvalidTypeVarUse]
        max_wait: float = ...,
        sleep: Sleep = ...,
    ) -> None: ...

    def __init__(
        self,
        *,
        limit: int,
        key: Callable[[Any, MessageContext], Hashable] | None = None,
        max_wait: float = 0.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(key, max_wait)
        if not is_count(limit):
            raise SettingError("limit", limit, "use a whole number, at least 1")
        self._limit = limit
        self._sleep = sleep
        self._places: dict[Hashable, _Places] = {}

    @property
    def remembered(self) -> int:
        """The number of keys with messages in progress."""
        return len(self._places)

    async def _enter(self, message: Message, key: Hashable, max_wait: float, /) -> None:
        places = self._places.get(key)
        if places is None or places.owner.check(busy=places.taken > 0):
            places = self._places[key] = _Places()
            places.owner.check()
        if places.taken < self._limit:
            places.taken += 1
        elif max_wait == 0 or not await self._wait_in_line(key, places, max_wait):
            raise ConcurrencyLimitedError(message, self._limit, max_wait, key)

    async def _wait_in_line(self, key: Hashable, places: _Places, max_wait: float) -> bool:
        """Wait for a slot, and return whether a slot was handed over in time."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        places.waiting.append(turn)
        timer = asyncio.ensure_future(self._sleep(max_wait))
        try:
            await asyncio.wait((turn, timer), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            if turn.done():  # the slot was handed over just before the wait was cancelled
                self._leave(key)
            raise
        finally:
            timer.cancel()
            if not turn.done():
                places.waiting.remove(turn)
        return turn.done()

    def _leave(self, key: Hashable, /) -> None:
        places = self._places[key]
        places.hand_over()
        if not places.taken:
            del self._places[key]


Clock = Callable[[], float]

_LOOKED_AT = 2
"""Each message checks this many keys, and forgets the idle keys. A message adds only one key, so keys do not pile up."""


class _Bucket:
    """The token bucket of one key, stored as the time at which the bucket is full again."""

    __slots__ = ("full_at", "owner", "turn", "waiting")

    def __init__(self) -> None:
        self.full_at = float("-inf")
        self.waiting = 0
        self.owner = Owner("The rate limit")
        self.turn = asyncio.Lock()  # a fair lock: messages acquire it in the order of arrival


class RateLimitBehavior(LimitBehavior[Message]):
    """Lets `limit` messages through in `seconds` seconds on average, and `burst` messages at once (a token bucket).

    In any t seconds, at most `burst + t * limit / seconds` messages are let through. Waiting messages are let through
    in the order of arrival. A message that is cancelled while it waits uses no token. A message that would have to wait
    for longer than `max_wait` is refused at once, with a `RateLimitedError`. Messages that are dispatched inside
    another message use no tokens.

    Make this behavior a `Singleton`, because it counts the messages. Without a type argument it applies to all
    requests. To limit only some messages, derive a class: `class MailLimit(RateLimitBehavior[SendMail])`. A message
    to which several limits apply must pass all of them. Place this behavior outside the unit of work, and inside
    authorization, so that unauthorized messages use no tokens. If this behavior is outside retry, a message uses one
    token. If this behavior is inside retry, each attempt uses one token.

    Args:
        limit: The average number of messages that are let through in a period.
        seconds: The length of a period in seconds.
        burst: The number of messages that are let through at once after a time without messages; `None` means `limit`.
            With `burst=1` the messages are spread evenly.
        key: Messages with different keys have separate limits: `lambda message, context: context.tenant`. A key is
            forgotten once its bucket is full again.
        max_wait: The longest time that a message may wait, in seconds; 0 refuses the message at once.
        clock: Returns the monotonic time in seconds.
        sleep: Waits for a number of seconds.

    Raises:
        SettingError: A setting is out of its range.
    """

    role: ClassVar[str | None] = "rate limit"

    @overload  # for the class itself, without a type argument
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
    def __init__(  # for subclasses that narrow the message
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
        if not is_count(limit):
            raise SettingError("limit", limit, "use a whole number, at least 1")
        if not is_seconds(seconds):
            raise SettingError("seconds", seconds, "use a finite number of seconds above 0")
        check_counts(burst=burst)
        self._limit = limit
        self._seconds = seconds
        self._interval = seconds / limit
        self._burst = limit if burst is None else burst
        self._clock = clock
        self._sleep = sleep
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    @property
    def remembered(self) -> int:
        """The number of keys whose buckets are kept at present."""
        return len(self._buckets)

    async def _enter(self, message: Message, key: Hashable, max_wait: float, /) -> None:
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
        if bucket.owner.check(busy=bucket.waiting > 0):
            bucket.turn, bucket.waiting = asyncio.Lock(), 0
        bucket.waiting += 1
        try:
            async with bucket.turn:
                while (wait := self._wait(bucket, 1)) > 0:
                    await self._sleep(wait)
                self._take(bucket)
        finally:
            bucket.waiting -= 1

    def _wait(self, bucket: _Bucket, place: int) -> float:
        """Return the seconds until `place` tokens can be taken; 0 or less when they can be taken now."""
        now = self._clock()
        wait = max(bucket.full_at, now) - now + (place - self._burst) * self._interval
        return round(wait, 9)  # else a rounding error could refuse a message that is sent again after `retry_after`

    def _take(self, bucket: _Bucket) -> None:
        bucket.full_at = max(bucket.full_at, self._clock()) + self._interval

    def _forget_idle(self) -> None:
        """Check `_LOOKED_AT` keys, least recently checked first, and forget the keys whose buckets are full again."""
        now = self._clock()
        for key in [key for _, key in zip(range(_LOOKED_AT), self._buckets, strict=False)]:
            bucket = self._buckets[key]
            if bucket.waiting or bucket.full_at > now:
                self._buckets.move_to_end(key)
            else:
                del self._buckets[key]
