"""RequestConformance: the promises of `RequestChannel` as test cases."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

from mediator.blocks import asynccontextmanager
from mediator.distributed.requests import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
)
from mediator.errors import PublisherUnavailableError
from mediator.testing.conformance.suite import ConformanceSuite, failing, needs, undeclared
from mediator.testing.conformance.transport import Outage

NAME = "advising.find-advisor"

Answer = Callable[[IncomingCall], Awaitable[RemoteReply]]


@dataclass(frozen=True, kw_only=True)
class RequestsUnderTest:
    """The channels of two applications on one broker, for one case.

    Attributes:
        asking: The channel of the application that sends requests.
        serving: The channel of the application that answers requests.
        outage: Returns a context in which the broker is down. Needed only for `RequestCapability.OUTAGE`.
        largest: The largest request that the broker accepts, in bytes. Needed only for `SIZE_LIMIT`.
    """

    asking: RequestChannel
    serving: RequestChannel
    outage: Outage = undeclared
    largest: int = 0


class RequestSuite(ConformanceSuite):
    """The base class of suites whose cases begin with the channels of two applications.

    Attributes:
        patience: Seconds that a case waits for an answer before it fails.
    """

    patience: ClassVar[float] = 15.0

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[RequestsUnderTest]:
        """Open the channels of two applications, for one case."""

    @asynccontextmanager
    async def serving(
        self, channels: RequestsUnderTest, names: Collection[str] = (NAME,), *, waiting: int = 100
    ) -> AsyncGenerator[IncomingCalls, None]:
        """Serve the given names, wait until the broker delivers requests for the names, and yield the incoming requests."""
        async with channels.serving.serve(names, waiting=waiting) as calls:
            await self.known(channels, calls, next(iter(names)))
            yield calls

    async def known(self, channels: RequestsUnderTest, calls: IncomingCalls, name: str = NAME) -> None:
        """Send requests with the given name until a request is answered."""
        async with self.answering(calls, ok), asyncio.timeout(self.patience):
            while not await answered(channels, name):  # noqa: ASYNC110  # there is no signal to wait for
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def answering(self, calls: IncomingCalls, answer: Answer) -> AsyncGenerator[None, None]:
        """Answer incoming requests, one after the other, until the context ends."""

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
        """Return a request with the name that the cases serve."""
        return RemoteCall(NAME, data.encode(), self.patience)

    async def next(self, calls: IncomingCalls) -> IncomingCall:
        """Return the next request, or fail after `patience` seconds."""
        async with asyncio.timeout(self.patience):
            return await calls.next()


async def ok(_incoming: IncomingCall) -> RemoteReply:
    """Return a successful answer without data."""
    return RemoteReply(ReplyStatus.OK)


async def answered(channels: RequestsUnderTest, name: str = NAME) -> bool:
    """Send a request with the given name, and return whether the request was answered."""
    try:
        return (await channels.asking.call(RemoteCall(name, b"", 1.0))).status is ReplyStatus.OK
    except (PublisherUnavailableError, TimeoutError):
        return False


class RequestCapability(Enum):
    """Optional abilities of a channel. A suite omits the cases for abilities missing from `capabilities`."""

    OUTAGE = auto()
    """The test can take the broker down and bring it back, with `RequestsUnderTest.outage`."""
    SIZE_LIMIT = auto()
    """The broker refuses messages larger than `RequestsUnderTest.largest`."""


_BOUND = 20.0
"""Seconds within which a request must fail during an outage."""


class RequestConformance(RequestSuite):
    """The promises that `RemoteSender` and `RequestResponder` depend on."""

    async def test_a_request_and_its_answer_are_transmitted_completely(self) -> None:
        """The responder gets the name, data and headers. The sender gets the status and data.

        Data may be any bytes, and headers may be any text.
        """
        seen: list[RemoteCall] = []

        async def answer(incoming: IncomingCall) -> RemoteReply:
            seen.append(incoming.call)
            return RemoteReply(ReplyStatus.OK, bytes(reversed(incoming.call.data)))

        async with self.opened() as channels, self.serving(channels) as calls, self.answering(calls, answer):
            headers = {"tenant": "münchen 100%", "authorization": "Bearer t0ken"}
            reply = await channels.asking.call(RemoteCall(NAME, bytes(range(256)), self.patience, headers))
        assert (reply.status, reply.data) == (ReplyStatus.OK, bytes(range(255, -1, -1)))
        assert (seen[0].name, seen[0].data) == (NAME, bytes(range(256)))
        assert headers.items() <= {**seen[0].headers}.items()
        assert 0 < seen[0].timeout <= self.patience

    async def test_an_answer_may_have_no_data(self) -> None:
        """An answer without data is still an answer."""
        async with self.opened() as channels, self.serving(channels) as calls, self.answering(calls, ok):
            assert await channels.asking.call(self.call()) == RemoteReply(ReplyStatus.OK)

    async def test_a_failure_is_transmitted_completely(self) -> None:
        """The sender gets the status, reason, error and reference of the failure."""
        failures = [
            RemoteReply(ReplyStatus.FAILED, reason="no advisor\r\nis frei: ü", error="LookupError", reference="42"),
            RemoteReply(ReplyStatus.REFUSED, reason="no valid token"),
            RemoteReply(ReplyStatus.BUSY, reason="too many"),
        ]
        waiting = iter(failures)

        async def answer(_incoming: IncomingCall) -> RemoteReply:
            return next(waiting)

        async with self.opened() as channels, self.serving(channels) as calls, self.answering(calls, answer):
            replies = [await channels.asking.call(self.call()) for _ in failures]
        assert replies == failures

    async def test_each_concurrent_request_gets_its_own_answer(self) -> None:
        """The answers may be sent in any order."""
        async with self.opened() as channels, self.serving(channels, waiting=200) as calls:
            asking = [asyncio.ensure_future(channels.asking.call(self.call(f"{n}"))) for n in range(100)]
            async with asyncio.timeout(self.patience):
                held = [await calls.next() for _ in asking]
                for incoming in reversed(held):
                    await incoming.reply(RemoteReply(ReplyStatus.OK, incoming.call.data))
                replies = await asyncio.gather(*asking)
        assert [reply.data for reply in replies] == [f"{n}".encode() for n in range(100)]

    async def test_a_request_that_nobody_serves_fails_at_once(self) -> None:
        """The error is raised before the timeout, and tells the sender that the request was not handled."""
        async with self.opened() as channels, asyncio.timeout(self.patience):
            with failing(PublisherUnavailableError):
                await channels.asking.call(RemoteCall(NAME, b"", 60.0))

    async def test_only_the_names_that_are_served_are_answered(self) -> None:
        """A request with a name that is not served raises `PublisherUnavailableError`."""
        other = "advising.other"
        async with self.opened() as channels, self.serving(channels, (NAME, other)) as calls, self.answering(calls, ok):
            assert (await channels.asking.call(RemoteCall(other, b"", self.patience))).status is ReplyStatus.OK
            with failing(PublisherUnavailableError):
                await channels.asking.call(RemoteCall("advising.assign-advisor", b"", self.patience))

    async def test_a_request_without_an_answer_in_time_raises_a_timeout(self) -> None:
        """The sender does not know whether the request was handled. A late answer is ignored."""
        async with self.opened() as channels, self.serving(channels) as calls:
            with failing(TimeoutError):
                await channels.asking.call(RemoteCall(NAME, b"", 0.2))
            late = await self.next(calls)
            await late.reply(RemoteReply(ReplyStatus.OK, b"late"))
            async with self.answering(calls, ok):
                assert (await channels.asking.call(self.call())).data == b""

    async def test_a_request_knows_how_long_it_has_been_waiting(self) -> None:
        """The responder can skip a request whose sender no longer waits."""
        async with self.opened() as channels, self.serving(channels) as calls:
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            await asyncio.sleep(0)
            incoming = await self.next(calls)
            before = incoming.waited
            await asyncio.sleep(0.05)
            assert before >= 0
            assert before + 0.03 < incoming.waited < self.patience
            await incoming.reply(RemoteReply(ReplyStatus.OK))
            await asking

    async def test_a_request_is_answered_once(self) -> None:
        """A second answer is ignored."""
        async with self.opened() as channels, self.serving(channels) as calls:
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            incoming = await self.next(calls)
            await incoming.reply(RemoteReply(ReplyStatus.OK, b"first"))
            await incoming.reply(RemoteReply(ReplyStatus.OK, b"second"))
            assert (await asking).data == b"first"

    async def test_requests_beyond_the_limit_are_rejected_as_busy(self) -> None:
        """The excess requests are rejected at once. Requests that already wait are still answered."""
        async with self.opened() as channels, self.serving(channels, waiting=2) as calls:
            asking = [asyncio.ensure_future(channels.asking.call(self.call())) for _ in range(5)]
            completed = asyncio.as_completed(asking, timeout=self.patience)
            assert [(await next(completed)).status for _ in range(3)] == [ReplyStatus.BUSY] * 3
            async with self.answering(calls, ok):
                assert [(await each).status for each in completed] == [ReplyStatus.OK] * 2

    async def test_waiting_requests_are_answered_as_busy_when_their_responder_stops(self) -> None:
        """A later request raises `PublisherUnavailableError`, because no process serves its name."""
        async with self.opened() as channels, AsyncExitStack() as leaving:
            await leaving.enter_async_context(self.serving(channels, waiting=1))
            asking = asyncio.as_completed([channels.asking.call(self.call()) for _ in range(2)], timeout=self.patience)
            await next(asking)  # of the two requests, one is rejected at once and the other one waits
            await leaving.aclose()
            assert (await next(asking)).status is ReplyStatus.BUSY
            with failing(PublisherUnavailableError):
                await channels.asking.call(self.call())

    async def test_a_responder_that_stops_can_still_answer_the_requests_it_has_taken(self) -> None:
        """The answers still reach the senders of the requests."""
        async with self.opened() as channels, AsyncExitStack() as leaving:
            calls = await leaving.enter_async_context(self.serving(channels))
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            incoming = await self.next(calls)
            await leaving.aclose()
            await incoming.reply(RemoteReply(ReplyStatus.OK, b"done"))
            assert (await asking).data == b"done"

    async def test_two_processes_of_an_application_share_the_requests(self) -> None:
        """Each request is answered by one process, and both processes get requests."""
        counts = [0, 0]

        def counting(index: int) -> Answer:
            async def count(_incoming: IncomingCall) -> RemoteReply:
                counts[index] += 1
                return RemoteReply(ReplyStatus.OK)

            return count

        async with self.opened() as channels, AsyncExitStack() as stack:
            for index in range(2):
                calls = await stack.enter_async_context(channels.serving.serve([NAME], waiting=100))
                await stack.enter_async_context(self.answering(calls, counting(index)))
                while not counts[index]:  # the broker may not know this process yet, or may ask the other process
                    await answered(channels)
            counts[:] = [0, 0]
            await asyncio.gather(*(channels.asking.call(self.call()) for _ in range(60)))
        assert sum(counts) == 60
        assert min(counts) > 0

    async def test_a_cancelled_wait_for_requests_loses_no_request(self) -> None:
        """A responder cancels its wait when it cannot take more requests."""
        async with self.opened() as channels, self.serving(channels) as calls:
            waiting = asyncio.ensure_future(calls.next())
            await asyncio.wait({waiting}, timeout=0.05)
            waiting.cancel()
            await asyncio.wait({waiting})
            async with self.answering(calls, ok):
                assert (await channels.asking.call(self.call())).status is ReplyStatus.OK

    async def test_the_answer_to_a_sender_that_gave_up_is_dropped(self) -> None:
        """The next request gets its own answer, and not the dropped answer."""
        async with self.opened() as channels, self.serving(channels) as calls:
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            incoming = await self.next(calls)
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
            await incoming.reply(RemoteReply(ReplyStatus.OK, b"for nobody"))
            async with self.answering(calls, ok):
                assert (await channels.asking.call(self.call())).data == b""

    @needs(RequestCapability.SIZE_LIMIT)
    async def test_a_request_that_is_too_large_is_not_sent(self) -> None:
        """The call raises a `ValueError`, and the channel still works."""
        async with self.opened() as channels, self.serving(channels) as calls, self.answering(calls, ok):
            with failing(ValueError):
                await channels.asking.call(RemoteCall(NAME, b" " * (channels.largest + 1), self.patience))
            assert (await channels.asking.call(self.call())).status is ReplyStatus.OK

    @needs(RequestCapability.SIZE_LIMIT)
    async def test_an_answer_that_is_too_large_can_be_replaced_by_another_one(self) -> None:
        """`reply` raises a `ValueError`, and the responder can reply with an error instead."""
        async with self.opened() as channels, self.serving(channels) as calls:
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            incoming = await self.next(calls)
            with failing(ValueError):
                await incoming.reply(RemoteReply(ReplyStatus.OK, b" " * (channels.largest + 1)))
            await incoming.reply(RemoteReply(ReplyStatus.UNREADABLE, reason="too large", reference="42"))
            assert await asking == RemoteReply(ReplyStatus.UNREADABLE, reason="too large", reference="42")

    @needs(RequestCapability.OUTAGE)
    async def test_requests_are_served_again_after_an_outage(self) -> None:
        """During the outage, a call fails in time: the request is not sent, or no answer arrives.

        After the outage, the same channels work again.
        """
        async with self.opened() as channels, self.serving(channels) as calls:
            async with channels.outage(), asyncio.timeout(_BOUND):
                with failing(PublisherUnavailableError, TimeoutError):
                    await channels.asking.call(RemoteCall(NAME, b"", 1.0))
            await self.known(channels, calls)
