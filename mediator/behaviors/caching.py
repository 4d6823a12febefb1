"""CachingBehavior: answers queries from a cache."""

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

from mediator.errors import CacheKeyError, SettingError
from mediator.messages import Query
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import current_frame

Q = TypeVar("Q", bound=Query[Any])


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a response is kept under.

    Attributes:
        query_type: The class of the query: two classes may have equal values.
        query: The query, compared by value.
        principal: Whose response it is; `None` for everybody's.
        tenant: Whose data it is about.
    """

    query_type: type
    query: Any
    principal: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Cached:
    """A response in a cache. The response itself may be `None`."""

    response: Any


class Cache(ABC):
    """The port of a cache: keeps responses for a while, and may forget them at any time."""

    @abstractmethod
    async def get(self, key: CacheKey, /) -> Cached | None:
        """What is kept under a key, or `None`."""

    @abstractmethod
    async def set(self, key: CacheKey, cached: Cached, seconds: float, /) -> None:
        """Keep a response for so many seconds at most."""

    @abstractmethod
    async def delete(self, key: CacheKey, /) -> None:
        """Forget a response, if there is one."""


class MemoryCache(Cache):
    """Keeps the responses that were used last, in this process. Make it a `Singleton`.

    Responses are handed out as they are, to everyone the same object: let them be immutable.

    Args:
        max_entries: How many to keep; the one that was not used for longest goes first.
        clock: Monotonic time in seconds.
    """

    def __init__(self, *, max_entries: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        if max_entries < 1:
            raise SettingError("max_entries", max_entries, "a cache keeps at least one.")
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[CacheKey, tuple[float, Cached]] = OrderedDict()

    async def get(self, key: CacheKey, /) -> Cached | None:
        """What is kept under a key and not too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        until, cached = found
        if self._clock() >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return cached

    async def set(self, key: CacheKey, cached: Cached, seconds: float, /) -> None:
        """Keep a response, in place of the one that was not used for longest if there is no room."""
        self._entries[key] = (self._clock() + seconds, cached)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    async def delete(self, key: CacheKey, /) -> None:
        """Forget a response, if there is one."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        """How many entries there are, old ones included."""
        return len(self._entries)


class CachingBehavior(PipelineBehavior[Q, Any]):
    """Answers a query with the response that an equal query of the same principal and tenant had a while ago.

    It applies to queries only, without a type argument to all of them: derive a class to choose,
    `class CatalogCaching(CachingBehavior[FindCourse | ListCourses])`; the most specific one is taken. Queries must be
    hashable and equal by value, as frozen dataclasses are. Errors are not kept. Inside a running transaction it neither
    answers nor keeps anything, for what is read there may be changed already and not committed. Place it inside
    authorization, so that nobody is answered who may not ask.

    Args:
        cache: Where responses are kept.
        seconds: For how long.
        shared: Whether one principal may get the response of another.
    """

    one_of: ClassVar[str | None] = "caching"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "authorization": "it would answer those who may not ask from what others have asked"
    }

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(
        self: "CachingBehavior[Query[Any]]", cache: Cache, *, seconds: float = ..., shared: bool = ...
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # classes that narrow the query use it
        self, cache: Cache, *, seconds: float = ..., shared: bool = ...
    ) -> None: ...

    def __init__(self, cache: Cache, *, seconds: float = 60.0, shared: bool = False) -> None:
        self._cache = cache
        self._seconds = seconds
        self._shared = shared

    async def handle(self, query: Q, call_next: CallNext[Any], /) -> Any:
        """Return what is kept, or go on and keep the response.

        Raises:
            CacheKeyError: The query is not hashable.
        """
        frame = current_frame()
        if frame is None or frame.scope.transaction is not None:
            return await call_next()
        context = frame.context
        key = CacheKey(type(query), query, None if self._shared else context.principal, context.tenant)
        try:
            hash(key)
        except TypeError as error:
            raise CacheKeyError(query, str(error)) from error
        found = await self._cache.get(key)
        if found is None:
            found = Cached(await call_next())
            await self._cache.set(key, found, self._seconds)
        return found.response
