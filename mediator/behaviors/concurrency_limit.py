"""ConcurrencyLimitBehavior: how many messages are handled at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, ClassVar, TypeVar, overload

from mediator.behaviors.limiting import LimitBehavior
from mediator.context import MessageContext
from mediator.errors import ConcurrencyLimitedError, SettingError
from mediator.messages import Request

Message = TypeVar("Message", bound=Request[Any])
Sleep = Callable[[float], Awaitable[None]]


class _Places:
    """The places of one key. One that becomes free is handed to whoever waits for longest."""

    __slots__ = ("taken", "waiting")

    def __init__(self) -> None:
        self.taken = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    def hand_over(self) -> None:
        """Give a place back."""
        if self.waiting:
            self.waiting.popleft().set_result(None)
        else:
            self.taken -= 1


class ConcurrencyLimitBehavior(LimitBehavior[Message]):
    """Lets no more than `limit` messages be handled at a time: a bulkhead, before what breaks when many come at once.

    Who waits is let through in the order of arrival, and who gives up leaves its place in the line. What a message
    dispatches while it is handled shares its place.

    Make it a `Singleton`: it knows what is being handled. Without a type argument it applies to requests; derive a class
    for others, `class ReportLimit(ConcurrencyLimitBehavior[MakeReport])`. Where several apply to a message, all of them
    hold. Place it outside the unit of work, so that the commit happens in the place too. Inside retry the place is free
    during the pauses.

    Args:
        limit: How many at a time.
        key: Messages with different keys have limits of their own: `lambda message, context: context.tenant`.
        max_wait: How long a message may wait, in seconds; 0 refuses at once.
        sleep: Waits for a number of seconds.
    """

    role: ClassVar[str | None] = "concurrency limit"

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(
        self: "ConcurrencyLimitBehavior[Request[Any]]",
        *,
        limit: int,
        key: Callable[[Request[Any], MessageContext], Hashable] | None = ...,
        max_wait: float = ...,
        sleep: Sleep = ...,
    ) -> None: ...

    @overload
    def __init__(  # classes that narrow the message use it
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
        if limit < 1:
            raise SettingError("limit", limit, "it lets at least one through.")
        self._limit = limit
        self._sleep = sleep
        self._places: dict[Hashable, _Places] = {}

    @property
    def remembered(self) -> int:
        """How many keys are known at the moment: those of which a message is being handled."""
        return len(self._places)

    async def _enter(self, message: Message, key: Hashable, max_wait: float, /) -> None:
        """Take a place.

        Raises:
            ConcurrencyLimitedError: None was free for as long as it may wait.
        """
        places = self._places.get(key)
        if places is None:
            places = self._places[key] = _Places()
        if places.taken < self._limit:
            places.taken += 1
        elif max_wait == 0 or not await self._wait_in_line(key, places, max_wait):
            raise ConcurrencyLimitedError(message, self._limit, max_wait, key)

    async def _wait_in_line(self, key: Hashable, places: _Places, max_wait: float) -> bool:
        """Whether a place was handed over in time."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        places.waiting.append(turn)
        timer = asyncio.ensure_future(self._sleep(max_wait))
        try:
            await asyncio.wait((turn, timer), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            if turn.done():  # handed over in the same moment: the next one gets it
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
