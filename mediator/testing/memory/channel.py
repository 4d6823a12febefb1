"""InMemoryRequestChannel: requests between applications in one process, for tests."""

import asyncio
from collections import deque
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

    Give the same channel to the senders and the responders under test. Several responders may serve the same name. The
    next request goes to the least recently used of them.

    Attributes:
        available: False to simulate an outage of the broker: every call then raises an error.
    """

    def __init__(self, *, codec: RequestCodec | None = None) -> None:
        self.codec: RequestCodec = codec or MsgspecRequestCodec()
        self.place: str = "InMemoryRequestChannel"
        self.available: bool = True
        self._owner = Owner("The in-memory request channel")
        self._serving: deque[tuple[frozenset[str], _Calls]] = deque()

    async def call(self, call: RemoteCall, /) -> RemoteReply:
        self._owner.check()
        if not self.available:
            raise PublisherUnavailableError(self.place, "it simulates an outage")
        for entry in self._serving:
            if call.name in entry[0]:
                self._serving.remove(entry)
                self._serving.append(entry)
                async with asyncio.timeout(call.timeout):
                    return await entry[1].ask(call)
        raise PublisherUnavailableError(self.place, "no application answers to its name")

    @asynccontextmanager
    async def serve(self, names: Collection[str], /, *, waiting: int) -> AsyncGenerator[IncomingCalls, None]:
        self._owner.check()
        entry = (frozenset(names), _Calls(waiting))
        self._serving.append(entry)
        try:
            yield entry[1]
        finally:
            self._serving.remove(entry)
            await entry[1].reject_waiting()


class _Calls(IncomingCalls):
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[_Call] = deque()
        self._news = asyncio.Event()

    async def ask(self, call: RemoteCall) -> RemoteReply:
        if len(self._waiting) >= self._limit:
            return RemoteReply(ReplyStatus.BUSY, reason="too many requests wait there")
        incoming = _Call(call)
        self._waiting.append(incoming)
        self._news.set()
        return await incoming.answer

    async def next(self) -> IncomingCall:
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    async def reject_waiting(self) -> None:
        while self._waiting:
            await self._waiting.popleft().reply(RemoteReply(ReplyStatus.BUSY, reason="it is stopping"))


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
