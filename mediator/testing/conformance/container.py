"""ContainerConformance: what the mediator needs of a dependency injection container, as test cases."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from mediator.errors import HandlerNotFoundError
from mediator.mediator import Mediator
from mediator.testing.conformance.container_capability import ContainerCapability
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.sample_application import (
    CountPools,
    Enroll,
    Enrolled,
    Fail,
    ListSessions,
    SampleApplication,
    Session,
    Undone,
    Used,
    Watch,
)
from mediator.testing.conformance.suite import ConformanceSuite, needs
from mediator.transactions import TransactionMode

_CLOSED = ["session closed", "connection closed"]


class ContainerConformance(ConformanceSuite):
    """Objects are shared by one dispatch and those that join it, and closed at its end; others live with the application."""

    @abstractmethod
    def opened(self, application: SampleApplication, /) -> AbstractAsyncContextManager[Mediator]:
        """Start an application whose container makes what is in the sample; at the end of the context it stops.

        The container makes one `Pool` (`application.open_pool`) for all; one `Connection` (`open_connection`) and one
        `Session` (`open_session`) a scope; a `Ticket`, with `ContainerCapability.FACTORY` a new one each time; a `Broken`
        by `make_broken`; and the handlers and the behavior of the sample. `application.registry(source)` binds these to
        sources of the container.
        """

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[tuple[Mediator, list[str]], None]:
        """The mediator, and the journal of what is opened and closed."""
        application = SampleApplication()
        async with self.opened(application) as mediator:
            yield mediator, application.journal

    async def test_a_handler_is_made_with_what_it_needs(self) -> None:
        """Of whatever lifetime, also of those that are opened asynchronously."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            assert isinstance(used, Used)
            assert isinstance(used.session, Session)

    async def test_the_behaviors_and_the_handler_of_a_dispatch_share_its_objects(self) -> None:
        """A behavior that begins a transaction does so on the session that the handler works with."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            assert [type(one) for one in used.session.seen_by] == [Watch]

    async def test_each_dispatch_has_objects_of_its_own(self) -> None:
        """Nothing of one dispatch is left for the next."""
        async with self.started() as (mediator, _):
            first, second = await mediator.send(Enroll()), await mediator.send(Enroll())
            assert first.session is not second.session
            assert first.session.connection is not second.session.connection

    async def test_concurrent_dispatches_have_objects_of_their_own(self) -> None:
        """Also when they wait in the midst of each other."""
        async with self.started() as (mediator, journal):
            used = await asyncio.gather(*(mediator.send(Enroll()) for _ in range(20)))
            assert len({id(each.session) for each in used}) == 20
            assert all(each.session.closed and len(each.session.seen_by) == 1 for each in used)
            assert journal.count("connection closed") == journal.count("connection opened") == 20

    async def test_what_lives_with_the_application_is_shared_by_all_dispatches(self) -> None:
        """It is opened once, be it at the start or when it is first needed, also when many need it at once."""
        async with self.started() as (mediator, journal):
            used = await asyncio.gather(*(mediator.send(Enroll()) for _ in range(5)))
            assert len({id(each.pool) for each in used}) == 1
            assert await mediator.send(CountPools()) == id(used[0].pool)
            assert journal.count("pool opened") == 1

    async def test_what_lives_with_the_application_is_closed_at_its_end(self) -> None:
        """Not by a dispatch, and not before the last one is over."""
        async with self.started() as (mediator, journal):
            await mediator.send(Enroll())
            assert "pool closed" not in journal
        assert journal[-1] == "pool closed"
        assert journal.count("pool closed") == 1

    @needs(ContainerCapability.FACTORY)
    async def test_a_factory_makes_a_new_object_each_time(self) -> None:
        """Also within one dispatch."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            (watch,) = used.session.seen_by
            assert isinstance(watch, Watch)
            assert watch.ticket is not used.ticket
            assert (await mediator.send(Enroll())).ticket is not used.ticket

    async def test_the_objects_of_a_dispatch_are_open_to_its_end_and_closed_then(self) -> None:
        """When the caller has the response, they are closed."""
        seen: list[bool] = []

        async def look(session: Session) -> None:
            await asyncio.sleep(0)
            seen.append(session.closed)

        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll(look))
            assert seen == [False]
            assert used.session.closed

    async def test_objects_are_closed_in_the_reverse_order_of_their_making(self) -> None:
        """What needs another is closed before it."""
        async with self.started() as (mediator, journal):
            await mediator.send(Enroll())
            of_scope = [entry for entry in journal if not entry.startswith("pool")]
            assert of_scope == ["connection opened", "session opened", *_CLOSED]

    async def test_a_failure_closes_the_objects_and_reaches_the_sender_as_it_is(self) -> None:
        """Neither wrapped nor replaced, or nobody could catch it."""
        failure = LookupError("no such student")

        async def fail(_session: Session) -> None:
            raise failure

        async with self.started() as (mediator, journal):
            with failing(LookupError) as caught:
                await mediator.send(Enroll(fail))
            assert caught == [failure]
            assert journal[-2:] == _CLOSED

    async def test_a_cancellation_closes_the_objects(self) -> None:
        """The sender is told only then."""
        begun = asyncio.Event()

        async def hang(_session: Session) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with self.started() as (mediator, journal):
            sending = asyncio.ensure_future(mediator.send(Enroll(hang)))
            async with asyncio.timeout(10):
                await begun.wait()
                sending.cancel()
                await asyncio.wait({sending})
            assert sending.cancelled()
            assert journal[-2:] == _CLOSED

    async def test_what_cannot_be_made_fails_the_dispatch_and_closes_what_was_made(self) -> None:
        """The error is that of the factory, and the next dispatch is as any other."""
        async with self.started() as (mediator, journal):
            with failing(LookupError):
                await mediator.send(Fail())
            assert journal.count("session opened") == journal.count("session closed")
            assert journal.count("connection opened") == journal.count("connection closed")
            assert (await mediator.send(Enroll())).session.closed

    async def test_a_message_without_a_handler_is_refused_and_nothing_is_opened(self) -> None:
        """With the mediator's own `HandlerNotFoundError`."""
        async with self.started() as (mediator, journal):
            with failing(HandlerNotFoundError):
                await mediator.send(Undone())
            assert [entry for entry in journal if not entry.startswith("pool")] == []

    async def test_what_nobody_needs_is_not_opened(self) -> None:
        """A dispatch that needs no session takes no connection from its pool."""
        async with self.started() as (mediator, journal):
            await mediator.send(CountPools())
            assert [entry for entry in journal if not entry.startswith("pool")] == []

    async def test_a_dispatch_within_another_shares_its_objects(self) -> None:
        """They are closed at the end of the outer one."""
        inner: list[Used] = []
        async with self.started() as (mediator, journal):

            async def send_another(session: Session) -> None:
                inner.append(await mediator.send(Enroll()))
                assert not session.closed

            outer = await mediator.send(Enroll(send_another))
            assert inner[0].session is outer.session
            assert journal.count("session opened") == journal.count("session closed") == 1

    async def test_a_dispatch_of_its_own_within_another_does_not_share(self) -> None:
        """`TransactionMode.NEW`: its objects are closed at its end, and those of the outer one are still there."""
        inner: list[Used] = []
        async with self.started() as (mediator, _):

            async def send_another(session: Session) -> None:
                inner.append(await mediator.send(Enroll(), mode=TransactionMode.NEW))
                assert inner[0].session.closed
                assert not session.closed
                inner.append(await mediator.send(Enroll()))

            outer = await mediator.send(Enroll(send_another))
            assert inner[0].session is not outer.session
            assert inner[1].session is outer.session

    async def test_dispatches_in_one_scope_share_its_objects(self) -> None:
        """`mediator.scope()` is the outermost there."""
        async with self.started() as (mediator, journal):
            async with mediator.scope():
                first, second = await mediator.send(Enroll()), await mediator.send(Enroll())
                assert first.session is second.session
                assert "session closed" not in journal
            assert journal[-2:] == _CLOSED

    async def test_the_handlers_of_a_notification_get_their_objects_too(self) -> None:
        """Those of the dispatch that publishes, or of a scope of their own when there is none."""
        notification = Enrolled()
        async with self.started() as (mediator, _):

            async def publish(_session: Session) -> None:
                await mediator.publish(notification)

            outer = await mediator.send(Enroll(publish))
            await mediator.publish(notification)
        inside, outside = notification.heard
        assert inside is outer.session
        assert outside is not outer.session
        assert outside.closed

    async def test_a_stream_keeps_its_objects_until_it_is_left(self) -> None:
        """To its end, or broken off before."""
        async with self.started() as (mediator, _):
            for stop_after in (1, 3):
                seen: list[Session] = []
                async with mediator.stream(ListSessions()) as sessions:
                    async for session in sessions:
                        assert not session.closed
                        seen.append(session)
                        if len(seen) == stop_after:
                            break
                assert len({*map(id, seen)}) == 1
                assert seen[0].closed
