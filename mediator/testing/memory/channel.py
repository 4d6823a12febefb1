"""InMemoryRequestChannel: requests between applications in one process, for tests."""

import asyncio
from collections.abc import AsyncGenerator, Collection

from mediator.blocks import asynccontextmanager
from mediator.distributed.requests import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
    RequestCodec,
)
from mediator.errors import PublisherUnavailableError
from mediator.msgspec import MsgspecRequestCodec
from mediator.owner import Owner


class InMemoryRequestChannel(RequestChannel):
    """Transmits requests between applications in one process.

    Give the same channel to the senders and the responders under test. Responders that serve the same name take turns.

    Attributes:
        available: Whether the broker works. With False, every call raises an error, as during an outage.
    """

    def __init__(self, *, codec: RequestCodec | None = None) -> None:
        self.codec: RequestCodec = codec or MsgspecRequestCodec()
        self.place: str = "InMemoryRequestChannel"
        self.available: bool = True
        self._owner = Owner("The in-memory request channel")
        self._serving: list[_Calls] = []

    async def call(self, call: RemoteCall, /) -> RemoteReply:
        self._owner.check()
        if not self.available:
            raise PublisherUnavailableError(self.place, "it simulates an outage")
        for calls in self._serving:
            if call.name in calls.names:
                self._serving.remove(calls)
                self._serving.append(calls)
                async with asyncio.timeout(call.timeout):
                    return await calls.ask(call)
        raise PublisherUnavailableError(self.place, "no application serves requests of this name")

    @asynccontextmanager
    async def serve(self, names: Collection[str], /, *, waiting: int) -> AsyncGenerator[IncomingCalls, None]:
        self._owner.check()
        calls = _Calls(names, waiting)
        self._serving.append(calls)
        try:
            yield calls
        finally:
            self._serving.remove(calls)
            await calls.reject_waiting()


class _Calls(IncomingCalls):
    def __init__(self, names: Collection[str], limit: int) -> None:
        self.names = frozenset(names)
        self._waiting: asyncio.Queue[_Call] = asyncio.Queue(limit)

    async def ask(self, call: RemoteCall) -> RemoteReply:
        if self._waiting.full():
            return RemoteReply(ReplyStatus.BUSY, reason="too many requests already wait at the responder")
        incoming = _Call(call)
        self._waiting.put_nowait(incoming)
        return await incoming.answer

    async def next(self) -> IncomingCall:
        return await self._waiting.get()

    async def reject_waiting(self) -> None:
        while not self._waiting.empty():
            await self._waiting.get_nowait().reply(RemoteReply(ReplyStatus.BUSY, reason="the responder is stopping"))


class _Call(IncomingCall):
    def __init__(self, call: RemoteCall) -> None:
        self.call = call
        self.answer: asyncio.Future[RemoteReply] = asyncio.get_running_loop().create_future()
        self._arrived = asyncio.get_running_loop().time()

    @property
    def waited(self) -> float:
        return asyncio.get_running_loop().time() - self._arrived

    async def reply(self, reply: RemoteReply, /) -> None:
        if not self.answer.done():
            self.answer.set_result(reply)
