"""RequestConformance: the promises of `RequestChannel` as test cases."""

import asyncio
from contextlib import AsyncExitStack

from mediator.distributed.channel import IncomingCall, RemoteCall, RemoteReply, ReplyStatus
from mediator.errors import PublisherUnavailableError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.request_capability import RequestCapability
from mediator.testing.conformance.request_suite import NAME, Answer, RequestSuite, answered, ok
from mediator.testing.conformance.suite import needs

_BOUND = 20.0


class RequestConformance(RequestSuite):
    """What `RemoteSender` and `RequestResponder` build upon."""

    async def test_a_request_is_carried_whole_and_so_is_its_answer(self) -> None:
        """Name, data and headers arrive; status and data come back. Data are any bytes, headers any text."""
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
        """It is told apart from no answer."""
        async with self.opened() as channels, self.serving(channels) as calls, self.answering(calls, ok):
            assert await channels.asking.call(self.call()) == RemoteReply(ReplyStatus.OK)

    async def test_a_failure_is_carried_whole(self) -> None:
        """Status, reason, error and reference."""
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

    async def test_many_requests_at_a_time_get_each_its_own_answer(self) -> None:
        """Answers are told apart, in whichever order they come."""
        async with self.opened() as channels, self.serving(channels, waiting=200) as calls:
            asking = [asyncio.ensure_future(channels.asking.call(self.call(f"{n}"))) for n in range(100)]
            async with asyncio.timeout(self.patience):
                held = [await calls.next() for _ in asking]
                for incoming in reversed(held):
                    await incoming.reply(RemoteReply(ReplyStatus.OK, incoming.call.data))
                replies = await asyncio.gather(*asking)
        assert [reply.data for reply in replies] == [f"{n}".encode() for n in range(100)]

    async def test_nobody_who_answers_is_known_at_once(self) -> None:
        """Not when the time is over: nothing was handled, and the sender may do something else."""
        async with self.opened() as channels, asyncio.timeout(self.patience):
            with failing(PublisherUnavailableError):
                await channels.asking.call(RemoteCall(NAME, b"", 60.0))

    async def test_only_the_names_that_are_served_are_answered(self) -> None:
        """Others are as names that nobody serves."""
        other = "advising.other"
        async with (
            self.opened() as channels,
            self.serving(channels, (NAME, other)) as calls,
            self.answering(calls, ok),
        ):
            assert (await channels.asking.call(RemoteCall(other, b"", self.patience))).status is ReplyStatus.OK
            with failing(PublisherUnavailableError):
                await channels.asking.call(RemoteCall("advising.assign-advisor", b"", self.patience))

    async def test_an_answer_that_does_not_come_in_time_is_a_timeout(self) -> None:
        """Whether it was handled is open. A late answer does no harm."""
        async with self.opened() as channels, self.serving(channels) as calls:
            with failing(TimeoutError):
                await channels.asking.call(RemoteCall(NAME, b"", 0.2))
            late = await self.next(calls)
            await late.reply(RemoteReply(ReplyStatus.OK, b"late"))
            async with self.answering(calls, ok):
                assert (await channels.asking.call(self.call())).data == b""

    async def test_a_request_knows_how_long_it_has_been_waiting(self) -> None:
        """Or one would be handled for which nobody waits any more."""
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
        """A second answer does nothing."""
        async with self.opened() as channels, self.serving(channels) as calls:
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            incoming = await self.next(calls)
            await incoming.reply(RemoteReply(ReplyStatus.OK, b"first"))
            await incoming.reply(RemoteReply(ReplyStatus.OK, b"second"))
            assert (await asking).data == b"first"

    async def test_more_requests_than_may_wait_are_turned_away_as_busy(self) -> None:
        """At once; those that wait are answered nevertheless."""
        async with self.opened() as channels, self.serving(channels, waiting=2) as calls:
            asking = [asyncio.ensure_future(channels.asking.call(self.call())) for _ in range(5)]
            turned_away = asyncio.as_completed(asking, timeout=self.patience)
            assert [(await next(turned_away)).status for _ in range(3)] == [ReplyStatus.BUSY] * 3
            async with self.answering(calls, ok):
                assert [(await each).status for each in turned_away] == [ReplyStatus.OK] * 2

    async def test_leaving_answers_what_waits_and_takes_no_more(self) -> None:
        """What waits is told that it is busy there; what comes later finds nobody."""
        async with self.opened() as channels, AsyncExitStack() as leaving:
            await leaving.enter_async_context(self.serving(channels, waiting=1))
            asking = asyncio.as_completed([channels.asking.call(self.call()) for _ in range(2)], timeout=self.patience)
            await next(asking)  # that one is turned away, so the other one waits
            await leaving.aclose()
            assert (await next(asking)).status is ReplyStatus.BUSY
            with failing(PublisherUnavailableError):
                await channels.asking.call(self.call())

    async def test_what_was_taken_before_leaving_can_be_answered_after_it(self) -> None:
        """A responder that stops ends what is at hand."""
        async with self.opened() as channels, AsyncExitStack() as leaving:
            calls = await leaving.enter_async_context(self.serving(channels))
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            incoming = await self.next(calls)
            await leaving.aclose()
            await incoming.reply(RemoteReply(ReplyStatus.OK, b"done"))
            assert (await asking).data == b"done"

    async def test_two_processes_of_an_application_share_the_requests_out(self) -> None:
        """Each is answered by one of them, and none is idle."""
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
                while not counts[index]:  # the broker may not know of it yet, or ask the other one
                    await answered(channels)
            counts[:] = [0, 0]
            await asyncio.gather(*(channels.asking.call(self.call()) for _ in range(60)))
        assert sum(counts) == 60
        assert min(counts) > 0

    async def test_waiting_for_requests_can_be_cancelled_and_loses_none(self) -> None:
        """As a responder does that has no room for a moment."""
        async with self.opened() as channels, self.serving(channels) as calls:
            waiting = asyncio.ensure_future(calls.next())
            await asyncio.wait({waiting}, timeout=0.05)
            waiting.cancel()
            await asyncio.wait({waiting})
            async with self.answering(calls, ok):
                assert (await channels.asking.call(self.call())).status is ReplyStatus.OK

    async def test_a_sender_that_gives_up_leaves_nothing_behind(self) -> None:
        """Its answer goes nowhere, and the next request is answered."""
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
    async def test_too_large_a_request_is_not_sent(self) -> None:
        """It is a `ValueError`, and the channel goes on."""
        async with self.opened() as channels, self.serving(channels) as calls, self.answering(calls, ok):
            with failing(ValueError):
                await channels.asking.call(RemoteCall(NAME, b" " * (channels.largest + 1), self.patience))
            assert (await channels.asking.call(self.call())).status is ReplyStatus.OK

    @needs(RequestCapability.SIZE_LIMIT)
    async def test_too_large_an_answer_is_not_sent_and_another_one_may_be(self) -> None:
        """It is a `ValueError` for the one that answers, who says so instead."""
        async with self.opened() as channels, self.serving(channels) as calls:
            asking = asyncio.ensure_future(channels.asking.call(self.call()))
            incoming = await self.next(calls)
            with failing(ValueError):
                await incoming.reply(RemoteReply(ReplyStatus.OK, b" " * (channels.largest + 1)))
            await incoming.reply(RemoteReply(ReplyStatus.UNREADABLE, reason="too large", reference="42"))
            assert await asking == RemoteReply(ReplyStatus.UNREADABLE, reason="too large", reference="42")

    @needs(RequestCapability.OUTAGE)
    async def test_an_outage_is_told_and_service_goes_on_after_it(self) -> None:
        """In it nothing is sent, or no answer comes, within the time given; the one that serves need not open again."""
        async with self.opened() as channels, self.serving(channels) as calls:
            assert channels.outage is not None
            async with channels.outage(), asyncio.timeout(_BOUND):
                with failing(PublisherUnavailableError, TimeoutError):
                    await channels.asking.call(RemoteCall(NAME, b"", 1.0))
            await self.known(channels, calls)
