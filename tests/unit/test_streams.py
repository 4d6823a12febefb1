"""Streams: opened by `async with`, stepped by the consumer, closed at once."""

import asyncio
import gc
import json
from dataclasses import dataclass
from types import AsyncGeneratorType
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator import (
    MessageContext,
    StreamRequest,
    StreamRequestHandler,
    TransactionMode,
    current_context,
    current_scope,
)
from mediator.behaviors import StreamLoggingBehavior
from mediator.binding import Binding
from mediator.errors import DispatchDepthError, HandlerNotFoundError, MisuseError, ScopeError, SettingError
from mediator.scope import current_frame
from tests.unit.samples import EnrollStudent, ExpelStudent, StudentEnrolled, answer_name
from tests.unit.transactions import Transactional
from tests.unit.wiring import along, handles, listens, streams, wire


@dataclass(frozen=True, slots=True)
class ListStudents(StreamRequest[str]):
    names: tuple[str, ...] = ("Ada", "Bob", "Cyd")


@dataclass(frozen=True, slots=True)
class ListCourses(StreamRequest[int]):
    count: int = 3


async def names(request: ListStudents) -> Any:
    for name in request.names:
        yield name


async def test_a_stream_yields_the_items_of_its_handler():
    mediator = wire(streams(ListStudents, names))
    async with mediator.stream(ListStudents()) as items:
        assert [item async for item in items] == ["Ada", "Bob", "Cyd"]
        assert [item async for item in items] == []


def test_wrong_arguments_are_refused_at_the_call():
    mediator = wire(streams(ListStudents, names))
    with pytest.raises(MisuseError, match="A request is sent"):
        mediator.stream(EnrollStudent())  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="Make a message of it"):
        mediator.stream(ListStudents)  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="cannot take a str"):
        mediator.stream("students")  # type: ignore[arg-type]
    with pytest.raises(HandlerNotFoundError, match=r"StreamRequestHandler\[ListCourses"):
        mediator.stream(ListCourses())
    with pytest.raises(SettingError, match="savepoint"):
        mediator.stream(ListStudents(), mode=TransactionMode.NESTED)
    with pytest.raises(MisuseError, match="outside the lifespan"):
        wire(streams(ListStudents, names), started=False).stream(ListStudents())


async def test_a_stream_request_is_neither_sent_nor_published():
    mediator = wire(streams(ListStudents, names))
    with pytest.raises(MisuseError, match="A stream is opened: `async with mediator.stream"):
        await mediator.send(ListStudents())  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="A stream is opened"):
        await mediator.publish(ListStudents())  # type: ignore[arg-type]


async def test_a_stream_can_only_be_iterated_inside_its_async_with():
    mediator = wire(streams(ListStudents, names))
    stream: Any = mediator.stream(ListStudents())
    with pytest.raises(MisuseError, match="async with mediator.stream"):
        await anext(stream)
    async with stream as items:
        assert await anext(items) == "Ada"
    with pytest.raises(MisuseError, match="is not open|is open already"):
        await anext(items)


def passing(name: str, log: list[str]) -> Any:
    async def work(_request: Any, call_next: Any) -> Any:
        log.append(f"{name} in")
        try:
            async for item in call_next():
                yield f"{item}{name}"
        finally:
            log.append(f"{name} out")

    return work


async def test_behaviors_run_once_per_stream_outermost_first_where_they_apply():
    log: list[str] = []
    behaviors = [
        along(Any, passing("a", log)),
        along(ListCourses, passing("x", log)),
        along(StreamRequest[Any], passing("b", log)),
    ]
    mediator = wire(streams(ListStudents, names), behaviors=behaviors)
    async with mediator.stream(ListStudents()) as items:
        assert [item async for item in items] == ["Adaba", "Bobba", "Cydba"]
    assert log == ["a in", "b in", "b out", "a out"]


async def test_leaving_the_block_early_closes_behaviors_and_handler_at_once_outermost_first():
    log: list[str] = []

    async def listing(_request: Any) -> Any:
        try:
            while True:
                yield "Ada"
        finally:
            await asyncio.sleep(0)
            log.append("handler out")

    mediator = wire(
        streams(ListStudents, listing), behaviors=[along(Any, passing("a", log)), along(Any, passing("b", log))]
    )
    gc.disable()
    try:
        async with mediator.stream(ListStudents()) as items:
            async for _ in items:
                break
        assert log == ["a in", "b in", "a out", "b out", "handler out"]
    finally:
        gc.enable()


async def test_an_error_of_the_consumer_closes_the_stream_and_reaches_its_caller():
    log: list[str] = []
    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, passing("a", log))])
    error = LookupError("consumer")
    with pytest.raises(LookupError) as caught:
        async with mediator.stream(ListStudents()) as items:
            await anext(items)
            raise error
    assert (caught.value, log) == (error, ["a in", "a out"])


async def test_an_error_of_the_handler_reaches_the_consumer_unchanged():
    error = LookupError("handler")

    async def failing(_request: Any) -> Any:
        yield "Ada"
        raise error

    mediator = wire(streams(ListStudents, failing))
    with pytest.raises(LookupError) as caught:
        async with mediator.stream(ListStudents()) as items:
            async for item in items:
                assert item == "Ada"
    assert caught.value is error


async def test_a_stream_is_closed_when_its_consumer_is_cancelled_between_items():
    log: list[str] = []
    reached = asyncio.Event()
    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, passing("a", log))])

    async def consume() -> None:
        async with mediator.stream(ListStudents()) as items:
            async for _ in items:
                reached.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["a in", "a out"]


async def test_a_stream_is_closed_when_its_consumer_is_cancelled_during_a_step():
    started, ended = asyncio.Event(), asyncio.Event()

    async def waiting(_request: Any) -> Any:
        try:
            started.set()
            await asyncio.Event().wait()
            yield "never"
        finally:
            ended.set()

    mediator = wire(streams(ListStudents, waiting))

    async def consume() -> None:
        async with mediator.stream(ListStudents()) as items:
            await anext(items)

    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_failure_while_closing_is_raised_after_everything_is_closed():
    log: list[str] = []

    async def stubborn(_request: Any) -> Any:
        try:
            yield "Ada"
        finally:
            log.append("handler out")
            raise LookupError("while closing")

    mediator = wire(streams(ListStudents, stubborn), behaviors=[along(Any, passing("a", log))])
    with pytest.raises(LookupError, match="while closing"):
        async with mediator.stream(ListStudents()) as items:
            await anext(items)
    assert log == ["a in", "a out", "handler out"]
    assert current_frame() is None


async def test_a_cancellation_during_closing_wins_over_the_error_of_the_consumer():
    closing, closed = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any) -> Any:
        try:
            yield "Ada"
        finally:
            closing.set()
            await closed.wait()

    async def consume() -> None:
        async with mediator.stream(ListStudents()) as items:
            await anext(items)
            raise LookupError

    mediator = wire(streams(ListStudents, slow))
    task = asyncio.create_task(consume())
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_failures_while_closing_become_notes_on_the_error_of_the_consumer_or_a_group_without_one():
    async def stubborn(_request: Any) -> Any:
        try:
            yield "Ada"
        finally:
            raise LookupError("in the handler")

    async def stubborn_too(_request: Any, call_next: Any) -> Any:
        try:
            async for item in call_next():
                yield item
        finally:
            raise ValueError("in the behavior")

    mediator = wire(streams(ListStudents, stubborn), behaviors=[along(Any, stubborn_too)])
    with pytest.raises(KeyError) as caught:
        async with mediator.stream(ListStudents()) as items:
            await anext(items)
            raise KeyError
    notes = caught.value.__notes__
    assert notes == [
        "While closing the stream: ValueError('in the behavior')",
        "While closing the stream: LookupError('in the handler')",
    ]
    with pytest.raises(ExceptionGroup, match="errors while closing the stream") as group:
        async with mediator.stream(ListStudents()) as items:
            await anext(items)
    assert [type(each) for each in group.value.exceptions] == [ValueError, LookupError]


async def test_a_joined_stream_is_closed_even_if_its_scope_is_in_use_or_closed():
    log: list[str] = []
    done = asyncio.Event()
    kept: list[Any] = []

    async def stream(_request: Any) -> Any:
        try:
            yield "Ada"
        finally:
            log.append("closed")

    async def consume(_command: Any) -> None:
        async with asyncio.TaskGroup() as group:
            with pytest.raises(ScopeError, match="at the same time"):
                async with mediator.stream(ListStudents()) as items:
                    await anext(items)
                    group.create_task(mediator.send(ExpelStudent()))
                    await asyncio.sleep(0)
            assert log == ["closed"]
            done.set()
        kept.append(mediator.stream(ListStudents()))
        await anext(await kept[0].__aenter__())

    async def wait(_command: Any) -> None:
        await done.wait()

    mediator = wire(streams(ListStudents, stream), handles(EnrollStudent, consume), handles(ExpelStudent, wait))
    await mediator.send(EnrollStudent())
    with pytest.raises(ScopeError, match="its scope is closed"):
        await kept[0].__aexit__(None, None, None)
    assert log == ["closed", "closed"]


async def test_the_scope_is_current_during_each_step_and_never_between_items():
    seen: list[Any] = []
    disposed: list[str] = []

    async def listing(_request: Any) -> Any:
        current_scope().on_exit(lambda _: disposed.append("once"))
        for _ in range(3):
            seen.append((current_scope(), current_context()))
            yield 1

    mediator = wire(streams(ListCourses, listing), handles(EnrollStudent, answer_name))
    async with mediator.stream(ListCourses()) as items:
        async for _ in items:
            with pytest.raises(ScopeError, match="no dispatch is running"):
                current_scope()
            assert await mediator.send(EnrollStudent("Ada")) == "Ada"
            assert disposed == []
    assert len({id(scope) for scope, _ in seen}) == 1
    assert len({context.message_id for _, context in seen}) == 1
    assert disposed == ["once"]
    assert seen[0][0].closed


async def test_two_interleaved_streams_in_one_task_do_not_mix():
    seen: dict[int, set[int]] = {1: set(), 2: set()}

    async def counting(request: ListCourses) -> Any:
        for n in range(3):
            seen[request.count].add(id(current_scope()))
            yield n * request.count

    mediator = wire(streams(ListCourses, counting))
    async with mediator.stream(ListCourses(1)) as ones, mediator.stream(ListCourses(2)) as twos:
        mixed = [(await anext(ones), await anext(twos)) for _ in range(3)]
    assert mixed == [(0, 0), (1, 2), (2, 4)]
    assert len(seen[1]) == len(seen[2]) == 1
    assert seen[1] != seen[2]


async def test_streams_that_are_closed_in_another_order_than_opened_leave_no_frame():
    mediator = wire(streams(ListStudents, names))
    first: Any = mediator.stream(ListStudents())
    second: Any = mediator.stream(ListStudents())
    await first.__aenter__()
    await second.__aenter__()
    await anext(second)
    await first.__aexit__(None, None, None)
    assert await anext(second) == "Bob"
    await second.__aexit__(None, None, None)
    assert current_frame() is None


async def test_a_step_in_a_separate_task_has_the_scope_too():
    async def listing(_request: Any) -> Any:
        yield id(current_scope())
        yield id(current_scope())

    mediator = wire(streams(ListCourses, listing))
    async with mediator.stream(ListCourses()) as items:
        first = await asyncio.wait_for(anext(items), 5)
        assert first == await asyncio.create_task(anext(items))  # type: ignore[arg-type]


async def test_a_stream_inside_a_dispatch_joins_the_scope_and_both_may_dispatch_in_turn():
    transactional = Transactional()

    async def listing(_request: Any) -> Any:
        for n in range(2):
            yield (n, await mediator.send(EnrollStudent("inner")), current_scope(), current_context().causation_id)

    async def consuming(_command: Any) -> list[Any]:
        found = []
        async with mediator.stream(ListCourses()) as items:
            async for item in items:
                found.append((*item, current_scope(), current_context().message_id))
                assert await mediator.send(EnrollStudent("outer")) == "outer"
        return found

    @dataclass(frozen=True)
    class Consume(EnrollStudent):
        pass

    mediator = wire(
        streams(ListCourses, listing),
        handles(EnrollStudent, answer_name),
        handles(Consume, consuming),
        behaviors=[transactional],
    )
    found: Any = await mediator.send(Consume())
    assert [item[:2] for item in found] == [(0, "inner"), (1, "inner")]
    assert all(inner is outer and cause == message for _, _, inner, cause, outer, message in found)
    assert len(transactional.begun) == 1


async def test_a_joined_stream_that_outlives_its_dispatch_is_refused():
    kept: list[Any] = []

    async def keep(_command: Any) -> None:
        items = mediator.stream(ListStudents())
        kept.append(await items.__aenter__())

    mediator = wire(streams(ListStudents, names), handles(EnrollStudent, keep))
    await mediator.send(EnrollStudent())
    with pytest.raises(ScopeError, match="ListStudents"):
        await anext(kept[0])


async def test_a_joined_stream_is_not_stepped_while_a_dispatch_uses_its_scope():
    async def consuming(_command: Any) -> None:
        async with mediator.stream(ListStudents()) as items, asyncio.TaskGroup() as group:
            running = asyncio.Event()

            async def wait(_message: Any) -> None:
                running.set()
                await done.wait()

            waiting.append(wait)
            done = asyncio.Event()
            group.create_task(mediator.publish(StudentEnrolled()))
            await running.wait()
            with pytest.raises(ScopeError, match="at the same time"):
                await anext(items)
            done.set()

    waiting: list[Any] = []

    async def run(message: Any) -> None:
        await waiting[0](message)

    mediator = wire(streams(ListStudents, names), handles(EnrollStudent, consuming), listens(StudentEnrolled, run))
    await mediator.send(EnrollStudent())


@pytest.mark.parametrize("mode", [TransactionMode.NEW, TransactionMode.SUPPRESS])
async def test_a_stream_inside_a_dispatch_may_open_its_own_scope(mode: TransactionMode):
    async def listing(_request: Any) -> Any:
        yield current_scope()

    async def consuming(_command: Any) -> bool:
        async with mediator.stream(ListCourses(), mode=mode) as items:
            async for scope in items:
                return scope is not current_scope()
        return False

    mediator = wire(streams(ListCourses, listing), handles(EnrollStudent, consuming))
    assert await mediator.send(EnrollStudent()) is True  # type: ignore[comparison-overlap]


async def test_a_handler_that_returns_no_async_iterator_is_refused():
    async def forgotten(_request: Any) -> Any:
        return names(ListStudents())

    for handler in (forgotten, lambda _: ["Ada"]):
        with pytest.raises(MisuseError, match="async iterator"):
            async with wire(streams(ListStudents, handler)).stream(ListStudents()):
                pass
    assert current_frame() is None


async def test_a_handler_may_return_any_async_iterable():
    class Names:
        def __aiter__(self) -> Any:
            return names(ListStudents())

    async with wire(streams(ListStudents, lambda _: Names())).stream(ListStudents()) as items:
        assert [item async for item in items] == ["Ada", "Bob", "Cyd"]


async def test_handlers_and_behaviors_may_come_from_asynchronous_providers():
    log: list[str] = []

    def later(part: Any) -> Binding:
        async def resolve() -> Any:
            await asyncio.sleep(0)
            return part

        made = (
            wire(part).registry.handlers
            if isinstance(part, StreamRequestHandler)
            else wire(behaviors=[part]).registry.behaviors
        )
        return Binding(resolve, made[0].cls, made[0].label, made[0].kind)

    mediator = wire(later(streams(ListStudents, names)), behaviors=[later(along(Any, passing("a", log)))])
    async with mediator.stream(ListStudents()) as items:
        assert await anext(items) == "Adaa"
    assert log == ["a in", "a out"]


async def test_a_behavior_may_replace_the_request_and_call_the_rest_twice_or_never():
    async def twice(_request: Any, call_next: Any) -> Any:
        async for item in call_next(ListStudents(("Eve",))):
            yield item
        async for item in call_next():
            yield item

    async def none(_request: Any, _call_next: Any) -> Any:
        return
        yield

    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, twice)])
    async with mediator.stream(ListStudents()) as items:
        assert [item async for item in items] == ["Eve", "Ada", "Bob", "Cyd"]

    def never() -> Any:
        raise AssertionError

    handler = wire(streams(ListStudents, names)).registry.handlers[0]
    mediator = wire(Binding(never, handler.cls, "never", handler.kind), behaviors=[along(Any, none)])
    async with mediator.stream(ListStudents()) as items:
        assert [item async for item in items] == []


async def test_generators_that_ended_inside_a_stream_are_released_before_the_stream_ends():
    async def again(_request: Any, call_next: Any) -> Any:
        while True:
            async for item in call_next():
                yield item

    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, again)])
    async with mediator.stream(ListStudents()) as items:
        for _ in range(300):
            await anext(items)
        generators = [each for each in gc.get_objects() if isinstance(each, AsyncGeneratorType)]
        assert sum(each.__name__ == "names" for each in generators) < 5


async def test_call_next_is_refused_after_the_stream():
    kept: list[Any] = []

    async def keep(_request: Any, call_next: Any) -> Any:
        kept.append(call_next)
        async for item in call_next():
            yield item

    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, keep)])
    async with mediator.stream(ListStudents()) as items:
        await anext(items)
    with pytest.raises(MisuseError, match="had ended"):
        kept[0]()


async def test_streams_that_open_each_other_hit_the_depth_limit():
    async def circular(_request: Any) -> Any:
        async with mediator.stream(ListStudents()) as items:
            async for item in items:
                yield item

    mediator = wire(streams(ListStudents, circular), max_depth=10)
    with pytest.raises(DispatchDepthError, match="ListStudents -> ListStudents"):
        async with mediator.stream(ListStudents()) as items:
            await anext(items)


def test_describe_shows_a_stream_with_its_items():
    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, passing("a", []))])
    lines = mediator.describe(ListStudents).splitlines()
    assert lines[0] == "ListStudents -> stream of str"
    assert lines[1].split() == ["1.", "Along", "container.Along"]
    assert lines[2].split() == ["handler:", "Streamer", "container.Streamer"]


async def test_each_stream_is_one_line_in_the_log():
    async def failing(_request: Any) -> Any:
        yield 1
        raise LookupError

    mediator = wire(streams(ListStudents, names), streams(ListCourses, failing), behaviors=[StreamLoggingBehavior])
    with capture_logs() as logs:
        async with mediator.stream(ListStudents()) as items:
            assert [item async for item in items] == ["Ada", "Bob", "Cyd"]
        async with mediator.stream(ListStudents()) as items:
            async for _ in items:
                break
        with pytest.raises(LookupError):
            async with mediator.stream(ListCourses()) as numbers:
                assert [number async for number in numbers]
    assert [(line["event"], line["items"], line.get("exhausted")) for line in logs] == [
        ("streamed", 3, True),
        ("streamed", 1, False),
        ("failed", 1, None),
    ]
    assert {line["message_type"] for line in logs} == {"ListStudents", "ListCourses"}


async def test_a_stream_inherits_the_given_context_or_the_current_one():
    async def listing(_request: Any) -> Any:
        yield current_context()

    mediator = wire(streams(ListCourses, listing))
    given = MessageContext.new(tenant="acme", principal="ada")
    async with mediator.stream(ListCourses(), context=given) as items:
        found: Any = await anext(items)
    assert (found.tenant, found.principal, found.causation_id) == ("acme", "ada", given.message_id)
    async with mediator.context(tenant="other"), mediator.stream(ListCourses()) as items:
        found = await anext(items)
    assert found.tenant == "other"


def test_a_stream_is_described_as_mermaid_and_json_too():
    mediator = wire(streams(ListStudents, names))
    (described,) = json.loads(mediator.describe(ListStudents, format="json"))["applications"][0]["messages"]
    assert (described["kind"], described["items"]) == ("stream", "str")
    assert "ListStudents → stream of str" in mediator.describe(ListStudents, format="mermaid")


async def test_a_joined_stream_and_its_consumer_dispatch_in_turn_inside_a_context():
    async def listing(_request: Any) -> Any:
        for _ in range(2):
            yield await mediator.send(EnrollStudent("inner"))

    async def consuming(_command: Any) -> list[Any]:
        found = []
        async with mediator.context(tenant="acme"), mediator.stream(ListCourses()) as items:
            async for item in items:
                found.append((item, current_context().tenant, await mediator.send(EnrollStudent("outer"))))
        return found

    mediator = wire(
        streams(ListCourses, listing), handles(EnrollStudent, answer_name), handles(ExpelStudent, consuming)
    )
    assert await mediator.send(ExpelStudent()) == [("inner", "acme", "outer")] * 2  # type: ignore[func-returns-value]


async def test_call_next_is_refused_after_its_behavior_has_ended_although_the_stream_is_still_open():
    kept: list[Any] = []

    async def inside(_request: Any, call_next: Any) -> Any:
        kept.append(call_next)
        yield "one"

    async def outside(_request: Any, call_next: Any) -> Any:
        async for item in call_next():
            yield item
        yield "two"

    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, outside), along(Any, inside)])
    async with mediator.stream(ListStudents()) as items:
        assert await anext(items) == "one"
        assert await anext(items) == "two"
        with pytest.raises(MisuseError, match="had ended"):
            kept[0]()


async def test_a_stream_request_of_another_class_is_refused():
    async def swap(_request: Any, call_next: Any) -> Any:
        async for item in call_next(ListCourses()):
            yield item

    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, swap)])
    async with mediator.stream(ListStudents()) as items:
        with pytest.raises(MisuseError, match="a ListCourses in place of a ListStudents"):
            await anext(items)


async def test_an_open_stream_cannot_be_opened_again_and_still_closes():
    log: list[str] = []
    mediator = wire(streams(ListStudents, names), behaviors=[along(Any, passing("a", log))])
    stream: Any = mediator.stream(ListStudents())
    async with stream as items:
        assert await anext(items) == "Adaa"
        with pytest.raises(MisuseError, match="is open already"):
            async with stream:
                raise AssertionError("entered")
        assert await anext(items) == "Boba"
    assert log == ["a in", "a out"]
    assert current_frame() is None


async def test_a_stream_that_a_handler_left_open_is_closed_before_the_exit_callbacks_of_the_scope():
    log: list[str] = []
    left: list[Any] = []

    async def listing(_request: Any) -> Any:
        current_scope().on_exit(lambda _error: log.append("the scope's"))
        try:
            yield "Ada"
            yield "Bob"
        finally:
            await asyncio.sleep(0)
            log.append("stream")

    async def open_and_forget(_command: Any) -> str:
        stream: Any = mediator.stream(ListStudents())
        left.append(stream)
        return await anext(await stream.__aenter__())

    mediator = wire(streams(ListStudents, listing), handles(EnrollStudent, open_and_forget))
    assert await mediator.send(EnrollStudent()) == "Ada"
    assert log == ["stream", "the scope's"]
    with pytest.raises(ScopeError, match="its scope is closed"):
        await anext(left[0])


async def test_a_closed_stream_leaves_no_exit_callback_in_the_scope():
    async def list_twice(_command: Any) -> None:
        for _ in range(2):
            async with mediator.stream(ListStudents()) as items:
                await anext(items)
        assert not current_scope().exits

    mediator = wire(streams(ListStudents, names), handles(EnrollStudent, list_twice))
    await mediator.send(EnrollStudent())
