"""Caching of queries."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import Command, MessageContext, Query, TransactionMode
from mediator.behaviors import CachingBehavior, MemoryCache
from mediator.behaviors.caching import Cached, CacheKey
from mediator.errors import MisuseError, SettingError
from tests.unit.samples import EnrollStudent
from tests.unit.transactions import Transactional
from tests.unit.wiring import handles, wire


@dataclass(frozen=True, slots=True)
class FindCourse(Query[str | None]):
    number: Any = 1


@dataclass(frozen=True, slots=True)
class FindTeacher(Query[str]):
    number: Any = 1


class Counting:
    """A handler that counts its calls in its responses."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def __call__(self, message: Any) -> Any:
        self.calls.append(message)
        return f"{message.number}, call {len(self.calls)}"


def school(work: Any, *, behaviors: Any = None, **options: Any) -> Any:
    caching = CachingBehavior(MemoryCache(), **options)
    return wire(handles(FindCourse, work), handles(FindTeacher, work), behaviors=behaviors or [caching])


async def test_an_equal_query_is_answered_from_the_cache_and_a_different_query_is_not():
    mediator = school(Counting())
    assert await mediator.send(FindCourse(1)) == "1, call 1"
    assert await mediator.send(FindCourse(1)) == "1, call 1"
    assert await mediator.send(FindCourse(2)) == "2, call 2"
    assert await mediator.send(FindTeacher(1)) == "1, call 3"


async def test_a_response_of_none_is_cached_too():
    calls: list[Any] = []

    async def nothing(message: Any) -> None:
        calls.append(message)

    mediator = school(nothing)
    assert await mediator.send(FindCourse()) is None
    assert await mediator.send(FindCourse()) is None
    assert len(calls) == 1


async def test_an_error_is_not_cached():
    answers: list[Any] = [ConnectionError(), "found"]

    async def work(_message: Any) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    mediator = school(work)
    with pytest.raises(ConnectionError):
        await mediator.send(FindCourse())
    assert await mediator.send(FindCourse()) == "found"


@pytest.mark.parametrize("shared", [False, True])
async def test_principals_share_a_response_only_if_the_behavior_allows_it_and_tenants_never_do(shared):
    mediator = school(Counting(), shared=shared)

    async def ask(principal: str | None, tenant: str | None = None) -> str:
        async with mediator.scope(context=MessageContext("1", "1", principal=principal, tenant=tenant)):
            return await mediator.send(FindCourse())

    answers = [await ask("ada"), await ask("eve"), await ask(None), await ask("ada")]
    assert len(set(answers)) == (1 if shared else 3)
    assert answers[0] == answers[3]
    assert await ask("ada", "north") != await ask("ada", "south")


async def test_inside_a_transaction_the_cache_is_neither_read_nor_written():
    work = Counting()

    async def find_inside(_message: Any) -> Any:
        return [await mediator.send(FindCourse()), await mediator.send(FindCourse())]

    async def find_apart(_message: Any) -> Any:
        return await mediator.send(FindCourse(), mode=TransactionMode.SUPPRESS)

    class Apart(Command[Any]):
        pass

    mediator = wire(
        handles(FindCourse, work),
        handles(EnrollStudent, find_inside),
        handles(Apart, find_apart),
        behaviors=[CachingBehavior(MemoryCache()), Transactional()],
    )
    await mediator.send(FindCourse())
    assert await mediator.send(EnrollStudent()) == ["1, call 2", "1, call 3"]
    assert await mediator.send(Apart()) == "1, call 1"


def test_commands_have_no_caching_in_their_pipeline():
    mediator = wire(handles(EnrollStudent, Counting()), behaviors=[CachingBehavior(MemoryCache())])
    assert mediator.registry.pipeline(EnrollStudent).behaviors == []


async def test_a_more_specific_behavior_replaces_the_general_one():
    cache = MemoryCache()

    class Never(CachingBehavior[FindTeacher]):
        pass

    behaviors = [CachingBehavior(cache), Never(cache, seconds=0.0)]
    mediator = school(Counting(), behaviors=behaviors)
    assert await mediator.send(FindCourse()) == await mediator.send(FindCourse())
    assert await mediator.send(FindTeacher()) != await mediator.send(FindTeacher())


async def test_a_query_that_is_not_hashable_raises_an_error_that_names_the_remedy():
    mediator = school(Counting())
    with pytest.raises(MisuseError, match="FindCourse cannot be the key of a cache: unhashable type: 'list'"):
        await mediator.send(FindCourse([1]))


async def test_a_response_can_be_deleted():
    cache = MemoryCache()
    mediator = school(Counting(), behaviors=[CachingBehavior(cache, shared=True)])
    assert await mediator.send(FindCourse()) == "1, call 1"
    await cache.delete(CacheKey(FindCourse, FindCourse()))
    await cache.delete(CacheKey(FindCourse, FindCourse()))
    assert await mediator.send(FindCourse()) == "1, call 2"


async def test_outside_a_dispatch_the_behavior_calls_the_handler():
    async def call_next(*_: Any) -> str:
        return "went on"

    assert await CachingBehavior(MemoryCache()).handle(FindCourse(), call_next) == "went on"


# MemoryCache


def key(number: int) -> CacheKey:
    return CacheKey(FindCourse, FindCourse(number))


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.integers(0, 5)),
        st.tuples(st.just("set"), st.integers(0, 5), st.integers(1, 9)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 5)),
    )
)


@given(OPERATIONS, st.integers(1, 4))
def test_the_memory_cache_keeps_the_most_recently_used_entries_until_they_expire(operations, size):
    now = 0
    entries: dict[int, tuple[int, int]] = {}  # the model: the entries in the order of their use
    cache = MemoryCache(max_entries=size, clock=lambda: now)

    async def run() -> None:
        nonlocal now
        for count, (what, number, *rest) in enumerate(operations):
            if what == "wait":
                now += number
            elif what == "set":
                await cache.set(key(number), Cached(count), rest[0])
                entries.pop(number, None)
                entries[number] = (now + rest[0], count)
                if len(entries) > size:
                    del entries[next(iter(entries))]
            elif what == "delete":
                await cache.delete(key(number))
                entries.pop(number, None)
            else:
                found = entries.pop(number, None)
                expected = None
                if found is not None and now < found[0]:
                    entries[number] = found
                    expected = Cached(found[1])
                assert await cache.get(key(number)) == expected
            assert len(cache) == len(entries)
        cache.clear()
        assert len(cache) == 0

    asyncio.run(run())


def test_a_cache_without_room_is_refused():
    with pytest.raises(SettingError, match="max_entries"):
        MemoryCache(max_entries=0)
