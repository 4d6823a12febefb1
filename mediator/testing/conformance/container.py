"""ContainerConformance: the promises of a dependency injection container as test cases, with a sample application."""

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
    """A pool, shared by the whole application. It is opened before its first use, and closed with the application."""


class Connection:
    """A connection. Each scope has its own connection."""


class Session:
    """A session. Each scope has one session, which needs the scope's connection and is closed before the connection.

    Attributes:
        connection: The connection that the session was made with.
        closed: Whether the session is closed.
        seen_by: The behaviors that ran with this session, in order.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.closed: bool = False
        self.seen_by: list[object] = []


class Ticket:
    """A ticket. Each object that needs a ticket gets a new ticket."""


class Broken:
    """An object whose factory always fails."""


@dataclass(frozen=True, slots=True)
class Used:
    """The objects that were passed to the constructor of a handler."""

    pool: Pool
    session: Session
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Enroll(Command[Used]):
    """A command whose handler awaits `then`, if given, and returns the objects that the handler was made with."""

    then: Callable[[Session], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True)
class Fail(Command[None]):
    """A command whose handler cannot be made, because it needs a `Broken`."""


@dataclass(frozen=True, slots=True)
class CountPools(Query[int]):
    """A query whose handler needs only the pool, and no object of a scope."""


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
    """A stream of three items. Each item is the session of the stream's handler."""


class EnrollHandler(RequestHandler[Enroll, Used]):
    """A handler that needs a pool, a session and a ticket."""

    def __init__(self, pool: Pool, session: Session, ticket: Ticket) -> None:
        self._used = Used(pool, session, ticket)

    async def handle(self, request: Enroll, /) -> Used:
        """Let other tasks run, call `then`, and return the objects that this handler was made with."""
        await asyncio.sleep(0)
        if request.then is not None:
            await request.then(self._used.session)
        return self._used


class FailHandler(RequestHandler[Fail, None]):
    """A handler that cannot be made, because it needs a `Broken`."""

    def __init__(self, session: Session, broken: Broken) -> None:
        self._needs = session, broken

    async def handle(self, request: Fail, /) -> None:
        """Never called."""


class CountPoolsHandler(RequestHandler[CountPools, int]):
    """A handler that needs only the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def handle(self, request: CountPools, /) -> int:  # noqa: ARG002  # the request has no fields
        """Return the identity of the pool."""
        return id(self._pool)


class EnrolledHandler(NotificationHandler[Enrolled]):
    """A handler that adds its session to the notification."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, notification: Enrolled, /) -> None:
        notification.heard.append(self._session)


class ListSessionsHandler(StreamRequestHandler[ListSessions, Session]):
    """A handler that yields its session three times."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, request: ListSessions, /) -> AsyncIterator[Session]:  # noqa: ARG002  # the request has no fields
        for _ in range(3):
            yield self._session


class Watch(PipelineBehavior[Command[Any], Any]):
    """A behavior around every command. It needs the session of the scope, and a ticket."""

    def __init__(self, session: Session, ticket: Ticket) -> None:
        self._session = session
        self.ticket = ticket

    async def handle(self, message: Command[Any], call_next: CallNext[Any], /) -> Any:  # noqa: ARG002  # unused
        """Add this behavior to the session, and call the rest of the pipeline."""
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
    """Opens the pool, connections and sessions, and records the order in which they are opened and closed.

    Attributes:
        journal: Texts such as "pool opened" and "session closed", in order.
    """

    def __init__(self) -> None:
        self.journal: list[str] = []

    async def open_pool(self) -> AsyncGenerator[Pool, None]:
        """Open the pool. The container calls this method once, and closes the pool when the application stops."""
        self.journal.append("pool opened")
        yield Pool()
        await asyncio.sleep(0)
        self.journal.append("pool closed")

    async def open_connection(self) -> AsyncGenerator[Connection, None]:
        """Open a connection, once for each scope. The container closes the connection at the end of the scope."""
        self.journal.append("connection opened")
        try:
            yield Connection()
        finally:
            await asyncio.sleep(0)
            self.journal.append("connection closed")

    async def open_session(self, connection: Connection) -> AsyncGenerator[Session, None]:
        """Open a session, once for each scope. The container closes the session before the connection."""
        self.journal.append("session opened")
        session = Session(connection)
        try:
            yield session
        finally:
            await asyncio.sleep(0)
            session.closed = True
            self.journal.append("session closed")

    def make_broken(self) -> Broken:
        """Raise an error. The container calls this method to make a `Broken`.

        Raises:
            LookupError: Always.
        """
        raise LookupError("it is broken")

    @staticmethod
    def registry(source: Callable[[type], Source]) -> Registry:
        """Return a registry of all handlers and behaviors. `source(cls)` returns a function that makes a `cls` object."""
        handlers = [Binding(source(cls), cls, cls.__name__, kind) for cls, kind in HANDLERS.items()]
        return Registry(handlers, [Binding(source(Watch), Watch, "Watch", PipelineBehavior)])


class ContainerCapability(Enum):
    """Optional abilities of a container. A suite omits the cases for abilities missing from `capabilities`."""

    FACTORY = auto()
    """The container can make a new object for every use, even within one scope."""


_CLOSED = ["session closed", "connection closed"]


class ContainerConformance(ConformanceSuite):
    """The promises that the mediator needs from a container.

    A dispatch and its nested dispatches share one scope. The objects of a scope are closed when the outermost dispatch
    ends. The objects of the application are shared by all scopes, and closed when the application stops.
    """

    @abstractmethod
    def opened(self, application: SampleApplication, /) -> AbstractAsyncContextManager[Mediator]:
        """Return a context that starts an application, yields its mediator, and stops the application at the end.

        The container of the application makes:

        - one `Pool` for the application (`application.open_pool`);
        - one `Connection` (`open_connection`) and one `Session` (`open_session`) for each scope;
        - a `Broken` (`make_broken`) and a `Ticket`; with `ContainerCapability.FACTORY`, a new ticket for each use;
        - the handlers and the behavior of the sample, in the registry that `application.registry(source)` returns.
        """

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[tuple[Mediator, list[str]], None]:
        """Start an application, and yield its mediator and its journal of opened and closed objects."""
        application = SampleApplication()
        async with self.opened(application) as mediator:
            yield mediator, application.journal

    async def test_a_handler_is_made_with_the_objects_it_needs(self) -> None:
        """A handler gets objects of every lifetime, including objects that are opened asynchronously."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            assert isinstance(used, Used)
            assert isinstance(used.session, Session)

    async def test_the_behaviors_and_the_handler_of_a_dispatch_share_its_objects(self) -> None:
        """A behavior can begin a transaction on the session, and the handler uses the same session."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            assert [type(one) for one in used.session.seen_by] == [Watch]

    async def test_each_dispatch_has_objects_of_its_own(self) -> None:
        """A dispatch gets neither the session nor the connection of an earlier dispatch."""
        async with self.started() as (mediator, _):
            first, second = await mediator.send(Enroll()), await mediator.send(Enroll())
            assert first.session is not second.session
            assert first.session.connection is not second.session.connection

    async def test_concurrent_dispatches_have_objects_of_their_own(self) -> None:
        """Dispatches that run concurrently share neither sessions nor connections."""
        async with self.started() as (mediator, journal):
            used = await asyncio.gather(*(mediator.send(Enroll()) for _ in range(20)))
            assert len({id(each.session) for each in used}) == 20
            assert all(each.session.closed and len(each.session.seen_by) == 1 for each in used)
            assert journal.count("connection closed") == journal.count("connection opened") == 20

    async def test_an_object_of_the_application_is_shared_by_all_dispatches(self) -> None:
        """The container opens the pool once, even when several dispatches need the pool at the same time."""
        async with self.started() as (mediator, journal):
            used = await asyncio.gather(*(mediator.send(Enroll()) for _ in range(5)))
            assert len({id(each.pool) for each in used}) == 1
            assert await mediator.send(CountPools()) == id(used[0].pool)
            assert journal.count("pool opened") == 1

    async def test_an_object_of_the_application_is_closed_when_the_application_stops(self) -> None:
        """No dispatch closes the pool. The container closes the pool once, after all other objects."""
        async with self.started() as (mediator, journal):
            await mediator.send(Enroll())
            assert "pool closed" not in journal
        assert journal[-1] == "pool closed"
        assert journal.count("pool closed") == 1

    @needs(ContainerCapability.FACTORY)
    async def test_a_factory_makes_a_new_object_each_time(self) -> None:
        """Two objects get different tickets, even if both objects are made in one dispatch."""
        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll())
            (watch,) = used.session.seen_by
            assert isinstance(watch, Watch)
            assert watch.ticket is not used.ticket
            assert (await mediator.send(Enroll())).ticket is not used.ticket

    async def test_the_objects_of_a_dispatch_are_closed_when_it_ends(self) -> None:
        """The session is open while the handler runs, and closed before the sender gets the response."""
        seen: list[bool] = []

        async def look(session: Session) -> None:
            await asyncio.sleep(0)
            seen.append(session.closed)

        async with self.started() as (mediator, _):
            used = await mediator.send(Enroll(look))
            assert seen == [False]
            assert used.session.closed

    async def test_objects_are_closed_in_reverse_order(self) -> None:
        """An object is closed before the objects that it needs."""
        async with self.started() as (mediator, journal):
            await mediator.send(Enroll())
            of_scope = [entry for entry in journal if not entry.startswith("pool")]
            assert of_scope == ["connection opened", "session opened", *_CLOSED]

    async def test_an_error_closes_the_objects_and_is_raised_unchanged(self) -> None:
        """The error is neither wrapped nor replaced, so the sender can catch it."""
        failure = LookupError("no such student")

        async def fail(_session: Session) -> None:
            raise failure

        async with self.started() as (mediator, journal):
            with failing(LookupError) as caught:
                await mediator.send(Enroll(fail))
            assert caught == [failure]
            assert journal[-2:] == _CLOSED

    async def test_a_cancellation_closes_the_objects(self) -> None:
        """The objects are closed before the cancelled `send` ends."""
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

    async def test_an_object_that_cannot_be_made_fails_the_dispatch(self) -> None:
        """The sender gets the factory's error. Objects made before the error are closed, and the next dispatch works."""
        async with self.started() as (mediator, journal):
            with failing(LookupError):
                await mediator.send(Fail())
            assert journal.count("session opened") == journal.count("session closed")
            assert journal.count("connection opened") == journal.count("connection closed")
            assert (await mediator.send(Enroll())).session.closed

    async def test_a_message_without_a_handler_is_refused_and_nothing_is_opened(self) -> None:
        """The mediator raises `HandlerNotFoundError`."""
        async with self.started() as (mediator, journal):
            with failing(HandlerNotFoundError):
                await mediator.send(Undone())
            assert [entry for entry in journal if not entry.startswith("pool")] == []

    async def test_an_object_that_is_not_needed_is_not_opened(self) -> None:
        """A dispatch that needs no session opens neither a session nor a connection."""
        async with self.started() as (mediator, journal):
            await mediator.send(CountPools())
            assert [entry for entry in journal if not entry.startswith("pool")] == []

    async def test_a_nested_dispatch_shares_the_objects_of_the_outer_one(self) -> None:
        """The shared objects are closed when the outer dispatch ends."""
        inner: list[Used] = []
        async with self.started() as (mediator, journal):

            async def send_another(session: Session) -> None:
                inner.append(await mediator.send(Enroll()))
                assert not session.closed

            outer = await mediator.send(Enroll(send_another))
            assert inner[0].session is outer.session
            assert journal.count("session opened") == journal.count("session closed") == 1

    async def test_a_nested_dispatch_in_mode_new_has_its_own_objects(self) -> None:
        """When the nested dispatch ends, its objects are closed, and the objects of the outer dispatch stay open."""
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
        """Dispatches inside one `mediator.scope()` share their objects, which are closed when the scope ends."""
        async with self.started() as (mediator, journal):
            async with mediator.scope():
                first, second = await mediator.send(Enroll()), await mediator.send(Enroll())
                assert first.session is second.session
                assert "session closed" not in journal
            assert journal[-2:] == _CLOSED

    async def test_the_handlers_of_a_notification_share_the_objects_of_the_publishing_dispatch(self) -> None:
        """A notification that is published outside a dispatch gets a new scope, which is closed when `publish` ends."""
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

    async def test_a_stream_keeps_its_objects_open_until_it_is_left(self) -> None:
        """The objects stay open until the stream ends or its reader leaves the `async with` block."""
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
