"""SampleApplication: what a container makes in its conformance suite, and what became of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mediator.binding import Binding
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler
from mediator.messages import Command, Notification, Query, StreamRequest
from mediator.pipeline import CallNext, PipelineBehavior, Source
from mediator.registry import Registry


class Pool:
    """One for the whole application, from its start or its first use to its end."""


class Connection:
    """One for each scope."""


class Session:
    """One for each scope; it needs the connection, and is therefore closed before it.

    Attributes:
        connection: What it was made with.
        closed: Whether it is closed.
        seen_by: The behaviors that were made with it.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.closed: bool = False
        self.seen_by: list[object] = []


class Ticket:
    """A new one for everything that is made with one."""


class Broken:
    """Cannot be made."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a handler was made with."""

    pool: Pool
    session: Session
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Enroll(Command[Used]):
    """Calls `then`, if it is given, and returns what its handler was made with."""

    then: Callable[[Session], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True)
class Fail(Command[None]):
    """Its handler needs what cannot be made."""


@dataclass(frozen=True, slots=True)
class CountPools(Query[int]):
    """Its handler needs nothing that lives in a scope."""


@dataclass(frozen=True, slots=True)
class Undone(Command[None]):
    """Has no handler."""


@dataclass(frozen=True, slots=True)
class Enrolled(Notification):
    """Notes the session of its handler.

    Attributes:
        heard: The sessions of those who heard of it.
    """

    heard: list[Session] = field(default_factory=list[Session])


@dataclass(frozen=True, slots=True)
class ListSessions(StreamRequest[Session]):
    """A stream of three items, each the session of its handler."""


class EnrollHandler(RequestHandler[Enroll, Used]):
    """Needs one of each."""

    def __init__(self, pool: Pool, session: Session, ticket: Ticket) -> None:
        self._used = Used(pool, session, ticket)

    async def handle(self, request: Enroll, /) -> Used:
        """Let others run, call what is to be called, and return what it was made with."""
        await asyncio.sleep(0)
        if request.then is not None:
            await request.then(self._used.session)
        return self._used


class FailHandler(RequestHandler[Fail, None]):
    """Is never made."""

    def __init__(self, session: Session, broken: Broken) -> None:
        self._needs = session, broken

    async def handle(self, request: Fail, /) -> None:
        """Never called."""


class CountPoolsHandler(RequestHandler[CountPools, int]):
    """Needs the pool alone."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def handle(self, request: CountPools, /) -> int:  # noqa: ARG002  # there is nothing in it
        """The identity of the pool."""
        return id(self._pool)


class EnrolledHandler(NotificationHandler[Enrolled]):
    """Notes its session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, notification: Enrolled, /) -> None:
        """Note it."""
        notification.heard.append(self._session)


class ListSessionsHandler(StreamRequestHandler[ListSessions, Session]):
    """Gives its session three times."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, request: ListSessions, /) -> AsyncIterator[Session]:  # noqa: ARG002  # there is nothing in it
        """Give it."""
        for _ in range(3):
            yield self._session


class Watch(PipelineBehavior[Command[Any], Any]):
    """Around every command, with the session and a ticket of its own."""

    def __init__(self, session: Session, ticket: Ticket) -> None:
        self._session = session
        self.ticket = ticket

    async def handle(self, message: Command[Any], call_next: CallNext[Any], /) -> Any:  # noqa: ARG002  # as it is
        """Let the session know."""
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
    """Opens the resources of the sample, and notes it.

    Attributes:
        journal: "<what> opened" and "<what> closed", in order.
    """

    def __init__(self) -> None:
        self.journal: list[str] = []

    async def open_pool(self) -> AsyncGenerator[Pool, None]:
        """For the container to open once, and close at the end of the application."""
        self.journal.append("pool opened")
        yield Pool()
        await asyncio.sleep(0)
        self.journal.append("pool closed")

    async def open_connection(self) -> AsyncGenerator[Connection, None]:
        """For the container to open once a scope, and close at its end."""
        self.journal.append("connection opened")
        try:
            yield Connection()
        finally:
            await asyncio.sleep(0)
            self.journal.append("connection closed")

    async def open_session(self, connection: Connection) -> AsyncGenerator[Session, None]:
        """For the container to open once a scope, and close at its end, before the connection."""
        self.journal.append("session opened")
        session = Session(connection)
        try:
            yield session
        finally:
            await asyncio.sleep(0)
            session.closed = True
            self.journal.append("session closed")

    def make_broken(self) -> Broken:
        """For the container to call for a `Broken`.

        Raises:
            LookupError: Always.
        """
        raise LookupError("it is broken")

    @staticmethod
    def registry(source: Callable[[type], Source]) -> Registry:
        """All handlers and behaviors, each from the source that the container has for its class."""
        handlers = [Binding(source(cls), cls, cls.__name__, kind) for cls, kind in HANDLERS.items()]
        return Registry(handlers, [Binding(source(Watch), Watch, "Watch", PipelineBehavior)])
