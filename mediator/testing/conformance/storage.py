"""StorageUnderTest: the unit of work, outbox, inbox and parking of one database, as the conformance suites use them."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, ClassVar, Protocol

from mediator.binding import Binding
from mediator.blocks import asynccontextmanager
from mediator.distributed.behaviors import DistributedUnitOfWorkBehavior
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import Admission, Inbox
from mediator.distributed.outbox import Outbox
from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, ParkReason
from mediator.distributed.unit_of_work import DistributedEventBroker, UnitOfWork
from mediator.handlers import RequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command
from mediator.pipeline import PipelineBehavior
from mediator.registry import Registry
from mediator.scope import current_scope
from mediator.testing.conformance.suite import ConformanceSuite, undeclared

Action = Callable[["StorageUnderTest"], Awaitable[Any]]


class MakeUnitOfWork(Protocol):
    """A function that makes the unit of work of the running scope."""

    def __call__(self, *, max_pending: int | None = None) -> UnitOfWork:
        """Return a unit of work that closes its resources with `current_scope().on_exit`.

        Args:
            max_pending: The largest number of events that may wait in the outbox; `None` for no limit.
        """
        ...


@dataclass(frozen=True, slots=True)
class Written(DistributedEvent):
    """The event that most cases use."""

    event_type: ClassVar[str] = "contract.written"
    text: str
    key: str | None = None

    @property
    def partition_key(self) -> str | None:
        """The partition key, or `None`."""
        return self.key


@dataclass(eq=False)
class Listed(DistributedEvent):
    """A mutable event, whose `parts` may be of a type that JSON does not preserve, such as a tuple."""

    event_type: ClassVar[str] = "contract.listed"
    parts: Any


@dataclass(frozen=True, slots=True)
class Elsewhere(DistributedEvent):
    """An event whose domain is not the domain of `Written` and `Listed`."""

    event_type: ClassVar[str] = "elsewhere.written"
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class StorageUnderTest:
    """One empty database, for one case.

    Attributes:
        make: Makes units of work.
        outbox: The outbox of the database.
        inbox: The inbox of the database.
        parking: The parking of the database.
        write: Writes a row of application data in the running unit of work (`current_unit_of_work()`).
        read: Returns the committed rows of application data, sorted.
        reopened: Opens the same database again. Needed only for `StorageCapability.DURABLE`.
    """

    make: MakeUnitOfWork
    outbox: Outbox
    inbox: Inbox
    parking: Parking
    write: Callable[[str], Awaitable[None]]
    read: Callable[[], Awaitable[Sequence[str]]]
    reopened: "Callable[[], AbstractAsyncContextManager[StorageUnderTest]]" = undeclared

    @property
    def mediator(self) -> Mediator:
        """A mediator that runs each `Do` command in the unit of work of the command's scope."""
        handler = Binding(lambda: _DoHandler(self), _DoHandler, "do", RequestHandler)
        behavior = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        return Mediator(Registry([handler], [behavior]))

    @property
    def unit_of_work(self) -> UnitOfWork:
        """The unit of work of the running scope."""
        instances: dict[Any, Any] = current_scope().instances
        if self not in instances:
            instances[self] = self.make()
        found: UnitOfWork = instances[self]
        return found

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        unit_of_work = self.unit_of_work
        return DistributedUnitOfWorkBehavior(unit_of_work, DistributedEventBroker(unit_of_work), self.outbox)

    def add(self, *events: DistributedEvent) -> None:
        """Add events to the running transaction."""
        for event in events:
            DistributedEventBroker(self.unit_of_work).add(event)

    async def do(self, action: Action, **options: Any) -> Any:
        """Send a command that runs `action`. `options` are passed to `Mediator.send`."""
        return await self.mediator.send(Do(action), **options)

    @asynccontextmanager
    async def transaction(self, *, max_pending: int | None = None) -> AsyncGenerator[UnitOfWork, None]:
        """Begin a unit of work in a new scope, and commit the unit of work at the end of the context."""
        async with Mediator(Registry()).scope():
            unit_of_work = self.make(max_pending=max_pending)
            async with unit_of_work:
                yield unit_of_work

    async def waiting(self, limit: int = 100, *, without: frozenset[str] = frozenset()) -> list[str]:
        """Return the texts of the events that a relay can claim now, except events of the domains in `without`."""
        async with self.outbox.claim(limit, without=without) as batch:
            return [text_of(event.data) for event in batch.events]


def text_of(data: bytes) -> str:
    """Return the text in a payload: `text_of(b'{"text":"a","key":null}')` returns `"a"`."""
    return data.decode().split('"')[3]


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    """A command that runs `action` in a transaction."""

    action: Action


class _DoHandler(RequestHandler[Do, Any]):
    def __init__(self, storage: StorageUnderTest) -> None:
        self._storage = storage

    async def handle(self, request: Do, /) -> Any:
        return await request.action(self._storage)


def writing(row: str, *, fails: bool = False) -> Action:
    """Return an action that writes a row and adds an event with the same text. With `fails`, the action fails at its end."""

    async def action(storage: StorageUnderTest) -> str:
        await storage.write(row)
        storage.add(Written(row))
        if fails:
            raise LookupError(row)
        return row

    return action


class StorageCapability(Enum):
    """Optional abilities of a storage. A suite omits the cases for abilities missing from `capabilities`."""

    DURABLE = "committed data is still there when the storage is opened again"
    SEVERAL_WRITERS = "a transaction can write and commit while another one has uncommitted rows"


class StorageSuite(ConformanceSuite):
    """The base class of suites whose cases begin with an empty database."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[StorageUnderTest]:
        """Open an empty database, for one case."""

    @asynccontextmanager
    async def holding(
        self, *events: DistributedEvent, after: timedelta | None = None
    ) -> AsyncGenerator[StorageUnderTest]:
        """Open a database whose outbox contains only the given events. The events are delayed by `after`, if given."""
        async with self.opened() as storage:
            await add(storage, *events, after=after)
            yield storage


GROUP = "advising"
ALL = ParkedFilter()
OUT = ParkedFilter(direction="out")
FUTURE = timedelta(hours=1)


async def outcome_of(doing: Awaitable[Any]) -> Any:
    """Return the result of an awaitable. If the awaitable raises a `LookupError`, return the class of the error."""
    try:
        return await doing
    except LookupError as error:
        return type(error)


async def add(storage: StorageUnderTest, *events: DistributedEvent, after: timedelta | None = None) -> Sequence[str]:
    """Add events in one command, and return the ids of the events. The events are delayed by `after`, if given."""

    async def action(storage: StorageUnderTest) -> list[str]:
        deliver_at = None if after is None else datetime.now(UTC) + after
        broker = DistributedEventBroker(storage.unit_of_work)
        return [broker.add(event, deliver_at=deliver_at) for event in events]

    ids: list[str] = await storage.do(action)
    return ids


async def park_first(storage: StorageUnderTest) -> ParkedEvent:
    """Park the oldest event of the outbox as refused by the broker, and return the parked event."""
    async with storage.outbox.claim(1) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    [refused] = await storage.parking.find(OUT)
    return refused


def parked_event(event_id: str, key: str | None = "k", **changes: Any) -> ParkedEvent:
    """Return a parked incoming event whose handler has failed."""
    made = ParkedEvent(
        direction="in",
        consumer=GROUP,
        source="shop",
        event_id=event_id,
        type="shop.order-placed.v1",
        time="2026-01-02T03:04:05+00:00",
        partition_key=key,
        content_type="application/json",
        extensions={"tenant": "acme"},
        data=b"\x00\xff{}",
        subject="events.shop.order-placed.3",
        headers={"ce-id": event_id, "odd": "\x1b[2J\u2028"},
        sequence=7,
        reason=ParkReason.HANDLER_FAILED,
        error="ValueError: no",
        attempts=8,
        parked_at=1000.5,
    )
    return replace(made, **changes)


async def insert(storage: StorageUnderTest, event_id: str, key: str | None = "k") -> Admission:
    """Record an event in the inbox in a new transaction, and return the result of `Inbox.insert`."""
    async with storage.transaction() as unit_of_work:
        return await storage.inbox.insert(unit_of_work, GROUP, "shop", event_id, key=key)


async def park(storage: StorageUnderTest, *events: ParkedEvent) -> Sequence[int]:
    """Park events, and return their numbers."""
    for event in events:
        assert await storage.parking.park(event)
    return [event.number for event in await storage.parking.find(ALL)][-len(events) :]


async def take(storage: StorageUnderTest, number: int) -> ParkedEvent:
    """Take an event out of the parking in a new transaction, and return the event."""
    async with storage.transaction() as unit_of_work:
        return await storage.parking.take(unit_of_work, number)


async def ids(storage: StorageUnderTest, which: ParkedFilter = ALL, **options: Any) -> list[str]:
    """Return the ids of the parked events that match the filter."""
    return [event.event_id for event in await storage.parking.find(which, **options)]
