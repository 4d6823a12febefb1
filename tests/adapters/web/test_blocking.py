"""The blocking mediator serves threads and WSGI applications, and stops in order."""

import asyncio
import threading
import wsgiref.simple_server
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from dependency_injector import containers, providers

from mediator import (
    Command,
    Concurrent,
    Mediator,
    MessageContext,
    Notification,
    NotificationHandler,
    RequestHandler,
    StreamRequest,
    StreamRequestHandler,
    current_context,
    current_scope,
)
from mediator.blocking import BlockingMediator
from mediator.dependency_injector import MediatorProvider, lifespan
from mediator.errors import ContainerValidationError, HandlerNotFoundError, MisuseError


@dataclass(frozen=True, slots=True)
class Add(Command[int]):
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Wait(Command[str]):
    pass


class Added(Notification):
    pass


class ListNumbers(StreamRequest[int]):
    pass


class Log(list[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()
        self.ended: list[str] = []
        self.go: asyncio.Event | None = None


class AddHandler(RequestHandler[Add, int]):
    async def handle(self, command: Add) -> int:
        await asyncio.sleep(0)
        if command.first < 0:
            raise LookupError(command.first)
        return command.first + command.second


class WaitHandler(RequestHandler[Wait, str]):
    def __init__(self, log: Log) -> None:
        self._log = log

    async def handle(self, command: Wait) -> str:
        self._log.go = asyncio.Event()
        self._log.started.set()
        try:
            await self._log.go.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self._log.ended.append("cancelled")
            raise
        self._log.ended.append("done")
        return "waited"


class Hear(NotificationHandler[Added]):
    def __init__(self, log: Log) -> None:
        self._log = log

    async def handle(self, notification: Added) -> None:
        self._log.append((threading.current_thread().name, id(current_scope())))


class ListNumbersHandler(StreamRequestHandler[ListNumbers, int]):
    def __init__(self, log: Log) -> None:
        self._log = log

    async def handle(self, request: ListNumbers) -> AsyncIterator[int]:
        try:
            for number in range(3):
                yield number
        finally:
            self._log.append("closed")


@asynccontextmanager
async def opened(log: Log) -> AsyncIterator[str]:
    yield "resource"
    log.ended.append("resource closed")


class App(containers.DeclarativeContainer):
    log = providers.Singleton(Log)
    resource = providers.Resource(opened, log)
    mediator = MediatorProvider()
    add = providers.Factory(AddHandler)
    wait = providers.Factory(WaitHandler, log)
    hear = providers.Factory(Hear, log)
    again = providers.Factory(Hear, log)
    list_numbers = providers.Factory(ListNumbersHandler, log)


def blocking(container: App, **options: Any) -> BlockingMediator:
    return BlockingMediator(container.mediator(), lifespan(container), **options)


@pytest.fixture
def container() -> App:
    return App()


@pytest.fixture
def mediator(container: App) -> Iterator[BlockingMediator]:
    with blocking(container) as started:
        yield started


def test_a_request_is_answered_or_raises_the_error_of_its_handler(mediator: BlockingMediator):
    assert mediator.send(Add(1, 2)) == 3
    with pytest.raises(LookupError):
        mediator.send(Add(-1, 2))
    with pytest.raises(HandlerNotFoundError):
        mediator.send(type("Other", (Command,), {})())


def test_a_notification_reaches_its_handlers_in_the_thread_of_the_event_loop(
    container: App, mediator: BlockingMediator
):
    mediator.publish(Added())
    mediator.publish(Added(), strategy=Concurrent())
    names, scopes = zip(*container.log(), strict=True)
    assert len(set(names)) == 1
    assert names[0] != threading.current_thread().name
    assert len(set(scopes)) >= 2


def test_each_call_can_have_its_own_context(container: App, mediator: BlockingMediator):
    seen: list[Any] = []

    class Tell(RequestHandler[Add, int]):
        async def handle(self, command: Add) -> int:
            seen.append(current_context().principal)
            return 0

    class TellToo(NotificationHandler[Added]):
        async def handle(self, notification: Added) -> None:
            seen.append(current_context().principal)

    class TellAll(StreamRequestHandler[ListNumbers, int]):
        async def handle(self, request: ListNumbers) -> AsyncIterator[int]:
            seen.append(current_context().principal)
            yield 1

    container.add.override(providers.Factory(Tell))
    container.hear.override(providers.Factory(TellToo))
    container.again.override(providers.Factory(TellToo))
    container.list_numbers.override(providers.Factory(TellAll))
    mediator.send(Add(1, 2), context=MessageContext.new(principal="ada"))
    mediator.publish(Added(), context=MessageContext.new(principal="bob"))
    with mediator.stream(ListNumbers(), context=MessageContext.new(principal="cyd")) as items:
        next(items)
    mediator.send(Add(1, 2))
    assert seen == ["ada", "bob", "bob", "cyd", None]


def test_a_stream_is_iterated_and_closed_with_its_block(container: App, mediator: BlockingMediator):
    with mediator.stream(ListNumbers()) as items:
        assert list(items) == [0, 1, 2]
    with mediator.stream(ListNumbers()) as items:
        assert next(items) == 0
    assert container.log() == ["closed", "closed"]

    def fail() -> None:
        with mediator.stream(ListNumbers()) as items:
            next(items)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert container.log() == ["closed"] * 3


def test_a_stream_runs_in_one_task(container: App, mediator: BlockingMediator):
    tasks: list[Any] = []

    class Limited(StreamRequestHandler[ListNumbers, int]):
        async def handle(self, request: ListNumbers) -> AsyncIterator[int]:
            async with asyncio.timeout(None) as limit:
                try:
                    tasks.append(asyncio.current_task())
                    yield 1
                    tasks.append(asyncio.current_task())
                    yield 2
                    limit.reschedule(asyncio.get_running_loop().time() + 0.05)
                    await asyncio.sleep(5)
                finally:
                    tasks.append(asyncio.current_task())

    container.list_numbers.override(providers.Factory(Limited))
    with mediator.stream(ListNumbers()) as items:
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(TimeoutError):
            next(items)
        assert list(items) == []
    with mediator.stream(ListNumbers()) as items:
        next(items)
    assert [tasks.count(task) for task in dict.fromkeys(tasks)] == [3, 2]


def test_a_stream_that_does_not_end_in_time_is_closed_before_resources_are(container: App):
    opened, go_on, errors = threading.Event(), threading.Event(), []

    def consume() -> None:
        with mediator.stream(ListNumbers()) as items:
            next(items)
            opened.set()
            go_on.wait(5)
            with pytest.raises(MisuseError, match="outside the lifespan"):
                next(items)
            errors.append("refused")

    with blocking(container, drain_timeout=0.05) as mediator:
        thread = threading.Thread(target=consume)
        thread.start()
        assert opened.wait(5)
    assert (container.log(), container.log().ended) == (["closed"], ["resource closed"])
    go_on.set()
    thread.join(5)
    assert errors == ["refused"]


def test_the_error_of_a_stream_that_cannot_be_opened_or_closed_names_the_reason(
    container: App, mediator: BlockingMediator
):
    class Faulty(StreamRequestHandler[ListNumbers, int]):
        def handle(self, request: ListNumbers) -> AsyncIterator[int]:
            raise LookupError("cannot be opened")

    class Stubborn(StreamRequestHandler[ListNumbers, int]):
        async def handle(self, request: ListNumbers) -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                raise LookupError("cannot be closed")

    for handler, text in ((Faulty, "opened"), (Stubborn, "closed")):
        container.list_numbers.override(providers.Factory(handler))
        with pytest.raises(LookupError, match=text), mediator.stream(ListNumbers()) as items:
            next(items)


def test_many_threads_may_call_concurrently(mediator: BlockingMediator):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: mediator.send(Add(n, n)), range(200))) == [2 * n for n in range(200)]


def test_calls_before_and_after_the_block_are_refused(container: App):
    waiting = blocking(container)
    with pytest.raises(MisuseError, match="outside the lifespan"):
        waiting.send(Add(1, 2))
    with waiting:
        assert waiting.send(Add(1, 2)) == 3
    with pytest.raises(MisuseError, match="outside the lifespan"):
        waiting.send(Add(1, 2))
    assert container.log().ended == ["resource closed"]


class Slow(BlockingMediator):
    """Pauses between its check of the loop and the submission of work."""

    between = threading.Event()
    left = threading.Event()

    def _loop_for(self, message: object) -> asyncio.AbstractEventLoop:
        loop = super()._loop_for(message)
        self.between.set()
        self.left.wait(0.2)
        return loop


@pytest.mark.parametrize("way", ["send", "stream"])
def test_a_call_accepted_just_before_the_end_is_answered(container: App, way: str):
    Slow.between.clear()
    results: list[Any] = []

    def call() -> None:
        if way == "send":
            results.append(mediator.send(Add(1, 2)))
        else:
            with mediator.stream(ListNumbers()):
                results.append(3)

    mediator = Slow(container.mediator(), lifespan(container))
    thread = threading.Thread(target=call, daemon=True)
    with mediator:
        thread.start()
        assert Slow.between.wait(5)
    thread.join(5)
    assert not thread.is_alive()
    assert results == [3]
    assert container.log().ended == ["resource closed"]


def test_threads_that_call_while_the_block_ends_are_answered_or_refused_and_none_hangs(container: App):
    answers: list[Any] = []

    def call_until_refused() -> None:
        while True:
            try:
                answers.append(mediator.send(Add(1, 2)))
            except MisuseError:
                return

    for _ in range(10):
        mediator = blocking(container)
        threads = [threading.Thread(target=call_until_refused, daemon=True) for _ in range(4)]
        with mediator:
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
    assert set(answers) <= {3}


def test_running_calls_finish_before_resources_are_closed(container: App):
    log, results = container.log(), []
    with blocking(container) as mediator:
        thread = threading.Thread(target=lambda: results.append(mediator.send(Wait())))
        thread.start()
        assert log.started.wait(5)
        loop_go = log.go
        assert loop_go is not None
        threading.Timer(0.05, lambda: release(loop_go)).start()
    thread.join(5)
    assert (log.ended, results) == (["done", "resource closed"], ["waited"])


def release(event: asyncio.Event) -> None:
    event._loop.call_soon_threadsafe(event.set)  # type: ignore[attr-defined]  # the loop that waits on it


def test_a_call_that_exceeds_the_drain_timeout_is_cancelled_before_resources_are_closed(container: App):
    log, errors = container.log(), []

    def call() -> None:
        try:
            mediator.send(Wait())
        except BaseException as error:
            errors.append(type(error).__name__)

    with blocking(container, drain_timeout=0.05) as mediator:
        thread = threading.Thread(target=call)
        thread.start()
        assert log.started.wait(5)
    thread.join(5)
    assert (log.ended, errors) == (["cancelled", "resource closed"], ["CancelledError"])


def test_a_call_inside_a_dispatch_is_refused(container: App, mediator: BlockingMediator):
    class Nested(RequestHandler[Add, int]):
        async def handle(self, command: Add) -> int:
            return mediator.send(Wait())  # type: ignore[return-value]

    container.add.override(providers.Factory(Nested))
    with pytest.raises(MisuseError, match="inside a dispatch"):
        mediator.send(Add(1, 2))


def test_a_call_in_the_thread_of_the_event_loop_is_refused(mediator: BlockingMediator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mediator, "_thread", threading.get_ident())  # a call there would wait for its own thread
    with pytest.raises(MisuseError, match="A blocking call with"):
        mediator.send(Add(1, 2))


def test_a_container_that_cannot_start_raises_its_error_and_leaves_no_thread():
    class Faulty(App):
        twin = providers.Factory(AddHandler)

    before = threading.active_count()
    with pytest.raises(ContainerValidationError):
        blocking(Faulty()).__enter__()
    assert threading.active_count() == before


def test_a_blocking_mediator_serves_a_wsgi_application(mediator: BlockingMediator):
    def application(environ: Any, start_response: Any) -> list[bytes]:
        first, second = environ["PATH_INFO"].strip("/").split("/")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(mediator.send(Add(int(first), int(second)))).encode()]

    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert httpx.get(f"http://127.0.0.1:{server.server_port}/3/4").text == "7"
        thread.join(5)


async def test_a_blocking_mediator_works_in_a_thread_with_a_running_event_loop(container: App):
    def use() -> int:
        with blocking(container) as mediator:
            return mediator.send(Add(1, 2))

    assert use() == 3
    assert isinstance(container.mediator(), Mediator)
