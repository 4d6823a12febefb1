"""ContainerConformance: what the mediator needs of a dependency injection container, and a sample of its objects."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from mediator.binding import Binding
from mediator.blocks import asynccontextmanager
from mediator.errors import HandlerNotFoundError
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command, Notification, Query, StreamRequest
from mediator.pipeline import CallNext, PipelineBehavior, Source
from mediator.registry import Registry
from mediator.testing.conformance.suite import ConformanceSuite, failing, needs
from mediator.transactions import TransactionMode


class Pool:
    """A pool. The application has one, open from the start of the application or from first use, until its end."""


class Connection:
    """A connection. Each scope has one."""


class Session:
    """A session. Each scope has one. It needs the connection, so it is closed before the connection.

    Attributes:
        connection: The connection that the session was made with.
        closed: Whether it is closed.
        seen_by: The behaviors that were made with it.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.closed: bool = False
        self.seen_by: list[object] = []


class Ticket:
    """A ticket. Everything that needs one gets a new one."""


class Broken:
    """An object that cannot be made."""


@dataclass(frozen=True, slots=True)
class Used:
    """The objects that a handler was made with."""

    pool: Pool
    session: Session
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Enroll(Command[Used]):
    """Calls `then`, if it is given, and returns the objects that its handler was made with."""

    then: Callable[[Session], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True)
class Fail(Command[None]):
    """A command whose handler needs an object that cannot be made."""


@dataclass(frozen=True, slots=True)
class CountPools(Query[int]):
    """A query whose handler needs nothing that lives in a scope."""


@dataclass(frozen=True, slots=True)
class Undone(Command[None]):
    """A command without a handler."""


@dataclass(frozen=True, slots=True)
class Enrolled(Notification):
    """A notification that collects the sessions of its handlers.

    Attributes:
        heard: The session of each handler call.
    """

    heard: list[Session] = field(default_factory=list[Session])


@dataclass(frozen=True, slots=True)
class ListSessions(StreamRequest[Session]):
    """A stream of three items. Each item is the session of its handler."""


class EnrollHandler(RequestHandler[Enroll, Used]):
    """Needs a pool, a session and a ticket."""

    def __init__(self, pool: Pool, session: Session, ticket: Ticket) -> None:
        self._used = Used(pool, session, ticket)

    async def handle(self, request: Enroll, /) -> Used:
        """Let other tasks run, call `then`, and return the objects that this handler was made with."""
        await asyncio.sleep(0)
        if request.then is not None:
            await request.then(self._used.session)
        return self._used


class FailHandler(RequestHandler[Fail, None]):
    """A handler that can never be made."""

    def __init__(self, session: Session, broken: Broken) -> None:
        self._needs = session, broken

    async def handle(self, request: Fail, /) -> None:
        """Never called."""


class CountPoolsHandler(RequestHandler[CountPools, int]):
    """Needs only the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def handle(self, request: CountPools, /) -> int:  # noqa: ARG002  # it has no fields
        """Return the identity of the pool."""
        return id(self._pool)


class EnrolledHandler(NotificationHandler[Enrolled]):
    """Adds its session to the notification."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, notification: Enrolled, /) -> None:
        notification.heard.append(self._session)


class ListSessionsHandler(StreamRequestHandler[ListSessions, Session]):
    """Yields its session three times."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, request: ListSessions, /) -> AsyncIterator[Session]:  # noqa: ARG002  # it has no fields
        for _ in range(3):
            yield self._session


class Watch(PipelineBehavior[Command[Any], Any]):
    """A behavior around every command, with the session and a ticket of its own."""

    def __init__(self, session: Session, ticket: Ticket) -> None:
        self._session = session
        self.ticket = ticket

    async def handle(self, message: Command[Any], call_next: CallNext[Any], /) -> Any:  # noqa: ARG002  # not needed
        """Add this behavior to the session."""
        self._session.seen_by.append(self)
        return await call_next()


HANDLERS: dict[type[Any], type[Any]] = {
    EnrollHandler: RequestHandler,
    FailHandler: RequestHandler,
    CountPoolsHandler: RequestHandler,
    EnrolledHandler: NotificationHandler,
    ListSessionsHandler: StreamRequestHandler,
}


class SampleApplication:
    """Opens the resources of the sample, and keeps a journal of it.

    Attributes:
        journal: "<what> opened" and "<what> closed", in order.
    """

    def __init__(self) -> None:
        self.journal: list[str] = []

    async def open_pool(self) -> AsyncGenerator[Pool, None]:
        """Open the pool. The container does this once, and closes the pool at the end of the application."""
        self.journal.append("pool opened")
        yield Pool()
        await asyncio.sleep(0)
        self.journal.append("pool closed")

    async def open_connection(self) -> AsyncGenerator[Connection, None]:
        """Open a connection. The container does this once for each scope, and closes the connection at its end."""
        self.journal.append("connection opened")
        try:
            yield Connection()
        finally:
            await asyncio.sleep(0)
            self.journal.append("connection closed")

    async def open_session(self, connection: Connection) -> AsyncGenerator[Session, None]:
        """Open a session. The container does this once for each scope, and closes it before the connection."""
        self.journal.append("session opened")
        session = Session(connection)
        try:
            yield session
        finally:
            await asyncio.sleep(0)
            session.closed = True
            self.journal.append("session closed")

    def make_broken(self) -> Broken:
        """Fail. The container calls this when it is to make a `Broken`.

        Raises:
            LookupError: Always.
        """
        raise LookupError("it is broken")

    @staticmethod
    def registry(source: Callable[[type], Source]) -> Registry:
        """Return a registry of all handlers and behaviors, each with the container's source for its class."""
        handlers = [Binding(source(cls), cls, cls.__name__, kind) for cls, kind in HANDLERS.items()]
        return Registry(handlers, [Binding(source(Watch), Watch, "Watch", PipelineBehavior)])


class ContainerCapability(Enum):
    """Optional abilities of a container, declared as `capabilities`. Cases that need an undeclared one are removed."""

    FACTORY = auto()
    """The container can make a new object for every object that needs one, also within a scope."""


_CLOSED = ["session closed", "connection closed"]


class ContainerConformance(ConformanceSuite):
    """A dispatch and the dispatches that join it share objects, which are closed at its end.

    Other objects are shared by all dispatches and live as long as the application.
    """

    @abstractmethod
    def opened(self, application: SampleApplication, /) -> AbstractAsyncContextManager[Mediator]:
        """Start an application whose container makes the objects of the sample. It stops at the end of the context.

        The container makes:

        - one `Pool` for the application (`application.open_pool`);
        - one `Connection` (`open_connection`) and one `Session` (`open_session`) for each scope;
        - a `Ticket`, with `ContainerCapability.FACTORY` a new one each time;
        - a `Broken` by `make_broken`;
        - the handlers and the behavior of the sample.

        `application.registry(source)` binds the handlers and the behavior to sources of the container.
        """

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[tuple[Mediator, list[str]], None]:
        """Start an application; yield its mediator, and the journal of the objects that were opened and closed."""
        application = SampleApplication()
        async with self.opened(application) as mediator:
            yield mediator, application.journal

    async def test_a_handler_is_made_with_what_it_needs(self) -> None:
        """A handler gets objects of every lifetime, also objects that are opened asynchronously."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            assert isinstance(used, Used)
            assert isinstance(used.session, Session)

    async def test_the_behaviors_and_the_handler_of_a_dispatch_share_its_objects(self) -> None:
        """A behavior that begins a transaction begins it on the session that the handler uses."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            assert [type(one) for one in used.session.seen_by] == [Watch]

    async def test_each_dispatch_has_objects_of_its_own(self) -> None:
        """The next dispatch gets no object of the one before."""
        async with self.started() as (mediator, _):
            first, second = await mediator.send(Enroll()), await mediator.send(Enroll())
            assert first.session is not second.session
            assert first.session.connection is not second.session.connection

    async def test_concurrent_dispatches_have_objects_of_their_own(self) -> None:
        """Dispatches share no objects even when they run at the same time and wait in between."""
        async with self.started() as (mediator, journal):
            used = await asyncio.gather(*(mediator.send(Enroll()) for _ in range(20)))
            assert len({id(each.session) for each in used}) == 20
            assert all(each.session.closed and len(each.session.seen_by) == 1 for each in used)
            assert journal.count("connection closed") == journal.count("connection opened") == 20

    async def test_what_lives_with_the_application_is_shared_by_all_dispatches(self) -> None:
        """The container opens it once, at the start or at first use, even when several dispatches need it at once."""
        async with self.started() as (mediator, journal):
            used = await asyncio.gather(*(mediator.send(Enroll()) for _ in range(5)))
            assert len({id(each.pool) for each in used}) == 1
            assert await mediator.send(CountPools()) == id(used[0].pool)
            assert journal.count("pool opened") == 1

    async def test_what_lives_with_the_application_is_closed_at_its_end(self) -> None:
        """No dispatch closes it, and it stays open until the last dispatch is over."""
        async with self.started() as (mediator, journal):
            await mediator.send(Enroll())
            assert "pool closed" not in journal
        assert journal[-1] == "pool closed"
        assert journal.count("pool closed") == 1

    @needs(ContainerCapability.FACTORY)
    async def test_a_factory_makes_a_new_object_each_time(self) -> None:
        """Two objects of one dispatch get different tickets, and so do two dispatches."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            (watch,) = used.session.seen_by
            assert isinstance(watch, Watch)
            assert watch.ticket is not used.ticket
            assert (await mediator.send(Enroll())).ticket is not used.ticket

    async def test_the_objects_of_a_dispatch_are_open_to_its_end_and_closed_then(self) -> None:
        """They are closed by the time that the caller has the response."""
        seen: list[bool] = []

        async def look(session: Session) -> None:
            await asyncio.sleep(0)
            seen.append(session.closed)

        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll(look))
            assert seen == [False]
            assert used.session.closed

    async def test_objects_are_closed_in_the_reverse_order_of_their_making(self) -> None:
        """An object is closed before the objects that it needs."""
        async with self.started() as (mediator, journal):
            await mediator.send(Enroll())
            of_scope = [entry for entry in journal if not entry.startswith("pool")]
            assert of_scope == ["connection opened", "session opened", *_CLOSED]

    async def test_a_failure_closes_the_objects_and_reaches_the_sender_as_it_is(self) -> None:
        """The error is neither wrapped nor replaced. Otherwise the sender could not catch it."""
        failure = LookupError("no such student")

        async def fail(_session: Session) -> None:
            raise failure

        async with self.started() as (mediator, journal):
            with failing(LookupError) as caught:
                await mediator.send(Enroll(fail))
            assert caught == [failure]
            assert journal[-2:] == _CLOSED

    async def test_a_cancellation_closes_the_objects(self) -> None:
        """The cancellation reaches the sender after they are closed."""
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
        """The sender gets the error of the factory, and the next dispatch works."""
        async with self.started() as (mediator, journal):
            with failing(LookupError):
                await mediator.send(Fail())
            assert journal.count("session opened") == journal.count("session closed")
            assert journal.count("connection opened") == journal.count("connection closed")
            assert (await mediator.send(Enroll())).session.closed

    async def test_a_message_without_a_handler_is_refused_and_nothing_is_opened(self) -> None:
        """The mediator raises its own `HandlerNotFoundError`."""
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
        """The shared objects are closed at the end of the outer dispatch."""
        inner: list[Used] = []
        async with self.started() as (mediator, journal):

            async def send_another(session: Session) -> None:
                inner.append(await mediator.send(Enroll()))
                assert not session.closed

            outer = await mediator.send(Enroll(send_another))
            assert inner[0].session is outer.session
            assert journal.count("session opened") == journal.count("session closed") == 1

    async def test_a_dispatch_of_its_own_within_another_does_not_share(self) -> None:
        """With `TransactionMode.NEW`, the inner objects are closed at its end, and the outer objects stay open."""
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
        """`mediator.scope()` is the outermost scope, and its end closes the objects."""
        async with self.started() as (mediator, journal):
            async with mediator.scope():
                first, second = await mediator.send(Enroll()), await mediator.send(Enroll())
                assert first.session is second.session
                assert "session closed" not in journal
            assert journal[-2:] == _CLOSED

    async def test_the_handlers_of_a_notification_get_their_objects_too(self) -> None:
        """They share the objects of the dispatch that publishes; without one, they get a scope of their own."""
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
        """The objects stay open until the stream ends or the reader breaks off."""
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
