"""RequestSuite: what the cases of the request channel have in common."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from mediator.distributed.channel import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
)
from mediator.errors import PublisherUnavailableError
from mediator.testing.conformance.suite import ConformanceSuite
from mediator.testing.conformance.transport import Outage

NAME = "advising.find-advisor"

Answer = Callable[[IncomingCall], Awaitable[RemoteReply]]


@dataclass(frozen=True, kw_only=True)
class RequestsUnderTest:
    """The channels of two applications on one broker, for one case.

    Attributes:
        asking: The channel of the application that sends requests.
        serving: The channel of the one that answers them.
        outage: Takes the broker down for as long as the context lasts (`RequestCapability.OUTAGE`).
        largest: The largest request that the broker takes, in bytes (`SIZE_LIMIT`).
    """

    asking: RequestChannel
    serving: RequestChannel
    outage: Outage | None = None
    largest: int = 0


class RequestSuite(ConformanceSuite):
    """Cases that begin with the channels of two applications.

    Attributes:
        patience: How long an answer may take, in seconds, before a case fails.
    """

    patience: ClassVar[float] = 15.0

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[RequestsUnderTest]:
        """Open channels that nobody else uses, for one case."""

    @asynccontextmanager
    async def serving(
        self, channels: RequestsUnderTest, names: Collection[str] = (NAME,), *, waiting: int = 100
    ) -> AsyncGenerator[IncomingCalls, None]:
        """Serve names as one process does, and wait until it is known to the broker."""
        async with channels.serving.serve(names, waiting=waiting) as calls:
            await self.known(channels, calls, next(iter(names)))
            yield calls

    async def known(self, channels: RequestsUnderTest, calls: IncomingCalls, name: str = NAME) -> None:
        """Wait until a request of that name arrives, and answer those by which this is found out."""

        async def answer_probes() -> None:
            while True:
                await (await calls.next()).reply(RemoteReply(ReplyStatus.OK))

        answering = asyncio.ensure_future(answer_probes())
        try:
            async with asyncio.timeout(self.patience):
                while not await answered(channels, name):  # noqa: ASYNC110  # there is no sign for it
                    await asyncio.sleep(0.01)
        finally:
            answering.cancel()
            await asyncio.wait({answering})

    @asynccontextmanager
    async def answering(self, calls: IncomingCalls, answer: Answer) -> AsyncGenerator[None, None]:
        """Answer what comes, one after the other, for as long as the context lasts."""

        async def work() -> None:
            while True:
                incoming = await calls.next()
                await incoming.reply(await answer(incoming))

        working = asyncio.ensure_future(work())
        try:
            yield
        finally:
            working.cancel()
            await asyncio.wait({working})

    def call(self, data: str = "") -> RemoteCall:
        """A request to the name that the cases serve."""
        return RemoteCall(NAME, data.encode(), self.patience)

    async def next(self, calls: IncomingCalls) -> IncomingCall:
        """The next request, in a bounded time."""
        async with asyncio.timeout(self.patience):
            return await calls.next()


async def ok(_incoming: IncomingCall) -> RemoteReply:
    """Answer with nothing."""
    return RemoteReply(ReplyStatus.OK)


async def answered(channels: RequestsUnderTest, name: str = NAME) -> bool:
    """Whether somebody answers."""
    try:
        return (await channels.asking.call(RemoteCall(name, b"", 1.0))).status is ReplyStatus.OK
    except (PublisherUnavailableError, TimeoutError):
        return False
