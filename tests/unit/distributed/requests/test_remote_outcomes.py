"""The outcome of a commit that a sender in another application, thread or task observes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from structlog.testing import capture_logs

from mediator import Command, Query, TransactionMode, current_scope
from mediator.blocking import BlockingMediator
from mediator.distributed.requests import RemoteSender, RequestCodec, RequestResponder, trust_broker
from mediator.errors import (
    CommitOutcomeUnknownError,
    CommittedError,
    RemoteFailedError,
    RemoteResponseError,
    RemoteTimeoutError,
)
from mediator.fastapi import RequestMediator
from mediator.testing import InMemoryRequestChannel
from mediator.testing.failpoints import Failure, failpoint
from tests.unit.errors.test_outcomes import LATE, App, Write, after, raising
from tests.unit.wiring import bind, handles


@dataclass(frozen=True)
class Store(Command[int]):
    request_type: ClassVar[str] = "outcomes.store"
    row: str


@dataclass(frozen=True)
class Look(Query[int]):
    """A request without a transaction whose handler sends a command."""

    request_type: ClassVar[str] = "outcomes.look"
    row: str


class Shop(App):
    """An application that handles `Store` and `Look` for others. The handlers call `part`."""

    part: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        handlers = [
            *self.mediator.registry.handlers,
            bind(handles(Store, self._store)),
            bind(handles(Look, self._look)),
        ]
        self.mediator.rebind(type(self.mediator.registry)(handlers, self.mediator.registry.behaviors, []))

    async def _store(self, command: Store) -> int:
        self.unit_of_work.table("rows")[command.row] = command.row
        if self.part is not None:
            await self.part()
        return len(command.row)

    async def _look(self, query: Look) -> int:
        await self.send(Write(query.row))
        return 1

    @asynccontextmanager
    async def asked(self, codec: RequestCodec | None = None) -> AsyncIterator[RemoteSender]:
        channel = InMemoryRequestChannel()
        responder = RequestResponder(channel, self.mediator, exposes=[Store, Look], authenticate=trust_broker)
        running = asyncio.create_task(responder.run())
        await asyncio.sleep(0)
        try:
            if codec is not None:
                channel.codec = codec
            yield RemoteSender(channel, timeout=0.5)
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_committed_command_is_answered_with_its_response_and_its_late_error_is_logged() -> None:
    shop = Shop([after(raising(LATE), Store)])
    with capture_logs() as logs:
        async with shop.asked() as sender:
            assert await sender.send(Store("abc")) == 3
    assert shop.rows == ["abc"]
    assert [line["error"] for line in logs if line["event"] == "request failed after the commit"] == ["CommittedError"]


async def test_a_committed_command_is_answered_although_the_exit_of_its_scope_is_cancelled() -> None:
    async def be_cancelled() -> int:
        current_scope().on_exit(lambda _error: (_ for _ in ()).throw(asyncio.CancelledError()))
        return 3

    shop = Shop([after(be_cancelled, Store)])
    async with shop.asked() as sender:
        assert await sender.send(Store("abc")) == 3
    assert shop.rows == ["abc"]


async def test_a_command_fails_although_its_inner_command_committed() -> None:
    shop = Shop([after(raising(LATE), Write)])

    async def inner() -> None:
        await shop.send(Write("inner"), mode=TransactionMode.NEW)

    shop.part = inner
    async with shop.asked() as sender:
        with pytest.raises(RemoteFailedError):
            await sender.send(Store("outer"))
    assert shop.rows == ["inner"]


async def test_a_partly_committed_request_is_reported_as_handled_without_a_response() -> None:
    shop = Shop([after(raising(LATE), Write)])
    async with shop.asked() as sender:
        with pytest.raises(RemoteResponseError, match="was handled"):
            await sender.send(Look("part"))
    assert shop.rows == ["part"]


async def test_a_request_with_an_unknown_outcome_is_not_answered() -> None:
    unknown = CommitOutcomeUnknownError("1", "the connection was lost")
    with failpoint("unit_of_work.during_commit", Failure(unknown)):
        async with Shop().asked() as sender:
            with pytest.raises(RemoteTimeoutError):
                await sender.send(Store("a"))


class StumblingCodec:
    """A codec that decodes each response in the check before sending, and fails to decode it at the sender."""

    def __init__(self, codec: RequestCodec) -> None:
        self._codec = codec
        self.encode = codec.encode
        self.problem = codec.problem
        self._read = False

    def decode(self, data: bytes, annotation: Any, /) -> Any:
        read, self._read = self._read, annotation is int
        if read and annotation is int:
            raise TypeError("a hook of the application")
        return self._codec.decode(data, annotation)


async def test_a_response_that_cannot_be_decoded_is_reported_as_handled() -> None:
    shop = Shop()
    async with shop.asked(StumblingCodec(InMemoryRequestChannel().codec)) as sender:
        with pytest.raises(RemoteResponseError, match="a hook of the application"):
            await sender.send(Store("a"))
    assert shop.rows == ["a"]


def test_a_blocking_call_cancelled_after_the_commit_reports_the_commit() -> None:
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    app = App([after(hang)])

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield

    async def cancel_all() -> None:
        await reached.wait()
        for task in blocking._running:
            task.cancel()

    with BlockingMediator(app.mediator, lifespan(), drain_timeout=0.1) as blocking:
        loop = blocking._loop
        assert loop is not None
        asyncio.run_coroutine_threadsafe(cancel_all(), loop)
        with pytest.raises(CommittedError) as caught:
            blocking.send(Write())
    assert (caught.value.response, app.rows) == ("A", ["a"])


@pytest.mark.parametrize("sends", [True, False])
async def test_a_web_request_whose_scope_cannot_be_closed_after_a_commit_is_answered_by_its_endpoint(
    sends: bool,
) -> None:
    shop = App()

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[Any]:
        yield {"mediator": shop.mediator}

    web = FastAPI(lifespan=lifespan)

    @web.post("/rows/{row}")
    async def add(row: str, mediator: RequestMediator) -> str:
        current_scope().on_exit(lambda _error: (_ for _ in ()).throw(LATE))
        return await mediator.send(Write(row)) if sends else "nothing"

    @web.middleware("http")
    async def give_state(request: Any, call_next: Any) -> Any:
        request.state.mediator = shop.mediator
        return await call_next(request)

    with capture_logs() as logs:
        async with AsyncClient(
            transport=ASGITransport(web, raise_app_exceptions=False), base_url="http://test"
        ) as client:
            answer = await client.post("/rows/a")
    if sends:
        assert (answer.status_code, answer.json(), shop.rows) == (200, "A", ["a"])
        assert [line["error"] for line in logs if line["event"] == "request failed after the commit"] == ["OSError"]
    else:
        assert answer.status_code == 500
