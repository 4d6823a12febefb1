"""StorageUnderTest: the unit of work, outbox, inbox and parking of one database, as a conformance suite works with them."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from mediator.binding import Binding
from mediator.distributed.behavior import DistributedUnitOfWorkBehavior
from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import Inbox
from mediator.distributed.outbox import Outbox
from mediator.distributed.parking import Parking
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.handlers import RequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command
from mediator.pipeline import PipelineBehavior
from mediator.registry import Registry
from mediator.scope import current_scope

Row = Callable[[str], Awaitable[None]]
Rows = Callable[[], Awaitable[Sequence[str]]]
Action = Callable[["StorageUnderTest"], Awaitable[Any]]


class MakeUnitOfWork(Protocol):
    """Makes the unit of work of the scope that is running."""

    def __call__(self, *, max_pending: int | None = None) -> UnitOfWork:
        """A unit of work; what it has to close, it closes by `current_scope().on_exit`.

        Args:
            max_pending: How many events may wait in the outbox; `None` for any number.
        """
        ...


@dataclass(frozen=True, slots=True)
class Written(DistributedEvent):
    """The event that the cases are about."""

    event_type: ClassVar[str] = "contract.written"
    text: str
    key: str | None = None

    @property
    def partition_key(self) -> str | None:
        """The key, if it has one."""
        return self.key


@dataclass(frozen=True, slots=True)
class Elsewhere(DistributedEvent):
    """An event of another context."""

    event_type: ClassVar[str] = "elsewhere.written"
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class StorageUnderTest:
    """One empty database, for one case.

    Attributes:
        make: Makes units of work.
        outbox: Of the database.
        inbox: Of the database.
        parking: Of the database.
        write: Writes a row of an application in the unit of work that runs (`current_unit_of_work()`).
        read: All such rows that were committed, sorted.
        reopened: The same database, opened anew (`StorageCapability.DURABLE`).
    """

    make: MakeUnitOfWork
    outbox: Outbox
    inbox: Inbox
    parking: Parking
    write: Row
    read: Rows
    reopened: "Callable[[], AbstractAsyncContextManager[StorageUnderTest]] | None" = None

    @property
    def mediator(self) -> Mediator:
        """Runs `Do` in a unit of work of its scope."""
        handler = Binding(lambda: _DoHandler(self), _DoHandler, "do", RequestHandler)
        behavior = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        return Mediator(Registry([handler], [behavior]))

    @property
    def unit_of_work(self) -> UnitOfWork:
        """That of the scope that is running."""
        instances: dict[Any, Any] = current_scope().instances
        if self not in instances:
            instances[self] = self.make()
        found: UnitOfWork = instances[self]
        return found

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        unit_of_work = self.unit_of_work
        return DistributedUnitOfWorkBehavior(unit_of_work, DistributedEventBroker(unit_of_work), self.outbox)

    def add(self, *events: DistributedEvent) -> None:
        """Add events to the transaction that is running."""
        for event in events:
            DistributedEventBroker(self.unit_of_work).add(event)

    async def do(self, action: Action, **options: Any) -> Any:
        """Send a command that does something; `options` are those of `Mediator.send`."""
        return await self.mediator.send(Do(action), **options)

    @asynccontextmanager
    async def transaction(self, *, max_pending: int | None = None) -> AsyncGenerator[UnitOfWork, None]:
        """Run a unit of work by hand."""
        async with Mediator(Registry()).scope():
            unit_of_work = self.make(max_pending=max_pending)
            async with unit_of_work:
                yield unit_of_work

    async def waiting(self, limit: int = 100, *, without: frozenset[str] = frozenset()) -> list[str]:
        """The texts of the events that a relay would get now."""
        async with self.outbox.claim(limit, without=without) as batch:
            return [text_of(event.data) for event in batch.events]


def text_of(data: bytes) -> str:
    """The text of an event, whose payload begins with it."""
    return data.decode().split('"')[3]


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    """Does something in a transaction."""

    action: Action


class _DoHandler(RequestHandler[Do, Any]):
    def __init__(self, storage: StorageUnderTest) -> None:
        self._storage = storage

    async def handle(self, request: Do, /) -> Any:
        return await request.action(self._storage)


def writing(row: str, *, fails: bool = False) -> Action:
    """Write a row, and add an event with the same text; then fail with `LookupError`, if it is to."""

    async def action(storage: StorageUnderTest) -> str:
        await storage.write(row)
        storage.add(Written(row))
        if fails:
            raise LookupError(row)
        return row

    return action
