"""CachingBehavior: answers queries from a cache."""

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

from mediator.errors import SettingError, misuse
from mediator.fidelity import are_same
from mediator.messages import Query
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import current_frame
from mediator.settings import is_count

Q = TypeVar("Q", bound=Query[Any])


@dataclass(frozen=True, slots=True, eq=False)
class CacheKey:
    """The key of a cached response.

    Two keys are equal when their queries are equal and all compared values also have the same types. So `Find(1)` does
    not get the response to `Find(True)`.

    Attributes:
        query_type: The class of the query. It is needed because queries of two classes may compare equal.
        principal: The principal who sent the query; `None` when all principals share the response.
    """

    query_type: type
    query: Any
    principal: str | None = None
    tenant: str | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheKey):
            return NotImplemented
        mine, others = (self.query_type, self.principal, self.tenant), (other.query_type, other.principal, other.tenant)
        return mine == others and self.query == other.query and are_same(self.query, other.query)

    def __hash__(self) -> int:
        return hash((self.query_type, self.query, self.principal, self.tenant))


@dataclass(frozen=True, slots=True)
class Cached:
    """A cached response, which may be `None`. Without a cached response, `Cache.get` returns a plain `None`."""

    response: Any


class Cache(ABC):
    """The port to a cache, which keeps responses for a limited time and may drop them earlier."""

    @abstractmethod
    async def get(self, key: CacheKey, /) -> Cached | None:
        """Return the cached response of a key, or `None`."""

    @abstractmethod
    async def set(self, key: CacheKey, cached: Cached, seconds: float, /) -> None:
        """Keep a response for at most `seconds` seconds."""

    @abstractmethod
    async def delete(self, key: CacheKey, /) -> None:
        """Delete the cached response of a key, if there is one."""


class MemoryCache(Cache):
    """A least recently used (LRU) cache in this process. Make it a `Singleton`.

    All callers get the same response object, not a copy. So responses should be immutable.

    Args:
        max_entries: The maximum number of responses; the least recently used response is dropped first.
        clock: Returns the monotonic time in seconds.

    Raises:
        SettingError: `max_entries` is not a whole number of at least 1.
    """

    def __init__(self, *, max_entries: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        if not is_count(max_entries):
            raise SettingError("max_entries", max_entries, "use a whole number, at least 1")
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[CacheKey, tuple[float, Cached]] = OrderedDict()

    async def get(self, key: CacheKey, /) -> Cached | None:
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
        self._entries[key] = (self._clock() + seconds, cached)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    async def delete(self, key: CacheKey, /) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Delete all responses."""
        self._entries.clear()

    def __len__(self) -> int:
        """Return the number of cached responses, expired ones included."""
        return len(self._entries)


class CachingBehavior(PipelineBehavior[Q, Any]):
    """Answers a query with the cached response of an equal query of the same principal and tenant.

    Without a type argument, all queries are cached. To cache only some queries, derive a class: `class
    CatalogCaching(CachingBehavior[FindCourse | ListCourses])`. If several caching behaviors match a query, only the
    most specific one applies.

    Queries must be hashable, or a `MisuseError` is raised. Queries must also be compared by value, as frozen
    dataclasses are. Errors are not cached. Inside a running transaction the cache is neither read nor written, because
    a query may see uncommitted changes. For an unverified caller (`context.vouched_by` is `None`) the cache is not
    used, because unverified callers cannot be told apart. Place this behavior inside authorization, so that only
    authorized callers get cached responses.

    Args:
        cache: The cache that keeps the responses.
        seconds: How long to keep a response, in seconds.
        shared: `True` lets all principals share the cached responses.
    """

    one_of: ClassVar[str | None] = "caching"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "authorization": "otherwise it would answer unauthorized callers with cached responses"
    }

    @overload  # for the class itself, without a type argument
    def __init__(
        self: "CachingBehavior[Query[Any]]", cache: Cache, *, seconds: float = ..., shared: bool = ...
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # for subclasses that narrow the query
        self, cache: Cache, *, seconds: float = ..., shared: bool = ...
    ) -> None: ...

    def __init__(self, cache: Cache, *, seconds: float = 60.0, shared: bool = False) -> None:
        self._cache = cache
        self._seconds = seconds
        self._shared = shared

    async def handle(self, query: Q, call_next: CallNext[Any], /) -> Any:
        frame = current_frame()
        if frame is None or frame.scope.transaction is not None or frame.context.vouched_by is None:
            return await call_next()
        context = frame.context
        key = CacheKey(type(query), query, None if self._shared else context.principal, context.tenant)
        try:
            hash(key)
        except TypeError as error:
            raise misuse.cache_key(query, str(error)) from error
        found = await self._cache.get(key)
        if found is None:
            found = Cached(await call_next())
            await self._cache.set(key, found, self._seconds)
        return found.response
